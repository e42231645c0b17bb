//! The session of one watch: what its reader was sent, and the difference to what is.
//!
//! Lives here: which service is told in full and which by a delta. Does not: knowing when (`hub`), encoding (`told`).
//! What a reader of everything has is a whole snapshot, so nothing is kept of it for each service, and readers that are at one snapshot are told the
//! same bytes. What does not fit into one message is told of the snapshot that the answer was begun with.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use imbl::OrdMap;
use weft_model::{ServiceName, ServiceSnapshot};
use weft_proto::{
    directory_entry,
    weft::discovery::v1::{Directory, WatchResponse},
};

use super::{
    Left, Looked, Work,
    told::{Differs, Encoded, Message, Told},
};
use crate::catalog::Published;

/// Bytes of services from which on a message takes no further one: a stock client reads 4 MiB, and a single service may be large.
const MESSAGE: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct Session {
    /// What the reader has of services that it named, and of those where it is not what `all` says.
    sent: HashMap<ServiceName, Arc<ServiceSnapshot>>,
    /// What it has of everything, if it reads everything.
    all: Option<All>,
    /// The first that the last message had no room for: it is first in the next, so that each has its turn where more changes than can be told.
    first: Option<ServiceName>,
}

/// What a reader of everything has.
#[derive(Debug, Default)]
struct All {
    /// None: nothing yet.
    at: Option<Arc<Published>>,
    going: Option<Going>,
}

/// An answer of several messages: of the services up to a name its reader has what this snapshot says.
#[derive(Debug)]
struct Going {
    to: Arc<Published>,
    after: Option<ServiceName>,
}

impl All {
    fn has(&self, name: &ServiceName) -> Option<&Arc<ServiceSnapshot>> {
        let going = self.going.as_ref().filter(|it| it.after.as_ref().is_some_and(|after| name <= after));
        let at = going.map(|it| &it.to).or(self.at.as_ref());
        at.and_then(|it| it.snapshot.services.get(name))
    }
}

/// What goes into one message.
#[derive(Debug, Default)]
struct Room {
    told: Vec<Told>,
    bytes: usize,
}

impl Room {
    const fn is_full(&self) -> bool {
        self.bytes >= MESSAGE
    }

    fn push(&mut self, told: Told) {
        self.bytes += told.len();
        self.told.push(told);
    }
}

impl Session {
    /// Makes the message, none if there is nothing to say, and returns what it has no room for.
    pub(super) fn respond(&mut self, work: Work, encoded: &Encoded) -> (Option<Message>, Option<Left>) {
        let Work { published, before, mut services, all, named, dropped, forgotten, directory, complete, greet } = work;
        if let Some(names) = dropped {
            self.drop_all(names);
        }
        for name in forgotten {
            if self.all.as_ref().is_none_or(|all| all.has(&name).is_none()) {
                self.sent.remove(&name);
            }
        }
        let (mut room, mut left) = (Room::default(), BTreeSet::new());
        if let Some(first) = self.first.take() {
            let ahead = services.partition_point(|it| it.service.name < first);
            services.rotate_left(ahead);
        }
        for looked in services {
            if room.is_full() {
                let name = &looked.service.name;
                self.first.get_or_insert_with(|| name.clone());
                left.insert(name.clone());
                continue;
            }
            self.named(looked, encoded, &published, &mut room);
        }
        if !left.is_empty() {
            let left = Left { before, services: left, going: None, directory, greet };
            return (Some(Message::unfinished(before, room.told)), Some(left));
        }
        let directory = directory.then(|| Directory {
            services: published.snapshot.directory.iter().map(|(name, info)| directory_entry(name, info)).collect(),
        });
        if all && !self.everything(&published, named, encoded, &mut room) {
            let mut message = Message::unfinished(before, room.told);
            message.envelope.directory = directory;
            let left =
                Left { before, services: BTreeSet::new(), going: Some(published), directory: false, greet: false };
            return (Some(message), Some(left));
        }
        let empty = room.told.is_empty() && directory.is_none() && !greet;
        let version = published.snapshot.version.0;
        let envelope = WatchResponse { version, services: Vec::new(), directory, complete };
        ((!empty).then_some(Message { envelope, services: room.told }), None)
    }

    /// What leads from what was sent of a service to what it is, unless a reader would see no difference.
    fn named(&mut self, looked: Looked, encoded: &Encoded, published: &Published, room: &mut Room) {
        let before = self.sent.get_mut(&looked.service.name);
        if before.as_ref().is_some_and(|before| Arc::ptr_eq(before, &looked.service)) {
            return;
        }
        let step = encoded.change(before.as_deref().map(AsRef::as_ref), &looked, published);
        let Some(told) = step.told() else { return };
        room.push(told);
        match before {
            Some(before) => *before = looked.service,
            None => drop(self.sent.insert(looked.service.name.clone(), looked.service)),
        }
    }

    /// What leads from what was sent of everything to this snapshot. Returns whether there was room for all of it. A reader that names services, too, may
    /// go on with them alone: of those that are not listed any more it is kept what it has, an empty set.
    fn everything(&mut self, to: &Arc<Published>, named: bool, encoded: &Encoded, room: &mut Room) -> bool {
        let all = self.all.get_or_insert_default();
        let going = all.going.take();
        if let Some(at) = all.at.as_ref().filter(|_| !named && going.is_none() && room.bytes == 0)
            && let Some(changes) = encoded.changes(at, to, MESSAGE)
            && self.sent.keys().all(|name| !changes.changes(name))
        {
            room.told.clone_from(&changes.told);
            self.sent.extend(changes.same.iter().map(|it| (it.name.clone(), it.clone())));
            all.at = Some(to.clone());
            return true;
        }
        let nothing = OrdMap::new();
        let from = all.at.as_ref().map_or(&nothing, |at| &at.snapshot.services);
        let mut after = going.and_then(|it| it.after);
        for item in from.diff(&to.snapshot.services) {
            let Differs { before, now } = Differs::of(item, to);
            let name = &now.service.name;
            if after.as_ref().is_some_and(|after| name <= after) {
                continue;
            }
            if room.is_full() {
                all.going = Some(Going { to: to.clone(), after });
                return false;
            }
            let before = self.sent.remove(name).or_else(|| before.cloned());
            match encoded.change(before.as_deref(), &now, to).told() {
                Some(told) => {
                    room.push(told);
                    self.sent.extend((named && !now.listed).then(|| (name.clone(), now.service.clone())));
                }
                None => self.sent.extend(before.map(|before| (name.clone(), before))),
            }
            after = Some(name.clone());
        }
        all.at = Some(to.clone());
        true
    }

    /// The reader reads everything no more, but still the services of these names.
    fn drop_all(&mut self, names: Vec<ServiceName>) {
        let Some(all) = self.all.take() else { return };
        let mut before = std::mem::take(&mut self.sent);
        for name in names {
            let has = before.remove(&name).or_else(|| all.has(&name).cloned());
            self.sent.extend(has.map(|it| (name, it)));
        }
    }
}
