//! A cluster: the endpoints that answer for one service, and the choice among them.
//!
//! Lives here: P2C over peak EWMA, which endpoints may be chosen, the budget's place. Does not: learning from answers (`endpoint`), connections (`pool`).
//! The choice is synchronous, takes no lock and allocates nothing.
//! Invariant: with endpoints there is always a choice; resting and ejected ones are the last resort, since a fresh try beats failing blindly.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use rand::Rng;
use weft_model::{self as model, InstanceId, ServiceName};

use crate::{
    Error,
    breaker::Others,
    budget::Budget,
    endpoint::{Endpoint, EndpointId},
    metrics::ClusterMetrics,
    rest::State,
    ticks::Ticks,
    world::rules::Rules,
};

/// A set of endpoints that answer for one service. Immutable; what calls teach about its endpoints is theirs.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) members: Box<[Member]>,
    pub(crate) shared: Arc<Shared>,
    /// Whether somebody may come: instances that do not take calls now, or a set that is not known for sure.
    pub(crate) hope: Hope,
    /// Since when it has been without endpoints in that hope; none while it has some.
    pub(crate) empty_since: Option<Ticks>,
    /// Present while instances that carry different descriptor sets stand side by side.
    pub(crate) parts: Option<Box<Parts>>,
    /// Where calls to the service go, and how; none: to these endpoints. Parts have none: a call meets the rules once.
    pub(crate) rules: Option<Arc<Rules>>,
}

/// A cluster taken apart by the methods that its endpoints declare. Its parts share endpoints and all that calls teach with the whole.
#[derive(Debug)]
pub(crate) struct Parts {
    /// Endpoints that declare a method, by its place in `Routes::lacking`.
    pub(crate) declaring: Box<[Arc<Cluster>]>,
    /// Endpoints that do not say what they declare, if others do.
    pub(crate) unsaid: Option<Arc<Cluster>>,
}

/// Whether a call to a cluster without endpoints waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hope {
    /// Instances exist that start, restart or recover.
    SomeoneMayCome,
    /// The registry says that there is none.
    None,
    /// There are some, and this process may not go there: they speak plaintext.
    PlaintextOnly,
}

/// An endpoint and its share.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) weight: f32,
}

/// What outlives the change of a cluster's endpoints.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) name: ServiceName,
    pub(crate) budget: Budget,
    pub(crate) metrics: ClusterMetrics,
    last_used: AtomicU64,
}

impl Shared {
    pub(crate) fn new(name: ServiceName, metrics: ClusterMetrics, now: Ticks) -> Self {
        Self { name, budget: Budget::default(), metrics, last_used: AtomicU64::new(now.nanos()) }
    }

    /// Counts a call to its endpoints.
    pub(crate) fn used(&self, now: Ticks) {
        self.budget.deposit(now);
        self.named(now);
    }

    /// A call names the service, wherever its rules send it.
    pub(crate) fn named(&self, now: Ticks) {
        self.last_used.store(now.nanos(), Relaxed);
    }

    /// Takes a retry out of the budget, or counts that there was none.
    pub(crate) fn withdraw(&self, now: Ticks) -> bool {
        let allowed = self.budget.withdraw(now);
        if !allowed {
            self.metrics.over_budget.inc();
        }
        allowed
    }

    pub(crate) fn last_used(&self) -> Ticks {
        Ticks::from_nanos(self.last_used.load(Relaxed))
    }
}

/// Endpoints that a call has tried; the last eight count.
#[derive(Debug, Default)]
pub(crate) struct Tried {
    ids: [Option<EndpointId>; 8],
    next: usize,
}

impl Tried {
    pub(crate) fn add(&mut self, id: EndpointId) {
        self.ids[self.next % self.ids.len()] = Some(id);
        self.next += 1;
    }

    fn contains(&self, id: EndpointId) -> bool {
        self.next > 0 && self.ids.contains(&Some(id))
    }
}

/// How good a choice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Chance {
    /// The endpoint is expected to answer, and the call has not tried it.
    Fresh,
    /// The call tried it before, or it is resting: wait a little before.
    LastResort,
}

impl Cluster {
    /// The service.
    pub fn name(&self) -> &ServiceName {
        &self.shared.name
    }

    /// What a call to it is told while it has no endpoints.
    pub(crate) fn nobody(&self) -> Error {
        let service = self.name().clone();
        match self.hope {
            Hope::SomeoneMayCome | Hope::None => Error::NoEndpoint { service },
            Hope::PlaintextOnly => Error::PlaintextOnly { service },
        }
    }

    /// Endpoints that take calls.
    pub fn endpoints(&self) -> impl Iterator<Item = &model::Endpoint> {
        self.members.iter().map(|member| member.endpoint.model())
    }

