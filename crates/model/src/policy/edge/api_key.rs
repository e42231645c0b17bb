//! API keys: what a client of the gateway's shows instead of a token.
//!
//! Lives here: what the mesh knows of a key, which is not the key. Does not: making one (`weft keys create`), recognising one (the gateway's
//! `edge::authentication`).
//! A key is 256 random bits, so a plain hash of it can be told to anybody who has to recognise it: there is nothing to guess from.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::Invalid;

/// Claims of one key at most.
const MOST: usize = 16;
/// Longest text of a claim's name or value.
const LONGEST: usize = 256;

/// A key that counts. Its name is that of its policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// SHA-256 of the whole key.
    pub digest: KeyDigest,
    /// What its holder is said to be; `sub` is the key's name unless given.
    pub claims: BTreeMap<Arc<str>, Arc<str>>,
    /// When it ends, milliseconds since 1970; none: when it is revoked.
    pub expires: Option<u64>,
}

impl ApiKey {
    /// Accepts at most 16 claims.
    pub fn checked(self) -> Result<Self, Invalid> {
        if self.claims.len() > MOST {
            return Err(Invalid::new(
                "claims",
                format!("has {} entries, at most {MOST} are allowed", self.claims.len()),
            ));
        }
        for (name, value) in &self.claims {
            if name.is_empty() || value.is_empty() || name.len() > LONGEST || value.len() > LONGEST {
                return Err(Invalid::new(
                    format!("claims.{name}"),
                    format!("has no text, or more than {LONGEST} bytes"),
                ));
            }
        }
        Ok(self)
    }

    /// Whether its time is over.
    pub fn has_ended(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|at| now >= SystemTime::UNIX_EPOCH + Duration::from_millis(at))
    }
}

/// SHA-256 of a key, in documents as hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyDigest(pub [u8; 32]);

impl FromStr for KeyDigest {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let mut digest = [0; 32];
        let good = text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !good {
            return Err(Invalid::new(
                "",
                "is no SHA-256: 64 hexadecimal digits in lower case; `weft keys create` makes one",
            ));
        }
        for (byte, digits) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
            *byte = value(digits[0]) << 4 | value(digits[1]);
        }
        Ok(Self(digest))
    }
}

impl fmt::Display for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        fmt::Display::fmt(self, f)?;
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_comes_back_as_it_went() {
        let text = "00ff".repeat(16);
        assert_eq!(text.parse::<KeyDigest>().unwrap().to_string(), text);
        for bad in ["", "00", &text[1..], &text.to_uppercase(), &format!("{text}00"), &"xy".repeat(32)] {
            assert!(bad.parse::<KeyDigest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_key_ends_when_its_time_is_over() {
        let key = |expires| ApiKey { digest: KeyDigest([7; 32]), claims: BTreeMap::new(), expires };
        let at = |ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms);
        assert!(
            !key(Some(5)).has_ended(at(4)) && key(Some(5)).has_ended(at(5)) && !key(None).has_ended(at(u64::MAX >> 20))
        );
        let many = (0..17).map(|n| (format!("c{n}").into(), "x".into())).collect();
        assert_eq!(ApiKey { claims: many, ..key(None) }.checked().unwrap_err().field(), "claims");
    }
}
