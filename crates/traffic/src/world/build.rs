//! Building the next world out of the last one and what changed.
//!
//! Lives here: which endpoints a cluster has, which access rules hold, what is reused. Does not: storing it (`world`), routes (`routes`).
//! Cost: what did not change is recognised by pointer; only services whose snapshot is another `Arc` are looked at.

use std::{collections::HashMap, sync::Arc};

use weft_model::{self as model, Digest, Instance, Protocol, ServiceInfo, ServiceName, ServiceSnapshot, Snapshot};

use crate::{
    Claims, Metrics, StaticCluster,
    access::Gate,
    cluster::{Cluster, Hope, Member, Parts, Shared},
    endpoint::{Endpoint, Key},
    ticks::Clock,
    world::{
        World,
        routes::{Named, Routes},
        rules::Rules,
    },
};

/// What a world is made of.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) statics: Vec<Arc<StaticCluster>>,
    /// Service whose access rules worlds carry.
    pub(super) guarded: Option<ServiceName>,
    /// What they are, as last heard.
    pub(super) gate: Gate,
    /// The process has an identity.
    pub(super) identity: bool,
    /// What each cluster of the current world was built from, to recognise it.
    built: HashMap<ServiceName, Built>,
}

#[derive(Debug)]
struct Built {
    origin: Origin,
    info: Arc<ServiceInfo>,
}

#[derive(Debug, Clone)]
enum Origin {
    Snapshot(Arc<ServiceSnapshot>),
    Static(Arc<StaticCluster>),
}

pub(super) fn empty(metrics: &Metrics) -> World {
    World {
        version: model::Version::default(),
        routes: Arc::new(Routes::build(Vec::new(), None, metrics)),
        clusters: Vec::new(),
        gate: Gate::default(),
        complete: false,
    }
}

/// Returns the world that follows `before`, and notes in `sources` what it was built from.
pub(super) fn next(before: &World, sources: &mut Sources, metrics: &Metrics, clock: Clock) -> World {
    let named = services(sources);
    let home = sources.guarded.as_ref().map(ServiceName::namespace);
    let routes = if before.routes.same(&named, home) {
        before.routes.clone()
    } else {
        Arc::new(Routes::build(named.clone(), home, metrics))
    };
    let mut built = HashMap::new();
    let clusters = named
        .iter()
        .map(|Named { name, info, .. }| {
            let origin = origin(sources, name)?;
            let (old, was) = (before.cluster(name), sources.built.get(name));
            let same_facts = was.is_some_and(|was| Arc::ptr_eq(&was.info, info) || was.info == *info);
            let cluster = match (old, was) {
                (Some(old), Some(was)) if same_facts && was.origin.same(&origin) => old.clone(),
                (old, _) => {
                    let slot = routes.slot(name).expect("routes were built from these services");
                    let facts = Facts { info, lacking: routes.lacking(slot), secured: sources.identity };
                    cluster(name, &origin, &facts, old, metrics, clock)
                }
            };
            built.insert(name.clone(), Built { origin, info: info.clone() });
            Some(cluster)
        })
        .collect();
    sources.built = built;
    let version = sources.snapshot.as_ref().map_or(before.version, |s| s.version);
    if let Some(guarded) = sources.guarded.as_ref().and_then(|name| sources.snapshot.as_ref()?.services.get(name)) {
        sources.gate = sources.gate.next(&guarded.policies, metrics);
    }
    let gate = match &sources.gate {
        Gate::Unknown if !sources.identity => Gate::Open, // nobody can be told apart here: what is not known yet closes nothing
        gate => gate.clone(),
    };
    let complete = sources.snapshot.as_ref().is_some_and(|it| it.complete);
    World { version, routes, clusters, gate, complete }
}

