//! xDS v3: the catalog as Listeners, RouteConfigurations, Clusters and ClusterLoadAssignments, for stock gRPC clients and Envoy.
//!
//! Lives here: the handle, and the task that follows the catalog. Does not: anything else; see the parts.
//! ```text
//! catalog ─► Xds::run ─ builds what depends on the changed services, outside the lock ─► Hub::update ─ marks ─► sessions ─ wakes ─► streams
//! stream  ─► Stream::request ─► session                          Stream::respond ─► the latest of what is marked ─► one message in the channel
//! ```
//! Bounds: a stream has one message in its channel, one on its way, and one mark a name. Messages share the bytes of their resources (`views::body`), so a stream
//! that is not read costs little more than its subscription.
//! Locking: one mutex around the hub, held for one request, one response, or the marking of one version. What a change touches is built outside of it;
//! what a request is the first to ask for is built under it, a few at a time, so that it is built once, and others have their turn between.

mod clients;
mod csds;
mod hub;
mod kind;
mod profile;
mod resource;
mod resources;
mod service;
mod session;
mod wire;
mod world;

#[cfg(test)]
pub(crate) mod testing;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use weft_model::{ServiceName, Version};
use weft_runtime::strangers::Rarely;

pub(crate) use csds::Csds;
pub(crate) use hub::Maker;
pub(crate) use kind::Kind;
pub(crate) use profile::Profile;
pub(crate) use resource::{Built, Resource};
pub(crate) use service::Ads;
pub(crate) use session::Protocol;
pub(crate) use world::{Mesh, XdsWorld};

use crate::{
    acks::{SILENT, Standing},
    catalog::{Catalog, Follow, Published},
    metrics::XdsMetrics,
    views::{
        pace::Pace,
        xds::{
            hub::{Holder, Hub, Names, Peer, Refused, StreamId, Taken},
            session::{Answer, Request, Response},
        },
    },
};

/// Resources built before others get their turn.
const BUILD_AT_ONCE: usize = 16;

/// All xDS streams of a registry. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Xds(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    hub: Mutex<Hub>,
    maker: Maker,
    mesh: Mesh,
    pace: Pace,
    /// Moves when something happened that a drain may wait for.
    progress: watch::Sender<()>,
    metrics: XdsMetrics,
    /// Rejections that were logged.
    rejections: Rarely,
}

impl Shared {
    fn hub(&self) -> MutexGuard<'_, Hub> {
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Xds {
    /// The xDS view of this catalog. It learns of changes while `run` runs.
    pub(crate) fn new(catalog: &Catalog, mesh: Mesh, pace: Pace, metrics: &weft_runtime::Metrics) -> Self {
        Self::with_maker(catalog, mesh, pace, metrics, Maker::REAL)
    }

    pub(crate) fn with_maker(
        catalog: &Catalog,
        mesh: Mesh,
        pace: Pace,
        metrics: &weft_runtime::Metrics,
        maker: Maker,
    ) -> Self {
        let hub = Mutex::new(Hub::new(XdsWorld::new(catalog.published(), mesh), maker));
        let metrics = XdsMetrics::register(metrics);
        Self(Arc::new(Shared {
            hub,
            maker,
            mesh,
            pace,
            progress: watch::Sender::new(()),
            metrics,
            rejections: Rarely::default(),
        }))
    }

    /// Tells what changes until the catalog ends.
    pub(crate) async fn run(self, mut catalog: Follow) {
        // What came between making the view and this is in no step of `next`.
        let mut next = Some(catalog.now());
        while let Some(published) = next {
            self.update(published).await;
            next = catalog.next().await;
        }
    }

    async fn update(&self, published: Arc<Published>) {
        let (at, next) = (published.at, XdsWorld::new(published, self.0.mesh));
        let (affected, wildcards) = {
            let hub = self.0.hub();
            (hub.affected(&next), hub.wildcards(&next))
        };
        let names: Names = wildcards
            .into_iter()
            .map(|it| {
                let names = (self.0.maker.names)(&next, &it.0, it.1);
                (it, names)
            })
            .collect();
        let coming = if names.is_empty() { Vec::new() } else { self.0.hub().coming(&names) };
        let mut built = BTreeMap::new();
        for (index, place) in affected.into_iter().chain(coming).enumerate() {
            if index % BUILD_AT_ONCE == BUILD_AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            let it = (self.0.maker.build)(&next, &place.profile, place.kind, &place.name);
            built.insert(place, it);
        }
        self.0.metrics.builds.inc_by(built.len() as u64);
        let (woken, resources) = {
            let mut hub = self.0.hub();
            (hub.update(next, built, &names, at, Instant::now()), hub.resources())
        };
        self.0.metrics.wakeups.inc_by(woken);
        self.0.metrics.resources.set(i64::try_from(resources).unwrap_or(i64::MAX));
        self.0.progress.send_replace(());
    }

    /// Opens a stream. It ends when it is dropped.
    fn open(&self, protocol: Protocol, peer: Peer, profile: Profile) -> Result<Stream, Refused> {
        let wake = Arc::new(Notify::new());
        let id = self.0.hub().open(protocol, peer, profile, wake.clone(), Instant::now())?;
        self.0.metrics.streams.get_or_create(&protocol.into()).inc();
        Ok(Stream { id, protocol, xds: self.clone(), wake })
    }

    fn pace(&self) -> &Pace {
        &self.0.pace
    }

    /// Moves when a drain may have come further.
    pub(crate) fn progress(&self) -> watch::Receiver<()> {
        self.0.progress.subscribe()
    }

    /// Starts waiting for everyone who may act on endpoints of a service from before `version`. None: this view is not there yet.
    pub(crate) fn drain(&self, service: &ServiceName, version: Version, now: Instant) -> Option<Drain> {
        let held = self.0.hub().holders(service, version)?;
        Some(Drain { version, began: now, held })
    }
}

/// A drain that waits for xDS clients.
#[derive(Debug)]
pub(crate) struct Drain {
    version: Version,
    began: Instant,
    held: Vec<Holder>,
}

impl Drain {
    /// Where it stands; a client that is silent for long no longer counts.
    pub(crate) fn standing(&self, xds: &Xds, now: Instant) -> Standing {
        let hub = xds.0.hub();
        let heard = self.held.iter().filter_map(|holder| hub.holds(holder, self.version));
        let silent = heard.map(|heard| heard.max(self.began) + SILENT).filter(|at| *at > now);
        silent.min().map_or(Standing::Over, Standing::Until)
    }

