//! Any mesh: services with any instances and policies, and clients of any sort.
//!
//! Lives here: the strategies, and the rules held against every resource of every mesh. Does not: the rules (`rules`).

use std::sync::Arc;

use imbl::OrdMap;
use proptest::{collection::vec, option, prelude::*, sample::select};
use uuid::Uuid;
use weft_model::{
    Access, Action, CallMatch, Callers, Endpoint, Epoch, FailurePercentage, GrpcService, HeaderMatch, HeaderValue,
    Instance, InstanceId, Locality, Method, Outliers, Part, PlaintextUpstream, Policy, PolicyKind, Protocol, RetryOn,
    RetryRule, Route, RouteRule, Rule, ServiceInfo, ServiceName, ServiceSnapshot, Snapshot, Split, Status, Target,
    Transport, Upstream, Version, Weight,
};

use super::{
    super::{build, decode, messages::ClusterLoadAssignment, names},
    rules::{self, Bootstrap},
};
use crate::{
    catalog::Published,
    views::xds::{
        Kind, Mesh, Profile, Resource, XdsWorld,
        profile::{Family, SERVER_LISTENER},
    },
};

const SERVICES: [&str; 3] = ["users", "posts.eu", "users-canary"];

fn instance() -> impl Strategy<Value = Instance> {
    let status = select(vec![
        Status::Serving,
        Status::Serving,
        Status::Serving,
        Status::Starting,
        Status::NotServing,
        Status::Draining,
        Status::Crashed,
    ]);
    let transport = prop_oneof![
        Just(Transport::Plaintext),
        Just(Transport::Tls { server_name: "a.example".into() }),
        select(vec!["users", "other"]).prop_map(|it| Transport::Mtls {
            identity: format!("spiffe://weft.local/ns/default/svc/{it}").parse().unwrap()
        }),
    ];
    let address = select(vec!["127.0.0.1:1", "127.0.0.1:2", "10.0.0.7:1", "[::1]:1", "[fd00::7]:7300"]);
    let protocol = select(vec![Protocol::H2, Protocol::H2, Protocol::H2, Protocol::H1]);
    let locality = (select(vec!["", "eu", "us"]), select(vec!["", "a", "b"]));
    let locality = locality.prop_map(|(region, zone)| Locality::new(region, zone, ""));
    let plaintext = select(vec!["", "loopback", "allow"]);
    (any::<u128>(), status, transport, address, protocol, locality, 1u32..=65_535, plaintext).prop_map(
        |(id, status, transport, address, protocol, locality, weight, plaintext)| Instance {
            id: InstanceId::new(Uuid::from_u128(id | 1)),
            service: "users".parse().unwrap(),
            epoch: Epoch(1),
            endpoint: Endpoint { address: address.parse().unwrap(), transport, protocol },
            status,
            reason: String::new(),
            locality,
            weight: Weight::new(weight).unwrap(),
            metadata: [("plaintext", plaintext)].into(),
            descriptors: None,
            check: None,
        },
    )
}

fn kind() -> impl Strategy<Value = PolicyKind> {
    let methods = vec(select(vec!["shop.users.v1.Users/GetUser", "shop.users.v1.Users/*", "a.B/C"]), 0..2);
    let paths = vec(select(vec!["/shop.users.v1.Users/CreateUser", "/shop*", "/shop.users.v1.Users/Get*"]), 0..2);
    let headers = vec(select(vec![HeaderValue::Exact("x".into()), HeaderValue::Present(false)]), 0..2);
    let matches = (methods, paths, headers).prop_map(|(methods, paths, headers)| {
        let headers = headers.into_iter().map(|it| HeaderMatch::new("x-canary", it).unwrap());
        CallMatch::new(
            methods.iter().map(|it| it.parse().unwrap()).collect(),
            paths.iter().map(|it| it.parse().unwrap()).collect(),
            headers.collect(),
        )
        .unwrap()
    });
    let split = vec(0u32..=1_000_000, 1..=3).prop_filter_map("something to share", |weights| {
        let targets = weights.into_iter().zip(SERVICES);
        Split::new(targets.map(|(weight, it)| Target { service: it.parse().unwrap(), weight }).collect()).ok()
    });
    let millis = || (1u64..10_000).prop_map(std::time::Duration::from_millis);
    let retry = (1u32..=4, option::of(millis()))
        .prop_map(|(retries, back_off)| RetryRule::new(RetryOn::ALL.into(), retries, back_off, None).unwrap());
    let part = (1u32..=1_000_000).prop_map(|it| Part::of_a_million(it).unwrap());
    let fault = (option::of((millis(), part.clone())), option::of((1u32..=16, part)));
    let fault =
        fault.prop_filter_map("does something", |(delay, abort)| weft_model::Fault { delay, abort }.checked().ok());
    let rule = (matches, option::of(split), option::of(millis()), option::of(retry), option::of(fault));
    let route = vec(rule, 1..4).prop_filter_map("does something", |rules| {
        let rule = |(index, (matches, to, timeout, retry, fault))| {
            RouteRule { name: Rule::name_of_place(index), matches, to, timeout, retry, fault }.checked()
        };
        let rules = rules.into_iter().enumerate().map(rule).collect::<Result<_, _>>().ok()?;
        Route::new(rules).ok().map(PolicyKind::Route)
    });
    let upstream = (1u32..1_000, any::<bool>()).prop_map(|(most, judged)| {
        let failures = FailurePercentage { threshold: 50, min_hosts: 2, min_calls: 10 };
        let outliers = judged.then(|| Outliers { failure_percentage: Some(failures), ..Outliers::default() });
        PolicyKind::Upstream(Upstream { max_requests: Some(most), outliers })
    });
    let plaintext = select(vec![PlaintextUpstream::Allow, PlaintextUpstream::Allow, PlaintextUpstream::Refuse]);
    prop_oneof![route, upstream, plaintext.prop_map(PolicyKind::PlaintextUpstream), access()]
}

