//! Tests of the state machine: single rules, then random histories of a registry against a model of what a consumer must see.

use proptest::prelude::*;
use weft_proto::weft::model::v1 as wire;

use super::*;

fn name(service: &str) -> ServiceName {
    service.parse().unwrap()
}

fn instance(service: &str, number: u32, weight: u32) -> wire::Instance {
    wire::Instance {
        id: id(number),
        service: service.into(),
        endpoint: Some(wire::Endpoint {
            address: format!("127.0.0.1:{}", 1_000 + number),
            transport: Some((&weft_model::Transport::Plaintext).into()),
            protocol: wire::Protocol::H2.into(),
        }),
        status: wire::Status::Serving.into(),
        weight,
        ..Default::default()
    }
}

fn id(number: u32) -> String {
    format!("0197a1b2-0000-7000-8000-{:012}", number + 1)
}

fn full(service: &str, instances: &[wire::Instance]) -> pb::ServiceUpdate {
    pb::ServiceUpdate {
        name: service.into(),
        body: Some(pb::service_update::Body::Full(pb::Full { instances: instances.to_vec() })),
        authoritative: true,
        ..Default::default()
    }
}

fn delta(service: &str, base: u64, upserted: &[wire::Instance], removed: &[u32]) -> pb::ServiceUpdate {
    let removed = removed.iter().map(|number| pb::Removed { id: id(*number), why: 1 }).collect();
    pb::ServiceUpdate {
        name: service.into(),
        base,
        body: Some(pb::service_update::Body::Delta(pb::Delta { upserted: upserted.to_vec(), removed })),
        authoritative: true,
        ..Default::default()
    }
}

fn doubtful(update: pb::ServiceUpdate) -> pb::ServiceUpdate {
    pb::ServiceUpdate { authoritative: false, ..update }
}

#[test]
fn a_registry_that_tells_no_versions_of_services_bases_its_deltas_on_its_messages() {
    let mut state = watching_all();
    let without = |message: pb::WatchResponse| {
        let services = message.services.into_iter().map(|it| pb::ServiceUpdate { version: 0, ..it }).collect();
        pb::WatchResponse { services, ..message }
    };
    let put = |number| instance("users", number, 100);
    publish(&mut state, without(message(5, [full("users", &[put(1)])])));
    publish(&mut state, without(message(7, [delta("users", 5, &[put(2)], &[])])));
    assert!(matches!(state.apply(without(message(9, [delta("users", 5, &[put(3)], &[])]))), Err(Misfit::Base { .. })));
}

fn message(version: u64, services: impl IntoIterator<Item = pb::ServiceUpdate>) -> pb::WatchResponse {
    let services = services.into_iter().map(|it| pb::ServiceUpdate { version, ..it }).collect();
    pb::WatchResponse { version, services, ..Default::default() }
}

/// As `message`, with which the registry has named every service there is.
fn complete(version: u64, services: impl IntoIterator<Item = pb::ServiceUpdate>) -> pb::WatchResponse {
    pb::WatchResponse { complete: true, ..message(version, services) }
}

fn watching_all() -> State {
    let mut state = State::default();
    let _ = state.set_topics([Topic::All, Topic::Directory].into());
    state.stream_opened();
    state
}

/// Applies what must fit and must reach the consumer.
fn publish(state: &mut State, message: pb::WatchResponse) {
    assert_eq!(state.apply(message), Ok(Change::Published));
}

/// Ports of a service's instances as the consumer sees them, less 1,000.
fn seen(state: &State, service: &str) -> Vec<u32> {
    let service = state.snapshot().services.get(&name(service));
    let ports = service.into_iter().flat_map(|service| service.instances.values());
    ports.map(|instance| u32::from(instance.endpoint.address.port()) - 1_000).collect()
}

/// The update with these policies, each refusing everybody.
fn ruled(update: pb::ServiceUpdate, names: &[&str]) -> pb::ServiceUpdate {
    let policy = |name: &&str| weft_proto::weft::policy::v1::Policy {
        name: (*name).into(),
        service: update.name.clone(),
        version: 1,
        kind: Some(weft_proto::weft::policy::v1::policy::Kind::Access(Default::default())),
    };
    let policies = Some(pb::ServicePolicies { policies: names.iter().map(policy).collect() });
    pb::ServiceUpdate { policies, ..update }
}

