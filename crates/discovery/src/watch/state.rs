//! What a watch knows: what the open stream has said so far, what the consumer was given, and what was known before.
//!
//! Lives here: applying messages, deciding what the consumer sees. Does not: the stream, time, the disk.
//! Three layers, each service in at most one of the last two:
//! - *said*: exactly what this stream's registry says; gone with the stream. Deltas apply here and nowhere else.
//! - *published*: what the consumer has. Changes only by messages that are not older, so a registry that lags behind the one we had
//!   before changes nothing until it has caught up; a lost stream changes nothing. A service leaves it when it is not subscribed any more, or
//!   when a registry that knows every service does not name it (`complete`), and not otherwise.
//! - *remembered*: last good sets of services not subscribed now, or read from disk; used only while no registry can be reached.
//!
//! Invariants: a published version never falls, except by `adopt`; a service that did not change keeps its `Arc`, also across a
//! reconnect; a message that cannot be applied changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;
use weft_model::{Instance, InstanceId, Policy, ServiceInfo, ServiceName, ServiceSnapshot, Snapshot, Version};
use weft_proto::weft::discovery::v1 as pb;

use super::Topic;

/// Everything one watch knows.
#[derive(Debug, Default)]
pub(crate) struct State {
    topics: BTreeSet<Topic>,
    stream: Stream,
    published: Snapshot,
    remembered: Snapshot,
}

/// What the open stream has said.
#[derive(Debug, Default)]
struct Stream {
    version: Version,
    services: BTreeMap<ServiceName, Said>,
    /// Dropped while the stream is open: a delta for one of these was on its way before the registry heard of it, and means nothing to us.
    dropped: BTreeSet<ServiceName>,
    directory: Option<Directory>,
    /// Its registry was behind what the consumer has, when it last spoke.
    behind: bool,
    /// It has named every service there is (discovery.proto, `complete`), as of its last message.
    complete: bool,
    /// `*` was dropped while the stream was open: an older `complete` may be on its way, so none counts any more.
    star_dropped: bool,
}

type Directory = OrdMap<ServiceName, Arc<ServiceInfo>>;

#[derive(Debug, Clone)]
struct Said {
    /// Its version there: the base of the next delta.
    at: Version,
    service: Arc<ServiceSnapshot>,
}

/// A message that does not fit what the stream said before. The stream must be opened anew; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("the stream's version fell from {from} to {to}")]
    VersionFell { from: Version, to: Version },
    #[error("a delta for {service} applies to its version {base}, the stream said {at:?}")]
    Base { service: ServiceName, base: Version, at: Option<Version> },
}

/// Whether the consumer has something new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Change {
    Published,
    Nothing,
}

