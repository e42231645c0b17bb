//! What a user is, and what its parts must be.
//!
//! Lives here: parsing of what callers send. Does not: gRPC (`service`), SQL (`store`).

use weft_store::{Id, Micros};

/// A user as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) id: Id,
    pub(crate) name: String,
    pub(crate) email: String,
    pub(crate) create_time: Micros,
    pub(crate) update_time: Micros,
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
