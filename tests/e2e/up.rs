//! `weft up` as a person uses it: ps, logs, restart, scale, stop, Ctrl-C, and a `kill -9` that leaves nothing behind. Inventory: supervisor,
//! dynamic-supervisor, pm2, scaling, start-services.
//!
//! Lives here: the command and its promises under load. Does not: what a page of its output looks like (weft-up).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_testkit::{
    load::{self, Report},
    outside,
    process::{self, Process},
    wait,
};

use crate::{
    ALONE,
    reliability::{RATE, four_reads_to_one_write, span_and},
};

const START: Duration = Duration::from_secs(60);

/// A mesh of registry, gateway and two instances of users, started by `weft up` in a directory of its own.
pub(crate) struct Up {
    dir: TempDir,
    weft: PathBuf,
    process: Process,
}

impl Up {
    pub(crate) async fn start(test: &str) -> Option<Self> {
        let users = outside::need(outside::binary("users"), test, "the binary `users`")?;
        let users = format!("[services.users]\ncommand = [{:?}]\nscale = 2\ndata = \"shared\"\n", users.display());
        let up = Self::start_in(test, TempDir::new().unwrap(), &users).await?;
        assert_eq!(up.serving().await, 2);
        Some(up)
    }

    /// Starts a mesh of these services in a directory, and waits until all serve.
    pub(crate) async fn start_in(test: &str, dir: TempDir, services: &str) -> Option<Self> {
        let weft = outside::need(outside::binary("weft"), test, "the binary `weft`")?;
        let roles =
            "[registry]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n\n[gateway]\nlisten = \"127.0.0.1:0\"\n\n";
        fs::write(dir.path().join("weft.toml"), format!("{roles}{services}")).unwrap();
        let mut command = Command::new(&weft);
        command.arg("up").current_dir(dir.path());
        let up = Self { process: Process::spawn("weft up", command).unwrap(), dir, weft };
        wait::until("weft up to say that it is ready", START, || async {
            up.process.said("ready after").then_some(())
        })
        .await;
        Some(up)
    }

    /// Runs a command beside the mesh, and returns what it printed. Fails the test if the command fails.
    pub(crate) async fn run(&self, args: &[&str]) -> String {
        let (ok, said) = self.try_run(args).await;
        assert!(ok, "weft {args:?} failed: {said}");
        said
    }

    async fn try_run(&self, args: &[&str]) -> (bool, String) {
        let mut command = tokio::process::Command::new(&self.weft);
        let command = command.args(args).current_dir(self.dir.path()).kill_on_drop(true);
        let output = command.output().await.expect("weft starts");
        let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), format!("{stdout}{}", if output.status.success() { "" } else { &stderr }))
    }

    async fn ps(&self) -> Value {
        let (ok, said) = self.try_run(&["ps", "-o", "json"]).await;
        if ok { serde_json::from_str(&said).expect("ps -o json prints JSON") } else { Value::Null }
    }

    /// Every process as `ps` shows it.
    pub(crate) async fn processes(&self) -> Vec<Value> {
        self.ps().await["processes"].as_array().cloned().unwrap_or_default()
    }

    async fn serving(&self) -> usize {
        let serves = |p: &&Value| p["service"] == "users" && p["state"] == "serving";
        self.processes().await.iter().filter(serves).count()
    }

    pub(crate) async fn gateway(&self) -> std::net::SocketAddr {
        let gateway = self.processes().await.into_iter().find(|p| p["name"] == "gateway").expect("there is a gateway");
        gateway["addresses"]["http"].as_str().and_then(|a| a.parse().ok()).expect("the gateway listens")
    }

    /// Every process of the mesh: what `ps` shows, and their descendants.
    async fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = vec![self.process.pid()];
        let mut next = 0;
        while let Some(pid) = pids.get(next) {
            pids.extend(process::children(*pid));
            next += 1;
        }
        pids
    }
}

async fn all_gone(pids: &[u32]) {
    for pid in pids {
        process::gone(*pid, Duration::from_secs(15)).await;
    }
}

