//! Watches: what changed, to whom it matters, and the smallest true message about it.
//!
//! Lives here: subscriptions, wake-ups, snapshots and deltas, acknowledgements on their way to `acks`. Does not: streams (`grpc::watch`).
//! ```text
//! catalog ─► Watches::run ─ marks the services that changed ─► watchers that subscribed them, once each ─► Watcher::take ─► message
//! ```
//! Bounds: a watcher has one mark a service however often it changes, and is told the latest; one of everything (`*`) has one mark in all, and is told
//! what differs between the snapshot it has and that of its round, which may be as old as the round. What a watcher was sent is shared with the catalog,
//! the bytes that say it with all who are told the same (`told`). After a message it rests for a while (`REST`, or longer as the `pace` has it), and what comes
//! meanwhile is one message.
//! A watcher that rests is not woken before it has rested: `run` wakes those whose time has come together, so that a message costs its task one turn.
//! Invariants: versions never fall within a watch; a service that did not change wakes nobody; the first message at version v leaves its receiver
//! with exactly the subscribed services of the snapshot v, those after it at the same version with newer ones.
//! An instance that drains stays in the watch with status DRAINING; that is "gone" for balancers, which use none but SERVING ones, and its
//! removal comes when it deregisters.
//! Locking: one mutex around marks, present version and acks, held for the marking of one version or the taking of one message's work.

mod hub;
mod session;
mod told;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use weft_model::{InstanceId, Invalid, ServiceName, ServiceSnapshot, Snapshot, Version};
use weft_proto::weft::discovery::v1 as pb;

use crate::{
    acks::{Drain, Seen, Standing, WatcherId},
    catalog::{Catalog, Follow, Published},
    metrics::WatchMetrics,
    views::{
        pace::Pace,
        watch::{hub::Hub, session::Session, told::Encoded},
    },
};

pub(super) use told::{Message, Told};

/// Least time between two messages of a watch, unless they are parts of one answer, or half of it brings the watch to those that are told the same: where many services change all the time, what a message costs
/// both ends is most of the work. A change after a pause is told at once.
const REST: Duration = Duration::from_millis(40);

/// What a watcher subscribes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// `*`: every service, also those that come later.
    All,
    /// `@directory`: names and facts of every service, without instances.
    Directory,
    /// One service, listed or not.
    Service(ServiceName),
}

impl std::str::FromStr for Topic {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "*" => Ok(Self::All),
            "@directory" => Ok(Self::Directory),
            name => name.parse().map(Self::Service),
        }
    }
}

