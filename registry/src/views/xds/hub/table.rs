//! The resources that somebody subscribes, by profile, kind and name.
//!
//! Lives here: entries, their subscribers, which services they rest on, what the wildcard stands for. Does not: sessions (`hub`).
//! An entry lives as long as it has a subscriber: nothing is cached for nobody. One of its subscribers pays for its bytes.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use weft_model::{ServiceName, Version};

use super::{Stream, StreamId, accounts::Accounts};
use crate::views::xds::{
    Built, Kind, Profile, Resource,
    profile::SERVER_LISTENER,
    session::{Found, Name, View},
};

/// Where a resource is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::views::xds) struct Place {
    pub(in crate::views::xds) kind: Kind,
    pub(in crate::views::xds) name: Name,
    /// What of a node decides about it.
    pub(in crate::views::xds) profile: Arc<Profile>,
}

/// The profile of a node, with what of it matters for each kind, shared with other streams.
#[derive(Debug)]
pub(super) struct Profiles {
    whole: Profile,
    by_kind: [Arc<Profile>; Kind::COUNT],
}

impl Profiles {
    pub(super) fn of_kind(&self, kind: Kind) -> &Arc<Profile> {
        &self.by_kind[kind as usize]
    }

    pub(super) fn place(&self, kind: Kind, name: &Name) -> Place {
        let profile = match name.starts_with(SERVER_LISTENER) {
            true => Arc::new(self.whole.relevant(kind, name)),
            false => self.of_kind(kind).clone(),
        };
        Place { kind, name: name.clone(), profile }
    }
}

#[derive(Debug)]
struct Entry {
    now: Option<Arc<Resource>>,
    last: Option<Arc<Resource>>,
    is_guess: bool,
    is_in_doubt: bool,
    rests: Rests,
    streams: BTreeSet<StreamId>,
    /// The subscriber that pays for it.
    payer: StreamId,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.now.iter().chain(&self.last).map(|it| it.bytes.len()).sum()
    }
}

/// What a subscription costs beside its name: marks, what was told, sets of names.
const SUBSCRIPTION: usize = 256;
/// What it costs more where a place has a profile of its own.
const PROFILE: usize = 8 << 10;

fn cost(place: &Place) -> usize {
    let profile = if place.name.starts_with(SERVER_LISTENER) { PROFILE } else { 0 };
    SUBSCRIPTION + place.name.len() + profile
}

/// What an entry rests on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rests {
    services: BTreeSet<ServiceName>,
    list: bool,
}

impl Rests {
    fn of(built: &mut Built) -> Self {
        Self { services: std::mem::take(&mut built.depends_on), list: built.depends_on_list }
    }
}

#[derive(Debug, Default)]
struct Wildcard {
    names: BTreeSet<Name>,
    streams: BTreeSet<StreamId>,
}

/// How what a wildcard stands for has changed.
#[derive(Debug)]
pub(super) struct Shift {
    pub(super) kind: Kind,
    pub(super) came: Vec<Name>,
    pub(super) went: Vec<Name>,
    pub(super) streams: BTreeSet<StreamId>,
}

/// All of them.
#[derive(Debug, Default)]
pub(in crate::views::xds) struct Tables {
    entries: HashMap<Place, Entry>,
    by_service: HashMap<ServiceName, BTreeSet<Place>>,
    /// Those that rest on the list of services.
    by_list: BTreeSet<Place>,
    wildcards: HashMap<(Arc<Profile>, Kind), Wildcard>,
    profiles: BTreeSet<Arc<Profile>>,
    pub(super) accounts: Accounts,
}

/// Profiles that may lie around unused.
const UNUSED: usize = 1_024;

impl Tables {
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn profiles(&mut self, whole: Profile) -> Profiles {
        let by_kind = Kind::ALL.map(|kind| {
            let relevant = Arc::new(whole.relevant(kind, ""));
            let known = self.profiles.get(&relevant).cloned();
            known.unwrap_or_else(|| {
                self.profiles.insert(relevant.clone());
                relevant
            })
        });
        Profiles { whole, by_kind }
    }

