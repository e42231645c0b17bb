//! The hub: all streams, and every resource that one of them subscribes, built once for all nodes of a profile.
//!
//! Lives here: who subscribes what, which of it a change of the catalog touches, the sessions; synchronous. Does not: tasks (`service`).
//! Bounds: a resource is held while somebody subscribes it; streams and the bytes of all that is held are bounded as a whole and by identity (`accounts`).
//! Invariants: every resource is that of the present world; who subscribes a resource is told when its bytes changed and not otherwise; an
//! update costs what depends on the changed services times who subscribes it.

mod accounts;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use imbl::ordmap::DiffItem;
use tokio::{sync::Notify, time::Instant};
use weft_model::{Invalid, ServiceName, ServiceSnapshot, Version};

pub(super) use table::{Names, Place, Tables};
use table::{Profiles, Seen};

use super::{
    Built, Kind, Profile, XdsWorld,
    profile::Family,
    resources,
    session::{Answer, Change, Name, Protocol, Request, Response, Session},
};

/// Bytes of listeners, or of clusters, that a gRPC client may be sent: it takes no message of more than 4 MiB.
const LARGEST_OF_GRPC: usize = 7 << 19;

/// A stream, for as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct StreamId(u64);

/// Who is at the other end of a stream: what it says of itself, and what its connection proved.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    pub(super) node: String,
    pub(super) cluster: String,
    /// `gRPC Go 1.80.0`
    pub(super) agent: String,
    /// `mtls`, `tls` or `plaintext`.
    pub(super) transport: &'static str,
    /// Identity of the caller, if it has one. Behind a relay it is the sidecar's.
    pub(super) identity: String,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) peer: Arc<Peer>,
    pub(super) session: Session,
    /// When the client last said something.
    pub(super) heard: Instant,
    /// When it last answered a response of each kind.
    answered: [Instant; Kind::COUNT],
    profiles: Profiles,
    /// Resources that are told to it.
    subscribed: BTreeSet<(Kind, Name)>,
    wake: Arc<Notify>,
    /// Since when it might have been told something, until its turn.
    due: Option<Instant>,
}

/// How resources are made: the functions of `resources`, or those of a test.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Maker {
    pub(crate) build: fn(&XdsWorld, &Profile, Kind, &str) -> Built,
    pub(crate) names: fn(&XdsWorld, &Profile, Kind) -> Vec<Arc<str>>,
}

impl Maker {
    pub(crate) const REAL: Self = Self { build: resources::build, names: resources::names };
}

/// Why a stream cannot go on.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Refused {
    /// Its request is out of bounds.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The registry carries as much as it may.
    #[error("this registry carries as many xDS {0} as it may; ask another one, or later")]
    Full(&'static str),
    /// Others shall have something, too.
    #[error("this identity has as many xDS {0} as one may: use fewer streams and names, or several identities")]
    Share(&'static str),
}

/// What a request came to.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) answer: Answer,
    /// What it subscribes newly, to be joined.
    pub(super) more: Vec<Name>,
}

/// Who may still act on an old state of a service's endpoints.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) stream: StreamId,
    pub(super) name: Name,
    pub(super) node: String,
}

#[derive(Debug)]
pub(super) struct Hub {
    world: XdsWorld,
    maker: Maker,
    tables: Tables,
    streams: BTreeMap<StreamId, Stream>,
    next: u64,
    subscriptions: usize,
}

impl Hub {
    pub(super) fn new(world: XdsWorld, maker: Maker) -> Self {
        Self { world, maker, tables: Tables::default(), streams: BTreeMap::new(), next: 0, subscriptions: 0 }
    }

    pub(super) fn version(&self) -> Version {
        self.world.version()
    }

    pub(super) fn resources(&self) -> usize {
        self.tables.len()
    }

    pub(super) fn streams(&self) -> &BTreeMap<StreamId, Stream> {
        &self.streams
    }

    pub(super) fn stream(&self, id: StreamId) -> Option<&Stream> {
        self.streams.get(&id)
    }