#[tokio::test]
async fn restart_and_scale_fail_no_call() {
    let _alone = ALONE.write().await;
    let Some(up) = Up::start("restart_and_scale_fail_no_call").await else { return };
    let gateway = up.gateway().await;
    let before: Vec<_> = up.processes().await.iter().map(|p| p["pid"].clone()).collect();

    let call = four_reads_to_one_write(gateway).await;
    let mut load: JoinSet<Report> = JoinSet::new();
    let enough = CancellationToken::new();
    load.spawn(load::run_until(gateway, RATE, span_and(enough.clone()), call));
    tokio::time::sleep(Duration::from_secs(1)).await;

    up.run(&["restart", "users"]).await;
    let after = up.processes().await;
    let users: Vec<_> = after.iter().filter(|p| p["service"] == "users").collect();
    assert_eq!(users.len(), 2, "{users:?}");
    assert!(users.iter().all(|p| !before.contains(&p["pid"])), "both are new: {users:?}");

    up.run(&["scale", "users=4"]).await;
    assert_eq!(up.serving().await, 4);
    up.run(&["scale", "users=2"]).await;
    assert_eq!(up.serving().await, 2);
    enough.cancel();
    let report = load.join_next().await.unwrap().unwrap();
    println!("restart, scale 4, scale 2: {report}");
    report.lost_none();
}

#[tokio::test]
async fn ctrl_c_ends_every_process() {
    let _shared = ALONE.read().await;
    let Some(mut up) = Up::start("ctrl_c_ends_every_process").await else { return };
    let pids = up.pids().await;
    assert!(pids.len() >= 7, "up, registry, gateway, two sidecars, two apps: {pids:?}");
    up.process.signal(Signal::INT);
    let status = up.process.end(Duration::from_secs(60)).await;
    assert!(status.success(), "{status:?}");
    all_gone(&pids).await;
}

#[tokio::test]
async fn kill_9_of_weft_up_leaves_no_process() {
    let _shared = ALONE.read().await;
    let Some(mut up) = Up::start("kill_9_of_weft_up_leaves_no_process").await else { return };
    let pids = up.pids().await;
    assert!(pids.len() >= 7, "{pids:?}");
    up.process.kill();
    all_gone(&pids).await;
}

#[tokio::test]
async fn stop_ends_the_mesh_and_ps_then_says_that_there_is_none() {
    let _shared = ALONE.read().await;
    let Some(mut up) = Up::start("stop_ends_the_mesh_and_ps_then_says_that_there_is_none").await else { return };
    let pids = up.pids().await;
    assert!(up.run(&["logs", "users", "--tail", "5"]).await.contains("users-"), "log lines name their process");
    up.run(&["stop"]).await;
    up.process.end(Duration::from_secs(60)).await;
    all_gone(&pids).await;
    let (ok, said) = up.try_run(&["ps"]).await;
    assert!(!ok && said.contains("weft up"), "{said}");
}

#[tokio::test]
async fn a_service_that_cannot_start_shows_its_last_words() {
    let _shared = ALONE.read().await;
    let test = "a_service_that_cannot_start_shows_its_last_words";
    let Some(weft) = outside::need(outside::binary("weft"), test, "the binary `weft`") else { return };
    let dir = TempDir::new().unwrap();
    let mesh = "[registry]\nlisten = \"127.0.0.1:0\"\nhttp = \"127.0.0.1:0\"\n[gateway]\nlisten = \"127.0.0.1:0\"\n\
                [services.broken]\ncommand = [\"sh\", \"-c\", \"echo no database here >&2; exit 3\"]\n";
    fs::write(dir.path().join("weft.toml"), mesh).unwrap();
    let said = run_to_failure(&weft, dir.path()).await;
    assert!(said.contains("no database here") && said.contains("broken"), "{said}");
}

async fn run_to_failure(weft: &Path, dir: &Path) -> String {
    let mut command = Command::new(weft);
    command.arg("up").current_dir(dir);
    let mut process = Process::spawn("weft up", command).unwrap();
    let status = process.end(Duration::from_secs(90)).await;
    assert_eq!(status.code(), Some(1), "{}", process.log());
    process.log()
}
