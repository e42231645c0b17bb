//! The catalog as `resources` may see it: one version, immutable.
//!
//! Lives here: what may be asked of it. Does not: making anything of the answer.

use std::sync::Arc;

use imbl::OrdMap;
use weft_model::{ServiceName, ServiceSnapshot, Version};

use crate::catalog::Published;

/// Whether callers can be told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mesh {
    /// Whoever is somebody has an identity.
    Secured,
    /// There are no identities: everything is plaintext, as `--insecure` says.
    Open,
}

/// The catalog at one version. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct XdsWorld {
    published: Arc<Published>,
    mesh: Mesh,
}

impl XdsWorld {
    pub(crate) fn new(published: Arc<Published>, mesh: Mesh) -> Self {
        Self { published, mesh }
    }

    /// The mesh that it is the catalog of.
    pub(crate) const fn mesh(&self) -> Mesh {
        self.mesh
    }

    /// Version of the catalog.
    pub(crate) fn version(&self) -> Version {
        self.published.snapshot.version
    }

    /// A listed service: instances in every status, policies, facts. One without instances may be listed.
    pub(crate) fn service(&self, name: &ServiceName) -> Option<&Arc<ServiceSnapshot>> {
        self.published.snapshot.services.get(name)
    }

    /// All listed services, by name.
    pub(crate) fn services(&self) -> impl Iterator<Item = &Arc<ServiceSnapshot>> {
        self.published.snapshot.services.values()
    }

    pub(super) fn all(&self) -> &OrdMap<ServiceName, Arc<ServiceSnapshot>> {
        &self.published.snapshot.services
    }

    /// The registry has just started: a service that is not listed may be about to register again.
    pub(crate) fn is_warming(&self) -> bool {
        self.published.warming
    }
}
