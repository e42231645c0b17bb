//! What one process acts on: routes, clusters, endpoints and access rules of one version, and the one place that holds them.
//!
//! Lives here: `World` (immutable), `Worlds` (the process's one), the ways to wait for the next. Does not: building one (`world/build`), names and methods
//! (`world/routes`), where snapshots come from.
//! Writing: whoever calls `apply` and `set_static`; the two sources are merged under a mutex that readers never touch.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};
use weft_model::{Endpoint, ServiceInfo, ServiceName, Snapshot, Version};

pub use crate::cluster::Cluster;
use crate::{
    Metrics,
    access::Gate,
    cluster::Hope,
    ticks::{Clock, Ticks},
    world::routes::{Declared, Routes, Slot},
};

mod build;
pub(crate) mod routes;
pub(crate) mod rules;

/// Interests that wait for their reader; more are dropped, their calls ask again.
const INTERESTS: usize = 64;

/// Routes, clusters, endpoints and access rules of one version. Immutable; parts that did not change are shared with the version before.
#[derive(Debug)]
pub struct World {
    version: Version,
    routes: Arc<Routes>,
    /// By slot of `routes`; none for a service that the directory knows and nobody subscribed.
    clusters: Vec<Option<Arc<Cluster>>>,
    gate: Gate,
    /// A service that is not here is nobody's.
    complete: bool,
}

impl World {
    /// Version of the snapshot it was built from; 0 before the first.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The cluster of a service, if its endpoints are known.
    pub fn cluster(&self, service: &ServiceName) -> Option<&Arc<Cluster>> {
        self.at(self.routes.slot(service)?)
    }

    /// Whether a service that is not here is nobody's, rather than not known yet.
    pub(crate) const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Every cluster, in no order.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.iter().flatten()
    }

    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The endpoints of a service that are called by this path. While all its instances carry one descriptor set, and nearly always, these are
    /// all of them.
    pub(crate) fn serving(&self, slot: Slot, path: &str) -> Option<&Arc<Cluster>> {
        let whole = self.at(slot)?;
        let Some(parts) = &whole.parts else { return Some(whole) };
        let part = match self.routes.declared(slot, path) {
            Declared::Everywhere => None,
            Declared::Except(place) => parts.declaring.get(place),
            Declared::Nowhere => parts.unsaid.as_ref(), // without these anybody may say that there is no such method
        };
        Some(part.unwrap_or(whole))
    }

    /// As [`World::serving`], by name.
    pub(crate) fn serving_of(&self, service: &ServiceName, path: &str) -> Option<&Arc<Cluster>> {
        self.serving(self.routes.slot(service)?, path)
    }

    pub(crate) fn at(&self, slot: Slot) -> Option<&Arc<Cluster>> {
        self.clusters.get(slot.index())?.as_ref()
    }

    /// What stands before the process's own app.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }
}

/// Which calls a static cluster gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claims {
    /// Those to its name and to its gRPC services.
    Names,
    /// Also every call that nothing else claims (`--upstream`).
    Everything,
}

/// A cluster that comes from a file or the command line instead of a registry.
#[derive(Debug, Clone, PartialEq)]
pub struct StaticCluster {
    /// Name of the service.
    pub name: ServiceName,
    /// Its endpoints, all taking calls.
    pub endpoints: Vec<Endpoint>,
    /// What is known of its methods; may be empty.
    pub info: ServiceInfo,
    /// Which calls it gets.
    pub claims: Claims,
}

/// The process's one world, which its data threads read and one task replaces. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Worlds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    current: Arc<ArcSwap<World>>,
    /// What the world is made of. Control path only.
    sources: Mutex<build::Sources>,
    changed: watch::Sender<()>,
    interests: mpsc::Sender<ServiceName>,
    metrics: Metrics,
    clock: Clock,
}

impl Worlds {
    /// An empty world. Services that calls ask for come out of [`Interests`]; drop it where everything is subscribed anyway.
    pub fn new(metrics: Metrics) -> (Self, Interests) {
        let (interests, wanted) = mpsc::channel(INTERESTS);
        let empty = build::empty(&metrics);
        let inner = Inner {
            current: Arc::new(ArcSwap::from_pointee(empty)),
            sources: Mutex::default(),
            changed: watch::Sender::new(()),
            interests,
            metrics,
            clock: Clock::start(),
        };
        (Self(Arc::new(inner)), Interests(wanted))
    }

