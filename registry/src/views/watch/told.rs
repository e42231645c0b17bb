//! What watchers are told of services, encoded once for all of them.
//!
//! Lives here: full answers, the steps from one version of a service to a later one, and all the steps between two snapshots, as bytes. Does not:
//! who is told which (`session`).
//! A version of a listed service is one content, so a step between two versions is the same for everybody who takes it, and so is what leads from
//! one snapshot to a later one.
//! Bounds: of each service what leads to its latest version, from [`STEPS`] earlier ones, [`KEPT`] bytes of these; of everything what leads to the latest
//! snapshot that somebody was brought to, from [`STARTS`] earlier ones, a message each. No snapshot is kept alive.
//! A removal whose reason is no longer known makes the answer full.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bytes::{BufMut, Bytes, BytesMut};
use imbl::ordmap::DiffItem;
use prost::Message as _;
use tonic::Status;
use weft_model::{ServiceName, ServiceSnapshot, Version};
use weft_proto::{
    service_policies, service_update_full,
    weft::discovery::v1::{Delta, Removed, ServiceUpdate, WatchResponse, removed, service_update::Body},
};

use super::Looked;
use crate::{
    catalog::Published,
    views::body::{self, Part, Pieces},
};

/// Earlier versions of a service that steps are kept from: readers are rarely at more, and each one further costs its own encoding only.
const STEPS: usize = 16;
/// Earlier snapshots that what changed since is kept from: readers of everything are told together, so that they are at one.
const STARTS: usize = 4;
/// Bytes that are kept; when they are exceeded all are dropped and made anew as they are needed.
const KEPT: usize = 32 << 20;

/// Field 2 of a WatchResponse and of a ListResponse, `services`.
const SERVICES: u32 = 2;

/// Updates of services, one or several: whole fields of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::views) struct Told(pub(super) Bytes);

impl Told {
    fn of(update: &ServiceUpdate) -> Self {
        let mut bytes = BytesMut::new();
        prost::encoding::message::encode(SERVICES, update, &mut bytes);
        Self(bytes.freeze())
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl Part for Told {
    fn head(&self, _: &mut BytesMut) {}

    fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// One message of a watch.
#[derive(Debug, Clone)]
pub(in crate::views) struct Message {
    /// Without services.
    pub(super) envelope: WatchResponse,
    pub(super) services: Vec<Told>,
}

impl Message {
    /// The first of several: its reader has been told of everything as of the version before.
    pub(super) fn unfinished(before: Version, services: Vec<Told>) -> Self {
        let envelope = WatchResponse { version: before.0, ..WatchResponse::default() };
        Self { envelope, services }
    }

    /// The message as it is sent.
    pub(in crate::views) fn pieces(self) -> Result<Pieces<Told>, Status> {
        let envelope = |out: &mut BytesMut| self.envelope.encode(out).expect("a growing buffer has room");
        Pieces::of(envelope, self.services)
    }

    /// The message as its reader has it.
    pub(super) fn decoded(&self) -> WatchResponse {
        let mut all = BytesMut::new();
        self.envelope.encode(&mut all).expect("a growing buffer has room");
        self.services.iter().for_each(|it| all.put_slice(&it.0));
        WatchResponse::decode(all.freeze()).expect("what was encoded here can be read")
    }
}

/// What leads from one version of a service to a later one.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A reader would see no difference; the version alone is none.
    Nothing,
    Delta(Told),
    Full(Told),
}

impl Step {
    /// None if there is nothing to tell.
    pub(super) fn told(self) -> Option<Told> {
        match self {
            Self::Nothing => None,
            Self::Delta(told) | Self::Full(told) => Some(told),
        }
    }
}

/// Where a step begins: version and word of an empty set, since one that is not listed is made up by the snapshot.
type Start = (Version, bool);

#[derive(Debug)]
struct Latest {
    version: Version,
    full: Option<Told>,
    steps: Vec<(Start, Step)>,
}

impl Latest {
    fn bytes(&self) -> usize {
        let steps = self.steps.iter().map(|(_, step)| match step {
            Step::Nothing | Step::Full(_) => 0,
            Step::Delta(told) => told.len(),
        });
        self.full.as_ref().map_or(0, Told::len) + steps.sum::<usize>()
    }
}

/// What leads from a snapshot to a later one, and what of it cannot be told from the snapshots alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    /// Small ones put together.
    pub(super) told: Vec<Told>,
    /// What had a new version and nothing new in it: as the reader has it.
    pub(super) same: Vec<Arc<ServiceSnapshot>>,
    /// What differs, in order.
    names: Vec<ServiceName>,
    pub(super) bytes: usize,
}

impl Changes {
    /// Whether this service differs.
    pub(super) fn changes(&self, name: &ServiceName) -> bool {
        self.names.binary_search(name).is_ok()
    }

