//! Sources: ways into the catalog. Each is one module; none reads a view.
//!
//! Lives here: the list of them.

pub(crate) mod grpc;
pub(crate) mod status;