    pub(super) fn join(&mut self, place: &Place, id: StreamId, build: impl FnOnce(&Place) -> Built) {
        if let Some(entry) = self.entries.get_mut(place) {
            if entry.streams.insert(id) {
                self.accounts.charge(id, cost(place));
            }
            return;
        }
        let mut built = build(place);
        let rests = Rests::of(&mut built);
        self.link(place, &rests);
        let Built { resource, is_guess, is_in_doubt, .. } = built;
        let (now, streams) = (resource.map(Arc::new), [id].into());
        let entry = Entry { now, last: None, is_guess, is_in_doubt, rests, streams, payer: id };
        self.accounts.charge(id, cost(place) + entry.bytes());
        self.entries.insert(place.clone(), entry);
    }

    pub(super) fn leave(&mut self, place: &Place, id: StreamId) {
        let Some(entry) = self.entries.get_mut(place) else { return };
        if !entry.streams.remove(&id) {
            return;
        }
        self.accounts.credit(id, cost(place));
        if entry.payer == id {
            self.accounts.credit(id, entry.bytes());
            if let Some(next) = entry.streams.first() {
                entry.payer = *next;
                self.accounts.charge(*next, entry.bytes());
            }
        }
        if entry.streams.is_empty()
            && let Some(entry) = self.entries.remove(place)
        {
            self.unlink(place, &entry.rests);
        }
    }

    /// Ends a subscription unless the wildcard covers it. Returns whether it did.
    pub(super) fn unsubscribe(&mut self, stream: &mut Stream, kind: Kind, name: &Name, id: StreamId) -> bool {
        let covered =
            stream.session.channel(kind).is_wildcard() && self.stands_for(stream.profiles.of_kind(kind), kind, name);
        if covered || !stream.subscribed.remove(&(kind, name.clone())) {
            return false;
        }
        self.leave(&stream.profiles.place(kind, name), id);
        true
    }

    fn link(&mut self, place: &Place, rests: &Rests) {
        for service in &rests.services {
            self.by_service.entry(service.clone()).or_default().insert(place.clone());
        }
        if rests.list {
            self.by_list.insert(place.clone());
        }
    }

    fn unlink(&mut self, place: &Place, rests: &Rests) {
        for service in &rests.services {
            if let Some(places) = self.by_service.get_mut(service) {
                places.remove(place);
                if places.is_empty() {
                    self.by_service.remove(service);
                }
            }
        }
        self.by_list.remove(place);
    }

