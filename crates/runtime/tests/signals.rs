//! Signals to a whole process, hence a binary of its own with one test.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use weft_runtime::{Context, Process, Shutdown, run};

const SOON: Duration = Duration::from_secs(10);

/// Sends a signal to ourselves and returns once every listener has had the time to act on it.
async fn send(which: Signal, heard: &mut tokio::signal::unix::Signal) {
    kill_process(getpid(), which).unwrap();
    timeout(SOON, heard.recv()).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn terminated_while_draining(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut heard = signal(SignalKind::terminate())?;
    tokio::task::yield_now().await; // from here on the frame listens, too
    shutdown.drain(); // as `/drain` does
    send(Signal::TERM, &mut heard).await;
    assert!(!shutdown.is_aborting(), "the first SIGTERM aborted what was already draining");
    send(Signal::TERM, &mut heard).await;
    timeout(SOON, shutdown.aborting()).await?;
    Ok(())
}

async fn interrupted_while_draining(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut heard = signal(SignalKind::interrupt())?;
    tokio::task::yield_now().await;
    shutdown.drain(); // as `weft stop` does in another terminal
    send(Signal::INT, &mut heard).await;
    timeout(SOON, shutdown.aborting()).await?;
    Ok(())
}

async fn interrupted_twice(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut heard = signal(SignalKind::interrupt())?;
    tokio::task::yield_now().await;
    send(Signal::INT, &mut heard).await;
    assert!(shutdown.is_draining() && !shutdown.is_aborting());
    send(Signal::INT, &mut heard).await;
    timeout(SOON, shutdown.aborting()).await?;
    Ok(())
}

#[test]
fn a_drain_that_was_asked_for_otherwise_is_cut_short_by_a_second_sigterm_or_by_ctrl_c() {
    let success = format!("{:?}", std::process::ExitCode::SUCCESS);
    let check = |code: std::process::ExitCode| assert_eq!(format!("{code:?}"), success);
    check(run(Process::new("test"), |context: Context| terminated_while_draining(context.shutdown())));
    check(run(Process::new("test"), |context: Context| interrupted_while_draining(context.shutdown())));
    check(run(Process::new("test"), |context: Context| interrupted_twice(context.shutdown())));
}
