//! How a group of changes makes the next state.
//!
//! Lives here: every decision about a change (fencing, tombstones, holds; claims and forgetting in files of their own), synchronous, `wall`
//! as an argument. Does not: storing, publishing, timing (`task`), when a lease runs out (`leases`).
//! A draft works on a clone that shares all it does not touch, and dropping it undoes the group: a failed commit leaves no trace.

mod claims;
mod forget;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use weft_model::{
    Digest, Epoch, Instance, InstanceId, Invalid, LeaseTtl, Policy, PolicyName, RefusedClaim, RemovalReason,
    ServiceName, ServiceSnapshot, Status, Version,
};

use crate::{
    catalog::{
        change::{Change, ChangeError, Health, Word},
        state::{Hold, Record, State},
    },
    policy,
    schema::DescriptorSet,
};

/// How long a forced deregistration blocks its id (design.md, 5.1).
pub(crate) const TOMBSTONE: Duration = Duration::from_secs(24 * 3600);

/// What the store must keep. Keys only: the values are read from the state when the batch is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    pub(crate) instances: BTreeSet<InstanceId>,
    pub(crate) tombstones: BTreeSet<InstanceId>,
    pub(crate) claims: BTreeSet<String>,
    pub(crate) sets: BTreeSet<Digest>,
    pub(crate) retired: BTreeSet<Digest>,
    pub(crate) policies: BTreeSet<PolicyName>,
}

impl Keys {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { instances, tombstones, claims, sets, retired, policies } = self;
        instances.is_empty()
            && tombstones.is_empty()
            && claims.is_empty()
            && sets.is_empty()
            && retired.is_empty()
            && policies.is_empty()
    }
}

/// What the lease table must do once a group is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LeaseChange {
    Granted {
        id: InstanceId,
        epoch: Epoch,
        ttl: LeaseTtl,
        service: ServiceName,
        zone: String,
    },
    Ended {
        id: InstanceId,
        why: RemovalReason,
    },
    /// Expiry was refused because the set would have become empty.
    Kept {
        id: InstanceId,
    },
}

/// A group of changes on the way to the next state.
pub(crate) struct Draft<'a> {
    base: &'a State,
    next: State,
    wall: SystemTime,
    /// Whether the owner of a lease has gone silent; decides who gives way at one address.
    lapsed: &'a dyn Fn(&InstanceId) -> bool,
    touched: BTreeSet<ServiceName>,
    /// Touched services whose membership or descriptors changed.
    recount: BTreeSet<ServiceName>,
    /// A service was taken off the list.
    unlisted: bool,
    /// A name was claimed that was free.
    claimed: bool,
    done: Done,
}

/// What a group came to.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// Must be durable before anything is answered or published.
    pub(crate) durable: Keys,
    /// May follow within a second.
    pub(crate) riding: BTreeSet<InstanceId>,
    pub(crate) leases: Vec<LeaseChange>,
    /// Claims refused since the group before, and to whom.
    pub(crate) refused: Vec<(ServiceName, RefusedClaim)>,
}

/// The instance a change was about, as it is after the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) epoch: Epoch,
    pub(crate) service: Option<ServiceName>,
    /// Claims that changed hands by an operator's word.
    pub(crate) claims: Vec<String>,
    pub(crate) policies: Vec<policy::Applied>,
}

impl Outcome {
    const NOBODY: Self = Self { epoch: Epoch(0), service: None, claims: Vec::new(), policies: Vec::new() };

    fn of(instance: &Instance) -> Self {
        Self { epoch: instance.epoch, service: Some(instance.service.clone()), ..Self::NOBODY }
    }
}

impl<'a> Draft<'a> {
    pub(crate) fn new(base: &'a State, wall: SystemTime, lapsed: &'a dyn Fn(&InstanceId) -> bool) -> Self {
        let (touched, recount) = (BTreeSet::new(), BTreeSet::new());
        Self {
            base,
            next: base.clone(),
            wall,
            lapsed,
            touched,
            recount,
            unlisted: false,
            claimed: false,
            done: Done::default(),
        }
    }

