//! What a user is, and what its parts must be.
//!
//! Lives here: parsing of what callers send. Does not: gRPC (`service`), SQL (`store`).

use std::fmt;
use std::time::UNIX_EPOCH;

use uuid::Uuid;

/// A user as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) create_time: Micros,
    pub(crate) update_time: Micros,
}

/// Opaque to callers. A UUID of version 7: ids sort by time of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Id(Uuid);

impl Id {
    pub(crate) fn new() -> Self {
        Id(Uuid::now_v7())
    }

    /// Takes the one spelling that we give out: an id is a word, not a number to be written in several ways.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let id = Id(Uuid::try_parse(text).ok()?);
        (id.to_string() == text).then_some(id)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Id(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

/// Microseconds since 1970, UTC: what a database keeps exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Micros(pub(crate) i64);

impl Micros {
    pub(crate) fn now() -> Self {
        let since = weft::clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

/// A name to show: 1 to 200 characters, not all blank, none a control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Name(String);

impl Name {
    /// The error reads on from the field's name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            _ if text.trim().is_empty() => Err("is required"),
            _ if text.chars().count() > 200 => Err("is longer than 200 characters"),
            _ if text.contains(char::is_control) => Err("contains a control character"),
            _ => Ok(Name(text.to_owned())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// An e-mail address: something, one `@`, something, without blanks, at most 254 characters. Whether it exists only a mail can tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Email(String);

impl Email {
    /// The error reads on from the field's name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        let parts = text.split_once('@').filter(|(local, domain)| !local.is_empty() && !domain.is_empty());
        match parts {
            _ if text.is_empty() => Err("is required"),
            _ if text.chars().count() > 254 => Err("is longer than 254 characters"),
            Some((_, domain))
                if !domain.contains('@') && !text.contains(|c: char| c.is_whitespace() || c.is_control()) =>
            {
                Ok(Email(text.to_owned()))
            }
            _ => Err("is not an e-mail address like ada@example.com"),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Equal for two addresses that differ in case only.
    pub(crate) fn key(&self) -> String {
        self.0.to_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let id = Id::new().to_string();
        assert_eq!(Id::parse(&id).unwrap().to_string(), id);
        for other in [id.to_uppercase(), id.replace('-', ""), format!("{{{id}}}"), String::new(), "1".to_owned()] {
            assert!(Id::parse(&other).is_none(), "{other:?}");
        }
    }

    #[test]
    fn ids_sort_by_creation() {
        let ids: Vec<String> = (0..1_000).map(|_| Id::new().to_string()).collect();
        assert!(ids.is_sorted());
    }

    #[test]
    fn a_name_has_up_to_200_characters_whatever_their_bytes() {
        assert!(Name::parse(&"ä".repeat(200)).is_ok());
        assert!(Name::parse("Ada King, Countess of Lovelace").is_ok());
        for wrong in ["", "  ", "a\nb", &"ä".repeat(201)] {
            assert!(Name::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_address_has_two_sides_of_one_at() {
        for right in ["ada@example.com", "a+b@c", "Ädä@exämple.com"] {
            assert!(Email::parse(right).is_ok(), "{right}");
        }
        let long = format!("{}@example.com", "a".repeat(243));
        for wrong in ["", "ada", "@example.com", "ada@", "a@b@c", "a b@c", " ada@example.com", "a@b\n", &long] {
            assert!(Email::parse(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(Email::parse("Ada@Example.COM").unwrap().key(), "ada@example.com");
    }
}
