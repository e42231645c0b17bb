//! The state of the catalog: a persistent value with everything it knows.
//!
//! Lives here: the shapes, what a start makes of the store's content, what is derived from them. Does not: changing it (`draft`).
//! A service that lost its last instance stays listed, empty, so that watchers are told that the empty set is meant: for a day, or as long as
//! it has claims or policies (`draft/forget`). A restart of the registry ends the day, and leaves those with claims or policies.
//! What a service without instances offers is what its last instance offered, as far as it still has the claims.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use imbl::{OrdMap, OrdSet, Vector};
use weft_model::{
    Digest, GrpcService, Instance, InstanceId, LeaseTtl, Locality, RefusedClaim, RemovalReason, ServiceInfo,
    ServiceName, ServiceSnapshot, Snapshot, Status, Version,
};

use crate::{catalog::change::Health, policy, schema::DescriptorSet};

/// Removals whose reason is remembered; a watcher further behind gets a full answer instead of a delta.
const REMEMBERED_REMOVALS: usize = 65_536;
/// Places that are kept without looking whether somebody is there.
const IDLE_PLACES: usize = 1_024;

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
    /// None: what is reported is published. Boxed, since nearly all are.
    held: Option<Box<Held>>,
}

/// What overrides a report, and the report.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    by: Hold,
    reported: Health,
}

impl Record {
    /// The instance comes as it reports.
    pub(crate) fn new(instance: Instance, ttl: LeaseTtl, hold: Option<Hold>) -> Self {
        let mut record = Self { instance: Arc::new(instance), ttl, held: None };
        record.hold(hold);
        record
    }

    /// Health by its owner or its check.
    pub(crate) fn reported(&self) -> (Status, &str) {
        match &self.held {
            Some(held) => (held.reported.status, &held.reported.reason),
            None => (self.instance.status, &self.instance.reason),
        }
    }

    /// What overrides that.
    pub(crate) fn held_by(&self) -> Option<&Hold> {
        self.held.as_ref().map(|held| &held.by)
    }

    pub(super) fn report(&mut self, health: Health) {
        match &mut self.held {
            Some(held) => held.reported = health,
            None => self.publish(health.status, &health.reason),
        }
    }

    /// Overrides what is reported by this, or by nothing any more.
    pub(super) fn hold(&mut self, by: Option<Hold>) {
        let (status, reason) = self.reported();
        let reported = Health::new(status, reason);
        match &by {
            Some(Hold::Operator(health)) => self.publish(health.status, &health.reason),
            Some(Hold::Draining) => self.publish(Status::Draining, "draining"),
            None => self.publish(reported.status, &reported.reason),
        }
        self.held = by.map(|by| Box::new(Held { by, reported }));
    }

    fn publish(&mut self, status: Status, reason: &str) {
        if self.instance.status != status || self.instance.reason != reason {
            let instance = Arc::make_mut(&mut self.instance);
            instance.status = status;
            reason.clone_into(&mut instance.reason);
        }
    }

    /// Whether it lives by a lease; one that the registry checks leaves only by word.
    pub(crate) fn leased(&self) -> bool {
        self.instance.check.is_none()
    }
}

/// An address in 18 bytes instead of 32, since each of very many instances has one: its port, and its IP in the form of IPv6. What else an address of
/// IPv6 may have is of one machine, and no instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At([u8; 2], [u8; 16]);

impl At {
    pub(super) fn of(instance: &Instance) -> Self {
        let address = instance.endpoint.address;
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self(address.port().to_be_bytes(), ip.octets())
    }
}

/// Whose a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) holder: ServiceName,
    /// An operator said so: only an operator ends it.
    pub(crate) placed: bool,
}

/// A stored set that no instance carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Retired {
    pub(crate) since: SystemTime,
    /// Whose last instance carried it; none if it never was carried.
    pub(crate) service: Option<ServiceName>,
}

/// A descriptor set that was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RefusedSet {
    pub(crate) service: ServiceName,
    pub(crate) problem: String,
    pub(crate) at: SystemTime,
}

/// Everything the catalog knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) snapshot: Snapshot,
    pub(crate) records: OrdMap<InstanceId, Arc<Record>>,
    /// Who is at an address, of whichever service: derived from `records`, so that a registration looks at those at its own address only.
    pub(super) addresses: OrdSet<(At, InstanceId)>,
    /// Where instances are, or were: each place once in memory, whoever is there.
    pub(super) places: OrdSet<Locality>,
    /// Ids that a forced deregistration blocks, and until when.
    pub(crate) tombstones: OrdMap<InstanceId, SystemTime>,
    /// By the name of a gRPC service or REST template (discovery.proto, Claim).
    pub(crate) claims: OrdMap<String, Claim>,
    pub(crate) sets: OrdMap<Digest, Arc<DescriptorSet>>,
    /// Those of `sets` that no instance carries.
    pub(crate) retired: OrdMap<Digest, Retired>,
    /// The set that the last instance of a service carried which carried any; what is kept of it across restarts is `retired`.
    pub(super) last: OrdMap<ServiceName, Digest>,
    /// Since when listed services have no instances; kept in memory, as is the listing of an empty service without claims.
    pub(super) emptied: OrdMap<ServiceName, SystemTime>,
    /// By the instance that offered it; kept in memory.
    pub(crate) refused_sets: OrdMap<InstanceId, RefusedSet>,
    pub(crate) policies: policy::Set,
    pub(crate) removals: Removals,
    /// Highest number given as an epoch or as the age of a descriptor set.
    pub(super) last_number: u64,
}

