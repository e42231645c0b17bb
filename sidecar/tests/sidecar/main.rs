//! The sidecar beside a real app process, with a real registry or none.
//!
//! Lives here: what callers, the registry and the app see of it. Does not: the whole mesh (`tests/`), rules of single modules (unit tests).
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod calls;
mod fixture;
mod identities;
mod joining;
mod leaving;
mod relay;
mod status;