    /// The same cluster with one instance in it. None if that is no member.
    pub(crate) fn only(&self, instance: InstanceId) -> Option<Self> {
        let member = self.members.iter().find(|m| m.endpoint.instance() == Some(instance))?;
        let (members, shared) = ([member.clone()].into(), self.shared.clone());
        Some(Self { members, shared, hope: Hope::None, empty_since: None, parts: None, rules: None })
    }

    /// Chooses an endpoint. None only if there is none at all.
    pub(crate) fn pick(&self, now: Ticks, tried: &Tried, rng: &mut impl Rng) -> Option<(&Arc<Endpoint>, Chance)> {
        if let Some(endpoint) = self.pick_of_two(now, tried, rng) {
            return Some((endpoint, Chance::Fresh));
        }
        let usable = |m: &Member| m.endpoint.state(now) != State::Resting;
        let untried = |m: &Member| !tried.contains(m.endpoint.id());
        if let Some(endpoint) = self.pick_among(now, rng, |m| usable(m) && untried(m)) {
            return Some((endpoint, Chance::Fresh));
        }
        self.pick_among(now, rng, usable)
            .or_else(|| self.pick_any(now, rng, untried))
            .or_else(|| self.pick_any(now, rng, |_| true))
            .map(|endpoint| (endpoint, Chance::LastResort))
    }

    /// What would be left without `endpoint`, for the calls that it may be the last to answer.
    pub(crate) fn others(&self, endpoint: &Endpoint, now: Ticks) -> Others {
        let left = |m: &Member| m.endpoint.id() != endpoint.id() && m.endpoint.state(now) == State::Active;
        let alone = |cluster: &Self| !cluster.members.iter().any(left);
        let has = |cluster: &Self| cluster.members.iter().any(|m| m.endpoint.id() == endpoint.id());
        let mut parts = self.parts.iter().flat_map(|parts| parts.declaring.iter());
        if alone(self) || parts.any(|part| has(part) && alone(part)) { Others::None } else { Others::Left }
    }

    /// Whether an endpoint is left that is expected to answer and that the call has not tried.
    pub(crate) fn any_fresh(&self, now: Ticks, tried: &Tried) -> bool {
        self.members.iter().any(|m| m.endpoint.state(now) != State::Resting && !tried.contains(m.endpoint.id()))
    }

    /// The usual case: two random members, both as they should be.
    fn pick_of_two(&self, now: Ticks, tried: &Tried, rng: &mut impl Rng) -> Option<&Arc<Endpoint>> {
        let fine = |m: &Member| m.endpoint.state(now) == State::Active && !tried.contains(m.endpoint.id());
        match &*self.members {
            [] => None,
            [one] => fine(one).then_some(&one.endpoint),
            many => {
                let first = rng.random_range(0..many.len());
                let second = (first + rng.random_range(1..many.len())) % many.len();
                let (first, second) = (&many[first], &many[second]);
                (fine(first) && fine(second)).then(|| cheaper(first, second, now))
            }
        }
    }

    /// P2C among those that fit; one that is due for a probe goes first, if this call gets the right to it.
    fn pick_among(&self, now: Ticks, rng: &mut impl Rng, fits: impl Fn(&Member) -> bool) -> Option<&Arc<Endpoint>> {
        let due = |m: &&Member| m.endpoint.state(now) == State::Due && fits(m);
        if let Some(probe) = self.members.iter().filter(due).find(|m| m.endpoint.claim(now)) {
            return Some(&probe.endpoint);
        }
        self.pick_any(now, rng, |m| m.endpoint.state(now) == State::Active && fits(m))
    }

    /// P2C among those that fit, by reservoir: two uniform distinct members in one pass.
    fn pick_any(&self, now: Ticks, rng: &mut impl Rng, fits: impl Fn(&Member) -> bool) -> Option<&Arc<Endpoint>> {
        let (mut first, mut second) = (None, None);
        for (seen, member) in self.members.iter().filter(|m| fits(m)).enumerate() {
            match rng.random_range(0..=seen) {
                _ if seen == 0 => first = Some(member),
                _ if seen == 1 => second = Some(member),
                0 => first = Some(member),
                1 => second = Some(member),
                _ => {}
            }
        }
        match (first?, second) {
            (one, None) => Some(&one.endpoint),
            (one, Some(other)) => Some(cheaper(one, other, now)),
        }
    }
}

/// The lower cost wins, the first on a tie.
fn cheaper<'a>(first: &'a Member, second: &'a Member, now: Ticks) -> &'a Arc<Endpoint> {
    let cost = |m: &Member| m.endpoint.cost(now) / m.weight;
    if cost(second) < cost(first) { &second.endpoint } else { &first.endpoint }
}

#[cfg(test)]
mod tests;