    /// Applies one change. A refused one leaves the draft as it was.
    pub(crate) fn apply(&mut self, change: Change) -> Result<Outcome, ChangeError> {
        match change {
            Change::Register { instance, ttl } => self.register(*instance, ttl),
            Change::Deregister { id, word } => self.deregister(id, word),
            Change::SetStatus { id, word, health } => self.set_status(id, word, health),
            Change::Drain { id, word } => self.drain(id, word),
            Change::Report { id, epoch, health } => Ok(self.report(id, epoch, health)),
            Change::Expire { leases } => Ok(self.expire(leases)),
            Change::Doubt { services } => Ok(self.doubt(&services)),
            Change::PutDescriptors { set, by } => Ok(self.put_descriptors(*set, by)),
            Change::RefuseSet { by, service, problem } => Ok(self.refuse_set(by, service, problem)),
            Change::MoveClaim { name, to } => self.move_claim(name, &to),
            Change::ReleaseClaim { name } => self.release_claim(name),
            Change::ApplyPolicies { policies, expected } => self.apply_policies(policies, expected),
            Change::DeletePolicy { name, expected } => self.delete_policy(&name, expected),
            Change::Forget => Ok(self.forget()),
        }
    }

    /// The same for each of these.
    pub(crate) fn apply_all(&mut self, changes: Vec<Change>) -> Vec<Result<Outcome, ChangeError>> {
        changes.into_iter().map(|change| self.apply(change)).collect()
    }

    /// Ends the group: services whose content did change get the next version, the others keep theirs.
    pub(crate) fn finish(mut self) -> (State, Done) {
        if self.claimed {
            // A name may have been taken that a service which is away would offer.
            let listed = &self.next.snapshot.services;
            let away: Vec<ServiceName> = self.away().filter(|name| listed.contains_key(*name)).cloned().collect();
            for name in away {
                self.service(&name);
                self.recount.insert(name);
            }
        }
        let version = self.version();
        let mut changed = self.unlisted;
        for name in std::mem::take(&mut self.touched) {
            if !self.next.snapshot.services.contains_key(&name) {
                continue; // touched, and then taken off the list
            }
            if self.recount.contains(&name) {
                let info = self.next.info(&name);
                let service = self.service(&name);
                if *service.info != info {
                    service.info = Arc::new(info);
                }
            }
            let before = self.base.snapshot.services.get(&name);
            let service = self.next.snapshot.services.get_mut(&name).expect("a touched service is listed");
            match before {
                Some(before) if same_content(before, service) => *service = before.clone(),
                _ => {
                    Arc::make_mut(service).version = version;
                    let known = before.map(|b| b.info.refused.as_slice()).unwrap_or_default();
                    let news = service.info.refused.iter().filter(|claim| !known.contains(claim));
                    self.done.refused.extend(news.map(|claim| (name.clone(), claim.clone())));
                    if before.is_none_or(|b| b.info != service.info) {
                        self.next.snapshot.directory.insert(name, service.info.clone());
                    }
                    changed = true;
                }
            }
        }
        if changed || self.next.policies.version() != self.base.policies.version() {
            self.next.snapshot.version = version;
        }
        (self.next, self.done)
    }

    fn register(&mut self, mut instance: Instance, ttl: LeaseTtl) -> Result<Outcome, ChangeError> {
        let id = instance.id;
        if let Some(until) = self.next.tombstone(&id, self.wall) {
            return Err(ChangeError::Revoked { id, until });
        }
        let old = self.next.records.get(&id).cloned();
        if let Some(old) = &old
            && old.instance.service != instance.service
        {
            let problem = format!("instance {id} is registered as {}", old.instance.service);
            return Err(Invalid::new("instance.service", problem).into());
        }
        if let Some(silent) = self.holder_of_address(&instance)? {
            self.remove(silent, RemovalReason::Expired);
        }
        self.next.share(&mut instance);
        instance.epoch = Epoch(self.number());
        if instance.check.is_some() && instance.status == Status::Serving {
            instance.status = Status::Starting; // its check decides, not its word
        }
        let hold = old.as_ref().and_then(|old| old.held_by()).filter(|by| matches!(by, Hold::Operator(_))).cloned();
        let outcome = Outcome::of(&instance);
        let (service, descriptors) = (instance.service.clone(), instance.descriptors);
        self.done.leases.push(LeaseChange::Granted {
            id,
            epoch: instance.epoch,
            ttl,
            service: service.clone(),
            zone: instance.locality.zone().to_owned(),
        });
        self.done.durable.instances.insert(id);
        let before = old.and_then(|old| old.instance.descriptors);
        self.put(Record::new(instance, ttl, hold));
        if before.is_some() || descriptors.is_some() {
            self.recount.insert(service.clone()); // what carries no set adds nothing to what is known of the service
        }
        if before != descriptors {
            self.retire(before, &service);
            self.unrefuse_set(&id);
        }
        if let Some(set) = descriptors.and_then(|digest| self.next.sets.get(&digest).cloned()) {
            self.carried(&set.digest);
            self.claim(&service, &set);
        }
        Ok(outcome)
    }