    /// What a stream may see, if it lives.
    pub(super) fn seen(&self, id: StreamId) -> Option<Seen<'_>> {
        Some(Seen { version: self.version(), tables: &self.tables, profiles: &self.streams.get(&id)?.profiles })
    }

    pub(super) fn open(
        &mut self,
        protocol: Protocol,
        peer: Peer,
        profile: Profile,
        wake: Arc<Notify>,
        now: Instant,
    ) -> Result<StreamId, Refused> {
        let id = StreamId(self.next + 1);
        self.tables.accounts.open(id, &peer.identity)?;
        self.next += 1;
        let largest = match profile.family {
            Family::Grpc => LARGEST_OF_GRPC,
            Family::Envoy => usize::MAX,
        };
        let session = Session::new(protocol, self.world.is_warming(), largest);
        let (peer, subscribed) = (Arc::new(peer), BTreeSet::new());
        let profiles = self.tables.profiles(profile);
        let stream =
            Stream { peer, session, heard: now, answered: [now; Kind::COUNT], profiles, subscribed, wake, due: None };
        self.streams.insert(id, stream);
        Ok(id)
    }

    pub(super) fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(&id) else { return };
        self.subscriptions -= stream.subscribed.len();
        for (kind, name) in &stream.subscribed {
            self.tables.leave(&stream.profiles.place(*kind, name), id);
        }
        self.tables.closed(id, &stream.profiles);
    }

    /// Takes a request. What it subscribes newly is to be joined before the stream is told anything. An error ends the stream.
    pub(super) fn request(&mut self, id: StreamId, request: Request, now: Instant) -> Result<Taken, Refused> {
        let Self { world, maker, tables, streams, subscriptions, .. } = self;
        let Some(stream) = streams.get_mut(&id) else { return Ok(Taken { answer: Answer::None, more: Vec::new() }) };
        stream.heard = now;
        let kind = request.kind;
        let heard = stream.session.request(request)?;
        match heard.answer {
            Answer::Acked { .. } | Answer::Rejected => stream.answered[kind as usize] = now,
            Answer::None | Answer::Stale => {}
        }
        if heard.held > 0 {
            tables.accounts.charge(id, heard.held);
            tables.accounts.room(id)?;
        }
        let mut more = heard.added;
        match heard.wildcard {
            Some(true) => {
                let profile = stream.profiles.of_kind(kind);
                more.extend(tables.join_wildcard(profile, kind, id, || (maker.names)(world, profile, kind)));
            }
            Some(false) => {
                tables.leave_wildcard(stream.profiles.of_kind(kind), kind, id);
                let named = stream.session.channel(kind).named();
                let left = stream.subscribed.iter().filter(|it| it.0 == kind && !named.contains(&it.1));
                for it in left.cloned().collect::<Vec<_>>() {
                    tables.leave(&stream.profiles.place(it.0, &it.1), id);
                    stream.subscribed.remove(&it);
                    *subscriptions -= 1;
                }
            }
            None => {}
        }
        for name in heard.removed {
            *subscriptions -= usize::from(tables.unsubscribe(stream, kind, &name, id));
        }
        Ok(Taken { answer: heard.answer, more })
    }

    /// Subscribes names that a request added, and builds what nobody had yet. An error ends the stream.
    pub(super) fn join(&mut self, id: StreamId, kind: Kind, names: impl Iterator<Item = Name>) -> Result<(), Refused> {
        let Self { world, maker, tables, streams, subscriptions, .. } = self;
        let Some(stream) = streams.get_mut(&id) else { return Ok(()) };
        for name in names {
            let channel = stream.session.channel(kind);
            let of_all = || channel.is_wildcard() && tables.stands_for(stream.profiles.of_kind(kind), kind, &name);
            if !channel.named().contains(&name) && !of_all() {
                continue; // it was one of all when it was asked for, and went since
            }
            let subscription = (kind, name);
            if !stream.subscribed.contains(&subscription) {
                tables.accounts.room(id)?;
            }
            let name = subscription.1.clone();
            *subscriptions += usize::from(stream.subscribed.insert(subscription));
            let place = stream.profiles.place(kind, &name);
            tables.join(&place, id, |place| (maker.build)(world, &place.profile, kind, &name));
            stream.session.mark(kind, &name, None);
        }
        Ok(())
    }

    /// Makes the next response of a stream. None: nothing to tell for now.
    pub(super) fn respond(&mut self, id: StreamId, now: Instant) -> Option<Response> {
        let Self { world, tables, streams, subscriptions, .. } = self;
        let stream = streams.get_mut(&id)?;
        stream.due = None;
        let seen = Seen { version: world.version(), tables, profiles: &stream.profiles };
        let response = stream.session.respond(&seen, now)?;
        for name in &response.gone {
            let named = stream.session.channel(response.kind).named().contains(name);
            if !named {
                *subscriptions -= usize::from(tables.unsubscribe(stream, response.kind, name, id));
            }
        }
        Some(response)
    }

    /// Resources that the step to `next` may change.
    pub(super) fn affected(&self, next: &XdsWorld) -> BTreeSet<Place> {
        let changed = changes(&self.world, next);
        let list = changed.iter().any(|(_, list)| *list).then(|| self.tables.depending_on_list());
        let single = changed.iter().flat_map(|(name, _)| self.tables.depending_on(name));
        single.chain(list.into_iter().flatten().cloned()).collect()
    }

    /// Wildcards as they are, for [`Hub::coming`].
    pub(super) fn wildcards(&self, next: &XdsWorld) -> Vec<(Arc<Profile>, Kind)> {
        let list_changed = changes(&self.world, next).iter().any(|(_, list)| *list);
        self.tables.wildcards().filter(|_| list_changed).cloned().collect()
    }

    /// What nobody has yet of what wildcards are about to stand for.
    pub(super) fn coming(&self, names: &Names) -> Vec<Place> {
        let place = |profile: &Arc<Profile>, kind: Kind, name: &Name| {
            let (profile, name) = (profile.clone(), name.clone());
            Place { kind, name, profile }
        };
        let all = names.iter().flat_map(|((profile, kind), names)| names.iter().map(|it| place(profile, *kind, it)));
        all.filter(|place| !self.tables.has(place)).collect()
    }

    /// Takes the next world, of a change made `at`, and what was built of it outside; the rest is built here. Returns how many streams have something
    /// to be told `now`; others look again by themselves when they may be told.
    pub(super) fn update(
        &mut self,
        next: XdsWorld,
        mut built: BTreeMap<Place, Built>,
        names: &Names,
        at: Instant,
        now: Instant,
    ) -> u64 {
        for place in self.affected(&next) {
            if let Entry::Vacant(late) = built.entry(place) {
                let place = late.key();
                let it = (self.maker.build)(&next, &place.profile, place.kind, &place.name);
                late.insert(it);
            }
        }
        let list_changed = changes(&self.world, &next).iter().any(|(_, list)| *list);
        // A change of this step is younger than the version before it, whichever of several versions it came with.
        let change = Change { version: Version(self.version().0 + 1), at };
        let warmed = self.world.is_warming() != next.is_warming();
        self.world = next;
        let mut touched: BTreeSet<StreamId> = BTreeSet::new();
        let (here, mut coming): (BTreeMap<_, _>, BTreeMap<_, _>) =
            built.into_iter().partition(|(place, _)| self.tables.has(place));
        for (place, built) in here {
            for id in self.tables.install(&place, built) {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.session.mark(place.kind, &place.name, Some(change));
                    touched.insert(id);
                }
            }
        }
        if list_changed {
            self.update_wildcards(change, names, &mut coming, &mut touched);
        }
        if warmed {
            let warming = self.world.is_warming();
            self.streams.values_mut().for_each(|stream| stream.session.warming(warming));
            touched.extend(self.streams.keys());
        }
        let mut woken = 0;
        for id in touched {
            let Some(stream) = self.streams.get_mut(&id).filter(|it| it.session.is_due(now)) else { continue };
            stream.due.get_or_insert(now);
            stream.wake.notify_one();
            woken += 1;
        }
        woken
    }

    fn update_wildcards(
        &mut self,
        change: Change,
        names: &Names,
        coming: &mut BTreeMap<Place, Built>,
        touched: &mut BTreeSet<StreamId>,
    ) {
        let Self { world, maker, tables, streams, subscriptions, .. } = self;
        let now = |profile: &Arc<Profile>, kind| match names.get(&(profile.clone(), kind)) {
            Some(names) => names.clone(),
            None => (maker.names)(world, profile, kind),
        };
        for shift in tables.update_wildcards(now) {
            let kind = shift.kind;
            for id in &shift.streams {
                let Some(stream) = streams.get_mut(id) else { continue };
                touched.insert(*id);
                for name in &shift.came {
                    let place = stream.profiles.place(kind, name);
                    let build = |place: &Place| (maker.build)(world, &place.profile, kind, name);
                    tables.join(&place, *id, |place| coming.remove(place).unwrap_or_else(|| build(place)));
                    *subscriptions += usize::from(stream.subscribed.insert((kind, name.clone())));
                    stream.session.mark(kind, name, Some(change));
                }
                for name in &shift.went {
                    let channel = stream.session.channel(kind);
                    if channel.named().contains(name) {
                        continue;
                    }
                    // Until it was told that it is gone, what it was may be needed once more.
                    if channel.told().contains_key(name) {
                        stream.session.mark(kind, name, Some(change));
                    } else {
                        stream.session.forget(kind, name);
                        *subscriptions -= usize::from(tables.unsubscribe(stream, kind, name, *id));
                    }
                }
            }
        }
    }

    /// Since when the stream might have been told something, if it had no turn yet; this is it.
    pub(super) fn due(&mut self, id: StreamId) -> Option<Instant> {
        self.streams.get_mut(&id)?.due.take()
    }

    /// Who may still act on a state of this service's endpoints from before `version`. None: that version is not here yet.
    pub(super) fn holders(&self, service: &ServiceName, version: Version) -> Option<Vec<Holder>> {
        if self.version() < version {
            return None;
        }
        let places = self.tables.depending_on(service).filter(|place| place.kind == Kind::Endpoint);
        let mut holders: Vec<Holder> = Vec::new();
        for place in places {
            for id in self.tables.subscribers(&place) {
                let Some(stream) = self.streams.get(&id) else { continue };
                if stream.session.owes(Kind::Endpoint, &place.name, version) {
                    holders.push(Holder { stream: id, name: place.name.clone(), node: stream.peer.node.clone() });
                }
            }
        }
        holders.sort_by(|a, b| (&a.node, a.stream).cmp(&(&b.node, b.stream)));
        Some(holders)
    }

    /// When a holder last answered, if it still holds a state from before `version`. What it says otherwise is no sign that it will.
    pub(super) fn holds(&self, holder: &Holder, version: Version) -> Option<Instant> {
        let stream = self.streams.get(&holder.stream)?;
        stream.session.owes(Kind::Endpoint, &holder.name, version).then_some(stream.answered[Kind::Endpoint as usize])
    }
}

/// Services that differ between two worlds, each with whether more than its instances does: the list of services differs, too.
fn changes(before: &XdsWorld, now: &XdsWorld) -> Vec<(ServiceName, bool)> {
    let facts = |a: &ServiceSnapshot, b: &ServiceSnapshot| a.info != b.info || a.policies != b.policies;
    let differ = before.all().diff(now.all()).map(|item| match item {
        DiffItem::Add(name, _) | DiffItem::Remove(name, _) => (name.clone(), true),
        DiffItem::Update { old: (name, old), new: (_, new) } => (name.clone(), facts(old, new)),
    });
    differ.collect()
}

#[cfg(test)]
mod tests;
