//! One run of a program: from its start to its end, with its output read.
//!
//! Lives here: reading the pipes into the log, waiting, stopping with grace. Does not: starting again (`child`).
//! The process is its leader: when that ends, whatever it left in its group is killed, so that a restart meets no leftover that
//! holds its port. A value that is dropped takes its process along, at once.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::exit::{Exit, Outcome};
use crate::logs::{Logs, Splitter, Stream};
use crate::spawner::{KillOnDrop, Spawned, Spawner};
use crate::spec::Spec;

/// Lines that travel with an exit.
const LAST_LINES: usize = 20;
/// How long the pipes may stay open after the end. They close with it unless somebody who left the group holds them.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long they are read once more when that is over: on a machine that let us wait, it is over before anybody had a turn to read.
const ONE_MORE_LOOK: Duration = Duration::from_millis(50);

/// A running process.
#[derive(Debug)]
pub struct Process {
    group: KillOnDrop,
    exit: oneshot::Receiver<io::Result<std::process::ExitStatus>>,
    readers: JoinSet<()>,
    logs: Logs,
    first_line: u64,
    started: Instant,
    ended: Option<(Outcome, Instant)>,
    /// Keeps the thread that forked alive: its end would be taken for ours.
    _spawner: Spawner,
}

impl Process {
    /// Starts `spec`'s program once; what it writes goes to `logs`. Must run inside a tokio runtime. Cancelling kills it.
    ///
    /// # Errors
    /// The system's, naming the program. With a trampoline a missing program is not seen here: it exits with code 127.
    pub async fn start(spawner: &Spawner, spec: &Spec, logs: &Logs) -> io::Result<Process> {
        let first_line = logs.next_number();
        let spawned = spawner.spawn(spec.command()).await.map_err(|error| {
            let program = spec.program().display();
            io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
        })?;
        let Spawned { group, stdout, stderr, exit } = spawned;
        let mut readers = JoinSet::new();
        readers.spawn(read(pipe::Receiver::from_owned_fd(OwnedFd::from(stdout))?, Stream::Stdout, logs.clone()));
        readers.spawn(read(pipe::Receiver::from_owned_fd(OwnedFd::from(stderr))?, Stream::Stderr, logs.clone()));
        let (logs, started) = (logs.clone(), Instant::now());
        Ok(Process { group, exit, readers, logs, first_line, started, ended: None, _spawner: spawner.clone() })
    }

    /// Returns the process id, which is also that of its group.
    pub fn pid(&self) -> u32 {
        self.group.pid()
    }

    /// Number of the first line this run wrote or will write.
    pub(crate) fn first_line(&self) -> u64 {
        self.first_line
    }

    /// Waits for the end, and for the last lines (at most 0.35 s more). May be called again, with the same answer. Cancel-safe.
    pub async fn wait(&mut self) -> Exit {
        let (outcome, at) = match &self.ended {
            Some(ended) => ended.clone(),
            None => {
                let status = (&mut self.exit).await;
                let outcome = status.unwrap_or_else(|_| Err(io::Error::other("the waiting thread has ended"))).into();
                self.ended.insert((outcome, Instant::now())).clone()
            }
        };
        if timeout_at(at + LAST_WORDS, all_read(&mut self.readers)).await.is_err()
            && timeout(ONE_MORE_LOOK, all_read(&mut self.readers)).await.is_err()
        {
            self.readers.shutdown().await;
        }
        let last_lines = self.logs.last_since(self.first_line, LAST_LINES);
        Exit { outcome, ran_for: at - self.started, last_lines }
    }

    /// Asks its group to end (`SIGTERM`). Nothing happens if it has.
    pub fn terminate(&self) {
        self.group.terminate();
    }

    /// Ends its group (`SIGKILL`).
    pub fn kill(&self) {
        self.group.kill();
    }

    /// Asks its group to end, ends it after `grace`, and waits. Cancelling leaves it asked.
    pub async fn stop(&mut self, grace: Duration) -> Exit {
        self.terminate();
        if let Ok(exit) = timeout(grace, self.wait()).await {
            return exit;
        }
        self.kill();
        self.wait().await
    }
}

/// Waits until both outputs are at their end.
async fn all_read(readers: &mut JoinSet<()>) {
    while readers.join_next().await.is_some() {}
}

/// Reads one output to its end. An error of a pipe is its end.
async fn read(mut pipe: pipe::Receiver, stream: Stream, logs: Logs) {
    let mut splitter = Splitter::new(logs.line_bytes());
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        splitter.feed(&buffer[..count], |line| logs.push(stream, line));
    }
    splitter.finish(|line| logs.push(stream, line));
}
