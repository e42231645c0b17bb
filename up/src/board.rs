//! What runs: one row a process, put together from what the supervisor, the process itself and the registry say.
//!
//! Lives here: the rows and the rule that gives each its state. Does not: reading what processes write (`output`), changing anything
//! (`director`).
//! One task writes the rows; everybody else reads them through a [`View`] and waits for a state.
//! Invariant: an instance counts as serving when the registry lists the inbound address that its present process announced, so that a
//! lease left by a process that was killed never speaks for the one after it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{interval, sleep},
};
use weft_model::{InstanceId, REVOKED, Snapshot, Status};
use weft_supervise::{ChildEvent, Event as Happened, Handle, Logs, Noticed};

use crate::{logfile::LogFile, plan::Slot, probe, procfs};

mod output;

pub(crate) use output::is_for_us;

/// Events on their way to the board; who tells more waits.
const EVENTS: usize = 256;
/// App processes come and go without anybody telling us; `ps` shows them at most this late.
const TICK: Duration = Duration::from_secs(1);
/// Readiness of a role is asked this often until it is there, and then to see whether it stays.
const PROBE_STARTING: Duration = Duration::from_millis(25);
const PROBE_READY: Duration = Duration::from_secs(1);

/// Names one supervised process for the life of `weft up`; its replacement in the same slot has another.
pub(crate) type Key = u64;

/// What a process is, in the order of rows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Registry,
    Instance(Slot),
    Gateway,
}

impl Kind {
    /// Name for people: the role, or the slot.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Registry => "registry".to_owned(),
            Self::Gateway => "gateway".to_owned(),
            Self::Instance(slot) => slot.to_string(),
        }
    }
}

/// Where a process is in its life, in the words of `weft.up.v1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    Serving,
    NotServing,
    /// Runs, and an operator took it out of the registry.
    Revoked,
    Draining,
    Crashed,
    GaveUp,
    Stopped,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Serving => "serving",
            Self::NotServing => "not serving",
            Self::Revoked => "revoked",
            Self::Draining => "draining",
            Self::Crashed => "crashed",
            Self::GaveUp => "gave up",
            Self::Stopped => "stopped",
        }
    }
}

/// One process at one moment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) kind: Kind,
    pub(crate) state: State,
    /// Why; may be empty.
    pub(crate) reason: String,
    pub(crate) pid: Option<u32>,
    /// The app behind a sidecar.
    pub(crate) app: Option<u32>,
    /// Where it listens, by the protocol it announced.
    pub(crate) addresses: BTreeMap<String, SocketAddr>,
    /// Starts of the process itself after the first.
    pub(crate) restarts: u64,
    /// Starts of the app after its sidecar's first, as far as they were seen.
    pub(crate) app_restarts: u64,
    /// When the present process started.
    pub(crate) since: Option<SystemTime>,
    pub(crate) instance: Option<InstanceId>,
}

impl Row {
    pub(crate) fn name(&self) -> String {
        self.kind.name()
    }

    /// Starts after the first, of whichever of its processes.
    pub(crate) const fn all_restarts(&self) -> u64 {
        self.restarts + self.app_restarts
    }
}

