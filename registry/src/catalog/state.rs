//! The state of the catalog: a persistent value with everything it knows.
//!
//! Lives here: the shapes, what a start makes of the store's content, what is derived from them. Does not: changing it (`draft`).
//! Simplifying assumption: a service that lost its last instance stays listed, empty, until the registry restarts, so that watchers are told
//! that the empty set is meant. Lifting it takes a time after which nobody can hold the old set any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use imbl::{OrdMap, Vector};
use weft_model::{
    Digest, GrpcService, Instance, InstanceId, LeaseTtl, RemovalReason, ServiceInfo, ServiceName, ServiceSnapshot,
    Snapshot, Status, Version,
};

use crate::{catalog::change::Health, schema::DescriptorSet};

/// Removals whose reason is remembered; a watcher further behind gets a full answer instead of a delta.
const REMEMBERED_REMOVALS: usize = 65_536;

/// What overrides the health that an owner or a check reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Its owner asked for a drain; beats that were on their way do not undo it.
    Draining,
    /// An operator's word, until an operator says SERVING.
    Operator(Health),
}

/// One instance as the catalog keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// As published: status and reason are the effective ones.
    pub(crate) instance: Arc<Instance>,
    pub(crate) ttl: LeaseTtl,
    /// Health by its owner or its check.
    pub(crate) reported: Health,
    pub(crate) hold: Option<Hold>,
}

impl Record {
    pub(crate) fn new(mut instance: Instance, ttl: LeaseTtl, hold: Option<Hold>) -> Self {
        let reported = Health::new(instance.status, std::mem::take(&mut instance.reason));
        let mut record = Self { instance: Arc::new(instance), ttl, reported, hold };
        record.settle();
        record
    }

    /// Makes the published status follow hold and report.
    pub(super) fn settle(&mut self) {
        let (status, reason) = match &self.hold {
            Some(Hold::Operator(health)) => (health.status, health.reason.as_str()),
            Some(Hold::Draining) => (Status::Draining, "draining"),
            None => (self.reported.status, self.reported.reason.as_str()),
        };
        if self.instance.status != status || self.instance.reason != reason {
            let reason = reason.to_owned();
            let instance = Arc::make_mut(&mut self.instance);
            (instance.status, instance.reason) = (status, reason);
        }
    }

    /// Whether it lives by a lease; one that the registry checks leaves only by word.
    pub(crate) fn leased(&self) -> bool {
        self.instance.check.is_none()
    }
}

/// Everything the catalog knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) snapshot: Snapshot,
    pub(crate) records: OrdMap<InstanceId, Arc<Record>>,
    /// Ids that a forced deregistration blocks, and until when.
    pub(crate) tombstones: OrdMap<InstanceId, SystemTime>,
    /// gRPC service name → the mesh service it belongs to.
    pub(crate) claims: OrdMap<String, ServiceName>,
    pub(crate) sets: OrdMap<Digest, Arc<DescriptorSet>>,
    pub(crate) removals: Removals,
    /// Highest number given as an epoch or as the age of a descriptor set.
    pub(super) last_number: u64,
}

/// Why instances went, for as long as a watcher may still need to know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Removals {
    why: OrdMap<InstanceId, RemovalReason>,
    order: Vector<InstanceId>,
}

impl Removals {
    pub(crate) fn why(&self, id: &InstanceId) -> Option<RemovalReason> {
        self.why.get(id).copied()
    }

    pub(super) fn push(&mut self, id: InstanceId, why: RemovalReason) {
        self.why.insert(id, why);
        self.order.push_back(id);
        while self.order.len() > REMEMBERED_REMOVALS {
            if let Some(oldest) = self.order.pop_front() {
                self.why.remove(&oldest);
            }
        }
    }
}

impl State {
    /// Returns the state of a registry that starts as this generation with what the store kept.
    pub(crate) fn restore(
        generation: u32,
        records: impl IntoIterator<Item = Record>,
        tombstones: impl IntoIterator<Item = (InstanceId, SystemTime)>,
        claims: impl IntoIterator<Item = (String, ServiceName)>,
        sets: impl IntoIterator<Item = DescriptorSet>,
    ) -> Self {
        let first = u64::from(generation) << 32;
        let mut state = Self {
            snapshot: Snapshot { version: Version(first), ..Snapshot::default() },
            records: records.into_iter().map(|r| (r.instance.id, Arc::new(r))).collect(),
            tombstones: tombstones.into_iter().collect(),
            claims: claims.into_iter().collect(),
            sets: sets.into_iter().map(|s| (s.digest, Arc::new(s))).collect(),
            removals: Removals::default(),
            last_number: first,
        };
        for record in state.records.values() {
            let name = &record.instance.service;
            let empty = || Arc::new(ServiceSnapshot::empty(name.clone(), Version(first)));
            let service = state.snapshot.services.entry(name.clone()).or_insert_with(empty);
            Arc::make_mut(service).instances.insert(record.instance.id, record.instance.clone());
        }
        let names: Vec<ServiceName> = state.snapshot.services.keys().cloned().collect();
        for name in names {
            let info = Arc::new(state.info(&name));
            if let Some(service) = state.snapshot.services.get_mut(&name) {
                Arc::make_mut(service).info = info.clone();
            }
            state.snapshot.directory.insert(name, info);
        }
        state
    }

    /// Generation that the next version belongs to; differs from the present one once in 2³² versions.
    pub(crate) fn generation(&self) -> u32 {
        u32::try_from(self.snapshot.version.0 >> 32).expect("a u64 shifted by 32 fits into a u32")
    }

    /// When the tombstone of an id goes, if one holds it.
    pub(crate) fn tombstone(&self, id: &InstanceId, wall: SystemTime) -> Option<SystemTime> {
        self.tombstones.get(id).copied().filter(|until| *until > wall)
    }

    /// Number of instances of a service, in any status.
    pub(crate) fn population(&self, service: &ServiceName) -> usize {
        self.snapshot.services.get(service).map_or(0, |s| s.instances.len())
    }

    fn sets_of(&self, name: &ServiceName) -> Vec<Arc<DescriptorSet>> {
        let Some(service) = self.snapshot.services.get(name) else { return Vec::new() };
        let digests: BTreeSet<Digest> = service.instances.values().filter_map(|i| i.descriptors).collect();
        let mut sets: Vec<_> = digests.iter().filter_map(|d| self.sets.get(d)).cloned().collect();
        sets.sort_by_key(|set| std::cmp::Reverse(set.age));
        sets
    }

    /// Facts of a service: of the gRPC services it owns, each method as the newest set that declares it says.
    pub(super) fn info(&self, name: &ServiceName) -> ServiceInfo {
        let sets = self.sets_of(name);
        let mut owned: BTreeMap<&str, GrpcService> = BTreeMap::new();
        for grpc in sets.iter().flat_map(|set| &set.services) {
            if self.claims.get(&grpc.name) != Some(name) {
                continue;
            }
            let known =
                owned.entry(&grpc.name).or_insert_with(|| GrpcService { name: grpc.name.clone(), methods: Vec::new() });
            for method in &grpc.methods {
                if known.methods.iter().all(|m| m.name != method.name) {
                    known.methods.push(method.clone());
                }
            }
        }
        ServiceInfo {
            grpc_services: owned.into_values().collect(),
            descriptors: sets.iter().map(|set| set.digest).collect(),
        }
    }
}
