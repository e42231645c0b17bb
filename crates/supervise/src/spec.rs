//! What a child is: program, surroundings, and how it is kept and stopped.
//!
//! Lives here: the description and the command line it becomes. Does not: running it (`process`), deciding a restart (`policy`).
//! Invariant: a child's environment is exactly what the spec says; nothing is inherited silently, and this crate reads none itself.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::exit::Outcome;
use crate::logs::Bounds;
use crate::policy::Policy;

/// When an exit that nobody asked for leads to a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Always: the child is a server that has no reason to end.
    Permanent,
    /// Only if it failed: exit code 0 means that its work is done.
    #[default]
    Transient,
    /// Never: it runs once.
    Temporary,
}

impl Restart {
    pub(crate) fn applies(self, outcome: &Outcome) -> bool {
        match self {
            Restart::Permanent => true,
            Restart::Transient => !outcome.is_success(),
            Restart::Temporary => false,
        }
    }
}

/// A child process, as its owner describes it. Defaults: no arguments, an empty environment, the owner's working directory,
/// [`Restart::Transient`] under the default [`Policy`], 10 s of grace, stage 0, no trampoline.
#[derive(Debug, Clone)]
pub struct Spec {
    name: String,
    program: OsString,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    cwd: Option<PathBuf>,
    trampoline: Vec<OsString>,
    restart: Restart,
    policy: Policy,
    grace: Duration,
    stage: u32,
    log_bounds: Bounds,
}

impl Spec {
    /// Returns a spec for `program`, known to its owner as `name`. A program without a slash is looked up in the `PATH` of the
    /// environment given to the child.
    pub fn new(name: impl Into<String>, program: impl Into<OsString>) -> Self {
        Spec {
            name: name.into(),
            program: program.into(),
            args: Vec::new(),
            env: BTreeMap::new(),
            cwd: None,
            trampoline: Vec::new(),
            restart: Restart::default(),
            policy: Policy::default(),
            grace: Duration::from_secs(10),
            stage: 0,
            log_bounds: Bounds::default(),
        }
    }

    /// Appends arguments.
    pub fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets one variable of the child's environment.
    pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }

    /// Sets many variables; later calls win. An owner that wants its own environment passed on gives it here first.
    pub fn envs<K: Into<OsString>, V: Into<OsString>>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self {
        self.env.extend(vars.into_iter().map(|(key, value)| (key.into(), value.into())));
        self
    }

    /// Sets the working directory. With one set, give program and trampoline as absolute paths: which directory a relative one
    /// starts from is not the same on all systems.
    pub fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = Some(dir.into());
        self
    }

    /// Sets the command line that leads to [`trampoline::exec`](crate::trampoline::exec), for example `[/usr/bin/weft, trampoline,
    /// --]`. With it the child dies with this process however that ends; without it, a `SIGKILL` of this process leaves it behind.
    pub fn trampoline<A: Into<OsString>>(mut self, prefix: impl IntoIterator<Item = A>) -> Self {
        self.trampoline = prefix.into_iter().map(Into::into).collect();
        self
    }

    /// Sets when an exit leads to a restart.
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// Sets how often and how soon.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets how long the child has between `SIGTERM` and `SIGKILL`, both sent to its whole process group.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Sets the stage in which a [`Supervisor`](crate::Supervisor) stops it: higher stages first, those of one stage together.
    pub fn stage(mut self, stage: u32) -> Self {
        self.stage = stage;
        self
    }

    /// Sets how much of its output is kept.
    pub fn log_bounds(mut self, bounds: Bounds) -> Self {
        self.log_bounds = bounds;
        self
    }

    /// Returns the name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn program(&self) -> &OsStr {
        &self.program
    }

    pub(crate) fn restarts_after(&self, outcome: &Outcome) -> bool {
        self.restart.applies(outcome)
    }

    pub(crate) fn restart_policy(&self) -> &Policy {
        &self.policy
    }

    pub(crate) fn stop_grace(&self) -> Duration {
        self.grace
    }

    pub(crate) fn stop_stage(&self) -> u32 {
        self.stage
    }

    pub(crate) fn bounds(&self) -> Bounds {
        self.log_bounds
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = match self.trampoline.split_first() {
            None => Command::new(&self.program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                // The trampoline compares this with its parent, to learn whether we were gone before it had asked to follow us.
                command.args(rest).arg(std::process::id().to_string()).arg(&self.program);
                command
            }
        };
        command.args(&self.args).env_clear().envs(&self.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        if let Some(dir) = &self.cwd {
            command.current_dir(dir);
        }
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transient_child_is_done_at_code_0_and_failed_otherwise() {
        let cases = [(Outcome::Code(0), false), (Outcome::Code(1), true), (Outcome::Signal(15), true)];
        for (outcome, again) in cases {
            assert_eq!(Restart::Transient.applies(&outcome), again, "{outcome}");
            assert!(Restart::Permanent.applies(&outcome));
            assert!(!Restart::Temporary.applies(&outcome));
        }
    }

    #[test]
    fn the_trampoline_stands_before_our_pid_and_the_program() {
        let spec = Spec::new("app", "app").args(["--port", "1"]).trampoline(["/bin/weft", "trampoline", "--"]);
        let command = spec.command();
        let pid = std::process::id().to_string();
        assert_eq!(command.get_program(), "/bin/weft");
        assert_eq!(command.get_args().collect::<Vec<_>>(), ["trampoline", "--", &pid, "app", "--port", "1"]);
    }
}