/// Every service that a call may name, by name.
fn services(sources: &Sources) -> Vec<Named> {
    let mut services = std::collections::BTreeMap::new();
    if let Some(snapshot) = &sources.snapshot {
        for (name, service) in &snapshot.services {
            services.insert(name.clone(), (service.info.clone(), Claims::Names));
        }
        for (name, info) in &snapshot.directory {
            services.insert(name.clone(), (info.clone(), Claims::Names));
        }
    }
    for it in &sources.statics {
        services.insert(it.name.clone(), (Arc::new(it.info.clone()), it.claims));
    }
    services.into_iter().map(|(name, (info, claims))| Named { name, info, claims }).collect()
}

fn origin(sources: &Sources, name: &ServiceName) -> Option<Origin> {
    if let Some(it) = sources.statics.iter().find(|s| s.name == *name) {
        return Some(Origin::Static(it.clone()));
    }
    sources.snapshot.as_ref()?.services.get(name).cloned().map(Origin::Snapshot)
}

impl Origin {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Snapshot(a), Self::Snapshot(b)) => Arc::ptr_eq(a, b) || a == b,
            (Self::Static(a), Self::Static(b)) => a == b,
            (Self::Snapshot(_), Self::Static(_)) | (Self::Static(_), Self::Snapshot(_)) => false,
        }
    }

    /// The endpoints that take calls and may be called, in the order given.
    fn wanted(&self, secured: bool) -> Vec<Wanted> {
        match self {
            Self::Snapshot(service) => service
                .instances
                .values()
                .filter(|instance| usable(instance) && !(secured && service.hides(instance)))
                .map(|it| Wanted {
                    key: Key { instance: Some(it.id), endpoint: it.endpoint.clone() },
                    weight: f32::from(it.weight.get()),
                    carries: it.descriptors,
                })
                .collect(),
            Self::Static(it) => it
                .endpoints
                .iter()
                .map(|e| Wanted { key: Key { instance: None, endpoint: e.clone() }, weight: 1.0, carries: None })
                .collect(),
        }
    }

    /// Whether somebody may come who fits.
    fn hope(&self, secured: bool, fits: impl Fn(Option<Digest>) -> bool) -> Hope {
        let all_hidden = |service: &ServiceSnapshot| {
            let mut usable = service.instances.values().filter(|it| usable(it) && fits(it.descriptors)).peekable();
            secured && usable.peek().is_some() && usable.all(|it| service.hides(it))
        };
        match self {
            Self::Snapshot(service) if all_hidden(service) => Hope::PlaintextOnly,
            Self::Snapshot(service)
                if service.authoritative && !service.instances.values().any(|it| fits(it.descriptors)) =>
            {
                Hope::None
            }
            Self::Snapshot(_) => Hope::SomeoneMayCome,
            Self::Static(_) => Hope::None,
        }
    }

    /// Its route rules.
    fn rules(&self) -> Option<Arc<Rules>> {
        match self {
            Self::Snapshot(service) => Rules::of(&service.policies),
            Self::Static(_) => None,
        }
    }

    /// An empty set that may be a mistake: the last good one stays.
    fn doubtful(&self) -> bool {
        match self {
            Self::Snapshot(service) => service.instances.is_empty() && !service.authoritative,
            Self::Static(_) => false,
        }
    }
}

/// An endpoint that takes calls, and the descriptor set its instance carries.
struct Wanted {
    key: Key,
    weight: f32,
    carries: Option<Digest>,
}

/// What is known of the sets of a service, and of who looks at it.
struct Facts<'a> {
    info: &'a ServiceInfo,
    lacking: &'a [Box<[Digest]>],
    /// The process has an identity.
    secured: bool,
}

impl Facts<'_> {
    /// A set that is not known counts as declaring everything, as does none.
    fn known(&self, carries: Option<Digest>) -> bool {
        carries.is_some_and(|digest| self.info.descriptors.contains(&digest))
    }
}

fn usable(instance: &Instance) -> bool {
    instance.status.takes_calls() && instance.endpoint.protocol == Protocol::H2
}

