//! The few HTTP headers whose meaning transcoding fixes.
//!
//! Lives here: the grammar of `grpc-timeout`, and which request headers a backend sees as metadata. Does not: reading or writing headers.
//! Source: gRPC over HTTP/2, "Requests" (Timeout); RFC 9110, 7.6.1 (hop-by-hop fields).

use std::time::Duration;

use crate::bind::BindError;

/// Returns the duration that a `grpc-timeout` header asks for: one to eight digits and a unit of `H M S m u n`.
///
/// # Errors
/// 400 naming the header if it is anything else.
pub fn grpc_timeout(value: &[u8]) -> Result<Duration, BindError> {
    let _ = value;
    todo!()
}

/// Returns whether a request header (its name in lower case) reaches the backend as metadata.
///
/// Left out are connection-level fields, those that describe the HTTP body, and names that gRPC or the gateway writes itself (`grpc-*`, `te`,
/// `user-agent` and `x-forwarded-*` are the gateway's to set).
pub fn is_forwarded(name: &str) -> bool {
    let _ = name;
    todo!()
}
