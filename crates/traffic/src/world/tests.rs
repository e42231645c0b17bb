//! Worlds built from snapshots: what is reused, what is kept, which name leads where.

use weft_model::{
    Digest, Epoch, GrpcService, Instance, InstanceId, Locality, Method, PlaintextUpstream, Policy, PolicyKind,
    Protocol, ServiceSnapshot, Status, Transport, Weight,
};

use super::*;
use crate::{Error, rest::State};

fn name(text: &str) -> ServiceName {
    text.parse().unwrap()
}

fn instance(service: &str, n: u8, status: Status) -> Arc<Instance> {
    Arc::new(Instance {
        id: InstanceId::from_bytes([n; 16]),
        service: name(service),
        epoch: Epoch(1),
        endpoint: Endpoint {
            address: ([127, 0, 0, 1], 1_000 + u16::from(n)).into(),
            transport: Transport::Plaintext,
            protocol: Protocol::H2,
        },
        status,
        reason: String::new(),
        locality: Locality::default(),
        weight: Weight::ONE,
        metadata: Default::default(),
        descriptors: None,
        check: None,
    })
}

fn info(grpc: &str, idempotent: bool) -> Arc<ServiceInfo> {
    let method =
        Method { name: "Get".into(), client_streaming: false, server_streaming: false, idempotent, missing_in: vec![] };
    Arc::new(ServiceInfo {
        grpc_services: vec![GrpcService { name: grpc.into(), methods: vec![method] }],
        ..ServiceInfo::default()
    })
}

fn service(text: &str, instances: &[(u8, Status)]) -> Arc<ServiceSnapshot> {
    let mut it = ServiceSnapshot::empty(name(text), Version(1));
    for (n, status) in instances {
        it.instances.insert(InstanceId::from_bytes([*n; 16]), instance(text, *n, *status));
    }
    it.info = info(&format!("shop.{text}.v1.Api"), true);
    Arc::new(it)
}

/// A service whose instances carry these sets; `Get` is everywhere, `New` only where set 1 is not.
fn versions(instances: &[(u8, Status, Option<u8>)]) -> Arc<ServiceSnapshot> {
    let mut it = ServiceSnapshot::clone(&service("posts", &[]));
    for (n, status, set) in instances {
        let descriptors = set.map(|set| Digest([set; 32]));
        let instance = Instance { descriptors, ..Instance::clone(&instance("posts", *n, *status)) };
        it.instances.insert(instance.id, Arc::new(instance));
    }
    let method = |name: &str, missing_in| Method {
        name: name.into(),
        client_streaming: false,
        server_streaming: false,
        idempotent: true,
        missing_in,
    };
    let (old, new) = (Digest([1; 32]), Digest([2; 32]));
    it.info = Arc::new(ServiceInfo {
        grpc_services: vec![GrpcService {
            name: "shop.posts.v1.Api".into(),
            methods: vec![method("Get", vec![]), method("New", vec![old]), method("Gone", vec![new])],
        }],
        descriptors: vec![new, old],
        ..ServiceInfo::default()
    });
    Arc::new(it)
}

fn ports_of(world: &World, method: &str) -> Vec<u16> {
    let cluster = world.serving_of(&name("posts"), &format!("/shop.posts.v1.Api/{method}")).unwrap();
    cluster.endpoints().map(|e| e.address.port()).collect()
}

fn snapshot(version: u64, services: impl IntoIterator<Item = Arc<ServiceSnapshot>>) -> Snapshot {
    let mut snapshot = Snapshot { version: Version(version), ..Snapshot::default() };
    for it in services {
        snapshot.directory.insert(it.name.clone(), it.info.clone());
        snapshot.services.insert(it.name.clone(), it);
    }
    snapshot
}

fn worlds() -> (Worlds, Interests) {
    Worlds::new(Metrics::default())
}

fn ports(world: &World, service: &str) -> Vec<u16> {
    world.cluster(&name(service)).map_or_else(Vec::new, |c| c.endpoints().map(|e| e.address.port()).collect())
}