    fn push(&mut self, told: Told) {
        self.bytes += told.len();
        self.told.push(told);
    }

    /// Puts small ones together, each run as one piece.
    fn packed(self) -> Self {
        let mut packed = Vec::new();
        let mut run = BytesMut::new();
        let end = |run: &mut BytesMut, packed: &mut Vec<Told>| {
            if !run.is_empty() {
                packed.push(Told(run.split().freeze()));
            }
        };
        for Told(bytes) in self.told {
            if bytes.len() >= body::LARGE {
                end(&mut run, &mut packed);
                packed.push(Told(bytes));
                continue;
            }
            run.extend_from_slice(&bytes);
            if run.len() >= body::PIECE {
                end(&mut run, &mut packed);
            }
        }
        end(&mut run, &mut packed);
        Self { told: packed, ..self }
    }
}

/// What leads to one snapshot.
#[derive(Debug)]
struct Arrivals {
    version: Version,
    to: Weak<Published>,
    from: Vec<(Weak<Published>, Arc<Changes>)>,
}

impl Arrivals {
    fn new(to: &Arc<Published>) -> Self {
        Self { version: to.snapshot.version, to: Arc::downgrade(to), from: Vec::new() }
    }

    fn is_to(&self, to: &Arc<Published>) -> bool {
        is(&self.to, to)
    }

    fn since(&self, from: &Arc<Published>) -> Option<&Arc<Changes>> {
        self.from.iter().find(|(known, _)| is(known, from)).map(|(_, changes)| changes)
    }
}

fn is(kept: &Weak<Published>, published: &Arc<Published>) -> bool {
    std::ptr::eq(kept.as_ptr(), Arc::as_ptr(published))
}

#[derive(Debug, Default)]
struct Kept {
    services: HashMap<ServiceName, Latest>,
    bytes: usize,
    arrivals: Option<Arrivals>,
}

impl Kept {
    /// What is kept of this version. None: of a later one.
    fn at(&mut self, service: &ServiceSnapshot) -> Option<&mut Latest> {
        if self.bytes > KEPT {
            *self = Self::default();
        }
        let none = || Latest { version: service.version, full: None, steps: Vec::new() };
        let latest = self.services.entry(service.name.clone()).or_insert_with(none);
        if latest.version < service.version {
            self.bytes -= latest.bytes();
            *latest = none();
        }
        (latest.version == service.version).then_some(latest)
    }
}

/// What was encoded. One lock, held for a look or to put something in, never while encoding: two who miss the same make it twice.
#[derive(Debug, Default)]
pub(super) struct Encoded(Mutex<Kept>);

impl Encoded {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of a service.
    pub(super) fn full(&self, looked: &Looked) -> Told {
        let Looked { service, listed } = looked;
        let listed = *listed;
        let known = if listed { self.kept().at(service).and_then(|it| it.full.clone()) } else { None };
        known.unwrap_or_else(|| {
            let told = Told::of(&service_update_full(service));
            let mut kept = self.kept();
            if let Some(latest) = kept.at(service).filter(|it| listed && it.full.is_none()) {
                latest.full = Some(told.clone());
                kept.bytes += told.len();
            }
            told
        })
    }

    /// All of a service, for one who asks once: nothing is kept for it.
    pub(super) fn once(&self, service: &Arc<ServiceSnapshot>, published: &Published) -> Told {
        let listed = published.snapshot.services.get(&service.name).is_some_and(|listed| Arc::ptr_eq(listed, service));
        let known = if listed { self.kept().at(service).and_then(|it| it.full.clone()) } else { None };
        known.unwrap_or_else(|| Told::of(&service_update_full(service)))
    }

