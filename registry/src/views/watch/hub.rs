//! The hub: who subscribed what, and which of it changed since they were last told.
//!
//! Lives here: subscriptions, marks, wake-ups, the present version, the acks that views report; synchronous. Does not: messages (`session`).
//! Marking costs what changed times who subscribed it by name; readers of everything are told what differs between two snapshots, whatever that is.
//! Those of them that were told together rest together and are then told of one snapshot, so that what they are told is made once (`told`).
//! What does not fit into one message is told in several: all but the last have the version that was told before, so that nobody acknowledges
//! a version of which something is still to come.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use imbl::ordmap::DiffItem;
use tokio::{sync::Notify, time::Instant};
use weft_model::{ServiceName, ServiceSnapshot, Version};

use super::{Left, Looked, Topic, Work};
use crate::{
    acks::{Table, WatcherId},
    catalog::Published,
};

/// Who has rested this much less than the first is woken with it.
const TOGETHER: Duration = Duration::from_millis(5);

/// A listed service as its last change left it, so that who tells it needs not look for it.
type Mark = Option<Arc<ServiceSnapshot>>;

#[derive(Debug, Default)]
struct Entry {
    names: HashSet<ServiceName>,
    all: bool,
    directory: bool,
    /// Services to be told, by name, as they are; none where that is to be looked up.
    marks: BTreeMap<ServiceName, Mark>,
    /// It reads everything, and something is not as it was told.
    behind: bool,
    /// What it is being told of everything, in several messages.
    going: Option<Arc<Published>>,
    /// It read everything until a moment ago, and still the services of these names.
    dropped: Option<Vec<ServiceName>>,
    directory_marked: bool,
    forgotten: BTreeSet<ServiceName>,
    greet: bool,
    /// It was told something a moment ago, and is not woken yet.
    rests: bool,
    /// Since when it might be told something, until its turn.
    due: Option<Instant>,
    /// The last version of which everything subscribed was told.
    told: Version,
    wake: Arc<Notify>,
    /// Its name, and where it tells of itself.
    admin: Option<(String, SocketAddr)>,
}

impl Entry {
    fn is_marked(&self) -> bool {
        let of_all = self.behind || self.going.is_some() || self.dropped.is_some();
        !self.marks.is_empty() || of_all || self.directory_marked || self.greet
    }

    /// There is nothing to tell but what is told to every reader of everything.
    fn follows(&self) -> bool {
        let alone = self.marks.is_empty() && self.forgotten.is_empty() && self.dropped.is_none();
        self.all && self.told > Version(0) && alone && !self.directory_marked && !self.greet
    }

    /// It was marked, or has rested.
    fn wake_if_ready(&mut self, now: Instant) {
        if self.is_marked() && !self.rests {
            self.due.get_or_insert(now);
            self.wake.notify_one();
        }
    }
}

#[derive(Debug)]
pub(super) struct Hub {
    current: Arc<Published>,
    /// What readers of everything are brought to at present: `current`, or a little behind it.
    round: Arc<Published>,
    /// When those of them rest no more that were told of it; until then, others that rest no more are told of it, too.
    round_ends: Option<Instant>,
    /// The last version that changed a service.
    changed: Version,
    entries: HashMap<WatcherId, Entry>,
    // Ordered, so that watchers wake in one order and a simulation can be replayed.
    by_service: BTreeMap<ServiceName, BTreeSet<WatcherId>>,
    all: BTreeSet<WatcherId>,
    directory: BTreeSet<WatcherId>,
    /// Who rests until when, the first first; each once.
    resting: BTreeSet<(Instant, WatcherId)>,
    pub(super) acks: Table,
    wakeups: u64,
}

impl Hub {
    pub(super) fn new(current: Arc<Published>) -> Self {
        Self {
            round: current.clone(),
            round_ends: None,
            changed: current.snapshot.version,
            current,
            entries: HashMap::new(),
            by_service: BTreeMap::new(),
            all: BTreeSet::new(),
            directory: BTreeSet::new(),
            resting: BTreeSet::new(),
            acks: Table::default(),
            wakeups: 0,
        }
    }

