//! One kind of resources on one stream.
//!
//! Lives here: subscription, marks, what was told and answered, the content of a response. Does not: the order among kinds (`session`).

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use tokio::time::Instant;
use weft_model::{Invalid, Version};

use super::{Answer, Change, HOLD, Heard, Name, Protocol, Response, View};
use crate::views::xds::{Kind, Resource};

/// Names a stream may subscribe of one kind.
const MOST_NAMES: usize = 10_000;
/// Longest name, in bytes.
const LONGEST_NAME: usize = 1_024;
/// Longest text of a NACK that is kept, in bytes.
const LONGEST_ERROR: usize = 2_048;
/// About how large a response may be where it may be split: clients take 4 MiB.
const LARGE: usize = 1 << 20;
const WILDCARD: &str = "*";

/// What became of a resource that was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// On its way.
    Sent,
    /// Applied.
    Acked,
    /// Refused.
    Rejected,
}

#[derive(Debug, Clone, Copy)]
pub(in crate::views::xds) struct Told {
    /// Of the resource.
    pub(in crate::views::xds) version: u64,
    pub(in crate::views::xds) state: State,
}

/// Since when a client may act on something older; none: it holds nothing older.
type Since = Option<Version>;

/// A response that was refused.
#[derive(Debug, Clone)]
pub(crate) struct Rejected {
    /// Version of the catalog it was made of.
    pub(crate) version: Version,
    pub(crate) error: String,
    /// What is not settled by a later ACK: the resources that the text names, or all that were in it.
    names: BTreeMap<Name, Since>,
}

impl Rejected {
    pub(crate) fn names(&self) -> impl Iterator<Item = &Name> {
        self.names.keys()
    }
}

#[derive(Debug)]
struct Outstanding {
    version: Version,
    at: Instant,
    /// It has a resource that the client did not have.
    fresh: bool,
    names: BTreeMap<Name, Since>,
    changed_at: Option<Instant>,
}

#[derive(Debug, Default)]
pub(crate) struct Channel {
    /// A request came.
    asked: bool,
    /// A name was asked for at some time: from then on, no names means none.
    explicit: bool,
    wildcard: bool,
    /// The client holds something from an earlier stream, as far as we know.
    resumed: bool,
    named: BTreeSet<Name>,
    told: BTreeMap<Name, Told>,
    /// Names to look at.
    marks: BTreeMap<Name, Since>,
    changed_at: Option<Instant>,
    /// Names that are gone and whose removal waits for its turn.
    leaving: BTreeSet<Name>,
    /// Answer even if there is nothing to tell.
    greet: bool,
    /// What there is to tell would delete what may be about to come back.
    parked: bool,
    nonce: u64,
    outstanding: Option<Outstanding>,
    sent: Option<Version>,
    acked: Option<Version>,
    rejected: Option<Rejected>,
}

impl Channel {
    pub(in crate::views::xds) const fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Names that were asked for.
    pub(in crate::views::xds) const fn named(&self) -> &BTreeSet<Name> {
        &self.named
    }

    /// What the client was told last.
    pub(in crate::views::xds) const fn told(&self) -> &BTreeMap<Name, Told> {
        &self.told
    }

    /// Version of the catalog that was told last.
    pub(in crate::views::xds) const fn sent(&self) -> Option<Version> {
        self.sent
    }

    /// Version of the catalog that was acknowledged last.
    pub(in crate::views::xds) const fn acked(&self) -> Option<Version> {
        self.acked
    }

    pub(in crate::views::xds) const fn rejected(&self) -> Option<&Rejected> {
        self.rejected.as_ref()
    }

    pub(in crate::views::xds) const fn was_asked(&self) -> bool {
        self.asked
    }

    pub(super) const fn is_resumed(&self) -> bool {
        self.resumed
    }

    /// A nonce of the first request is one of another stream, as some clients send it; it says nothing.
    pub(super) fn is_stale(&self, nonce: &str) -> bool {
        self.asked && !nonce.is_empty() && nonce != super::super::wire::nonce(self.nonce)
    }

    pub(super) fn answered(&mut self, nonce: &str, error: Option<String>) -> Answer {
        if nonce.is_empty() || self.is_stale(nonce) {
            return Answer::None;
        }
        let Some(outstanding) = self.outstanding.take() else { return Answer::None };
        match error {
            None => self.accepted(outstanding),
            Some(error) => self.refused(outstanding, error),
        }
    }