/// What the board hears.
enum Event {
    Added(Box<Unit>),
    Leaving(Key),
    Removed(Key),
    Announced(Key, Announced),
    Ready(Key, Result<(), String>),
    World(Arc<Snapshot>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Announced {
    /// Number of the line that said it.
    line: u64,
    proto: String,
    addr: SocketAddr,
}

/// One supervised process and what is known of it.
struct Unit {
    key: Key,
    kind: Kind,
    handle: Handle,
    log: LogFile,
    /// The latest for each protocol.
    announced: BTreeMap<String, Announced>,
    /// What `/readyz` said last: of a role at any time, of an instance while the registry does not list it.
    ready: Result<(), String>,
    /// Somebody asked it to leave.
    leaving: bool,
    /// How it ended last, and that it has not served since.
    failed: Option<String>,
    apps: Apps,
}

/// The apps seen behind one sidecar.
#[derive(Debug, Default)]
struct Apps {
    sidecar: Option<u32>,
    last: Option<u32>,
    restarts: u64,
}

impl Apps {
    /// Takes note of the app that runs now behind the sidecar that runs now; a new sidecar starts its first app.
    fn see(&mut self, sidecar: Option<u32>, app: Option<u32>) {
        if sidecar != self.sidecar {
            (self.sidecar, self.last) = (sidecar, None);
        }
        if let Some(app) = app {
            let last = self.last.replace(app);
            self.restarts += u64::from(last.is_some_and(|last| last != app));
        }
    }
}

/// The task that writes the rows.
pub(crate) struct Board {
    events: mpsc::Receiver<Event>,
    happened: weft_supervise::Events,
    units: BTreeMap<Key, Unit>,
    world: Arc<Snapshot>,
    rows: watch::Sender<Arc<[Row]>>,
    outputs: watch::Sender<Arc<[Output]>>,
    view: View,
    parts: JoinSet<()>,
}

/// What one process writes, for those who want to read it.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    pub(crate) key: Key,
    pub(crate) kind: Kind,
    pub(crate) logs: Logs,
}

/// A hold on the board; clones are cheap.
#[derive(Debug, Clone)]
pub(crate) struct View {
    events: mpsc::Sender<Event>,
    rows: watch::Receiver<Arc<[Row]>>,
    outputs: watch::Receiver<Arc<[Output]>>,
}

impl std::fmt::Debug for Event {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Event")
    }
}

impl Board {
    /// Returns the board and a view of it. `happened` tells when something changed with the children.
    pub(crate) fn new(happened: weft_supervise::Events) -> (Self, View) {
        let (tell, events) = mpsc::channel(EVENTS);
        let (rows, seen) = watch::channel(Arc::from([]));
        let (outputs, written) = watch::channel(Arc::from([]));
        let view = View { events: tell, rows: seen, outputs: written };
        let (units, world, parts) = (BTreeMap::new(), Arc::default(), JoinSet::new());
        (Self { events, happened, units, world, rows, outputs, view: view.clone(), parts }, view)
    }

    /// Writes rows until dropped.
    pub(crate) async fn run(mut self) {
        let mut tick = interval(TICK);
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => self.hear(event),
                Some(noticed) = self.happened.next() => self.notice(noticed),
                Some(_) = self.parts.join_next() => {}
                _ = tick.tick() => {}
            }
            self.publish();
        }
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Added(unit) => self.add(*unit),
            Event::Leaving(key) => self.with(key, |unit| unit.leaving = true),
            Event::Removed(key) => {
                self.units.remove(&key);
                self.publish_outputs();
            }
            Event::Announced(key, it) => self.with(key, |unit| drop(unit.announced.insert(it.proto.clone(), it))),
            Event::Ready(key, ready) => self.with(key, |unit| unit.ready = ready),
            Event::World(world) => self.world = world,
        }
    }

    /// Only how a process ended is taken from here: where it is now, its handle says.
    fn notice(&mut self, noticed: Noticed) {
        let Noticed::Event(ChildEvent { child, event: Happened::Exited { exit } }) = noticed else { return };
        if let Some(unit) = self.units.values_mut().find(|unit| unit.handle.name() == &*child) {
            // An end that was asked for is no failure, and with it the asking is over.
            unit.failed = (!std::mem::take(&mut unit.leaving)).then(|| exit.to_string());
            unit.ready = Err("starting".to_owned());
        }
    }

    fn with(&mut self, key: Key, change: impl FnOnce(&mut Unit)) {
        if let Some(unit) = self.units.get_mut(&key) {
            change(unit);
        }
    }

    fn add(&mut self, mut unit: Unit) {
        let log = std::mem::replace(&mut unit.log, LogFile::new("/dev/null".into()));
        self.parts.spawn(output::read(unit.key, unit.handle.clone(), log, self.view.events.clone()));
        let (key, view, of_role) = (unit.key, self.view.clone(), !matches!(unit.kind, Kind::Instance(_)));
        self.units.insert(key, unit);
        self.publish();
        self.publish_outputs();
        match of_role {
            true => self.parts.spawn(ask(key, view)),
            false => self.parts.spawn(ask_unlisted(key, view)),
        };
    }

    fn publish_outputs(&self) {
        let output = |unit: &Unit| Output { key: unit.key, kind: unit.kind.clone(), logs: unit.handle.logs().clone() };
        self.outputs.send_replace(self.units.values().map(output).collect());
    }

    fn publish(&mut self) {
        let world = &self.world;
        let mut rows: Vec<Row> = self.units.values_mut().map(|unit| unit.row(world)).collect();
        rows.sort_by(|a, b| (&a.kind, a.key).cmp(&(&b.kind, b.key))); // a replacement stands beside what it replaces
        self.rows.send_if_modified(|before| {
            let changed = **before != rows[..];
            if changed {
                *before = rows.into();
            }
            changed
        });
    }
}

