//! What a child writes, kept line by line in a bounded ring that followers read from.
//!
//! Lives here: cutting bytes into lines, the ring, following it. Does not: reading pipes (`process`), storing or printing.
//! Invariants: a child never waits for a reader; memory is at most `lines` × `line_bytes` (and a notice); line numbers have no gaps,
//! so a follower that was too slow knows how many it missed. The ring is the followers' only buffer.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

/// How much of a child's output is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Lines kept; older ones are forgotten. Default 1,000.
    pub lines: usize,
    /// Bytes of a line; the rest is cut, and the line says so. Default 8 KiB.
    pub line_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { lines: 1_000, line_bytes: 8 * 1024 }
    }
}

/// Which of its two outputs a child wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Data.
    Stdout,
    /// Talk.
    Stderr,
}

/// One line a child wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Counts all lines of the child from 0, through its restarts.
    pub number: u64,
    /// Where it was written to.
    pub stream: Stream,
    /// The text without its line end; bytes that are not UTF-8 are replaced.
    pub text: Arc<str>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A child's output; clones share it.
#[derive(Debug, Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Held for the push or copy of a few lines, never across an await.
    ring: Mutex<Ring>,
    /// Wakes followers; carries nothing, the ring does.
    changed: watch::Sender<()>,
}

#[derive(Debug)]
struct Ring {
    bounds: Bounds,
    lines: VecDeque<Line>,
    next: u64,
    closed: bool,
}

impl Logs {
    /// Returns an empty log.
    pub fn new(bounds: Bounds) -> Self {
        let ring = Ring { bounds, lines: VecDeque::new(), next: 0, closed: false };
        Logs { shared: Arc::new(Shared { ring: Mutex::new(ring), changed: watch::Sender::new(()) }) }
    }

    /// Returns the last lines, oldest first, at most `count`.
    pub fn last(&self, count: usize) -> Vec<Line> {
        let ring = self.ring();
        ring.lines.iter().skip(ring.lines.len().saturating_sub(count)).cloned().collect()
    }

    /// Returns a reader of the last `back` lines and of all that follow.
    pub fn follow(&self, back: usize) -> Follow {
        let changed = self.shared.changed.subscribe();
        let ring = self.ring();
        let back = back.min(ring.lines.len()) as u64;
        Follow { next: ring.next - back, changed, logs: self.clone() }
    }

    pub(crate) fn push(&self, stream: Stream, text: &str) {
        let mut ring = self.ring();
        let number = ring.next;
        ring.next += 1;
        if ring.lines.len() >= ring.bounds.lines {
            ring.lines.pop_front();
        }
        ring.lines.push_back(Line { number, stream, text: text.into() });
        drop(ring);
        self.shared.changed.send_replace(());
    }

    /// Ends the log: no line follows, and followers are told after the last.
    pub(crate) fn close(&self) {
        self.ring().closed = true;
        self.shared.changed.send_replace(());
    }

    pub(crate) fn next_number(&self) -> u64 {
        self.ring().next
    }

    /// The last lines that are not older than `number`, at most `count`.
    pub(crate) fn last_since(&self, number: u64, count: usize) -> Vec<Line> {
        let mut lines = self.last(count);
        lines.retain(|line| line.number >= number);
        lines
    }

    pub(crate) fn line_bytes(&self) -> usize {
        self.ring().bounds.line_bytes
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing that runs under the lock can leave the ring half changed, so a panic elsewhere does not spoil it.
        self.shared.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reader of a child's output, at its own pace.
#[derive(Debug)]
pub struct Follow {
    logs: Logs,
    changed: watch::Receiver<()>,
    next: u64,
}

/// What a follower gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// The next line.
    Line(Line),
    /// The follower was slower than the child by more than the ring holds; this many lines are gone.
    Missed(u64),
}

impl Follow {
    /// Waits for the next line; `None` when the child is gone for good and all is read. Cancel-safe.
    pub async fn next(&mut self) -> Option<Followed> {
        loop {
            self.changed.mark_unchanged(); // before the look, so that a line pushed after it wakes us
            if let Some(ready) = self.ready() {
                return ready;
            }
            // The sender lives in `logs`, which we hold.
            self.changed.changed().await.ok()?;
        }
    }

    /// What can be given without waiting; `None` if nothing can.
    fn ready(&mut self) -> Option<Option<Followed>> {
        let ring = self.logs.ring();
        let oldest = ring.next - ring.lines.len() as u64;
        if self.next < oldest {
            let missed = oldest - self.next;
            self.next = oldest;
            return Some(Some(Followed::Missed(missed)));
        }
        match ring.lines.get((self.next - oldest) as usize) {
            Some(line) => {
                self.next += 1;
                Some(Some(Followed::Line(line.clone())))
            }
            None => ring.closed.then_some(None),
        }
    }
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug)]
pub(crate) struct Splitter {
    limit: usize,
    line: Vec<u8>,
    cut: u64,
}