    /// Builds the next world from a snapshot and stores it: when this returns, every new call sees it. What did not change is shared with the world before;
    /// what calls have taught about an endpoint stays with it. A set that is empty and not `authoritative` does not replace one with endpoints.
    pub fn apply(&self, snapshot: &Snapshot) {
        self.rebuild(|sources| sources.snapshot = Some(snapshot.clone()));
    }

    /// Replaces the static clusters. A static cluster hides one of the same name from a snapshot.
    pub fn set_static(&self, clusters: Vec<StaticCluster>) {
        self.rebuild(|sources| sources.statics = clusters.into_iter().map(Arc::new).collect());
    }

    /// Worlds carry the access rules of `service` from now on: that of the app beside this process, whose calls [`crate::ToApp`] judges by them. A name
    /// without a namespace means a service of its namespace first.
    pub fn guard(&self, service: ServiceName) {
        self.rebuild(|sources| {
            sources.gate = Gate::Unknown;
            sources.guarded = Some(service);
        });
    }

    /// This process has an identity, and what is not proven to it counts less: endpoints of a snapshot that speak plaintext are left out unless a policy of
    /// their service allows them, and before the access rules of a guarded service are known nobody is let in. Say so before the first snapshot.
    pub fn have_identity(&self) {
        self.rebuild(|sources| sources.identity = true);
    }

    /// The world as it is now. A caller that needs consistency keeps the `Arc`.
    pub fn load(&self) -> Arc<World> {
        self.0.current.load_full()
    }

    /// Tells of each later world.
    pub fn changes(&self) -> Changes {
        Changes { changed: self.0.changed.subscribe(), current: Arc::downgrade(&self.0.current) }
    }

    /// Services with endpoints from a snapshot that no call has used for this long: their subscription may go.
    pub fn unused_for(&self, idle: Duration) -> Vec<ServiceName> {
        let now = self.0.clock.now();
        let statics: Vec<_> = self.sources().statics.iter().map(|s| s.name.clone()).collect();
        let world = self.load();
        let unused = world.clusters().filter(|c| now.since(c.shared.last_used()) >= idle);
        unused.map(|c| c.name().clone()).filter(|name| !statics.contains(name)).collect()
    }

    /// The request path's read: no reference count is touched.
    pub(crate) fn borrow(&self) -> arc_swap::Guard<Arc<World>> {
        self.0.current.load()
    }

    pub(crate) fn clock(&self) -> Clock {
        self.0.clock
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Asks for a subscription. A full or dropped queue is no error: the call waits for the world either way, and the next one asks again.
    pub(crate) fn want(&self, service: &ServiceName) {
        drop(self.0.interests.try_send(service.clone()));
    }

    fn rebuild(&self, change: impl FnOnce(&mut build::Sources)) {
        let mut sources = self.sources();
        change(&mut sources);
        let before = self.load();
        let next = build::next(&before, &mut sources, &self.0.metrics, self.0.clock);
        self.0.current.store(Arc::new(next));
        drop(sources); // stored under the lock, so that the later change wins
        self.0.changed.send_replace(());
    }

    fn sources(&self) -> std::sync::MutexGuard<'_, build::Sources> {
        self.0.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Yields when the world changed.
#[derive(Debug)]
pub struct Changes {
    changed: watch::Receiver<()>,
    current: Weak<ArcSwap<World>>,
}

impl Changes {
    /// Waits for a world later than the one returned last (or than the call of [`Worlds::changes`]); None when every `Worlds` is gone. Cancel-safe; changes
    /// in between are skipped.
    pub async fn next(&mut self) -> Option<Arc<World>> {
        self.changed.changed().await.ok()?;
        Some(self.current.upgrade()?.load_full())
    }
}

/// Services that calls want and no snapshot lists: to be subscribed. At most 64 wait; more are dropped, their calls ask again.
#[derive(Debug)]
pub struct Interests(mpsc::Receiver<ServiceName>);

impl Interests {
    /// Waits for the next service; None when every `Worlds` is gone. The same service may come again. Cancel-safe.
    pub async fn next(&mut self) -> Option<ServiceName> {
        self.0.recv().await
    }
}

impl Cluster {
    pub(crate) fn used(&self, now: Ticks) {
        self.shared.used(now);
    }

    pub(crate) fn may_fill(&self) -> bool {
        self.hope == Hope::SomeoneMayCome
    }
}

#[cfg(test)]
mod tests;
