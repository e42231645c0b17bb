//! Names of metadata as clients of REST write and read them: with `grpc-metadata-` before them.
//!
//! Lives here: the prefix, both directions. Does not: what crosses by such names (`protocol::rest::metadata`).

use http::{HeaderName, header::InvalidHeaderName};

const PREFIX: &str = "grpc-metadata-";

/// Returns the header by which clients of REST know metadata.
pub(crate) fn prefixed(metadata: &str) -> Result<HeaderName, InvalidHeaderName> {
    HeaderName::try_from(format!("{PREFIX}{metadata}"))
}

/// Returns the metadata that a header names by the prefix; none: it does not.
pub(crate) fn unprefixed(header: &str) -> Option<&str> {
    header.strip_prefix(PREFIX)
}

/// Returns the name that a header has as metadata, prefix or not.
pub(crate) fn plain(header: &str) -> &str {
    unprefixed(header).unwrap_or(header)
}
