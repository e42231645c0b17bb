//! Leases: who is alive, who has gone silent, and whether that may be believed.
//!
//! Lives here: renewal, grace of broken streams, freeze, suspension; synchronous, `now` an argument. Does not: removing anything (that is a
//! `Change` to the catalog), fencing (`catalog`).
//! ```text
//! granted ──beat──► granted          deadline = last beat + ttl
//!    │ stream breaks                 deadline = break + 5 s, if that is earlier
//!    ▼
//! overdue ──beat──► granted
//!    │ not frozen, not suspended, not the last of its service
//!    ▼
//! expiring ── durable ──► gone       a beat from here on gets UNKNOWN
//! ```
//! Frozen: for ttl + 5 s after a start and after a clock jump nothing expires, because the silence may have been ours.
//! Suspended: when more than max(2, 30 %) of a service's instances in one zone would go within one ttl, the network is likelier to have
//! failed than they are. They count as lost from their second missed beat. A loss that was made good by as many new registrations is none,
//! so a restarted machine does not leave its ghosts behind.
//! What is known of a service in a zone goes with its last lease there, or a ttl later: zones are named by whoever registers.
//! Simplifying assumption: renewals go through one task; ten thousand beats a second cost it a few per cent of a core.

mod wheel;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ops::Add,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use weft_model::{Epoch, InstanceId, LeaseTtl, RemovalReason, ServiceName};

use crate::{
    catalog::{LeaseChange, StreamId},
    leases::wheel::Wheel,
};

/// How long leases outlive their stream (design.md, 5.3).
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// What a freeze adds to the ttl (design.md, 5.3).
const FREEZE_EXTRA: Duration = Duration::from_secs(5);
/// Resolution of expiry; the catalog looks this often.
pub(crate) const TICK: Duration = Duration::from_millis(200);
/// A look that comes this much too late, or a wall clock that moved this much by itself, is a clock jump.
const JUMP: Duration = Duration::from_secs(2);
/// Losses of up to this many instances, or this share, are believed.
const BELIEVED: usize = 2;
const BELIEVED_PERCENT: usize = 30;
/// Groups without leases whose losses are remembered; those of more are forgotten with their last lease.
const VACANT: usize = 1_024;

/// A service and a zone; one in memory for all of its leases.
type Group = Arc<(ServiceName, String)>;

/// A time, as nanoseconds since the table began: half the size of an [`Instant`], of which very many leases have several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct At(u64);

impl Add<Duration> for At {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }
}

/// Those of 585 years at most.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[derive(Debug)]
struct Lease {
    epoch: Epoch,
    ttl: LeaseTtl,
    /// Its removal is on the way to the store.
    expiring: bool,
    group: Group,
    granted: At,
    renewed: At,
    held: Held,
}

/// How a lease is kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    /// By nobody yet.
    Granted,
    /// By the stream that renewed it last.
    Stream(StreamId),
    /// By nobody since then, when that stream broke.
    Broken(At),
}

impl Lease {
    /// Since when nothing was heard of it.
    const fn silent_since(&self) -> At {
        match self.held {
            Held::Broken(at) => at,
            Held::Granted | Held::Stream(_) => self.renewed,
        }
    }

    const fn stream(&self) -> Option<StreamId> {
        match self.held {
            Held::Stream(stream) => Some(stream),
            Held::Granted | Held::Broken(_) => None,
        }
    }
}

/// The instances of one service in one zone.
#[derive(Debug, Default)]
struct Members {
    ids: HashSet<InstanceId>,
    /// When leases ran out within the last ttl.
    lost: VecDeque<At>,
}

/// What a beat finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    Renewed,
    /// It ran out, or was never granted.
    Gone,
}

/// Why leases that ran out are kept, by service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Doubt {
    /// Expiry is frozen as a whole.
    pub(crate) frozen: Option<&'static str>,
    /// Notices for people, by the service they are about.
    pub(crate) suspended: BTreeMap<ServiceName, String>,
}

