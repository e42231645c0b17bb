//! Raw descriptor sets: encoded `google.protobuf.FileDescriptorSet` with imports and comments, custom options intact.
//!
//! Lives here: the bytes as the build script wrote them, splitting a set into files without reading these, the one form of a set and its
//! digest (registry.proto, PutDescriptors). Does not: linking (readers choose their own pool).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use prost_types::FileDescriptorProto;
use sha2::{Digest as _, Sha256};
use weft_model::Digest;

/// `weft.registry.v1` and what it imports.
pub const REGISTRY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.registry.v1.binpb"));
/// `weft.registry.v1.Identity` and what it imports.
pub const IDENTITY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.registry.v1.identity.binpb"));
/// `weft.policy.v1` and what it imports.
pub const POLICY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.policy.v1.binpb"));
/// `weft.discovery.v1` and what it imports.
pub const DISCOVERY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.discovery.v1.binpb"));
/// `weft.up.v1`.
pub const UP: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.up.v1.binpb"));
/// `weft.testkit.v1` and what it imports.
pub const TESTKIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.testkit.v1.binpb"));
/// `weft.testkit.v1.Foreign` and what it imports.
pub const FOREIGN: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/weft.testkit.v1.foreign.binpb"));
/// `shop.users.v1` and what it imports.
pub const SHOP_USERS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shop.users.v1.binpb"));
/// `shop.posts.v1` and what it imports.
pub const SHOP_POSTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shop.posts.v1.binpb"));
/// `shop.comments.v1` and what it imports.
pub const SHOP_COMMENTS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shop.comments.v1.binpb"));
/// `shop.ring.v1.Rust`, one service of the ring, and what it imports.
pub const SHOP_RING: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/shop.ring.v1.binpb"));

/// A file of a set.
#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// As it came: the typed form lacks custom options.
    pub bytes: Bytes,
    /// As far as the typed form goes.
    pub typed: FileDescriptorProto,
}

/// Why files are no set.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadFiles {
    /// One of them is garbled.
    #[error("files[{index}] is no FileDescriptorProto")]
    Garbled {
        /// Its place, from 0.
        index: usize,
        /// Why not.
        source: prost::DecodeError,
    },
    /// Two of one name differ.
    #[error("two files named {name:?} differ")]
    Clash {
        /// The name.
        name: String,
    },
}

/// Returns the one form of a set of encoded `FileDescriptorProto`s that came in any order: each file once, sorted by name.
pub fn by_name(files: impl IntoIterator<Item = Bytes>) -> Result<BTreeMap<String, File>, BadFiles> {
    let mut named: BTreeMap<String, File> = BTreeMap::new();
    for (index, bytes) in files.into_iter().enumerate() {
        let typed =
            FileDescriptorProto::decode(bytes.as_ref()).map_err(|source| BadFiles::Garbled { index, source })?;
        let name = typed.name().to_owned();
        if named.get(&name).is_some_and(|known| known.bytes != bytes) {
            return Err(BadFiles::Clash { name });
        }
        named.insert(name, File { bytes, typed });
    }
    Ok(named)
}

/// Returns the digest of a set in its one form: SHA-256 over its files, each preceded by its length as a big-endian u64; then, if it says
/// which services are served, a length that no file has and their names in the same way. Two services may so carry the same files.
pub fn digest(set: &BTreeMap<String, File>, served: &BTreeSet<String>) -> Digest {
    let mut hash = Sha256::new();
    set.values().for_each(|file| add(&mut hash, &file.bytes));
    if !served.is_empty() {
        hash.update(u64::MAX.to_be_bytes());
        served.iter().for_each(|name| add(&mut hash, name.as_bytes()));
    }
    Digest(hash.finalize().into())
}

fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update(u64::try_from(bytes.len()).expect("a length fits into a u64").to_be_bytes());
    hash.update(bytes);
}

/// Returns the full names of the gRPC services in a file.
pub fn services(file: &FileDescriptorProto) -> impl Iterator<Item = String> {
    let package = file.package();
    let dot = if package.is_empty() { "" } else { "." };
    file.service.iter().map(move |service| format!("{package}{dot}{}", service.name()))
}

/// `google.protobuf.FileDescriptorSet` with its files left unread.
#[derive(Clone, PartialEq, Message)]
struct RawSet {
    #[prost(bytes = "bytes", repeated, tag = "1")]
    file: Vec<Bytes>,
}

/// Returns the files of an encoded `FileDescriptorSet`, for example from `protoc -o` with `--include_imports`, as they are.
pub fn split(set: &[u8]) -> Result<Vec<Bytes>, prost::DecodeError> {
    Ok(RawSet::decode(set)?.file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, package: &str) -> Bytes {
        let file = FileDescriptorProto { name: Some(name.into()), package: Some(package.into()), ..Default::default() };
        file.encode_to_vec().into()
    }

    #[test]
    fn neither_order_nor_repetition_changes_the_digest_but_any_byte_does() {
        let serving = |files: &[Bytes], served: &[&str]| {
            digest(&by_name(files.iter().cloned()).unwrap(), &served.iter().map(|name| (*name).to_owned()).collect())
        };
        let of = |files: &[Bytes]| serving(files, &[]);
        let (a, b) = (file("a.proto", "a"), file("b.proto", "b"));
        let expected = of(&[a.clone(), b.clone()]);
        assert_eq!(of(&[b.clone(), a.clone()]), expected);
        assert_eq!(of(&[a.clone(), b.clone(), a.clone()]), expected);
        assert_ne!(of(&[a.clone(), file("b.proto", "c")]), expected);
        let one = std::slice::from_ref(&a);
        assert_ne!(of(one), expected);
        assert_eq!(serving(one, &["x.A", "x.B", "x.A"]), serving(one, &["x.B", "x.A"]));
        assert_ne!(serving(one, &["x.A"]), of(one));
        assert_ne!(serving(one, &["x.A"]), serving(one, &["x.A", "x.B"]));
    }

    #[test]
    fn two_different_files_of_one_name_are_no_set() {
        let clash = by_name([file("a.proto", "a"), file("a.proto", "b")]);
        assert_eq!(clash, Err(BadFiles::Clash { name: "a.proto".to_owned() }));
        assert!(matches!(by_name([Bytes::from_static(b"\xff")]), Err(BadFiles::Garbled { index: 0, .. })));
    }

    #[test]
    fn a_set_is_split_into_the_bytes_it_was_made_of() {
        let files = split(SHOP_USERS).unwrap();
        assert_eq!(RawSet { file: files.clone() }.encode_to_vec(), SHOP_USERS);
        assert!(files.len() > 1 && by_name(files).is_ok());
    }
}
