//! Claims and addresses under any order of events: whose a name is, what is routed to whom, who is where.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weft_model::{Endpoint, GrpcService, Instance, Locality, Method, Protocol, ServiceInfo, Transport, Weight};

use super::*;
use crate::{
    catalog::state::{At, Claim, Kept},
    schema::Template,
};

const SERVICES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Event {
    /// Instance, its service, its set.
    Register(u8, usize, u8),
    Leave(u8),
    Put(u8),
    Move(u8, usize),
    Release(u8),
    Hours(u64),
    Restart,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0..6_u8, 0..SERVICES.len(), 0..6_u8).prop_map(|(n, service, set)| Event::Register(n, service, set)),
        3 => (0..6_u8).prop_map(Event::Leave),
        3 => (0..6_u8).prop_map(Event::Put),
        1 => (0..8_u8, 0..SERVICES.len()).prop_map(|(name, to)| Event::Move(name, to)),
        1 => (0..8_u8).prop_map(Event::Release),
        1 => (0..30_u64).prop_map(Event::Hours),
        1 => Just(Event::Restart),
    ]
}

/// Set n has two of four gRPC services, and each of these two of four templates.
fn set(n: u8) -> DescriptorSet {
    let two = [n % 4, (n + 1 + n / 4) % 4];
    let service = |k: u8| GrpcService {
        name: name(k),
        methods: vec![Method {
            name: format!("M{n}"),
            client_streaming: false,
            server_streaming: false,
            idempotent: true,
            missing_in: Vec::new(),
        }],
    };
    let template = |k: u8, t: u8| Template { service: name(k), method: format!("M{n}"), claim: name(4 + t % 4) };
    let mut templates: Vec<Template> =
        two.iter().flat_map(|k| [template(*k, k + n), template(*k, k + n + 1)]).collect();
    templates.sort();
    DescriptorSet {
        served: BTreeSet::new(),
        digest: Digest([n; 32]),
        files: Vec::new(),
        services: two.iter().map(|k| service(*k)).collect(),
        templates,
        age: 0,
    }
}

fn name(n: u8) -> String {
    if n < 4 { format!("g.S{n}") } else { format!("GET /t{n}") }
}

fn instance(n: u8, service: usize, set: u8) -> Instance {
    Instance {
        id: InstanceId::from_bytes([n + 1; 16]),
        service: SERVICES[service].parse().unwrap(),
        epoch: Epoch(0),
        endpoint: Endpoint {
            address: ([127, 0, 0, 1], 1_000 + u16::from(n)).into(),
            transport: Transport::Plaintext,
            protocol: Protocol::H2,
        },
        status: Status::Serving,
        reason: String::new(),
        locality: Locality::default(),
        weight: Weight::ONE,
        metadata: Default::default(),
        descriptors: Some(Digest([set; 32])),
        check: None,
    }
}

fn step(state: &State, wall: SystemTime, change: Change) -> State {
    let nobody = |_: &InstanceId| true;
    let mut draft = Draft::new(state, wall, &nobody);
    drop(draft.apply(change)); // a refusal leaves it as it was
    draft.finish().0
}

fn restarted(state: &State) -> State {
    let kept = Kept {
        records: state.records.values().map(|it| Record::clone(it)).collect(),
        tombstones: Vec::new(),
        claims: state.claims.iter().map(|(name, claim)| (name.clone(), claim.clone())).collect(),
        sets: state.sets.values().map(|it| DescriptorSet::clone(it)).collect(),
        retired: state.retired.iter().map(|(digest, it)| (*digest, it.clone())).collect(),
        policies: state.policies.clone(),
    };
    State::restore(state.generation() + 1, kept)
}

fn infos(state: &State) -> impl Iterator<Item = (&ServiceName, &ServiceInfo)> {
    state.snapshot.services.iter().map(|(name, it)| (name, it.info.as_ref()))
}

/// The names that are routed to a service: those of its live sets, less what it was refused.
fn routed(state: &State, service: &ServiceName, info: &ServiceInfo) -> BTreeSet<String> {
    let refused = |name: &str| info.refused.iter().any(|it| it.name == name);
    let owned = |name: &str| info.grpc_services.iter().any(|it| it.name == name);
    let sets = state.sets_of(service);
    let names = sets.iter().flat_map(|set| {
        let grpc = set.services.iter().filter(|it| owned(&it.name)).map(|it| it.name.clone());
        let templates = set.templates.iter().filter(|it| owned(&it.service)).map(|it| it.claim.clone());
        grpc.chain(templates).collect::<Vec<_>>()
    });
    names.filter(|name| !refused(name)).collect()
}

fn declares(state: &State, service: &ServiceName, name: &str) -> bool {
    state.sets_of(service).iter().any(|set| set.names().contains(name))
}

