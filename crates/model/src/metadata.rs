//! Keys of an instance's metadata that the mesh itself writes and reads.
//!
//! Lives here: the names. Does not: a value's meaning for calls of the mesh's own processes; there is none, since metadata is for people, tools and
//! views.

/// Place in a scale, `users-1`.
pub const SLOT: &str = "slot";
/// Where `/metrics`, `/healthz` and `/readyz` of the instance's sidecar are, `127.0.0.1:7380`.
pub const ADMIN: &str = "admin";
/// Version of weft that the instance's sidecar is built from.
pub const VERSION: &str = "version";
/// Who gets in to the instance's listener without a certificate, besides those with one: `loopback` or `allow`; nobody when left out. Views for
/// clients that have none read it.
pub const PLAINTEXT: &str = "plaintext";
