//! What a comment is, and what its parts must be.
//!
//! Lives here: parsing of what callers send. Does not: gRPC (`service`), SQL (`store`), who is a user and what a post (`others`).

use weft_store::{Id, Micros};

/// A comment as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    pub(crate) id: Id,
    pub(crate) post: String,
    pub(crate) author: String,
    pub(crate) text: String,
    pub(crate) create_time: Micros,
}

/// An id that only another service can read: anything but nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForeignId(String);

impl ForeignId {
    /// The error reads on from the field's name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.is_empty() { Err("is required") } else { Ok(ForeignId(text.to_owned())) }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text of a comment: 1 to 2,000 characters, not all blank, with no character that no database keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text(String);

impl Text {
    /// The error reads on from the field's name.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            _ if text.trim().is_empty() => Err("is required"),
            _ if text.chars().count() > 2_000 => Err("is longer than 2,000 characters"),
            _ if text.contains('\0') => Err("contains a NUL character"),
            _ => Ok(Text(text.to_owned())),
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
    fn a_text_has_up_to_2000_characters_and_lines() {
        for right in ["a", "one\ntwo", &"ä".repeat(2_000)] {
            assert!(Text::parse(right).is_ok(), "{right:.20?}");
        }
        for wrong in ["", " \n", "a\0b", &"ä".repeat(2_001)] {
            assert!(Text::parse(wrong).is_err(), "{wrong:.20?}");
        }
    }
}
