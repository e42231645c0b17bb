//! Leases: the right of this process's instances to be listed, registered and kept alive on one stream.
//!
//! Lives here: the owner's end of a lease, the task that registers and beats. Does not: the rules of a lease's life (`table`), deciding
//! a status (`weft-sidecar`, SDK).
//! While the registry is away a lease is kept as it is: after the outage it beats on with the same id and epoch, and is registered
//! again only if the registry says that it does not know it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status as RpcStatus, Streaming};
use weft_model::{Epoch, Instance, InstanceId, LeaseTtl, Status, Version};
use weft_proto::weft::registry::v1::{self as pb, registry_client::RegistryClient};

use crate::backoff::Backoff;
use crate::moving::{Moving, Step};
use crate::outage::Outage;
use crate::registries::{Link, is_an_answer};
use crate::{CallError, Registries};
use table::Table;

mod table;

/// Time a registry has to open the stream, to answer a registration, or to answer a beat.
const ANSWER: Duration = Duration::from_secs(3);
/// Requests on their way to the registry.
const REQUESTS: usize = 8;
/// Beats that the registry may not undercut or stretch: what it asks for is kept within.
const BEAT: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(600);
/// A stream that lived this long ended well enough for the next one to be opened without delay (as in `watch`).
const SETTLED: Duration = Duration::from_secs(5);
/// Time beyond a drain's own bound for its answer to arrive; no registry is asked any more in it.
const SLACK: Duration = Duration::from_secs(1);

/// The leases of this process. Cheap to clone, callable from any thread.
#[derive(Debug, Clone)]
pub struct Leases {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    registries: Registries,
    /// Held for a look-up or a change of one entry, never across an await.
    table: Mutex<Table>,
    /// Wakes the task; carries nothing, the table does.
    changed: Notify,
    /// The task has ended: no state will change any more but by its owner.
    ended: CancellationToken,
}

/// One lease. Dropping it stops the beats, and the registry lists the instance until the lease runs out.
#[derive(Debug)]
pub struct Lease {
    id: InstanceId,
    state: watch::Receiver<LeaseState>,
    shared: Arc<Shared>,
}

/// Where a lease is in its life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LeaseState {
    /// Not listed yet, or no longer known to the registry; being registered for as long as it takes.
    Registering {
        /// What the last attempt met.
        failure: Option<String>,
    },
    /// Listed.
    Held {
        /// The lease's fencing number.
        epoch: Epoch,
    },
    /// A newer registration holds the id: leave.
    Fenced {
        /// Why, for people.
        reason: String,
    },
    /// An operator removed the instance: keep running, unlisted.
    Revoked {
        /// Why, for people.
        reason: String,
    },
    /// The registry will never list this instance as it is described.
    Refused {
        /// Which field, and what is wrong with it.
        reason: String,
    },
}

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drained {
    /// Every live watcher that held the instance has acknowledged a version without it.
    pub acknowledged: bool,
    /// Watchers that had not when time was up, by name.
    pub waiting: Vec<String>,
    /// Watchers that held the instance, by name, also those that had acknowledged before they had to be waited for; xDS clients only if they had to be.
    pub waited_for: Vec<String>,
}

/// The running part: registers what is held and beats; its owner runs it.
#[derive(Debug)]
pub struct LeaseTask {
    shared: Arc<Shared>,
    ttl: LeaseTtl,
    _ended: DropGuard,
}

impl Leases {
    /// Returns the leases of this process, none yet, and the task that keeps them.
    pub fn new(registries: Registries, ttl: LeaseTtl) -> (LeaseTask, Self) {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        let shared = Arc::new(Shared { registries, table: Mutex::default(), changed: Notify::new(), ended });
        (LeaseTask { shared: shared.clone(), ttl, _ended: guard }, Self { shared })
    }

