//! The sidecar: a process beside one app that registers it, supervises it and carries its calls.
//!
//! Lives here: the role, from its flags to its exit. Does not: parsing messages (bodies pass through), choosing an endpoint
//! (`weft-traffic`), the registry's wire (`weft-discovery`), the life of a child process (`weft-supervise`).
//!
//! Read in this order: `sidecar` puts the parts together; `lifecycle` decides what the registry is told and when the parts leave;
//! `entrance` asks for the identity that everything behind it needs; `door` says who comes in; `inbound` and `outbound` carry calls; `app`, `health` and `reflection` look after the app; `inject` writes a
//! sidecar into manifests.
#![forbid(unsafe_code)]

mod args;
mod config;
mod sidecar;

mod lifecycle;

mod app;
mod descriptors;
mod health;
mod reflection;

mod door;
mod entrance;
mod inbound;
mod outbound;
mod relay;
mod server;
mod services;

mod chain;
mod metrics;

pub mod inject;

pub use args::Args;
pub use config::{Config, HealthCheck, Source};
pub use door::Plaintext;
pub use health::{NotHealthy, Timing, healthy_within};
pub use lifecycle::DrainLimits;
pub use sidecar::{Addresses, Sidecar};
