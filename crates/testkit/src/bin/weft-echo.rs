//! The echo service as a program: what a sidecar of a test stands beside.
//!
//! Lives here: reading PORT, WEFT_INSTANCE and ECHO_HIDDEN (no reflection), SIGTERM. Does not: the service (`weft_testkit::echo`).
#![forbid(unsafe_code)]

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::disallowed_methods, reason = "an app of a test, without weft's frame: like a stranger's app")]
async fn main() -> anyhow::Result<()> {
    let port: u16 = std::env::var("PORT").unwrap_or_default().parse().unwrap_or_default();
    let instance = std::env::var("WEFT_INSTANCE").unwrap_or_default();
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shown = std::env::var_os("ECHO_HIDDEN").is_none();
    weft_testkit::echo::serve_shown(listener, instance, shown, async move {
        terminate.recv().await;
    })
    .await
}
