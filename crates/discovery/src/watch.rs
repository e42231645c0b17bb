//! A watch: a subscription to the registry that yields snapshots and outlives the registry's absences.
//!
//! Lives here: the consumer's end, the handle that changes the subscription, the task that keeps a stream open. Does not: what a
//! message means (`state`), the file of the last good snapshot (`disk`).
//! ```text
//! Opening ──stream──► Following ──lost, misfit──► Opening (another registry at once, then back-off 100 ms to 5 s)
//!    │                            └─our certificate was replaced──► Following on another connection, opened before the old stream is left
//!    └─ no registry answers: what is remembered is published, and what was published stays
//! ```
//! A slow consumer costs nothing: it gets the latest state, not each one.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use weft_model::{ServiceName, Snapshot, Version};
use weft_proto::weft::discovery::v1::{self as pb, discovery_client::DiscoveryClient};

use crate::Registries;
use crate::moving::{Moving, Step};
use crate::outage::Outage;
use crate::registries::Link;
use state::{Change, Misfit, State};

mod disk;
mod state;

/// Time a registry has to open the stream.
const OPEN: Duration = Duration::from_secs(3);
/// Requests on their way to the registry; subscriptions and acknowledgements merge before they get here.
const REQUESTS: usize = 8;
/// A registry behind what we have is given this long to catch up; then it has lost its past, and its word is better than an old one.
const BEHIND: Duration = Duration::from_secs(30);
/// A stream that lived this long ended well enough for the next one to be opened without delay. One that ends sooner, whatever it said, is
/// a failure, or a registry that greets and hangs up would be asked again and again without a pause.
const SETTLED: Duration = Duration::from_secs(5);
/// The file of the last good snapshot is written at most this often.
const PERSIST: Duration = Duration::from_secs(1);
/// A snapshot of every service of a large mesh, in full.
const MAX_MESSAGE: usize = 256 << 20;

/// Something a watch may subscribe to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// The instances and facts of one service.
    Service(ServiceName),
    /// Those of all services, also of services yet to come.
    All,
    /// Names and facts of all services, without instances.
    Directory,
}

impl Topic {
    fn wire(&self) -> String {
        match self {
            Self::Service(name) => name.full().to_owned(),
            Self::All => "*".to_owned(),
            Self::Directory => "@directory".to_owned(),
        }
    }
}

/// How a watch starts.
#[derive(Debug, Clone)]
pub struct WatchConfig {
    /// Name of the watcher for people, `gateway/host:pid`; a drain that waits for it says this name.
    pub watcher: String,
    /// Where the watcher tells of itself, for Prometheus to find; an unspecified IP means the one it calls the registry from.
    pub admin: Option<SocketAddr>,
    /// What is subscribed from the start.
    pub topics: Vec<Topic>,
    /// File of the last good snapshot; none keeps nothing on disk.
    pub last_good: Option<PathBuf>,
}

/// The consumer's end of a watch. Dropping it ends the task.
#[derive(Debug)]
pub struct Watch {
    updates: watch::Receiver<Option<Update>>,
    acks: watch::Sender<Version>,
    subscriptions: Subscriptions,
}

/// A new state of what is subscribed.
#[derive(Debug, Clone)]
pub struct Update {
    /// Version to acknowledge once it is acted upon. Never lower than the one before, unless the registry lost its past.
    pub version: Version,
    /// The state. Services that did not change are the same `Arc` as before.
    pub snapshot: Arc<Snapshot>,
}

/// Changes what a watch subscribes to. Cheap to clone, callable from any thread, waits for nothing.
#[derive(Debug, Clone)]
pub struct Subscriptions {
    topics: Arc<watch::Sender<BTreeSet<Topic>>>,
}

/// The running part of a watch; its owner runs it.
#[derive(Debug)]
pub struct WatchTask {
    registries: Registries,
    watcher: String,
    admin: Option<SocketAddr>,
    last_good: Option<PathBuf>,
    state: State,
    topics: watch::Receiver<BTreeSet<Topic>>,
    acks: watch::Receiver<Version>,
    updates: watch::Sender<Option<Update>>,
    outage: Outage,
    disk: Disk,
}

