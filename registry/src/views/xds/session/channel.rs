//! One kind of resources on one stream.
//!
//! Lives here: its state, marks, what was told and answered. Does not: what is asked for (`ask`), the content of a response (`tell`), the order
//! among kinds (`session`).

mod ask;
mod tell;

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use tokio::time::Instant;
use weft_model::Version;

pub(in crate::views::xds::session) use tell::Turn;

use super::{Answer, Change, HOLD, Name};

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
    pub(crate) error: Arc<str>,
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
    /// It did when it came, and the registry has not warmed up since.
    came_back: bool,
    named: BTreeSet<Name>,
    told: BTreeMap<Name, Told>,
    /// Names to look at.
    marks: BTreeMap<Name, Since>,
    changed_at: Option<Instant>,
    /// Names that are gone and whose removal waits for its turn.
    leaving: BTreeSet<Name>,
    /// What the client may act on although there is something newer that it cannot be told, or not now.
    unsaid: BTreeMap<Name, Since>,
    /// Names of what is left out since the client would not take an answer as large.
    too_much: BTreeSet<Name>,
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

    /// Names of what is left out since the client would not take an answer as large.
    pub(in crate::views::xds) const fn too_much(&self) -> &BTreeSet<Name> {
        &self.too_much
    }

    pub(in crate::views::xds) const fn was_asked(&self) -> bool {
        self.asked
    }

    pub(super) const fn came_back(&self) -> bool {
        self.came_back
    }

    /// A nonce of the first request is one of another stream, as some clients send it; it says nothing.
    pub(super) fn is_stale(&self, nonce: &str) -> bool {
        self.asked && !nonce.is_empty() && nonce != crate::views::xds::wire::nonce(self.nonce)
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
    fn refused(&mut self, it: Outstanding, error: String) -> Answer {
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
        self.rejected = Some(Rejected { version: it.version, error: error.into(), names });
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

    /// The registry knows all it can know.
    pub(super) fn warmed(&mut self) {
        (self.parked, self.came_back) = (false, false);
    }

    /// Drops what is not subscribed any more; nothing is owed of it.
    pub(in crate::views::xds) fn forget(&mut self, name: &Name) {
        self.told.remove(name);
        self.marks.remove(name);
        self.leaving.remove(name);
        self.unsaid.remove(name);
        self.too_much.remove(name);
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
        let since = oldest(since, self.unsaid.remove(name).flatten());
        match self.marks.entry(name.clone()) {
            Entry::Occupied(mut entry) => drop(entry.insert(oldest(*entry.get(), since))),
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
            || of(&self.unsaid)
            || self.outstanding.as_ref().is_some_and(|it| of(&it.names))
            || self.rejected.as_ref().is_some_and(|it| of(&it.names))
    }

    /// Has a name told anew although the client has it; until it answers, it may act on what it has.
    fn retell(&mut self, name: &Name) {
        let held = self.told.remove(name).map(|_| Version(0));
        let since = oldest(held, self.unsaid.remove(name).flatten());
        let mark = self.marks.entry(name.clone()).or_insert(since);
        *mark = oldest(*mark, since);
    }

    /// Nothing waits to be sent or answered.
    pub(in crate::views::xds) fn is_settled(&self) -> bool {
        !self.has_work() && self.outstanding.is_none()
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
}

fn oldest(a: Since, b: Since) -> Since {
    a.into_iter().chain(b).min()
}

/// Whether a text has the name as a word of its own: `users` is no part of `users-2`.
fn mentions(text: &str, name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty()
        && text
            .match_indices(name)
            .any(|(at, _)| !text[..at].ends_with(inner) && !text[at + name.len()..].starts_with(inner))
}
