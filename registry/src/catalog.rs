//! The catalog: one task that turns changes into versions, each durable before anyone hears of it.
//!
//! Lives here: the handle, and what is published. Does not: the task (`task`), what a change does (`draft`), bytes on disk (`store`), when a
//! lease runs out (`leases`).
//! Version = generation << 32 | counter; the generation rises with each start.

mod change;
mod draft;
mod record;
pub(crate) mod state;
mod store;
mod task;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use imbl::OrdMap;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use weft_model::{
    Digest, Epoch, Instance, InstanceId, LeaseTtl, Policy, PolicyName, ServiceName, ServiceSnapshot, Snapshot, Version,
};

pub use change::{Applied, Beat, ChangeError, Health, StreamId, Verdict, Word};
pub use store::Error as StoreError;
pub use task::CatalogTask;

pub(crate) use change::Change;
pub(crate) use draft::LeaseChange;
pub(crate) use record::millis;
pub(crate) use state::Claim;

use crate::{
    catalog::{
        state::{Record, RefusedSet, Removals, State},
        store::Store,
    },
    leases::Doubt,
    metrics::CatalogMetrics,
    policy,
    schema::DescriptorSet,
};

/// Commands that wait to be looked at; senders of more wait with theirs.
const WAITING: usize = 1_024;

/// The catalog at one version, with what views need beside the snapshot.
#[derive(Debug, Clone)]
pub struct Published {
    /// All services.
    pub snapshot: Arc<Snapshot>,
    /// Why expiry is frozen or suspended, one line each; empty when all is well.
    pub notices: Arc<[String]>,
    /// Just started, or after a clock jump: a service that is not listed may be about to register again.
    pub warming: bool,
    /// When it was published.
    pub(crate) at: Instant,
    pub(crate) removals: Removals,
    pub(crate) sets: OrdMap<Digest, Arc<DescriptorSet>>,
    pub(crate) claims: OrdMap<String, Claim>,
    pub(crate) refused_sets: OrdMap<InstanceId, RefusedSet>,
    pub(crate) policies: policy::Set,
    records: OrdMap<InstanceId, Arc<Record>>,
}

impl Published {
    /// Returns a service; an empty one when there is none, authoritative unless the registry has just started.
    pub fn service(&self, name: &ServiceName) -> Arc<ServiceSnapshot> {
        self.snapshot.services.get(name).cloned().unwrap_or_else(|| {
            let empty = ServiceSnapshot::empty(name.clone(), self.snapshot.version);
            Arc::new(ServiceSnapshot { authoritative: !self.warming, ..empty })
        })
    }

    /// Returns a catalog that has just this, for tests of views.
    #[cfg(test)]
    pub(crate) fn of_snapshot(snapshot: Snapshot, warming: bool) -> Self {
        let state = State { snapshot, ..State::default() };
        Self { warming, ..published(&state, &Doubt::default()) }
    }

    /// Returns the service that a listed instance is of.
    pub(crate) fn service_of(&self, id: &InstanceId) -> Option<&ServiceName> {
        self.records.get(id).map(|record| &record.instance.service)
    }
}

enum Command {
    /// These, in one group.
    Changes(Vec<Change>, Answer),
    Beats(StreamId, Vec<Beat>, oneshot::Sender<Vec<Verdict>>),
    Ended(StreamId),
}

/// What became of a change.
type Fate = Result<Applied, ChangeError>;

/// Who waits for what becomes of changes.
enum Answer {
    /// Of one.
    One(oneshot::Sender<Fate>),
    /// Of each, in their order.
    Each(oneshot::Sender<Vec<Fate>>),
}

impl Answer {
    /// The asker may have gone.
    fn give(self, mut fates: Vec<Fate>) {
        match self {
            Self::One(asker) => drop(fates.pop().map(|fate| asker.send(fate))),
            Self::Each(asker) => drop(asker.send(fates)),
        }
    }
}