fn cluster(
    name: &ServiceName,
    origin: &Origin,
    facts: &Facts<'_>,
    old: Option<&Arc<Cluster>>,
    metrics: &Metrics,
    clock: Clock,
) -> Arc<Cluster> {
    if let Some(old) = old.filter(|old| origin.doubtful() && !old.members.is_empty()) {
        let (members, shared) = (old.members.clone(), old.shared.clone());
        // Its parts were made for the methods as they were then: a method that lost its place is called everywhere.
        let rules = origin.rules();
        let kept = old.parts.is_none() && old.rules == rules;
        let aged = || Arc::new(Cluster { members, shared, hope: old.hope, empty_since: None, parts: None, rules });
        return if kept { old.clone() } else { aged() };
    }
    let known: HashMap<&Key, &Arc<Endpoint>> =
        old.into_iter().flat_map(|old| old.members.iter()).map(|m| (m.endpoint.key(), &m.endpoint)).collect();
    let member = |Wanted { key, weight, carries }: Wanted| {
        let endpoint = known.get(&key).copied().cloned();
        let endpoint = endpoint.unwrap_or_else(|| Arc::new(Endpoint::new(key, clock)));
        (Member { endpoint, weight }, carries)
    };
    let all: Vec<(Member, Option<Digest>)> = origin.wanted(facts.secured).into_iter().map(member).collect();
    let new = || Arc::new(Shared::new(name.clone(), metrics.cluster(&name.to_string()), clock.now()));
    let shared = old.map_or_else(new, |old| old.shared.clone());
    let parts = parts(origin, facts, &all, &shared);
    let members: Box<[Member]> = all.into_iter().map(|(member, _)| member).collect();
    let hope = origin.hope(facts.secured, |_| true);
    let still = old.filter(|old| old.hope == hope).and_then(|old| old.empty_since); // a new hope is a new beginning
    let empty_since = members.is_empty().then(|| still.unwrap_or_else(|| clock.now()));
    let next = Cluster { members, shared, hope, empty_since, parts, rules: origin.rules() };
    match old {
        Some(old) if same(old, &next) => old.clone(),
        _ => Arc::new(next),
    }
}

/// Takes a cluster apart where its endpoints do not all declare the same methods; none is the usual case.
fn parts(
    origin: &Origin,
    facts: &Facts<'_>,
    all: &[(Member, Option<Digest>)],
    shared: &Arc<Shared>,
) -> Option<Box<Parts>> {
    let part = |fits: &dyn Fn(Option<Digest>) -> bool| {
        let members = all.iter().filter(|(_, carries)| fits(*carries)).map(|(member, _)| member.clone()).collect();
        let hope = origin.hope(facts.secured, fits);
        Arc::new(Cluster { members, shared: shared.clone(), hope, empty_since: None, parts: None, rules: None })
    };
    let says = |(_, carries): &(Member, Option<Digest>)| facts.known(*carries);
    let mixed = all.iter().any(says) && !all.iter().all(says);
    if facts.lacking.is_empty() && !mixed {
        return None;
    }
    let declares =
        |lacking: &[Digest], carries: Option<Digest>| carries.is_none_or(|digest| !lacking.contains(&digest));
    let declaring = facts.lacking.iter().map(|lacking| part(&|carries| declares(lacking, carries))).collect();
    let unsaid = mixed.then(|| part(&|carries| !facts.known(carries)));
    Some(Box::new(Parts { declaring, unsaid }))
}

/// Whether nothing changed that a call could notice.
fn same(old: &Cluster, new: &Cluster) -> bool {
    let parts = match (&old.parts, &new.parts) {
        (None, None) => true,
        (Some(old), Some(new)) => {
            let (old, new) = (old.declaring.iter().chain(&old.unsaid), new.declaring.iter().chain(&new.unsaid));
            old.clone().count() == new.clone().count() && old.zip(new).all(|(old, new)| same(old, new))
        }
        (Some(_), None) | (None, Some(_)) => false,
    };
    old.hope == new.hope && same_members(&old.members, &new.members) && parts && old.rules == new.rules
}

fn same_members(old: &[Member], new: &[Member]) -> bool {
    let same = |(a, b): (&Member, &Member)| Arc::ptr_eq(&a.endpoint, &b.endpoint) && a.weight == b.weight;
    old.len() == new.len() && old.iter().zip(new).all(same)
}