impl Unit {
    fn row(&mut self, world: &Snapshot) -> Row {
        let status = self.handle.status();
        let present = self.announced.values().filter(|it| it.line >= status.first_line);
        let mut addresses: BTreeMap<_, _> = present.map(|it| (it.proto.clone(), it.addr)).collect();
        let pid = self.handle.pid();
        if pid.is_none() {
            addresses.clear();
        }
        let listed = match &self.kind {
            Kind::Instance(slot) => addresses.get("inbound").and_then(|inbound| listed(world, slot, *inbound)),
            Kind::Registry | Kind::Gateway => None,
        };
        let (state, reason) = self.state(&status.state, listed.as_ref());
        if state == State::Serving {
            self.failed = None;
        }
        let app = pid
            .filter(|_| matches!(self.kind, Kind::Instance(_)))
            .and_then(|pid| procfs::children(pid).first().copied());
        self.apps.see(pid, app);
        let since = pid.and_then(procfs::started_at);
        let instance = listed.map(|(id, ..)| id);
        let (key, kind, app_restarts) = (self.key, self.kind.clone(), self.apps.restarts);
        Row { key, kind, state, reason, pid, app, addresses, restarts: status.restarts, app_restarts, since, instance }
    }

    fn state(&self, child: &weft_supervise::State, listed: Option<&(InstanceId, Status, String)>) -> (State, String) {
        use weft_supervise::State as Child;
        let failed = || self.failed.clone().unwrap_or_default();
        match child {
            Child::Starting if self.failed.is_none() => (State::Starting, String::new()),
            Child::Starting | Child::Waiting { .. } => (State::Crashed, failed()),
            Child::Stopping { .. } => (State::Draining, String::new()),
            Child::GaveUp { exit } => (State::GaveUp, exit.to_string()),
            Child::Stopped => (State::Stopped, failed()),
            Child::Running { .. } if self.leaving => (State::Draining, String::new()),
            Child::Running { .. } => match (&self.kind, listed) {
                (Kind::Registry | Kind::Gateway, _) => match &self.ready {
                    Ok(()) => (State::Serving, String::new()),
                    Err(why) => (State::Starting, self.failed.clone().unwrap_or_else(|| why.clone())),
                },
                (Kind::Instance(_), None) => match &self.ready {
                    Err(why) if why == REVOKED => (State::Revoked, why.clone()),
                    Ok(()) => (State::Starting, failed()),
                    // Its sidecar waits for the app, or for a registry, and says so.
                    Err(why) => (State::Starting, self.failed.clone().unwrap_or_else(|| why.clone())),
                },
                (Kind::Instance(_), Some((_, status, reason))) => (of(*status), reason.clone()),
            },
        }
    }
}

const fn of(status: Status) -> State {
    match status {
        Status::Starting => State::Starting,
        Status::Serving => State::Serving,
        Status::NotServing => State::NotServing,
        Status::Draining => State::Draining,
        Status::Crashed => State::Crashed,
    }
}

/// What the registry says of the instance at this address.
fn listed(world: &Snapshot, slot: &Slot, inbound: SocketAddr) -> Option<(InstanceId, Status, String)> {
    let service = world.services.get(&slot.service)?;
    let instance = service.instances.values().find(|it| it.endpoint.address == inbound)?;
    Some((instance.id, instance.status, instance.reason.clone()))
}

