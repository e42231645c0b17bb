//! An app for the sidecar's tests, and the smallest one to look at: it knows nothing of the mesh but `PORT` and `WEFT_DATA`.
//!
//! Lives here: what a stranger's gRPC server would do. Does not: the service itself (`weft_testkit::echo`).
//! It writes its process id to `$WEFT_DATA/pid`, and "ended" to `$WEFT_DATA/ended` when it was asked to end and did.
#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "an app of a test has no frame that reads the environment for it")]

use std::env::var;
use std::fs;
use std::path::PathBuf;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let (port, data) = (var("PORT")?.parse::<u16>()?, PathBuf::from(var("WEFT_DATA")?));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    fs::write(data.join("pid"), std::process::id().to_string())?;
    let ended = async move {
        terminate.recv().await;
    };
    weft_testkit::echo::serve(listener, var("WEFT_INSTANCE").unwrap_or_default(), ended).await?;
    fs::write(data.join("ended"), "ended")?;
    Ok(())
}
