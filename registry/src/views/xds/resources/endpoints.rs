//! ClusterLoadAssignment: the endpoints of a service by locality, for one set of them and one caller's place.
//!
//! Lives here: grouping, weights, the message. Does not: who can be reached (`reach`), ranks of places (`places`).
//! Only instances that take calls are listed: clients use no others, and one that drains is gone for them, while calls that run end in peace.
//! gRPC's round robin heeds the weights of localities and ignores those of endpoints. Where the instances of one locality differ in weight, a gRPC
//! client is told of one locality for each weight (`sub_zone` ends in `~w3`), so that shares come out as registered.
//! Invariants: addresses are IP literals, each once; every locality has a `locality` message and a weight of 1 or more; priorities have no gap; a set
//! that is empty by anything but word or force is not told at all, so that clients keep what they have.

use std::{
    collections::{BTreeMap, HashSet},
    net::SocketAddr,
};

use weft_model::{Instance, Locality};

use super::{
    messages::{ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, address, core, endpoint, number},
    places::{self, Population},
    reach::{Members, is_meant},
};

/// How a client spreads calls within a locality.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    /// By the weights of endpoints.
    Endpoints,
    /// Evenly.
    Evenly,
}

/// Returns the endpoints as a client in this place is to be told; none if it had better keep what it has.
pub(super) fn assignment(
    name: &str,
    members: Members<'_>,
    from: &Locality,
    spread: Spread,
) -> Option<ClusterLoadAssignment> {
    let groups = groups(members, spread);
    let serving = groups.values().any(|group| !group.serving.is_empty());
    if !serving && !members.service.authoritative {
        return None;
    }
    let populations = groups.iter().map(|(at, group)| (at.clone(), group.population())).collect();
    let ranks = places::rank(&populations, from);
    let locality = |(at, rank): (&Locality, &places::Rank)| {
        let endpoints = &groups[at].serving;
        LocalityLbEndpoints {
            locality: Some(core::Locality {
                region: at.region.clone(),
                zone: at.zone.clone(),
                sub_zone: at.sub_zone.clone(),
            }),
            load_balancing_weight: number(rank.weight),
            priority: rank.priority,
            lb_endpoints: endpoints.iter().copied().map(lb_endpoint).collect(),
            ..LocalityLbEndpoints::default()
        }
    };
    let mut endpoints: Vec<_> = ranks.iter().map(locality).collect();
    endpoints.sort_by_key(|it| it.priority); // stable: by place within a priority
    Some(ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints, ..ClusterLoadAssignment::default() })
}

#[derive(Debug, Default)]
struct Group<'a> {
    serving: Vec<&'a Instance>,
    meant: u64,
}

impl Group<'_> {
    fn population(&self) -> Population {
        Population { serving: self.serving.iter().map(|it| u64::from(it.weight.get())).sum(), meant: self.meant }
    }
}

fn groups(members: Members<'_>, spread: Spread) -> BTreeMap<Locality, Group<'_>> {
    let mut groups: BTreeMap<Locality, Group<'_>> = BTreeMap::new();
    let mut addresses: HashSet<SocketAddr> = HashSet::new();
    // From the newest: an instance that follows another on its port has the address, even while the old lease lives.
    for instance in members.service.instances.values().rev().filter(|it| is_meant(it.status) && members.hold(it)) {
        let group = groups.entry(instance.locality.clone()).or_default();
        group.meant += u64::from(instance.weight.get());
        if instance.status.takes_calls() && addresses.insert(instance.endpoint.address) {
            group.serving.push(instance);
        }
    }
    groups.values_mut().for_each(|group| group.serving.reverse()); // the order of ids, as in every view
    match spread {
        Spread::Endpoints => groups,
        Spread::Evenly => groups.into_iter().flat_map(|(at, group)| by_weight(at, group)).collect(),
    }
}

/// Takes a locality apart whose instances differ in weight.
fn by_weight(at: Locality, group: Group<'_>) -> Vec<(Locality, Group<'_>)> {
    let mut weights: BTreeMap<u16, Vec<&Instance>> = BTreeMap::new();
    for instance in &group.serving {
        weights.entry(instance.weight.get()).or_default().push(instance);
    }
    if weights.len() <= 1 {
        return vec![(at, group)];
    }
    let mut away = group.meant - group.population().serving; // counted once, with the first
    let part = |(weight, serving): (u16, Vec<_>)| {
        let meant = u64::from(weight) * serving.len() as u64 + std::mem::take(&mut away);
        let sub_zone = format!("{}~w{weight}", at.sub_zone);
        (Locality { sub_zone, ..at.clone() }, Group { serving, meant })
    };
    weights.into_iter().map(part).collect()
}

fn lb_endpoint(instance: &Instance) -> LbEndpoint {
    let endpoint = endpoint::Endpoint { address: address(instance.endpoint.address), ..endpoint::Endpoint::default() };
    LbEndpoint {
        health_status: core::HealthStatus::Healthy.into(),
        load_balancing_weight: number(instance.weight.get().into()),
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    }
}
