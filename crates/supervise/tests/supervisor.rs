//! Many children under one supervisor: independence, stages, and nothing left behind.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

#[path = "support/common.rs"]
mod common;

use std::time::Duration;

use common::{alive, sh, soon, until};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use weft_supervise::{Closed, Control, Event, Events, Handle, Noticed, Policy, Spec, State, Supervisor};

/// A running supervisor; dropped, it takes its children along.
struct Running {
    control: Control,
    shutdown: CancellationToken,
    task: JoinSet<()>,
}

fn supervisor() -> Running {
    let supervisor = Supervisor::new().unwrap();
    let (control, shutdown, mut task) = (supervisor.control(), CancellationToken::new(), JoinSet::new());
    task.spawn(supervisor.run(shutdown.clone()));
    Running { control, shutdown, task }
}

impl Running {
    async fn start(&self, spec: Spec) -> Handle {
        self.control.start(spec).await.unwrap()
    }

    async fn stop(mut self) {
        self.shutdown.cancel();
        soon("the shutdown", self.task.join_next()).await.unwrap().unwrap();
    }
}

fn named(name: &str, script: &str) -> Spec {
    Spec::new(name, "/bin/sh").args(["-c", script]).env("PATH", "/usr/bin:/bin").grace(Duration::from_secs(5))
}

async fn is_running(handle: &Handle) -> u32 {
    soon("a start", handle.wait_for(|state| matches!(state, State::Running { .. }))).await.unwrap();
    handle.pid().unwrap()
}

/// Names in the order of their events that satisfy `wanted`.
async fn in_order(events: &mut Events, count: usize, wanted: impl Fn(&Event) -> bool) -> Vec<String> {
    let mut names = Vec::new();
    while names.len() < count {
        match soon("an event", events.next()).await {
            Some(Noticed::Event(it)) if wanted(&it.event) => names.push(it.child.to_string()),
            Some(_) => {}
            None => break,
        }
    }
    names
}

#[tokio::test]
async fn the_failure_of_one_concerns_no_other() {
    let running = supervisor();
    let mut events = running.control.events();
    let steady = running.start(named("steady", "exec sleep 60")).await;
    let pid = is_running(&steady).await;
    let policy = Policy { max_restarts: 2, base: Duration::from_millis(5), ..Policy::default() };
    let failing = running.start(named("failing", "exit 1").policy(policy)).await;
    soon("giving up", failing.wait_for(|state| matches!(state, State::GaveUp { .. }))).await.unwrap();
    assert_eq!(in_order(&mut events, 1, |event| matches!(event, Event::GaveUp { .. })).await, ["failing"]);
    assert_eq!((steady.pid(), steady.status().restarts), (Some(pid), 0));
    running.stop().await;
    assert!(!alive(pid));
}

#[tokio::test]
async fn higher_stages_are_down_before_lower_ones_are_asked() {
    let running = supervisor();
    let mut events = running.control.events();
    // Each takes its time to leave, the highest the longest, so that only the stages can bring about this order.
    for (stage, name, leave) in [(1, "middle", "0.1"), (0, "lowest", "0"), (2, "highest", "0.3")] {
        let script = format!("trap 'sleep {leave}; exit 0' TERM; echo ready; while :; do sleep 0.01; done");
        let handle = running.start(named(name, &script).stage(stage)).await;
        until("its trap", || !handle.logs().last(1).is_empty()).await;
    }
    running.stop().await;
    let stopped = in_order(&mut events, 3, |event| matches!(event, Event::Stopped)).await;
    assert_eq!(stopped, ["highest", "middle", "lowest"]);
}

#[tokio::test]
async fn one_child_can_be_stopped_and_another_started_while_it_runs() {
    let running = supervisor();
    let old = running.start(named("old", "exec sleep 60")).await;
    let old_pid = is_running(&old).await;
    let new = running.start(named("new", "exec sleep 60")).await;
    let new_pid = is_running(&new).await;
    soon("the stop", old.stop()).await;
    assert!(!alive(old_pid) && alive(new_pid));
    running.stop().await;
    assert!(!alive(new_pid));
}

#[tokio::test]
async fn after_the_shutdown_no_child_is_taken_in() {
    let running = supervisor();
    let control = running.control.clone();
    running.stop().await;
    assert_eq!(control.start(sh("exit 0")).await.unwrap_err(), Closed);
}

#[tokio::test]
async fn a_dropped_run_kills_every_group() {
    let mut running = supervisor();
    let stubborn = running.start(named("stubborn", "trap '' TERM; sleep 60 & echo $!; wait; sleep 60")).await;
    let leader = is_running(&stubborn).await;
    let grandchild = common::printed_number(stubborn.logs()).await;
    running.task.abort_all();
    running.task.join_next().await;
    until("the group's end", || !alive(leader) && !alive(grandchild)).await;
}
