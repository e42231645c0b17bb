//! What `weft up` shows: a live table on a terminal, plain lines elsewhere.
//!
//! Lives here: stages, the table, which changes of a row are worth a line. Does not: what runs (`board`).
//! Talk goes to stderr; what a person may want to copy goes to stdout.

use std::{
    fmt::Write,
    io::{IsTerminal, Write as _},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use comfy_table::{Table, presets};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::{sync::broadcast, time::Instant};

use crate::{
    board::{Row, State},
    terminal::Quiet,
};

/// Without a terminal, a long build says what it does this often.
const STILL_BUSY: Duration = Duration::from_secs(10);
/// The terminal is drawn again this often, since a change that comes soon after another is not drawn by itself.
const REDRAW: Duration = Duration::from_millis(100);
/// Lines kept for a listener that is late.
const TALK: usize = 256;

/// The screen; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Screen {
    kind: Arc<Kind>,
    talk: broadcast::Sender<String>,
}

#[derive(Debug)]
enum Kind {
    Terminal {
        all: MultiProgress,
        busy: ProgressBar,
        /// One bar a line: a bar of many lines leaves some behind when it shrinks. The lock is held for a redraw.
        table: Mutex<Vec<ProgressBar>>,
        _quiet: Option<Quiet>,
    },
    Lines,
}

impl Screen {
    /// A live one if stderr is a terminal.
    pub(crate) fn new() -> Self {
        let kind = if std::io::stderr().is_terminal() {
            let all = MultiProgress::new();
            let busy = all.add(line("{spinner} {msg}"));
            busy.enable_steady_tick(REDRAW);
            let table = Mutex::default();
            Kind::Terminal { all, busy, table, _quiet: Quiet::new() }
        } else {
            Kind::Lines
        };
        Self { kind: Arc::new(kind), talk: broadcast::Sender::new(TALK) }
    }

    pub(crate) fn is_live(&self) -> bool {
        matches!(*self.kind, Kind::Terminal { .. })
    }

    /// A line that stays.
    pub(crate) fn say(&self, line: &str) {
        match &*self.kind {
            // A terminal that went away is no reason to stop.
            Kind::Terminal { all, .. } => drop(all.println(line)),
            Kind::Lines => drop(writeln!(std::io::stderr(), "{line}")),
        }
        let _ = self.talk.send(line.to_owned()); // usually nobody listens
    }

    /// Text that a person may want to copy.
    pub(crate) fn print(&self, text: &str) {
        let print = || drop(writeln!(std::io::stdout(), "{text}"));
        match &*self.kind {
            Kind::Terminal { all, .. } => all.suspend(print),
            Kind::Lines => print(),
        }
    }

    /// Hears every line said from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<String> {
        self.talk.subscribe()
    }

    /// Begins a stage; its line is said when it is done.
    pub(crate) fn stage(&self, name: &str) -> Stage {
        if let Kind::Terminal { busy, .. } = &*self.kind {
            busy.set_message(name.to_owned());
        }
        Stage {
            screen: self.clone(),
            name: name.to_owned(),
            since: Instant::now(),
            said: std::cell::Cell::new(Instant::now()),
        }
    }

    /// Shows the rows, where the screen is live.
    pub(crate) fn table(&self, rows: &[Row]) {
        let Kind::Terminal { all, busy, table, .. } = &*self.kind else { return };
        let text = if rows.is_empty() { String::new() } else { render(rows) };
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = text.lines().count();
        let kept = wanted.min(table.len());
        table.drain(kept..).for_each(|bar| all.remove(&bar));
        while table.len() < wanted {
            table.push(all.insert_before(busy, line("{wide_msg}")));
        }
        table.iter().zip(text.lines()).for_each(|(bar, text)| bar.set_message(text.to_owned()));
    }

    /// Leaves the terminal as it should be found.
    pub(crate) fn close(&self) {
        if let Kind::Terminal { all, .. } = &*self.kind {
            drop(all.clear());
        }
    }
}

fn line(template: &str) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new_spinner().with_style(style)
}

/// A stage under way.
pub(crate) struct Stage {
    screen: Screen,
    name: String,
    since: Instant,
    said: std::cell::Cell<Instant>,
}

