//! How a process ended, in a form that can be shown to a person.
//!
//! Lives here: outcome, run time, last lines. Does not: what follows from it (`policy`, `spec::Restart`).

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use crate::logs::Line;

/// How a process ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// It exited by itself with this code; 126 and 127 come from the trampoline when the program cannot be run or is not there.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// It could not be started, or its status could not be read.
    Failed(Arc<io::Error>),
}

impl Outcome {
    /// Returns true for exit code 0 only.
    pub fn is_success(&self) -> bool {
        matches!(self, Outcome::Code(0))
    }
}

impl From<io::Result<ExitStatus>> for Outcome {
    fn from(status: io::Result<ExitStatus>) -> Self {
        match status {
            // A status that is neither a code nor a signal does not come out of a wait for the end.
            Ok(status) => status.code().map_or_else(|| Outcome::Signal(status.signal().unwrap_or(0)), Outcome::Code),
            Err(error) => Outcome::Failed(Arc::new(error)),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Code(code) => write!(f, "exit code {code}"),
            Outcome::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "signal {number} ({name})"),
                None => write!(f, "signal {number}"),
            },
            Outcome::Failed(error) => write!(f, "{error}"),
        }
    }
}

/// The signals that end programs in practice; others show as a number.
fn signal_name(number: i32) -> Option<&'static str> {
    use rustix::process::Signal;
    let names = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::ALARM, "SIGALRM"),
        (Signal::TERM, "SIGTERM"),
    ];
    names.iter().find(|(signal, _)| signal.as_raw() == number).map(|(_, name)| *name)
}

/// The end of one run of a child.
#[derive(Debug, Clone)]
pub struct Exit {
    /// How it ended.
    pub outcome: Outcome,
    /// From the start of the process to its end; zero if it could not be started.
    pub ran_for: Duration,
    /// The last lines it wrote in this run, oldest first, at most 20.
    pub last_lines: Vec<Line>,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} after {:.1} s", self.outcome, self.ran_for.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_reads_as_a_sentence() {
        let exit =
            |outcome| Exit { outcome, ran_for: Duration::from_millis(1_540), last_lines: Vec::new() }.to_string();
        assert_eq!(exit(Outcome::Code(3)), "exit code 3 after 1.5 s");
        assert_eq!(exit(Outcome::Signal(9)), "signal 9 (SIGKILL) after 1.5 s");
        assert_eq!(exit(Outcome::Signal(34)), "signal 34 after 1.5 s");
    }
}
