//! A child kept running: restarts, giving up, orders, and the owner's place between an exit and the restart.
#![forbid(unsafe_code)]

#[path = "support/common.rs"]
mod common;

use std::time::Duration;

use common::{alive, next, next_exit, next_start, sh, soon, spawner, texts, until};
use weft_supervise::{Child, Event, Followed, Outcome, Policy, Restart, Spec, State};

/// The default policy at a speed for tests.
fn fast() -> Policy {
    let ms = Duration::from_millis;
    Policy { max_restarts: 3, base: ms(10), cap: ms(20), ..Policy::default() }
}

fn child(spec: Spec) -> Child {
    Child::new(spec, spawner())
}

async fn next_restart(child: &mut Child) -> Duration {
    match next(child).await {
        Event::Restarting { after } => after,
        other => panic!("expected a restart, got {other:?}"),
    }
}

async fn is_stopped(child: &mut Child) {
    assert!(matches!(next(child).await, Event::Stopped));
    assert!(child.next().await.is_none());
    assert!(matches!(child.handle().status().state, State::Stopped));
}

#[tokio::test]
async fn the_first_restart_is_immediate_and_the_exit_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child(sh("[ -e ran ] && exec sleep 60; touch ran; echo 'no config' >&2; exit 3").cwd(dir.path()));
    let first = next_start(&mut child).await;
    let exit = next_exit(&mut child).await;
    assert!(matches!(exit.outcome, Outcome::Code(3)), "{exit}");
    assert_eq!(texts(&exit.last_lines), ["no config"]);
    assert_eq!(next_restart(&mut child).await, Duration::ZERO);
    let second = next_start(&mut child).await;
    assert_ne!(first, second);
    assert_eq!((child.handle().pid(), child.handle().status().restarts), (Some(second), 1));
    soon("the stop", child.stop()).await;
}

#[tokio::test]
async fn a_killed_child_is_restarted() {
    let mut child = child(sh("exec sleep 60"));
    let pid = next_start(&mut child).await;
    std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(matches!(next_exit(&mut child).await.outcome, Outcome::Signal(9)));
    next_restart(&mut child).await;
    next_start(&mut child).await;
    soon("the stop", child.stop()).await;
}

