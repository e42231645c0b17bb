//! What is asked for: names and the wildcard, by both forms of ADS.
//!
//! Lives here: how a request changes the subscription, its bounds. Does not: what is told for it (`tell`).
//! No names at first are the wildcard, for kinds that have one; once a name or `*` was asked for, no names are none.

use std::collections::{BTreeMap, BTreeSet};

use weft_model::Invalid;

use super::{Channel, State, Told};
use crate::views::xds::{
    Kind,
    session::{Heard, Name},
    wire,
};

/// Names a stream may subscribe of one kind.
const MOST_NAMES: usize = 10_000;
/// Longest name, in bytes; that of a service has less than 150.
const LONGEST_NAME: usize = 512;
/// What a resource costs that a client says it holds, beside its name.
const HELD: usize = 64;
const WILDCARD: &str = "*";

impl Channel {
    pub(in crate::views::xds::session) fn ask_names(
        &mut self,
        kind: Kind,
        names: Vec<String>,
        resumed: bool,
    ) -> Result<Heard, Invalid> {
        let first = self.start(resumed);
        let mut wanted: BTreeSet<Name> = checked("resource_names", names)?.map(Name::from).collect();
        let all = wanted.remove(WILDCARD);
        self.explicit |= all || !wanted.is_empty();
        let wildcard = kind.has_wildcard() && (all || !self.explicit);
        let mut heard = self.switch(wildcard, first);
        // Who comes back may hold what is gone meanwhile: only an answer without it says so, be it an empty one.
        self.greet |= first && resumed && kind.is_complete();
        heard.removed = self.named.difference(&wanted).cloned().collect();
        heard.added = wanted.difference(&self.named).cloned().collect();
        self.named = wanted;
        // Whoever names one is answered, also if it is one of all and was told as such.
        for name in &heard.added {
            if self.told.contains_key(name) {
                self.retell(name);
            }
        }
        heard.removed.iter().for_each(|name| self.no_longer_named(name));
        if !heard.removed.is_empty() {
            // There may be room now.
            let waiting = std::mem::take(&mut self.too_much);
            for name in waiting {
                self.marks.entry(name).or_insert(None);
            }
        }
        self.narrow(&heard);
        Ok(heard)
    }

    pub(in crate::views::xds::session) fn ask_change(
        &mut self,
        kind: Kind,
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        initial: BTreeMap<String, String>,
    ) -> Result<Heard, Invalid> {
        let first = self.start(!initial.is_empty());
        let mut bytes = 0;
        if first {
            // A version of somebody else's making is equal to none of ours, so its resource is told anew.
            let held = checked("initial_resource_versions", initial.keys().cloned().collect())?;
            for name in held {
                let version = initial.get(&name).and_then(|it| wire::parse_version(it)).unwrap_or(0);
                bytes += name.len() + HELD;
                self.told.insert(name.into(), Told { version, state: State::Acked });
            }
        }
        let mut more: BTreeSet<Name> = checked("resource_names_subscribe", subscribe)?.map(Name::from).collect();
        let mut less: BTreeSet<Name> = checked("resource_names_unsubscribe", unsubscribe)?.map(Name::from).collect();
        let (all, not_all) = (more.remove(WILDCARD), less.remove(WILDCARD));
        self.explicit |= all || not_all || !more.is_empty();
        let wildcard = kind.has_wildcard() && (all || !self.explicit || self.wildcard && !not_all);
        let mut heard = Heard { held: bytes, ..self.switch(wildcard, first) };
        for name in less {
            if self.named.remove(&name) {
                self.no_longer_named(&name);
                heard.removed.push(name);
            }
        }
        for name in more {
            if self.named.insert(name.clone()) {
                heard.added.push(name);
            } else {
                self.retell(&name); // who asks again wants it again
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

    /// With the wildcard it may still be one of all, and what was told may be on its way: the client wants to know, whichever it is.
    fn no_longer_named(&mut self, name: &Name) {
        self.forget(name);
        if self.wildcard {
            self.told.insert(name.clone(), Told { version: 0, state: State::Acked });
            self.marks.entry(name.clone()).or_insert(None);
        }
    }

    /// Returns whether this is the first request of the kind.
    fn start(&mut self, resumed: bool) -> bool {
        self.parked = false;
        let first = !std::mem::replace(&mut self.asked, true);
        self.resumed |= first && resumed;
        self.came_back |= first && resumed;
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
            self.unsaid.retain(|name, _| named.contains(name));
            self.too_much.retain(|name| named.contains(name));
        }
    }
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
