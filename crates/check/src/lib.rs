//! `weft check`: asks the parts of a mesh how they are, sends a probe down the path of a call, and says what is wrong and what to do.
//!
//! Lives here: the ids and their one table, the checks in groups, the text a person reads. Does not: printing and flags' place (`weft-cli`),
//! repairing anything.
//! Why a room: it asks every role from outside, over the network, as an operator would, and so may stand on none of them; and no role needs it.
//! Invariants: nothing of the mesh changes by being checked; every question has a deadline and the whole run ends within ten seconds; a check
//! whose ground another one has found broken is skipped, so that one fault shows as one id.
#![forbid(unsafe_code)]

pub mod ids;
pub mod page;
mod report;
mod target;
mod text;

// what is asked, in the order of the report
mod clocks;
mod gateway;
mod identity;
mod machine;
mod path;
mod policies;
mod registry;
mod services;

// how
mod ask;
mod crowd;
mod run;

pub use policies::doubts;
pub use report::{Outcome, Report, Status};
pub use run::run;
pub use target::{Args, NoTarget};
pub use text::{Look, render};
