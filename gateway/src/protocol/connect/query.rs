//! A unary call that is a GET: its message is in the query.
//!
//! Lives here: reading the parameters that Connect knows; others are no concern of it. Does not: decompressing or parsing the message.
//! Source: the Connect protocol, "Unary-Get-Request".

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use percent_encoding::percent_decode_str;
use weft_transcode::Status;

use crate::protocol::{
    compression::Encoding,
    rpc::{Format, INVALID_ARGUMENT},
};

const URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whether a query is one of Connect's: it says so, or has all that a call needs.
pub(super) fn is_call(query: &str) -> bool {
    let has = |name| raw(query, name).is_some();
    raw(query, "connect") == Some("v1") || (has("message") && has("encoding"))
}

/// Returns the format of message and reply; an error is the name of one that is not spoken.
pub(super) fn format(query: &str) -> Result<Format, String> {
    match raw(query, "encoding").unwrap_or_default() {
        "proto" => Ok(Format::Proto),
        "json" => Ok(Format::Json),
        other => Err(other.chars().take(40).collect()),
    }
}

/// Returns the message as it was sent, and what it is compressed by.
pub(super) fn message(query: &str) -> Result<(Bytes, Option<Encoding>), Status> {
    let wrong = |what: &str| Status::new(INVALID_ARGUMENT, format!("message: {what}"));
    if raw(query, "connect").is_some_and(|version| version != "v1") {
        return Err(Status::new(INVALID_ARGUMENT, "connect: only version v1 is spoken here"));
    }
    let encoding = Encoding::named(raw(query, "compression").unwrap_or_default()).map_err(super::unknown_encoding)?;
    let sent = decoded(raw(query, "message").ok_or_else(|| wrong("is missing from the query"))?);
    let bytes = match raw(query, "base64") {
        Some("1") => URL_SAFE.decode(&sent).map_err(|_| wrong("is no base64 of the kind for URLs"))?,
        _ => sent,
    };
    Ok((bytes.into(), encoding))
}

/// Returns the first value of a name, undecoded.
fn raw<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(it, _)| *it == name).map(|(_, value)| value)
}

/// As forms write it: a plus is a space.
fn decoded(value: &str) -> Vec<u8> {
    percent_decode_str(&value.replace('+', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_text_or_base64_in_any_order_of_parameters() {
        let text = message("message=%7B%22a%22%3A+%2B1%7D&other=x&encoding=json&connect=v1").unwrap();
        assert_eq!(text, (Bytes::from_static(b"{\"a\": +1}"), None));
        let binary = message("connect=v1&base64=1&compression=gzip&encoding=proto&message=-_8").unwrap();
        assert_eq!(binary, (Bytes::from_static(&[0xfb, 0xff]), Some(Encoding::Gzip)));
        assert_eq!(message("message=YQ%3D%3D&base64=1").unwrap().0, "a", "padding is allowed");
        assert_eq!(message("message=YQ&base64=0").unwrap().0, "YQ", "other values of base64 mean nothing");
        assert_eq!(message("message=").unwrap().0, "");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let wrong = |query: &str| message(query).unwrap_err();
        assert!(wrong("encoding=json").message.contains("missing"));
        assert!(wrong("message=*&base64=1").message.contains("base64"));
        assert_eq!(wrong("message=a&connect=v2").code, INVALID_ARGUMENT);
        assert_eq!(wrong("message=a&compression=foo").code, crate::protocol::rpc::UNIMPLEMENTED);
        assert_eq!(format("message=a"), Err(String::new()));
        assert_eq!(format("encoding=xml"), Err("xml".to_owned()));
    }

    #[test]
    fn a_query_of_rest_is_not_taken_for_a_call() {
        assert!(is_call("connect=v1") && is_call("encoding=json&message=%7B%7D"));
        assert!(!is_call("message=hello") && !is_call("connect=yes") && !is_call(""));
    }

    proptest! {
        #[test]
        fn no_query_is_fatal_and_any_message_comes_back(query in ".{0,80}", bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            drop(message(&query));
            let sent = format!("base64=1&message={}", URL_SAFE.encode(&bytes).replace('=', "%3D"));
            prop_assert_eq!(message(&sent).unwrap().0, bytes);
        }
    }
}
