//! What measurements share: the processor time of a process, and figures that several rounds give.
//!
//! Lives here: reading and summing up. Does not: any measurement (`benches/`, one file each); `cargo xtask bench` starts them.
#![forbid(unsafe_code)]

pub mod cpu;
pub mod figures;
