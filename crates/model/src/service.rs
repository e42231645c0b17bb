//! Services and snapshots: immutable, versioned sets of instances, built of shared parts so that a change copies what changed.
//!
//! Lives here: the shapes. Does not: how a change is made (registry catalog) or received (`weft-discovery`), nor choosing (`weft-traffic`).
//! Simplifying assumption: a snapshot lists instances in id order for every view; the order carries no preference.

use std::{fmt, sync::Arc};

use imbl::OrdMap;

use crate::{Digest, Instance, InstanceId, PlaintextUpstream, Policy, PolicyKind, ServiceName, Transport};

/// Version of a snapshot. Rises across restarts of the registry: generation in the high 32 bits, counter in the low.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// What callers may know of a method without its descriptors.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Method {
    /// Name within its gRPC service.
    pub name: String,
    /// The client sends a stream.
    pub client_streaming: bool,
    /// The server sends a stream.
    pub server_streaming: bool,
    /// Declared NO_SIDE_EFFECTS or IDEMPOTENT.
    pub idempotent: bool,
    /// Sets of the service that lack it: instances that carry one of them are not called by it. Nearly always empty.
    pub missing_in: Vec<Digest>,
}

/// A gRPC service that a mesh service offers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcService {
    /// Full name, `shop.users.v1.Users`.
    pub name: String,
    /// Its methods.
    pub methods: Vec<Method>,
}

/// Facts about a service that do not change with each instance.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct ServiceInfo {
    /// gRPC services it owns by claim.
    pub grpc_services: Vec<GrpcService>,
    /// Digests of the descriptor sets its live instances carry, the newest first. While none of them carries any: of the set that was carried
    /// last, if the service still has a name by it.
    pub descriptors: Vec<Digest>,
    /// Names that these sets declare and that belong to others: not to be routed to this service.
    pub refused: Vec<RefusedClaim>,
}

/// A name that a service declares and that belongs to another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefusedClaim {
    /// `shop.users.v1.Users`, or `GET /api/users/*`.
    pub name: String,
    /// Service it belongs to.
    pub holder: ServiceName,
    /// Method whose REST template it is, `acme.v1.Api/Get`; empty for the name of a gRPC service.
    pub method: String,
}

/// One service at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSnapshot {
    /// Its name.
    pub name: ServiceName,
    /// Version of the catalog at which it last changed.
    pub version: Version,
    /// Its instances, in every status.
    pub instances: OrdMap<InstanceId, Arc<Instance>>,
    /// Whether an empty set is meant; a caller keeps its last good set otherwise.
    pub authoritative: bool,
    /// Its facts.
    pub info: Arc<ServiceInfo>,
    /// Its policies, ordered by name.
    pub policies: Arc<[Arc<Policy>]>,
}

impl ServiceSnapshot {
    /// Returns a service without instances.
    pub fn empty(name: ServiceName, version: Version) -> Self {
        let (instances, info, policies) = (OrdMap::new(), Arc::default(), Arc::default());
        Self { name, version, instances, authoritative: true, info, policies }
    }

    /// Whether callers with an identity leave this instance out: it speaks plaintext, and no policy of the service allows that.
    pub fn hides(&self, instance: &Instance) -> bool {
        let said = |mode| self.policies.iter().any(|it| it.kind == PolicyKind::PlaintextUpstream(mode));
        let plaintext = matches!(instance.endpoint.transport, Transport::Plaintext);
        plaintext && (!said(PlaintextUpstream::Allow) || said(PlaintextUpstream::Refuse))
    }
}

/// Everything one reader knows of the mesh at one version.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// Version of the catalog.
    pub version: Version,
    /// Services with their instances: all of them in the registry, the subscribed ones elsewhere.
    pub services: OrdMap<ServiceName, Arc<ServiceSnapshot>>,
    /// Facts of all services, also of those not subscribed.
    pub directory: OrdMap<ServiceName, Arc<ServiceInfo>>,
    /// Whether the registry has told its reader of every service there is: what is not among `services` is nobody's then (discovery.proto, `complete`).
    pub complete: bool,
}