fn rules(state: &State, service: &str) -> Vec<String> {
    let service = state.snapshot().services.get(&name(service));
    service.into_iter().flat_map(|it| it.policies.iter()).map(|it| it.name.to_string()).collect()
}

#[test]
fn policies_stay_until_a_registry_says_otherwise() {
    let mut state = watching_all();
    publish(&mut state, message(5, [ruled(full("users", &[instance("users", 1, 1)]), &["a", "b"])]));
    publish(&mut state, message(6, [delta("users", 5, &[instance("users", 2, 1)], &[])]));
    assert_eq!(rules(&state, "users"), ["a", "b"]);
    let kept = state.snapshot().services[&name("users")].policies.clone();
    state.stream_opened();
    publish(&mut state, message(7, [ruled(full("users", &[instance("users", 1, 1)]), &["a", "b"])]));
    assert!(
        Arc::ptr_eq(&kept, &state.snapshot().services[&name("users")].policies),
        "told again, the same are the same"
    );
    state.stream_opened();
    publish(&mut state, message(8, [full("users", &[instance("users", 1, 1)])]));
    assert_eq!(rules(&state, "users"), ["a", "b"], "a registry that knows of no policies says nothing about them");
    publish(&mut state, message(9, [ruled(delta("users", 8, &[], &[]), &["b"])]));
    assert_eq!(rules(&state, "users"), ["b"]);
    publish(&mut state, message(10, [ruled(delta("users", 9, &[], &[]), &[])]));
    assert_eq!(rules(&state, "users"), [""; 0]);
}

#[test]
fn a_registry_that_lost_its_store_takes_no_policies_away_while_it_is_not_sure() {
    let mut state = watching_all();
    publish(&mut state, message(5, [ruled(full("users", &[instance("users", 1, 1)]), &["a"])]));
    state.stream_opened();
    publish(&mut state, message(6, [doubtful(ruled(full("users", &[]), &[]))]));
    assert_eq!((rules(&state, "users"), seen(&state, "users")), (vec!["a".to_owned()], vec![1]));
    publish(&mut state, message(7, [ruled(full("users", &[]), &[])]));
    assert_eq!(rules(&state, "users"), [""; 0]);
}

#[test]
fn policies_are_remembered_across_a_restart_without_a_registry() {
    let mut first = watching_all();
    publish(&mut first, message(5, [ruled(full("users", &[instance("users", 1, 1)]), &["a"])]));
    let mut second = State::default();
    second.remember(first.last_good()).unwrap();
    let _ = second.set_topics([Topic::Service(name("users"))].into());
    assert_eq!(second.fall_back(), Change::Published);
    assert_eq!(rules(&second, "users"), ["a"]);
}

#[test]
fn deltas_apply_to_the_version_of_the_service_that_was_told_last() {
    let mut state = watching_all();
    publish(&mut state, message(5, [full("users", &[instance("users", 1, 1)])]));
    publish(&mut state, message(7, [full("posts", &[])]));
    let mut later = message(8, [delta("users", 5, &[instance("users", 2, 1)], &[])]);
    later.services[0].version = 6; // the message is of a snapshot that changed something else since
    publish(&mut state, later);
    publish(&mut state, message(9, [delta("users", 6, &[], &[1])]));
    assert_eq!(seen(&state, "users"), [2]);
    assert_eq!(state.snapshot().version, Version(9));
}

#[test]
fn a_delta_on_another_base_changes_nothing_and_asks_for_a_new_stream() {
    let mut state = watching_all();
    publish(&mut state, message(5, [full("users", &[instance("users", 1, 1)])]));
    let before = state.snapshot().clone();
    let mixed = message(8, [full("posts", &[instance("posts", 9, 1)]), delta("users", 4, &[], &[1])]);
    assert!(matches!(state.apply(mixed), Err(Misfit::Base { .. })));
    assert_eq!(*state.snapshot(), before);
    assert!(matches!(state.apply(message(8, [delta("new", 0, &[], &[])])), Err(Misfit::Base { at: None, .. })));
}