    /// Lists an instance and keeps it listed. Returns at once; the state of the lease tells what became of it.
    pub fn hold(&self, instance: Instance) -> Lease {
        let id = instance.id;
        let state = self.shared.table().hold(instance);
        self.shared.changed.notify_one();
        Lease { id, state, shared: self.shared.clone() }
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The instance.
    pub fn id(&self) -> InstanceId {
        self.id
    }

    /// Returns the state as it is now.
    pub fn state(&self) -> LeaseState {
        self.state.borrow().clone()
    }

    /// Waits for the next change of state. `None` when the task has ended. Cancel-safe.
    pub async fn changed(&mut self) -> Option<LeaseState> {
        tokio::select! {
            biased; // the last state is told before the end
            changed = self.state.changed() => changed.ok()?,
            () = self.shared.ended.cancelled() => return None,
        }
        Some(self.state.borrow_and_update().clone())
    }

    /// Sets status and reason; the registry hears it at once, or as soon as it can be reached.
    pub fn report(&self, status: Status, reason: &str) {
        self.shared.table().report(self.id, status, reason);
        self.shared.changed.notify_one();
    }

    /// Marks the instance as draining and waits until no watcher sends it new calls, at most `at_most`. Without a registry in reach it
    /// fails after `at_most`; the lease is kept in any case.
    pub async fn drain(&self, at_most: Duration) -> Result<Drained, CallError> {
        self.report(Status::Draining, "");
        let Some(epoch) = self.epoch() else {
            return Ok(Drained { acknowledged: true, waiting: Vec::new(), waited_for: Vec::new() }); // nobody was told of it
        };
        let deadline = Instant::now() + at_most;
        let asked = self.shared.registries.long_call(at_most, SLACK, |channel| {
            let left = deadline.saturating_duration_since(Instant::now());
            let ask = pb::DrainRequest { id: self.id.to_string(), epoch: epoch.0, at_most_ms: millis(left).max(1) };
            async move { RegistryClient::new(channel).drain(ask).await }
        });
        let answer = asked.await?.into_inner();
        Ok(Drained { acknowledged: answer.acknowledged, waiting: answer.waiting, waited_for: answer.waited_for })
    }

    /// Ends the lease. Returns the catalog's version without it, `None` if it was not listed. A registration that is on its way is waited
    /// for, or it would list what has gone. When no registry answers `within` that time the lease runs out by itself.
    pub async fn deregister(mut self, within: Duration) -> Result<Option<Version>, CallError> {
        let deadline = Instant::now() + within;
        let epoch = self.settled(deadline).await;
        self.shared.table().release(self.id); // a beat after the deregistration would be answered UNKNOWN and register again
        let Some(epoch) = epoch else { return Ok(None) };
        let left = deadline.saturating_duration_since(Instant::now());
        self.shared.registries.deregister(self.id, epoch, left).await.map(Some)
    }

    /// Waits while a registration has no answer yet, and returns the epoch if the lease is held then.
    async fn settled(&mut self, deadline: Instant) -> Option<Epoch> {
        while self.shared.table().is_asked(self.id) {
            match timeout_at(deadline, self.changed()).await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break, // the task has ended, or time is over
            }
        }
        self.epoch()
    }

