//! What every call meets whatever its protocol: counting, logging, trace and request id.
//!
//! Lives here: the parts. Does not: decoding a protocol (`protocol`), routes (`routes`).

pub(crate) mod access_log;
pub(crate) mod api_keys;
pub(crate) mod authentication;
pub(crate) mod cache;
pub(crate) mod call;
pub(crate) mod cors;
pub(crate) mod fetch;
pub(crate) mod forwarded;
pub(crate) mod guard;
pub(crate) mod headers;
pub(crate) mod issuers;
pub(crate) mod jwt;
pub(crate) mod limits;
pub(crate) mod metrics;
pub(crate) mod names;
pub(crate) mod outside;
pub(crate) mod policies;
pub(crate) mod quotes;
pub(crate) mod rate_limit;
pub(crate) mod shared;
pub(crate) mod span;
pub(crate) mod transcoding;
