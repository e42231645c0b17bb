//! Percent escapes in paths and query strings, decoded exactly once.
//!
//! Lives here: RFC 3986 escapes, and which of them a multi-segment path variable keeps. Does not: splitting paths or
//! query strings.
//! Source: RFC 3986, 2.1; RFC 6570, 1.5 (reserved characters); google/api/http.proto and
//! `google.api.Http.fully_decode_reserved_expansion`.

use std::borrow::Cow;

use crate::settings::{PathUnescape, Settings};

/// gen-delims and sub-delims of RFC 3986.
const RESERVED: &[u8] = b":/?#[]@!$&'()*+,;=";

/// Decodes all escapes; the error says what is wrong.
pub(super) fn decode(raw: &str) -> Result<String, String> {
    decode_unless(raw, |_| false)
}

/// Decodes a value that may span segments.
pub(super) fn decode_multi_segment(raw: &str, mode: PathUnescape) -> Result<String, String> {
    match mode {
        PathUnescape::ExceptReserved => decode_unless(raw, |it| RESERVED.contains(&it)),
        PathUnescape::ExceptSlash => decode_unless(raw, |it| it == b'/'),
        PathUnescape::All => decode(raw),
    }
}

/// Decodes a name or a value of a query string.
pub(super) fn decode_query(raw: &str, settings: &Settings) -> Result<String, String> {
    let raw = match settings.query_plus_as_space {
        true => Cow::Owned(raw.replace('+', " ")),
        false => Cow::Borrowed(raw),
    };
    decode(&raw)
}

/// Decodes a name or a value of a form, where `+` is a space (WHATWG URL, "application/x-www-form-urlencoded").
pub(super) fn decode_form(raw: &str) -> Result<String, String> {
    decode(&raw.replace('+', " "))
}

fn decode_unless(raw: &str, keep: impl Fn(u8) -> bool) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(raw.len());
    let mut rest = raw.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let decoded = match tail {
            [high, low, ..] => hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low),
            _ => None,
        };
        let Some(decoded) = decoded else { return Err("a '%' must be followed by two hexadecimal digits".to_owned()) };
        match keep(decoded) {
            true => bytes.extend([b'%', tail[0], tail[1]]),
            false => bytes.push(decoded),
        }
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8 once its escapes are decoded".to_owned())
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_modes_keep_what_they_say() {
        let raw = "a%2fb/%3A%20%7E%25";
        assert_eq!(decode_multi_segment(raw, PathUnescape::ExceptReserved).unwrap(), "a%2fb/%3A ~%");
        assert_eq!(decode_multi_segment(raw, PathUnescape::ExceptSlash).unwrap(), "a%2fb/: ~%");
        assert_eq!(decode_multi_segment(raw, PathUnescape::All).unwrap(), "a/b/: ~%");
    }

    #[test]
    fn escapes_are_decoded_once_and_must_be_whole() {
        assert_eq!(decode("100%2525").unwrap(), "100%25");
        for broken in ["%", "%4", "%zz", "a%g0", "%+1"] {
            assert!(decode(broken).is_err(), "{broken}");
        }
        assert!(decode("%FF%FE").unwrap_err().contains("UTF-8"));
    }
}