/// What the store kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    pub(crate) records: Vec<Record>,
    pub(crate) tombstones: Vec<(InstanceId, SystemTime)>,
    pub(crate) claims: Vec<(String, Claim)>,
    pub(crate) sets: Vec<DescriptorSet>,
    pub(crate) retired: Vec<(Digest, Retired)>,
    pub(crate) policies: policy::Set,
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
    pub(crate) fn restore(generation: u32, kept: Kept) -> Self {
        let Kept { mut records, tombstones, claims, sets, retired, policies } = kept;
        let places = share(&mut records);
        let first = u64::from(generation) << 32;
        let mut state = Self {
            snapshot: Snapshot { version: Version(first), ..Snapshot::default() },
            addresses: records.iter().map(|r| (At::of(&r.instance), r.instance.id)).collect(),
            places,
            records: records.into_iter().map(|r| (r.instance.id, Arc::new(r))).collect(),
            tombstones: tombstones.into_iter().collect(),
            claims: claims.into_iter().collect(),
            sets: sets.into_iter().map(|s| (s.digest, Arc::new(s))).collect(),
            last: last_carried(&retired),
            retired: retired.into_iter().collect(),
            emptied: OrdMap::new(),
            refused_sets: OrdMap::new(),
            policies,
            removals: Removals::default(),
            last_number: first,
        };
        for record in state.records.values() {
            let name = &record.instance.service;
            let empty = || Arc::new(ServiceSnapshot::empty(name.clone(), Version(first)));
            let service = state.snapshot.services.entry(name.clone()).or_insert_with(empty);
            Arc::make_mut(service).instances.insert(record.instance.id, record.instance.clone());
        }
        for name in state.policies.services() {
            let empty = || Arc::new(ServiceSnapshot::empty(name.clone(), Version(first)));
            let service = state.snapshot.services.entry(name.clone()).or_insert_with(empty);
            Arc::make_mut(service).policies = state.policies.of(&name);
        }
        let away: Vec<ServiceName> = state.last.keys().filter(|name| state.last_of(name).is_some()).cloned().collect();
        for name in away {
            let empty = || Arc::new(ServiceSnapshot::empty(name.clone(), Version(first)));
            state.snapshot.services.entry(name.clone()).or_insert_with(empty);
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

    /// The other instances of a service that are at the address of this one.
    pub(super) fn beside(&self, instance: &Instance) -> impl Iterator<Item = &Arc<Record>> {
        const FIRST: InstanceId = InstanceId::from_bytes([0; 16]);
        const LAST: InstanceId = InstanceId::from_bytes([0xff; 16]);
        let at = At::of(instance);
        let there = self.addresses.range((at, FIRST)..=(at, LAST));
        let others = there.filter(|(_, id)| *id != instance.id).filter_map(|(_, id)| self.records.get(id));
        others.filter(|it| it.instance.service == instance.service)
    }

    /// Puts a record in the place of what was known by its id.
    pub(super) fn put(&mut self, record: Record) {
        let (id, at) = (record.instance.id, At::of(&record.instance));
        let before = self.records.insert(id, Arc::new(record)).map(|it| At::of(&it.instance));
        if before == Some(at) {
            return;
        }
        if let Some(before) = before {
            self.addresses.remove(&(before, id));
        }
        self.addresses.insert((at, id));
    }

    pub(super) fn take(&mut self, id: &InstanceId) -> Option<Arc<Record>> {
        let record = self.records.remove(id)?;
        self.addresses.remove(&(At::of(&record.instance), *id));
        Some(record)
    }

    /// Makes an instance share what others have in memory: the name of its service, and its place.
    pub(super) fn share(&mut self, instance: &mut Instance) {
        if let Some(service) = self.snapshot.services.get(&instance.service) {
            instance.service = service.name.clone();
        }
        match self.places.get(&instance.locality) {
            Some(known) => instance.locality = known.clone(),
            None => drop(self.places.insert(instance.locality.clone())),
        }
    }

    /// Drops the places at which nobody is any more, once there are many.
    pub(super) fn forget_places(&mut self) {
        if self.places.len() > IDLE_PLACES {
            self.places = self.records.values().map(|it| it.instance.locality.clone()).collect();
        }
    }

    /// The sets that instances of a service carry, the newest first.
    pub(super) fn sets_of(&self, name: &ServiceName) -> Vec<Arc<DescriptorSet>> {
        let Some(service) = self.snapshot.services.get(name) else { return Vec::new() };
        let digests: BTreeSet<Digest> = service.instances.values().filter_map(|i| i.descriptors).collect();
        let mut sets: Vec<_> = digests.iter().filter_map(|d| self.sets.get(d)).cloned().collect();
        sets.sort_by_key(|set| std::cmp::Reverse(set.age));
        sets
    }

    /// The sets that say what a service offers, the newest first: those that its instances carry. While none carries any, the last one stands
    /// for what its claims keep for it, so that whoever calls learns that nobody is there, and not that there is no such name.
    fn offered(&self, name: &ServiceName) -> Vec<Arc<DescriptorSet>> {
        let carried = self.sets_of(name);
        if carried.is_empty() { self.last_of(name).cloned().into_iter().collect() } else { carried }
    }

    /// The set that instances of a service carried last, if the service still holds a name that it declares.
    pub(super) fn last_of(&self, name: &ServiceName) -> Option<&Arc<DescriptorSet>> {
        let set = self.last.get(name).and_then(|digest| self.sets.get(digest))?;
        set.services.iter().any(|grpc| self.holds(name, &grpc.name)).then_some(set)
    }

    pub(super) fn holds(&self, service: &ServiceName, name: &str) -> bool {
        self.claims.get(name).is_some_and(|claim| claim.holder == *service)
    }

    /// Facts of a service: of the gRPC services it owns, each method as the newest set that declares it says, and which sets lack it.
    pub(super) fn info(&self, name: &ServiceName) -> ServiceInfo {
        let sets = self.offered(name);
        let mut owned: BTreeMap<&str, GrpcService> = BTreeMap::new();
        for grpc in sets.iter().flat_map(|set| &set.services).filter(|grpc| self.holds(name, &grpc.name)) {
            let known =
                owned.entry(&grpc.name).or_insert_with(|| GrpcService { name: grpc.name.clone(), methods: Vec::new() });
            for method in &grpc.methods {
                if known.methods.iter().all(|m| m.name != method.name) {
                    known.methods.push(method.clone());
                }
            }
        }
        if sets.len() > 1 {
            for set in &sets {
                let declared = methods(set);
                for grpc in owned.values_mut() {
                    let lacking = |method: &&mut weft_model::Method| {
                        !declared.contains(&(grpc.name.as_str(), method.name.as_str()))
                    };
                    grpc.methods.iter_mut().filter(lacking).for_each(|method| method.missing_in.push(set.digest));
                }
            }
        }
        ServiceInfo {
            grpc_services: owned.into_values().collect(),
            descriptors: sets.iter().map(|set| set.digest).collect(),
            refused: self.refused(name, &sets),
        }
    }

    /// What the sets of a service declare and others hold. Templates of a gRPC service that is refused as a whole are not told one by one.
    fn refused(&self, name: &ServiceName, sets: &[Arc<DescriptorSet>]) -> Vec<RefusedClaim> {
        let refused = |claim: &str, method: String| {
            let held = self.claims.get(claim).filter(|it| it.holder != *name)?;
            Some(RefusedClaim { name: claim.to_owned(), holder: held.holder.clone(), method })
        };
        let mut all = BTreeSet::new();
        for (set, grpc) in sets.iter().flat_map(|set| set.services.iter().map(move |grpc| (set, grpc))) {
            match refused(&grpc.name, String::new()) {
                Some(whole) => drop(all.insert(whole)),
                None => all.extend(
                    set.templates_of(&grpc.name)
                        .filter_map(|it| refused(&it.claim, format!("{}/{}", it.service, it.method))),
                ),
            }
        }
        all.into_iter().collect()
    }
}

/// Of each service the set that was carried last: of those that it carried no longer, the one that it carried the longest.
fn last_carried(retired: &[(Digest, Retired)]) -> OrdMap<ServiceName, Digest> {
    let mut last: BTreeMap<&ServiceName, (SystemTime, Digest)> = BTreeMap::new();
    for (digest, it) in retired {
        let Some(service) = &it.service else { continue };
        let latest = last.entry(service).or_insert((it.since, *digest));
        *latest = (it.since, *digest).max(*latest);
    }
    last.into_iter().map(|(service, (_, digest))| (service.clone(), digest)).collect()
}

/// One name in memory for all instances of a service, and one place for all that are there. Returns the places.
fn share(records: &mut [Record]) -> OrdSet<Locality> {
    let (mut names, mut places) = (BTreeSet::new(), OrdSet::new());
    for record in records {
        let Instance { service, locality, .. } = Arc::make_mut(&mut record.instance);
        match names.get(service) {
            Some(known) => *service = ServiceName::clone(known),
            None => drop(names.insert(service.clone())),
        }
        match places.get(locality) {
            Some(known) => *locality = Locality::clone(known),
            None => drop(places.insert(locality.clone())),
        }
    }
    places
}

fn methods(set: &DescriptorSet) -> HashSet<(&str, &str)> {
    let pairs = set.services.iter().flat_map(|grpc| grpc.methods.iter().map(move |method| (grpc, method)));
    pairs.map(|(grpc, method)| (grpc.name.as_str(), method.name.as_str())).collect()
}