    /// One address is one process: a silent holder gives way to a new one. One that seems alive may be a machine that lost its power a
    /// moment ago, so whoever asks has to ask again.
    fn holder_of_address(&self, instance: &Instance) -> Result<Option<InstanceId>, ChangeError> {
        match self.next.beside(instance).next() {
            Some(holder) if (self.lapsed)(&holder.instance.id) => Ok(Some(holder.instance.id)),
            Some(holder) => {
                let silence = holder.leased().then(|| holder.ttl.get().saturating_sub(holder.ttl.beat_every()));
                Err(ChangeError::Held { address: instance.endpoint.address, holder: holder.instance.id, silence })
            }
            None => Ok(None),
        }
    }

    fn deregister(&mut self, id: InstanceId, word: Word) -> Result<Outcome, ChangeError> {
        let record = self.next.records.get(&id).cloned();
        let why = match word {
            Word::Operator => RemovalReason::Forced,
            Word::Owner(epoch) => {
                let Some(record) = &record else { return Ok(Outcome::NOBODY) };
                fence(record, epoch)?;
                let draining = record.instance.status == Status::Draining;
                if draining { RemovalReason::Drained } else { RemovalReason::Deregistered }
            }
        };
        if word == Word::Operator {
            self.bury(id);
        }
        self.remove(id, why);
        Ok(Outcome { service: record.map(|r| r.instance.service.clone()), ..Outcome::NOBODY })
    }

    fn set_status(&mut self, id: InstanceId, word: Word, health: Health) -> Result<Outcome, ChangeError> {
        let mut record = self.record(id)?;
        match word {
            Word::Owner(epoch) => {
                fence(&record, epoch)?;
                record.report(health);
                if record.held_by() == Some(&Hold::Draining) {
                    record.hold(None);
                }
                self.done.riding.insert(id);
            }
            Word::Operator => {
                record.hold((health.status != Status::Serving).then_some(Hold::Operator(health)));
                self.done.durable.instances.insert(id);
            }
        }
        Ok(self.settled(record))
    }

    fn drain(&mut self, id: InstanceId, word: Word) -> Result<Outcome, ChangeError> {
        let mut record = self.record(id)?;
        let hold = match word {
            Word::Owner(epoch) => {
                fence(&record, epoch)?;
                match record.held_by() {
                    Some(Hold::Operator(health)) => Hold::Operator(Health::new(Status::Draining, &*health.reason)),
                    Some(Hold::Draining) | None => Hold::Draining,
                }
            }
            Word::Operator => Hold::Operator(Health::new(Status::Draining, "drained by an operator")),
        };
        record.hold(Some(hold));
        self.done.durable.instances.insert(id);
        Ok(self.settled(record))
    }

    fn report(&mut self, id: InstanceId, epoch: Epoch, health: Health) -> Outcome {
        let Ok(mut record) = self.record(id) else { return Outcome::NOBODY };
        if record.instance.epoch != epoch || record.reported() == (health.status, health.reason.as_str()) {
            return Outcome::of(&record.instance);
        }
        record.report(health);
        self.done.riding.insert(id);
        self.settled(record)
    }

    fn expire(&mut self, leases: Vec<(InstanceId, Epoch)>) -> Outcome {
        for (id, epoch) in leases {
            let Some(record) = self.next.records.get(&id).filter(|r| r.instance.epoch == epoch).cloned() else {
                continue;
            };
            if self.next.population(&record.instance.service) > 1 {
                self.remove(id, RemovalReason::Expired);
            } else {
                self.done.leases.push(LeaseChange::Kept { id }); // a set becomes empty only by word
            }
        }
        Outcome::NOBODY
    }

    fn doubt(&mut self, services: &[ServiceName]) -> Outcome {
        let names: Vec<ServiceName> = self.next.snapshot.services.keys().cloned().collect();
        for name in names {
            let authoritative = !services.contains(&name);
            if self.next.snapshot.services.get(&name).is_some_and(|s| s.authoritative != authoritative) {
                self.service(&name).authoritative = authoritative;
            }
        }
        Outcome::NOBODY
    }

