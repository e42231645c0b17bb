//! Building the next world out of the last one and what changed.
//!
//! Lives here: which endpoints a cluster has, what is reused. Does not: storing it (`world`), routes (`routes`).
//! Cost: what did not change is recognised by pointer; only services whose snapshot is another `Arc` are looked at.

use std::{collections::HashMap, sync::Arc};

use weft_model::{self as model, Instance, Protocol, ServiceName, ServiceSnapshot, Snapshot};

use crate::{
    Claims, Metrics, StaticCluster,
    cluster::{Cluster, Hope, Member, Shared},
    endpoint::{Endpoint, Key},
    ticks::Clock,
    world::{
        World,
        routes::{Named, Routes},
    },
};

/// What a world is made of.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) snapshot: Option<Snapshot>,
    pub(super) statics: Vec<Arc<StaticCluster>>,
    /// What each cluster of the current world was built from, to recognise it.
    built: HashMap<ServiceName, Origin>,
}

#[derive(Debug, Clone)]
enum Origin {
    Snapshot(Arc<ServiceSnapshot>),
    Static(Arc<StaticCluster>),
}

pub(super) fn empty(metrics: &Metrics) -> World {
    World {
        version: model::Version::default(),
        routes: Arc::new(Routes::build(Vec::new(), metrics)),
        clusters: Vec::new(),
    }
}

/// Returns the world that follows `before`, and notes in `sources` what it was built from.
pub(super) fn next(before: &World, sources: &mut Sources, metrics: &Metrics, clock: Clock) -> World {
    let named = services(sources);
    let routes = if before.routes.same(&named) {
        before.routes.clone()
    } else {
        Arc::new(Routes::build(named.clone(), metrics))
    };
    let mut built = HashMap::new();
    let clusters = named
        .iter()
        .map(|Named { name, .. }| {
            let origin = origin(sources, name)?;
            let old = before.cluster(name);
            let cluster = match (old, sources.built.get(name)) {
                (Some(old), Some(was)) if was.same(&origin) => old.clone(),
                (old, _) => cluster(name, &origin, old, metrics, clock),
            };
            built.insert(name.clone(), origin);
            Some(cluster)
        })
        .collect();
    sources.built = built;
    let version = sources.snapshot.as_ref().map_or(before.version, |s| s.version);
    World { version, routes, clusters }
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

    /// Keys and weights of the endpoints that take calls, in the order given.
    fn wanted(&self) -> Vec<(Key, f32)> {
        match self {
            Self::Snapshot(service) => service
                .instances
                .values()
                .filter(|instance| usable(instance))
                .map(|it| {
                    let key = Key { instance: Some(it.id), endpoint: it.endpoint.clone() };
                    (key, f32::from(it.weight.get()))
                })
                .collect(),
            Self::Static(it) => {
                it.endpoints.iter().map(|e| (Key { instance: None, endpoint: e.clone() }, 1.0)).collect()
            }
        }
    }

    fn hope(&self) -> Hope {
        match self {
            Self::Snapshot(service) if service.authoritative && service.instances.is_empty() => Hope::None,
            Self::Snapshot(_) => Hope::SomeoneMayCome,
            Self::Static(_) => Hope::None,
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

fn usable(instance: &Instance) -> bool {
    instance.status.takes_calls() && instance.endpoint.protocol == Protocol::H2
}

fn cluster(
    name: &ServiceName,
    origin: &Origin,
    old: Option<&Arc<Cluster>>,
    metrics: &Metrics,
    clock: Clock,
) -> Arc<Cluster> {
    if let Some(old) = old.filter(|old| origin.doubtful() && !old.members.is_empty()) {
        return old.clone();
    }
    let known: HashMap<&Key, &Arc<Endpoint>> =
        old.into_iter().flat_map(|old| old.members.iter()).map(|m| (m.endpoint.key(), &m.endpoint)).collect();
    let member = |(key, weight): (Key, f32)| {
        let endpoint = known.get(&key).copied().cloned();
        Member { endpoint: endpoint.unwrap_or_else(|| Arc::new(Endpoint::new(key, clock))), weight }
    };
    let members: Box<[Member]> = origin.wanted().into_iter().map(member).collect();
    let hope = origin.hope();
    match old {
        Some(old) if old.hope == hope && same(&old.members, &members) => old.clone(),
        _ => {
            let new = || Arc::new(Shared::new(name.clone(), metrics.cluster(&name.to_string()), clock.now()));
            let shared = old.map_or_else(new, |old| old.shared.clone());
            Arc::new(Cluster { members, shared, hope })
        }
    }
}

fn same(old: &[Member], new: &[Member]) -> bool {
    let same = |(a, b): (&Member, &Member)| Arc::ptr_eq(&a.endpoint, &b.endpoint) && a.weight == b.weight;
    old.len() == new.len() && old.iter().zip(new).all(same)
}