impl State {
    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.published
    }

    /// Whether the stream's registry is behind what the consumer has.
    pub(crate) fn is_behind(&self) -> bool {
        self.stream.behind
    }

    /// Whether the open stream has said anything yet.
    pub(crate) fn said_something(&self) -> bool {
        self.stream.version > Version::default()
    }

    /// Changes what is subscribed; what is not any more leaves the consumer and is remembered.
    pub(crate) fn set_topics(&mut self, topics: BTreeSet<Topic>) -> Change {
        let had_star = std::mem::replace(&mut self.topics, topics).contains(&Topic::All);
        self.stream.star_dropped |= had_star && !self.topics.contains(&Topic::All);
        let (topics, stream) = (&self.topics, &mut self.stream);
        let dropped = stream.services.extract_if(.., |name, _| !covers(topics, name));
        stream.dropped.extend(dropped.map(|(name, _)| name));
        let left: Vec<_> = self.published.services.keys().filter(|name| !covers(topics, name)).cloned().collect();
        for name in &left {
            if let Some(service) = self.published.services.remove(name) {
                self.remembered.services.insert(name.clone(), service);
            }
        }
        let directory_left = !self.topics.contains(&Topic::Directory) && !self.published.directory.is_empty();
        if directory_left {
            self.remembered.directory = std::mem::take(&mut self.published.directory);
        }
        self.remembered.version = self.remembered.version.max(self.published.version);
        if left.is_empty() && !directory_left { Change::Nothing } else { Change::Published }
    }

    /// A stream was opened; it will say everything in full.
    pub(crate) fn stream_opened(&mut self) {
        self.stream = Stream::default();
    }

    /// Takes in what an earlier process knew.
    pub(crate) fn remember(&mut self, message: pb::WatchResponse) -> Result<(), Misfit> {
        let mut earlier = Self::default();
        earlier.topics.extend([Topic::All, Topic::Directory]);
        let _ = earlier.apply(message)?;
        self.remembered = earlier.published;
        Ok(())
    }

    /// Gives the consumer what is remembered of the subscribed services it has nothing of. For when no registry can be reached.
    pub(crate) fn fall_back(&mut self) -> Change {
        let topics = &self.topics;
        let wanted: Vec<_> = self.remembered.services.keys().filter(|name| covers(topics, name)).cloned().collect();
        let mut change = Change::Nothing;
        for name in wanted {
            if let Some(service) = self.remembered.services.remove(&name) {
                self.published.services.entry(name).or_insert(service);
                change = Change::Published;
            }
        }
        if topics.contains(&Topic::Directory)
            && self.published.directory.is_empty()
            && !self.remembered.directory.is_empty()
        {
            self.published.directory = std::mem::take(&mut self.remembered.directory);
            change = Change::Published;
        }
        if change == Change::Published {
            self.published.version = self.published.version.max(self.remembered.version);
        }
        change
    }

    /// Applies one message of the open stream.
    pub(crate) fn apply(&mut self, message: pb::WatchResponse) -> Result<Change, Misfit> {
        let version = Version(message.version);
        if version < self.stream.version {
            return Err(Misfit::VersionFell { from: self.stream.version, to: version });
        }
        let mut touched = Vec::with_capacity(message.services.len());
        for update in message.services {
            let name = match update.name.parse::<ServiceName>() {
                Ok(name) => name,
                Err(error) => {
                    tracing::warn!(name = update.name, %error, "leaving out a service that we could not call by its name");
                    continue;
                }
            };
            let late = matches!(update.body, Some(pb::service_update::Body::Delta(_)));
            if covers(&self.topics, &name) && !(late && self.stream.dropped.contains(&name)) {
                touched.push((name.clone(), self.said(name, version, update)?));
            }
        }
        self.stream.version = version;
        if let Some(directory) = message.directory.filter(|_| self.topics.contains(&Topic::Directory)) {
            self.stream.directory = Some(self.directory(directory));
        }
        let names: Vec<_> = touched.iter().map(|(name, _)| name.clone()).collect();
        for name in &names {
            self.stream.dropped.remove(name);
        }
        self.stream.services.extend(touched);
        let counts = self.topics.contains(&Topic::All) && !self.stream.star_dropped;
        let was_complete = std::mem::replace(&mut self.stream.complete, message.complete && counts);
        let change = self.publish(&names);
        if self.stream.complete && !was_complete && !self.stream.behind {
            self.forget_unnamed();
        }
        Ok(change)
    }

    /// Takes the stream's word although it is older than what the consumer has: a registry that stays behind has lost its past.
    pub(crate) fn adopt(&mut self) -> Change {
        self.published.version = self.stream.version;
        self.publish(&[])
    }

    /// The complete last-good state in the form of one message, to be kept on disk.
    pub(crate) fn last_good(&self) -> pb::WatchResponse {
        let mut services = self.remembered.services.clone();
        services.extend(self.published.services.clone());
        let directory =
            if self.published.directory.is_empty() { &self.remembered.directory } else { &self.published.directory };
        pb::WatchResponse {
            version: self.published.version.max(self.remembered.version).0,
            services: services.values().map(|service| weft_proto::service_update_full(service)).collect(),
            directory: Some(pb::Directory {
                services: directory.iter().map(|(name, info)| weft_proto::directory_entry(name, info)).collect(),
            }),
            complete: false, // nothing is gone because we did not know it
        }
    }

    fn said(&self, name: ServiceName, version: Version, update: pb::ServiceUpdate) -> Result<Said, Misfit> {
        let before = self.stream.services.get(&name);
        let known = before.map(|said| &said.service).or_else(|| self.published.services.get(&name));
        let mut instances = OrdMap::new();
        let mut info = known.map(|known| known.info.clone()).unwrap_or_default();
        let mut policies = known.map(|known| known.policies.clone()).unwrap_or_default();
        match update.body {
            Some(pb::service_update::Body::Full(full)) => insert_all(&mut instances, full.instances, known),
            Some(pb::service_update::Body::Delta(delta)) => {
                let base = Version(update.base);
                let Some(before) = before.filter(|said| said.at == base) else {
                    return Err(Misfit::Base { service: name, base, at: before.map(|said| said.at) });
                };
                instances = before.service.instances.clone();
                for gone in delta.removed.iter().filter_map(|removed| removed.id.parse::<InstanceId>().ok()) {
                    instances.remove(&gone);
                }
                insert_all(&mut instances, delta.upserted, known);
            }
            // A body of a kind we do not know yet: facts may still have changed.
            None => instances = known.map(|known| known.instances.clone()).unwrap_or_default(),
        }
        if let Some(said) = update.info {
            match ServiceInfo::try_from(said) {
                Ok(said) if said != *info => info = Arc::new(said),
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(service = %name, %error, "facts of a service are invalid, keeping the old")
                }
            }
        }
        if let Some(said) = update.policies {
            let said = policies_said(&name, said);
            if *said != *policies {
                policies = said;
            }
        }
        let authoritative = update.authoritative;
        let unchanged = known.filter(|known| {
            known.authoritative == authoritative
                && Arc::ptr_eq(&known.info, &info)
                && Arc::ptr_eq(&known.policies, &policies)
                && same(&known.instances, &instances)
        });
        let service = match unchanged {
            Some(known) => known.clone(),
            None => Arc::new(ServiceSnapshot { name, version, instances, authoritative, info, policies }),
        };
        // A registry that does not tell versions of services bases its deltas on its messages.
        let at = if update.version == 0 { version } else { Version(update.version) };
        Ok(Said { at, service })
    }

    fn directory(&self, message: pb::Directory) -> Directory {
        let parse = |entry: pb::directory::Entry| {
            let name: ServiceName = entry.name.parse().ok()?;
            let info = ServiceInfo::try_from(entry.info.unwrap_or_default()).ok()?;
            let info = match self.published.directory.get(&name) {
                Some(known) if **known == info => known.clone(),
                Some(_) | None => Arc::new(info),
            };
            Some((name, info))
        };
        message.services.into_iter().filter_map(parse).collect()
    }

    /// Brings the consumer's view to what the stream says of `touched`, or of everything if it had been behind.
    fn publish(&mut self, touched: &[ServiceName]) -> Change {
        if self.stream.version < self.published.version {
            self.stream.behind = true;
            self.published.complete = false;
            return self.publish_what_is_new(touched);
        }
        let caught_up = std::mem::take(&mut self.stream.behind);
        let names: Vec<_> = if caught_up { self.stream.services.keys().cloned().collect() } else { touched.to_vec() };
        names.iter().for_each(|name| self.publish_one(name));
        if caught_up && self.stream.complete {
            self.forget_unnamed();
        }
        if let Some(directory) = &self.stream.directory {
            self.published.directory = directory.clone();
        }
        self.published.version = self.stream.version;
        self.published.complete = self.stream.complete;
        Change::Published
    }

    /// From a registry that is behind, a service the consumer has nothing of is better than nothing.
    fn publish_what_is_new(&mut self, touched: &[ServiceName]) -> Change {
        let new: Vec<_> = touched.iter().filter(|name| !self.published.services.contains_key(*name)).collect();
        new.iter().for_each(|name| self.publish_one(name));
        if new.is_empty() { Change::Nothing } else { Change::Published }
    }

    /// What a registry that knows every service did not name is gone: an authoritative word, so it is not remembered either.
    fn forget_unnamed(&mut self) {
        let named = &self.stream.services;
        for known in [&mut self.published.services, &mut self.remembered.services] {
            let unnamed: Vec<_> = known.keys().filter(|name| !named.contains_key(*name)).cloned().collect();
            unnamed.iter().for_each(|name| drop(known.remove(name)));
        }
    }

    fn publish_one(&mut self, name: &ServiceName) {
        let Some(said) = self.stream.services.get(name) else { return };
        let last = self.published.services.get(name).or_else(|| self.remembered.services.get(name));
        let service = keep_last_good(&said.service, last);
        self.published.services.insert(name.clone(), service);
        self.remembered.services.remove(name);
    }
}

