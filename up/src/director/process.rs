//! One process of the mesh: started, waited for, asked to leave.
//!
//! Lives here: these steps, and what is wrong with a process that does not take one. Does not: which processes, and in which order (`director`), what each is
//! started with (`launch`).

use std::collections::BTreeSet;

use tokio::{task::JoinSet, time::timeout};
use weft_supervise::Spec;

use super::{
    Director, START_LIMIT,
    told::{Failed, Steps},
};
use crate::{
    board::{Key, Kind, Row, State},
    listed,
    logfile::LogFile,
    text,
};

/// Lines of a process's output looked through when it fails, and of those shown.
const LINES_READ: usize = 100;
const LAST_LINES: usize = 12;

impl Director {
    pub(super) async fn start(&mut self, kind: Kind) -> Result<Key, Failed> {
        self.next += 1;
        let key = self.next;
        let name = kind.name();
        let spec = self.spec(&kind, format!("{name}/{key}"));
        let handle = self.control.start(spec).await.map_err(|closed| Failed::because(closed.to_string()))?;
        self.running.insert(key, (kind.clone(), handle.clone()));
        self.board.add(key, kind, handle, LogFile::new(self.place.log(&name))).await;
        Ok(key)
    }

    fn spec(&self, kind: &Kind, child: String) -> Spec {
        match kind {
            Kind::Registry => self.launch.registry(child, &self.config),
            Kind::Gateway => self.launch.gateway(child, &self.config),
            Kind::Instance(slot) => {
                let service = self.config.services.get(&slot.service).expect("only configured services get slots");
                self.launch.instance(child, slot, service)
            }
        }
    }

    /// Waits until a process that was started just now serves, and returns its row.
    pub(super) async fn serving(&self, key: Key, steps: Option<&Steps>) -> Result<Row, Failed> {
        self.serving_after(key, 0, steps).await
    }

    /// As `serving`, where so many restarts were asked for.
    pub(super) async fn serving_after(&self, key: Key, restarts: u64, steps: Option<&Steps>) -> Result<Row, Failed> {
        let end = |rows: &[Row]| {
            let row = rows.iter().find(|row| row.key == key)?;
            match row.state {
                State::Serving => Some(Ok(row.clone())),
                // What ends before it ever served would do so again; the supervisor's further tries would only delay the news.
                _ if row.restarts > restarts => Some(Err(row.reason.clone())),
                State::GaveUp | State::Stopped | State::Revoked => Some(Err(row.reason.clone())),
                State::Starting | State::NotServing | State::Draining | State::Crashed => None,
            }
        };
        let found = Box::pin(timeout(START_LIMIT, self.board.find(end)));
        let what = || format!("{} does not serve yet{}", self.name(key), self.why(key));
        match self.told(found, steps, what).await {
            Ok(Some(Ok(row))) => Ok(row),
            Ok(Some(Err(reason))) => Err(self.failed(key, &format!("{} failed: {reason}", self.name(key)))),
            Ok(None) => Err(Failed::because("shutting down")),
            Err(_) => {
                let what = format!("{} does not serve after {START_LIMIT:?}{}", self.name(key), self.why(key));
                Err(self.failed(key, &what))
            }
        }
    }

    /// ` (reason)`, if a process has one for what it does not do.
    fn why(&self, key: Key) -> String {
        let rows = self.board.rows();
        let why = rows.iter().find(|row| row.key == key).map_or("", |row| &row.reason);
        if why.is_empty() { String::new() } else { format!(" ({why})") }
    }

    pub(super) fn failed(&self, key: Key, what: &str) -> Failed {
        let lines = match self.running.get(&key).map(|(_, handle)| (handle, handle.status().state)) {
            Some((_, weft_supervise::State::GaveUp { exit })) => exit.last_lines, // of the last run alone
            Some((handle, _)) => handle.logs().last(LINES_READ),
            None => Vec::new(),
        };
        let mut last_lines = text::telling(lines.iter().map(|line| &*line.text));
        last_lines.drain(..last_lines.len().saturating_sub(LAST_LINES));
        let hint = self.hint(key);
        Failed { what: what.to_owned(), last_lines, hint }
    }

    /// What to look at: where all the output is, and what an app of ours has to do.
    fn hint(&self, key: Key) -> String {
        let log = self.place.log(&self.name(key));
        let Some((Kind::Instance(slot), _)) = self.running.get(&key) else {
            return format!("all its output is in {}", log.display());
        };
        let service = &slot.service;
        format!(
            "an app listens on 127.0.0.1:$PORT, which its sidecar tells it; see [services.{service}] in {}\n        all its output is in {}",
            self.config.file.display(),
            log.display()
        )
    }

    fn is_stopping(&self, key: Key) -> bool {
        let handle = self.running.get(&key).map(|(_, handle)| handle);
        handle.is_some_and(|it| matches!(it.status().state, weft_supervise::State::Stopping { .. }))
    }

    fn name(&self, key: Key) -> String {
        self.running.get(&key).map(|(kind, _)| kind.name()).unwrap_or_default()
    }

    /// Asks processes to leave and waits until they have.
    pub(super) async fn leave(&mut self, keys: Vec<Key>, steps: Option<&Steps>) {
        let mut stops = JoinSet::new();
        for key in &keys {
            self.board.leaving(*key).await;
            if let Some((_, handle)) = self.running.get(key).cloned() {
                stops.spawn(async move { handle.stop().await });
            }
        }
        let leaving = || {
            let names = keys.iter().filter(|key| self.is_stopping(**key)).map(|key| self.name(*key));
            format!("{} has not left yet: it finishes its calls", names.collect::<Vec<_>>().join(", "))
        };
        self.told(Box::pin(stops.join_all()), steps, leaving).await;
        let mut left = BTreeSet::new();
        for key in keys {
            if let Some((Kind::Instance(slot), _)) = self.running.remove(&key) {
                left.insert(slot.to_string());
            }
            self.board.remove(key).await;
        }
        for (kind, _) in self.running.values() {
            left.remove(&kind.name()); // its replacement is there
        }
        self.take_out(&left).await;
    }

    /// Takes out of the registry what it lists of slots that have no process any more: one that was killed or given up has not left it. What
    /// cannot be is written down for the next `weft up`.
    async fn take_out(&self, slots: &BTreeSet<String>) {
        let which = self.place.listed_of(slots);
        let serves = self.board.rows().iter().any(|row| row.kind == Kind::Registry && row.state == State::Serving);
        let Some(registries) = self.registries.as_ref().filter(|_| serves) else { return };
        match listed::take_out(registries, &self.place, which).await {
            Ok(out) => out.kept.iter().for_each(|kept| self.screen.say(&format!("  stays listed for a while: {kept}"))),
            Err(error) => tracing::warn!(error = format!("{error:#}"), "what has left may stay listed for a while"),
        }
    }
}
