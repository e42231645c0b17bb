//! An instance's metadata, and the keys that the mesh itself writes and reads.
//!
//! Lives here: the pairs, the names, the form of those that are lists. Does not: bounds on what a caller may send (`proto`), a value's meaning for calls of
//! the mesh's own processes; there is none, since metadata is for people, tools and views.

use std::{collections::BTreeMap, fmt};

/// Place in a scale, `users-1`.
pub const SLOT: &str = "slot";
/// Where `/metrics`, `/healthz` and `/readyz` of the instance's sidecar are, `127.0.0.1:7380`.
pub const ADMIN: &str = "admin";
/// Version of weft that the instance's sidecar is built from.
pub const VERSION: &str = "version";
/// Who gets in to the instance's listener without a certificate, besides those with one: `loopback` or `allow`; nobody when left out. Views for
/// clients that have none read it.
pub const PLAINTEXT: &str = "plaintext";
/// Where the app tells of itself in Prometheus' form, `10.0.0.7:9464` or `10.0.0.7:9464/internal/metrics`; the path is `/metrics` unless said.
pub const METRICS: &str = "metrics";
/// Words by which views tell instances of a service apart, `green,canary`.
pub const TAGS: &str = "tags";

/// Facts about an instance: keys and values, ordered by key, each key once. Read only, and one piece of memory as large as its text, since a registry
/// holds one for each of very many instances.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Metadata {
    /// Of each pair: length of the key, length of the value (`write_length`), key, value.
    packed: Box<str>,
}

impl Metadata {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(it, _)| *it == key).map(|(_, value)| value)
    }

    /// Keys and values, ordered by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut left = &*self.packed;
        std::iter::from_fn(move || {
            let (key, value) = (read_length(&mut left)?, read_length(&mut left)?);
            let (pair, rest) = left.split_at(key + value);
            left = rest;
            Some(pair.split_at(key))
        })
    }

    /// The tags among them.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let tags = self.get(TAGS).into_iter().flat_map(|tags| tags.split(','));
        tags.map(str::trim).filter(|tag| !tag.is_empty())
    }
}

/// Six bits a character, the lowest first, and a seventh for "more follow": text may stand beside it.
fn write_length(mut length: usize, packed: &mut String) {
    while length >= 1 << 6 {
        packed.push(char::from(1 << 6 | (length & 0x3f) as u8));
        length >>= 6;
    }
    packed.push(char::from(length as u8));
}

fn read_length(packed: &mut &str) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in packed.bytes().enumerate() {
        length |= usize::from(byte & 0x3f) << (6 * at);
        if byte < 1 << 6 {
            *packed = &packed[at + 1..];
            return Some(length);
        }
    }
    None
}

/// Of two values of one key the later counts.
impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect::<BTreeMap<_, _>>().into()
    }
}

impl From<BTreeMap<String, String>> for Metadata {
    fn from(pairs: BTreeMap<String, String>) -> Self {
        let mut packed = String::new();
        for (key, value) in &pairs {
            write_length(key.len(), &mut packed);
            write_length(value.len(), &mut packed);
            packed.push_str(key);
            packed.push_str(value);
        }
        Self { packed: packed.into() }
    }
}

impl<K: Into<String>, V: Into<String>, const N: usize> From<[(K, V); N]> for Metadata {
    fn from(pairs: [(K, V); N]) -> Self {
        pairs.into_iter().collect()
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_in_comes_out_in_order() {
        let long = "é".repeat(5_000);
        let long = long.as_str();
        let pairs = [("b", "2"), ("", "no key"), ("no value", ""), ("a", long), (long, "x"), ("@\u{7f}", "\u{40}\0")];
        let (metadata, map) = (Metadata::from(pairs), BTreeMap::from(pairs));
        assert!(metadata.iter().eq(map.iter().map(|(key, value)| (*key, *value))));
        assert!(pairs.iter().all(|(key, value)| metadata.get(key) == Some(*value)));
        assert_eq!((metadata.get("c"), Metadata::default().iter().next()), (None, None));
        assert_eq!(metadata, pairs.into_iter().rev().collect::<Metadata>(), "order is no difference");
        assert_eq!(Metadata::from([("a", "1"), ("a", "2")]).get("a"), Some("2"));
        assert_eq!(format!("{:?}", Metadata::from([("a", "1")])), r#"{"a": "1"}"#);
    }

    #[test]
    fn tags_are_words_between_commas() {
        let tags = |text: &str| Metadata::from([(TAGS, text)]).tags().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(tags(" green, v2,,"), ["green", "v2"]);
        assert!(tags(" ,").is_empty() && Metadata::default().tags().next().is_none());
    }
}