/// A handle on the catalog. Cheap to clone; all methods wait for the catalog task.
///
/// Cancelling a call does not undo it: the change may still be made.
#[derive(Debug, Clone)]
pub struct Catalog {
    commands: mpsc::Sender<Command>,
    published: watch::Receiver<Arc<Published>>,
    streams: Arc<AtomicU64>,
}

impl Catalog {
    /// Opens the store of a data directory and returns the catalog with what it held. Blocks while reading.
    pub fn open(data: &Path, metrics: &weft_runtime::Metrics) -> Result<(Self, CatalogTask), StoreError> {
        let (store, state) = Store::open(data)?;
        Ok(Self::with_store(store, state, metrics))
    }

    /// Returns an empty catalog that keeps nothing: for tests and simulations.
    pub fn in_memory(metrics: &weft_runtime::Metrics) -> (Self, CatalogTask) {
        let (store, state) = Store::in_memory();
        Self::with_store(store, state, metrics)
    }

    fn with_store(store: Store, state: State, metrics: &weft_runtime::Metrics) -> (Self, CatalogTask) {
        let (commands, inbox) = mpsc::channel(WAITING);
        let task = CatalogTask::new(store, state, inbox, CatalogMetrics::register(metrics));
        (Self { commands, published: task.subscribe(), streams: Arc::default() }, task)
    }

    /// The catalog as it is now.
    pub fn published(&self) -> Arc<Published> {
        self.published.borrow().clone()
    }

