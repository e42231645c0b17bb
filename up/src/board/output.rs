//! What processes write: where they listen is taken out of it, the rest goes to their log files.
//!
//! Lives here: reading one process's output to its end, telling announcements from talk. Does not: what an announcement means
//! (`board`), the file's bounds (`logfile`).

use std::{io, net::SocketAddr, time::Duration};

use serde::Deserialize;
use tokio::{sync::mpsc, time::timeout};
use weft_supervise::{Followed, Handle, Line, Stream};

use super::{Announced, Event, Key};
use crate::logfile::LogFile;

/// A log file is written when a process has been silent for this long, or when the buffer is full.
const LOG_IDLE: Duration = Duration::from_millis(50);

/// A line on stdout that says where a process listens.
#[derive(Deserialize)]
struct Listening {
    event: String,
    proto: String,
    addr: SocketAddr,
}

fn listening(line: &Line) -> Option<Listening> {
    let it: Listening = (line.stream == Stream::Stdout).then(|| serde_json::from_str(&line.text).ok())??;
    (it.event == "listening").then_some(it)
}

/// Whether a line is meant for us, not for a person who reads logs.
pub(crate) fn is_for_us(line: &Line) -> bool {
    listening(line).is_some()
}

/// Reads what a process writes, to its end.
pub(super) async fn read(key: Key, handle: Handle, mut log: LogFile, tell: mpsc::Sender<Event>) {
    let mut lines = handle.logs().follow(usize::MAX);
    let mut full_disk = false;
    loop {
        let next = timeout(LOG_IDLE, lines.next()).await;
        let written = match next {
            Err(_) => {
                let flushed = log.flush().await;
                match lines.next().await {
                    None => return,
                    Some(it) => flushed.and(heard(key, &it, &mut log, &tell).await),
                }
            }
            Ok(Some(it)) => heard(key, &it, &mut log, &tell).await,
            Ok(None) => {
                drop(log.flush().await);
                return;
            }
        };
        if let (Err(error), false) = (&written, full_disk) {
            full_disk = true;
            tracing::warn!(%error, name = handle.name(), "cannot write the log file; lines are lost there");
        }
    }
}

async fn heard(key: Key, it: &Followed, log: &mut LogFile, tell: &mpsc::Sender<Event>) -> io::Result<()> {
    let line = match it {
        Followed::Missed(count) => return log.write(&format!("({count} lines lost)")).await,
        Followed::Line(line) => line,
    };
    if let Some(Listening { proto, addr, .. }) = listening(line) {
        let announced = Announced { line: line.number, proto, addr };
        let _ = tell.send(Event::Announced(key, announced)).await; // nobody listens at the end
        return Ok(());
    }
    log.write(&line.text).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_announcements_on_stdout_are_for_us() {
        let line = |stream, text: &str| Line { number: 0, stream, text: text.into() };
        let announced = r#"{"event":"listening","role":"gateway","proto":"http","addr":"127.0.0.1:1"}"#;
        assert!(is_for_us(&line(Stream::Stdout, announced)));
        assert!(!is_for_us(&line(Stream::Stderr, announced)), "an app may write such a thing");
        assert!(!is_for_us(&line(Stream::Stdout, "{}")));
    }
}
