//! The session of one watch: what its reader was sent, and the difference to what is.
//!
//! Lives here: which service is told in full and which by a delta. Does not: knowing when (`hub`), encoding (`told`).

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use weft_model::{ServiceName, ServiceSnapshot, Version};
use weft_proto::{
    directory_entry,
    weft::discovery::v1::{Directory, WatchResponse},
};

use super::{
    Left, Looked, Work,
    told::{Encoded, Message, Step, Told},
};
use crate::catalog::Published;

/// Bytes of services from which on a message takes no further one: a stock client reads 4 MiB, and a single service may be large.
const MESSAGE: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct Session {
    /// Per service: version of the last message that carried it, and what it said.
    sent: HashMap<ServiceName, (Version, Arc<ServiceSnapshot>)>,
    /// The first that the last message had no room for: it is first in the next, so that each has its turn where more changes than can be told.
    first: Option<ServiceName>,
}

impl Session {
    /// Makes the message, none if there is nothing to say, and returns what it has no room for.
    pub(super) fn respond(&mut self, work: Work, encoded: &Encoded) -> (Option<Message>, Option<Left>) {
        let Work { published, before, mut services, forgotten, directory, complete, greet } = work;
        for name in forgotten {
            self.sent.remove(&name);
        }
        let (mut told, mut carried, mut bytes) = (Vec::with_capacity(services.len()), Vec::new(), 0);
        let mut left = BTreeSet::new();
        if let Some(first) = self.first.take() {
            let ahead = services.partition_point(|it| it.service.name < first);
            services.rotate_left(ahead);
        }
        for looked in services {
            if bytes >= MESSAGE {
                let name = &looked.service.name;
                self.first.get_or_insert_with(|| name.clone());
                left.insert(name.clone());
                continue;
            }
            let Some(it) = self.step(&looked, encoded, &published) else { continue };
            bytes += it.bytes.len();
            told.push(it);
            carried.push(looked.service);
        }
        let version = if left.is_empty() { published.snapshot.version } else { before };
        for service in carried {
            match self.sent.get_mut(&service.name) {
                Some(sent) => *sent = (version, service),
                None => drop(self.sent.insert(service.name.clone(), (version, service))),
            }
        }
        if !left.is_empty() {
            let envelope = WatchResponse { version: version.0, ..WatchResponse::default() };
            let left = Left { before, services: left, directory, greet };
            return (Some(Message { envelope, services: told }), Some(left));
        }
        let directory = directory.then(|| Directory {
            services: published.snapshot.directory.iter().map(|(name, info)| directory_entry(name, info)).collect(),
        });
        let empty = told.is_empty() && directory.is_none() && !greet;
        let envelope = WatchResponse { version: version.0, services: Vec::new(), directory, complete };
        ((!empty).then_some(Message { envelope, services: told }), None)
    }

    /// What leads from what was sent of a service to what it is; none if a reader would see no difference.
    fn step(&mut self, looked: &Looked, encoded: &Encoded, published: &Published) -> Option<Told> {
        let full = |bytes| Some(Told { base: Version(0), bytes });
        let now = &looked.service;
        let Some((base, before)) = self.sent.get_mut(&now.name) else { return full(encoded.full(looked)) };
        if Arc::ptr_eq(before, now) {
            return None;
        }
        match encoded.step(before, looked, published) {
            Step::Nothing => {
                *before = now.clone(); // the same to its reader, and the base stays
                None
            }
            Step::Delta(bytes) => Some(Told { base: *base, bytes }),
            Step::Full(bytes) => full(bytes),
        }
    }
}
