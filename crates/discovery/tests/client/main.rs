//! The client against a registry that the test plays by hand, over real connections.
//!
//! Lives here: what the public surface promises through outages, contradictions and silence; who may what, of the real registry. Does not: the rules of single messages
//! (unit tests of `watch::state` and `lease::table`), the real registry (its own tests, `tests/e2e`).

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod access;
mod descriptors;
mod fake;
mod identity;
mod leases;
mod real;
mod rotation;
mod watch;
