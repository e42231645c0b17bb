//! Identities over real TLS on loopback: who is refused and why, rotation, revocation, resumption.
//!
//! Lives here: the list of topics. Does not: the registry's CA (`registry/tests`).
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod calls;
mod files;
mod refusals;
mod rotation;
