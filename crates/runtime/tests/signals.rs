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

/// Sends SIGTERM to ourselves and returns once every listener has had the time to act on it.
async fn terminate(heard: &mut tokio::signal::unix::Signal) {
    kill_process(getpid(), Signal::TERM).unwrap();
    timeout(SOON, heard.recv()).await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn ended_by_two_signals(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut heard = signal(SignalKind::terminate())?;
    tokio::task::yield_now().await; // from here on the frame listens, too
    shutdown.drain(); // as `/drain` does
    terminate(&mut heard).await;
    assert!(!shutdown.is_aborting(), "the first signal aborted what was already draining");
    terminate(&mut heard).await;
    timeout(SOON, shutdown.aborting()).await?;
    Ok(())
}

#[test]
fn only_a_second_signal_aborts_whoever_asked_for_the_drain() {
    let code = run(Process::new("test"), |context: Context| ended_by_two_signals(context.shutdown()));
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
}
