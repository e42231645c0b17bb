//! Views: ways out of a snapshot. Each is one module; none writes the catalog.
//!
//! Lives here: the list of them; `stream`, where client and registry both speak; `body`, how they send bytes that many readers share;
//! `pace`, how often.

mod body;
pub(crate) mod dns;
pub(crate) mod grpc;
pub(crate) mod pace;
pub(crate) mod prometheus;
mod stream;
pub mod watch;
pub(crate) mod xds;
