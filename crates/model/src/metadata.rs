//! Keys of an instance's metadata that the mesh itself writes and reads.
//!
//! Lives here: the names. Does not: a value's meaning for calls; there is none, since metadata is for people and tools.

/// Place in a scale, `users-1`.
pub const SLOT: &str = "slot";
/// Where `/metrics`, `/healthz` and `/readyz` of the instance's sidecar are, `127.0.0.1:7380`.
pub const ADMIN: &str = "admin";
/// Version of weft that the instance's sidecar is built from.
pub const VERSION: &str = "version";