fn access() -> impl Strategy<Value = PolicyKind> {
    let callers = select(vec![
        Callers { authenticated: true, ..Callers::default() },
        Callers { anonymous: true, ..Callers::default() },
        Callers { services: ["users".parse().unwrap()].into(), ..Callers::default() },
    ]);
    let methods = vec(select(vec!["shop.users.v1.Users/GetUser", "a.B/*"]), 0..2);
    vec((select(vec![Action::Allow, Action::Deny]), callers, methods), 0..3).prop_map(|rules| {
        let rule = |(index, (action, from, methods)): (usize, (Action, Callers, Vec<&str>))| {
            let methods = methods.iter().map(|it| it.parse().unwrap()).collect();
            Rule::new(Rule::name_of_place(index), action, from, methods).unwrap()
        };
        PolicyKind::Access(Access::new(rules.into_iter().enumerate().map(rule).collect()).unwrap())
    })
}

fn info() -> impl Strategy<Value = ServiceInfo> {
    any::<bool>().prop_map(|idempotent| {
        let method = |name: &str, idempotent| Method {
            name: name.into(),
            client_streaming: false,
            server_streaming: false,
            idempotent,
            missing_in: Vec::new(),
        };
        let methods = vec![method("GetUser", idempotent), method("CreateUser", false)];
        let grpc = GrpcService { name: "shop.users.v1.Users".into(), methods };
        ServiceInfo { grpc_services: vec![grpc], ..ServiceInfo::default() }
    })
}

fn service(name: &'static str) -> impl Strategy<Value = ServiceSnapshot> {
    (vec(instance(), 0..7), vec(kind(), 0..3), info(), any::<bool>()).prop_map(
        move |(instances, kinds, info, authoritative)| {
            let name: ServiceName = name.parse().unwrap();
            let policy = |(index, kind)| {
                let policy = format!("p{index}").parse().unwrap();
                Arc::new(Policy { name: policy, service: name.clone(), version: Version(1), kind })
            };
            ServiceSnapshot {
                instances: instances.into_iter().map(|it| (it.id, Arc::new(it))).collect(),
                authoritative,
                info: Arc::new(info),
                policies: kinds.into_iter().enumerate().map(policy).collect(),
                ..ServiceSnapshot::empty(name.clone(), Version(1))
            }
        },
    )
}

pub(super) fn world_in(mesh: Mesh, services: impl IntoIterator<Item = ServiceSnapshot>) -> XdsWorld {
    let services: OrdMap<_, _> = services.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect();
    let snapshot = Snapshot { version: Version(1), services, ..Snapshot::default() };
    XdsWorld::new(Arc::new(Published::of_snapshot(snapshot, false)), mesh)
}

pub(super) fn world_of(services: impl IntoIterator<Item = ServiceSnapshot>) -> XdsWorld {
    world_in(Mesh::Open, services)
}

fn world() -> impl Strategy<Value = XdsWorld> {
    let listed = |name| option::weighted(0.8, service(name));
    (select(vec![Mesh::Open, Mesh::Secured]), listed(SERVICES[0]), listed(SERVICES[1]), listed(SERVICES[2]))
        .prop_map(|(mesh, a, b, c)| world_in(mesh, [a, b, c].into_iter().flatten()))
}

fn profile() -> impl Strategy<Value = Profile> {
    let family = select(vec![Family::Grpc, Family::Grpc, Family::Envoy]);
    let locality = (select(vec!["", "eu", "us"]), select(vec!["", "a", "b"]));
    let locality = locality.prop_map(|(region, zone)| Locality::new(region, zone, ""));
    (family, any::<bool>(), any::<bool>(), locality).prop_map(|(family, secured, domain, locality)| Profile {
        family,
        providers: secured.then(|| "weft".to_owned()).into_iter().collect(),
        locality,
        service: Some("users".parse().unwrap()),
        home: domain.then(|| "eu".to_owned()),
        listen: Some("127.0.0.1:10000".parse().unwrap()),
        trust_domain: (secured && domain).then(|| "weft.local".to_owned()),
        secrets: (secured && family == Family::Envoy).then(|| "/run/identity".to_owned()),
    })
}

