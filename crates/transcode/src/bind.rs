//! Path variables, query string and body of a request, and what is wrong with them.
//!
//! Lives here: decoding path and query to field values, the order in which sources win, the error a client sees. Does not: the JSON of the body (`codec`).
//! Invariants: a path variable beats the query and the body; a value of the wrong type is a 400 whatever else the request holds.
//! Source: google/api/http.proto, "Rules for HTTP mapping"; differs: well-known types with a string form may be bound, because clients expect it.

use crate::routes::PathVariables;
use crate::status::Status;

/// The parts of an HTTP request that become a message.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// HTTP method as sent, upper case.
    pub http_method: &'a str,
    /// What the template's variables matched.
    pub variables: &'a PathVariables,
    /// Query string, undecoded, without the question mark.
    pub query: Option<&'a str>,
    /// Value of `content-type`; only raw bodies and client streams look at it.
    pub content_type: Option<&'a str>,
}

/// A request that cannot become a message: the gateway's answer, before anything was called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BindError {
    /// HTTP status to answer with.
    pub http_status: u16,
    /// gRPC code in the body.
    pub code: i32,
    /// What is wrong, naming the field, the line and the column where known.
    pub message: String,
    /// The fields at fault.
    pub violations: Vec<FieldViolation>,
}

/// One `google.rpc.BadRequest.FieldViolation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field in the request message, or the name of the query parameter or header.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl BindError {
    /// Returns a 400 with code INVALID_ARGUMENT about one field, parameter or header.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let _ = (field.into(), description.into());
        todo!()
    }

    /// Returns the 404 for a path that no template matches.
    pub fn not_found(path: &str) -> Self {
        let _ = path;
        todo!()
    }

    /// Returns the 405 for a path that exists for other methods; the caller sets `Allow`.
    pub fn method_not_allowed(http_method: &str, allow: &[String]) -> Self {
        let _ = (http_method, allow);
        todo!()
    }

    /// Returns the 413 for a body longer than `limit` bytes.
    pub fn too_large(limit: u64) -> Self {
        let _ = limit;
        todo!()
    }

    /// Returns the error as a status, with its violations as a `google.rpc.BadRequest` detail.
    pub fn status(&self) -> Status {
        todo!()
    }
}
