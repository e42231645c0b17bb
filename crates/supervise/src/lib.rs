//! Supervision of child processes in the manner of Erlang/OTP, on tokio.
//!
//! Lives here: starting a child so that it cannot outlive its parent, capturing its output, noticing its end, deciding whether and
//! when to start it again, stopping it and its process group. Does not: anything about the mesh. What a restart means to others
//! (deregistering, readiness) is the owner's, who stands between two steps of a [`Child`].
//!
//! There are three levels, each usable alone:
//! - [`Process`] is one run of a program: started, waited for, stopped.
//! - [`Child`] is a program kept running under a [`Policy`], one process after another. Its owner pulls [`Child::next`], and
//!   nothing is restarted between an [`Event::Exited`] and the next pull: that is where a sidecar deregisters.
//! - [`Supervisor`] keeps many children, each in a task of its own, and stops them in stages.
//!
//! One strategy exists: one_for_one. The numbers of the default policy are `Policy`'s; `Source:` OTP's supervisor principles.
#![forbid(unsafe_code)]

pub mod trampoline;

mod child;
mod exit;
mod logs;
mod policy;
mod process;
mod spawner;
mod spec;
mod supervisor;

pub use child::{Child, Event, Handle, State, Status};
pub use exit::{Exit, Outcome};
pub use logs::{Bounds, Follow, Followed, Line, Logs, Stream};
pub use policy::Policy;
pub use process::Process;
pub use spawner::Spawner;
pub use spec::{Restart, Spec};
pub use supervisor::{ChildEvent, Closed, Control, Events, Noticed, Supervisor};
