//! Keys of an instance's metadata that the mesh itself writes and reads.
//!
//! Lives here: the names, and the form of those that are lists. Does not: a value's meaning for calls of the mesh's own processes; there is none, since
//! metadata is for people, tools and views.

use std::collections::BTreeMap;

/// Place in a scale, `users-1`.
pub const SLOT: &str = "slot";
/// Where `/metrics`, `/healthz` and `/readyz` of the instance's sidecar are, `127.0.0.1:7380`.
pub const ADMIN: &str = "admin";
/// Version of weft that the instance's sidecar is built from.
pub const VERSION: &str = "version";
/// Who gets in to the instance's listener without a certificate, besides those with one: `loopback` or `allow`; nobody when left out. Views for
/// clients that have none read it.
pub const PLAINTEXT: &str = "plaintext";
/// Where the app tells of itself in Prometheus' form, `10.0.0.7:9464` or `10.0.0.7:9464/internal/metrics`; the path is `/metrics` unless said.
pub const METRICS: &str = "metrics";
/// Words by which views tell instances of a service apart, `green,canary`.
pub const TAGS: &str = "tags";

/// The tags among an instance's metadata.
pub fn tags(metadata: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    let tags = metadata.get(TAGS).into_iter().flat_map(|tags| tags.split(','));
    tags.map(str::trim).filter(|tag| !tag.is_empty())
}