#[tokio::test]
async fn a_crash_loop_backs_off_is_given_up_and_waits_for_an_order() {
    let mut child = child(sh("echo broken; exit 1").policy(fast()));
    let mut delays = Vec::new();
    let (restarts, exit) = loop {
        next_start(&mut child).await;
        next_exit(&mut child).await;
        match next(&mut child).await {
            Event::Restarting { after } => delays.push(after),
            Event::GaveUp { restarts, exit, .. } => break (restarts, exit),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((delays.len(), delays[0], restarts), (3, Duration::ZERO, 3));
    assert!(delays[1] >= Duration::from_millis(8), "{delays:?}");
    assert_eq!(texts(&exit.last_lines), ["broken"], "of the last run only");
    let handle = child.handle();
    assert!(matches!(handle.status().state, State::GaveUp { .. }));
    assert_eq!(handle.logs().last(99).len(), 4, "the log goes through all runs");

    handle.restart_now().await;
    assert_eq!(next_restart(&mut child).await, Duration::ZERO);
    next_start(&mut child).await;
    next_exit(&mut child).await;
    assert_eq!(next_restart(&mut child).await, Duration::ZERO, "the history starts anew");
}

#[tokio::test]
async fn a_program_that_cannot_be_started_is_tried_again_and_given_up() {
    let mut child = child(Spec::new("x", "/no/such/program").policy(fast()));
    let mut tries = 0;
    loop {
        match next(&mut child).await {
            Event::Exited { exit } => {
                assert!(matches!(&exit.outcome, Outcome::Failed(_)), "{exit}");
                tries += 1;
            }
            Event::Restarting { .. } => {}
            Event::GaveUp { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tries, 4);
}

#[tokio::test]
async fn nothing_restarts_until_the_owner_pulls_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child(sh("echo x >> runs; exit 1").cwd(dir.path()));
    let runs = || std::fs::read_to_string(dir.path().join("runs")).unwrap_or_default().lines().count();
    next_start(&mut child).await;
    next_exit(&mut child).await;
    tokio::time::sleep(Duration::from_millis(100)).await; // the owner deregisters; the restart was due at once
    assert_eq!(runs(), 1);
    next_restart(&mut child).await;
    next_start(&mut child).await;
    until("the second run", || runs() == 2).await;
}

#[tokio::test]
async fn code_0_ends_a_transient_child_and_restarts_a_permanent_one() {
    let mut done = child(sh("exit 0"));
    next_start(&mut done).await;
    next_exit(&mut done).await;
    is_stopped(&mut done).await;

    let mut server = child(sh("exit 0").restart(Restart::Permanent));
    next_start(&mut server).await;
    next_exit(&mut server).await;
    next_restart(&mut server).await;

    let mut once = child(sh("exit 1").restart(Restart::Temporary));
    next_start(&mut once).await;
    next_exit(&mut once).await;
    is_stopped(&mut once).await;
}

#[tokio::test]
async fn a_stop_ordered_by_a_handle_is_carried_out_by_the_owners_pull() {
    let mut child = child(sh("exec sleep 60"));
    let pid = next_start(&mut child).await;
    let handle = child.handle();
    let ((), exit) = tokio::join!(soon("the stop", handle.stop()), async {
        let exit = next_exit(&mut child).await;
        is_stopped(&mut child).await;
        exit
    });
    assert!(matches!(exit.outcome, Outcome::Signal(15)), "{exit}");
    assert!(!alive(pid));
    soon("a second stop", handle.stop()).await;
}

#[tokio::test]
async fn a_stop_ends_a_wait_for_a_restart() {
    let slow = Policy { base: Duration::from_secs(600), cap: Duration::from_secs(600), ..Policy::default() };
    let mut child = child(sh("exit 1").policy(slow));
    let handle = child.handle();
    while !matches!(handle.status().state, State::Waiting { .. }) {
        next(&mut child).await;
    }
    assert!(soon("the stop", child.stop()).await.is_none(), "no process was running");
    assert!(matches!(handle.status().state, State::Stopped));
}

#[tokio::test]
async fn a_child_that_was_never_pulled_is_stopped_without_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = child(sh("touch ran").cwd(dir.path()));
    assert!(child.stop().await.is_none());
    assert!(!dir.path().join("ran").exists());
}

#[tokio::test]
async fn an_ordered_restart_replaces_the_process_and_costs_nothing() {
    let mut child = child(sh("exec sleep 60").policy(Policy { max_restarts: 1, ..fast() }));
    let mut pid = next_start(&mut child).await;
    for _ in 0..3 {
        child.handle().restart_now().await;
        assert!(matches!(next_exit(&mut child).await.outcome, Outcome::Signal(15)));
        assert_eq!(next_restart(&mut child).await, Duration::ZERO);
        let replaced = std::mem::replace(&mut pid, next_start(&mut child).await);
        assert!(replaced != pid && !alive(replaced));
    }
    soon("the stop", child.stop()).await;
}

#[tokio::test]
async fn a_cancelled_pull_loses_nothing() {
    let mut child = child(sh("echo ready; exec sleep 60"));
    let mut events = Vec::new();
    while events.is_empty() {
        if let Ok(event) = tokio::time::timeout(Duration::from_micros(50), child.next()).await {
            events.push(event.unwrap());
        }
    }
    let Event::Started { pid } = events[0] else { panic!("{events:?}") };
    assert!(alive(pid));
    assert_eq!(child.handle().status().restarts, 0, "it was started once");
    soon("the stop", child.stop()).await;
}

#[tokio::test]
async fn a_dropped_child_ends_its_process_its_log_and_its_handles_waits() {
    let mut child = child(sh("echo ready; exec sleep 60"));
    let pid = next_start(&mut child).await;
    let handle = child.handle();
    let mut follow = handle.logs().follow(0);
    assert!(matches!(soon("a line", follow.next()).await, Some(Followed::Line(_))));
    drop(child);
    assert!(soon("the log's end", follow.next()).await.is_none());
    soon("a stop of the dropped", handle.stop()).await;
    assert!(matches!(handle.status().state, State::Stopped));
    assert!(handle.wait_for(|state| matches!(state, State::Running { .. })).await.is_none());
    until("the process's end", || !alive(pid)).await;
}