impl Stage {
    /// Says what it is busy with: at once on a terminal, now and then elsewhere.
    pub(crate) fn busy(&self, what: &str) {
        match &*self.screen.kind {
            Kind::Terminal { busy, .. } => busy.set_message(format!("{}: {what}", self.name)),
            Kind::Lines if self.said.get().elapsed() >= STILL_BUSY && !what.starts_with("Finished") => {
                self.said.set(Instant::now());
                self.screen.say(&format!("  {:<10} … {what}", self.name));
            }
            Kind::Lines => {}
        }
    }

    /// Says how it ended, and how long it took.
    pub(crate) fn done(self, what: &str) {
        self.screen.say(&format!("  {:<10} {what:<40} {:>7}", self.name, seconds(self.since.elapsed())));
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Kind::Terminal { busy, .. } = &*self.screen.kind {
            busy.set_message("Ctrl-C stops everything in order");
        }
    }
}

/// `0.4 s`.
pub(crate) fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn render(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["name", "state", "pid", "app", "restarts", "address"]);
    for row in rows {
        let number = |pid: Option<u32>| pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        let address = ["inbound", "http", "grpc"].iter().find_map(|proto| row.addresses.get(*proto));
        table.add_row([
            row.name(),
            row.state.name().to_owned(),
            number(row.pid),
            number(row.app),
            row.all_restarts().to_string(),
            address.map_or_else(|| "-".to_owned(), ToString::to_string),
        ]);
    }
    table.trim_fmt()
}

/// The lines that tell a person what changed between two moments, in the order of the rows. Starting, draining and leaving are told by
/// who ordered them.
pub(crate) fn changes(before: &[Row], now: &[Row]) -> Vec<String> {
    now.iter().filter_map(|row| change(before.iter().find(|it| it.key == row.key)?, row)).collect()
}

fn change(before: &Row, now: &Row) -> Option<String> {
    if before.state == now.state {
        return None;
    }
    let mut line = format!("{} ", now.name());
    match now.state {
        State::Starting | State::Draining | State::Stopped => return None,
        // The first time is part of a start or of an order.
        State::Serving if matches!(before.state, State::Starting) && now.restarts == 0 => return None,
        State::Serving => {
            line.push_str("serves again");
            if let Some(pid) = now.app.or(now.pid) {
                write!(line, " (pid {pid})").ok()?;
            }
        }
        State::NotServing => line.push_str("does not serve"),
        State::Revoked => line.push_str("is not listed"),
        State::Crashed => line.push_str("crashed"),
        State::GaveUp => line.push_str("failed too often and stays down until `weft restart`"),
    }
    if !now.reason.is_empty() && now.state != State::Serving {
        write!(line, ": {}", now.reason).ok()?;
    }
    Some(line)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{board, plan::Slot};

    fn row(state: State, restarts: u64, reason: &str) -> Row {
        Row {
            key: 1,
            kind: board::Kind::Instance(Slot { service: "users".parse().unwrap(), number: 1 }),
            state,
            reason: reason.to_owned(),
            pid: Some(10),
            app: Some(11),
            addresses: BTreeMap::from([("inbound".to_owned(), "127.0.0.1:1".parse().unwrap())]),
            restarts,
            app_restarts: 0,
            since: None,
            instance: None,
        }
    }

    #[test]
    fn a_crash_and_the_return_from_it_are_told_and_a_first_start_is_not() {
        let (starting, serving) = (row(State::Starting, 0, ""), row(State::Serving, 0, ""));
        let crashed = row(State::Crashed, 0, "signal 9 (SIGKILL) after 4.0 s");
        let told = |before: &Row, now: &Row| changes(std::slice::from_ref(before), std::slice::from_ref(now));
        assert!(told(&starting, &serving).is_empty());
        assert!(told(&serving, &serving).is_empty());
        assert_eq!(told(&serving, &crashed), ["users-1 crashed: signal 9 (SIGKILL) after 4.0 s"]);
        assert_eq!(told(&crashed, &serving), ["users-1 serves again (pid 11)"]);
        assert_eq!(told(&row(State::Starting, 1, ""), &row(State::Serving, 1, "")), ["users-1 serves again (pid 11)"]);
        assert!(changes(&[], &[crashed]).is_empty());
    }

    #[test]
    fn the_table_shows_a_row_a_process() {
        let text = render(&[row(State::Serving, 2, "")]);
        let words: Vec<_> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words, ["users-1", "serving", "10", "11", "2", "127.0.0.1:1"]);
    }
}
