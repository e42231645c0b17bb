//! weft-reflection: what every gRPC server of ours says about itself, reflection (v1, v1alpha) and health.
//!
//! Reading order: `descriptors` is an index over the raw files of a set; `server` answers with one such index, or with whichever a role
//! chooses; `health` says whether a process serves.
//! Lives here: what SDK, registry, gateway and testkit share. Does not: reading another server's reflection (`sidecar`), the mesh's health
//! (`gateway`).
//! Why not the servers of tonic-reflection and tonic-health: see `server` and `health`. Their messages are used.
//! Every stream ends with the `CancellationToken` given to its server: nobody's question may hold a process that leaves.
#![forbid(unsafe_code)]

mod descriptors;
mod health;
mod server;

pub use descriptors::{BadDescriptors, COMMON_SETS, Descriptors};
pub use health::Health;
pub use server::{Reflection, Sets};
