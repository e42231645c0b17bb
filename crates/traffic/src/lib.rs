//! Traffic: what happens between a request with a known head and an answer from one of many endpoints.
//!
//! Lives here: the stack that gateway, sidecar and SDK share (route → deadline → retry → balance → connection), the plain decisions under it, the world they
//! act on. Does not: listening, REST, the registry, any role. Snapshots come from whoever has them.
//! Invariants: one load of the world per request; no lock of ours on the path; bodies pass through unparsed; every wait has a bound.
#![forbid(unsafe_code)]

// the seams
mod stack;
mod to_app;

// layers, in the order a call meets them
mod answer;
mod attempt;
mod deadline;
mod flight;
mod limit;
mod resolve;
mod retry;
mod select;
mod stage;
mod telemetry;

// what they act on
mod cluster;
mod endpoint;
mod pool;
mod world;

// plain decisions
mod access;
mod backoff;
mod breaker;
mod budget;
mod ewma;
mod outcome;
mod rest;
mod ticks;
mod window;

// requests and answers
mod body;
mod dialect;
mod error;
mod head;
mod metrics;
mod replay;
mod span;
mod status;
mod trace;

pub use access::Denied;
pub use body::{Body, BodyError, BodySender, Closed};
pub use deadline::caller_timeout;
pub use dialect::{Dialect, is_grpc};
pub use error::{Error, Origin, Reset, Retry};
pub use metrics::Metrics;
pub use pool::{ConnectError, Pings, Pool, PoolConfig};
pub use span::{End, SpanRecord, SpanSink};
pub use stack::{CallOptions, Outbound, OutboundConfig};
pub use status::Code;
pub use to_app::{ToApp, Tracing};
pub use trace::{Entered, Root, TraceContext};
pub use world::{Changes, Claims, Cluster, Interests, StaticCluster, World, Worlds};