    fn accepted(&mut self, it: Outstanding) -> Answer {
        self.acked = Some(it.version);
        self.resumed = false;
        for name in it.names.keys() {
            self.settle(name);
            if let Some(told) = self.told.get_mut(name) {
                told.state = State::Acked;
            }
        }
        Answer::Acked { changed_at: it.changed_at }
    }

    /// Clients apply what is valid and name what is not (gRFC A46); one that names nothing is taken to have refused everything.
    fn refused(&mut self, it: Outstanding, mut error: String) -> Answer {
        error.truncate(error.floor_char_boundary(LONGEST_ERROR));
        let blamed: BTreeSet<Name> = it.names.keys().filter(|name| mentions(&error, name)).cloned().collect();
        let mut names = it.names;
        if !blamed.is_empty() {
            names.retain(|name, _| blamed.contains(name));
        }
        for (name, told) in &mut self.told {
            if told.state == State::Sent {
                told.state = if names.contains_key(name) { State::Rejected } else { State::Acked };
            }
        }
        if let Some(earlier) = self.rejected.take() {
            for (name, since) in earlier.names {
                names.entry(name).and_modify(|now| *now = oldest(*now, since)).or_insert(since);
            }
        }
        self.rejected = Some(Rejected { version: it.version, error, names });
        Answer::Rejected
    }

    /// An earlier refusal of this resource no longer matters.
    fn settle(&mut self, name: &str) {
        if let Some(rejected) = &mut self.rejected {
            rejected.names.remove(name);
            if rejected.names.is_empty() {
                self.rejected = None;
            }
        }
    }

    pub(super) fn ask_names(&mut self, kind: Kind, names: Vec<String>, resumed: bool) -> Result<Heard, Invalid> {
        let first = self.start(resumed);
        let mut wanted: BTreeSet<Name> = checked("resource_names", names)?.map(Name::from).collect();
        let all = wanted.remove(WILDCARD);
        self.explicit |= all || !wanted.is_empty();
        let wildcard = kind.has_wildcard() && (all || !self.explicit);
        let mut heard = self.switch(wildcard, first);
        heard.removed = self.named.difference(&wanted).cloned().collect();
        heard.added = wanted.difference(&self.named).cloned().collect();
        self.named = wanted;
        heard.removed.iter().for_each(|name| self.forget(name));
        self.narrow(&heard);
        Ok(heard)
    }

    pub(super) fn ask_change(
        &mut self,
        kind: Kind,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        initial: BTreeMap<String, String>,
    ) -> Result<Heard, Invalid> {
        let first = self.start(!initial.is_empty());
        if first {
            // A version of somebody else's making is equal to none of ours, so its resource is told anew.
            let held = checked("initial_resource_versions", initial.keys().cloned().collect())?;
            for name in held {
                let version = initial.get(&name).and_then(|it| super::super::wire::parse_version(it)).unwrap_or(0);
                self.told.insert(name.into(), Told { version, state: State::Acked });
            }
        }
        let mut more: BTreeSet<Name> = checked("resource_names_subscribe", subscribe)?.map(Name::from).collect();
        let mut less: BTreeSet<Name> = checked("resource_names_unsubscribe", unsubscribe)?.map(Name::from).collect();
        let (all, not_all) = (more.remove(WILDCARD), less.remove(WILDCARD));
        self.explicit |= all || !more.is_empty();
        let wildcard = kind.has_wildcard() && (all || !self.explicit || self.wildcard && !not_all);
        let mut heard = self.switch(wildcard, first);
        for name in less {
            if self.named.remove(&name) {
                self.forget(&name);
                if self.wildcard {
                    self.marks.entry(name.clone()).or_insert(None); // it may still be one of all: the client wants to know
                }
                heard.removed.push(name);
            }
        }
        for name in more {
            if self.named.insert(name.clone()) {
                heard.added.push(name);
            } else {
                self.told.remove(&name); // who asks again wants it again
                self.marks.entry(name).or_insert(None);
            }
        }
        if self.named.len() > MOST_NAMES {
            return Err(too_many("resource_names_subscribe"));
        }
        self.narrow(&heard);
        if self.wildcard && first {
            let held: Vec<Name> = self.told.keys().cloned().collect();
            held.iter().for_each(|name| self.mark(name, None)); // gone ones among them are to be told
        } else if first {
            self.told.retain(|name, _| self.named.contains(name));
        }
        Ok(heard)
    }

    /// Returns whether this is the first request of the kind.
    fn start(&mut self, resumed: bool) -> bool {
        self.parked = false;
        let first = !std::mem::replace(&mut self.asked, true);
        self.resumed |= first && resumed;
        first
    }

