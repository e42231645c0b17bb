//! What the tests share: specs for shell scripts and questions about processes.
//!
//! Lives here: helpers. Does not: any check. Included by each test file by path.
#![expect(dead_code, reason = "each test binary uses its part")]

use std::ffi::OsString;
use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use weft_supervise::{Child, Event, Exit, Line, Spawner, Spec};

/// Longer than anything here takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A child that runs a shell script with the usual tools in reach, and is killed soon when it does not stop.
pub(crate) fn sh(script: &str) -> Spec {
    let grace = Duration::from_secs(5);
    Spec::new("sh", "sh").args(["-c", script]).env("PATH", "/usr/local/bin:/usr/bin:/bin").grace(grace)
}

/// The command line of the fixture's trampoline.
pub(crate) fn trampoline() -> [OsString; 2] {
    [fixture(), "trampoline".into()]
}

/// The binary that the tests run as trampoline and as dying parent.
pub(crate) fn fixture() -> OsString {
    env!("CARGO_BIN_EXE_supervise-fixture").into()
}

pub(crate) fn spawner() -> Spawner {
    Spawner::new().expect("room for a thread")
}

pub(crate) async fn soon<T>(what: &str, it: impl Future<Output = T>) -> T {
    timeout(LONG, it).await.unwrap_or_else(|_| panic!("{what}: not within {LONG:?}"))
}

/// Waits for a state that nothing announces.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {LONG:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) async fn next(child: &mut Child) -> Event {
    soon("an event", child.next()).await.expect("the child is not down for good")
}

pub(crate) async fn next_start(child: &mut Child) -> u32 {
    match next(child).await {
        Event::Started { pid } => pid,
        other => panic!("expected a start, got {other:?}"),
    }
}

pub(crate) async fn next_exit(child: &mut Child) -> Exit {
    match next(child).await {
        Event::Exited { exit } => exit,
        other => panic!("expected an exit, got {other:?}"),
    }
}

/// True for a process that runs; false for none and for a zombie.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| !"ZX".contains(state))
}

pub(crate) fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| &*line.text).collect()
}

/// The number a script printed as its first line, usually a process id.
pub(crate) async fn printed_number(logs: &weft_supervise::Logs) -> u32 {
    until("a printed number", || !logs.last(1).is_empty()).await;
    logs.last(usize::MAX)[0].text.trim().parse().expect("the script prints a number first")
}
