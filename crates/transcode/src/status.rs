//! Errors as REST clients see them: `google.rpc.Status` as JSON, and the table between gRPC and HTTP codes.
//!
//! Lives here: `Status`, its details, both directions of the code table. Does not: deciding that something failed, or
//! sending it.
//! Source: google/rpc/code.proto (HTTP mapping in its comments), google/rpc/status.proto,
//! google/rpc/error_details.proto.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use percent_encoding::percent_decode;
use prost::Message;

/// `application/json`: the content type of every JSON answer and of every error.
pub const JSON: &str = "application/json";

/// Binary metadata: standard alphabet, senders may leave out the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A failed call: what `grpc-status`, `grpc-message` and `grpc-status-details-bin` say together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// A gRPC status code; values outside 0..=16 are kept as they came.
    pub code: i32,
    /// What a person should read; may be empty when it came from upstream.
    pub message: String,
    /// Typed details in the order they were sent.
    pub details: Vec<Detail>,
}

/// One `google.protobuf.Any` of a status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detail {
    /// `type.googleapis.com/package.Message`.
    pub type_url: String,
    /// The message, encoded.
    pub value: Bytes,
}

impl Status {
    /// Returns a status without details.
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    /// Returns the status that a call's trailers tell.
    ///
    /// `message` is the raw value of `grpc-message` and is percent-decoded once. `details` is the raw value of
    /// `grpc-status-details-bin` (base64, padding optional) and adds the details; if it cannot be read, code and
    /// message stand alone.
    pub fn from_trailers(code: i32, message: Option<&[u8]>, details: Option<&[u8]>) -> Self {
        let rich =
            details.and_then(|it| RawStatus::decode(BASE64.decode(it).ok()?.as_slice()).ok()).unwrap_or_default();
        let plain = message.map(|it| percent_decode(it).decode_utf8_lossy().into_owned());
        Self {
            code,
            message: plain.unwrap_or(rich.message),
            details: rich
                .details
                .into_iter()
                .map(|it| Detail { type_url: it.type_url, value: it.value.into() })
                .collect(),
        }
    }

    /// Returns the HTTP status code of this error.
    pub fn http_status(&self) -> u16 {
        http_status(self.code)
    }
}

/// Returns the HTTP status for a gRPC code: google/rpc/code.proto; 500 for a code it does not know.
pub fn http_status(code: i32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// Returns the gRPC code for an HTTP status that came in place of a gRPC answer (gRPC over HTTP/2, "HTTP to gRPC status
/// code mapping").
pub fn grpc_code(http: u16) -> i32 {
    match http {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RawStatus {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<RawAny>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct RawAny {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_are_decoded_once_and_survive_what_cannot_be_read() {
        let raw = RawStatus {
            message: "rich".to_owned(),
            details: vec![RawAny { type_url: "t/x".to_owned(), value: vec![1, 2] }],
        };
        let encoded = BASE64.encode(raw.encode_to_vec());
        let status = Status::from_trailers(
            3,
            Some(b"bad %22name%22: 50%25 off%0A"),
            Some(encoded.trim_end_matches('=').as_bytes()),
        );
        assert_eq!(status.message, "bad \"name\": 50% off\n");
        assert_eq!(status.details, [Detail { type_url: "t/x".to_owned(), value: Bytes::from_static(&[1, 2]) }]);
        assert_eq!(Status::from_trailers(5, None, Some(encoded.as_bytes())).message, "rich");
        assert_eq!(Status::from_trailers(5, Some(b"%zz \xff"), Some(b"*")), Status::new(5, "%zz \u{fffd}"));
    }

    #[test]
    fn every_code_has_its_http_status() {
        let table = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500];
        let codes: Vec<_> = (0..=17).map(http_status).collect();
        assert_eq!(codes, table);
        let back: Vec<_> = [400, 401, 403, 404, 429, 502, 503, 504, 200, 418].map(grpc_code).to_vec();
        assert_eq!(back, [13, 16, 7, 12, 14, 14, 14, 14, 2, 2]);
    }
}