proptest! {
    #[test]
    fn a_name_is_routed_to_one_service_and_changes_hands_by_an_operators_word_only(
        events in proptest::collection::vec(event(), 1..60),
    ) {
        let mut wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut state = State::restore(1, Kept::default());
        for event in events {
            let before = state.clone();
            state = match &event {
                Event::Register(n, service, set) => {
                    let instance = Box::new(instance(*n, *service, *set));
                    step(&state, wall, Change::Register { instance, ttl: LeaseTtl::DEFAULT })
                }
                Event::Leave(n) => {
                    let id = InstanceId::from_bytes([*n + 1; 16]);
                    let epoch = state.records.get(&id).map_or(Epoch(0), |record| record.instance.epoch);
                    step(&state, wall, Change::Deregister { id, word: Word::Owner(epoch) })
                }
                Event::Put(n) => step(&state, wall, Change::PutDescriptors { set: Box::new(set(*n)), by: None }),
                Event::Move(n, to) => {
                    step(&state, wall, Change::MoveClaim { name: name(*n), to: SERVICES[*to].parse().unwrap() })
                }
                Event::Release(n) => step(&state, wall, Change::ReleaseClaim { name: name(*n) }),
                Event::Hours(hours) => {
                    wall += Duration::from_secs(hours * 3_600);
                    step(&state, wall, Change::Forget)
                }
                Event::Restart => restarted(&state),
            };
            let mut owners: BTreeMap<String, &ServiceName> = BTreeMap::new();
            for (service, info) in infos(&state) {
                for name in routed(&state, service, info) {
                    prop_assert_eq!(
                        &state.claims[&name].holder, service, "{} is routed to who does not hold it after {:?}", name, event
                    );
                    prop_assert_eq!(owners.insert(name, service), None);
                }
                prop_assert_eq!(info, &state.info(service), "what is told is not what is after {:?}", event);
            }
            for (name, Claim { holder, placed }) in &before.claims {
                let now = state.claims.get(name);
                let same = now.is_some_and(|now| now.holder == *holder);
                match event {
                    Event::Move(..) | Event::Release(_) => {}
                    Event::Hours(_) if !placed && !declares(&state, holder, name) => {}
                    _ => prop_assert!(same, "{name} of {holder} became {now:?} after {event:?}"),
                }
            }
        }
    }
}

/// Who is at an address, by looking at everybody.
fn found_by_walking(state: &State, new: &Instance) -> Option<InstanceId> {
    let service = state.snapshot.services.get(&new.service)?;
    let there = |it: &&Arc<Instance>| it.endpoint.address == new.endpoint.address && it.id != new.id;
    service.instances.values().find(there).map(|it| it.id)
}

proptest! {
    #[test]
    fn an_address_has_one_holder_a_service_and_the_index_knows_it(
        events in proptest::collection::vec((0..6_u8, 0..2_usize, 0..4_u8, any::<bool>(), 0..4_u8), 1..60),
    ) {
        let mut state = State::restore(1, Kept::default());
        for (n, service, port, silent, what) in events {
            let mut new = instance(n, service, 0);
            new.endpoint.address = ([127, 0, 0, 1], 1_000 + u16::from(port)).into();
            let (known, holder) = (state.records.get(&new.id).cloned(), found_by_walking(&state, &new));
            let lapsed = |_: &InstanceId| silent;
            let mut draft = Draft::new(&state, SystemTime::UNIX_EPOCH, &lapsed);
            if what == 0 {
                draft.deregister(new.id, Word::Operator).unwrap();
                draft.next.tombstones.clear();
            } else {
                let answer = draft.register(new.clone(), LeaseTtl::DEFAULT);
                if known.is_some_and(|it| it.instance.service != new.service) {
                    prop_assert!(matches!(answer, Err(ChangeError::Invalid(_))), "{answer:?}");
                } else {
                    match holder {
                        Some(it) if !silent => prop_assert!(
                            matches!(&answer, Err(ChangeError::Held { holder, .. }) if *holder == it), "{answer:?}"
                        ),
                        Some(it) => prop_assert!(answer.is_ok() && !draft.next.records.contains_key(&it)),
                        None => prop_assert!(answer.is_ok(), "{answer:?}"),
                    }
                }
            }
            state = draft.finish().0;
            let all = state.records.values().map(|it| (At::of(&it.instance), it.instance.id)).collect();
            prop_assert_eq!(&state.addresses, &all);
            prop_assert_eq!(restarted(&state).addresses, all);
        }
    }
}

#[test]
fn what_instances_have_in_common_is_in_memory_once() {
    let at = |(n, zone): (u8, &str)| Instance { locality: Locality::new("eu", zone, ""), ..instance(n, 0, 0) };
    let all = || [(1, "a"), (2, "a"), (3, "b")].map(at);
    let mut registered = State::restore(1, Kept::default());
    for instance in all() {
        let change = Change::Register { instance: Box::new(instance), ttl: LeaseTtl::DEFAULT };
        registered = step(&registered, SystemTime::UNIX_EPOCH, change);
    }
    let records = all().map(|it| Record::new(it, LeaseTtl::DEFAULT, None)).into();
    for state in [registered, State::restore(1, Kept { records, ..Kept::default() })] {
        let all: Vec<&Instance> = state.records.values().map(|it| it.instance.as_ref()).collect();
        let shared = |text: fn(&Instance) -> &str| std::ptr::eq(text(all[0]), text(all[1]));
        assert!(shared(|it| it.service.full()) && shared(|it| it.locality.zone()));
        assert_eq!(all[2].locality, Locality::new("eu", "b", ""));
    }
}

#[test]
fn places_at_which_nobody_is_any_more_are_forgotten_once_they_are_many() {
    let mut state = State::restore(1, Kept::default());
    for n in 0..1_100 {
        let here = Instance { locality: Locality::new("eu", n.to_string(), ""), ..instance(1, 0, 0) };
        let change = Change::Register { instance: Box::new(here), ttl: LeaseTtl::DEFAULT };
        state = step(&state, SystemTime::UNIX_EPOCH, change);
    }
    assert_eq!(state.places.len(), 1_100);
    state = step(&state, SystemTime::UNIX_EPOCH, Change::Forget);
    assert_eq!(state.places.iter().collect::<Vec<_>>(), [&Locality::new("eu", "1099", "")]);
}

#[test]
fn what_there_is_for_each_instance_is_small() {
    assert!(size_of::<Instance>() <= 200 && size_of::<Record>() <= 24 && size_of::<At>() == 18);
}