    /// What leads from `before` to what was looked up in `published`.
    pub(super) fn step(&self, before: &ServiceSnapshot, looked: &Looked, published: &Published) -> Step {
        let (now, listed) = (&looked.service, looked.listed);
        let begin: Start = (before.version, before.authoritative);
        let of = |latest: &mut Latest| {
            let step = latest.steps.iter().find(|(from, _)| *from == begin);
            step.map(|(_, step)| step.clone())
        };
        let known = if listed { self.kept().at(now).and_then(of) } else { None };
        known.unwrap_or_else(|| {
            let step = match delta(before, now, published) {
                None => Step::Full(self.full(looked)),
                Some(update) if says_nothing(&update, before) => Step::Nothing,
                Some(update) => Step::Delta(Told::of(&update)),
            };
            let mut kept = self.kept();
            if let Some(latest) = kept.at(now).filter(|it| listed && it.steps.len() < STEPS) {
                latest.steps.push((begin, step.clone()));
                if let Step::Delta(told) = &step {
                    kept.bytes += told.len();
                }
            }
            step
        })
    }

    /// Everything that leads from one snapshot to a later one; None if it is more than `most` bytes, which is for its reader to take in parts.
    pub(super) fn changes(&self, from: &Arc<Published>, to: &Arc<Published>, most: usize) -> Option<Arc<Changes>> {
        let of = |kept: &Kept| kept.arrivals.as_ref().filter(|it| it.is_to(to))?.since(from).cloned();
        if let Some(known) = of(&self.kept()) {
            return Some(known);
        }
        let mut changes = Changes::default();
        for item in from.snapshot.services.diff(&to.snapshot.services) {
            if changes.bytes >= most {
                return None;
            }
            let change = Differs::of(item, to);
            changes.names.push(change.now.service.name.clone());
            match self.change(change.before.map(AsRef::as_ref), &change.now, to).told() {
                Some(told) => changes.push(told),
                None => changes.same.extend(change.before.cloned()),
            }
        }
        let changes = Arc::new(changes.packed());
        let mut kept = self.kept();
        if let Some(made) = of(&kept) {
            return Some(made); // by another, meanwhile
        }
        let arrivals = kept.arrivals.get_or_insert_with(|| Arrivals::new(to));
        if !arrivals.is_to(to) && arrivals.version <= to.snapshot.version {
            *arrivals = Arrivals::new(to);
        }
        if arrivals.is_to(to) && arrivals.from.len() < STARTS {
            arrivals.from.push((Arc::downgrade(from), changes.clone()));
        }
        Some(changes)
    }

    /// What leads from what a reader has of a service, if it has anything.
    pub(super) fn change(&self, before: Option<&ServiceSnapshot>, now: &Looked, published: &Published) -> Step {
        match before {
            Some(before) => self.step(before, now, published),
            None => Step::Full(self.full(now)),
        }
    }
}

/// A service that differs between two snapshots.
#[derive(Debug)]
pub(super) struct Differs<'a> {
    pub(super) before: Option<&'a Arc<ServiceSnapshot>>,
    pub(super) now: Looked,
}

impl<'a> Differs<'a> {
    pub(super) fn of(item: DiffItem<'a, 'a, ServiceName, Arc<ServiceSnapshot>>, to: &Published) -> Self {
        match item {
            DiffItem::Add(_, now) => Self { before: None, now: Looked { service: now.clone(), listed: true } },
            DiffItem::Update { old: (_, before), new: (_, now) } => {
                Self { before: Some(before), now: Looked { service: now.clone(), listed: true } }
            }
            DiffItem::Remove(name, before) => {
                Self { before: Some(before), now: Looked { service: to.service(name), listed: false } }
            }
        }
    }
}

fn says_nothing(update: &ServiceUpdate, before: &ServiceSnapshot) -> bool {
    let empty = matches!(&update.body, Some(Body::Delta(it)) if it.upserted.is_empty() && it.removed.is_empty());
    empty && update.authoritative == before.authoritative && update.info.is_none() && update.policies.is_none()
}