    /// Resources that rest on a service.
    pub(super) fn depending_on<'a>(&'a self, service: &ServiceName) -> impl Iterator<Item = Place> + use<'a> {
        self.by_service.get(service).into_iter().flatten().cloned()
    }

    /// Resources that rest on the list of services.
    pub(super) fn depending_on_list(&self) -> &BTreeSet<Place> {
        &self.by_list
    }

    pub(super) fn subscribers(&self, place: &Place) -> BTreeSet<StreamId> {
        self.entries.get(place).map(|entry| entry.streams.clone()).unwrap_or_default()
    }

    /// Puts in what was built; returns who is to be told, which is nobody if the bytes are as before.
    pub(super) fn install(&mut self, place: &Place, mut built: Built) -> BTreeSet<StreamId> {
        let Some(entry) = self.entries.get_mut(place) else { return BTreeSet::new() };
        let rests = Rests::of(&mut built);
        let before = std::mem::replace(&mut entry.rests, rests.clone());
        let (old, new) = (entry.now.as_ref().map(|it| it.version), built.resource.as_ref().map(|it| it.version));
        let mut told = BTreeSet::new();
        let bytes = entry.bytes();
        let doubt = std::mem::replace(&mut entry.is_in_doubt, built.is_in_doubt) != built.is_in_doubt;
        entry.is_guess = built.is_guess;
        if old != new || doubt {
            let old = std::mem::replace(&mut entry.now, built.resource.map(Arc::new));
            if entry.now.is_none() {
                entry.last = old.or(entry.last.take());
            }
            told = entry.streams.clone();
        } else if let (Some(now), Some(resource)) = (&mut entry.now, built.resource) {
            // The same bytes, so those that streams hold stay shared; what people are told may be news.
            if now.left_out != resource.left_out {
                *now = Arc::new(Resource { bytes: now.bytes.clone(), ..resource });
            }
        }
        self.accounts.credit(entry.payer, bytes);
        self.accounts.charge(entry.payer, entry.bytes());
        if before != rests {
            self.unlink(place, &before);
            self.link(place, &rests);
        }
        told
    }

    /// Subscribes a wildcard; returns what it stands for.
    pub(super) fn join_wildcard(
        &mut self,
        profile: &Arc<Profile>,
        kind: Kind,
        id: StreamId,
        names: impl FnOnce() -> Vec<Name>,
    ) -> Vec<Name> {
        let wildcard = self
            .wildcards
            .entry((profile.clone(), kind))
            .or_insert_with(|| Wildcard { names: names().into_iter().collect(), ..Wildcard::default() });
        wildcard.streams.insert(id);
        wildcard.names.iter().cloned().collect()
    }

    pub(super) fn leave_wildcard(&mut self, profile: &Arc<Profile>, kind: Kind, id: StreamId) {
        let key = (profile.clone(), kind);
        if let Some(wildcard) = self.wildcards.get_mut(&key) {
            wildcard.streams.remove(&id);
            if wildcard.streams.is_empty() {
                self.wildcards.remove(&key);
            }
        }
    }

    /// A stream has left all its places.
    pub(super) fn closed(&mut self, id: StreamId, profiles: &Profiles) {
        self.accounts.close(id);
        for kind in Kind::ALL {
            self.leave_wildcard(profiles.of_kind(kind), kind, id);
        }
        if self.profiles.len() > UNUSED {
            self.profiles.retain(|profile| Arc::strong_count(profile) > 1);
        }
    }

    /// Wildcards that somebody subscribes.
    pub(super) fn wildcards(&self) -> impl Iterator<Item = &(Arc<Profile>, Kind)> {
        self.wildcards.keys()
    }

    /// Whether a wildcard stands for this name.
    pub(super) fn stands_for(&self, profile: &Arc<Profile>, kind: Kind, name: &Name) -> bool {
        self.wildcards.get(&(profile.clone(), kind)).is_some_and(|it| it.names.contains(name))
    }

    pub(super) fn has(&self, place: &Place) -> bool {
        self.entries.contains_key(place)
    }

    /// Looks anew at what wildcards stand for.
    pub(super) fn update_wildcards(&mut self, names: impl Fn(&Arc<Profile>, Kind) -> Vec<Name>) -> Vec<Shift> {
        let mut shifts = Vec::new();
        for ((profile, kind), wildcard) in &mut self.wildcards {
            let now: BTreeSet<Name> = names(profile, *kind).into_iter().collect();
            let came: Vec<Name> = now.difference(&wildcard.names).cloned().collect();
            let went: Vec<Name> = wildcard.names.difference(&now).cloned().collect();
            if !came.is_empty() || !went.is_empty() {
                shifts.push(Shift { kind: *kind, came, went, streams: wildcard.streams.clone() });
                wildcard.names = now;
            }
        }
        shifts
    }
}

/// The tables as one stream sees them.
#[derive(Debug)]
pub(in crate::views::xds) struct Seen<'a> {
    pub(super) version: Version,
    pub(super) tables: &'a Tables,
    pub(super) profiles: &'a Profiles,
}

impl View for Seen<'_> {
    fn version(&self) -> Version {
        self.version
    }

    fn find(&self, kind: Kind, name: &Name) -> Found {
        let entry = self.tables.entries.get(&self.profiles.place(kind, name));
        let found = |it: &Entry| {
            let Entry { is_guess, is_in_doubt, .. } = *it;
            Found { now: it.now.clone(), last: it.last.clone(), is_guess, is_in_doubt }
        };
        entry.map(found).unwrap_or_default()
    }

    fn all(&self, kind: Kind) -> Vec<Name> {
        self.wildcard(kind).map(|it| it.names.iter().cloned().collect()).unwrap_or_default()
    }

    fn has(&self, kind: Kind, name: &Name) -> bool {
        self.wildcard(kind).is_some_and(|it| it.names.contains(name))
    }
}

/// Names that wildcards stand for, made outside of the lock.
pub(in crate::views::xds) type Names = HashMap<(Arc<Profile>, Kind), Vec<Name>>;

impl Seen<'_> {
    fn wildcard(&self, kind: Kind) -> Option<&Wildcard> {
        self.tables.wildcards.get(&(self.profiles.of_kind(kind).clone(), kind))
    }
}