impl Splitter {
    pub(crate) fn new(limit: usize) -> Self {
        Splitter { limit, line: Vec::new(), cut: 0 }
    }

    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&str)) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.take(&bytes[..end]);
            self.finish_line(&mut emit);
            bytes = &bytes[end + 1..];
        }
        self.take(bytes);
    }

    /// Gives out what came after the last line end, if anything did.
    pub(crate) fn finish(mut self, mut emit: impl FnMut(&str)) {
        if !self.line.is_empty() || self.cut > 0 {
            self.finish_line(&mut emit);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = self.limit.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
        self.cut += (bytes.len() - room) as u64;
    }

    fn finish_line(&mut self, emit: &mut impl FnMut(&str)) {
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        let text = String::from_utf8_lossy(&self.line);
        match self.cut {
            0 => emit(&text),
            cut => emit(&format!("{text}… [{cut} bytes cut]")),
        }
        self.line.clear();
        self.cut = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(limit: usize, pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut splitter = Splitter::new(limit);
        for piece in pieces {
            splitter.feed(piece, |line| lines.push(line.to_owned()));
        }
        splitter.finish(|line| lines.push(line.to_owned()));
        lines
    }

    #[test]
    fn lines_are_cut_at_their_ends_and_at_the_limit() {
        assert_eq!(split(10, &[b"one\ntw", b"o\r\n\nlast"]), ["one", "two", "", "last"]);
        assert_eq!(split(4, &[b"abcdefg\nab\n"]), ["abcd… [3 bytes cut]", "ab"]);
        assert_eq!(split(4, &[b"ab\xff"]), ["ab\u{fffd}"]);
        assert_eq!(split(4, &[]), [""; 0]);
    }

    proptest! {
        #[test]
        fn the_pieces_a_stream_comes_in_do_not_matter(bytes in prop::collection::vec(prop::sample::select(b"ab\r\n\xc3\xa4".to_vec()), 0..60), at in 0_usize..60) {
            let at = at.min(bytes.len());
            prop_assert_eq!(split(5, &[&bytes]), split(5, &[&bytes[..at], &bytes[at..]]));
        }
    }

    fn logs(lines: usize) -> Logs {
        Logs::new(Bounds { lines, line_bytes: 10 })
    }

    fn texts(lines: &[Line]) -> Vec<&str> {
        lines.iter().map(|line| &*line.text).collect()
    }

    #[test]
    fn the_ring_forgets_the_oldest_line() {
        let logs = logs(2);
        for text in ["a", "b", "c"] {
            logs.push(Stream::Stdout, text);
        }
        assert_eq!(texts(&logs.last(9)), ["b", "c"]);
        assert_eq!(texts(&logs.last(1)), ["c"]);
        assert_eq!(texts(&logs.last_since(2, 9)), ["c"]);
    }

    #[tokio::test]
    async fn a_follower_gets_the_past_it_asked_for_then_the_present_then_the_end() {
        let logs = logs(9);
        logs.push(Stream::Stdout, "a");
        logs.push(Stream::Stderr, "b");
        let mut follow = logs.follow(1);
        logs.push(Stream::Stdout, "c");
        logs.close();
        let mut seen = Vec::new();
        while let Some(Followed::Line(line)) = follow.next().await {
            seen.push((line.number, line.stream, line.text.to_string()));
        }
        assert_eq!(seen, [(1, Stream::Stderr, "b".to_owned()), (2, Stream::Stdout, "c".to_owned())]);
    }

    #[tokio::test]
    async fn a_slow_follower_learns_how_many_lines_it_missed() {
        let logs = logs(2);
        let mut follow = logs.follow(0);
        for number in 0..5 {
            logs.push(Stream::Stdout, &number.to_string());
        }
        assert_eq!(follow.next().await, Some(Followed::Missed(3)));
        assert!(matches!(follow.next().await, Some(Followed::Line(line)) if &*line.text == "3"));
    }

    #[tokio::test]
    async fn a_waiting_follower_is_woken_by_a_line() {
        let logs = logs(2);
        let mut follow = logs.follow(0);
        let (got, ()) = tokio::join!(follow.next(), async { logs.push(Stream::Stdout, "now") });
        assert!(matches!(got, Some(Followed::Line(line)) if &*line.text == "now"));
    }
}
