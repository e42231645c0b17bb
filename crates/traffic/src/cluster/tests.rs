//! The choice under load, failure and recovery: clusters without a network, time passed in.

use std::time::Duration;

use rand::{SeedableRng, rngs::StdRng};
use weft_model::{Protocol, Transport};

use super::*;
use crate::{Metrics, endpoint::Key, outcome::Outcome, ticks::Clock};

fn at(millis: u64) -> Ticks {
    Ticks::from_duration(Duration::from_millis(millis))
}

fn endpoint(port: u16) -> Arc<Endpoint> {
    let key = Key {
        instance: None,
        endpoint: model::Endpoint {
            address: ([127, 0, 0, 1], port).into(),
            transport: Transport::Plaintext,
            protocol: Protocol::H2,
        },
    };
    Arc::new(Endpoint::new(key, Clock::start()))
}

fn cluster(size: u16) -> Cluster {
    let name: ServiceName = "users".parse().unwrap();
    let shared = Shared::new(name, Metrics::default().cluster("users"), at(0));
    Cluster {
        members: (0..size).map(|n| Member { endpoint: endpoint(n + 1), weight: 1.0 }).collect(),
        shared: Arc::new(shared),
        hope: Hope::None,
        empty_since: None,
        parts: None,
        rules: None,
    }
}

fn port(endpoint: &Endpoint) -> u16 {
    endpoint.model().address.port()
}

/// Sends calls one after another for `millis`, every millisecond one; `answer` says what an endpoint does. Returns calls per endpoint.
fn run(
    cluster: &Cluster,
    from: u64,
    millis: u64,
    mut answer: impl FnMut(u16) -> (Duration, Outcome),
) -> std::collections::BTreeMap<u16, usize> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut share = std::collections::BTreeMap::new();
    let mut under_way: Vec<(Ticks, Duration, Outcome, crate::endpoint::InFlight)> = Vec::new();
    for now in (from..from + millis).map(at) {
        let (done, rest): (Vec<_>, Vec<_>) = under_way.into_iter().partition(|(end, ..)| *end <= now);
        under_way = rest;
        for (_, took, outcome, flight) in done {
            let endpoint = flight.endpoint();
            endpoint.answered();
            endpoint.took(took, now);
            endpoint.judge(outcome, now, || cluster.others(endpoint, now), &mut rng);
        }
        let (endpoint, _) = cluster.pick(now, &Tried::default(), &mut rng).unwrap();
        *share.entry(port(endpoint)).or_default() += 1;
        let (took, outcome) = answer(port(endpoint));
        under_way.push((now.plus(took), took, outcome, endpoint.enter()));
    }
    share
}

const GOOD: (Duration, Outcome) = (Duration::from_millis(1), Outcome::GOOD);

#[test]
fn equal_endpoints_share_the_load() {
    let share = run(&cluster(4), 0, 4_000, |_| GOOD);
    assert!(share.values().all(|n| (700..1_300).contains(n)), "{share:?}");
}

#[test]
fn an_endpoint_100_times_slower_gets_less_than_a_twentieth_within_two_seconds() {
    let cluster = cluster(5);
    let slow = (Duration::from_millis(100), Outcome::GOOD);
    let answer = |port| if port == 1 { slow } else { GOOD };
    run(&cluster, 0, 2_000, answer);
    let share = run(&cluster, 2_000, 2_000, answer);
    assert!(share.get(&1).copied().unwrap_or(0) < 100, "{share:?}");
}

#[test]
fn an_endpoint_that_fails_fast_gets_less_than_a_twentieth_within_two_seconds() {
    for failure in [Outcome::BROKEN, Outcome::DEADLINE] {
        let cluster = cluster(3);
        let answer = |port| if port == 1 { (Duration::from_millis(1), failure) } else { GOOD };
        run(&cluster, 0, 2_000, answer);
        let share = run(&cluster, 2_000, 2_000, answer);
        assert!(share.get(&1).copied().unwrap_or(0) < 100, "{failure:?}: {share:?}");
    }
}