fn covers(topics: &BTreeSet<Topic>, name: &ServiceName) -> bool {
    topics.contains(&Topic::All) || topics.contains(&Topic::Service(name.clone()))
}

/// An empty set that is not meant does not replace one that was good (discovery.proto, `authoritative`).
fn keep_last_good(said: &Arc<ServiceSnapshot>, last: Option<&Arc<ServiceSnapshot>>) -> Arc<ServiceSnapshot> {
    match last {
        Some(last) if !said.authoritative && said.instances.is_empty() && !last.instances.is_empty() => {
            // A registry that lost its store does not know of policies either: rules outlive it as instances do.
            let policies = if said.policies.is_empty() { &last.policies } else { &said.policies };
            if !last.authoritative && last.info == said.info && last.policies == *policies {
                return last.clone();
            }
            let (instances, policies) = (last.instances.clone(), policies.clone());
            Arc::new(ServiceSnapshot { instances, policies, ..ServiceSnapshot::clone(said) })
        }
        Some(_) | None => said.clone(),
    }
}

fn policies_said(service: &ServiceName, said: pb::ServicePolicies) -> Arc<[Arc<Policy>]> {
    let (policies, problems) = weft_proto::stored_policies(service, said);
    for problem in problems {
        tracing::warn!(%service, %problem, "a policy cannot be read here; the strictest of its kind stands in for it");
    }
    policies.into_iter().map(Arc::new).collect()
}

/// Adds what is valid. An instance of a kind we cannot read (a newer protocol) is one we cannot call, so it is left out.
fn insert_all(
    into: &mut OrdMap<InstanceId, Arc<Instance>>,
    all: Vec<weft_proto::weft::model::v1::Instance>,
    known: Option<&Arc<ServiceSnapshot>>,
) {
    for message in all {
        let id = message.id.parse::<InstanceId>();
        match Instance::try_from(message) {
            Ok(instance) => {
                let instance = match known.and_then(|known| known.instances.get(&instance.id)) {
                    Some(old) if **old == instance => old.clone(),
                    Some(_) | None => Arc::new(instance),
                };
                into.insert(instance.id, instance);
            }
            Err(error) => {
                tracing::warn!(%error, "leaving out an instance that is invalid here");
                if let Ok(id) = id {
                    into.remove(&id);
                }
            }
        }
    }
}

fn same(a: &OrdMap<InstanceId, Arc<Instance>>, b: &OrdMap<InstanceId, Arc<Instance>>) -> bool {
    a.len() == b.len() && a.values().zip(b.values()).all(|(a, b)| Arc::ptr_eq(a, b))
}

#[cfg(test)]
mod tests;