#[test]
fn only_endpoints_that_take_calls_are_in_the_cluster() {
    let (worlds, _interests) = worlds();
    worlds
        .apply(&snapshot(1, [service("users", &[(1, Status::Serving), (2, Status::Draining), (3, Status::Crashed)])]));
    assert_eq!(ports(&worlds.load(), "users"), [1_001]);
    assert_eq!(worlds.load().version(), Version(1));
}

#[test]
fn a_change_copies_what_changed_and_no_more() {
    let (worlds, _interests) = worlds();
    let users = service("users", &[(1, Status::Serving), (2, Status::Serving)]);
    let posts = service("posts", &[(3, Status::Serving)]);
    worlds.apply(&snapshot(1, [users, posts.clone()]));
    let before = worlds.load();
    worlds.apply(&snapshot(2, [service("users", &[(2, Status::Serving), (4, Status::Serving)]), posts]));
    let after = worlds.load();
    let cluster = |world: &World, service| world.cluster(&name(service)).unwrap().clone();
    assert!(Arc::ptr_eq(&cluster(&before, "posts"), &cluster(&after, "posts")));
    assert!(Arc::ptr_eq(&before.routes, &after.routes), "the directory did not change");
    let (old, new) = (cluster(&before, "users"), cluster(&after, "users"));
    assert!(Arc::ptr_eq(&old.members[1].endpoint, &new.members[0].endpoint), "instance 2 keeps its record");
    assert!(Arc::ptr_eq(&old.shared, &new.shared));
    assert_eq!(ports(&after, "users"), [1_002, 1_004]);
}

#[test]
fn an_endpoint_keeps_its_record_as_long_as_it_is_listed() {
    let (worlds, _interests) = worlds();
    let mut rng = rand::rng();
    worlds.apply(&snapshot(1, [service("users", &[(1, Status::Serving)])]));
    let now = worlds.clock().now();
    let rests = |worlds: &Worlds| {
        worlds.load().cluster(&name("users")).unwrap().members[0].endpoint.state(now) == State::Resting
    };
    worlds.load().cluster(&name("users")).unwrap().members[0].endpoint.unreachable(now, &mut rng);
    worlds.apply(&snapshot(2, [service("users", &[(1, Status::Serving), (2, Status::Serving)])]));
    assert!(rests(&worlds));
    worlds.apply(&snapshot(3, [service("users", &[(1, Status::Crashed)])]));
    worlds.apply(&snapshot(4, [service("users", &[(1, Status::Serving)])]));
    assert!(!rests(&worlds), "it left and came back: a clean record");
}

#[test]
fn an_endpoint_nobody_holds_any_more_says_so() {
    let (worlds, _interests) = worlds();
    worlds.apply(&snapshot(1, [service("users", &[(1, Status::Serving)])]));
    let gone = worlds.load().cluster(&name("users")).unwrap().members[0].endpoint.gone().clone();
    assert!(!gone.is_cancelled());
    worlds.apply(&snapshot(2, []));
    assert!(gone.is_cancelled());
}

#[test]
fn an_empty_set_wins_only_when_it_is_authoritative() {
    let (worlds, _interests) = worlds();
    worlds.apply(&snapshot(1, [service("users", &[(1, Status::Serving)])]));
    let mut doubtful = ServiceSnapshot::empty(name("users"), Version(2));
    doubtful.authoritative = false;
    worlds.apply(&snapshot(2, [Arc::new(doubtful)]));
    assert_eq!(ports(&worlds.load(), "users"), [1_001], "last good");
    worlds.apply(&snapshot(3, [service("users", &[])]));
    assert_eq!(ports(&worlds.load(), "users"), [0_u16; 0]);
    assert!(!worlds.load().cluster(&name("users")).unwrap().may_fill());
}