    fn put_descriptors(&mut self, mut set: DescriptorSet, by: Option<InstanceId>) -> Outcome {
        if let Some(by) = by {
            self.unrefuse_set(&by);
        }
        if self.next.sets.contains_key(&set.digest) {
            return Outcome::NOBODY;
        }
        set.age = self.number();
        let set = Arc::new(set);
        self.next.sets.insert(set.digest, set.clone());
        self.done.durable.sets.insert(set.digest);
        let carries = |record: &&Arc<Record>| record.instance.descriptors == Some(set.digest);
        let mut carriers: Vec<_> = self
            .next
            .records
            .values()
            .filter(carries)
            .map(|r| (r.instance.epoch, r.instance.service.clone()))
            .collect();
        if carriers.is_empty() {
            self.shelve(set.digest, None);
        }
        carriers.sort(); // who registered first claims first
        for (_, service) in carriers {
            self.claim(&service, &set);
            self.service(&service);
            self.recount.insert(service);
        }
        Outcome::NOBODY
    }

    fn apply_policies(&mut self, policies: Vec<Policy>, expected: Option<Version>) -> Result<Outcome, ChangeError> {
        let (set, applied) = self.next.policies.apply(&policies, expected, self.version())?;
        let mut left = Vec::new();
        for (policy, fate) in policies.into_iter().zip(&applied) {
            if fate.outcome != policy::Outcome::Unchanged {
                let before = self.next.policies.get(&policy.name).map(|before| before.service.clone());
                left.extend(before.clone());
                self.policies_changed(policy.name, before.into_iter().chain([policy.service]), &set);
            }
        }
        self.next.policies = set;
        left.iter().for_each(|service| self.let_go(service));
        Ok(Outcome { policies: applied, ..Outcome::NOBODY })
    }

    fn delete_policy(&mut self, name: &PolicyName, expected: Option<Version>) -> Result<Outcome, ChangeError> {
        let (set, gone) = self.next.policies.delete(name, expected, self.version())?;
        self.policies_changed(name.clone(), [gone.service.clone()], &set);
        self.next.policies = set;
        self.let_go(&gone.service);
        Ok(Outcome::NOBODY)
    }

    fn policies_changed(&mut self, name: PolicyName, of: impl IntoIterator<Item = ServiceName>, set: &policy::Set) {
        self.done.durable.policies.insert(name);
        for service in of {
            self.service(&service).policies = set.of(&service);
        }
    }

    fn record(&self, id: InstanceId) -> Result<Record, ChangeError> {
        self.next.records.get(&id).map(|r| Record::clone(r)).ok_or(ChangeError::Unknown(id))
    }

    fn settled(&mut self, record: Record) -> Outcome {
        let outcome = Outcome::of(&record.instance);
        self.put(record);
        outcome
    }

    fn put(&mut self, record: Record) {
        let id = record.instance.id;
        let instance = record.instance.clone();
        let service = self.service(&instance.service.clone());
        if service.instances.get(&id).is_none_or(|known| *known != instance) {
            service.instances.insert(id, instance);
        }
        self.next.put(record);
    }

    fn remove(&mut self, id: InstanceId, why: RemovalReason) {
        let Some(record) = self.next.take(&id) else { return };
        let service = record.instance.service.clone();
        self.service(&service).instances.remove(&id);
        if record.instance.descriptors.is_some() {
            self.recount.insert(service.clone());
        }
        self.retire(record.instance.descriptors, &service);
        self.unrefuse_set(&id);
        self.next.removals.push(id, why);
        self.done.durable.instances.insert(id);
        self.done.leases.push(LeaseChange::Ended { id, why });
    }

    /// The service for editing; copied once a group.
    fn service(&mut self, name: &ServiceName) -> &mut ServiceSnapshot {
        self.touched.insert(name.clone());
        let version = self.base.snapshot.version;
        let empty = || Arc::new(ServiceSnapshot::empty(name.clone(), version));
        Arc::make_mut(self.next.snapshot.services.entry(name.clone()).or_insert_with(empty))
    }

    /// Version that the group will have.
    fn version(&self) -> Version {
        Version(self.base.snapshot.version.0 + 1)
    }

    fn number(&mut self) -> u64 {
        self.next.last_number += 1;
        self.next.last_number
    }
}

fn fence(record: &Record, epoch: Epoch) -> Result<(), ChangeError> {
    let held = record.instance.epoch;
    if held == epoch { Ok(()) } else { Err(ChangeError::Fenced { id: record.instance.id, held }) }
}

/// Everything but the version.
fn same_content(a: &ServiceSnapshot, b: &ServiceSnapshot) -> bool {
    a.authoritative == b.authoritative && a.info == b.info && a.policies == b.policies && a.instances == b.instances
}

#[cfg(test)]
mod tests;