#[test]
fn a_delta_sent_before_the_registry_heard_of_an_unsubscription_is_no_misfit() {
    let mut state = watching_all();
    publish(&mut state, message(5, [full("users", &[instance("users", 1, 1)])]));
    let _ = state.set_topics(BTreeSet::new());
    let _ = state.set_topics(BTreeSet::from([Topic::All]));
    publish(&mut state, message(6, [delta("users", 5, &[instance("users", 2, 1)], &[])]));
    assert!(seen(&state, "users").is_empty());
    publish(&mut state, message(7, [full("users", &[instance("users", 2, 1)])]));
    publish(&mut state, message(8, [delta("users", 7, &[instance("users", 3, 1)], &[])]));
    assert_eq!(seen(&state, "users"), [2, 3]);
    assert!(matches!(state.apply(message(9, [delta("users", 7, &[], &[2])])), Err(Misfit::Base { .. })));
}

#[test]
fn a_version_that_falls_within_a_stream_is_a_misfit() {
    let mut state = watching_all();
    publish(&mut state, message(5, []));
    assert!(matches!(state.apply(message(4, [])), Err(Misfit::VersionFell { .. })));
}

#[test]
fn a_new_stream_takes_nothing_away_until_it_says_so() {
    let mut state = watching_all();
    publish(
        &mut state,
        message(5, [full("users", &[instance("users", 1, 1)]), full("posts", &[instance("posts", 2, 1)])]),
    );
    state.stream_opened();
    publish(&mut state, message(6, [full("posts", &[instance("posts", 3, 1)])]));
    assert_eq!((seen(&state, "users"), seen(&state, "posts")), (vec![1], vec![3]));
}

#[test]
fn a_service_that_a_complete_message_does_not_name_is_gone() {
    let mut state = watching_all();
    let [users, posts] = ["users", "posts"].map(|service| full(service, &[instance(service, 1, 1)]));
    publish(&mut state, message(5, [users.clone(), posts.clone()]));
    state.stream_opened();
    publish(&mut state, message(6, [posts.clone()]));
    assert_eq!(seen(&state, "users"), [1], "a registry that has just started may not know it yet");
    assert!(!state.snapshot().complete);
    publish(&mut state, complete(6, []));
    assert!(state.snapshot().complete);
    assert_eq!((seen(&state, "users"), seen(&state, "posts")), (vec![], vec![1]), "named before on this stream");
    assert!(!state.snapshot().services.contains_key(&name("users")));
    assert_eq!(state.last_good().services.len(), 1, "it does not come back from the disk either");
    publish(&mut state, complete(7, [users]));
    assert_eq!((seen(&state, "users"), seen(&state, "posts")), (vec![1], vec![1]), "later ones say what changed");
}

#[test]
fn a_complete_message_of_a_registry_that_is_behind_counts_once_it_is_not() {
    let [users, posts] = ["users", "posts"].map(|service| full(service, &[instance(service, 1, 1)]));
    let behind = || {
        let mut state = watching_all();
        publish(&mut state, message(10, [users.clone(), posts.clone()]));
        state.stream_opened();
        assert_eq!(state.apply(complete(2, [posts.clone()])), Ok(Change::Nothing));
        assert_eq!((seen(&state, "users"), state.snapshot().complete), (vec![1], false));
        state
    };
    let mut adopted = behind();
    assert_eq!(adopted.adopt(), Change::Published);
    assert_eq!((seen(&adopted, "users"), seen(&adopted, "posts")), (vec![], vec![1]));
    let mut caught_up = behind();
    publish(&mut caught_up, complete(11, []));
    assert_eq!((seen(&caught_up, "users"), seen(&caught_up, "posts")), (vec![], vec![1]));
}