#[test]
fn a_method_is_called_on_the_instances_whose_set_declares_it() {
    let (worlds, _interests) = worlds();
    let up = Status::Serving;
    worlds.apply(&snapshot(1, [versions(&[(1, up, Some(1)), (2, up, Some(2)), (3, up, None)])]));
    let world = worlds.load();
    assert_eq!(ports_of(&world, "Get"), [1_001, 1_002, 1_003]);
    assert_eq!(ports_of(&world, "New"), [1_002, 1_003], "no set counts as declaring everything");
    assert_eq!(ports_of(&world, "Gone"), [1_001, 1_003]);
    assert_eq!(ports_of(&world, "Never"), [1_003], "who says what it has would say UNIMPLEMENTED");
    let other = |path| world.serving_of(&name("posts"), path).unwrap().endpoints().count();
    assert_eq!(other("/grpc.health.v1.Health/Check"), 3, "what no set tells is everywhere");

    worlds.apply(&snapshot(2, [versions(&[(1, up, Some(1)), (2, up, Some(2))])]));
    assert_eq!(ports_of(&worlds.load(), "Never"), [1_001, 1_002], "anybody may say that there is no such method");
}

#[test]
fn parts_of_a_cluster_share_what_calls_taught_and_are_there_only_while_sets_differ() {
    let (worlds, _interests) = worlds();
    let up = Status::Serving;
    let it = [versions(&[(1, up, Some(1)), (2, up, Some(2))])];
    worlds.apply(&snapshot(1, it));
    let world = worlds.load();
    let posts = world.cluster(&name("posts")).unwrap();
    let new = world.serving_of(&name("posts"), "/shop.posts.v1.Api/New").unwrap();
    assert!(
        Arc::ptr_eq(&posts.members[1].endpoint, &new.members[0].endpoint) && Arc::ptr_eq(&posts.shared, &new.shared)
    );
    worlds.apply(&snapshot(2, [versions(&[(1, up, Some(1)), (2, up, Some(2))])]));
    assert!(Arc::ptr_eq(posts, worlds.load().cluster(&name("posts")).unwrap()), "nothing changed");

    let mut alike = ServiceSnapshot::clone(&versions(&[(2, up, Some(2))]));
    alike.info = info("shop.posts.v1.Api", true);
    worlds.apply(&snapshot(3, [Arc::new(alike)]));
    let world = worlds.load();
    let posts = world.cluster(&name("posts")).unwrap();
    assert!(posts.parts.is_none());
    assert!(Arc::ptr_eq(posts, world.serving_of(&name("posts"), "/shop.posts.v1.Api/Get").unwrap()));
    assert!(Arc::ptr_eq(&posts.members[0].endpoint, &new.members[0].endpoint), "and it is the same endpoint");
}

#[test]
fn a_method_of_instances_that_are_starting_is_worth_a_wait() {
    let (worlds, _interests) = worlds();
    worlds.apply(&snapshot(1, [versions(&[(1, Status::Serving, Some(1)), (2, Status::Starting, Some(2))])]));
    let world = worlds.load();
    let new = world.serving_of(&name("posts"), "/shop.posts.v1.Api/New").unwrap();
    assert!(new.members.is_empty() && new.may_fill());
}

#[test]
fn calls_find_their_service_by_authority_then_by_grpc_name() {
    let (worlds, _interests) = worlds();
    worlds.apply(&snapshot(1, [service("users", &[]), service("posts", &[])]));
    let world = worlds.load();
    let to = |authority, path| world.routes().route(authority, path).map(|slot| world.routes().name(slot).to_string());
    let path = "/shop.posts.v1.Api/Get";
    for (authority, wanted) in [
        (Some("users"), "users"),
        (Some("users:80"), "users"),
        (Some("users.default"), "users"),
        (Some("users.default.weft:7301"), "users"),
        (Some("localhost:7301"), "posts"),
        (Some("127.0.0.1:8080"), "posts"),
        (None, "posts"),
    ] {
        assert_eq!(to(authority, path).unwrap(), wanted, "{authority:?}");
    }
    assert_eq!(
        to(None, "/shop.posts.v1.Api/Unlisted").unwrap(),
        "posts",
        "the service owns the name, whatever the method"
    );
    assert!(world.routes().method(path).idempotent);
    assert!(!world.routes().method("/shop.posts.v1.Api/Unlisted").idempotent);
}

