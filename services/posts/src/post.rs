//! What a post is, and what its parts must be.
//!
//! Lives here: parsing of what callers send. Does not: gRPC (`service`), SQL (`store`), who is a user (`authors`).

use weft_store::{Id, Micros};

/// A post as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Post {
    pub(crate) id: Id,
    pub(crate) author: String,
    pub(crate) title: String,
    pub(crate) body: String,
    pub(crate) create_time: Micros,
    pub(crate) update_time: Micros,
}

/// The author's id, which only users can read: anything but nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AuthorId(String);

impl AuthorId {
    /// The error reads on from the field's name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() { Err("is required") } else { Ok(AuthorId(text.to_owned())) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// A title: 1 to 200 characters, not all blank, none a control character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Title(String);

impl Title {
    /// The error reads on from the field's name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            _ if text.trim().is_empty() => Err("is required"),
            _ if text.chars().count() > 200 => Err("is longer than 200 characters"),
            _ if text.contains(char::is_control) => Err("contains a control character"),
            _ => Ok(Title(text.to_owned())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text of a post: at most 10,000 characters, also none, with no character that no database keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body(String);

impl Body {
    /// The error reads on from the field's name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            _ if text.chars().count() > 10_000 => Err("is longer than 10,000 characters"),
            _ if text.contains('\0') => Err("contains a NUL character"),
            _ => Ok(Body(text.to_owned())),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_has_up_to_200_characters_whatever_their_bytes() {
        assert!(Title::parse(&"ä".repeat(200)).is_ok());
        for wrong in ["", "  ", "a\nb", &"ä".repeat(201)] {
            assert!(Title::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_body_may_be_empty_and_has_lines() {
        for right in ["", "one\n\ttwo", &"ä".repeat(10_000)] {
            assert!(Body::parse(right).is_ok(), "{right:.20?}");
        }
        for wrong in ["a\0b", &"ä".repeat(10_001)] {
            assert!(Body::parse(wrong).is_err(), "{wrong:.20?}");
        }
    }
}