    fn switch(&mut self, wildcard: bool, first: bool) -> Heard {
        let switched = self.wildcard != wildcard;
        self.wildcard = wildcard;
        // Envoy waits for an answer even if there is nothing.
        self.greet |= wildcard && (switched || first);
        Heard { wildcard: switched.then_some(wildcard), ..Heard::default() }
    }

    /// Without the wildcard, names are all there is.
    fn narrow(&mut self, heard: &Heard) {
        if heard.wildcard == Some(false) {
            let named = &self.named;
            self.told.retain(|name, _| named.contains(name));
            self.marks.retain(|name, _| named.contains(name));
            self.leaving.retain(|name| named.contains(name));
        }
    }

    /// The registry knows all it can know.
    pub(super) fn warmed(&mut self) {
        self.parked = false;
    }

    /// Drops what is not subscribed any more; nothing is owed of it.
    pub(in crate::views::xds) fn forget(&mut self, name: &Name) {
        self.told.remove(name);
        self.marks.remove(name);
        self.leaving.remove(name);
        self.settle(name);
        if let Some(outstanding) = &mut self.outstanding {
            outstanding.names.remove(name);
        }
    }

    pub(super) fn mark(&mut self, name: &Name, change: Option<Change>) {
        self.parked = false;
        let since = match change {
            Some(change) if self.told.contains_key(name) || self.resumed => Some(change.version),
            None if self.resumed => Some(Version(0)),
            Some(_) | None => None,
        };
        match self.marks.entry(name.clone()) {
            Entry::Occupied(_) => {} // the first mark says since when
            Entry::Vacant(entry) => {
                entry.insert(since);
                if let Some(change) = change {
                    self.changed_at = Some(self.changed_at.map_or(change.at, |at| at.min(change.at)));
                }
            }
        }
    }

    pub(super) fn owes(&self, name: &str, version: Version) -> bool {
        let of =
            |names: &BTreeMap<Name, Since>| names.get(name).copied().flatten().is_some_and(|since| since <= version);
        of(&self.marks)
            || self.outstanding.as_ref().is_some_and(|it| of(&it.names))
            || self.rejected.as_ref().is_some_and(|it| of(&it.names))
    }

    pub(super) fn has_work(&self) -> bool {
        !self.marks.is_empty() || !self.leaving.is_empty() || self.greet
    }

    pub(super) fn is_due(&self, removals: bool) -> bool {
        !self.parked && (!self.marks.is_empty() || self.greet || removals && !self.leaving.is_empty())
    }

    /// Whether a resource that the client does not have yet is on its way or about to be.
    pub(super) fn is_new_under_way(&self, now: Instant) -> bool {
        let sent = self.is_held(now) && self.outstanding.as_ref().is_some_and(|it| it.fresh);
        sent || !self.parked && self.marks.keys().any(|name| !self.told.contains_key(name))
    }

    pub(super) fn held_until(&self) -> Option<Instant> {
        self.outstanding.as_ref().map(|it| it.at + HOLD)
    }

    pub(super) fn is_held(&self, now: Instant) -> bool {
        self.held_until().is_some_and(|until| now < until)
    }

    pub(super) fn respond(&mut self, turn: Turn, view: &impl View, now: Instant) -> Option<Response> {
        let Turn { protocol, kind, nonce, removals, warming } = turn;
        let complete = protocol == Protocol::StateOfTheWorld && kind.is_complete();
        if complete && warming && self.resumed && self.may_lack(kind, view) {
            self.parked = true;
            return None;
        }
        let greet = std::mem::take(&mut self.greet);
        let content = match protocol {
            Protocol::StateOfTheWorld if complete => self.complete(kind, removals, view),
            Protocol::StateOfTheWorld => self.changed(kind, None, view),
            Protocol::Delta => self.changed(kind, Some(removals), view),
        };
        let Content { resources, removed, gone, names, news } = content;
        let changed_at = if self.marks.is_empty() { self.changed_at.take() } else { self.changed_at };
        if !news && !greet {
            return None;
        }
        let mut fresh = false;
        for (name, resource) in &resources {
            fresh |= self.told.insert(name.clone(), Told { version: resource.version, state: State::Sent }).is_none();
        }
        let version = view.version();
        (self.nonce, self.sent) = (nonce, Some(version));
        let mut next = Outstanding { version, at: now, fresh, names, changed_at };
        if let Some(unanswered) = self.outstanding.take() {
            // Its answer will never come, or be stale; the answer to this one stands for both.
            for (name, since) in unanswered.names {
                next.names.entry(name).and_modify(|now| *now = oldest(*now, since)).or_insert(since);
            }
            next.changed_at = next.changed_at.into_iter().chain(unanswered.changed_at).min();
        }
        self.outstanding = Some(next);
        Some(Response { kind, nonce, version, resources, removed, gone })
    }

