//! ClusterLoadAssignment: the endpoints of a service by locality, for one set of them and one caller's place.
//!
//! Lives here: grouping, weights, the message. Does not: who can be reached (`reach`), ranks of places (`places`).
//! Only instances that take calls are listed: clients use no others, and one that drains is gone for them, while calls that run end in peace.
//! gRPC's round robin heeds the weights of localities and ignores those of endpoints. Where the instances of one locality differ in weight, a gRPC
//! client is told of one locality for each weight (`sub_zone` ends in `~w3`), so that shares come out as registered.
//! Invariants: addresses are IP literals, each once; every locality has a `locality` message and a weight of 1 or more; priorities have no gap; a set
//! that is empty by anything but word or force is not told at all, so that clients keep what they have.
//! Of all resources this is the one that changes all the time and is large, so its bytes are written as they come, without messages in between. They
//! are those that the messages would have (`tests::any_mesh`).

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fmt::Write,
    net::SocketAddr,
};

use weft_model::{Instance, Locality};

use super::{
    messages::{core::HealthStatus, field, number_field, text_field, varint_field},
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

/// Returns the endpoints as a client in this place is to be told, as an encoded ClusterLoadAssignment; none if it had better keep what it has.
pub(super) fn assignment(name: &str, members: Members<'_>, from: &Locality, spread: Spread) -> Option<Vec<u8>> {
    let groups = groups(members, spread);
    let serving = groups.values().any(|group| !group.serving.is_empty());
    if !serving && !members.service.authoritative {
        return None;
    }
    let populations = groups.iter().map(|(at, group)| (at.clone().into_owned(), group.population())).collect();
    let ranks = places::rank(&populations, from);
    let mut ranked: Vec<_> = ranks.iter().collect();
    ranked.sort_by_key(|(_, rank)| rank.priority); // stable: by place within a priority
    let mut assignment = Vec::new();
    text_field(&mut assignment, 1, name);
    for (at, rank) in ranked {
        field(&mut assignment, 2, &locality(at, rank, &groups[at].serving));
    }
    Some(assignment)
}

/// Encodes a LocalityLbEndpoints.
fn locality(at: &Locality, rank: &places::Rank, serving: &[&Instance]) -> Vec<u8> {
    const LB_ENDPOINT: usize = 64; // with an IPv4 address rather less
    let mut place = Vec::new();
    text_field(&mut place, 1, at.region());
    text_field(&mut place, 2, at.zone());
    text_field(&mut place, 3, at.sub_zone());
    let mut locality = Vec::with_capacity(place.len() + serving.len() * LB_ENDPOINT);
    field(&mut locality, 1, &place);
    let mut scratch = Scratch::default();
    for instance in serving {
        field(&mut locality, 2, scratch.lb_endpoint(instance));
    }
    number_field(&mut locality, 3, rank.weight);
    if rank.priority > 0 {
        varint_field(&mut locality, 5, rank.priority.into());
    }
    locality
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

/// Where a group is: a locality as registered, or one made up for a weight.
type At<'a> = Cow<'a, Locality>;

fn groups(members: Members<'_>, spread: Spread) -> BTreeMap<At<'_>, Group<'_>> {
    let mut groups: BTreeMap<At<'_>, Group<'_>> = BTreeMap::new();
    let mut addresses: HashSet<SocketAddr> = HashSet::with_capacity(members.service.instances.len());
    // From the newest: an instance that follows another on its port has the address, even while the old lease lives.
    for instance in members.service.instances.values().rev().filter(|it| is_meant(it.status) && members.hold(it)) {
        let group = groups.entry(Cow::Borrowed(&instance.locality)).or_default();
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
fn by_weight<'a>(at: At<'a>, group: Group<'a>) -> Vec<(At<'a>, Group<'a>)> {
    let mut weights: BTreeMap<u16, Vec<&'a Instance>> = BTreeMap::new();
    for instance in &group.serving {
        weights.entry(instance.weight.get()).or_default().push(instance);
    }
    if weights.len() <= 1 {
        return vec![(at, group)];
    }
    let mut away = group.meant - group.population().serving; // counted once, with the first
    let part = |(weight, serving): (u16, Vec<_>)| {
        let meant = u64::from(weight) * serving.len() as u64 + std::mem::take(&mut away);
        let sub_zone = format!("{}~w{weight}", at.sub_zone());
        (Cow::Owned(Locality::new(at.region(), at.zone(), sub_zone)), Group { serving, meant })
    };
    weights.into_iter().map(part).collect()
}

/// What messages of one endpoint are put together in.
#[derive(Default)]
struct Scratch {
    ip: String,
    parts: [Vec<u8>; 4],
}

impl Scratch {
    /// Encodes an LbEndpoint.
    fn lb_endpoint(&mut self, instance: &Instance) -> &[u8] {
        let (Self { ip, parts: [socket, address, endpoint, whole] }, at) = (self, instance.endpoint.address);
        ip.clear();
        write!(ip, "{}", at.ip()).expect("a string takes what comes");
        [&mut *socket, address, endpoint, whole].into_iter().for_each(|it| it.clear());
        text_field(socket, 2, ip);
        varint_field(socket, 3, at.port().into());
        field(address, 1, socket);
        field(endpoint, 1, address);
        field(whole, 1, endpoint);
        varint_field(whole, 2, HealthStatus::Healthy as u64);
        number_field(whole, 4, instance.weight.get().into());
        whole
    }
}