impl View {
    /// Shows a process that the supervisor keeps; what it writes goes to `log`, too.
    pub(crate) async fn add(&self, key: Key, kind: Kind, handle: Handle, log: LogFile) {
        let (announced, ready) = (BTreeMap::new(), Err("starting".to_owned()));
        let unit =
            Unit { key, kind, handle, log, announced, ready, leaving: false, failed: None, apps: Apps::default() };
        self.tell(Event::Added(Box::new(unit))).await;
    }

    /// Shows a process as draining from now on.
    pub(crate) async fn leaving(&self, key: Key) {
        self.tell(Event::Leaving(key)).await;
    }

    /// Shows a process no more.
    pub(crate) async fn remove(&self, key: Key) {
        self.tell(Event::Removed(key)).await;
    }

    /// What the registry says.
    pub(crate) async fn world(&self, world: Arc<Snapshot>) {
        self.tell(Event::World(world)).await;
    }

    /// The rows now.
    pub(crate) fn rows(&self) -> Arc<[Row]> {
        self.rows.borrow().clone()
    }

    /// What the processes write: changes when one comes or goes.
    pub(crate) fn outputs(&self) -> watch::Receiver<Arc<[Output]>> {
        self.outputs.clone()
    }

    /// Waits for a change and returns the rows; `None` when the board is gone. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Option<Arc<[Row]>> {
        self.rows.changed().await.ok()?;
        Some(self.rows.borrow_and_update().clone())
    }

    /// Waits until `wanted` finds what it looks for in the rows; `None` when the board is gone. Cancel-safe.
    pub(crate) async fn find<T>(&self, wanted: impl Fn(&[Row]) -> Option<T>) -> Option<T> {
        let mut rows = self.rows.clone();
        loop {
            let now = rows.borrow_and_update().clone();
            if let Some(found) = wanted(&now) {
                return Some(found);
            }
            rows.changed().await.ok()?;
        }
    }

    async fn tell(&self, event: Event) {
        // The board lives as long as the process; at its end nobody reads rows any more.
        let _ = self.events.send(event).await;
    }
}

/// Asks a role's `/readyz`, again and again, wherever its admin server listens by then.
async fn ask(key: Key, view: View) {
    loop {
        let address = |rows: &[Row]| {
            let row = rows.iter().find(|row| row.key == key)?;
            Some((*row.addresses.get("admin")?, row.restarts))
        };
        let Some((addr, restarts)) = view.find(address).await else { return };
        let ready = probe::ready(addr).await;
        let pause = if ready.is_ok() { PROBE_READY } else { PROBE_STARTING };
        view.tell(Event::Ready(key, ready)).await;
        let again = |row: &Row| row.restarts > restarts;
        let ended = |rows: &[Row]| rows.iter().find(|row| row.key == key).is_none_or(again).then_some(());
        // A process that ended is followed by one whose readiness is news at once.
        drop(tokio::time::timeout(pause, view.find(ended)).await);
    }
}

/// Asks an instance's sidecar while it runs unlisted: only it knows whether it is on its way in or was taken out. Ends when the row is gone.
async fn ask_unlisted(key: Key, view: View) {
    let next = |rows: &[Row]| match rows.iter().find(|row| row.key == key) {
        None => Some(None),
        Some(row) if row.instance.is_none() => row.addresses.get("admin").map(|addr| Some(*addr)),
        Some(_) => None,
    };
    while let Some(Some(addr)) = view.find(next).await {
        view.tell(Event::Ready(key, probe::ready(addr).await)).await;
        sleep(PROBE_READY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_counts_as_restarted_when_another_runs_behind_the_same_sidecar() {
        let mut apps = Apps::default();
        let mut count = |sidecar, app| {
            apps.see(sidecar, app);
            apps.restarts
        };
        assert_eq!(count(Some(1), None), 0);
        assert_eq!(count(Some(1), Some(2)), 0, "its first");
        assert_eq!(count(Some(1), None), 0);
        assert_eq!(count(Some(1), Some(3)), 1);
        assert_eq!(count(Some(1), Some(3)), 1);
        assert_eq!(count(Some(4), Some(5)), 1, "the first of a new sidecar");
        assert_eq!(count(Some(4), Some(6)), 2);
    }
}