/// Holds everything that a client of this profile could ask for against the rules.
fn check(world: &XdsWorld, profile: &Profile) -> Result<(), TestCaseError> {
    let fail = |name: &str, wrong: String| TestCaseError::fail(format!("{name}: {wrong}"));
    let get = |kind: Kind, name: &str| build(world, &profile.relevant(kind, name), kind, name).resource;
    let bootstrap = Bootstrap { providers: profile.providers.clone() };
    for service in SERVICES {
        for name in [service.to_owned(), format!("{service}:8080")] {
            if profile.family == Family::Grpc {
                let listener = get(Kind::Listener, &name).ok_or_else(|| fail(&name, "no listener".into()))?;
                rules::channel_listener(&decode(&listener), &name).map_err(|wrong| fail(&name, wrong))?;
            }
            let routes = get(Kind::Route, &name).ok_or_else(|| fail(&name, "no routes".into()))?;
            rules::route_configuration(&decode(&routes), &name).map_err(|wrong| fail(&name, wrong))?;
        }
        let cluster = get(Kind::Cluster, service).ok_or_else(|| fail(service, "no cluster".into()))?;
        let cluster: super::super::messages::Cluster = decode(&cluster);
        if profile.family == Family::Grpc {
            rules::cluster_of(&cluster, service, &bootstrap).map_err(|wrong| fail(service, wrong))?;
        }
        let endpoints = cluster.eds_cluster_config.map(|it| it.service_name).unwrap_or_default();
        prop_assert!(!endpoints.ends_with("/mtls") || cluster.transport_socket.is_some());
        let listed = world.service(&service.parse().unwrap());
        let allowed = |it: &&Arc<Instance>| listed.is_some_and(|service| !service.hides(it));
        let instances = || listed.into_iter().flat_map(|it| it.instances.values());
        let clear = instances().filter(allowed).any(|it| it.endpoint.transport == Transport::Plaintext);
        let secured = profile.trust_domain.is_some() && (profile.family == Family::Grpc || profile.secrets.is_some());
        prop_assert!(
            clear && instances().any(|it| it.endpoint.protocol == Protocol::H2)
                || !secured
                || cluster.transport_socket.is_some(),
            "nothing but what a policy allows takes mutual TLS from who has certificates"
        );
        if let Some(it) = get(Kind::Endpoint, &endpoints) {
            if world.mesh() == Mesh::Secured {
                let text = |it: &Arc<Instance>| format!("{}:{}", it.endpoint.address.ip(), it.endpoint.address.port());
                let addresses: Vec<_> = instances().filter(allowed).map(text).collect();
                let told: Vec<_> = super::cases::addresses(&decode(&it)).concat();
                prop_assert!(told.iter().all(|it| addresses.contains(it)), "{told:?} of {addresses:?}");
            }
            let message: ClusterLoadAssignment = decode(&it);
            prop_assert_eq!(Resource::of(&message).bytes, it.bytes.clone(), "written as the message would be");
            rules::endpoints_of(&message, &endpoints).map_err(|wrong| fail(&endpoints, wrong))?;
        }
    }
    let server = format!("{SERVER_LISTENER}127.0.0.1:50051");
    if profile.family == Family::Grpc {
        let it = get(Kind::Listener, &server).ok_or_else(|| fail(&server, "no listener".into()))?;
        rules::server_listener(&decode(&it), &server, "127.0.0.1:50051", &bootstrap)
            .map_err(|wrong| fail(&server, wrong))?;
    }
    let routes = get(Kind::Route, "weft/outbound").ok_or_else(|| fail("weft/outbound", "no routes".into()))?;
    rules::route_configuration(&decode(&routes), "weft/outbound").map_err(|wrong| fail("weft/outbound", wrong))?;
    for kind in [Kind::Listener, Kind::Cluster] {
        for name in names(world, profile, kind) {
            prop_assert!(get(kind, &name).is_some(), "{name} is named and not there");
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_resource_of_any_mesh_is_one_that_clients_take(world in world(), profile in profile()) {
        check(&world, &profile)?;
    }

    #[test]
    fn equal_meshes_have_equal_bytes(world in world(), profile in profile()) {
        let all = || {
            let names = ["users", "posts.eu", "users/mtls", "weft/outbound", "grpc/server?xds.resource.listening_address=[::]:1"];
            let places = Kind::ALL.into_iter().flat_map(|kind| names.map(|name| (kind, name)));
            places.map(|(kind, name)| build(&world, &profile, kind, name)).collect::<Vec<_>>()
        };
        prop_assert_eq!(all(), all());
    }
}
