//! Forgetting: what the catalog keeps for a while after nobody needs it, and then drops, so that nothing grows for ever.
//!
//! Lives here: tombstones, descriptor sets that no instance carries, services without instances, refusals of sets. Does not: leases (`leases`).
//! | what | goes |
//! | --- | --- |
//! | tombstone | after 24 h; the oldest above 65,536 |
//! | descriptor set that no instance carries | after 24 h; of each service the oldest above 16; of those never carried the oldest above 64, at once |
//! | the last set of a service that no instance of it carries | with its claims, which it explains |
//! | claim | see `claims` |
//! | service without instances, claims and policies | after 24 h; at once when an operator takes its last policy or claim |
//! | refusal of a set | with its instance, or when that one offers another; the oldest above 256 |

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use weft_model::{Digest, InstanceId, ServiceName};

use super::{Draft, Outcome, TOMBSTONE};
use crate::catalog::state::{RefusedSet, Retired};

const TOMBSTONES: usize = 65_536;
/// How long a set or a service that is not used is kept: a rollback within a day finds all as it was.
const GRACE: Duration = Duration::from_secs(24 * 3600);
const RETIRED_OF_ONE_SERVICE: usize = 16;
const NEVER_CARRIED: usize = 64;
const REFUSED_SETS: usize = 256;
/// How long after the refusal of its set an instance may take to register.
const REGISTERS_WITHIN: Duration = Duration::from_secs(60);

