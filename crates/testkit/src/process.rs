//! A real process of a test: its announced listeners, its log, signals, and an end with the test.
//!
//! Lives here: starting, listening to its two outputs, killing. Does not: what the process is.
//! The process leads its own group and, started through weft's trampoline, dies with the thread that started it.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::wait;

/// How long the last lines of a process that has ended may take to be read; what still holds its pipe may be a child of it.
const LAST_LINES: Duration = Duration::from_secs(5);
/// Log lines kept for the report of a failed test.
const KEPT_LINES: usize = 400;

#[derive(Debug, Default)]
struct Heard {
    listening: Vec<(String, SocketAddr)>,
    lines: VecDeque<String>,
}

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    heard: Arc<Mutex<Heard>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts `program` through `weft trampoline`, in a group of its own, without standard input.
    pub fn start(
        name: &str,
        weft: &Path,
        program: &Path,
        args: &[String],
        env: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(weft);
        command
            .arg("trampoline")
            .arg("--")
            .arg(std::process::id().to_string())
            .arg(program)
            .args(args)
            .envs(env.iter().map(|(k, v)| (k, v)));
        Self::spawn(name, command)
    }

    /// Starts a command as it is, in a group of its own.
    pub fn spawn(name: &str, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let heard = Arc::new(Mutex::new(Heard::default()));
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|o| Box::new(o) as Box<dyn Read + Send>),
            child.stderr.take().map(|e| Box::new(e) as Box<dyn Read + Send>),
        ];
        let read = |output: Box<dyn Read + Send>| {
            let heard = Arc::clone(&heard);
            std::thread::spawn(move || listen(output, &heard)) // ends when the process and its children have closed the pipe
        };
        let readers = outputs.into_iter().flatten().map(read).collect();
        Ok(Self { name: name.to_owned(), child, heard, readers })
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the process announced a listener of this kind (`http`, `grpc`, `inbound`, …). Panics with its log if it ends before.
    pub async fn address(&mut self, proto: &str) -> SocketAddr {
        let limit = Duration::from_secs(60);
        let start = std::time::Instant::now();
        loop {
            if let Some((_, addr)) = self.heard().listening.iter().rev().find(|(p, _)| p == proto) {
                return *addr;
            }
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() || start.elapsed() > limit {
                panic!("{} announced no {proto} listener ({ended:?}); its last lines:\n{}", self.name, self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines it wrote, stdout and stderr as they came.
    pub fn log(&self) -> String {
        self.heard().lines.iter().fold(String::new(), |all, line| all + line + "\n")
    }

    /// Whether any line so far contains the text.
    pub fn said(&self, text: &str) -> bool {
        self.heard().lines.iter().any(|line| line.contains(text))
    }

    /// Sends a signal to the process alone, not to its group.
    pub fn signal(&self, signal: Signal) {
        // The process may have ended; then there is nothing to signal.
        let _ = kill_process(self.id(), signal);
    }

    /// Kills the process with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        drop(self.child.wait()); // an error means it was waited for before
    }

    /// Waits until it ends by itself and its last lines are read. Panics with its log after `limit`.
    pub async fn end(&mut self, limit: Duration) -> ExitStatus {
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours can be waited for") {
                self.read_to_the_end().await;
                return status;
            }
            assert!(
                start.elapsed() < limit,
                "{} still runs after {limit:?}; its last lines:\n{}",
                self.name,
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits, for a bounded time, until what it wrote before its end has been read.
    async fn read_to_the_end(&self) {
        let end = std::time::Instant::now() + LAST_LINES;
        while self.readers.iter().any(|it| !it.is_finished()) && std::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Whether it ended, and how.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.try_wait().ok().flatten()?;
        Some(status.signal().map_or_else(|| format!("exit {:?}", status.code()), |s| format!("signal {s}")))
    }

    fn id(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed()).expect("a process id is above zero")
    }

    fn heard(&self) -> std::sync::MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process_group(self.id(), Signal::KILL);
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("--- last lines of {} ---\n{}", self.name, self.log());
        }
    }
}

fn listen(output: impl Read, heard: &Mutex<Heard>) {
    for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.listening.extend(listening(&line));
        if heard.lines.len() == KEPT_LINES {
            heard.lines.pop_front();
        }
        heard.lines.push_back(line);
    }
}

fn listening(line: &str) -> Option<(String, SocketAddr)> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    // Roles say it on stdout as an event; a service says it in its log.
    (line["event"] == "listening" || line["message"] == "listening").then_some(())?;
    Some((line["proto"].as_str()?.to_owned(), line["addr"].as_str()?.parse().ok()?))
}

/// Child processes of a process, from `/proc`; empty if it has ended.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Whether a process runs; a zombie does not.
pub fn runs(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Sends SIGKILL to any process of the test's own.
pub fn kill(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, Signal::KILL); // it may have ended by itself
    }
}

/// Waits until a process has ended.
pub async fn gone(pid: u32, limit: Duration) {
    wait::until(&format!("the end of process {pid}"), limit, || async { (!runs(pid)).then_some(()) }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_process_said_last_is_known_when_it_has_ended() {
        for _ in 0..20 {
            let mut command = Command::new("sh");
            command.args(["-c", "seq 1 9000; echo the last words"]); // as much as a pipe holds while nobody reads
            let mut process = Process::spawn("sh", command).unwrap();
            assert!(process.end(Duration::from_secs(30)).await.success());
            assert!(process.said("the last words"), "{}", process.log());
        }
    }
}