    pub(super) fn version(&self) -> Version {
        self.current.snapshot.version
    }

    pub(super) const fn wakeups(&self) -> u64 {
        self.wakeups
    }

    pub(super) fn open(&mut self, id: WatcherId, name: &str, wake: Arc<Notify>, now: Instant) {
        self.entries.insert(id, Entry { wake, ..Entry::default() });
        self.acks.open(id, name, now);
    }

    /// The watcher tells of itself there.
    pub(super) fn tells_at(&mut self, id: WatcherId, name: &str, admin: SocketAddr) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.admin = Some((name.to_owned(), admin));
        }
    }

    /// Names of watchers, and where they tell of themselves, in no order.
    pub(super) fn admins(&self) -> impl Iterator<Item = &(String, SocketAddr)> {
        self.entries.values().filter_map(|entry| entry.admin.as_ref())
    }

    pub(super) fn close(&mut self, id: WatcherId) {
        self.acks.close(id);
        let Some(entry) = self.entries.remove(&id) else { return };
        entry.names.iter().for_each(|name| self.unlink(id, name));
        self.leave_all(id);
        self.directory.remove(&id);
    }

    /// The watcher reads everything no more; who reads on, if anybody, keeps the round.
    fn leave_all(&mut self, id: WatcherId) {
        self.all.remove(&id);
        if self.all.is_empty() {
            self.round = self.current.clone();
        }
    }

    fn unlink(&mut self, id: WatcherId, name: &ServiceName) {
        if let Some(watchers) = self.by_service.get_mut(name) {
            watchers.remove(&id);
            if watchers.is_empty() {
                self.by_service.remove(name);
            }
        }
    }

    /// Adds topics and marks what they cover and was not covered before.
    /// Returns how many services the watcher names now.
    pub(super) fn subscribe(&mut self, id: WatcherId, topics: Vec<Topic>, now: Instant) -> usize {
        let Some(entry) = self.entries.get_mut(&id) else { return 0 };
        for topic in topics {
            match topic {
                Topic::Service(name) => {
                    let covered = entry.all && self.current.snapshot.services.contains_key(&name);
                    self.by_service.entry(name.clone()).or_default().insert(id);
                    if entry.names.insert(name.clone()) && !covered {
                        entry.marks.insert(name, None);
                    }
                }
                Topic::All => {
                    self.all.insert(id);
                    if !std::mem::replace(&mut entry.all, true) {
                        (entry.behind, entry.greet) = (true, true);
                        entry.marks.values_mut().for_each(|mark| *mark = None); // changes mark them by name no more
                    }
                }
                Topic::Directory => {
                    self.directory.insert(id);
                    entry.directory_marked |= !std::mem::replace(&mut entry.directory, true);
                }
            }
        }
        entry.wake_if_ready(now);
        entry.names.len()
    }

    /// Drops topics; what no other topic covers is forgotten.
    pub(super) fn unsubscribe(&mut self, id: WatcherId, topics: &BTreeSet<Topic>, now: Instant) {
        let Some(mut entry) = self.entries.remove(&id) else { return };
        let mut left: Vec<ServiceName> = Vec::new();
        for topic in topics {
            match topic {
                Topic::Service(name) => {
                    if entry.names.remove(name) {
                        self.unlink(id, name);
                        left.push(name.clone());
                    }
                }
                Topic::All => {
                    self.leave_all(id);
                    if std::mem::replace(&mut entry.all, false) {
                        (entry.behind, entry.going, entry.greet) = (false, None, false);
                        self.acks.dropped_all(id, &entry.names);
                        match &mut entry.dropped {
                            Some(kept) => kept.retain(|name| entry.names.contains(name)),
                            None => entry.dropped = Some(entry.names.iter().cloned().collect()),
                        }
                        // What changed of them while `*` covered them was not marked by name.
                        entry.marks.extend(entry.names.iter().map(|name| (name.clone(), None)));
                    }
                }
                Topic::Directory => {
                    self.directory.remove(&id);
                    (entry.directory, entry.directory_marked) = (false, false);
                }
            }
        }
        // `*` covers what is listed; an unlisted service was told by its name only.
        let listed = |name: &ServiceName| self.current.snapshot.services.contains_key(name);
        left.retain(|name| !(entry.names.contains(name) || entry.all && listed(name)));
        for name in left {
            entry.marks.remove(&name);
            self.acks.dropped(id, &name);
            entry.forgotten.insert(name);
        }
        entry.wake_if_ready(now);
        self.entries.insert(id, entry);
    }

    /// Takes the next version and marks what it changes. Returns how many watchers it woke.
    pub(super) fn update(&mut self, published: Arc<Published>, now: Instant) -> u64 {
        let before = std::mem::replace(&mut self.current, published);
        let current = self.current.clone();
        let woken = self.wakeups;
        for item in before.snapshot.services.diff(&current.snapshot.services) {
            let (name, mark) = match item {
                DiffItem::Add(name, service) | DiffItem::Update { new: (name, service), .. } => (name, Some(service)),
                DiffItem::Remove(name, _) => (name, None),
            };
            self.changed = current.snapshot.version;
            self.mark_service(name, mark, now);
        }
        if self.changed > before.snapshot.version {
            for id in self.all.clone() {
                self.mark(id, now, |entry| entry.behind = true);
            }
        }
        if before.warming != current.warming {
            // Whether an unlisted service is meant to be empty has changed with it, for those who asked for it by name.
            let listed = |name: &ServiceName| current.snapshot.services.contains_key(name);
            let unlisted: Vec<ServiceName> = self.by_service.keys().filter(|name| !listed(name)).cloned().collect();
            for name in &unlisted {
                let by_name = self.by_service.get(name).cloned().unwrap_or_default();
                by_name.into_iter().for_each(|id| self.mark_one(id, name, None, now));
            }
        }
        if before.warming && !current.warming {
            // What `*` was told is complete now, which its watchers wait for.
            for id in self.all.clone() {
                self.mark(id, now, |entry| entry.greet = true);
            }
        }
        if before.snapshot.directory.diff(&current.snapshot.directory).next().is_some() {
            for id in self.directory.clone() {
                self.mark(id, now, |entry| entry.directory_marked = true);
            }
        }
        self.wakeups - woken
    }

    fn mark_service(&mut self, name: &ServiceName, as_it_is: Option<&Arc<ServiceSnapshot>>, now: Instant) {
        let by_name = self.by_service.get(name).into_iter().flatten().copied();
        let watchers: Vec<WatcherId> = by_name.filter(|id| !self.all.contains(id)).collect();
        watchers.into_iter().for_each(|id| self.mark_one(id, name, as_it_is.cloned(), now));
    }

    fn mark_one(&mut self, id: WatcherId, name: &ServiceName, mark: Mark, now: Instant) {
        self.mark(id, now, |entry| {
            entry.marks.insert(name.clone(), mark);
        });
    }

    fn mark(&mut self, id: WatcherId, now: Instant, how: impl FnOnce(&mut Entry)) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let was_marked = entry.is_marked();
        how(entry);
        if !was_marked {
            self.wakeups += 1;
            entry.wake_if_ready(now);
        }
    }

    /// The watcher was told everything, and is woken no more until it has rested, or until those have who are told the same: if that is not much sooner.
    /// Returns whether it is the first to have rested.
    pub(super) fn rest(&mut self, id: WatcherId, now: Instant, rest: Duration) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else { return false };
        if std::mem::replace(&mut entry.rests, true) {
            return false;
        }
        let own = now + rest;
        let until = match self.round_ends.filter(|end| entry.all && *end >= now + rest / 2) {
            Some(end) => end,
            None => own,
        };
        if entry.all {
            self.round_ends = Some(until);
        }
        self.resting.insert((until, id));
        self.resting.first() == Some(&(until, id))
    }

    /// When somebody has rested.
    pub(super) fn rested_at(&self) -> Option<Instant> {
        self.resting.first().map(|(until, _)| *until)
    }

    /// Wakes those who have rested, if there is something to tell them.
    pub(super) fn rested(&mut self, now: Instant) {
        if self.rested_at().is_none_or(|at| at > now) {
            return;
        }
        while let Some((until, id)) = self.resting.pop_first() {
            if until > now + TOGETHER {
                self.resting.insert((until, id));
                break;
            }
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            entry.rests = false;
            entry.wake_if_ready(until.min(now));
        }
    }

    pub(super) fn has_all(&self, id: WatcherId) -> bool {
        self.all.contains(&id)
    }

    pub(super) fn is_marked(&self, id: WatcherId) -> bool {
        self.entries.get(&id).is_some_and(Entry::is_marked)
    }

    /// Whether there is something to tell, and the watcher has rested.
    pub(super) fn is_ready(&self, id: WatcherId) -> bool {
        self.entries.get(&id).is_some_and(|entry| entry.is_marked() && !entry.rests)
    }

    /// Since when the watcher might have been told something, if it had no turn yet; this is it.
    pub(super) fn due(&mut self, id: WatcherId) -> Option<Instant> {
        self.entries.get_mut(&id)?.due.take()
    }

    /// Takes the marks of a watcher and notes what it is told. None when there are none.
    pub(super) fn take(&mut self, id: WatcherId, now: Instant) -> Option<Work> {
        let entry = self.entries.get_mut(&id).filter(|e| e.is_marked())?;
        if let Some(published) = entry.going.take() {
            let before = std::mem::replace(&mut entry.told, published.snapshot.version);
            return Some(Work::go_on(before, published, !entry.names.is_empty()));
        }
        let published = if entry.follows() {
            if self.round.snapshot.version <= entry.told || self.round_ends.is_none_or(|end| end <= now) {
                self.round = self.current.clone();
                self.round_ends = Some(now + TOGETHER); // or longer: until they have rested
            }
            self.round.clone()
        } else {
            self.current.clone()
        };
        let version = published.snapshot.version;
        let marks = std::mem::take(&mut entry.marks);
        let work = Work {
            before: std::mem::replace(&mut entry.told, version),
            services: marks.into_iter().map(|(name, mark)| looked(&name, mark, &published)).collect(),
            all: entry.all,
            named: !entry.names.is_empty(),
            dropped: entry.dropped.take(),
            forgotten: std::mem::take(&mut entry.forgotten),
            directory: std::mem::take(&mut entry.directory_marked),
            complete: entry.all && !published.warming,
            greet: std::mem::take(&mut entry.greet),
            published,
        };
        entry.behind = entry.all && self.changed > version;
        self.acks.sent(id, version, work.services.iter().map(|it| &it.service));
        if entry.all {
            self.acks.sent_all(id, &work.published.snapshot);
        }
        Some(work)
    }

    /// Marks again what a message had no room for. A drain counts it as told: it waits for a version that comes with the last of it.
    pub(super) fn left(&mut self, id: WatcherId, left: Left) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        for name in left.services {
            entry.marks.entry(name).or_default(); // one that came meanwhile knows more
        }
        entry.going = left.going.filter(|_| entry.all);
        entry.told = left.before;
        entry.directory_marked |= left.directory;
        entry.greet |= left.greet;
    }
}

/// Every change marks anew, so that a mark is of the present snapshot, which is what whoever has marks is told of.
fn looked(name: &ServiceName, mark: Mark, published: &Published) -> Looked {
    match mark {
        Some(service) => Looked { service, listed: true },
        None => Looked::at(name, published),
    }
}