    /// Names of those who were waited for.
    pub(crate) fn waited_for(&self) -> Vec<String> {
        let names = self.held.iter().map(|holder| holder.node.clone());
        names.collect()
    }

    /// Names of those who have not acknowledged, silent ones included; one that has gone holds nothing.
    pub(crate) fn waiting(&self, xds: &Xds) -> Vec<String> {
        let hub = xds.0.hub();
        let open = self.held.iter().filter(|holder| hub.holds(holder, self.version).is_some());
        open.map(|holder| holder.node.clone()).collect()
    }
}

/// One stream of the view.
#[derive(Debug)]
struct Stream {
    id: StreamId,
    protocol: Protocol,
    xds: Xds,
    wake: Arc<Notify>,
}

impl Stream {
    /// Takes a request, and joins what it asks for. Returns whether that is more than before. An error ends the stream. Not cancel-safe: it may have
    /// taken it.
    async fn request(&self, request: Request) -> Result<bool, Refused> {
        let (kind, error) = (request.kind, request.error.clone());
        let (shared, now) = (&self.xds.0, Instant::now());
        let Taken { answer, more } = shared.hub().request(self.id, request, now)?;
        self.note(answer, kind, error, now);
        let asks = !more.is_empty();
        let mut more = more.into_iter();
        while !more.as_slice().is_empty() {
            {
                let mut hub = shared.hub();
                hub.join(self.id, kind, more.by_ref().take(BUILD_AT_ONCE))?;
                shared.metrics.resources.set(i64::try_from(hub.resources()).unwrap_or(i64::MAX));
            }
            tokio::task::yield_now().await;
        }
        Ok(asks)
    }

    fn note(&self, answer: Answer, kind: Kind, error: Option<String>, now: Instant) {
        let shared = &self.xds.0;
        match answer {
            Answer::None => return,
            Answer::Stale => drop(shared.metrics.stale.inc()),
            Answer::Acked { changed_at } => shared.metrics.acked(kind, changed_at.map(|at| now.duration_since(at))),
            Answer::Rejected => {
                shared.metrics.rejected(kind);
                let node = shared.hub().stream(self.id).map(|it| it.peer.clone());
                let (node, error) = (node.map(|it| it.node.clone()).unwrap_or_default(), error.unwrap_or_default());
                // One that comes back with the same again and again does not write our log; `weft clients` has them all.
                if shared.rejections.may_log(kind.name(), now) {
                    tracing::warn!(%node, kind = kind.name(), error, "an xDS client rejects what it was sent");
                } else {
                    tracing::debug!(%node, kind = kind.name(), error, "an xDS client rejects what it was sent");
                }
            }
        };
        shared.progress.send_replace(());
    }

    /// Whether there is something to tell, and else when to look again although nothing happened.
    fn next(&self) -> (bool, Option<Instant>) {
        let (hub, now) = (self.xds.0.hub(), Instant::now());
        let Some(stream) = hub.stream(self.id) else { return (false, None) };
        (stream.session.is_due(now), stream.session.wake_at(now))
    }

    /// Waits until there may be something to tell; that is a turn. Cancel-safe: marks stay.
    async fn woken(&self) {
        self.wake.notified().await;
        let due = self.xds.0.hub().due(self.id);
        if let Some(due) = due {
            self.xds.0.pace.turn(due, Instant::now());
        }
    }

    /// Takes what there is to tell.
    fn respond(&self) -> Option<Response> {
        let response = self.xds.0.hub().respond(self.id, Instant::now())?;
        self.xds.0.metrics.pushed(response.kind);
        Some(response)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.xds.0.hub().close(self.id);
        self.xds.0.metrics.streams.get_or_create(&self.protocol.into()).dec();
        self.xds.0.progress.send_replace(());
    }
}
