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
    Left, Work,
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
        let ahead = self.first.take().map(|first| services.split_off(&first)).unwrap_or_default();
        for name in ahead.into_iter().chain(services) {
            if bytes >= MESSAGE {
                self.first.get_or_insert_with(|| name.clone());
                left.insert(name);
                continue;
            }
            let service = published.service(&name);
            let Some(it) = self.step(&name, &service, encoded, &published) else { continue };
            bytes += it.bytes.len();
            told.push(it);
            carried.push((name, service));
        }
        let version = if left.is_empty() { published.snapshot.version } else { before };
        self.sent.extend(carried.into_iter().map(|(name, service)| (name, (version, service))));
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
    fn step(
        &mut self,
        name: &ServiceName,
        now: &Arc<ServiceSnapshot>,
        encoded: &Encoded,
        published: &Published,
    ) -> Option<Told> {
        let full = |bytes| Some(Told { base: Version(0), bytes });
        let Some((base, before)) = self.sent.get_mut(name) else { return full(encoded.full(now, published)) };
        if Arc::ptr_eq(before, now) {
            return None;
        }
        match encoded.step(before, now, published) {
            Step::Nothing => {
                *before = now.clone(); // the same to its reader, and the base stays
                None
            }
            Step::Delta(bytes) => Some(Told { base: *base, bytes }),
            Step::Full(bytes) => full(bytes),
        }
    }
}
