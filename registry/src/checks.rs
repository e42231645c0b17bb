//! Checks: the health of instances that nobody reports for, asked by the registry itself.
//!
//! Lives here: which instances are checked, the task of each, when a result is news. Does not: how one is asked (`probe`).
//! One task an instance under check, at most 4,000; what is more waits, unchecked, and is counted. A check ends with the lease it was
//! started for. Its first question comes at once for a new instance, and somewhere in the first interval for one loaded from the store;
//! later ones are 10 % early or late, so that checks spread.

mod judge;
mod probe;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use imbl::ordmap::DiffItem;
use rand::Rng;
use tokio::{
    task::{AbortHandle, JoinSet},
    time::Instant,
};
use weft_model::{Check, CheckKind, Epoch, Instance, InstanceId, Snapshot, Status};
use weft_runtime::Metrics;

use crate::{
    catalog::{Catalog, Follow, Health},
    checks::{
        judge::Judge,
        probe::{Answer, Probe},
    },
    metrics::CheckMetrics,
};

/// Checks that run at once (design.md, 5.2).
const MOST: usize = 4_000;

/// When owners last set a status themselves: what a TTL check looks at. Cheap to clone.
///
/// A mutex around one map, held for one look; it has an entry for each TTL check that was ever answered and still runs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard(Arc<Mutex<HashMap<InstanceId, Instant>>>);

impl Heard {
    pub(crate) fn note(&self, id: InstanceId, now: Instant) {
        // Only what is watched is kept: `watch` makes the entry.
        if let Some(at) = self.map().get_mut(&id) {
            *at = now;
        }
    }

    fn watch(&self, id: InstanceId, now: Instant) {
        self.map().insert(id, now);
    }

    fn forget(&self, id: &InstanceId) {
        self.map().remove(id);
    }

    fn last(&self, id: &InstanceId) -> Option<Instant> {
        self.map().get(id).copied()
    }

    fn map(&self) -> std::sync::MutexGuard<'_, HashMap<InstanceId, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All checks of a registry.
#[derive(Debug)]
pub(crate) struct Checks {
    catalog: Catalog,
    follow: Follow,
    heard: Heard,
    metrics: CheckMetrics,
    tasks: JoinSet<(InstanceId, Epoch)>,
    running: HashMap<InstanceId, (Epoch, AbortHandle)>,
    waiting: BTreeMap<InstanceId, Arc<Instance>>,
}

impl Checks {
    pub(crate) fn new(catalog: &Catalog, metrics: &Metrics) -> Self {
        Self {
            catalog: catalog.clone(),
            follow: catalog.follow(),
            heard: Heard::default(),
            metrics: CheckMetrics::register(metrics),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            waiting: BTreeMap::new(),
        }
    }

    /// Where owners' words are noted.
    pub(crate) fn heard(&self) -> Heard {
        self.heard.clone()
    }

    /// Checks until the catalog ends.
    pub(crate) async fn run(mut self) {
        let mut seen = Arc::new(Snapshot::default());
        let first = self.catalog.snapshot();
        self.follow_changes(&seen, &first);
        seen = first;
        loop {
            tokio::select! {
                published = self.follow.next() => {
                    let Some(published) = published else { return };
                    self.follow_changes(&seen, &published.snapshot);
                    seen = published.snapshot.clone();
                }
                Some(ended) = self.tasks.join_next() => {
                    if let Ok((id, epoch)) = ended
                        && self.running.get(&id).is_some_and(|(running, _)| *running == epoch)
                    {
                        self.running.remove(&id); // and not the check of a newer registration
                    }
                    self.fill();
                }
            }
        }
    }

    fn follow_changes(&mut self, before: &Snapshot, now: &Snapshot) {
        for change in before.services.diff(&now.services) {
            let empty = imbl::OrdMap::new();
            let (old, new) = match &change {
                DiffItem::Add(_, new) => (&empty, &new.instances),
                DiffItem::Update { old: (_, old), new: (_, new) } => (&old.instances, &new.instances),
                DiffItem::Remove(_, old) => (&old.instances, &empty),
            };
            for instance in old.diff(new) {
                match instance {
                    DiffItem::Add(_, now) | DiffItem::Update { new: (_, now), .. } => self.want(now),
                    DiffItem::Remove(id, _) => self.end(id),
                }
            }
        }
        self.fill();
    }