#[test]
fn a_name_without_a_namespace_means_the_callers_own_first() {
    let (worlds, _interests) = worlds();
    let all = || [service("users", &[]), service("posts", &[]), service("users.shop", &[]), service("carts.eu", &[])];
    let to = |authority: &str| {
        let world = worlds.load();
        world.routes().route(Some(authority), "/a.B/C").map(|slot| world.routes().name(slot).to_string()).ok()
    };
    worlds.apply(&snapshot(1, all()));
    assert_eq!(to("users").as_deref(), Some("users"), "nobody's namespace but the default one");
    worlds.guard(name("orders.shop"));
    for (authority, wanted) in [
        ("users", Some("users.shop")),
        ("users:80", Some("users.shop")),
        ("users.default", Some("users")),
        ("users.shop.weft", Some("users.shop")),
        ("posts", Some("posts")),
        ("carts", None),
    ] {
        assert_eq!(to(authority).as_deref(), wanted, "{authority}");
    }
}

#[test]
fn a_call_that_leads_nowhere_says_whether_waiting_may_help() {
    let (worlds, _interests) = worlds();
    let route = |authority| worlds.load().routes().route(authority, "/a.B/C").unwrap_err();
    assert!(matches!(route(Some("localhost:1")), Error::UnknownService { .. }), "no snapshot yet");
    worlds.apply(&snapshot(1, [service("users", &[])]));
    assert!(matches!(route(Some("localhost:1")), Error::NoRoute { .. }));
    assert!(matches!(route(None), Error::NoRoute { .. }));
    assert!(matches!(route(Some("orders")), Error::UnknownService { .. }));
}

#[test]
fn static_clusters_stand_beside_the_snapshot_and_may_take_everything() {
    let (worlds, _interests) = worlds();
    let endpoint = instance("app", 9, Status::Serving).endpoint.clone();
    let it = |claims| StaticCluster {
        name: name("app"),
        endpoints: vec![endpoint.clone()],
        info: ServiceInfo::default(),
        claims,
    };
    worlds.set_static(vec![it(Claims::Names)]);
    assert_eq!(ports(&worlds.load(), "app"), [1_009]);
    assert!(worlds.load().routes().route(None, "/a.B/C").is_err());
    worlds.set_static(vec![it(Claims::Everything)]);
    assert!(worlds.load().routes().route(None, "/a.B/C").is_ok());
    worlds.apply(&snapshot(1, [service("app", &[(1, Status::Serving)])]));
    assert_eq!(ports(&worlds.load(), "app"), [1_009], "static hides the registry's");
}

#[test]
fn services_of_the_directory_alone_have_a_route_and_no_cluster() {
    let (worlds, _interests) = worlds();
    let mut it = Snapshot { version: Version(1), ..Snapshot::default() };
    it.directory.insert(name("users"), info("shop.users.v1.Users", false));
    worlds.apply(&it);
    let world = worlds.load();
    let slot = world.routes().route(None, "/shop.users.v1.Users/Get").unwrap();
    assert!(world.at(slot).is_none());
}

#[tokio::test(start_paused = true)]
async fn unused_clusters_are_named_once_they_were_idle_long_enough() {
    let (worlds, _interests) = worlds();
    worlds.apply(&snapshot(1, [service("users", &[]), service("posts", &[])]));
    tokio::time::advance(Duration::from_secs(60)).await;
    let now = worlds.clock().now();
    worlds.load().cluster(&name("posts")).unwrap().used(now);
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(worlds.unused_for(Duration::from_secs(100)), [name("users")]);
}

#[tokio::test]
async fn a_change_is_told_and_interests_come_out() {
    let (worlds, mut interests) = worlds();
    let mut changes = worlds.changes();
    worlds.apply(&snapshot(1, []));
    worlds.apply(&snapshot(2, []));
    assert_eq!(changes.next().await.unwrap().version(), Version(2));
    worlds.want(&name("users"));
    assert_eq!(interests.next().await, Some(name("users")));
    drop(worlds);
    assert!(changes.next().await.is_none());
}