/// All watches of a registry. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Watches(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hub: Mutex<Hub>,
    /// Moves when something happened that a drain may wait for: a version was marked, a watcher acknowledged or left.
    progress: watch::Sender<()>,
    /// Somebody rests, and nobody does not so long.
    rests: Notify,
    ids: AtomicU64,
    encoded: Encoded,
    pace: Pace,
    metrics: WatchMetrics,
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watches {
    /// Watches of this catalog. They learn of changes while `run` runs.
    pub fn new(catalog: &Catalog, metrics: &weft_runtime::Metrics) -> Self {
        let hub = Mutex::new(Hub::new(catalog.published()));
        let (progress, metrics) = (watch::Sender::new(()), WatchMetrics::register(metrics));
        let (rests, ids, encoded) = (Notify::new(), AtomicU64::new(0), Encoded::default());
        Self(Arc::new(Shared { hub, progress, rests, ids, encoded, pace: Pace::new(), metrics }))
    }

    /// The pace of its streams, which those of other views share.
    pub(crate) fn pace(&self) -> Pace {
        self.0.pace.clone()
    }

    /// Marks what changes, and wakes who has rested, until the catalog ends.
    pub async fn run(self, mut catalog: Follow) {
        loop {
            let rested_at = self.0.hub().rested_at();
            let rested = async {
                match rested_at {
                    Some(at) => drop(timeout_at(at, self.0.rests.notified()).await),
                    None => self.0.rests.notified().await,
                }
            };
            tokio::select! {
                published = catalog.next() => {
                    let Some(published) = published else { return };
                    let woken = self.0.hub().update(published, Instant::now());
                    self.0.metrics.wakeups.inc_by(woken);
                    self.0.progress.send_replace(());
                }
                () = rested => self.0.hub().rested(Instant::now()),
            }
        }
    }

    /// What a watcher would be told first of these services, for one who does not watch.
    pub(super) fn first<'a>(
        &'a self,
        services: impl Iterator<Item = &'a Arc<ServiceSnapshot>> + 'a,
        published: &'a Published,
    ) -> impl Iterator<Item = Told> + 'a {
        services.map(|service| self.0.encoded.once(service, published))
    }

    /// Opens a watch. It ends when it is dropped.
    pub fn open(&self, name: &str) -> Watcher {
        let id = WatcherId(self.0.ids.fetch_add(1, Ordering::Relaxed));
        let wake = Arc::new(Notify::new());
        self.0.hub().open(id, name, wake.clone(), Instant::now());
        self.0.metrics.watchers.inc();
        Watcher { id, shared: self.0.clone(), wake, session: Session::default() }
    }

    /// A polled view tells what it knows of a service, to be used until then: a drain that begins later waits for that.
    pub(crate) fn told(&self, view: &'static str, service: &ServiceName, until: Instant) {
        self.0.hub().acks.told(view, service, until, Instant::now());
    }

    /// Names of the live watchers that tell of themselves somewhere, and where; ordered.
    pub(crate) fn admins(&self) -> Vec<(String, SocketAddr)> {
        let mut admins: Vec<_> = self.0.hub().admins().cloned().collect();
        admins.sort_unstable();
        admins
    }

    /// How often a change woke a watcher that had nothing else to do.
    pub fn wakeups(&self) -> u64 {
        self.0.hub().wakeups()
    }

    /// Moves when a drain may have come further.
    pub(crate) fn progress(&self) -> watch::Receiver<()> {
        self.0.progress.subscribe()
    }

    /// Starts waiting for everyone who may still send calls to an instance that drains as of `version`. None: this view is not there yet.
    pub(crate) fn drain(
        &self,
        service: &ServiceName,
        instance: &InstanceId,
        version: Version,
        now: Instant,
    ) -> Option<Drain> {
        let hub = self.0.hub();
        (hub.version() >= version).then(|| hub.acks.drain(service, instance, version, now))
    }

    /// Watchers by name, all or those of one.
    pub(crate) fn clients(&self, name: &str) -> Vec<pb::Client> {
        let (hub, now) = (self.0.hub(), Instant::now());
        let watchers = hub.acks.all().filter(|(_, it)| name.is_empty() || it.name == name);
        let client = |(id, it): (WatcherId, Seen<'_>)| pb::Client {
            name: it.name.to_owned(),
            protocol: pb::client::Protocol::Watch.into(),
            silent_ms: u64::try_from(now.duration_since(it.heard).as_millis()).unwrap_or(u64::MAX),
            version: hub.version().0,
            subscriptions: vec![pb::Subscription {
                kind: "services".to_owned(),
                wildcard: hub.has_all(id),
                count: u32::try_from(it.services).unwrap_or(u32::MAX),
                sent: it.sent.0,
                acknowledged: it.acked.0,
                settled: it.acked >= it.sent && !hub.is_marked(id),
                ..pb::Subscription::default()
            }],
            ..pb::Client::default()
        };
        let mut clients: Vec<_> = watchers.map(client).collect();
        clients.sort_by(|a, b| a.name.cmp(&b.name));
        clients
    }

    /// Where a drain stands.
    pub(crate) fn standing(&self, drain: &Drain, now: Instant) -> Standing {
        drain.standing(&self.0.hub().acks, now)
    }

    /// Names of those who have not acknowledged, silent ones included.
    pub(crate) fn waiting(&self, drain: &Drain) -> Vec<String> {
        drain.waiting(&self.0.hub().acks, Instant::now())
    }
}

/// What a watcher is to be told.
#[derive(Debug, Clone)]
pub struct Update {
    pub(super) message: Message,
    /// The snapshot it was made from.
    pub snapshot: Arc<Snapshot>,
}

impl Update {
    /// The message as its reader has it.
    pub fn response(&self) -> pb::WatchResponse {
        self.message.decoded()
    }
}

/// One watch.
#[derive(Debug)]
pub struct Watcher {
    id: WatcherId,
    shared: Arc<Shared>,
    wake: Arc<Notify>,
    session: Session,
}

impl Watcher {
    /// Adds topics; each is answered in full once. Returns how many there are now.
    pub fn subscribe(&mut self, topics: impl IntoIterator<Item = Topic>) -> usize {
        self.shared.hub().subscribe(self.id, topics.into_iter().collect(), Instant::now())
    }

    /// Drops topics.
    pub fn unsubscribe(&mut self, topics: impl IntoIterator<Item = Topic>) {
        let topics: BTreeSet<_> = topics.into_iter().collect();
        self.shared.hub().unsubscribe(self.id, &topics, Instant::now());
    }

