//! The hub: all streams, and every resource that one of them subscribes, built once for all nodes of a profile.
//!
//! Lives here: who subscribes what, which of it a change of the catalog touches, the sessions; synchronous. Does not: tasks (`service`).
//! Bounds: a resource is held while somebody subscribes it; subscriptions and streams have a limit each.
//! Invariants: every resource is that of the present world; who subscribes a resource is told when its bytes changed and not otherwise; an
//! update costs what depends on the changed services times who subscribes it.

mod table;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use imbl::ordmap::DiffItem;
use tokio::{sync::Notify, time::Instant};
use weft_model::{Invalid, ServiceName, ServiceSnapshot, Version};

pub(super) use table::Tables;
use table::{Place, Profiles, Seen};

use super::{
    Built, Kind, Profile, XdsWorld, resources,
    session::{Answer, Change, Name, Protocol, Request, Response, Session},
};

/// Streams at most.
const MOST_STREAMS: usize = 50_000;
/// Subscriptions of all streams at most.
const MOST_SUBSCRIPTIONS: usize = 5_000_000;

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
    profiles: Profiles,
    /// Resources that are told to it.
    subscribed: BTreeSet<(Kind, Name)>,
    wake: Arc<Notify>,
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
        if self.streams.len() >= MOST_STREAMS {
            return Err(Refused::Full("streams"));
        }
        self.next += 1;
        let id = StreamId(self.next);
        let session = Session::new(protocol, self.world.is_warming());
        let (peer, subscribed) = (Arc::new(peer), BTreeSet::new());
        let profiles = self.tables.profiles(profile);
        let stream = Stream { peer, session, heard: now, profiles, subscribed, wake };
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

    /// Takes a request. An error ends the stream.
    pub(super) fn request(&mut self, id: StreamId, request: Request, now: Instant) -> Result<Answer, Refused> {
        let Self { world, maker, tables, streams, subscriptions, .. } = self;
        let Some(stream) = streams.get_mut(&id) else { return Ok(Answer::None) };
        stream.heard = now;
        let kind = request.kind;
        let heard = stream.session.request(request)?;
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
        for name in more {
            let place = stream.profiles.place(kind, &name);
            tables.join(&place, id, |place| (maker.build)(world, &place.profile, kind, &name));
            *subscriptions += usize::from(stream.subscribed.insert((kind, name.clone())));
            stream.session.mark(kind, &name, None);
        }
        if *subscriptions > MOST_SUBSCRIPTIONS {
            return Err(Refused::Full("subscriptions"));
        }
        Ok(heard.answer)
    }

    /// Makes the next response of a stream. None: nothing to tell for now.
    pub(super) fn respond(&mut self, id: StreamId, now: Instant) -> Option<Response> {
        let Self { world, tables, streams, subscriptions, .. } = self;
        let stream = streams.get_mut(&id)?;
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

    /// Takes the next world, of a change made `at`, and what was built of it outside; the rest is built here. Returns how many streams have something
    /// to be told `now`; others look again by themselves when they may be told.
    pub(super) fn update(
        &mut self,
        next: XdsWorld,
        mut built: BTreeMap<Place, Built>,
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
        for (place, built) in built {
            for id in self.tables.install(&place, built) {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.session.mark(place.kind, &place.name, Some(change));
                    touched.insert(id);
                }
            }
        }
        if list_changed {
            self.update_wildcards(change, &mut touched);
        }
        if warmed {
            let warming = self.world.is_warming();
            self.streams.values_mut().for_each(|stream| stream.session.warming(warming));
            touched.extend(self.streams.keys());
        }
        let due = touched.into_iter().filter_map(|id| self.streams.get(&id)).filter(|it| it.session.is_due(now));
        due.map(|stream| stream.wake.notify_one()).count() as u64
    }

    fn update_wildcards(&mut self, change: Change, touched: &mut BTreeSet<StreamId>) {
        let Self { world, maker, tables, streams, subscriptions, .. } = self;
        for shift in tables.update_wildcards(|profile, kind| (maker.names)(world, profile, kind)) {
            let kind = shift.kind;
            for id in &shift.streams {
                let Some(stream) = streams.get_mut(id) else { continue };
                touched.insert(*id);
                for name in &shift.came {
                    let place = stream.profiles.place(kind, name);
                    tables.join(&place, *id, |place| (maker.build)(world, &place.profile, kind, name));
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

    /// When a holder was last heard of, if it still holds a state from before `version`.
    pub(super) fn holds(&self, holder: &Holder, version: Version) -> Option<Instant> {
        let stream = self.streams.get(&holder.stream)?;
        stream.session.owes(Kind::Endpoint, &holder.name, version).then_some(stream.heard)
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
