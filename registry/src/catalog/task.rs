//! The catalog task: the one writer.
//!
//! Lives here: grouping, commits, the order of adopting a state. Does not: what a change does (`draft`), when a lease runs out (`leases`).
//! ```text
//! changes ─► queue ─► draft ─► commit ─► adopt: leases, publish, answer        one group at a time; the next one gathers meanwhile
//! beats   ─► verdicts at once, from the adopted state                          a commit never delays a renewal
//! ```
//! A group with something durable starts at most every 5 ms, one with only health every 10 ms; the first after a pause starts at once.
//! Health that was published but not stored rides with the next commit, or one of its own after a second.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use weft_model::{InstanceId, RefusedClaim, RemovalReason, ServiceName, Snapshot};
use weft_runtime::clock;

use super::{
    Answer, Applied, Beat, Change, ChangeError, Command, Fate, Published, StoreError, StreamId, Verdict, WAITING,
    draft::{Done, Draft, LeaseChange, Outcome},
    published,
    state::State,
    store::{Batch, Store},
};
use crate::{
    leases::{Doubt, Leases, Renewal, TICK},
    metrics::CatalogMetrics,
};

/// Least time between two groups that need a commit (design.md, 5.3).
const GROUP: Duration = Duration::from_millis(5);
/// Least time between two groups that do not (design.md, 2).
const FOLD: Duration = Duration::from_millis(10);
/// Longest time that published health may be missing from the store (design.md, 5.3).
const RIDE: Duration = Duration::from_secs(1);
/// How often what nobody needs any more is looked for.
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Changes that wait for the commit before theirs; then commands wait.
const QUEUED: usize = 4_096;

/// Changes that are made in one group, in their order.
struct Queued {
    changes: Vec<Change>,
    answer: Option<Answer>,
}

impl Queued {
    fn may_ride(&self) -> bool {
        self.changes.iter().all(Change::may_ride)
    }
}

/// What came of changes that were asked for together, and who asked.
type Asked = (Option<Answer>, Vec<Result<Outcome, ChangeError>>);

/// A group whose commit is under way.
struct Flight {
    next: State,
    done: Done,
    answers: Vec<Asked>,
    /// Health of this group and of earlier ones that the commit carries.
    riding: BTreeSet<InstanceId>,
    /// Changes that need no store, by their place in `answers`: made again should the commit fail.
    riders: Vec<(usize, Vec<Change>)>,
    started: Instant,
}

/// The one writer of the catalog.
pub struct CatalogTask {
    store: Store,
    state: State,
    leases: Leases,
    doubt: Doubt,
    inbox: mpsc::Receiver<Command>,
    queue: Vec<Queued>,
    /// Changes in the queue.
    waiting: usize,
    /// Instances whose published health is newer than the store's, and since when.
    riding: BTreeSet<InstanceId>,
    riding_since: Option<Instant>,
    flight: Option<Flight>,
    commits: JoinSet<Result<(), StoreError>>,
    /// When the next group may start.
    group_at: Instant,
    look_at: Instant,
    forget_at: Instant,
    publish: watch::Sender<Arc<Published>>,
    /// What the gauges count.
    counted: Snapshot,
    metrics: CatalogMetrics,
}

enum Event {
    Command(Command),
    Committed(Result<(), StoreError>),
    Due,
    Stop,
}

impl CatalogTask {
    pub(super) fn new(store: Store, state: State, inbox: mpsc::Receiver<Command>, metrics: CatalogMetrics) -> Self {
        let now = Instant::now();
        let mut leases = Leases::new(now, clock::wall());
        for record in state.records.values().filter(|r| r.leased()) {
            let it = &record.instance;
            let (service, zone) = (it.service.clone(), it.locality.zone().to_owned());
            leases.apply(LeaseChange::Granted { id: it.id, epoch: it.epoch, ttl: record.ttl, service, zone }, now);
        }
        let doubt = Doubt { frozen: leases.frozen(now), ..Doubt::default() };
        metrics.state(&Snapshot::default(), &state);
        metrics.doubt(&doubt);
        let publish = watch::Sender::new(Arc::new(published(&state, &doubt)));
        Self {
            store,
            leases,
            doubt,
            inbox,
            queue: Vec::new(),
            waiting: 0,
            riding: BTreeSet::new(),
            riding_since: None,
            flight: None,
            commits: JoinSet::new(),
            group_at: now,
            look_at: now + TICK,
            forget_at: now,
            publish,
            counted: state.snapshot.clone(),
            state,
            metrics,
        }
    }