#[test]
fn a_complete_message_for_a_star_that_was_dropped_meanwhile_takes_nothing_away() {
    let mut state = watching_all();
    publish(&mut state, message(5, [full("users", &[instance("users", 1, 1)])]));
    let _ = state.set_topics(BTreeSet::new());
    let _ = state.set_topics(BTreeSet::from([Topic::All]));
    publish(&mut state, complete(5, []));
    assert_eq!(state.last_good().services.len(), 1);
    assert_eq!(state.fall_back(), Change::Published);
    assert_eq!(seen(&state, "users"), [1]);
}

#[test]
fn what_did_not_change_stays_the_same_arc_through_a_reconnect() {
    let mut state = watching_all();
    let everything = |version| {
        message(version, [full("users", &[instance("users", 1, 1)]), full("posts", &[instance("posts", 2, 1)])])
    };
    publish(&mut state, everything(5));
    let before = state.snapshot().clone();
    state.stream_opened();
    publish(&mut state, everything(6));
    for (name, service) in &before.services {
        assert!(Arc::ptr_eq(service, &state.snapshot().services[name]), "{name}");
    }
    publish(&mut state, message(7, [delta("users", 6, &[instance("users", 5, 1)], &[])]));
    let (old, new) = (&before.services[&name("users")], &state.snapshot().services[&name("users")]);
    let first: InstanceId = id(1).parse().unwrap();
    assert!(Arc::ptr_eq(&old.instances[&first], &new.instances[&first]));
}

#[test]
fn an_empty_set_that_is_not_meant_keeps_the_last_good_one() {
    let mut state = watching_all();
    publish(&mut state, message(5, [full("users", &[instance("users", 1, 1)])]));
    state.stream_opened();
    publish(&mut state, message(6, [doubtful(full("users", &[]))]));
    assert_eq!(seen(&state, "users"), [1]);
    assert!(!state.snapshot().services[&name("users")].authoritative);
    publish(&mut state, message(7, [delta("users", 6, &[instance("users", 2, 1)], &[])]));
    assert_eq!(seen(&state, "users"), [2], "the delta applies to what the stream said, not to what was kept");
    publish(&mut state, message(8, [delta("users", 7, &[], &[2])]));
    assert!(seen(&state, "users").is_empty(), "an authoritative empty set is obeyed at once");
}

#[test]
fn a_registry_that_is_behind_changes_nothing_until_it_has_caught_up() {
    let mut state = watching_all();
    publish(&mut state, message(10, [full("users", &[instance("users", 1, 1), instance("users", 2, 1)])]));
    state.stream_opened();
    assert_eq!(state.apply(message(8, [full("users", &[instance("users", 1, 1)])])), Ok(Change::Nothing));
    assert!(state.is_behind());
    assert_eq!((seen(&state, "users"), state.snapshot().version), (vec![1, 2], Version(10)));
    publish(&mut state, message(9, [full("posts", &[instance("posts", 3, 1)])]));
    assert_eq!(state.snapshot().version, Version(10), "a service we had nothing of comes at once");
    publish(&mut state, message(11, [full("orders", &[])]));
    assert!(!state.is_behind());
    assert_eq!((seen(&state, "users"), state.snapshot().version), (vec![1], Version(11)));
}

#[test]
fn a_registry_that_stays_behind_can_be_adopted() {
    let mut state = watching_all();
    publish(&mut state, message(10, [full("users", &[instance("users", 1, 1)])]));
    state.stream_opened();
    assert_eq!(state.apply(message(2, [full("users", &[instance("users", 7, 1)])])), Ok(Change::Nothing));
    assert_eq!(state.adopt(), Change::Published);
    assert_eq!((seen(&state, "users"), state.snapshot().version), (vec![7], Version(2)));
}

#[test]
fn what_is_not_subscribed_any_more_leaves_and_comes_back_only_without_a_registry() {
    let mut state = State::default();
    let users = BTreeSet::from([Topic::Service(name("users"))]);
    let _ = state.set_topics(users.clone());
    state.stream_opened();
    publish(
        &mut state,
        message(5, [full("users.default", &[instance("users", 1, 1)]), full("posts", &[instance("posts", 2, 1)])]),
    );
    assert_eq!((seen(&state, "users"), seen(&state, "posts")), (vec![1], vec![]), "what nobody subscribed is left out");
    assert_eq!(state.set_topics(BTreeSet::new()), Change::Published);
    assert!(seen(&state, "users").is_empty());
    let _ = state.set_topics(users);
    assert!(seen(&state, "users").is_empty(), "with a registry, its word is awaited");
    assert_eq!(state.fall_back(), Change::Published);
    assert_eq!(seen(&state, "users"), [1]);
    assert_eq!(state.fall_back(), Change::Nothing);
}