    /// The snapshot as it is now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.borrow().snapshot.clone()
    }

    /// Follows the catalog from now on.
    pub fn follow(&self) -> Follow {
        Follow(self.published.clone())
    }

    /// Lists an instance and grants its lease. The granted epoch is in the answer.
    pub async fn register(&self, instance: Instance, ttl: LeaseTtl) -> Result<Applied, ChangeError> {
        self.change(Change::Register { instance: Box::new(instance), ttl }).await
    }

    /// Makes these changes in their order, in one group: one commit, one version. One that is refused is refused alone.
    pub(crate) async fn change_all(&self, changes: Vec<Change>) -> Vec<Fate> {
        let count = changes.len();
        if count == 0 {
            return Vec::new();
        }
        let (answer, fates) = oneshot::channel();
        let asked = self.commands.send(Command::Changes(changes, Answer::Each(answer))).await;
        let fates = if asked.is_ok() { fates.await.ok() } else { None };
        fates.unwrap_or_else(|| std::iter::repeat_with(|| Err(ChangeError::Closed)).take(count).collect())
    }

    /// Removes an instance; ends well when it is gone already.
    pub async fn deregister(&self, id: InstanceId, word: Word) -> Result<Applied, ChangeError> {
        self.change(Change::Deregister { id, word }).await
    }

    /// Sets a status. An operator's overrides beats and checks until an operator says `Serving`.
    pub async fn set_status(&self, id: InstanceId, word: Word, health: Health) -> Result<Applied, ChangeError> {
        self.change(Change::SetStatus { id, word, health }).await
    }

    /// Marks an instance DRAINING; it stays listed, but nobody sends it new calls.
    pub async fn drain(&self, id: InstanceId, word: Word) -> Result<Applied, ChangeError> {
        self.change(Change::Drain { id, word }).await
    }

    /// Health as a check of the registry saw it; without effect when the lease is no longer the one checked.
    pub(crate) async fn report(&self, id: InstanceId, epoch: Epoch, health: Health) -> Result<Applied, ChangeError> {
        self.change(Change::Report { id, epoch, health }).await
    }

    /// Stores a linked descriptor set that an instance offers; ends well when it is there already.
    pub(crate) async fn put_descriptors(
        &self,
        set: DescriptorSet,
        by: Option<InstanceId>,
    ) -> Result<Applied, ChangeError> {
        self.change(Change::PutDescriptors { set: Box::new(set), by }).await
    }

    /// Notes that the set of an instance was refused, for whoever asks.
    pub(crate) async fn refuse_set(
        &self,
        by: InstanceId,
        service: ServiceName,
        problem: String,
    ) -> Result<Applied, ChangeError> {
        self.change(Change::RefuseSet { by, service, problem }).await
    }

    /// Gives a claim to a service, on an operator's word. The names that moved are in the answer.
    pub(crate) async fn move_claim(&self, name: String, to: ServiceName) -> Result<Applied, ChangeError> {
        self.change(Change::MoveClaim { name, to }).await
    }

    /// Ends a claim, on an operator's word. The names that were released are in the answer.
    pub(crate) async fn release_claim(&self, name: String) -> Result<Applied, ChangeError> {
        self.change(Change::ReleaseClaim { name }).await
    }

    /// Makes or changes policies, all or none, if the set is at the version expected.
    pub(crate) async fn apply_policies(
        &self,
        policies: Vec<Policy>,
        expected: Option<Version>,
    ) -> Result<Applied, ChangeError> {
        self.change(Change::ApplyPolicies { policies, expected }).await
    }

    /// Removes a policy, if the set is at the version expected.
    pub(crate) async fn delete_policy(
        &self,
        name: PolicyName,
        expected: Option<Version>,
    ) -> Result<Applied, ChangeError> {
        self.change(Change::DeletePolicy { name, expected }).await
    }

    /// Opens a keep-alive stream.
    pub fn open_stream(&self) -> StreamId {
        StreamId(self.streams.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Renews leases; one verdict a beat, in order.
    pub async fn beats(&self, stream: StreamId, beats: Vec<Beat>) -> Result<Vec<Verdict>, ChangeError> {
        let (answer, verdicts) = oneshot::channel();
        self.commands.send(Command::Beats(stream, beats, answer)).await.map_err(|_| ChangeError::Closed)?;
        verdicts.await.map_err(|_| ChangeError::Closed)
    }

    /// How often a process that holds these leases should beat: as the shortest of them wants it.
    pub(crate) fn beat_every(&self, ids: &[InstanceId]) -> Duration {
        let published = self.published.borrow();
        let shortest = ids.iter().filter_map(|id| published.records.get(id)).map(|r| r.ttl).min();
        shortest.unwrap_or(LeaseTtl::DEFAULT).beat_every()
    }

    /// Ends a keep-alive stream: what it renewed last has its grace.
    pub async fn end_stream(&self, stream: StreamId) {
        drop(self.commands.send(Command::Ended(stream)).await); // a closed catalog needs no news
    }

    async fn change(&self, change: Change) -> Fate {
        let (answer, fate) = oneshot::channel();
        let asked = Command::Changes(vec![change], Answer::One(answer));
        self.commands.send(asked).await.map_err(|_| ChangeError::Closed)?;
        fate.await.map_err(|_| ChangeError::Closed)?
    }
}

/// A watch of the catalog that skips to the latest.
#[derive(Debug, Clone)]
pub struct Follow(watch::Receiver<Arc<Published>>);

impl Follow {
    /// The catalog as it is; `next` waits for what comes after it.
    pub fn now(&mut self) -> Arc<Published> {
        self.0.borrow_and_update().clone()
    }

    /// Waits for a change since the last call. None when the catalog has ended. Cancel-safe.
    pub async fn next(&mut self) -> Option<Arc<Published>> {
        self.0.changed().await.ok()?;
        Some(self.0.borrow_and_update().clone())
    }
}

fn published(state: &State, doubt: &Doubt) -> Published {
    let frozen = doubt.frozen.map(|why| format!("expiry of all leases is frozen: {why}"));
    Published {
        snapshot: Arc::new(state.snapshot.clone()),
        notices: frozen.into_iter().chain(doubt.suspended.values().cloned()).collect(),
        warming: doubt.frozen.is_some(),
        at: Instant::now(),
        removals: state.removals.clone(),
        sets: state.sets.clone(),
        claims: state.claims.clone(),
        refused_sets: state.refused_sets.clone(),
        policies: state.policies.clone(),
        records: state.records.clone(),
    }
}

#[cfg(test)]
mod tests;