#[derive(Debug)]
pub(crate) struct Leases {
    wheel: Wheel<InstanceId>,
    leases: HashMap<InstanceId, Lease>,
    streams: HashMap<StreamId, HashSet<InstanceId>>,
    /// Those that somebody is in, and the vacant.
    groups: HashMap<Group, Members>,
    /// Groups that nobody is in any more, and until when their losses count for who comes next.
    vacant: HashMap<Group, At>,
    /// Ran out, but not believed yet.
    overdue: BTreeSet<InstanceId>,
    began: Instant,
    frozen_from: At,
    frozen_why: &'static str,
    looked: (Instant, SystemTime),
}

impl Leases {
    /// Starts frozen.
    pub(crate) fn new(now: Instant, wall: SystemTime) -> Self {
        Self {
            wheel: Wheel::new(now, TICK),
            leases: HashMap::new(),
            streams: HashMap::new(),
            groups: HashMap::new(),
            vacant: HashMap::new(),
            overdue: BTreeSet::new(),
            began: now,
            frozen_from: At(0),
            frozen_why: "the registry has just started",
            looked: (now, wall),
        }
    }

    pub(crate) fn apply(&mut self, change: LeaseChange, now: Instant) {
        match change {
            LeaseChange::Granted { id, epoch, ttl, service, zone } => self.grant(id, epoch, ttl, (service, zone), now),
            LeaseChange::Ended { id, why } => self.end(id, why, now),
            LeaseChange::Kept { id } => self.keep(id),
        }
    }

    fn grant(&mut self, id: InstanceId, epoch: Epoch, ttl: LeaseTtl, group: (ServiceName, String), now: Instant) {
        self.forget(&id);
        let known = self.groups.get_key_value(&group).map(|(known, _)| known.clone());
        let group = known.unwrap_or_else(|| Arc::new(group));
        self.groups.entry(group.clone()).or_default().ids.insert(id);
        self.vacant.remove(&group);
        let now = self.at(now);
        let lease = Lease { epoch, ttl, expiring: false, group, granted: now, renewed: now, held: Held::Granted };
        self.wheel.schedule(id, self.deadline(&lease));
        self.leases.insert(id, lease);
    }

    fn end(&mut self, id: InstanceId, why: RemovalReason, now: Instant) {
        let now = self.at(now);
        if why == RemovalReason::Expired
            && let Some(lease) = self.leases.get(&id)
            && let Some(members) = self.groups.get_mut(&lease.group)
        {
            members.lost.push_back(now);
        }
        self.forget(&id);
    }