    fn epoch(&self) -> Option<Epoch> {
        self.shared.table().epoch(self.id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.shared.table().release(self.id);
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// What became of one registration.
type Asked = (InstanceId, Result<pb::Lease, RpcStatus>);

/// A stream that is open.
struct Open {
    link: Link,
    requests: mpsc::Sender<pb::KeepAliveRequest>,
    verdicts: Streaming<pb::KeepAliveResponse>,
}

/// Opens a stream.
async fn open(link: Link) -> Result<Open, RpcStatus> {
    let (requests, queue) = mpsc::channel(REQUESTS);
    let mut client = RegistryClient::new(link.channel.clone());
    let opened = timeout(ANSWER, client.keep_alive(ReceiverStream::new(queue))).await;
    let stream = opened.map_err(|_| RpcStatus::deadline_exceeded("the registry did not open the stream in time"))??;
    Ok(Open { link, requests, verdicts: stream.into_inner() })
}

fn closed() -> End {
    End::Lost(RpcStatus::unavailable("the registry closed the stream"))
}

/// What can happen while a stream is open.
enum Event {
    Verdicts(Option<pb::KeepAliveResponse>),
    Broken(RpcStatus),
    Registered(Asked),
    Changed,
    BeatDue,
    Unanswered,
    /// The stream's connection shows a certificate that has been replaced.
    Move(Step<Open>),
    Stop,
}

/// Whether the task goes on after a stream.
enum End {
    Lost(RpcStatus),
    Stop,
}

impl LeaseTask {
    /// Registers and beats until `shutdown`. Leases are not ended here: that is their owner's, or they run out.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut outage = Outage::default();
        loop {
            let (url, link) = self.shared.registries.current();
            let mut session = Session::new(&self, link);
            let opened = Instant::now();
            let end = session.run(&shutdown).await;
            if session.answered && opened.elapsed() >= SETTLED {
                outage.over();
            }
            self.shared.table().disconnected();
            let End::Lost(status) = end else { return };
            tracing::info!(registry = url, error = status.message(), "the keep-alive stream is lost; opening another");
            self.shared.registries.give_up_on(url);
            let looked = tokio::select! {
                problem = outage.look(url, &status) => problem,
                () = shutdown.cancelled() => None,
            };
            if let Some(problem) = looked {
                tracing::warn!(registry = url, problem, "the keep-alive stream cannot be opened");
            }
            if let Some(pause) = outage.failed(self.shared.registries.count()) {
                tokio::select! {
                    () = sleep(pause) => {}
                    () = shutdown.cancelled() => return,
                }
            }
        }
    }
}

/// One keep-alive stream and the registrations made beside it.
struct Session<'a> {
    shared: &'a Shared,
    ttl: LeaseTtl,
    link: Link,
    registering: FuturesUnordered<Pin<Box<dyn Future<Output = Asked> + Send>>>,
    beat_every: Duration,
    next_beat: Instant,
    /// When the oldest beat that has no answer was sent.
    waiting_since: Option<Instant>,
    /// A registration failed; it is tried again at this time.
    retry_at: Option<Instant>,
    retries: Backoff,
    answered: bool,
}

impl<'a> Session<'a> {
    fn new(task: &'a LeaseTask, link: Link) -> Self {
        let beat_every = task.ttl.beat_every();
        Self {
            shared: &task.shared,
            ttl: task.ttl,
            link,
            registering: FuturesUnordered::new(),
            beat_every,
            next_beat: Instant::now() + beat_every,
            waiting_since: None,
            retry_at: None,
            retries: Backoff::default(),
            answered: false,
        }
    }

    async fn run(&mut self, shutdown: &CancellationToken) -> End {
        let opened = tokio::select! {
            opened = open(self.link.clone()) => opened,
            () = shutdown.cancelled() => return End::Stop,
        };
        let mut open = match opened {
            Ok(open) => open,
            Err(status) => return End::Lost(status),
        };
        let mut moving = Moving::default();
        if self.beat(&open.requests).await.is_err() {
            return closed();
        }
        loop {
            self.register();
            if self.shared.table().take_urgent() && self.beat(&open.requests).await.is_err() {
                return closed();
            }
            match self.event(&mut open, &mut moving, shutdown).await {
                Event::Verdicts(Some(answer)) => {
                    self.obey(&answer);
                    moving.settle(); // the leases are on the new stream; before, the end of the old one would have started their grace
                }
                Event::Verdicts(None) => return End::Lost(RpcStatus::unavailable("the registry ended the stream")),
                Event::Broken(status) => return End::Lost(status),
                Event::Registered(asked) => self.registered(asked),
                Event::Changed => {}
                Event::BeatDue => {
                    if self.beat(&open.requests).await.is_err() {
                        return closed();
                    }
                }
                Event::Unanswered => {
                    return End::Lost(RpcStatus::deadline_exceeded("the registry does not answer beats"));
                }
                Event::Move(Step::Due) => {
                    let (_, link) = self.shared.registries.current();
                    moving.open(self::open(link));
                }
                Event::Move(Step::Moved(next)) => {
                    self.link = next.link.clone();
                    moving.leave(std::mem::replace(&mut open, *next));
                    self.shared.table().moved();
                    self.waiting_since = None;
                    if self.beat(&open.requests).await.is_err() {
                        return closed();
                    }
                }
                Event::Move(Step::Failed(status)) => {
                    tracing::debug!(error = status.message(), "the leases cannot move to another connection yet");
                }
                Event::Stop => return End::Stop,
            }
        }
    }