#[test]
fn what_was_known_survives_the_way_over_the_disk() {
    let mut state = watching_all();
    let entry = pb::directory::Entry { name: "users".into(), info: Some(wire::ServiceInfo::default()) };
    let directory = Some(pb::Directory { services: vec![entry] });
    publish(&mut state, pb::WatchResponse { directory, ..message(5, [full("users", &[instance("users", 1, 1)])]) });
    let mut later = watching_all();
    later.remember(state.last_good()).unwrap();
    assert!(seen(&later, "users").is_empty());
    assert_eq!(later.fall_back(), Change::Published);
    assert_eq!(later.snapshot(), state.snapshot());
    assert_eq!(later.last_good(), state.last_good());
    publish(&mut later, message(6, [doubtful(full("users", &[]))]));
    assert_eq!(seen(&later, "users"), [1], "what came from the disk is last good, too");
}

#[test]
fn an_instance_of_a_kind_we_cannot_read_is_left_out() {
    let mut state = watching_all();
    publish(&mut state, message(5, [full("users", &[instance("users", 1, 1), instance("users", 2, 1)])]));
    let mut newer = instance("users", 2, 1);
    newer.endpoint.as_mut().unwrap().protocol = 99;
    publish(&mut state, message(6, [delta("users", 5, &[newer], &[]), full("Not A Name", &[])]));
    assert_eq!(seen(&state, "users"), [1]);
}

/// A change to the registry's catalog, or something that happens to the stream.
#[derive(Debug, Clone)]
enum Step {
    Upsert {
        service: usize,
        instance: u32,
        weight: u32,
    },
    Remove {
        service: usize,
        instance: u32,
    },
    /// The registry is (not) sure of empty sets from here on.
    Doubt(bool),
    /// The watcher gets everything that changed since it was last told, as one merged message.
    Flush,
    /// The stream breaks and another opens to the same registry.
    Reconnect,
    /// The stream breaks and another opens to a registry that is some versions behind.
    ReconnectBehind(usize),
    Subscribe(usize, bool),
}

const SERVICES: [&str; 3] = ["users.default", "posts.default", "orders.default"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..3usize, 0..6u32, 1..4u32).prop_map(|(service, instance, weight)| Step::Upsert { service, instance, weight }),
        4 => (0..3usize, 0..6u32).prop_map(|(service, instance)| Step::Remove { service, instance }),
        1 => any::<bool>().prop_map(Step::Doubt),
        6 => Just(Step::Flush),
        1 => Just(Step::Reconnect),
        1 => (1..8usize).prop_map(Step::ReconnectBehind),
        1 => (0..3usize, any::<bool>()).prop_map(|(service, on)| Step::Subscribe(service, on)),
    ]
}

type Set = BTreeMap<u32, u32>;

/// The registry as the rules of discovery.proto make it: complete history, one watcher.
struct Registry {
    history: Vec<[Set; 3]>,
    doubt: bool,
    /// Version the registry at the other end of the stream is at; an index into `history`.
    at: usize,
    /// What the stream has told of each service last: its version, and the set.
    told: [Option<(u64, Set)>; 3],
}

impl Registry {
    fn now(&self) -> &[Set; 3] {
        &self.history[self.at]
    }

    fn change(&mut self, service: usize, change: impl FnOnce(&mut Set)) {
        let mut next = self.history.last().unwrap().clone();
        change(&mut next[service]);
        self.history.push(next);
    }