fn delta(before: &ServiceSnapshot, now: &ServiceSnapshot, published: &Published) -> Option<ServiceUpdate> {
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
    Some(ServiceUpdate {
        name: now.name.full().to_owned(),
        base: before.version.0,
        body: Some(Body::Delta(delta)),
        authoritative: now.authoritative,
        info: (before.info != now.info).then(|| now.info.as_ref().into()),
        policies: (before.policies != now.policies).then(|| service_policies(&now.policies)),
        version: now.version.0,
    })
}

#[cfg(test)]
mod tests {
    use weft_model::{
        Endpoint, Epoch, Instance, InstanceId, Locality, Protocol, Snapshot, Status as Health, Transport, Weight,
    };

    use super::*;
    use crate::views::watch::{Left, Work, session::Session};

    fn users(version: u64, instances: u8) -> Arc<ServiceSnapshot> {
        let mut service = ServiceSnapshot::empty("users".parse().unwrap(), Version(version));
        for n in 1..=instances {
            let instance = Instance {
                id: InstanceId::from_bytes([n; 16]),
                service: service.name.clone(),
                epoch: Epoch(1),
                endpoint: Endpoint {
                    address: format!("127.0.0.1:{n}").parse().unwrap(),
                    transport: Transport::Plaintext,
                    protocol: Protocol::H2,
                },
                status: Health::Serving,
                reason: String::new(),
                locality: Locality::default(),
                weight: Weight::ONE,
                metadata: Default::default(),
                descriptors: None,
                check: None,
            };
            service.instances.insert(instance.id, Arc::new(instance));
        }
        Arc::new(service)
    }

    fn published(version: u64, services: &[Arc<ServiceSnapshot>]) -> Arc<Published> {
        let services = services.iter().map(|it| (it.name.clone(), it.clone())).collect();
        Arc::new(Published::of_snapshot(Snapshot { version: Version(version), services, ..Snapshot::default() }, false))
    }

    fn work(published: &Arc<Published>, services: &[&str]) -> Work {
        Work {
            published: published.clone(),
            before: Version(1),
            services: services.iter().map(|it| Looked::at(&it.parse().unwrap(), published)).collect(),
            all: false,
            named: false,
            dropped: None,
            forgotten: Default::default(),
            directory: false,
            complete: false,
            greet: false,
        }
    }

    fn told(session: &mut Session, encoded: &Encoded, published: &Arc<Published>) -> Option<Message> {
        session.respond(work(published, &["users"]), encoded).0
    }

    /// What a reader of everything is told of this snapshot.
    fn told_all(session: &mut Session, encoded: &Encoded, to: &Arc<Published>) -> (Option<Message>, Option<Left>) {
        session.respond(Work { all: true, ..work(to, &[]) }, encoded)
    }

    #[test]
    fn what_many_are_told_is_encoded_once() {
        let (encoded, mut one, mut other) = (Encoded::default(), Session::default(), Session::default());
        let first = users(3, 1);
        let a = told(&mut one, &encoded, &published(3, std::slice::from_ref(&first))).unwrap();
        let b = told(&mut other, &encoded, &published(4, &[first])).unwrap();
        assert_eq!(a.services[0].0.as_ptr(), b.services[0].0.as_ptr());
        let second = published(9, &[users(9, 3)]);
        let (a, b) = (told(&mut one, &encoded, &second).unwrap(), told(&mut other, &encoded, &second).unwrap());
        assert_eq!(a.services[0].0.as_ptr(), b.services[0].0.as_ptr());
        let a = a.decoded();
        assert_eq!((a.services[0].base, a.services[0].version), (3, 9));
        let Some(Body::Delta(delta)) = &a.services[0].body else { panic!("{a:?}") };
        assert_eq!((delta.upserted.len(), delta.removed.len()), (2, 0));
        assert!(told(&mut one, &encoded, &second).is_none(), "it has that");
    }

    fn named(name: &str, version: u64, instances: u8) -> Arc<ServiceSnapshot> {
        let mut service = ServiceSnapshot { name: name.parse().unwrap(), ..(*users(version, instances)).clone() };
        service.authoritative = true;
        Arc::new(service)
    }

