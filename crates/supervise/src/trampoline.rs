//! The last step before a child's program: asks the kernel to end this process with its parent, then becomes the program.
//!
//! Lives here: that step, run inside the new process. Does not: starting it (`spawner`). A binary exposes it as a hidden subcommand
//! whose arguments it passes on untouched, and names that subcommand in [`Spec::trampoline`](crate::Spec::trampoline).
//! The reason for a process of its own: the request must be made after the fork and before the program, and doing it in between
//! needs unsafe code. Limits: the kernel forgets the request when a set-uid program is executed, and it does not reach
//! grandchildren; each level that matters starts its own children through a trampoline.
//! Source: prctl(2), PR_SET_PDEATHSIG.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Pid, getppid};

/// Why the program did not take this process over.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody called the subcommand by hand: the arguments are not a parent's process id and a program.
    #[error("not meant to be called by hand: expected the parent's process id and a program")]
    Usage,
    /// The parent ended before this process could ask to be told; it must not outlive it.
    #[error("the parent process {parent} is gone")]
    Orphaned {
        /// The process that started this one.
        parent: i32,
    },
    /// The kernel refused the request.
    #[error("cannot ask to end with the parent process")]
    Follow(#[source] io::Error),
    /// The program cannot be executed.
    #[error("cannot run {program:?}")]
    Exec {
        /// As it was given.
        program: OsString,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Error {
    /// Returns the exit code a shell would use: 127 for a program that is not there, 126 for one that cannot be run, 2 for misuse.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage => 2,
            Error::Orphaned { .. } | Error::Follow(_) => 126,
            Error::Exec { source, .. } if source.kind() == io::ErrorKind::NotFound => 127,
            Error::Exec { .. } => 126,
        }
    }
}

/// Becomes the program named by `args`, what follows the prefix of [`Spec::trampoline`](crate::Spec::trampoline) on the command
/// line; returns only if that fails. To be called before any thread is started.
pub fn exec(args: impl IntoIterator<Item = OsString>) -> Error {
    let Err(error) = try_exec(args.into_iter());
    error
}

fn try_exec(mut args: impl Iterator<Item = OsString>) -> Result<Infallible, Error> {
    let parent: i32 = args.next().and_then(|arg| arg.to_str()?.parse().ok()).ok_or(Error::Usage)?;
    let program = args.next().ok_or(Error::Usage)?;
    end_with_parent().map_err(Error::Follow)?;
    // Asked first and checked then: a parent that ends in between is seen by one of the two.
    if getppid() != Pid::from_raw(parent) {
        return Err(Error::Orphaned { parent });
    }
    let source = Command::new(&program).args(args).exec();
    Err(Error::Exec { program, source })
}

#[cfg(target_os = "linux")]
fn end_with_parent() -> io::Result<()> {
    // SIGKILL, since whoever is left has nobody to stop it later.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// Other kernels have no such request; a child whose parent was killed stays until the owner's next start clears it away.
#[cfg(not(target_os = "linux"))]
fn end_with_parent() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(args: &[&str]) -> Error {
        exec(args.iter().map(OsString::from))
    }

    #[test]
    fn a_call_by_hand_is_refused() {
        assert!(matches!(refused(&[]), Error::Usage));
        assert!(matches!(refused(&["sleep", "1"]), Error::Usage));
        assert!(matches!(refused(&["1"]), Error::Usage));
    }
}