    /// Whether something may be subscribed that the registry does not know.
    fn may_lack(&self, kind: Kind, view: &impl View) -> bool {
        self.wildcard || self.named.iter().any(|name| view.find(kind, name).now.is_none())
    }

    /// All that is subscribed; what is left out is thereby deleted.
    fn complete(&mut self, kind: Kind, removals: bool, view: &impl View) -> Content {
        let mut content = Content { names: std::mem::take(&mut self.marks), ..Content::default() };
        let mut wanted = self.named.clone();
        if self.wildcard {
            wanted.extend(view.all(kind));
        }
        self.leaving.clear();
        let told: Vec<Name> = self.told.keys().cloned().collect();
        for name in told {
            if wanted.contains(&name) && view.find(kind, &name).now.is_some() {
                continue;
            }
            match view.find(kind, &name).last.filter(|_| !removals) {
                Some(last) => {
                    self.leaving.insert(name.clone());
                    content.resources.push((name, last));
                }
                None => {
                    self.told.remove(&name);
                    content.news = true;
                    content.gone.push(name);
                }
            }
        }
        for name in wanted {
            if let Some(now) = view.find(kind, &name).now {
                content.news |= self.told.get(&name).is_none_or(|told| told.version != now.version);
                content.names.entry(name.clone()).or_insert(None);
                content.resources.push((name, now));
            }
        }
        content
    }

    /// What is marked and differs from what was told. `removals`: none by state of the world, which cannot say it; else whether now.
    fn changed(&mut self, kind: Kind, removals: Option<bool>, view: &impl View) -> Content {
        let mut content = Content::default();
        if removals == Some(true) {
            for name in std::mem::take(&mut self.leaving) {
                self.marks.entry(name).or_insert(None);
            }
        }
        let mut size = 0;
        while size < LARGE
            && let Some((name, since)) = self.marks.pop_first()
        {
            let told = self.told.get(&name).map(|told| told.version);
            match view.find(kind, &name).now {
                Some(now) if told == Some(now.version) => {
                    self.leaving.remove(&name);
                }
                Some(now) => {
                    self.leaving.remove(&name);
                    size += now.bytes.len() + name.len();
                    content.resources.push((name.clone(), now));
                    content.names.insert(name, since);
                }
                None => match removals {
                    None => {}
                    // Who asked for something that is not there wants to know.
                    Some(_) if told.is_none() && !self.named.contains(&name) => {}
                    Some(false) if told.is_some() => drop(self.leaving.insert(name)),
                    Some(_) => {
                        self.told.remove(&name);
                        size += name.len();
                        content.removed.push(name.clone());
                        content.gone.push(name.clone());
                        content.names.insert(name, since);
                    }
                },
            }
        }
        content.news = !content.resources.is_empty() || !content.removed.is_empty();
        content
    }
}

/// What a response may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub(super) protocol: Protocol,
    pub(super) kind: Kind,
    pub(super) nonce: u64,
    /// What is gone may be told.
    pub(super) removals: bool,
    pub(super) warming: bool,
}

#[derive(Debug, Default)]
struct Content {
    resources: Vec<(Name, Arc<Resource>)>,
    removed: Vec<Name>,
    gone: Vec<Name>,
    names: BTreeMap<Name, Since>,
    news: bool,
}

fn oldest(a: Since, b: Since) -> Since {
    a.into_iter().chain(b).min()
}

fn checked(field: &str, names: Vec<String>) -> Result<impl Iterator<Item = String>, Invalid> {
    if names.len() > MOST_NAMES {
        return Err(too_many(field));
    }
    match names.iter().position(|name| name.len() > LONGEST_NAME) {
        Some(index) => Err(Invalid::new(format!("{field}[{index}]"), format!("is longer than {LONGEST_NAME} bytes"))),
        None => Ok(names.into_iter()),
    }
}

fn too_many(field: &str) -> Invalid {
    Invalid::new(field, format!("more than {MOST_NAMES} names; open another stream for the rest"))
}

/// Whether a text has the name as a word of its own: `users` is no part of `users-2`.
fn mentions(text: &str, name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty()
        && text
            .match_indices(name)
            .any(|(at, _)| !text[..at].ends_with(inner) && !text[at + name.len()..].starts_with(inner))
}