    /// The watcher, known to people by this name, tells of itself there.
    pub(crate) fn tells_at(&self, name: &str, admin: SocketAddr) {
        self.shared.hub().tells_at(self.id, name, admin);
    }

    /// The watcher acts on this version and holds nothing older.
    pub fn ack(&mut self, version: Version) {
        self.shared.metrics.acks.inc();
        if self.shared.hub().acks.acked(self.id, version, Instant::now()) {
            self.shared.progress.send_replace(());
        }
    }

    /// The watcher has no way to acknowledge (any more): it is told as before, and no drain waits for it.
    pub fn acks_no_more(&mut self) {
        self.shared.hub().acks.close(self.id);
        self.shared.progress.send_replace(());
    }

    /// Waits until there is something to tell and the watcher has rested. Cancel-safe: nothing is taken.
    pub async fn ready(&self) {
        while !self.has_turn() {
            self.wake.notified().await;
        }
    }

    fn has_turn(&self) -> bool {
        let mut hub = self.shared.hub();
        let ready = hub.is_ready(self.id);
        if let Some(due) = hub.due(self.id).filter(|_| ready) {
            self.shared.pace.turn(due, Instant::now());
        }
        ready
    }

    /// Takes what there is to tell. None when the marked services turned out as they were sent.
    pub fn take(&mut self) -> Option<Update> {
        let work = self.shared.hub().take(self.id, Instant::now())?;
        let snapshot = work.published.snapshot.clone();
        let (message, left) = self.session.respond(work, &self.shared.encoded);
        let whole = left.is_none();
        if let Some(left) = left {
            self.shared.hub().left(self.id, left);
        }
        let metrics = &self.shared.metrics;
        let Some(message) = message else {
            metrics.idle_wakeups.inc();
            return None;
        };
        metrics.updates.inc();
        let now = Instant::now();
        if whole && self.shared.hub().rest(self.id, now, self.shared.pace.rest(REST, now)) {
            self.shared.rests.notify_one();
        }
        Some(Update { message, snapshot })
    }

    /// Waits for the next update. Cancel-safe.
    pub async fn next(&mut self) -> Update {
        loop {
            self.ready().await;
            if let Some(update) = self.take() {
                return update;
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.hub().close(self.id);
        self.shared.metrics.watchers.dec();
        self.shared.progress.send_replace(());
    }
}

/// The work of one message, or of the first of several.
#[derive(Debug)]
struct Work {
    published: Arc<Published>,
    /// The last version of which everything was told: what a message says while there is more to tell.
    before: Version,
    /// Services to look at, by name.
    services: Vec<Looked>,
    /// Everything that differs from what was sent of everything.
    all: bool,
    /// Services are subscribed by name.
    named: bool,
    /// Everything was unsubscribed, but for the services of these names.
    dropped: Option<Vec<ServiceName>>,
    /// Services that were unsubscribed: what was sent of them does not count any more.
    forgotten: BTreeSet<ServiceName>,
    directory: bool,
    /// With this work the watcher has been told of every service there is.
    complete: bool,
    /// Answer even if there is nothing to say: the watcher asked for a set that may be empty, or waits for it to be complete.
    greet: bool,
}

impl Work {
    /// The rest of an answer about everything.
    fn go_on(before: Version, published: Arc<Published>, named: bool) -> Self {
        let complete = !published.warming;
        let (services, dropped, forgotten) = (Vec::new(), None, BTreeSet::new());
        Self {
            published,
            before,
            services,
            all: true,
            named,
            dropped,
            forgotten,
            directory: false,
            complete,
            greet: true,
        }
    }
}

/// A service as it was found, looked up once for all that is done with it.
#[derive(Debug)]
struct Looked {
    service: Arc<ServiceSnapshot>,
    /// Of what is not listed an empty set is made up for whoever asks: its version says nothing about it.
    listed: bool,
}

impl Looked {
    fn at(name: &ServiceName, published: &Published) -> Self {
        match published.snapshot.services.get(name) {
            Some(service) => Self { service: service.clone(), listed: true },
            None => Self { service: published.service(name), listed: false },
        }
    }
}

/// The work that a message had no room for.
#[derive(Debug)]
struct Left {
    before: Version,
    services: BTreeSet<ServiceName>,
    /// The snapshot that the reader of everything is being told of.
    going: Option<Arc<Published>>,
    directory: bool,
    greet: bool,
}
