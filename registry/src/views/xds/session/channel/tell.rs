//! What is told: the content of one response.
//!
//! Lives here: complete answers, changes, removals that wait for their turn. Does not: when it may go (`session`).

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;

use super::{Channel, Outstanding, Since, State, Told, oldest};
use crate::views::xds::{
    Kind, Resource,
    session::{Found, Name, Protocol, Response, View},
};

/// About how large a response may be where it may be split: clients take 4 MiB.
const LARGE: usize = 1 << 20;

/// What a response may be.
#[derive(Debug, Clone, Copy)]
pub(in crate::views::xds::session) struct Turn {
    pub(in crate::views::xds::session) protocol: Protocol,
    pub(in crate::views::xds::session) kind: Kind,
    pub(in crate::views::xds::session) nonce: u64,
    /// What is gone may be told.
    pub(in crate::views::xds::session) removals: bool,
    pub(in crate::views::xds::session) warming: bool,
    /// Bytes of a complete answer at most.
    pub(in crate::views::xds::session) largest: usize,
}

#[derive(Debug, Default)]
struct Content {
    resources: Vec<(Name, Arc<Resource>)>,
    removed: Vec<Name>,
    gone: Vec<Name>,
    names: BTreeMap<Name, Since>,
    news: bool,
    /// Something is marked on that may not be told yet.
    withheld: bool,
}

impl Channel {
    pub(in crate::views::xds::session) fn respond(
        &mut self,
        turn: Turn,
        view: &impl View,
        now: Instant,
    ) -> Option<Response> {
        let Turn { protocol, kind, nonce, removals, warming, largest } = turn;
        let complete = protocol == Protocol::StateOfTheWorld && kind.is_complete();
        let careful = warming && self.came_back;
        if complete && careful && self.may_lack(kind, view) {
            self.parked = true;
            return None;
        }
        let greet = std::mem::take(&mut self.greet);
        let content = match protocol {
            Protocol::StateOfTheWorld if complete => self.complete(kind, removals, largest, view),
            Protocol::StateOfTheWorld => self.changed(kind, None, careful, view),
            Protocol::Delta => self.changed(kind, Some(removals), careful, view),
        };
        let Content { resources, removed, gone, names, news, withheld } = content;
        let changed_at = if self.marks.is_empty() { self.changed_at.take() } else { self.changed_at };
        if !news && !greet {
            self.parked |= withheld;
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
        Some(Response { kind, nonce, version, resources, removed, gone, fresh })
    }

    /// Whether something may be subscribed that the registry does not know.
    fn may_lack(&self, kind: Kind, view: &impl View) -> bool {
        let lacks = |found: Found| found.now.is_none() || found.is_guess;
        self.wildcard || self.named.iter().any(|name| lacks(view.find(kind, name)))
    }

    /// All that is subscribed; what is left out is thereby deleted. Of more than fits, what the client has comes first: one message that is too large would
    /// end its stream, again and again.
    fn complete(&mut self, kind: Kind, removals: bool, largest: usize, view: &impl View) -> Content {
        let mut content = Content { names: std::mem::take(&mut self.marks), ..Content::default() };
        let mut wanted = self.named.clone();
        if self.wildcard {
            wanted.extend(view.all(kind));
        }
        self.leaving.clear();
        let told: Vec<Name> = self.told.keys().cloned().collect();
        for name in told {
            let found = view.find(kind, &name);
            if wanted.contains(&name) && found.now.is_some() {
                continue;
            }
            // A resource may be there by its name alone, and yet be none of all any more.
            match found.now.or(found.last).filter(|_| !removals) {
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
        self.too_much.clear();
        let mut size: usize = content.resources.iter().map(|(_, it)| it.bytes.len()).sum();
        let (old, new): (Vec<Name>, Vec<Name>) = wanted.into_iter().partition(|name| self.told.contains_key(name));
        for name in old.into_iter().chain(new) {
            if let Some(now) = view.find(kind, &name).now {
                size += now.bytes.len();
                if size > largest {
                    size -= now.bytes.len();
                    content.names.remove(&name);
                    if self.told.remove(&name).is_some() {
                        content.news = true;
                        content.gone.push(name.clone());
                    }
                    self.too_much.insert(name);
                    continue;
                }
                content.news |= self.told.get(&name).is_none_or(|told| told.version != now.version);
                content.names.entry(name.clone()).or_insert(None);
                content.resources.push((name, now));
            }
        }
        content
    }

    /// What is marked and differs from what was told. `removals`: none by state of the world, which cannot say it; else whether now. `careful`: who is
    /// missing may be about to come back.
    fn changed(&mut self, kind: Kind, removals: Option<bool>, careful: bool, view: &impl View) -> Content {
        let mut content = Content::default();
        if removals == Some(true) {
            for name in std::mem::take(&mut self.leaving) {
                let since = self.unsaid.remove(&name).flatten();
                let mark = self.marks.entry(name).or_insert(since);
                *mark = oldest(*mark, since);
            }
        }
        let mut withheld = BTreeMap::new();
        let mut size = 0;
        while size < LARGE
            && let Some((name, since)) = self.marks.pop_first()
        {
            let told = self.told.get(&name).map(|told| told.version);
            let wanted = self.named.contains(&name) || self.wildcard && view.has(kind, &name);
            let Found { now, is_guess, is_in_doubt, .. } = view.find(kind, &name);
            if careful && is_guess && wanted {
                withheld.insert(name, since);
                continue;
            }
            match now.filter(|_| wanted) {
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
                    None => self.owe_on(name, since),
                    Some(_) if is_in_doubt && wanted && told.is_some() => self.owe_on(name, since),
                    // Who asked for something that is not there wants to know.
                    Some(_) if told.is_none() && !self.named.contains(&name) => {}
                    Some(false) if told.is_some() => {
                        self.leaving.insert(name.clone());
                        self.owe_on(name, since);
                    }
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
        content.withheld = !withheld.is_empty();
        self.marks.extend(withheld);
        content
    }

    fn owe_on(&mut self, name: Name, since: Since) {
        if since.is_some() {
            let unsaid = self.unsaid.entry(name).or_insert(since);
            *unsaid = oldest(*unsaid, since);
        }
    }
}
