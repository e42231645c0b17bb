//! A mesh of a test as a person starts one: `weft up` beside a weft.toml, in a directory of its own, on free ports.
//!
//! Lives here: the file, starting, running commands beside it, what runs. Does not: roles started by hand (`mesh`), what a command is to say.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{outside, process::Process, wait};

/// How long `weft up` may take to be ready, on a busy machine.
const START: Duration = Duration::from_secs(60);
/// Roles on any free port.
const ROLES: &str =
    "[registry]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[gateway]\nlisten = \"127.0.0.1:0\"\n";

/// A mesh that `weft up` runs; it ends with this value.
#[derive(Debug)]
pub struct Up {
    dir: TempDir,
    weft: PathBuf,
    /// `weft up` itself.
    pub process: Process,
}

impl Up {
    /// Starts a mesh and waits until it is ready. `services` writes the tables of its services, given the programs that were named and the directory.
    /// None if a program is missing; the test named then skips loudly.
    pub async fn start<const N: usize>(
        test: &str,
        programs: [&str; N],
        env: &[(&str, &str)],
        services: impl FnOnce([PathBuf; N], &Path) -> String,
    ) -> Option<Self> {
        let names: Vec<_> = programs.into_iter().chain(["weft"]).collect();
        let mut found = outside::need_binaries(&names, test)?;
        let weft = found.pop()?;
        let dir = TempDir::new().expect("a temporary directory can be made");
        let toml = format!("{ROLES}{}", services(found.try_into().ok()?, dir.path()));
        std::fs::write(dir.path().join("weft.toml"), toml).expect("the directory is ours");
        let mut command = Command::new(&weft);
        command.arg("up").current_dir(dir.path()).envs(env.iter().copied());
        let up = Self { process: Process::spawn("weft up", command).expect("weft starts"), dir, weft };
        wait::until("weft up to be ready", START, || async { up.process.said("ready after").then_some(()) }).await;
        Some(up)
    }

    /// The directory that its file lies in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A command of weft beside the mesh, to be started.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.weft);
        command.args(args).current_dir(self.dir.path());
        command
    }

    /// Runs a command of weft beside the mesh to its end.
    pub async fn try_run(&self, args: &[&str]) -> Output {
        let mut command = tokio::process::Command::from(self.command(args));
        command.kill_on_drop(true).output().await.expect("weft starts")
    }

    /// The same of one that must succeed; returns what it printed.
    pub async fn run(&self, args: &[&str]) -> String {
        let Output { status, stdout, stderr } = self.try_run(args).await;
        assert!(status.success(), "weft {args:?}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("weft prints text")
    }

    /// What `weft ps` says of a process. Panics if there is none.
    pub async fn row(&self, name: &str) -> Value {
        let everything: Value = serde_json::from_str(&self.run(&["ps", "-o", "json"]).await).expect("it is JSON");
        let rows = everything["processes"].as_array().expect("there are processes");
        rows.iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name} in {rows:?}")).clone()
    }

    /// Where a process listens.
    pub async fn address(&self, name: &str, proto: &str) -> SocketAddr {
        let row = self.row(name).await;
        let address = row["addresses"][proto].as_str().and_then(|it| it.parse().ok());
        address.unwrap_or_else(|| panic!("{name} says no {proto} address: {row}"))
    }
}