impl Watch {
    /// Returns a watch and the task that feeds it.
    pub fn new(registries: Registries, config: WatchConfig) -> (WatchTask, Self) {
        let (topics, subscribed) = watch::channel(config.topics.into_iter().collect());
        let (acks, acked) = watch::channel(Version::default());
        let (updates, updated) = watch::channel(None);
        let task = WatchTask {
            registries,
            watcher: config.watcher,
            admin: config.admin,
            last_good: config.last_good,
            state: State::default(),
            topics: subscribed,
            acks: acked,
            updates,
            outage: Outage::default(),
            disk: Disk::default(),
        };
        (task, Self { updates: updated, acks, subscriptions: Subscriptions { topics: Arc::new(topics) } })
    }

    /// Waits for the next state; states in between are skipped. `None` when the task has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.changed().await.ok()?;
        self.updates.borrow_and_update().clone()
    }

    /// Tells the registry that this version is acted upon: every call from now on goes by it.
    pub fn ack(&self, version: Version) {
        self.acks.send_replace(version);
    }

    /// Returns the handle that changes the subscription.
    pub fn subscriptions(&self) -> Subscriptions {
        self.subscriptions.clone()
    }
}

impl Subscriptions {
    /// Adds a topic; returns at once, the state follows as an update.
    pub fn subscribe(&self, topic: Topic) {
        self.topics.send_if_modified(|topics| topics.insert(topic));
    }

    /// Drops a topic; an update without it follows.
    pub fn unsubscribe(&self, topic: &Topic) {
        self.topics.send_if_modified(|topics| topics.remove(topic));
    }
}

/// Why following a stream ended.
enum End {
    /// The stream broke or never opened.
    Lost(Status),
    /// It said something that does not fit; a new one starts from full sets.
    Misfit(Misfit),
    /// We are told to stop, or nobody listens any more.
    Stop,
}

/// A stream that is open.
struct Open {
    link: Link,
    requests: mpsc::Sender<pb::WatchRequest>,
    stream: Streaming<pb::WatchResponse>,
    /// What it was told to subscribe.
    topics: BTreeSet<Topic>,
}

/// What can happen while a stream is open.
enum Event {
    Message(Option<pb::WatchResponse>),
    Broken(Status),
    Topics,
    Acked,
    /// The stream's connection shows a certificate that has been replaced.
    Move(Step<Open>),
    StayedBehind,
    PersistDue,
    Stop,
}

impl WatchTask {
    /// Keeps the watch fed until `shutdown` or until its consumer is gone.
    pub async fn run(mut self, shutdown: CancellationToken) {
        self.recall().await;
        let registries = self.registries.clone();
        loop {
            let (url, link) = registries.current();
            let opened = Instant::now();
            let mut lost = None;
            match self.follow(link, &shutdown).await {
                End::Stop => break,
                End::Misfit(misfit) => tracing::error!(%misfit, "the registry contradicts itself; subscribing anew"),
                End::Lost(status) => {
                    tracing::info!(registry = url, error = status.message(), "the watch is lost; opening another");
                    lost = Some(status);
                }
            }
            if self.state.said_something() && opened.elapsed() >= SETTLED {
                self.outage.over();
            }
            registries.give_up_on(url);
            if let Some(status) = lost {
                // For people; the others are asked meanwhile by whoever else wants something.
                let looked = tokio::select! {
                    problem = self.outage.look(url, &status) => problem,
                    () = shutdown.cancelled() => None,
                };
                if let Some(problem) = looked {
                    tracing::warn!(registry = url, problem, "the watch cannot be opened");
                }
            }
            if let Some(pause) = self.outage.failed(registries.count()) {
                let change = self.state.fall_back();
                self.publish(change);
                if self.wait(pause, &shutdown).await.is_break() {
                    break;
                }
            }
        }
        if let Some(path) = self.last_good.clone() {
            self.disk.finish(path, &self.state).await;
        }
    }

    /// Opens a stream and obeys it, and those it moves to, to the end.
    async fn follow(&mut self, link: Link, shutdown: &CancellationToken) -> End {
        let topics = self.topics.borrow_and_update().clone();
        let change = self.state.set_topics(topics.clone());
        self.publish(change);
        self.state.stream_opened();
        let open = tokio::select! {
            opened = open(link, self.first(&topics), topics) => match opened {
                Ok(open) => open,
                Err(status) => return End::Lost(status),
            },
            () = shutdown.cancelled() => return End::Stop,
        };
        match self.obey(open, shutdown).await {
            Ok(()) => End::Stop,
            Err(end) => end,
        }
    }

