//! A private Redis server of a test: on a free port, with nothing on disk, gone with the test.
//!
//! Lives here: starting and stopping it. Does not: any command (the tested code speaks to it).

use std::{process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    net::TcpStream,
    process::{Child, Command},
};
use weft_runtime::listen::ListenAddr;

use crate::{outside, wait};

/// The password of every test's server; whoever logs it has logged a secret.
pub const PASSWORD: &str = "s3cret-of-the-tests";
/// How long a server may take to start, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A server.
#[derive(Debug)]
pub struct Redis {
    dir: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Redis {
    /// Starts a server. None if Redis is missing; the test named then skips loudly.
    pub async fn start(test: &str) -> Option<Self> {
        outside::need_from_setup(outside::program("redis-server"), test, "redis-server")?;
        let dir = TempDir::new().expect("a temporary directory can be made");
        let port = ListenAddr::loopback(0).lasting().get().port();
        let mut redis = Self { dir, port, server: None };
        redis.start_again().await;
        Some(redis)
    }

    /// Its URL, with the password.
    pub fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}/1", self.port)
    }

    /// Stops the server at once, as a crash would. What it held is gone.
    pub async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().await.expect("a child of ours can be killed");
        }
    }

    /// Starts the server where it was.
    pub async fn start_again(&mut self) {
        self.stop().await;
        let port = self.port.to_string();
        let mut command = Command::new("redis-server");
        command.args([
            "--port",
            &port,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--requirepass",
            PASSWORD,
        ]);
        command.arg("--dir").arg(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        self.server = Some(command.spawn().expect("redis-server starts"));
        let accepts = || async { TcpStream::connect(("127.0.0.1", self.port)).await.ok() };
        wait::until("redis-server to accept", START, accepts).await;
    }
}