    async fn event(&mut self, open: &mut Open, moving: &mut Moving<Open>, shutdown: &CancellationToken) -> Event {
        let overdue = self.waiting_since.map(|since| since + ANSWER);
        let retry = self.retry_at;
        tokio::select! {
            message = open.verdicts.message() => match message {
                Ok(answer) => Event::Verdicts(answer),
                Err(status) => Event::Broken(status),
            },
            Some(asked) = self.registering.next() => Event::Registered(asked),
            () = self.shared.changed.notified() => Event::Changed,
            step = moving.next(&open.link) => Event::Move(step),
            () = sleep_until(self.next_beat) => Event::BeatDue,
            () = sleep_until(retry.unwrap_or(self.next_beat)), if retry.is_some() => {
                self.retry_at = None;
                Event::Changed
            }
            () = sleep_until(overdue.unwrap_or(self.next_beat)), if overdue.is_some() => Event::Unanswered,
            () = shutdown.cancelled() => Event::Stop,
        }
    }

    /// Asks for every lease that is wanted, beside the stream.
    fn register(&mut self) {
        if self.retry_at.is_some() {
            return;
        }
        for instance in self.shared.table().take_wanted() {
            let mut client = RegistryClient::new(self.link.channel.clone());
            let ask = pb::RegisterRequest { ttl_ms: millis(self.ttl.get()), instance: Some((&instance).into()) };
            self.registering.push(Box::pin(async move {
                let answer = timeout(ANSWER, client.register(ask)).await;
                let answer = answer.map_err(|_| RpcStatus::deadline_exceeded("the registry did not answer in time"));
                let lease = answer.and_then(|answer| answer).and_then(|granted| {
                    granted.into_inner().lease.ok_or_else(|| RpcStatus::internal("the registry granted nothing"))
                });
                (instance.id, lease)
            }));
        }
    }

    fn registered(&mut self, (id, answer): Asked) {
        let mut table = self.shared.table();
        match answer {
            Ok(lease) => {
                table.granted(id, Epoch(lease.epoch));
                self.retries.reset();
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                table.denied(id, LeaseState::Revoked { reason: status.message().to_owned() });
            }
            Err(status) if is_an_answer(status.code()) => {
                tracing::error!(instance = %id, error = status.message(), "the registry refuses to list this instance");
                table.denied(id, LeaseState::Refused { reason: status.message().to_owned() });
            }
            Err(status) => {
                table.failed(id, status.message().to_owned());
                self.retry_at = Some(Instant::now() + self.retries.delay(&mut rand::rng()));
            }
        }
    }

    fn obey(&mut self, answer: &pb::KeepAliveResponse) {
        self.answered = true;
        if answer.beat_every_ms > 0 {
            let asked = Duration::from_millis(answer.beat_every_ms.into()).clamp(*BEAT.start(), *BEAT.end());
            if asked < self.beat_every {
                self.next_beat = self.next_beat.min(Instant::now() + asked);
            }
            self.beat_every = asked;
        }
        let mut table = self.shared.table();
        table.verdicts(&answer.verdicts);
        self.waiting_since = table.is_waiting().then(Instant::now);
    }

    async fn beat(&mut self, requests: &mpsc::Sender<pb::KeepAliveRequest>) -> Result<(), ()> {
        let beats = self.beats();
        // A registry that takes nothing fails its PING, which drops the queue's other end.
        requests.send(beats).await.map_err(drop)
    }

    fn beats(&mut self) -> pb::KeepAliveRequest {
        self.next_beat = Instant::now() + self.beat_every;
        let mut table = self.shared.table();
        let _ = table.take_urgent();
        let beats = table.beats();
        if !beats.beats.is_empty() {
            self.waiting_since.get_or_insert_with(Instant::now);
        }
        beats
    }
}