    async fn obey(&mut self, mut open: Open, shutdown: &CancellationToken) -> Result<(), End> {
        let mut said: Option<Version> = None; // first on this stream: a late word on an older one is none on it
        let mut behind_since = None;
        let mut moving = Moving::default();
        loop {
            behind_since = self.state.is_behind().then(|| behind_since.unwrap_or_else(Instant::now));
            match self.event(&mut open, &mut moving, behind_since, shutdown).await {
                Event::Message(Some(message)) => {
                    said.get_or_insert(Version(message.version));
                    let change = self.state.apply(message).map_err(End::Misfit)?;
                    self.publish(change);
                }
                Event::Message(None) => return Err(End::Lost(Status::unavailable("the registry ended the watch"))),
                Event::Broken(status) => return Err(End::Lost(status)),
                Event::Topics => self.resubscribe(&mut open).await?,
                Event::Acked => {
                    let ack = self.acks.borrow_and_update().0;
                    send(&open.requests, pb::WatchRequest { ack, ..Default::default() }).await?;
                    if said.is_some_and(|said| said <= Version(ack)) {
                        moving.settle(); // the registry has our word on the new stream; until now it waited for it on the old one
                    }
                }
                Event::Move(Step::Due) => {
                    let (_, link) = self.registries.current();
                    moving.open(self::open(link, self.first(&open.topics), open.topics.clone()));
                }
                Event::Move(Step::Moved(next)) => {
                    moving.leave(std::mem::replace(&mut open, *next));
                    said = None;
                    self.state.stream_opened();
                    self.resubscribe(&mut open).await?;
                }
                Event::Move(Step::Failed(status)) => {
                    tracing::debug!(error = status.message(), "the watch cannot move to another connection yet");
                }
                Event::StayedBehind => {
                    tracing::warn!(
                        "the registry stays behind what it said before; it has lost its past, taking its word"
                    );
                    let change = self.state.adopt();
                    self.publish(change);
                }
                Event::PersistDue => self.persist(),
                Event::Stop => return Ok(()),
            }
        }
    }

    async fn event(
        &mut self,
        open: &mut Open,
        moving: &mut Moving<Open>,
        behind: Option<Instant>,
        shutdown: &CancellationToken,
    ) -> Event {
        let persist = self.disk.due;
        tokio::select! {
            message = open.stream.message() => match message {
                Ok(message) => Event::Message(message),
                Err(status) => Event::Broken(status),
            },
            changed = self.topics.changed() => changed.map_or(Event::Stop, |()| Event::Topics),
            changed = self.acks.changed() => changed.map_or(Event::Stop, |()| Event::Acked),
            step = moving.next(&open.link) => Event::Move(step),
            () = sleep_until(behind.unwrap_or_else(Instant::now) + BEHIND), if behind.is_some() => Event::StayedBehind,
            () = sleep_until(persist.unwrap_or_else(Instant::now)), if persist.is_some() => Event::PersistDue,
            () = shutdown.cancelled() => Event::Stop,
        }
    }

    /// Tells the stream what is subscribed now, if it was opened or last told otherwise.
    async fn resubscribe(&mut self, open: &mut Open) -> Result<(), End> {
        let now = self.topics.borrow_and_update().clone();
        let change = self.state.set_topics(now.clone());
        self.publish(change);
        if now != open.topics {
            let wire = |topics: std::collections::btree_set::Difference<'_, Topic>| topics.map(Topic::wire).collect();
            let (subscribe, unsubscribe) = (wire(now.difference(&open.topics)), wire(open.topics.difference(&now)));
            send(&open.requests, pb::WatchRequest { subscribe, unsubscribe, ..Default::default() }).await?;
            open.topics = now;
        }
        Ok(())
    }