    #[test]
    fn readers_of_everything_that_are_at_one_snapshot_are_told_the_same_bytes() {
        let (encoded, mut one, mut other) = (Encoded::default(), Session::default(), Session::default());
        let names: Vec<String> = (0..200).map(|n| format!("s{n:03}")).collect();
        let services = |version, changed: &[(std::ops::Range<usize>, u64, u8)]| {
            let mut all: Vec<_> = names.iter().map(|name| named(name, 2, 1)).collect();
            for (range, version, instances) in changed {
                range.clone().for_each(|n| all[n] = named(&names[n], *version, *instances));
            }
            published(version, &all)
        };
        let (first, second) = (services(2, &[]), services(5, &[(20..80, 5, 3)]));
        let third = services(7, &[(20..80, 5, 3), (50..60, 7, 4)]);
        for session in [&mut one, &mut other] {
            assert_eq!(told_all(session, &encoded, &first).0.unwrap().decoded().services.len(), 200);
        }
        let (a, b) =
            (told_all(&mut one, &encoded, &second).0.unwrap(), told_all(&mut other, &encoded, &second).0.unwrap());
        assert!(a.services.len() < 5, "small ones come together");
        assert!(a.services.iter().zip(&b.services).all(|(a, b)| a.0.as_ptr() == b.0.as_ptr()));
        let a = a.decoded();
        assert_eq!(a.services.iter().map(|it| (it.base, it.version)).collect::<Vec<_>>(), vec![(2, 5); 60]);
        let late = told_all(&mut Session::default(), &encoded, &third).0.unwrap().decoded();
        assert_eq!(late.services.len(), 200);
        let b = told_all(&mut other, &encoded, &third).0.unwrap().decoded();
        let of: Vec<_> =
            b.services.iter().map(|it| (it.name.trim_end_matches(".default"), it.base, it.version)).collect();
        assert_eq!(of, (50..60).map(|n| (names[n].as_str(), 5, 7)).collect::<Vec<_>>());
    }

    #[test]
    fn of_everything_what_was_taken_back_is_not_told_and_the_base_stays() {
        let (encoded, mut one) = (Encoded::default(), Session::default());
        let all = |version, instances, posts| {
            published(version, &[named("posts", posts, 1), named("users", version, instances)])
        };
        told_all(&mut one, &encoded, &all(3, 1, 3));
        assert!(told_all(&mut one, &encoded, &all(5, 1, 3)).0.is_none());
        assert!(told_all(&mut one, &encoded, &all(6, 1, 3)).0.is_none());
        let message = told_all(&mut one, &encoded, &all(7, 2, 3)).0.unwrap().decoded();
        assert_eq!(message.services.iter().map(|it| (it.base, it.version)).collect::<Vec<_>>(), [(3, 7)]);
        let message = told_all(&mut one, &encoded, &all(9, 3, 3)).0.unwrap().decoded();
        assert_eq!(message.services.iter().map(|it| (it.base, it.version)).collect::<Vec<_>>(), [(7, 9)]);
    }

    #[test]
    fn an_answer_about_everything_that_takes_several_messages_is_of_one_snapshot() {
        let (encoded, mut session) = (Encoded::default(), Session::default());
        let large = |name: &str, version: u64| {
            let mut service = (*named(name, version, 1)).clone();
            let mut instance = (**service.instances.values().next().unwrap()).clone();
            instance.reason = format!("{version}").repeat(200_000);
            service.instances.insert(instance.id, Arc::new(instance));
            Arc::new(service)
        };
        let all = |version| published(version, &["a", "b", "c"].map(|name| large(name, version)));
        let mut names = |to: &Arc<Published>| {
            let (message, left) = told_all(&mut session, &encoded, to);
            let message = message.unwrap().decoded();
            let names: Vec<&str> = message.services.iter().map(|it| it.name.trim_end_matches(".default")).collect();
            (message.version, names.join(" "), left.map(|left| left.going.unwrap()))
        };
        for (begun, version) in [(all(2), 2), (all(3), 3)] {
            let (before, first, going) = names(&begun);
            assert_eq!((before, first.as_str()), (1, "a b"));
            let going = going.unwrap();
            assert!(Arc::ptr_eq(&going, &begun));
            let (at, last, going) = names(&going);
            assert_eq!((at, last.as_str(), going.is_none()), (version, "c", true));
        }
        let (_, first, going) = names(&all(4));
        assert_eq!(first, "a b");
        let kept = ["b", "c", "d"].map(|it| it.parse().unwrap()).into();
        let later = published(5, &["b", "c", "d"].map(|it| named(it, 5, 1)));
        drop(going);
        let next = Work { dropped: Some(kept), ..work(&later, &["b", "c", "d"]) };
        let next = session.respond(next, &encoded).0.unwrap().decoded();
        let of: Vec<_> = next.services.iter().map(|it| (it.name.as_str(), it.base)).collect();
        assert_eq!(of, [("b.default", 4), ("c.default", 3), ("d.default", 0)], "each as it was told last");
    }

