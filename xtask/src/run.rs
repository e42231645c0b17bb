//! Runs a child process: says what it starts, hears what it prints, bounds how long it may take.
//!
//! Lives here: the wait and its end, including what a child left behind. Does not: which variables a child sees (`env`).
//! Invariant: no wait is without an end. A child past its limit is killed with all its descendants, and one whose own children
//! outlive it with the output in their hands fails: whoever started them did not clean up.

use std::fs;
use std::io::{BufRead, BufReader, PipeReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long the output may stay open after the child has ended: what a dying process needs to close it.
const CLOSING: Duration = Duration::from_secs(5);

/// Lines read ahead of the one being handled.
const READ_AHEAD: usize = 256;

/// The instant by which a child must have ended.
#[derive(Clone, Copy)]
pub(crate) struct Limit(Instant);

impl Limit {
    /// `minutes` from now.
    pub(crate) fn minutes(minutes: u64) -> Limit {
        Limit(Instant::now() + Duration::from_secs(60 * minutes))
    }

    fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// Which of a child's streams are read line by line; the others go where xtask's own go.
#[derive(Clone, Copy)]
pub(crate) enum Hear {
    /// Standard output.
    Output,
    /// Standard output and standard error, in the order in which they were written.
    Both,
}

/// Runs `command` to its end with xtask's own output. Fails unless it exits with 0.
pub(crate) fn succeed(mut command: Command, limit: Limit) -> Result<()> {
    let shown = announce(&command);
    let child = command.stdin(Stdio::null()).spawn().with_context(|| format!("cannot start `{shown}`"))?;
    let status = wait(child, None, limit, |_| ()).with_context(|| shown.clone())?;
    ensure!(status.success(), "`{shown}` failed ({status})");
    Ok(())
}

/// Runs `command` to its end and hands every line it prints to `each`. Returns how it ended; fails if that could not be seen.
pub(crate) fn lines(mut command: Command, hear: Hear, limit: Limit, each: impl FnMut(&str)) -> Result<ExitStatus> {
    let shown = announce(&command);
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    if let Hear::Both = hear {
        command.stderr(writer.try_clone().context("cannot share a pipe")?);
    }
    let child =
        command.stdin(Stdio::null()).stdout(writer).spawn().with_context(|| format!("cannot start `{shown}`"))?;
    drop(command); // it holds our copies of the writing end, which would keep the reader waiting for ever
    wait(child, Some(reader), limit, each).with_context(|| shown)
}

/// Returns whether `command` can be started and exits with 0; prints nothing. For questions that take a moment: it has no limit.
pub(crate) fn answers(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

enum Event {
    Line(String),
    Closed,
    Ended(std::io::Result<ExitStatus>),
}

fn wait(child: Child, output: Option<PipeReader>, limit: Limit, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let pid = child.id();
    let mut open = output.is_some();
    let mut ended: Option<(ExitStatus, Limit)> = None;
    let events = events(child, output);
    loop {
        let until = match ended {
            Some((status, _)) if !open => return Ok(status),
            Some((_, closing)) => closing,
            None => limit,
        };
        match events.recv_timeout(until.remaining()) {
            Ok(Event::Line(line)) => each(&line),
            Ok(Event::Closed) => open = false,
            Ok(Event::Ended(status)) => {
                ended = Some((status.context("cannot wait for it")?, Limit(Instant::now() + CLOSING)))
            }
            Err(_) if ended.is_some() => {
                bail!("it ended, but a process that it started lives on and holds its output")
            }
            Err(_) => {
                kill_with_descendants(pid);
                bail!("killed: out of time");
            }
        }
    }
}

/// Starts the two threads that turn a child's life into events. Both end with the child and its output.
fn events(mut child: Child, output: Option<PipeReader>) -> Receiver<Event> {
    let (events, received) = mpsc::sync_channel(READ_AHEAD);
    if let Some(output) = output {
        let events = events.clone();
        thread::spawn(move || read(output, &events));
    }
    // A send fails only after the reader of events has left: then nobody wants to know.
    thread::spawn(move || events.send(Event::Ended(child.wait())).unwrap_or_default());
    received
}

fn read(output: PipeReader, events: &SyncSender<Event>) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    // A read error ends the output like its end does: there is nothing more to hear.
    while output.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
        if events.send(Event::Line(text)).is_err() {
            return;
        }
        line.clear();
    }
    events.send(Event::Closed).unwrap_or_default();
}

/// Kills `pid` and all below it. Descendants are found in `/proc`; where there is none, only `pid` is killed.
fn kill_with_descendants(pid: u32) {
    let parents: Vec<(u32, u32)> = processes();
    let mut doomed = vec![pid];
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| child));
        next += 1;
    }
    let ids = doomed.iter().map(u32::to_string);
    let killed = Command::new("kill").arg("-9").args(ids).stderr(Stdio::null()).status();
    if let Err(error) = killed {
        eprintln!("cannot kill {doomed:?}: {error}");
    }
}

/// Every process with its parent.
fn processes() -> Vec<(u32, u32)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
            Some((id, parent(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)?))
        })
        .collect()
}

/// Reads the parent's id from a line of `/proc/<pid>/stat`: the second field after the name, which may itself hold parentheses.
fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn announce(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words = std::iter::once(name).chain(command.get_args()).map(|word| word.to_string_lossy());
    let shown = words.collect::<Vec<_>>().join(" ");
    eprintln!("$ {shown}");
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn heard(script: &str, hear: Hear, limit: Limit) -> (Vec<String>, Result<ExitStatus>) {
        let mut said = Vec::new();
        let ended = lines(sh(script), hear, limit, |line| said.push(line.to_owned()));
        (said, ended)
    }

    #[test]
    fn both_streams_are_heard_in_order_and_the_last_line_needs_no_newline() {
        let (said, ended) = heard("echo one; echo two >&2; printf three; exit 3", Hear::Both, Limit::minutes(1));
        assert_eq!(said, ["one", "two", "three"]);
        assert_eq!(ended.unwrap().code(), Some(3));
    }

    #[test]
    fn a_child_past_its_limit_is_killed_with_its_descendants() {
        let limit = Limit(Instant::now() + Duration::from_secs(2));
        let (said, ended) = heard("sh -c 'echo $$; exec sleep 600' & wait", Hear::Both, limit);
        assert_eq!(ended.unwrap_err().root_cause().to_string(), "killed: out of time");
        let stat = || fs::read_to_string(format!("/proc/{}/stat", said[0])).unwrap_or_default();
        let deadline = Limit::minutes(1);
        while !stat().is_empty() && !stat().contains(") Z") {
            assert!(!deadline.remaining().is_zero(), "still running: {}", stat());
            thread::yield_now();
        }
    }

    #[test]
    fn a_process_left_behind_with_the_output_fails_the_run() {
        let (said, ended) = heard("sleep 30 & echo $!", Hear::Both, Limit::minutes(1));
        assert!(ended.unwrap_err().root_cause().to_string().contains("lives on"));
        assert!(answers(&mut sh(&format!("kill -9 {}", said[0]))), "it was still there to be killed");
    }

    #[test]
    fn the_parent_is_found_behind_any_process_name() {
        assert_eq!(parent("17 (a) b (c) S 5 17 17 0 -1"), Some(5));
        assert_eq!(parent("nonsense"), None);
    }
}
