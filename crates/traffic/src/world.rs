//! What one process acts on.
use std::{sync::Arc, time::Duration};

use weft_model::{Endpoint, ServiceInfo, ServiceName, Snapshot, Version};

use crate::Metrics;

/// A set of endpoints that answer for one service.
#[derive(Debug)]
pub struct Cluster {
    name: ServiceName,
}

impl Cluster {
    /// The service.
    pub fn name(&self) -> &ServiceName {
        &self.name
    }

    /// Endpoints that take calls.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        std::iter::empty()
    }
}

/// Routes, clusters and endpoints of one version. Immutable.
#[derive(Debug, Default)]
pub struct World {
    version: Version,
}

impl World {
    /// Version of the snapshot it was built from; 0 before the first.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The cluster of a service, if it is known with endpoints or subscribed.
    pub fn cluster(&self, service: &ServiceName) -> Option<&Arc<Cluster>> {
        let _ = service;
        None
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
#[derive(Debug, Clone)]
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
pub struct Worlds {}

impl Worlds {
    /// An empty world. Services that calls ask for come out of [`Interests`]; drop it where everything is subscribed anyway.
    pub fn new(metrics: Metrics) -> (Self, Interests) {
        let _ = metrics;
        (Self {}, Interests {})
    }

    /// Builds the next world from a snapshot and stores it: when this returns, every new call sees it. What did not change is shared with the world before;
    /// what calls have taught about an endpoint stays with it.
    pub fn apply(&self, snapshot: &Snapshot) {
        let _ = snapshot;
    }

    /// Replaces the static clusters. A static cluster hides one of the same name from a snapshot.
    pub fn set_static(&self, clusters: Vec<StaticCluster>) {
        let _ = clusters;
    }

    /// The world as it is now. A caller that needs consistency keeps the `Arc`.
    pub fn load(&self) -> Arc<World> {
        Arc::default()
    }

    /// Tells of each later world.
    pub fn changes(&self) -> Changes {
        Changes {}
    }

    /// Services with endpoints from a snapshot that no call has used for this long: their subscription may go.
    pub fn unused_for(&self, idle: Duration) -> Vec<ServiceName> {
        let _ = idle;
        Vec::new()
    }
}

/// Yields when the world changed.
#[derive(Debug)]
pub struct Changes {}

impl Changes {
    /// Waits for a world later than the one returned last (or than the call of [`Worlds::changes`]); None when every `Worlds` is gone. Cancel-safe; changes
    /// in between are skipped.
    pub async fn next(&mut self) -> Option<Arc<World>> {
        None
    }
}

/// Services that calls want and no snapshot lists: to be subscribed. At most 64 wait; more are dropped, their calls ask again.
#[derive(Debug)]
pub struct Interests {}

impl Interests {
    /// Waits for the next service; None when every `Worlds` is gone. The same service may come again. Cancel-safe.
    pub async fn next(&mut self) -> Option<ServiceName> {
        None
    }
}
