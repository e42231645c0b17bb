//! What watchers are told of services, encoded once for all of them.
//!
//! Lives here: full answers and the steps from one version of a service to a later one, as bytes. Does not: who is told which (`session`).
//! A version of a listed service is one content, so a step between two versions is the same for everybody who takes it; only `base` is a watcher's own.
//! Bounds: of each service what leads to its latest version, from [`STEPS`] earlier ones; [`KEPT`] bytes in all.
//! A delta applies to what the message `base` left behind. A removal whose reason is no longer known makes the answer full.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    views::body::{Part, Pieces},
};

/// Earlier versions of a service that steps are kept from: readers are rarely at more, and each one further costs its own encoding only.
const STEPS: usize = 16;
/// Bytes that are kept; when they are exceeded all are dropped and made anew as they are needed.
const KEPT: usize = 32 << 20;

/// Field 2 of a WatchResponse and of a ListResponse, `services`.
const SERVICES: u8 = 2 << 3 | 2;
/// Field 2 of a ServiceUpdate, `base`.
const BASE: u8 = 2 << 3;

/// An update of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::views) struct Told {
    /// 0 with a full one.
    pub(super) base: Version,
    /// All of it but `base`.
    pub(super) bytes: Bytes,
}

impl Part for Told {
    fn head(&self, out: &mut BytesMut) {
        let based = self.base.0 > 0;
        let base = if based { 1 + prost::encoding::encoded_len_varint(self.base.0) } else { 0 };
        out.put_u8(SERVICES);
        prost::encode_length_delimiter(base + self.bytes.len(), out).expect("a growing buffer has room");
        if based {
            out.put_u8(BASE);
            prost::encoding::encode_varint(self.base.0, out);
        }
    }

    fn bytes(&self) -> &Bytes {
        &self.bytes
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
    /// The message as it is sent.
    pub(in crate::views) fn pieces(self) -> Result<Pieces<Told>, Status> {
        let envelope = |out: &mut BytesMut| self.envelope.encode(out).expect("a growing buffer has room");
        Pieces::of(envelope, self.services)
    }

    /// The message as its reader has it.
    pub(super) fn decoded(&self) -> WatchResponse {
        let mut all = BytesMut::new();
        self.envelope.encode(&mut all).expect("a growing buffer has room");
        for service in &self.services {
            service.head(&mut all);
            all.put_slice(&service.bytes);
        }
        WatchResponse::decode(all.freeze()).expect("what was encoded here can be read")
    }
}

/// What leads from one version of a service to a later one.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A reader would see no difference; the version alone is none.
    Nothing,
    Delta(Bytes),
    Full(Bytes),
}

#[derive(Debug)]
struct Latest {
    version: Version,
    full: Option<Bytes>,
    steps: Vec<(Version, Step)>,
}

impl Latest {
    fn bytes(&self) -> usize {
        let steps = self.steps.iter().map(|(_, step)| match step {
            Step::Nothing | Step::Full(_) => 0,
            Step::Delta(bytes) => bytes.len(),
        });
        self.full.as_ref().map_or(0, Bytes::len) + steps.sum::<usize>()
    }
}

#[derive(Debug, Default)]
struct Kept {
    services: HashMap<ServiceName, Latest>,
    bytes: usize,
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
    pub(super) fn full(&self, looked: &Looked) -> Bytes {
        let Looked { service, listed } = looked;
        let listed = *listed;
        let known = if listed { self.kept().at(service).and_then(|it| it.full.clone()) } else { None };
        known.unwrap_or_else(|| {
            let bytes = Bytes::from(service_update_full(service).encode_to_vec());
            let mut kept = self.kept();
            if let Some(latest) = kept.at(service).filter(|it| listed && it.full.is_none()) {
                latest.full = Some(bytes.clone());
                kept.bytes += bytes.len();
            }
            bytes
        })
    }

    /// All of a service, for one who asks once: nothing is kept for it.
    pub(super) fn once(&self, service: &Arc<ServiceSnapshot>, published: &Published) -> Told {
        let listed = published.snapshot.services.get(&service.name).is_some_and(|listed| Arc::ptr_eq(listed, service));
        let known = if listed { self.kept().at(service).and_then(|it| it.full.clone()) } else { None };
        let bytes = known.unwrap_or_else(|| service_update_full(service).encode_to_vec().into());
        Told { base: Version(0), bytes }
    }

