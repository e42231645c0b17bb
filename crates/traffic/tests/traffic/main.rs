//! The stack against real HTTP/2 servers on port 0: what a caller sees when endpoints leave, refuse, break, stall or are slow.
//!
//! Lives here: the behaviours, one file each, over one scripted server (`upstream`) and one mesh (`mesh`). Does not: the rules themselves (unit tests beside them).
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod mesh;
mod upstream;

mod aborts;
mod access;
mod app;
mod connections;
mod deadlines;
mod failures;
mod heads;
mod held;
mod identities;
mod leaving;
mod routing;
mod rules;
mod spans;
mod streaming;