    /// Everything subscribed that changed, at the stream's version.
    fn message(&mut self, subscribed: &[bool; 3]) -> pb::WatchResponse {
        let mut updates = Vec::new();
        for service in (0..3).filter(|service| subscribed[*service]) {
            let set = self.history[self.at][service].clone();
            let put = |(number, weight): (&u32, &u32)| instance(SERVICES[service], *number, *weight);
            let update = match &self.told[service] {
                None => full(SERVICES[service], &set.iter().map(put).collect::<Vec<_>>()),
                Some((_, told)) if *told == set => continue,
                Some((base, told)) => {
                    let upserted: Vec<_> = set.iter().filter(|(n, w)| told.get(n) != Some(w)).map(put).collect();
                    let removed: Vec<_> = told.keys().filter(|n| !set.contains_key(n)).copied().collect();
                    delta(SERVICES[service], *base, &upserted, &removed)
                }
            };
            updates.push(if self.doubt { doubtful(update) } else { update });
            self.told[service] = Some((self.at as u64 + 1, set));
        }
        message(self.at as u64 + 1, updates)
    }
}

fn as_set(state: &State, service: usize) -> Option<Set> {
    let service = state.snapshot().services.get(&name(SERVICES[service]))?;
    let pair = |instance: &Arc<Instance>| {
        (u32::from(instance.endpoint.address.port()) - 1_000, u32::from(instance.weight.get()))
    };
    Some(service.instances.values().map(pair).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to registry and stream: versions never fall; what the consumer sees of a service is what the registry said at
    /// the version the consumer is at, or the last good set where an empty one was not meant; a reconnect alone takes nothing away.
    #[test]
    fn the_consumer_sees_the_catalog_at_its_version(steps in proptest::collection::vec(step(), 1..120)) {
        let mut registry = Registry { history: vec![Default::default()], doubt: false, at: 0, told: Default::default() };
        let mut state = State::default();
        let mut subscribed = [true, true, false];
        let topics = |subscribed: &[bool; 3]| -> BTreeSet<Topic> {
            (0..3).filter(|s| subscribed[*s]).map(|s| Topic::Service(name(SERVICES[s]))).collect()
        };
        let _ = state.set_topics(topics(&subscribed));
        state.stream_opened();
        let mut expected: [Option<Set>; 3] = Default::default();
        let mut dropped: [Option<Set>; 3] = Default::default(); // last good sets of what is not subscribed
        for step in steps {
            let before = state.snapshot().clone();
            match step {
                Step::Upsert { service, instance, weight } => registry.change(service, |set| { set.insert(instance, weight); }),
                Step::Remove { service, instance } => registry.change(service, |set| { set.remove(&instance); }),
                Step::Doubt(doubt) => registry.doubt = doubt,
                Step::Reconnect | Step::ReconnectBehind(_) => {
                    let lag = if let Step::ReconnectBehind(lag) = step { lag } else { 0 };
                    registry.told = Default::default();
                    registry.at = (registry.history.len() - 1).saturating_sub(lag);
                    state.stream_opened();
                    prop_assert_eq!(state.snapshot(), &before);
                }
                Step::Subscribe(service, on) => {
                    subscribed[service] = on;
                    let _ = state.set_topics(topics(&subscribed));
                    registry.told[service] = None;
                    if !on {
                        dropped[service] = expected[service].take().or(dropped[service].take());
                    }
                }
                Step::Flush => {
                    // Half the time a registry that lags moves on by one, else to the end.
                    let last = registry.history.len() - 1;
                    registry.at = if registry.at.is_multiple_of(2) { last } else { (registry.at + 1).min(last) };
                    let message = registry.message(&subscribed);
                    let version = message.version;
                    let was_behind = state.is_behind();
                    let touched: Vec<usize> = (0..3).filter(|s| message.services.iter().any(|u| u.name == SERVICES[*s])).collect();
                    prop_assert!(state.apply(message).is_ok());
                    let caught_up = version >= before.version.0;
                    for service in (0..3).filter(|s| subscribed[*s] && registry.told[*s].is_some()) {
                        let applies = caught_up && (was_behind || touched.contains(&service));
                        let new = touched.contains(&service) && expected[service].is_none();
                        if applies || new {
                            let said = registry.now()[service].clone();
                            // Doubt is said with the message; a service not in this one keeps the doubt of its own last message.
                            let doubted = !state.stream.services[&name(SERVICES[service])].service.authoritative;
                            let last = expected[service].take().or(dropped[service].take());
                            let keeps = said.is_empty() && doubted && last.as_ref().is_some_and(|set| !set.is_empty());
                            expected[service] = if keeps { last } else { Some(said) };
                        }
                    }
                }
            }
            prop_assert!(state.snapshot().version >= before.version);
            for service in 0..3 {
                let sees = as_set(&state, service);
                match &expected[service] {
                    Some(set) => prop_assert_eq!(sees.as_ref(), Some(set), "{}", SERVICES[service]),
                    None => prop_assert!(sees.is_none()),
                }
            }
        }
    }
}

/// What happens to a watch of `*` and to the services that there are.
#[derive(Debug, Clone)]
enum StarStep {
    /// A service comes, with one instance, or goes without a trace.
    List(usize, bool),
    /// The stream tells what changed; the flag says whether its registry is sure to know every service.
    Flush { warm: bool },
    /// The stream breaks and another opens to a registry that is some versions behind.
    Reconnect(usize),
    /// The client takes the word of a registry that stays behind.
    Adopt,
}

fn star_step() -> impl Strategy<Value = StarStep> {
    prop_oneof![
        4 => (0..4usize, any::<bool>()).prop_map(|(service, on)| StarStep::List(service, on)),
        5 => any::<bool>().prop_map(|warm| StarStep::Flush { warm }),
        2 => (0..6usize).prop_map(StarStep::Reconnect),
        1 => Just(StarStep::Adopt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// A consumer of `*` has every service that its registry lists; it loses one only when the registry has said that it named them all,
    /// and then it has exactly those that were named.
    #[test]
    fn a_star_forgets_what_is_gone_and_nothing_else(steps in proptest::collection::vec(star_step(), 1..80)) {
        const NAMES: [&str; 4] = ["users.default", "posts.default", "orders.default", "carts.default"];
        let mut history: Vec<BTreeSet<usize>> = vec![BTreeSet::new()];
        let (mut at, mut told) = (0, BTreeMap::<usize, bool>::new()); // told on this stream: listed then, or empty
        let mut state = watching_all();
        for step in steps {
            let before = state.snapshot().clone();
            let (mut counts, mut all_named) = (false, false);
            match step {
                StarStep::List(service, on) => {
                    let mut next = history.last().unwrap().clone();
                    if on { next.insert(service); } else { next.remove(&service); }
                    history.push(next);
                }
                StarStep::Reconnect(lag) => {
                    at = (history.len() - 1).saturating_sub(lag);
                    told.clear();
                    state.stream_opened();
                }
                StarStep::Flush { warm } => {
                    at = (at + 2).min(history.len() - 1);
                    let mut updates = Vec::new();
                    for (service, name) in NAMES.into_iter().enumerate() {
                        let listed = history[at].contains(&service);
                        if told.get(&service).copied().unwrap_or(false) != listed {
                            told.insert(service, listed);
                            let set = [instance(name, u32::try_from(service).unwrap(), 1)];
                            updates.push(full(name, if listed { &set } else { &[] }));
                        }
                    }
                    let version = at as u64 + 1;
                    counts = version >= before.version.0;
                    all_named = warm;
                    let told = pb::WatchResponse { complete: warm, ..message(version, updates) };
                    prop_assert!(state.apply(told).is_ok());
                }
                StarStep::Adopt if state.is_behind() => {
                    let _ = state.adopt();
                    (counts, all_named) = (true, state.stream.complete);
                }
                StarStep::Adopt => {}
            }
            let has: BTreeSet<&str> = state.snapshot().services.keys().map(ServiceName::full).collect();
            let had: BTreeSet<&str> = before.services.keys().map(ServiceName::full).collect();
            if counts {
                prop_assert!(history[at].iter().all(|service| has.contains(NAMES[*service])), "{has:?}");
            }
            if counts && all_named {
                prop_assert_eq!(has, told.keys().map(|service| NAMES[*service]).collect::<BTreeSet<_>>());
            } else {
                prop_assert!(had.is_subset(&has), "{:?} of {:?} is left", has, had);
            }
        }
    }
}
