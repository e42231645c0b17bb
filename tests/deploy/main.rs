//! What ships: every word in `deploy/` and in the workflows is held against the code it speaks of, or run.
//!
//! Lives here: the list of topics. Does not: what the programs do once they run (`tests/e2e`).
//! A port, flag, variable, path or metric that the code no longer has fails here, not in somebody's cluster.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may unwrap; clippy sees only the functions marked as tests")]

mod code;
mod compose;
mod docker;
mod files;
mod kubernetes;
mod monitoring;
mod play;
mod workflows;
