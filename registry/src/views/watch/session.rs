//! The session of one watch: what its reader was sent, and the difference to what is.
//!
//! Lives here: full answers and deltas. Does not: knowing when (`hub`).
//! A delta applies to what the message `base` left behind. A removal whose reason is no longer known makes the answer full.

use std::{collections::HashMap, sync::Arc};

use imbl::ordmap::DiffItem;
use weft_model::{ServiceName, ServiceSnapshot, Version};
use weft_proto::{
    directory_entry, service_policies, service_update_full,
    weft::discovery::v1::{Delta, Directory, Removed, ServiceUpdate, WatchResponse, removed, service_update::Body},
};

use super::Work;
use crate::catalog::Published;

#[derive(Debug, Default)]
pub(super) struct Session {
    /// Per service: version of the last message that carried it, and what it said.
    sent: HashMap<ServiceName, (Version, Arc<ServiceSnapshot>)>,
}

impl Session {
    /// Makes the message; None if there is nothing to say.
    pub(super) fn respond(&mut self, work: Work) -> Option<WatchResponse> {
        let Work { published, version, services, forgotten, directory, complete, greet } = work;
        for name in forgotten {
            self.sent.remove(&name);
        }
        let mut updates = Vec::with_capacity(services.len());
        for name in services {
            let service = published.service(&name);
            let update = match self.sent.get(&name) {
                Some((base, before)) => changed(before, &service).then(|| update(*base, before, &service, &published)),
                None => Some(service_update_full(&service)),
            };
            if let Some(update) = update {
                updates.push(update);
                self.sent.insert(name, (version, service));
            }
        }
        let directory = directory.then(|| Directory {
            services: published.snapshot.directory.iter().map(|(name, info)| directory_entry(name, info)).collect(),
        });
        let empty = updates.is_empty() && directory.is_none() && !greet;
        (!empty).then_some(WatchResponse { version: version.0, services: updates, directory, complete })
    }
}

/// Whether the reader would see a difference; the version alone is none.
fn changed(before: &Arc<ServiceSnapshot>, now: &Arc<ServiceSnapshot>) -> bool {
    !Arc::ptr_eq(before, now)
        && (before.authoritative != now.authoritative
            || before.info != now.info
            || before.policies != now.policies
            || before.instances != now.instances)
}

fn update(base: Version, before: &ServiceSnapshot, now: &ServiceSnapshot, published: &Published) -> ServiceUpdate {
    let Some(delta) = delta(before, now, published) else { return service_update_full(now) };
    ServiceUpdate {
        name: now.name.full().to_owned(),
        base: base.0,
        body: Some(Body::Delta(delta)),
        authoritative: now.authoritative,
        info: (before.info != now.info).then(|| now.info.as_ref().into()),
        policies: (before.policies != now.policies).then(|| service_policies(&now.policies)),
    }
}

fn delta(before: &ServiceSnapshot, now: &ServiceSnapshot, published: &Published) -> Option<Delta> {
    let mut delta = Delta::default();
    for item in before.instances.diff(&now.instances) {
        match item {
            DiffItem::Add(_, instance) | DiffItem::Update { new: (_, instance), .. } => {
                delta.upserted.push(instance.as_ref().into());
            }
            DiffItem::Remove(id, _) => {
                let why = removed::Reason::from(published.removals.why(id)?);
                delta.removed.push(Removed { id: id.to_string(), why: why.into() });
            }
        }
    }
    Some(delta)
}
