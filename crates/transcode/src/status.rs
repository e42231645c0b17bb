//! Errors as REST clients see them: `google.rpc.Status` as JSON, and the table between gRPC and HTTP codes.
//!
//! Lives here: `Status`, its details, both directions of the code table. Does not: deciding that something failed, or sending it.
//! Source: google/rpc/code.proto (HTTP mapping in its comments), google/rpc/status.proto, google/rpc/error_details.proto.

use bytes::Bytes;

/// `application/json`: the content type of every JSON answer and of every error.
pub const JSON: &str = "application/json";

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
    /// `message` is the raw value of `grpc-message` and is percent-decoded once. `details` is the raw value of `grpc-status-details-bin`
    /// (base64, padding optional) and adds the details; if it cannot be read, code and message stand alone.
    pub fn from_trailers(code: i32, message: Option<&[u8]>, details: Option<&[u8]>) -> Self {
        let _ = (code, message, details);
        todo!()
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

/// Returns the gRPC code for an HTTP status that came in place of a gRPC answer (gRPC over HTTP/2, "HTTP to gRPC status code mapping").
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
