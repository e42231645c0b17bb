//! One run of a program: its output, its end, and what may not be left of it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

#[path = "support/common.rs"]
mod common;

use std::io::{BufRead, BufReader};
use std::pin::pin;
use std::process::{Command, Stdio};
use std::task::{Context, Waker};
use std::time::Duration;

use common::{LONG, alive, fixture, printed_number, sh, soon, spawner, texts, trampoline, until};
use tokio::time::Instant;
use weft_supervise::{Bounds, Logs, Outcome, Process, Spec, Stream};

async fn start(spec: &Spec) -> (Process, Logs) {
    let logs = Logs::new(Bounds::default());
    (soon("a start", Process::start(&spawner(), spec, &logs)).await.unwrap(), logs)
}

#[tokio::test]
async fn an_exit_carries_code_and_the_lines_of_both_outputs() {
    let (mut process, logs) = start(&sh("echo data; echo talk >&2; exit 3")).await;
    let exit = soon("the end", process.wait()).await;
    assert!(matches!(exit.outcome, Outcome::Code(3)), "{exit}");
    let mut seen: Vec<_> = logs.last(9).into_iter().map(|line| (line.stream, line.text.to_string())).collect();
    seen.sort_by_key(|it| it.0 == Stream::Stderr);
    assert_eq!(seen, [(Stream::Stdout, "data".to_owned()), (Stream::Stderr, "talk".to_owned())]);
    assert_eq!(exit.last_lines.len(), 2);
    assert!(matches!(process.wait().await.outcome, Outcome::Code(3)), "asked again, it says the same");
}

/// Keeps everything in this runtime from its turn, for longer than last lines are waited for.
#[expect(clippy::disallowed_methods, reason = "that nothing else runs meanwhile is the point")]
fn stand_still() {
    std::thread::sleep(Duration::from_millis(600));
}

#[tokio::test]
async fn last_lines_are_read_although_nobody_had_a_turn_to_read_them_in_time() {
    let (mut process, _logs) = start(&sh("sleep 0.1; echo data; exit 3")).await;
    stand_still();
    // Hears of the end, and nobody has read yet.
    assert!(pin!(process.wait()).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    stand_still();
    assert_eq!(texts(&soon("the end", process.wait()).await.last_lines), ["data"]);
}

#[tokio::test]
async fn the_environment_is_exactly_what_was_given() {
    let spec = Spec::new("env", "/usr/bin/env").env("A", "1").envs([("B", "2"), ("A", "3")]);
    let (mut process, logs) = start(&spec).await;
    soon("the end", process.wait()).await;
    assert_eq!(texts(&logs.last(9)), ["A=3", "B=2"]);
}

#[tokio::test]
async fn the_working_directory_is_the_given_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut process, logs) = start(&sh("pwd -P").cwd(dir.path())).await;
    soon("the end", process.wait()).await;
    assert_eq!(texts(&logs.last(9)), [dir.path().canonicalize().unwrap().to_str().unwrap()]);
}

#[tokio::test]
async fn only_the_last_lines_are_kept_however_much_is_written() {
    let logs = Logs::new(Bounds { lines: 3, line_bytes: 100 });
    let spec = sh("seq 1 20000; head -c 100000 /dev/zero | tr '\\0' x");
    let mut process = Process::start(&spawner(), &spec, &logs).await.unwrap();
    let exit = soon("the end", process.wait()).await;
    let long = format!("{}… [99900 bytes cut]", "x".repeat(100));
    assert_eq!(texts(&exit.last_lines), ["19999", "20000", &long]);
    assert_eq!(logs.last(99).len(), 3);
}

#[tokio::test]
async fn a_process_that_listens_to_sigterm_is_not_killed() {
    let (mut process, logs) = start(&sh("trap 'echo bye; exit 0' TERM; echo 0; while :; do sleep 0.01; done")).await;
    printed_number(&logs).await;
    let exit = soon("the stop", process.stop(LONG)).await;
    assert!(matches!(exit.outcome, Outcome::Code(0)), "{exit}");
    assert!(texts(&exit.last_lines).contains(&"bye"), "{:?}", exit.last_lines);
}

#[tokio::test]
async fn a_group_that_ignores_sigterm_is_killed_after_its_grace() {
    let (mut process, logs) = start(&sh("trap '' TERM; sleep 60 & echo $!; while :; do sleep 1; done")).await;
    let grandchild = printed_number(&logs).await;
    let (asked, grace) = (Instant::now(), Duration::from_millis(200));
    let exit = soon("the stop", process.stop(grace)).await;
    assert!(asked.elapsed() >= grace, "it had its grace: {:?}", asked.elapsed());
    assert!(matches!(exit.outcome, Outcome::Signal(9)), "{exit}");
    until("the grandchild's end", || !alive(grandchild)).await;
}

