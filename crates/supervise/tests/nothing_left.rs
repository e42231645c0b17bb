//! After a supervisor: no child, no zombie, no thread. Alone in its file, since it counts what the whole process has.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

#[path = "support/common.rs"]
mod common;

use std::time::Duration;

use common::{sh, soon, until};
use rustix::io::Errno;
use rustix::process::{WaitOptions, wait};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_supervise::{Policy, State, Supervisor};

fn threads_of_ours() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).ok());
    names.filter(|name| name.starts_with("wait ") || name.starts_with("spawner")).collect()
}

#[tokio::test]
async fn a_supervisor_leaves_no_child_no_zombie_and_no_thread() {
    let supervisor = Supervisor::new().unwrap();
    let (control, shutdown, mut task) = (supervisor.control(), CancellationToken::new(), JoinSet::new());
    task.spawn(supervisor.run(shutdown.clone()));
    let policy =
        Policy { max_restarts: 20, base: Duration::from_millis(1), cap: Duration::from_millis(1), ..Policy::default() };
    let failing = control.start(sh("sleep 60 & exit 1").policy(policy)).await.unwrap();
    let stubborn =
        control.start(sh("trap '' TERM; while :; do sleep 1; done").grace(Duration::from_millis(50))).await.unwrap();
    control.start(sh("exec sleep 60")).await.unwrap();
    soon("giving up", failing.wait_for(|state| matches!(state, State::GaveUp { .. }))).await.unwrap();
    soon("a start", stubborn.wait_for(|state| matches!(state, State::Running { .. }))).await.unwrap();
    assert!(!threads_of_ours().is_empty());

    shutdown.cancel();
    soon("the shutdown", task.join_next()).await.unwrap().unwrap();
    drop(control);
    assert!(matches!(wait(WaitOptions::NOHANG), Err(Errno::CHILD)), "a child or a zombie is left");
    until("the threads' end", || threads_of_ours().is_empty()).await;
}