    fn want(&mut self, instance: &Arc<Instance>) {
        let id = instance.id;
        if self.running.get(&id).is_some_and(|(epoch, _)| *epoch == instance.epoch) {
            return; // its status changed, which is what checks are for
        }
        self.end(&id);
        if instance.check.is_some() {
            self.waiting.insert(id, instance.clone());
        }
    }

    fn end(&mut self, id: &InstanceId) {
        self.waiting.remove(id);
        if let Some((_, task)) = self.running.remove(id) {
            task.abort();
            self.heard.forget(id);
        }
    }

    /// Starts what waits, as far as there is room.
    fn fill(&mut self) {
        while self.running.len() < MOST {
            let Some((id, instance)) = self.waiting.pop_first() else { break };
            let Some(check) = instance.check.as_deref().cloned() else { continue };
            let subject = Subject {
                catalog: self.catalog.clone(),
                heard: self.heard.clone(),
                metrics: self.metrics.clone(),
                instance: instance.clone(),
                check,
            };
            let epoch = instance.epoch;
            let task = self.tasks.spawn(async move {
                subject.run().await;
                (id, epoch)
            });
            self.running.insert(id, (epoch, task));
        }
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.running.set(count(self.running.len()));
        self.metrics.waiting.set(count(self.waiting.len()));
    }
}

/// One instance under check.
struct Subject {
    catalog: Catalog,
    heard: Heard,
    metrics: CheckMetrics,
    instance: Arc<Instance>,
    check: Check,
}

impl Subject {
    /// Checks until the catalog is closed; aborted when the lease has gone.
    async fn run(self) {
        let stopped = match self.check.kind {
            CheckKind::Ttl { ttl } => self.listen(ttl).await,
            CheckKind::Grpc { .. } | CheckKind::Http { .. } | CheckKind::Tcp { .. } => self.ask().await,
        };
        tracing::debug!(instance = %self.instance.id, ?stopped, "check ended");
    }

    async fn ask(&self) -> Closed {
        let mut probe = Probe::new(&self.check, self.instance.endpoint.address);
        let mut judge = Judge::new(self.check.healthy_after, self.check.unhealthy_after);
        if self.instance.status != Status::Starting {
            tokio::time::sleep(self.pause(0.0..1.0)).await;
        }
        loop {
            let answer = probe.ask().await;
            self.metrics.result(matches!(answer, Answer::Good | Answer::Told(true, _)));
            let news = match answer {
                Answer::Good => judge.good(),
                Answer::Bad(why) => judge.bad(why),
                Answer::Told(healthy, why) => judge.told(healthy, why),
            };
            if let Some(health) = news
                && self.report(health).await.is_err()
            {
                return Closed;
            }
            if !probe.waits_itself() {
                tokio::time::sleep(self.pause(0.9..1.1)).await;
            }
        }
    }

    /// A part of the interval, drawn from `share`.
    fn pause(&self, share: Range<f64>) -> Duration {
        self.check.interval.mul_f64(rand::rng().random_range(share))
    }

    /// A TTL check asks nobody: it notices silence. The word itself was a `SetStatus`.
    async fn listen(&self, ttl: Duration) -> Closed {
        let id = self.instance.id;
        self.heard.watch(id, Instant::now());
        let mut told = None;
        while let Some(last) = self.heard.last(&id) {
            let silent_at = last + ttl;
            if Instant::now() < silent_at {
                tokio::time::sleep_until(silent_at).await;
            } else if told != Some(last) {
                told = Some(last);
                self.metrics.result(false);
                if self.report(Health::new(Status::NotServing, format!("no word for {ttl:?}"))).await.is_err() {
                    return Closed;
                }
            } else {
                tokio::time::sleep(ttl.min(Duration::from_secs(1))).await;
            }
        }
        Closed
    }

    async fn report(&self, health: Health) -> Result<(), Closed> {
        tracing::info!(instance = %self.instance.id, service = %self.instance.service, status = %health.status, reason = health.reason, "check");
        let done = self.catalog.report(self.instance.id, self.instance.epoch, health).await;
        done.map(drop).map_err(|_| Closed) // a report is never refused: only a closed catalog fails it
    }
}

/// The catalog has ended.
#[derive(Debug)]
struct Closed;
