//! Signals to a whole process, hence a binary of its own with one test.
#![forbid(unsafe_code)]

use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};
use tokio::{
    signal::unix::{self, SignalKind, signal},
    time::timeout,
};
use weft_runtime::{Context, Process, Shutdown, run};

const SOON: Duration = Duration::from_secs(10);

/// Sends a signal to ourselves and returns once every listener has acted on it. That we have heard it says little: tokio tells listeners
/// one after the other, on another thread. But it tells of a later signal only when it is done with the one before.
async fn send(which: Signal, heard: &mut unix::Signal) -> anyhow::Result<()> {
    kill_process(getpid(), which)?;
    timeout(SOON, heard.recv()).await?;
    let mut later = signal(SignalKind::user_defined1())?;
    kill_process(getpid(), Signal::USR1)?;
    timeout(SOON, later.recv()).await?;
    tokio::task::yield_now().await; // the frame is polled in turn with us
    Ok(())
}

/// Sends a signal until it cuts the drain short: two that come close together may be heard as one.
async fn abort_by(which: Signal, shutdown: &Shutdown) -> anyhow::Result<()> {
    let again = async {
        loop {
            kill_process(getpid(), which)?;
            if timeout(SOON / 100, shutdown.aborting()).await.is_ok() {
                return Ok(());
            }
        }
    };
    timeout(SOON, again).await?
}

async fn terminated_while_draining(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut heard = signal(SignalKind::terminate())?;
    tokio::task::yield_now().await; // from here on the frame listens, too
    shutdown.drain(); // as `/drain` does
    send(Signal::TERM, &mut heard).await?;
    assert!(!shutdown.is_aborting(), "the first SIGTERM aborted what was already draining");
    abort_by(Signal::TERM, &shutdown).await
}

async fn interrupted_while_draining(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut heard = signal(SignalKind::interrupt())?;
    tokio::task::yield_now().await;
    shutdown.drain(); // as `weft stop` does in another terminal
    send(Signal::INT, &mut heard).await?;
    timeout(SOON, shutdown.aborting()).await?;
    Ok(())
}

async fn interrupted_twice(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut heard = signal(SignalKind::interrupt())?;
    tokio::task::yield_now().await;
    send(Signal::INT, &mut heard).await?;
    timeout(SOON, shutdown.draining()).await?;
    assert!(!shutdown.is_aborting());
    abort_by(Signal::INT, &shutdown).await
}

#[test]
fn a_drain_that_was_asked_for_otherwise_is_cut_short_by_a_second_sigterm_or_by_ctrl_c() {
    let success = format!("{:?}", std::process::ExitCode::SUCCESS);
    let check = |code: std::process::ExitCode| assert_eq!(format!("{code:?}"), success);
    check(run(Process::new("test"), |context: Context| terminated_while_draining(context.shutdown())));
    check(run(Process::new("test"), |context: Context| interrupted_while_draining(context.shutdown())));
    check(run(Process::new("test"), |context: Context| interrupted_twice(context.shutdown())));
}
