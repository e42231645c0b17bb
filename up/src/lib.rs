//! `weft up`: one machine's mesh from `weft.toml`.
//!
//! Lives here: the file, building, starting in order, supervising, showing, the control socket. Does not: carry a call, know a role's
//! inside (each is a process `weft <role> …`).
//! Invariants: what we start dies with us, however we end; one `weft up` runs beside one `weft.toml`.
#![forbid(unsafe_code)]

mod board;
mod cargo;
pub mod client;
pub mod config;
mod control;
mod director;
mod keys;
mod launch;
mod listed;
mod logfile;
mod order;
mod place;
mod plan;
mod probe;
mod procfs;
mod screen;
mod terminal;
pub mod text;
pub mod unverified;
mod up;
mod welcome;

pub use config::{Config, ConfigError};
pub use director::GatewaysFile;
pub use up::{Args, run};
