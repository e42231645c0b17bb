//! Traffic: what happens between a request with a known head and an answer from one of many endpoints.
//!
//! Lives here: routes and clusters (`world`), the plain decisions (`decide`), connections (`pool`), and the stack that joins them: route → deadline →
//! retry → balance → connection. Does not: listening, REST, the registry, any role. Snapshots come from whoever has them.
//! Invariants: one load of the world per request; no lock of ours on the path; bodies pass through unparsed; every wait has a bound.
#![forbid(unsafe_code)]

mod body;
mod error;
mod metrics;
mod pool;
mod stack;
mod status;
mod to_app;
mod trace;
mod world;

pub use body::{Body, BodyError, BodySender, Closed};
pub use error::{Error, Origin, Reset, Retry};
pub use metrics::Metrics;
pub use pool::{ConnectError, Pool, PoolConfig};
pub use stack::{CallOptions, Outbound, OutboundConfig};
pub use status::Code;
pub use to_app::ToApp;
pub use trace::{Root, TraceContext};
pub use world::{Changes, Claims, Cluster, Interests, StaticCluster, World, Worlds};
