//! The frame of a process: environment, telemetry, signals, shutdown, listeners, admin server, data threads, clock, durations as
//! people write them, bounds on what strangers cost.
//!
//! Lives here: what every process of ours needs before it knows what it is. Does not: anything of a role.
//! Invariants: the environment is read once, in [`run`]; the wall clock is read in [`clock`] only; every task started here has an owner.
#![forbid(unsafe_code)]

pub mod admin;
pub mod call;
pub mod clock;
mod duration;
pub mod env;
pub mod linger;
pub mod listen;
pub mod metrics;
mod mistake;
mod process;
pub mod shutdown;
pub mod spans;
pub mod strangers;
pub mod telemetry;
pub mod threads;

pub use duration::HumanDuration;
pub use env::Env;
pub use metrics::Metrics;
pub use mistake::Mistake;
pub use process::{Context, Process, Usage, run};
pub use shutdown::Shutdown;
pub use spans::{Sampling, Spans};
pub use telemetry::LogFormat;
