//! A private Redis server of a test: on a free port, with nothing on disk, gone with the test.
//!
//! Lives here: starting and stopping it, its connections. Does not: any other command (the tested code speaks to it).

use std::{process::Stdio, time::Duration};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
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

    /// Closes the connections of others, as a server does with those that are idle. Returns how many there were.
    pub async fn close_connections(&self) -> usize {
        let answer = self.ask("CLIENT KILL TYPE normal SKIPME yes").await;
        answer.strip_prefix(':').and_then(|count| count.trim().parse().ok()).expect("a number of connections")
    }

    /// Counts the connections of others.
    pub async fn connections(&self) -> usize {
        self.ask("CLIENT LIST TYPE normal").await.lines().filter(|line| line.starts_with("id=")).count() - 1
    }

    async fn ask(&self, command: &str) -> String {
        let connected = TcpStream::connect(("127.0.0.1", self.port)).await;
        let mut connection = connected.expect("redis-server accepts");
        let request = format!("AUTH {PASSWORD}\r\n{command}\r\nQUIT\r\n");
        connection.write_all(request.as_bytes()).await.expect("redis-server reads");
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.expect("redis-server answers");
        let answer = answer.strip_prefix("+OK\r\n").and_then(|rest| rest.strip_suffix("+OK\r\n"));
        answer.expect("redis-server takes the password and says goodbye").to_owned()
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
