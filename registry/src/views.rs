//! Views: ways out of a snapshot. Each is one module; none writes the catalog.
//!
//! Lives here: the list of them.

pub(crate) mod grpc;
pub mod watch;
pub(crate) mod xds;
