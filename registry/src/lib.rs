//! The registry: what enters is a `Change` to the catalog, what leaves is derived from its immutable, versioned `Snapshot`.
//!
//! Lives here: sources → catalog (store, leases) → views; checks, acks, descriptor sets, policies, the certificate authority. Does not: carrying a call.
//! Invariants: the catalog task is the one writer; a view never writes the catalog, a source never reads a view; nothing is published
//! or answered before it is durable, except health, which may be up to a second younger than the disk.
#![forbid(unsafe_code)]

pub mod ca;
pub mod catalog;
mod leases;
mod policy;
mod schema;

mod access;
mod acks;
mod checks;
mod drains;
mod sources;
pub mod views;

mod args;
mod metrics;
mod refusals;
mod registry;
mod server;

pub use args::{Args, Config};
pub use registry::Registry;