    /// What is published, from now on.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Published>> {
        self.publish.subscribe()
    }

    /// Runs until `stop`, or until every handle is gone; then finishes what was asked and stores what still rides.
    ///
    /// Stop it after the sources: what comes later gets `Closed`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            match self.next_event(&stop).await {
                Event::Command(command) => self.take_all(command),
                Event::Committed(result) => self.committed(result),
                Event::Due => {}
                Event::Stop => break,
            }
            let now = Instant::now();
            if now >= self.look_at {
                self.look(now);
            }
            self.start_group(now);
        }
        self.flush().await;
    }

    async fn next_event(&mut self, stop: &CancellationToken) -> Event {
        let due = self.due();
        tokio::select! {
            biased; // a finished commit frees the next group; beats come before the clock, so that a late look finds them
            Some(joined) = self.commits.join_next() => Event::Committed(joined.expect("a commit does not panic and is not aborted")),
            command = self.inbox.recv(), if self.waiting < QUEUED => command.map_or(Event::Stop, Event::Command),
            () = stop.cancelled() => Event::Stop,
            () = tokio::time::sleep_until(due) => Event::Due,
        }
    }

    /// When there is something to do without being asked.
    fn due(&self) -> Instant {
        let group = (self.flight.is_none() && !self.queue.is_empty()).then_some(self.group_due());
        let ride = self.riding_since.filter(|_| self.flight.is_none()).map(|since| since + RIDE);
        [group, ride].into_iter().flatten().fold(self.look_at, Instant::min)
    }

    fn group_due(&self) -> Instant {
        if self.queue.iter().all(Queued::may_ride) { self.group_at + (FOLD - GROUP) } else { self.group_at }
    }

    /// Takes a command and those that wait behind it, so that one group has them all.
    fn take_all(&mut self, first: Command) {
        self.take(first);
        for _ in 0..WAITING {
            if self.waiting >= QUEUED {
                return;
            }
            let Ok(next) = self.inbox.try_recv() else { return };
            self.take(next);
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Changes(changes, answer) => self.enqueue(changes, Some(answer)),
            Command::Beats(stream, beats, answer) => {
                let now = Instant::now();
                let verdicts: Vec<Verdict> = beats.into_iter().map(|beat| self.beat(stream, beat, now)).collect();
                self.metrics.beats(&verdicts);
                drop(answer.send(verdicts)); // the asker may have gone; its leases were renewed all the same
            }
            Command::Ended(stream) => self.leases.broken(stream, Instant::now()),
        }
    }

    fn enqueue(&mut self, changes: Vec<Change>, answer: Option<Answer>) {
        self.waiting += changes.len();
        self.queue.push(Queued { changes, answer });
    }

    fn beat(&mut self, stream: StreamId, beat: Beat, now: Instant) -> Verdict {
        let Some(record) = self.state.records.get(&beat.id) else {
            let revoked = self.state.tombstone(&beat.id, clock::wall()).is_some();
            return if revoked { Verdict::Revoked } else { Verdict::Unknown };
        };
        if beat.epoch < record.instance.epoch {
            return Verdict::Fenced;
        }
        if beat.epoch > record.instance.epoch {
            return Verdict::Unknown; // granted by a registry whose store is lost
        }
        if !record.leased() {
            return Verdict::Renewed;
        }
        let news = record.reported() != (beat.health.status, beat.health.reason.as_str());
        match self.leases.renew(beat.id, stream, now) {
            Renewal::Renewed => {}
            Renewal::Gone => return Verdict::Unknown,
        }
        if news {
            let Beat { id, epoch, health } = beat;
            self.enqueue(vec![Change::Report { id, epoch, health }], None);
        }
        Verdict::Renewed
    }

    /// Looks at leases and tombstones. While a group is under way it waits: it must count who is really there.
    fn look(&mut self, now: Instant) {
        if self.flight.is_some() {
            return;
        }
        self.look_at = now + TICK;
        if self.counted.version != self.state.snapshot.version {
            self.metrics.state(&self.counted, &self.state);
            self.counted = self.state.snapshot.clone();
        }
        let state = &self.state;
        let (ended, mut doubt) = self.leases.expire(now, clock::wall(), &|service| state.population(service));
        if doubt.frozen.is_some() {
            doubt.suspended = self.doubt.suspended.clone(); // a freeze answers no question about what was suspended before
        }
        if !ended.is_empty() {
            self.enqueue(vec![Change::Expire { leases: ended }], None);
        }
        if doubt != self.doubt {
            self.doubted(doubt);
        }
        if now >= self.forget_at {
            self.forget_at = now + FORGET_EVERY;
            self.enqueue(vec![Change::Forget], None);
        }
    }

    fn doubted(&mut self, doubt: Doubt) {
        for (service, notice) in &doubt.suspended {
            if !self.doubt.suspended.contains_key(service) {
                tracing::warn!(%service, notice, "lease expiry suspended");
            }
        }
        for service in self.doubt.suspended.keys().filter(|s| !doubt.suspended.contains_key(*s)) {
            tracing::info!(%service, "lease expiry resumed");
        }
        if self.doubt.frozen.is_some() && doubt.frozen.is_none() {
            tracing::info!("lease expiry is no longer frozen");
        }
        let services = |d: &Doubt| d.suspended.keys().cloned().collect::<Vec<_>>();
        if services(&doubt) != services(&self.doubt) {
            self.enqueue(vec![Change::Doubt { services: services(&doubt) }], None);
        }
        self.metrics.doubt(&doubt);
        self.doubt = doubt;
        self.publish();
    }

    fn start_group(&mut self, now: Instant) {
        let ride_is_due = self.riding_since.is_some_and(|since| now >= since + RIDE);
        let group_is_due = !self.queue.is_empty() && now >= self.group_due();
        if self.flight.is_some() || !(ride_is_due || group_is_due) {
            return;
        }
        self.group_at = now + GROUP;
        let mut riders = Vec::new();
        let mut answers = Vec::new();
        let leases = &self.leases;
        let lapsed = |id: &InstanceId| leases.lapsed(id, now);
        let mut draft = Draft::new(&self.state, clock::wall(), &lapsed);
        self.waiting = 0;
        for queued in self.queue.drain(..) {
            if queued.may_ride() {
                riders.push((answers.len(), queued.changes.clone()));
            }
            answers.push((queued.answer, draft.apply_all(queued.changes)));
        }
        let (next, done) = draft.finish();
        if done.durable.is_empty() && !ride_is_due && next.generation() == self.state.generation() {
            self.adopt(next, done, answers, now);
            return;
        }
        let mut keys = done.durable.clone();
        let mut riding = std::mem::take(&mut self.riding);
        riding.extend(&done.riding);
        keys.instances.extend(&riding);
        let (store, batch) = (self.store.clone(), Batch::new(&next, &keys));
        let flight = Flight { next, done, answers, riding, riders, started: now };
        if self.store.is_volatile() {
            self.land(flight);
        } else {
            self.flight = Some(flight);
            self.commits.spawn_blocking(move || store.commit(&batch));
        }
    }

    fn committed(&mut self, result: Result<(), StoreError>) {
        let flight = self.flight.take().expect("a commit belongs to a group under way");
        self.metrics.commit(flight.started.elapsed(), result.is_ok());
        match result {
            Ok(()) => self.land(flight),
            Err(error) => self.undo(flight, error),
        }
    }

    fn land(&mut self, mut flight: Flight) {
        self.riding_since = None;
        flight.done.riding.clear();
        self.adopt(flight.next, flight.done, flight.answers, Instant::now());
    }

    /// A failed commit: nothing of the group was done, except health, which needs no store.
    fn undo(&mut self, flight: Flight, error: StoreError) {
        tracing::error!(error = &error as &dyn std::error::Error, "commit failed: changes are refused");
        self.leases.expiry_failed();
        let now = Instant::now();
        let nobody_lapsed = |_: &InstanceId| false;
        let mut draft = Draft::new(&self.state, clock::wall(), &nobody_lapsed);
        let mut refused = flight.answers;
        let riders = flight.riders.into_iter();
        let answers = riders.map(|(place, changes)| (refused[place].0.take(), draft.apply_all(changes))).collect();
        let (next, done) = draft.finish();
        self.adopt(next, done, answers, now);
        let error = Arc::new(error);
        // Decided after changes that were never made: a takeover that failed fences nobody.
        let fate = |outcome| match outcome {
            Err(refusal @ ChangeError::Invalid(_)) => refusal,
            Ok(_) | Err(_) => ChangeError::Store(error.clone()),
        };
        for (answer, outcomes) in refused {
            if let Some(answer) = answer {
                answer.give(outcomes.into_iter().map(|outcome| Err(fate(outcome))).collect());
            }
        }
        self.riding.extend(flight.riding.into_iter().filter(|id| self.state.records.contains_key(id)));
        self.riding_since = (!self.riding.is_empty()).then_some(now);
    }

    /// Makes a state the present one: leases, views, answers, in this order, so that nobody who was answered is unknown.
    fn adopt(&mut self, next: State, done: Done, answers: Vec<Asked>, now: Instant) {
        let changed = next.snapshot.version != self.state.snapshot.version;
        let beside = !(next.sets.ptr_eq(&self.state.sets)
            && next.claims.ptr_eq(&self.state.claims)
            && next.refused_sets.ptr_eq(&self.state.refused_sets));
        self.state = next;
        for change in done.leases {
            self.count(&change);
            let leased = |id: &InstanceId| self.state.records.get(id).is_none_or(|r| r.leased());
            if let LeaseChange::Granted { id, .. } = &change
                && !leased(id)
            {
                self.leases.withdraw(id); // it lived by a lease until now
                continue;
            }
            self.leases.apply(change, now);
        }
        for (claimant, refused) in done.refused {
            self.tell_refused(&claimant, &refused);
        }
        if !done.riding.is_empty() {
            self.riding.extend(done.riding);
            self.riding_since.get_or_insert(now);
        }
        if changed || beside {
            self.publish();
        }
        for (answer, outcomes) in answers {
            if let Some(answer) = answer {
                let fates: Vec<Fate> = outcomes.into_iter().map(|it| it.map(|outcome| self.applied(outcome))).collect();
                answer.give(fates);
            }
        }
    }

    fn applied(&self, outcome: Outcome) -> Applied {
        let version = self.state.snapshot.version;
        let changed = |name: &ServiceName| self.state.snapshot.services.get(name).map_or(version, |s| s.version);
        let service = outcome.service.map(|name| {
            let at = changed(&name);
            (name, at)
        });
        let Outcome { epoch, claims, policies, .. } = outcome;
        Applied { version, epoch, service, claims, policies }
    }

    fn count(&self, change: &LeaseChange) {
        match change {
            LeaseChange::Granted { id, epoch, service, .. } => {
                self.metrics.registered();
                tracing::info!(%service, instance = %id, %epoch, "registered");
            }
            LeaseChange::Ended { id, why } => {
                self.metrics.removed(*why);
                match why {
                    RemovalReason::Expired => tracing::warn!(instance = %id, "lease expired"),
                    RemovalReason::Forced => tracing::warn!(instance = %id, "removed by an operator"),
                    RemovalReason::Deregistered | RemovalReason::Drained => {
                        tracing::info!(instance = %id, ?why, "deregistered");
                    }
                }
            }
            LeaseChange::Kept { .. } => {}
        }
    }

    /// Once for as long as it is refused: the same set comes with every instance.
    fn tell_refused(&self, claimant: &ServiceName, refused: &RefusedClaim) {
        let RefusedClaim { name, holder, method } = refused;
        tracing::warn!(name, %claimant, %holder, method, "claim refused: the name belongs to another service");
        self.metrics.claim_refused();
    }

    fn publish(&self) {
        self.publish.send_replace(Arc::new(published(&self.state, &self.doubt)));
    }

    /// The end: what was asked before is done and stored.
    async fn flush(mut self) {
        self.inbox.close();
        while let Some(command) = self.inbox.recv().await {
            self.take(command);
        }
        loop {
            if self.flight.is_none() {
                let now = Instant::now();
                self.group_at = now - FOLD;
                self.riding_since = (!self.riding.is_empty()).then(|| now - RIDE);
                self.start_group(now);
            }
            match self.commits.join_next().await {
                Some(joined) => {
                    let result = joined.expect("a commit does not panic and is not aborted");
                    let failed = result.is_err();
                    self.committed(result);
                    if failed {
                        return; // logged by `undo`; trying for ever would not end the process
                    }
                }
                None if self.queue.is_empty() && self.riding.is_empty() => return,
                None => {} // health was adopted; the next round stores it
            }
        }
    }
}