    #[test]
    fn what_was_taken_back_is_not_told_and_the_base_stays() {
        let (encoded, mut one) = (Encoded::default(), Session::default());
        told(&mut one, &encoded, &published(3, &[users(3, 1)])).unwrap();
        assert!(told(&mut one, &encoded, &published(5, &[users(5, 1)])).is_none());
        let message = told(&mut one, &encoded, &published(7, &[users(7, 2)])).unwrap().decoded();
        assert_eq!(message.services[0].base, 3);
    }

    #[test]
    fn a_removal_that_nobody_can_explain_makes_the_answer_full() {
        let (encoded, mut one, mut other) = (Encoded::default(), Session::default(), Session::default());
        told(&mut one, &encoded, &published(3, &[users(3, 2)])).unwrap();
        let second = published(5, &[users(5, 1)]);
        let (full, first) = (told(&mut one, &encoded, &second), told(&mut other, &encoded, &second));
        assert_eq!(full.unwrap().services, first.unwrap().services);
    }

    #[test]
    fn an_empty_set_that_is_not_listed_is_made_up_anew() {
        let (encoded, mut one, mut other) = (Encoded::default(), Session::default(), Session::default());
        let mut warming = published(3, &[]);
        Arc::make_mut(&mut warming).warming = true;
        let first = told(&mut one, &encoded, &warming).unwrap().decoded();
        let second = told(&mut other, &encoded, &published(3, &[])).unwrap().decoded();
        assert_eq!((first.services[0].authoritative, second.services[0].authoritative), (false, true));
    }

    #[test]
    fn what_a_message_has_no_room_for_is_first_in_the_next() {
        let (encoded, mut session) = (Encoded::default(), Session::default());
        let large = |name: &str, version| {
            let mut service = ServiceSnapshot { name: name.parse().unwrap(), ..(*users(version, 1)).clone() };
            let mut instance = (**service.instances.values().next().unwrap()).clone();
            instance.reason = format!("{version}").repeat(200_000);
            service.instances.insert(instance.id, Arc::new(instance));
            Arc::new(service)
        };
        let mut respond = |version| {
            let services = ["a", "b", "c"].map(|name| large(name, version));
            let published = published(version, &services);
            let work = Work { complete: true, ..work(&published, &["a", "b", "c"]) };
            let (message, left) = session.respond(work, &encoded);
            let message = message.unwrap().decoded();
            let names: Vec<String> = message.services.iter().map(|it| it.name.clone()).collect();
            (message.version, message.complete, names.join(" "), left.unwrap().services.len())
        };
        assert_eq!(respond(2), (1, false, "a.default b.default".to_owned(), 1));
        assert_eq!(respond(3), (1, false, "c.default a.default".to_owned(), 1), "all changed meanwhile");
        assert_eq!(respond(4), (1, false, "b.default c.default".to_owned(), 1));
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let encoded = Encoded::default();
        for version in 1..200_u64 {
            let now = users(version + 1, (version % 7) as u8 + 1);
            let all = published(version + 1, std::slice::from_ref(&now));
            let looked = Looked::at(&now.name, &all);
            for from in version.saturating_sub(40)..=version {
                encoded.step(&users(from, (from % 7) as u8), &looked, &all);
            }
            encoded.full(&looked);
            let kept = encoded.kept();
            let counted: usize = kept.services.values().map(Latest::bytes).sum();
            assert_eq!(kept.bytes, counted);
            assert!(kept.services.values().all(|it| it.steps.len() <= STEPS) && kept.services.len() == 1);
        }
    }
}