    /// Waits between two rounds of attempts; a subscription made meanwhile is served from memory.
    async fn wait(&mut self, pause: Duration, shutdown: &CancellationToken) -> std::ops::ControlFlow<()> {
        let delay = sleep(pause);
        tokio::pin!(delay);
        loop {
            tokio::select! {
                () = &mut delay => return std::ops::ControlFlow::Continue(()),
                () = shutdown.cancelled() => return std::ops::ControlFlow::Break(()),
                () = self.updates.closed() => return std::ops::ControlFlow::Break(()), // a `Subscriptions` may live on
                changed = self.topics.changed() => {
                    if changed.is_err() {
                        return std::ops::ControlFlow::Break(());
                    }
                    let topics = self.topics.borrow_and_update().clone();
                    let left = self.state.set_topics(topics);
                    let found = self.state.fall_back();
                    self.publish(if left == Change::Published { left } else { found });
                }
            }
        }
    }

    fn publish(&mut self, change: Change) {
        match change {
            Change::Nothing => {}
            Change::Published => {
                let snapshot = Arc::new(self.state.snapshot().clone());
                self.updates.send_replace(Some(Update { version: snapshot.version, snapshot }));
                if self.last_good.is_some() {
                    self.disk.due.get_or_insert_with(|| Instant::now() + PERSIST);
                }
            }
        }
    }

    async fn recall(&mut self) {
        let Some(path) = self.last_good.clone() else { return };
        let mut loading = JoinSet::new();
        loading.spawn_blocking(move || disk::load(&path));
        let Some(Ok(Some(message))) = loading.join_next().await else { return };
        if let Err(misfit) = self.state.remember(message) {
            tracing::warn!(%misfit, "the last good snapshot on disk does not fit; going on without");
        }
    }

    /// The message that opens a stream.
    fn first(&self, topics: &BTreeSet<Topic>) -> pb::WatchRequest {
        let admin = self.admin.map(|admin| admin.to_string()).unwrap_or_default();
        let subscribe = topics.iter().map(Topic::wire).collect();
        pb::WatchRequest { watcher: self.watcher.clone(), subscribe, admin, ..Default::default() }
    }

    fn persist(&mut self) {
        if let Some(path) = &self.last_good {
            self.disk.start(path.clone(), &self.state);
        }
    }
}

/// Opens a stream with its first message.
async fn open(link: Link, first: pb::WatchRequest, topics: BTreeSet<Topic>) -> Result<Open, Status> {
    let (requests, queue) = mpsc::channel(REQUESTS);
    requests.try_send(first).expect("the queue is new and empty");
    let mut client = DiscoveryClient::new(link.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
    let opened = timeout(OPEN, client.watch(ReceiverStream::new(queue))).await;
    let stream = opened.map_err(|_| Status::deadline_exceeded("the registry did not open the watch in time"))??;
    Ok(Open { link, requests, stream: stream.into_inner(), topics })
}

async fn send(requests: &mpsc::Sender<pb::WatchRequest>, request: pb::WatchRequest) -> Result<(), End> {
    // A registry that takes nothing fails its PING, which drops the queue's other end.
    requests.send(request).await.map_err(|_| End::Lost(Status::unavailable("the registry closed the watch")))
}

/// The writes of the last good snapshot: one at a time, beside the stream, since a slow disk must not delay an acknowledgement.
#[derive(Debug, Default)]
struct Disk {
    due: Option<Instant>,
    writing: JoinSet<io::Result<()>>,
}

impl Disk {
    fn start(&mut self, path: PathBuf, state: &State) {
        while let Some(done) = self.writing.try_join_next() {
            report(done);
        }
        if !self.writing.is_empty() {
            self.due = Some(Instant::now() + PERSIST);
            return;
        }
        self.due = None;
        let message = state.last_good();
        self.writing.spawn_blocking(move || disk::store(&path, &message));
    }

    async fn finish(mut self, path: PathBuf, state: &State) {
        while let Some(done) = self.writing.join_next().await {
            report(done);
        }
        if self.due.is_some() {
            self.start(path, state);
            if let Some(done) = self.writing.join_next().await {
                report(done);
            }
        }
    }
}

fn report(done: Result<io::Result<()>, tokio::task::JoinError>) {
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "cannot keep the last good snapshot on disk"),
        Err(error) => tracing::error!(%error, "writing the last good snapshot failed"),
    }
}
