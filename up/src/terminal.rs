//! The terminal we write to, while it is ours.
//!
//! Lives here: keeping it from showing `^C`, and putting it back as it was. Does not: drawing (`screen`).
//! Why: the cursor rests at the right edge below what is drawn, so that `^C` begins a line that the next redraw does not count, and a
//! line of the table is left behind.

use std::io;

use rustix::{
    process::getpgrp,
    termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr},
};

/// Shows no control characters until dropped.
#[derive(Debug)]
pub(crate) struct Quiet(Termios);

impl Quiet {
    /// `None` where the terminal is not ours to change: there is none, or we run in the background, where changing it would stop us.
    pub(crate) fn new() -> Option<Self> {
        let terminal = io::stderr();
        (tcgetpgrp(&terminal).ok()? == getpgrp()).then_some(())?;
        let before = tcgetattr(&terminal).ok()?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHOCTL);
        tcsetattr(&terminal, OptionalActions::Now, &quiet).ok()?;
        Some(Self(before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stderr(), OptionalActions::Now, &self.0); // it may have gone
    }
}