fn with_policies(it: Arc<ServiceSnapshot>, kinds: impl IntoIterator<Item = PolicyKind>) -> Arc<ServiceSnapshot> {
    let policy = |(n, kind)| {
        let name = format!("p{n}").parse().unwrap();
        Arc::new(Policy { name, service: it.name.clone(), version: Version(1), kind })
    };
    let policies = kinds.into_iter().enumerate().map(policy).collect();
    Arc::new(ServiceSnapshot { policies, ..ServiceSnapshot::clone(&it) })
}

#[test]
fn a_process_with_an_identity_leaves_plaintext_endpoints_out_unless_a_policy_allows_them() {
    let plain = || service("users", &[(1, Status::Serving)]);
    let (allow, refuse) = (PlaintextUpstream::Allow, PlaintextUpstream::Refuse);
    for (modes, secured, expected) in [
        (vec![], false, 1),
        (vec![], true, 0),
        (vec![allow], true, 1),
        (vec![refuse], true, 0),
        (vec![allow, refuse], true, 0),
        (vec![refuse], false, 1),
    ] {
        let (worlds, _interests) = worlds();
        if secured {
            worlds.have_identity();
        }
        let kinds = modes.iter().copied().map(PolicyKind::PlaintextUpstream);
        worlds.apply(&snapshot(1, [with_policies(plain(), kinds)]));
        let world = worlds.load();
        assert_eq!(ports(&world, "users").len(), expected, "{modes:?} {secured}");
        let cause = world.cluster(&name("users")).unwrap().nobody();
        assert_eq!(matches!(cause, Error::PlaintextOnly { .. }), expected == 0, "{modes:?} {secured}: {cause}");
    }
}

#[test]
fn what_is_there_in_plaintext_does_not_hide_what_starts_with_protection() {
    let (worlds, _interests) = worlds();
    worlds.have_identity();
    let mut it = ServiceSnapshot::clone(&service("users", &[(1, Status::Serving)]));
    let mut protected = Instance::clone(&instance("users", 2, Status::Serving));
    let identity = "spiffe://weft.local/ns/default/svc/users".parse().unwrap();
    protected.endpoint.transport = Transport::Mtls { identity };
    it.instances.insert(protected.id, Arc::new(protected));
    worlds.apply(&snapshot(1, [Arc::new(it)]));
    assert_eq!(ports(&worlds.load(), "users"), [1_002]);
}

#[test]
fn the_gate_is_that_of_the_guarded_service_and_keeps_what_it_knew() {
    let closed = || [PolicyKind::Access(weft_model::Access::CLOSED)];
    let (worlds, _interests) = worlds();
    worlds.apply(&snapshot(1, [with_policies(service("users", &[]), closed())]));
    assert!(matches!(worlds.load().gate(), Gate::Open), "nothing is guarded");
    worlds.guard(name("users"));
    assert!(matches!(worlds.load().gate(), Gate::Rules(_)));
    worlds.apply(&snapshot(2, [service("posts", &[])]));
    assert!(
        matches!(worlds.load().gate(), Gate::Rules(_)),
        "a snapshot without the service says nothing about its rules"
    );
    worlds.apply(&snapshot(3, [service("users", &[])]));
    assert!(matches!(worlds.load().gate(), Gate::Open));
}

#[test]
fn before_rules_are_known_nobody_gets_in_where_callers_can_be_told_apart() {
    let (worlds, _interests) = worlds();
    worlds.guard(name("users"));
    assert!(matches!(worlds.load().gate(), Gate::Open));
    worlds.have_identity();
    assert!(matches!(worlds.load().gate(), Gate::Unknown));
    worlds.apply(&snapshot(1, [service("users", &[])]));
    assert!(matches!(worlds.load().gate(), Gate::Open));
}