#[test]
fn an_endpoint_that_failed_once_is_back_after_its_penalty() {
    let cluster = cluster(2);
    let mut failures = 1;
    let good = (Duration::from_millis(5), Outcome::GOOD); // five in flight, so that load counts
    let mut answer = |port| {
        if port == 1 && std::mem::take(&mut failures) > 0 { (Duration::from_millis(1), Outcome::BROKEN) } else { good }
    };
    run(&cluster, 0, 2_000, &mut answer);
    let shunned = run(&cluster, 2_000, 2_000, &mut answer);
    assert_eq!(shunned.get(&1), None);
    run(&cluster, 4_000, 2_000, &mut answer);
    let back = run(&cluster, 6_000, 2_000, &mut answer);
    assert!(back[&1] > 500, "{back:?}");
}

#[test]
fn an_unreachable_endpoint_is_out_at_once_and_probed_by_one_call() {
    let cluster = cluster(2);
    let mut rng = StdRng::seed_from_u64(1);
    let dead = cluster.members[0].endpoint.clone();
    dead.unreachable(at(0), &mut rng);
    for _ in 0..100 {
        let (picked, chance) = cluster.pick(at(50), &Tried::default(), &mut rng).unwrap();
        assert_eq!((port(picked), chance), (2, Chance::Fresh));
    }
    let probes = (0..100).filter(|_| port(cluster.pick(at(200), &Tried::default(), &mut rng).unwrap().0) == 1).count();
    assert_eq!(probes, 1);
    dead.answered();
    let picks = (0..100).filter(|_| port(cluster.pick(at(201), &Tried::default(), &mut rng).unwrap().0) == 1).count();
    assert!(picks > 10, "{picks}");
}

#[test]
fn when_all_rest_there_still_is_a_choice() {
    let cluster = cluster(3);
    let mut rng = StdRng::seed_from_u64(1);
    cluster.members.iter().for_each(|m| m.endpoint.unreachable(at(0), &mut rng));
    let (_, chance) = cluster.pick(at(1), &Tried::default(), &mut rng).unwrap();
    assert_eq!(chance, Chance::LastResort);
    assert!(!cluster.any_fresh(at(1), &Tried::default()));
}

#[test]
fn an_attempt_goes_elsewhere_while_there_is_an_elsewhere() {
    let cluster = cluster(3);
    let mut rng = StdRng::seed_from_u64(1);
    let mut tried = Tried::default();
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..3 {
        let (picked, chance) = cluster.pick(at(0), &tried, &mut rng).unwrap();
        assert_eq!(chance, Chance::Fresh);
        tried.add(picked.id());
        seen.insert(port(picked));
    }
    assert_eq!(seen.len(), 3);
    assert_eq!(cluster.pick(at(0), &tried, &mut rng).unwrap().1, Chance::LastResort);
}

#[test]
fn the_last_healthy_endpoint_keeps_the_calls_even_when_it_fails() {
    let cluster = cluster(1);
    let share = run(&cluster, 0, 1_000, |_| (Duration::from_millis(1), Outcome::BROKEN));
    assert_eq!(share[&1], 1_000);
    assert_eq!(cluster.members[0].endpoint.state(at(1_000)), State::Active);
    assert_eq!(cluster.members[0].endpoint.in_flight(), 0);
}

#[test]
fn the_last_endpoint_that_declares_a_method_keeps_its_calls_even_when_others_of_the_service_are_well() {
    let mut cluster = cluster(3);
    let newest = Cluster {
        members: [cluster.members[0].clone()].into(),
        shared: cluster.shared.clone(),
        hope: Hope::None,
        empty_since: None,
        parts: None,
        rules: None,
    };
    cluster.parts = Some(Box::new(Parts { declaring: [Arc::new(newest)].into(), unsaid: None }));
    let last = cluster.members[0].endpoint.clone();
    let plain = cluster.members[1].endpoint.clone();
    assert_eq!(cluster.others(&last, at(0)), Others::None);
    assert_eq!(cluster.others(&plain, at(0)), Others::Left);
}

proptest::proptest! {
    #[test]
    fn every_pick_is_a_member_and_an_empty_cluster_has_none(size in 0_u16..20, dead in proptest::collection::vec(0_usize..20, 0..10), seed: u64) {
        let cluster = cluster(size);
        let mut rng = StdRng::seed_from_u64(seed);
        for index in dead {
            if let Some(member) = cluster.members.get(index) {
                member.endpoint.unreachable(at(0), &mut rng);
            }
        }
        let picked = cluster.pick(at(1), &Tried::default(), &mut rng);
        proptest::prop_assert_eq!(picked.is_none(), size == 0);
        if let Some((picked, Chance::Fresh)) = picked {
            proptest::prop_assert_eq!(picked.state(at(1)), State::Active);
        }
    }
}
