//! Pages of a list: how many, and where the next one starts.
//!
//! Lives here: page size and page token. Does not: reading a page (`store`).
//! A token is the last id of the page before, so a page stays right however many users come and go; it is encoded so that nobody
//! builds on its form, and starts with a version, so that it may change.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::user::Id;

const DEFAULT_SIZE: u16 = 50;
const MAX_SIZE: u16 = 1_000;
const TOKEN_VERSION: u8 = 1;

/// Reads a page size: 0 means 50, more than 1,000 counts as 1,000. The error reads on from the field's name.
pub(crate) fn size(asked: i32) -> Result<u16, &'static str> {
    match u16::try_from(asked) {
        Ok(0) => Ok(DEFAULT_SIZE),
        Ok(size) => Ok(size.min(MAX_SIZE)),
        Err(_) if asked < 0 => Err("is negative"),
        Err(_) => Ok(MAX_SIZE),
    }
}

/// Returns the token of the page that follows `last`.
pub(crate) fn token_after(last: Id) -> String {
    URL_SAFE_NO_PAD.encode([&[TOKEN_VERSION][..], last.as_bytes()].concat())
}

/// Reads a token; empty for the first page. The error reads on from the field's name.
pub(crate) fn after(token: &str) -> Result<Option<Id>, &'static str> {
    if token.is_empty() {
        return Ok(None);
    }
    match URL_SAFE_NO_PAD.decode(token).as_deref() {
        Ok([TOKEN_VERSION, id @ ..]) => match <[u8; 16]>::try_from(id) {
            Ok(id) => Ok(Some(Id::from_bytes(id))),
            Err(_) => Err(UNKNOWN),
        },
        _ => Err(UNKNOWN),
    }
}

const UNKNOWN: &str = "is not a token that this service gave; start with an empty one";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_default_and_a_limit() {
        assert_eq!([0, 1, 1_000, 1_001, i32::MAX].map(size), [50, 1, 1_000, 1_000, 1_000].map(Ok));
        assert!(size(-1).is_err() && size(i32::MIN).is_err());
    }

    #[test]
    fn a_token_leads_back_to_its_id() {
        let id = Id::new();
        assert_eq!(after(&token_after(id)), Ok(Some(id)));
        assert_eq!(after(""), Ok(None));
    }

    #[test]
    fn other_tokens_are_refused() {
        let shorter = &token_after(Id::new())[..20];
        let newer = URL_SAFE_NO_PAD.encode([2; 17]);
        for wrong in [shorter, &newer, "?", "AQ", &Id::new().to_string()] {
            assert!(after(wrong).is_err(), "{wrong:?}");
        }
    }
}