impl Draft<'_> {
    /// Blocks an id.
    pub(super) fn bury(&mut self, id: InstanceId) {
        self.next.tombstones.insert(id, self.wall + TOMBSTONE);
        self.done.durable.tombstones.insert(id);
        if self.next.tombstones.len() > TOMBSTONES
            && let Some((oldest, _)) = self.next.tombstones.iter().min_by_key(|(_, until)| **until)
        {
            let oldest = *oldest;
            self.next.tombstones.remove(&oldest);
            self.done.durable.tombstones.insert(oldest);
        }
    }

    /// An instance of a service does not carry this set any more.
    pub(super) fn retire(&mut self, digest: Option<Digest>, service: &ServiceName) {
        let Some(digest) = digest.filter(|digest| self.next.sets.contains_key(digest)) else { return };
        if self.next.sets_of(service).is_empty() {
            self.next.last.insert(service.clone(), digest);
        }
        let of_service = self.next.snapshot.services.get(service).into_iter().flat_map(|it| it.instances.values());
        let carried = of_service.into_iter().any(|it| it.descriptors == Some(digest))
            || self.next.records.values().any(|it| it.instance.descriptors == Some(digest));
        if !carried {
            self.shelve(digest, Some(service.clone()));
        }
    }

    /// Keeps a set that no instance carries, for a while.
    pub(super) fn shelve(&mut self, digest: Digest, service: Option<ServiceName>) {
        self.next.retired.insert(digest, Retired { since: self.wall, service });
        self.done.durable.retired.insert(digest);
        let age = |digest: &Digest| self.next.sets.get(digest).map_or(0, |set| set.age);
        let never = self.next.retired.iter().filter(|(_, it)| it.service.is_none()).map(|(digest, _)| *digest);
        let mut never: Vec<Digest> = never.collect();
        never.sort_by_key(age);
        let over = never.len().saturating_sub(NEVER_CARRIED); // whoever uploads does not wait for the next look
        never.into_iter().take(over).for_each(|digest| self.drop_set(digest));
    }

    fn drop_set(&mut self, digest: Digest) {
        self.next.retired.remove(&digest);
        let explained: Vec<ServiceName> =
            self.next.last.iter().filter(|(_, last)| **last == digest).map(|(name, _)| name.clone()).collect();
        for name in explained {
            self.next.last.remove(&name);
        }
        self.next.sets.remove(&digest);
        self.done.durable.retired.insert(digest);
        self.done.durable.sets.insert(digest);
    }

    /// An instance carries this set.
    pub(super) fn carried(&mut self, digest: &Digest) {
        if self.next.retired.remove(digest).is_some() {
            self.done.durable.retired.insert(*digest);
        }
    }

    pub(super) fn refuse_set(&mut self, by: InstanceId, service: ServiceName, problem: String) -> Outcome {
        self.next.refused_sets.insert(by, RefusedSet { service, problem, at: self.wall });
        while self.next.refused_sets.len() > REFUSED_SETS
            && let Some((oldest, _)) = self.next.refused_sets.iter().min_by_key(|(_, it)| it.at)
        {
            let oldest = *oldest;
            self.next.refused_sets.remove(&oldest);
        }
        Outcome::NOBODY
    }

    /// The instance is gone, or offers a set that is taken. Leaves the map alone if there is nothing to do, so that nothing is published anew.
    pub(super) fn unrefuse_set(&mut self, by: &InstanceId) {
        if self.next.refused_sets.contains_key(by) {
            self.next.refused_sets.remove(by);
        }
    }

    pub(super) fn forget(&mut self) -> Outcome {
        let over: Vec<InstanceId> =
            self.next.tombstones.iter().filter(|(_, until)| **until <= self.wall).map(|(id, _)| *id).collect();
        for id in over {
            self.next.tombstones.remove(&id);
            self.done.durable.tombstones.insert(id);
        }
        self.forget_sets();
        self.next.forget_places();
        self.review_claims();
        self.forget_services();
        let gone = |(id, it): &(&InstanceId, &RefusedSet)| {
            !self.next.records.contains_key(*id) && it.at + REGISTERS_WITHIN <= self.wall
        };
        let gone: Vec<InstanceId> = self.next.refused_sets.iter().filter(gone).map(|(id, _)| *id).collect();
        gone.iter().for_each(|id| self.unrefuse_set(id));
        Outcome::NOBODY
    }

    fn forget_sets(&mut self) {
        let carried: BTreeSet<Digest> = self.next.records.values().filter_map(|it| it.instance.descriptors).collect();
        let unknown = |digest: &&Digest| !carried.contains(digest) && !self.next.retired.contains_key(*digest);
        let fresh: Vec<Digest> = self.next.sets.keys().filter(unknown).copied().collect();
        fresh.into_iter().for_each(|digest| self.shelve(digest, None)); // stored by a registry that kept no such list
        let mut shelves: BTreeMap<Option<&ServiceName>, Vec<(SystemTime, Digest)>> = BTreeMap::new();
        for (digest, it) in &self.next.retired {
            shelves.entry(it.service.as_ref()).or_default().push((it.since, *digest));
        }
        let explains: BTreeSet<Digest> =
            self.away().filter_map(|name| self.next.last_of(name)).map(|it| it.digest).collect();
        let mut over = Vec::new();
        for (service, mut shelf) in shelves {
            shelf.sort_by(|a, b| b.cmp(a));
            let most = if service.is_some() { RETIRED_OF_ONE_SERVICE } else { NEVER_CARRIED };
            let due = |(at, (since, _)): &(usize, &(SystemTime, Digest))| *at >= most || *since + GRACE <= self.wall;
            over.extend(shelf.iter().enumerate().filter(due).map(|(_, (_, digest))| *digest));
        }
        over.retain(|digest| !explains.contains(digest));
        over.into_iter().for_each(|digest| self.drop_set(digest));
    }

    /// Services of which no instance carries a set that is stored.
    pub(super) fn away(&self) -> impl Iterator<Item = &ServiceName> {
        self.next.last.keys().filter(|name| self.next.sets_of(name).is_empty())
    }

    fn forget_services(&mut self) {
        let holders: BTreeSet<&ServiceName> = self.next.claims.values().map(|claim| &claim.holder).collect();
        let ruled = self.next.policies.services(); // whoever watches for them would not be told again
        let bound = |name: &ServiceName| holders.contains(name) || ruled.contains(name);
        let idle = |name: &ServiceName| self.next.population(name) == 0 && !bound(name);
        let idle: BTreeSet<ServiceName> =
            self.next.snapshot.services.keys().filter(|name| idle(name)).cloned().collect();
        let back: Vec<ServiceName> = self.next.emptied.keys().filter(|name| !idle.contains(*name)).cloned().collect();
        for name in &back {
            self.next.emptied.remove(name);
        }
        for name in idle {
            let since = *self.next.emptied.entry(name.clone()).or_insert(self.wall);
            if since + GRACE <= self.wall {
                self.unlist(&name);
            }
        }
    }

    /// An operator took a claim or a policy from this service: one that nothing else keeps on the list, such as a misspelt name, goes with it.
    pub(super) fn let_go(&mut self, name: &ServiceName) {
        let claims = self.next.claims.values().any(|claim| claim.holder == *name);
        let ruled = !self.next.policies.of(name).is_empty();
        let listed = self.next.snapshot.services.contains_key(name);
        if listed && self.next.population(name) == 0 && !claims && !ruled {
            self.unlist(name);
        }
    }

    fn unlist(&mut self, name: &ServiceName) {
        tracing::info!(service = %name, "a service without instances is forgotten");
        self.next.emptied.remove(name);
        self.next.last.remove(name);
        self.next.snapshot.services.remove(name);
        self.next.snapshot.directory.remove(name);
        self.unlisted = true;
    }
}