    /// The catalog would not take the removal: look again at the next tick.
    pub(crate) fn keep(&mut self, id: InstanceId) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.expiring = false;
            self.overdue.insert(id);
        }
    }

    /// Ends a lease that no word and no silence ended: its instance does not live by one any more.
    pub(crate) fn withdraw(&mut self, id: &InstanceId) {
        self.forget(id);
    }

    fn forget(&mut self, id: &InstanceId) {
        let Some(lease) = self.leases.remove(id) else { return };
        self.wheel.cancel(id);
        self.overdue.remove(id);
        if let Some(held) = lease.stream().and_then(|s| self.streams.get_mut(&s)) {
            held.remove(id);
        }
        if let Some(members) = self.groups.get_mut(&lease.group) {
            members.ids.remove(id);
            if members.ids.is_empty() {
                self.vacate(lease.group, lease.ttl);
            }
        }
    }

    /// Forgets a group that nobody is in: at once if it lost nobody, else after a ttl, so that one that comes back and goes again is a second loss.
    fn vacate(&mut self, group: Group, ttl: LeaseTtl) {
        let last = self.groups.get(&group).and_then(|members| members.lost.back().copied());
        match last {
            Some(last) if self.vacant.len() < VACANT => {
                self.vacant.insert(group, last + ttl.get());
            }
            Some(_) | None => {
                self.groups.remove(&group);
            }
        }
    }

    fn forget_vacant(&mut self, now: Instant) {
        let now = self.at(now);
        let groups = &mut self.groups;
        self.vacant.retain(|group, until| {
            let counts = now < *until;
            if !counts {
                groups.remove(group);
            }
            counts
        });
    }

    /// Takes a beat of a lease whose epoch the catalog found to be the present one.
    pub(crate) fn renew(&mut self, id: InstanceId, stream: StreamId, now: Instant) -> Renewal {
        let now = self.at(now);
        let Some(lease) = self.leases.get_mut(&id) else { return Renewal::Gone };
        if lease.expiring {
            return Renewal::Gone;
        }
        lease.renewed = now;
        let before = std::mem::replace(&mut lease.held, Held::Stream(stream));
        if before != Held::Stream(stream) {
            if let Held::Stream(old) = before
                && let Some(held) = self.streams.get_mut(&old)
            {
                held.remove(&id);
            }
            self.streams.entry(stream).or_default().insert(id);
        }
        if self.overdue.remove(&id) {
            let at = self.deadline(&self.leases[&id]);
            self.wheel.schedule(id, at);
        }
        // Otherwise the wheel fires at the old deadline and finds the new one: a beat costs no scheduling.
        Renewal::Renewed
    }

    /// A stream ended: what it renewed last has its grace.
    pub(crate) fn broken(&mut self, stream: StreamId, now: Instant) {
        let now = self.at(now);
        for id in self.streams.remove(&stream).unwrap_or_default() {
            if let Some(lease) = self.leases.get_mut(&id) {
                lease.held = Held::Broken(now);
                let at = self.deadline(&self.leases[&id]);
                self.wheel.schedule(id, at);
            }
        }
    }

    /// Whether the owner has lost its stream or missed two beats. Unknown ids have not.
    pub(crate) fn lapsed(&self, id: &InstanceId, now: Instant) -> bool {
        let now = self.at(now);
        self.leases.get(id).is_some_and(|l| l.stream().is_none() || now + l.ttl.beat_every() >= l.renewed + l.ttl.get())
    }

    /// Returns the leases that end now, at most all but one of a service; they are `expiring` until the catalog says what became of them.
    pub(crate) fn expire(
        &mut self,
        now: Instant,
        wall: SystemTime,
        population: &dyn Fn(&ServiceName) -> usize,
    ) -> (Vec<(InstanceId, Epoch)>, Doubt) {
        self.watch_the_clock(now, wall);
        self.forget_vacant(now);
        for id in self.wheel.advance(now) {
            let Some(lease) = self.leases.get(&id) else { continue };
            let deadline = self.deadline(lease);
            if deadline > now {
                self.wheel.schedule(id, deadline);
            } else if !lease.expiring {
                self.overdue.insert(id);
            }
        }
        let mut doubt = Doubt { frozen: self.frozen(now), ..Doubt::default() };
        if doubt.frozen.is_some() || self.overdue.is_empty() {
            return (Vec::new(), doubt);
        }
        let mut believed = Vec::new();
        for (group, ids) in self.overdue_by_group() {
            match self.suspension(&group, now) {
                Some(notice) => drop(doubt.suspended.insert(group.0.clone(), notice)),
                None => believed.extend(ids),
            }
        }
        (self.end_believed(believed, population, &mut doubt), doubt)
    }

    /// The catalog could not store the removal of these: nothing ended.
    pub(crate) fn expiry_failed(&mut self) {
        let ids: Vec<InstanceId> = self.leases.iter().filter(|(_, l)| l.expiring).map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.keep(id));
    }

    /// Why nothing expires now.
    pub(crate) fn frozen(&self, now: Instant) -> Option<&'static str> {
        (self.at(now) < self.frozen_from + LeaseTtl::DEFAULT.get() + FREEZE_EXTRA).then_some(self.frozen_why)
    }

    fn watch_the_clock(&mut self, now: Instant, wall: SystemTime) {
        let (looked, looked_wall) = std::mem::replace(&mut self.looked, (now, wall));
        let passed = now.saturating_duration_since(looked);
        let late = passed > TICK + JUMP;
        let moved = match wall.duration_since(looked_wall) {
            Ok(by_wall) => by_wall > passed + JUMP,
            Err(back) => back.duration() > JUMP,
        };
        if late || moved {
            tracing::warn!(?passed, "clock jump: lease expiry is frozen");
            (self.frozen_from, self.frozen_why) = (self.at(now), "the clock jumped or the registry stood still");
        }
    }

    /// When a lease runs out as things stand.
    fn deadline(&self, lease: &Lease) -> Instant {
        self.began + Duration::from_nanos(self.runs_out(lease).0)
    }

    /// The same. Silence from before a freeze counts from the freeze on.
    fn runs_out(&self, lease: &Lease) -> At {
        let ttl = lease.ttl.get();
        let by_beat = lease.renewed + ttl;
        let silent = match lease.held {
            Held::Broken(broken) => by_beat.min(broken + GRACE),
            Held::Granted | Held::Stream(_) => by_beat,
        };
        if lease.renewed <= self.frozen_from { silent.max(self.frozen_from + ttl + FREEZE_EXTRA) } else { silent }
    }

    fn at(&self, time: Instant) -> At {
        At(nanos(time.saturating_duration_since(self.began)))
    }

    fn overdue_by_group(&self) -> BTreeMap<Group, Vec<InstanceId>> {
        let mut groups: BTreeMap<Group, Vec<InstanceId>> = BTreeMap::new();
        for id in &self.overdue {
            groups.entry(self.leases[id].group.clone()).or_default().push(*id);
        }
        groups
    }

    /// Says why the losses of a group are not believed, if they are not.
    fn suspension(&mut self, group: &Group, now: Instant) -> Option<String> {
        let now = self.at(now);
        let members = self.groups.get_mut(group)?;
        let leases = &self.leases;
        let window = members.ids.iter().map(|id| leases[id].ttl.get()).max()?;
        members.lost.retain(|at| now < *at + window);
        let members = &self.groups[group];
        let (doomed, well): (Vec<&Lease>, Vec<&Lease>) =
            members.ids.iter().map(|id| &self.leases[id]).partition(|l| self.runs_out(l) <= now + l.ttl.beat_every());
        let going = doomed.len() + members.lost.len();
        let known = members.ids.len() + members.lost.len();
        if going <= BELIEVED.max(known * BELIEVED_PERCENT / 100) {
            return None;
        }
        let began = doomed.iter().map(|l| l.silent_since()).min()?;
        let made_good = well.iter().filter(|l| l.granted > began).count();
        if made_good >= doomed.len() {
            return None;
        }
        let zone = if group.1.is_empty() { String::new() } else { format!(" in zone {}", group.1) };
        Some(format!(
            "expiry of {}{zone} is suspended: {} of {known} leases ran out within one ttl; deregister by force what is really gone",
            group.0, going
        ))
    }

    /// Ends what is believed to be gone, the longest silent first, but never the last instance of a service.
    fn end_believed(
        &mut self,
        mut ids: Vec<InstanceId>,
        population: &dyn Fn(&ServiceName) -> usize,
        doubt: &mut Doubt,
    ) -> Vec<(InstanceId, Epoch)> {
        ids.sort_by_key(|id| (self.leases[id].renewed, *id));
        let mut left: HashMap<ServiceName, usize> = HashMap::new();
        let mut ended = Vec::new();
        for id in ids {
            let Some(lease) = self.leases.get_mut(&id) else { continue };
            let service = &lease.group.0;
            let left = left.entry(service.clone()).or_insert_with(|| population(service));
            if *left <= 1 {
                let notice = format!("the last instance of {service} is kept although its lease ran out: {id}");
                doubt.suspended.entry(service.clone()).or_insert(notice);
                continue;
            }
            *left -= 1;
            lease.expiring = true;
            ended.push((id, lease.epoch));
            self.overdue.remove(&id);
        }
        ended
    }
}

#[cfg(test)]
mod tests;