    /// What leads from `before` to what was looked up in `published`.
    pub(super) fn step(&self, before: &ServiceSnapshot, looked: &Looked, published: &Published) -> Step {
        let (now, listed) = (&looked.service, looked.listed);
        let of = |latest: &mut Latest| {
            let step = latest.steps.iter().find(|(from, _)| *from == before.version);
            step.map(|(_, step)| step.clone())
        };
        let known = if listed { self.kept().at(now).and_then(of) } else { None };
        known.unwrap_or_else(|| {
            let step = match delta(before, now, published) {
                None => Step::Full(self.full(looked)),
                Some(update) if says_nothing(&update, before) => Step::Nothing,
                Some(update) => Step::Delta(update.encode_to_vec().into()),
            };
            let mut kept = self.kept();
            if let Some(latest) = kept.at(now).filter(|it| listed && it.steps.len() < STEPS) {
                latest.steps.push((before.version, step.clone()));
                if let Step::Delta(bytes) = &step {
                    kept.bytes += bytes.len();
                }
            }
            step
        })
    }
}

fn says_nothing(update: &ServiceUpdate, before: &ServiceSnapshot) -> bool {
    let empty = matches!(&update.body, Some(Body::Delta(it)) if it.upserted.is_empty() && it.removed.is_empty());
    empty && update.authoritative == before.authoritative && update.info.is_none() && update.policies.is_none()
}

/// The difference, without its base.
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
        base: 0,
        body: Some(Body::Delta(delta)),
        authoritative: now.authoritative,
        info: (before.info != now.info).then(|| now.info.as_ref().into()),
        policies: (before.policies != now.policies).then(|| service_policies(&now.policies)),
    })
}

#[cfg(test)]
mod tests {
    use weft_model::{
        Endpoint, Epoch, Instance, InstanceId, Locality, Protocol, Snapshot, Status as Health, Transport, Weight,
    };

    use super::*;
    use crate::views::watch::{Work, session::Session};

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

    fn told(session: &mut Session, encoded: &Encoded, published: &Arc<Published>) -> Option<Message> {
        let work = Work {
            published: published.clone(),
            before: Version(0),
            services: vec![Looked::at(&"users".parse().unwrap(), published)],
            forgotten: Default::default(),
            directory: false,
            complete: false,
            greet: false,
        };
        session.respond(work, encoded).0
    }

    #[test]
    fn what_many_are_told_is_encoded_once_and_each_has_its_own_base() {
        let (encoded, mut one, mut other) = (Encoded::default(), Session::default(), Session::default());
        let first = users(3, 1);
        let a = told(&mut one, &encoded, &published(3, std::slice::from_ref(&first))).unwrap();
        let b = told(&mut other, &encoded, &published(4, &[first])).unwrap();
        assert_eq!(a.services[0].bytes.as_ptr(), b.services[0].bytes.as_ptr());
        let second = published(9, &[users(9, 3)]);
        let (a, b) = (told(&mut one, &encoded, &second).unwrap(), told(&mut other, &encoded, &second).unwrap());
        assert_eq!(a.services[0].bytes.as_ptr(), b.services[0].bytes.as_ptr());
        let (a, mut b) = (a.decoded(), b.decoded());
        assert_eq!((a.services[0].base, b.services[0].base), (3, 4));
        b.services[0].base = 3;
        assert_eq!(a, b);
        let Some(Body::Delta(delta)) = &a.services[0].body else { panic!("{a:?}") };
        assert_eq!((delta.upserted.len(), delta.removed.len()), (2, 0));
        assert!(told(&mut one, &encoded, &second).is_none(), "it has that");
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
            let work = Work {
                services: services.iter().map(|it| Looked::at(&it.name, &published)).collect(),
                published,
                before: Version(1),
                forgotten: Default::default(),
                directory: false,
                complete: true,
                greet: false,
            };
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
