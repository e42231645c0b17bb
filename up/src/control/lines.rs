//! Log lines as one client asked for them: of which processes, of which trace, from the past or as they come.
//!
//! Lives here: choosing and ordering lines. Does not: keeping them (`weft-supervise`), how they read (`text`).
//! Lines from the past come process by process; those of a trace in the order of time, since they tell one story. A line belongs to a trace
//! if its id stands in it, in whatever field or format: an app need not log as we do.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use weft_proto::weft::up::v1 as pb;
use weft_supervise::{Follow, Followed};

use crate::{
    board::{self, Kind, Output},
    text,
};

type Send = mpsc::Sender<Result<pb::LogLine, Status>>;

/// What a client asked for.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    /// A role, a slot, a service; empty for everything.
    pub(super) name: String,
    pub(super) trace: Option<String>,
    /// Lines from the past, of each process.
    pub(super) tail: usize,
}

impl Wanted {
    pub(super) fn means(&self, kind: &Kind) -> bool {
        let of_service = matches!(kind, Kind::Instance(slot) if slot.service.to_string() == self.name);
        self.name.is_empty() || kind.name() == self.name || of_service
    }

    fn takes(&self, line: &str) -> bool {
        self.trace.as_ref().is_none_or(|id| line.contains(id.as_str()))
    }

    /// How far back a log has to be read for the lines wanted: those of a trace may lie anywhere.
    fn back(&self) -> usize {
        if self.trace.is_some() { usize::MAX } else { self.tail }
    }

    /// The last lines wanted, of each process as it wrote them; in the order of time if they are of one trace.
    fn arrange(&self, mut of_each: Vec<Vec<pb::LogLine>>) -> Vec<pb::LogLine> {
        for lines in &mut of_each {
            lines.drain(..lines.len().saturating_sub(self.tail));
        }
        if self.trace.is_none() {
            return of_each.into_iter().flatten().collect();
        }
        let mut all: Vec<(String, pb::LogLine)> = of_each.into_iter().flat_map(timed).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b)); // stable: one process's lines of one moment stay as it wrote them
        all.into_iter().map(|(_, line)| line).collect()
    }
}

/// Each line with its time; one that says none was written no earlier than the one before it.
fn timed(lines: Vec<pb::LogLine>) -> impl Iterator<Item = (String, pb::LogLine)> {
    let mut last = String::new();
    lines.into_iter().map(move |line| {
        if let Some(time) = text::timestamp(&line.line) {
            last = time;
        }
        (last.clone(), line)
    })
}

/// Sends what there is.
pub(super) async fn past(outputs: Vec<Output>, wanted: Wanted, send: Send) {
    let mut of_each = Vec::new();
    for output in outputs {
        let mut reader = Reader::of(&output, wanted.back());
        of_each.push(reader.ready(&wanted));
    }
    for line in wanted.arrange(of_each) {
        if send.send(Ok(line)).await.is_err() {
            return;
        }
    }
}

/// Follows everything that is meant, also processes that start later; of those all lines.
pub(super) async fn pump(
    mut outputs: watch::Receiver<Arc<[Output]>>,
    wanted: Wanted,
    send: Send,
    stopped: CancellationToken,
) {
    let mut followed = BTreeSet::new();
    let mut readers = JoinSet::new();
    let mut first = true;
    loop {
        let now = outputs.borrow_and_update().clone();
        let back = if first { wanted.back() } else { usize::MAX };
        let new = now.iter().filter(|output| wanted.means(&output.kind) && followed.insert(output.key));
        let mut new: Vec<_> = new.map(|output| Reader::of(output, back)).collect();
        if std::mem::take(&mut first) {
            let past = wanted.arrange(new.iter_mut().map(|reader| reader.ready(&wanted)).collect());
            for line in past {
                if send.send(Ok(line)).await.is_err() {
                    return;
                }
            }
        }
        for reader in new {
            readers.spawn(reader.follow(wanted.clone(), send.clone()));
        }
        tokio::select! {
            changed = outputs.changed() => if changed.is_err() { return },
            Some(_) = readers.join_next() => {}
            () = send.closed() => return,
            () = stopped.cancelled() => return,
        }
    }
}

/// Reads one process's lines and counts those it missed.
struct Reader {
    process: String,
    lines: Follow,
    lost: u64,
}

impl Reader {
    fn of(output: &Output, back: usize) -> Self {
        Self { process: output.kind.name(), lines: output.logs.follow(back), lost: 0 }
    }

    /// The lines wanted that are there already.
    fn ready(&mut self, wanted: &Wanted) -> Vec<pb::LogLine> {
        let mut ready = Vec::new();
        while let Some(Some(next)) = self.lines.next().now_or_never() {
            ready.extend(self.line(next, wanted));
        }
        ready
    }

    async fn follow(mut self, wanted: Wanted, send: Send) {
        while let Some(next) = self.lines.next().await {
            if let Some(line) = self.line(next, &wanted)
                && send.send(Ok(line)).await.is_err()
            {
                return;
            }
        }
    }

    fn line(&mut self, next: Followed, wanted: &Wanted) -> Option<pb::LogLine> {
        match next {
            Followed::Missed(count) => {
                self.lost += count;
                None
            }
            Followed::Line(line) if board::is_for_us(&line) || !wanted.takes(&line.text) => None,
            Followed::Line(line) => Some(pb::LogLine {
                process: self.process.clone(),
                line: line.text.to_string(),
                lost: std::mem::take(&mut self.lost),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn wanted(trace: Option<&str>, tail: usize) -> Wanted {
        Wanted { name: String::new(), trace: trace.map(str::to_owned), tail }
    }

    fn at(process: &str, second: u32, more: &str) -> pb::LogLine {
        let line = format!(r#"{{"timestamp":"2026-11-20T12:00:0{second}.000000Z","level":"INFO","message":"{more}"}}"#);
        pb::LogLine { process: process.to_owned(), line, lost: 0 }
    }

    #[test]
    fn lines_of_a_trace_come_in_the_order_of_time_and_others_process_by_process() {
        let plain = pb::LogLine { process: "users-1".into(), line: "panicked".into(), lost: 0 };
        let each = vec![
            vec![at("users-1", 2, "a"), plain, at("users-1", 4, "b")],
            vec![at("gateway", 1, "c"), at("gateway", 3, "d")],
        ];
        let told = |wanted: &Wanted| -> Vec<String> {
            let lines = wanted.arrange(each.clone());
            lines.iter().map(|line| line.line.rsplit('"').nth(1).unwrap_or(&line.line).to_owned()).collect()
        };
        assert_eq!(told(&wanted(Some(ID), 10)), ["c", "a", "panicked", "d", "b"]);
        assert_eq!(told(&wanted(Some(ID), 1)), ["d", "b"]);
        assert_eq!(told(&wanted(None, 2)), ["panicked", "b", "c", "d"]);
    }

    #[test]
    fn a_line_is_of_a_trace_if_its_id_stands_in_it() {
        let wanted = wanted(Some(ID), 10);
        assert!(wanted.takes(&format!("panicked in 00-{ID}-00f067aa0ba902b7-01")));
        assert!(!wanted.takes("panicked"));
    }
}