#[tokio::test]
async fn grandchildren_end_with_a_leader_that_fails() {
    let (mut process, logs) = start(&sh("sleep 60 & echo $!; exit 1")).await;
    let exit = soon("the end", process.wait()).await;
    assert!(matches!(exit.outcome, Outcome::Code(1)), "{exit}");
    let grandchild = printed_number(&logs).await;
    until("the grandchild's end", || !alive(grandchild)).await;
}

#[tokio::test]
async fn a_grandchild_that_left_the_group_with_the_pipes_does_not_hide_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let script = "setsid sh -c 'echo $$; touch left; exec sleep 60' & while [ ! -e left ]; do sleep 0.01; done; exit 1";
    let (mut process, logs) = start(&sh(script).cwd(dir.path())).await;
    let stray = printed_number(&logs).await;
    let exit = soon("the end", process.wait()).await;
    assert!(matches!(exit.outcome, Outcome::Code(1)), "{exit}");
    assert!(alive(stray), "else the test shows nothing");
    Command::new("kill").args(["-9", &stray.to_string()]).status().unwrap();
}

#[tokio::test]
async fn a_dropped_process_takes_its_group_along() {
    let (process, logs) = start(&sh("sleep 60 & echo $!; wait")).await;
    let (leader, grandchild) = (process.pid(), printed_number(&logs).await);
    drop(process);
    until("the group's end", || !alive(leader) && !alive(grandchild)).await;
}

#[tokio::test]
async fn a_start_that_is_abandoned_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let marker = dir.path().join("pid");
    let spec = sh(&format!("echo $$ > {}; exec sleep 60", marker.display()));
    let (spawner, logs) = (spawner(), Logs::new(Bounds::default()));
    for _ in 0..20 {
        let start = Process::start(&spawner, &spec, &logs);
        let abandoned = tokio::time::timeout(Duration::ZERO, start).await;
        drop(abandoned);
    }
    let last = Process::start(&spawner, &spec, &logs).await.unwrap(); // the spawner has done all before it
    let others = || {
        let pid = std::fs::read_to_string(&marker).ok().and_then(|text| text.trim().parse().ok());
        pid.filter(|pid| *pid != last.pid()).is_some_and(alive)
    };
    until("the end of the abandoned", || !others()).await;
}

#[tokio::test]
async fn a_program_that_is_not_there_fails_the_start_and_is_named() {
    let logs = Logs::new(Bounds::default());
    let error = Process::start(&spawner(), &Spec::new("x", "/no/such/program"), &logs).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/no/such/program"), "{error}");
}

#[tokio::test]
async fn through_the_trampoline_a_program_runs_as_itself() {
    let (mut process, logs) = start(&sh("echo $$").trampoline(trampoline())).await;
    let pid = process.pid();
    let exit = soon("the end", process.wait()).await;
    assert!(exit.outcome.is_success(), "{exit}: {:?}", logs.last(9));
    assert_eq!(printed_number(&logs).await, pid);
}

#[tokio::test]
async fn the_trampoline_tells_a_missing_program_from_one_that_cannot_run() {
    for (program, code) in [("/no/such/program", 127), ("/etc/passwd", 126)] {
        let (mut process, _) = start(&Spec::new("x", program).trampoline(trampoline())).await;
        let exit = soon("the end", process.wait()).await;
        assert!(matches!(exit.outcome, Outcome::Code(it) if it == code), "{exit}");
        assert!(exit.last_lines[0].text.contains(program), "{:?}", exit.last_lines);
    }
}

#[test]
fn the_trampoline_does_not_run_a_program_whose_parent_is_gone() {
    let not_us = std::process::id() + 1;
    let mut command = Command::new(fixture());
    let output = command.arg("trampoline").arg(not_us.to_string()).args(["echo", "ran"]).output().unwrap();
    assert_eq!(output.status.code(), Some(126));
    assert!(output.stdout.is_empty());
}

#[tokio::test]
async fn killing_the_parent_kills_the_child() {
    let mut command = Command::new(fixture());
    let mut parent = command.args(["parent", "/bin/sleep", "60"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let child: u32 = line.trim().parse().unwrap();
    until("the program in the trampoline's place", || {
        std::fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|name| name.trim() == "sleep")
    })
    .await;
    parent.kill().unwrap();
    parent.wait().unwrap();
    until("the child's end", || !alive(child)).await;
}

#[test]
fn a_child_survives_the_thread_that_asked_for_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let asking = std::thread::spawn(move || {
        let spec = sh("read line < /dev/null; echo 0; exec sleep 60").trampoline(trampoline());
        let (process, logs) = handle.block_on(start(&spec));
        handle.block_on(printed_number(&logs)); // by now the death signal is asked for
        process
    });
    let mut process = asking.join().unwrap();
    let pid = process.pid();
    let early = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(100), process.wait()).await });
    assert!(early.is_err() && alive(pid), "ended with the thread: {early:?}");
}
