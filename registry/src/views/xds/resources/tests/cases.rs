//! The cases that matter one by one.
//!
//! Lives here: what a client in a certain place, with or without certificates, is told of a certain mesh. Does not: any mesh (`any_mesh`).

use std::sync::Arc;

use uuid::Uuid;
use weft_model::{
    Access, Action, Callers, Endpoint, Epoch, GrpcService, Instance, InstanceId, Locality, Method, PlaintextUpstream,
    Policy, PolicyKind, Protocol, Rule, ServiceInfo, ServiceName, ServiceSnapshot, Status, Transport, Version, Weight,
};

use super::{
    super::{
        NOT_ALLOWED, OTHER_TLS, build, decode,
        messages::{
            Cluster, ClusterLoadAssignment, HttpConnectionManager, Listener, RouteConfiguration, RouteSpecifier, core,
            endpoint, route, tls,
        },
    },
    any_mesh::{world_in, world_of},
};
use crate::views::xds::{
    Kind, Mesh, Profile, XdsWorld,
    profile::{Family, SERVER_LISTENER},
};

fn instance(n: u16) -> Instance {
    Instance {
        id: InstanceId::new(Uuid::from_u128(n.into())),
        service: "users".parse().unwrap(),
        epoch: Epoch(1),
        endpoint: Endpoint {
            address: format!("127.0.0.1:{n}").parse().unwrap(),
            transport: Transport::Plaintext,
            protocol: Protocol::H2,
        },
        status: Status::Serving,
        reason: String::new(),
        locality: Locality::default(),
        weight: Weight::ONE,
        metadata: Default::default(),
        descriptors: None,
        check: None,
    }
}

fn secured(n: u16) -> Instance {
    let mut it = instance(n);
    it.endpoint.transport = Transport::Mtls { identity: "spiffe://weft.local/ns/default/svc/users".parse().unwrap() };
    it
}

pub(super) fn users(instances: impl IntoIterator<Item = Instance>) -> ServiceSnapshot {
    ServiceSnapshot {
        instances: instances.into_iter().map(|it| (it.id, Arc::new(it))).collect(),
        ..ServiceSnapshot::empty("users".parse().unwrap(), Version(1))
    }
}

fn with_policies(service: ServiceSnapshot, texts: &[&str]) -> ServiceSnapshot {
    let kinds = texts.iter().map(|text| text.parse::<Said>().unwrap().0);
    let policy = |(index, kind)| {
        let name = format!("p{index}").parse().unwrap();
        Arc::new(Policy { name, service: service.name.clone(), version: Version(1), kind })
    };
    ServiceSnapshot { policies: kinds.enumerate().map(policy).collect(), ..service }
}

/// A policy as text, for tests: `split users=90 users-canary=10 timeout=2000 retry=2`.
struct Said(PolicyKind);

impl std::str::FromStr for Said {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (mut targets, mut rule) = (
            Vec::new(),
            weft_model::RouteRule {
                name: "r".parse().unwrap(),
                matches: weft_model::CallMatch::default(),
                to: None,
                timeout: None,
                retry: None,
                fault: None,
            },
        );
        for word in text.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap();
            match key {
                "timeout" => rule.timeout = Some(std::time::Duration::from_millis(value.parse().unwrap())),
                "retry" => {
                    let on = [weft_model::RetryOn::Unavailable].into();
                    rule.retry = Some(weft_model::RetryRule::new(on, value.parse().unwrap(), None, None).unwrap());
                }
                "method" => {
                    let methods = vec![value.parse().unwrap()];
                    rule.matches = weft_model::CallMatch::new(methods, vec![], vec![]).unwrap();
                }
                "abort" => {
                    let all = weft_model::Part::of_a_million(1_000_000).unwrap();
                    rule.fault = Some(weft_model::Fault { delay: None, abort: Some((value.parse().unwrap(), all)) });
                }
                service => targets
                    .push(weft_model::Target { service: service.parse().unwrap(), weight: value.parse().unwrap() }),
            }
        }
        rule.to = (!targets.is_empty()).then(|| weft_model::Split::new(targets).unwrap());
        Ok(Self(PolicyKind::Route(weft_model::Route::new(vec![rule.checked().unwrap()]).unwrap())))
    }
}

pub(super) fn nobody() -> Profile {
    Profile::default()
}

pub(super) fn envoy() -> Profile {
    Profile { family: Family::Envoy, listen: Some("127.0.0.1:10000".parse().unwrap()), ..nobody() }
}

fn certified() -> Profile {
    let trust_domain = Some("weft.local".to_owned());
    Profile { providers: ["weft".to_owned()].into(), trust_domain, ..Profile::default() }
}

pub(super) fn get<M: prost::Message + prost::Name + Default>(
    world: &XdsWorld,
    profile: &Profile,
    kind: Kind,
    name: &str,
) -> M {
    let built = build(world, &profile.relevant(kind, name), kind, name);
    decode(&built.resource.unwrap_or_else(|| panic!("no {name}")))
}

pub(super) fn addresses(it: &ClusterLoadAssignment) -> Vec<Vec<String>> {
    let address = |it: &endpoint::LbEndpoint| {
        let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(it)) = &it.host_identifier else { panic!("{it:?}") };
        match it.address.as_ref().and_then(|it| it.address.as_ref()) {
            Some(core::address::Address::SocketAddress(core::SocketAddress {
                address,
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(port)),
                ..
            })) => format!("{address}:{port}"),
            other => panic!("{other:?}"),
        }
    };
    it.endpoints.iter().map(|it| it.lb_endpoints.iter().map(address).collect()).collect()
}

fn told(world: &XdsWorld, profile: &Profile) -> Vec<Vec<String>> {
    let cluster: Cluster = get(world, profile, Kind::Cluster, "users.default");
    let name = cluster.eds_cluster_config.unwrap().service_name;
    addresses(&get(world, profile, Kind::Endpoint, &name))
}

#[test]
fn every_spelling_of_a_service_has_a_listener_and_nothing_else_has() {
    let world = world_of([users([instance(1)])]);
    let listener = |name: &str| build(&world, &nobody(), Kind::Listener, name);
    for name in [
        "users",
        "users:8080",
        "users.default",
        "users.default:1",
        "users.default.weft",
        "unknown",
        "users.eu.weft:443",
    ] {
        let it: Listener = decode(&listener(name).resource.expect(name));
        assert_eq!(it.name, name);
    }
    for name in ["", "Users", "a.b.c", "*", "grpc/server?xds.resource.listening_address=nowhere", "weft/outbound"] {
        assert_eq!(listener(name).resource, None, "{name}");
    }
}

#[test]
fn the_outcome_rests_on_the_service_also_when_there_is_nothing() {
    let world = world_of([]);
    let built = build(&world, &nobody(), Kind::Endpoint, "users.default");
    let users: ServiceName = "users".parse().unwrap();
    assert_eq!((built.resource, built.depends_on), (None, [users].into()));
    assert!(build(&world, &nobody(), Kind::Route, "weft/outbound").depends_on_list);
}

#[test]
fn endpoints_of_who_is_not_known_are_waited_for_and_of_an_empty_set_that_is_meant_are_none() {
    let endpoints = |world: &XdsWorld| build(world, &nobody(), Kind::Endpoint, "users.default").resource;
    assert_eq!(endpoints(&world_of([])), None, "who is not known may come");
    let doubtful = ServiceSnapshot { authoritative: false, ..users([]) };
    assert_eq!(endpoints(&world_of([doubtful])), None, "clients keep what they have");
    let empty: ClusterLoadAssignment = decode(&endpoints(&world_of([users([])])).unwrap());
    assert_eq!(empty.endpoints, []);
}

#[test]
fn only_who_takes_calls_is_told() {
    let with = |n, status| Instance { status, ..instance(n) };
    let all = [Status::Serving, Status::Starting, Status::NotServing, Status::Draining, Status::Crashed];
    let world = world_of([users((1..).zip(all).map(|(n, status)| with(n, status)))]);
    assert_eq!(told(&world, &nobody()), [["127.0.0.1:1"]]);
}

#[test]
fn an_address_is_told_once_and_is_its_newest_holders() {
    let mut second = instance(2);
    second.endpoint.address = instance(1).endpoint.address;
    second.weight = Weight::new(3).unwrap();
    let world = world_of([users([instance(1), second])]);
    let it: ClusterLoadAssignment = get(&world, &nobody(), Kind::Endpoint, "users.default");
    assert_eq!(addresses(&it), [["127.0.0.1:1"]]);
    assert_eq!(it.endpoints[0].load_balancing_weight.map(|it| it.value), Some(3));
}

#[test]
fn weights_are_localities_for_grpc_and_weights_for_envoy() {
    let heavy = |n| Instance { weight: Weight::new(3).unwrap(), ..instance(n) };
    let world = world_of([users([instance(1), heavy(2), heavy(3)])]);
    let it: ClusterLoadAssignment = get(&world, &nobody(), Kind::Endpoint, "users.default");
    let weights: Vec<_> = it.endpoints.iter().map(|it| it.load_balancing_weight.unwrap().value).collect();
    assert_eq!(
        (addresses(&it), weights),
        (vec![vec!["127.0.0.1:1".to_owned()], vec!["127.0.0.1:2".into(), "127.0.0.1:3".into()]], vec![1, 6])
    );
    let it: ClusterLoadAssignment = get(&world, &envoy(), Kind::Endpoint, "users.default");
    let weights: Vec<_> =
        it.endpoints[0].lb_endpoints.iter().map(|it| it.load_balancing_weight.unwrap().value).collect();
    assert_eq!((it.endpoints.len(), weights), (1, vec![1, 3, 3]));
}

#[test]
fn a_zone_keeps_its_calls_until_it_cannot_carry_them() {
    let place = |zone: &str| Locality::new("eu", zone, "");
    let at = |n, zone, status| Instance { locality: place(zone), status, ..instance(n) };
    let from = Profile { locality: place("a"), ..nobody() };
    let ranks = |second| {
        let world = world_of([users([at(1, "a", Status::Serving), at(2, "a", second), at(3, "b", Status::Serving)])]);
        let it: ClusterLoadAssignment = get(&world, &from, Kind::Endpoint, "users.default");
        let rank = |it: &endpoint::LocalityLbEndpoints| {
            (it.locality.clone().unwrap().zone, it.priority, it.load_balancing_weight.unwrap().value)
        };
        it.endpoints.iter().map(rank).collect::<Vec<_>>()
    };
    let said = |rows: [(&str, u32, u32); 2]| rows.map(|(zone, priority, weight)| (zone.to_owned(), priority, weight));
    assert_eq!(ranks(Status::Serving), said([("a", 0, 2), ("b", 1, 1)]));
    assert_eq!(ranks(Status::Crashed), said([("a", 0, 700_000), ("b", 0, 300_000)]));
    assert_eq!(ranks(Status::Draining), said([("a", 0, 1), ("b", 1, 1)]), "who leaves on purpose is not missed");
}

fn expected(cluster: &Cluster) -> Option<Vec<String>> {
    let Some(core::transport_socket::ConfigType::TypedConfig(config)) =
        cluster.transport_socket.as_ref()?.config_type.as_ref()
    else {
        panic!("{cluster:?}")
    };
    let context = <tls::UpstreamTlsContext as prost::Message>::decode(config.value.as_slice()).unwrap();
    let Some(tls::common_tls_context::ValidationContextType::ValidationContext(it)) =
        context.common_tls_context.unwrap().validation_context_type
    else {
        panic!("{config:?}")
    };
    #[expect(deprecated, reason = "the only list of names that gRPC clients read")]
    let names = it.match_subject_alt_names;
    Some(names.into_iter().map(|it| format!("{:?}", it.match_pattern.unwrap())).collect())
}

#[test]
fn tls_is_only_for_nodes_that_declare_a_provider() {
    let world = world_of([users([secured(1), secured(2)])]);
    let cluster: Cluster = get(&world, &certified(), Kind::Cluster, "users.default");
    assert_eq!(expected(&cluster), Some(vec!["Exact(\"spiffe://weft.local/ns/default/svc/users\")".to_owned()]));
    assert_eq!(told(&world, &certified()), [["127.0.0.1:1", "127.0.0.1:2"]]);
    let cluster: Cluster = get(&world, &nobody(), Kind::Cluster, "users.default");
    assert_eq!(expected(&cluster), None);
    assert_eq!(told(&world, &nobody()), Vec::<Vec<String>>::new());
    let built = build(&world, &nobody(), Kind::Endpoint, "users.default").resource.unwrap();
    assert_eq!(built.left_out.iter().map(|it| it.endpoints).collect::<Vec<_>>(), [2]);
    assert!(built.left_out[0].why.contains("weft bootstrap --identity"));
}

fn saying(service: ServiceSnapshot, modes: &[PlaintextUpstream]) -> ServiceSnapshot {
    let policy = |(index, mode): (usize, &PlaintextUpstream)| {
        let (name, kind) = (format!("p{index}").parse().unwrap(), PolicyKind::PlaintextUpstream(*mode));
        Arc::new(Policy { name, service: service.name.clone(), version: Version(1), kind })
    };
    ServiceSnapshot { policies: modes.iter().enumerate().map(policy).collect(), ..service }
}

#[test]
fn a_plaintext_instance_that_no_policy_allows_is_not_told_and_takes_mutual_tls_from_nobody() {
    use PlaintextUpstream::{Allow, Refuse};
    let envoy = Profile { family: Family::Envoy, secrets: Some("/run/identity".into()), ..certified() };
    let mixed = |modes: &[PlaintextUpstream]| saying(users([secured(1), instance(2)]), modes);
    let nobody_told: [[String; 0]; 0] = [];
    for modes in [&[][..], &[Refuse], &[Allow, Refuse]] {
        let world = world_in(Mesh::Secured, [mixed(modes)]);
        for profile in [certified(), envoy.clone()] {
            assert_eq!(told(&world, &profile), [["127.0.0.1:1"]], "{modes:?}");
            let cluster: Cluster = get(&world, &profile, Kind::Cluster, "users.default");
            assert!(cluster.transport_socket.is_some(), "{modes:?}");
        }
        assert_eq!(told(&world, &nobody()), nobody_told, "{modes:?}");
        let left_out = |name: &str| build(&world, &nobody(), Kind::Endpoint, name).resource.unwrap().left_out;
        let why = |name: &str| left_out(name).iter().map(|it| (it.endpoints, it.why)).collect::<Vec<_>>();
        assert_eq!(why("users.default/mtls"), [(1, NOT_ALLOWED)]);
        assert_eq!(why("users.default").len(), 2, "and those who take mutual TLS only");
    }
    let world = world_in(Mesh::Secured, [mixed(&[Allow])]);
    for profile in [nobody(), certified(), envoy.clone()] {
        assert_eq!(told(&world, &profile), [["127.0.0.1:2"]], "an operator's word makes plaintext of the whole");
        let cluster: Cluster = get(&world, &profile, Kind::Cluster, "users.default");
        assert_eq!(cluster.transport_socket, None);
    }
    let world = world_in(Mesh::Open, [mixed(&[])]);
    assert_eq!(told(&world, &nobody()), [["127.0.0.1:2"]], "where nobody has an identity, plaintext is all there is");
    assert_eq!(told(&world, &certified()), [["127.0.0.1:1"]], "who has one anyway acts as a sidecar that has");
}

#[test]
fn an_instance_that_no_client_can_be_told_of_decides_nothing_about_the_others() {
    let mut outside = instance(2);
    outside.endpoint.transport = Transport::Tls { server_name: "a.example".into() };
    let world = world_in(Mesh::Secured, [users([secured(1), outside])]);
    assert_eq!(told(&world, &certified()), [["127.0.0.1:1"]]);
    let built = build(&world, &nobody(), Kind::Endpoint, "users.default/mtls").resource.unwrap();
    assert_eq!(built.left_out.iter().map(|it| (it.endpoints, it.why)).collect::<Vec<_>>(), [(1, OTHER_TLS)]);
}

#[test]
fn who_lets_plaintext_in_is_told_to_nodes_without_certificates() {
    let open = |n, who: &str| {
        let mut it = secured(n);
        it.metadata = [("plaintext", who)].into();
        it
    };
    let mut far = open(3, "loopback");
    far.endpoint.address = "10.0.0.7:3".parse().unwrap();
    let world = world_of([users([open(1, "loopback"), open(2, "allow"), far, open(4, "refuse")])]);
    assert_eq!(told(&world, &nobody()), [["127.0.0.1:1", "127.0.0.1:2"]]);
    assert_eq!(told(&world, &certified())[0].len(), 4);
}

#[test]
fn a_cluster_of_nobody_yet_expects_the_identity_that_its_instances_will_have() {
    let before: Cluster = get(&world_of([]), &certified(), Kind::Cluster, "users.default");
    let after: Cluster = get(&world_of([users([secured(1)])]), &certified(), Kind::Cluster, "users.default");
    assert_eq!(before, after, "the first instance changes endpoints only");
}

fn routes(service: ServiceSnapshot) -> Vec<(String, String, Option<u32>)> {
    let it: RouteConfiguration = get(&world_of([service]), &nobody(), Kind::Route, "users");
    let row = |it: &route::Route| {
        let Some(route::route::Action::Route(action)) = &it.action else { panic!("{it:?}") };
        let path = match it.r#match.as_ref().unwrap().path_specifier.as_ref().unwrap() {
            route::route_match::PathSpecifier::Path(path) => path.clone(),
            route::route_match::PathSpecifier::Prefix(path) => format!("{path}*"),
            other => panic!("{other:?}"),
        };
        let to = match action.cluster_specifier.as_ref().unwrap() {
            route::route_action::ClusterSpecifier::Cluster(name) => name.clone(),
            route::route_action::ClusterSpecifier::WeightedClusters(split) => {
                let shares = split.clusters.iter().map(|it| format!("{}={}", it.name, it.weight.unwrap().value));
                shares.collect::<Vec<_>>().join(" ")
            }
            other => panic!("{other:?}"),
        };
        (path, to, action.retry_policy.as_ref().and_then(|it| it.num_retries).map(|it| it.value))
    };
    it.virtual_hosts[0].routes.iter().map(row).collect()
}

fn with_methods(service: ServiceSnapshot) -> ServiceSnapshot {
    let method = |name: &str, idempotent| Method {
        name: name.into(),
        client_streaming: false,
        server_streaming: false,
        idempotent,
        missing_in: Vec::new(),
    };
    let methods = vec![method("Get", true), method("Create", false)];
    let grpc_services = vec![GrpcService { name: "u.Users".into(), methods }];
    ServiceSnapshot { info: Arc::new(ServiceInfo { grpc_services, ..ServiceInfo::default() }), ..service }
}

#[test]
fn repeatable_methods_are_tried_again_and_no_others() {
    let row = |path: &str, to: &str, retries| (path.to_owned(), to.to_owned(), retries);
    let all = row("/*", "users.default", None);
    let get = row("/u.Users/Get", "users.default", Some(2));
    assert_eq!(routes(with_methods(users([]))), [get, all.clone()]);
    assert_eq!(routes(users([])), [all]);
}

#[test]
fn rules_come_first_and_keep_what_is_repeatable() {
    let row = |path: &str, to: &str, retries| (path.to_owned(), to.to_owned(), retries);
    let split = "users.default=90 users-canary.default=10";
    let service = with_methods(users([]));
    assert_eq!(
        routes(with_policies(service.clone(), &["users=90 users-canary=10 nobody=0"])),
        [
            row("/u.Users/Get", split, Some(2)),
            row("/*", split, None),
            row("/u.Users/Get", "users.default", Some(2)),
            row("/*", "users.default", None),
        ]
    );
    assert_eq!(
        routes(with_policies(service.clone(), &["method=u.Users/Get retry=3", "method=u.Users/Create timeout=10"])),
        [
            row("/u.Users/Get", "users.default", Some(3)),
            row("/u.Users/Create", "users.default", None),
            row("/u.Users/Get", "users.default", Some(2)),
            row("/*", "users.default", None),
        ]
    );
    assert_eq!(
        routes(with_policies(service, &["method=u.Users/Get retry=0"]))[0],
        row("/u.Users/Get", "users.default", None)
    );
}

#[test]
fn a_fault_brings_its_filter_along() {
    let filters = |service| {
        let it: Listener = get(&world_of([service]), &nobody(), Kind::Listener, "users");
        let manager = it.api_listener.unwrap().api_listener.unwrap();
        let manager = <HttpConnectionManager as prost::Message>::decode(manager.value.as_slice()).unwrap();
        let Some(RouteSpecifier::RouteConfig(routes)) = manager.route_specifier else { panic!("routes are inline") };
        let faulty = routes.virtual_hosts[0].routes.iter().filter(|it| !it.typed_per_filter_config.is_empty()).count();
        (manager.http_filters.len(), faulty)
    };
    assert_eq!(filters(users([])), (1, 0));
    assert_eq!(filters(with_policies(users([]), &["abort=14"])), (2, 1));
}

#[test]
fn no_policy_changes_the_listener_of_an_envoy() {
    let listener = |service| {
        let (world, envoy) = (world_of([service]), envoy());
        let name = super::super::names(&world, &envoy, Kind::Listener).swap_remove(0);
        get::<Listener>(&world, &envoy, Kind::Listener, &name)
    };
    assert_eq!(listener(users([])), listener(with_policies(users([]), &["abort=14"])));
}

#[test]
fn an_envoy_has_one_listener_and_routes_by_authority_and_by_grpc_service() {
    let world = world_of([with_methods(users([instance(1)]))]);
    let envoy = envoy();
    let all = |kind| super::super::names(&world, &envoy, kind).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        (all(Kind::Listener), all(Kind::Cluster)),
        (vec!["weft/outbound".to_owned()], vec!["users.default".to_owned()])
    );
    let it: RouteConfiguration = get(&world, &envoy, Kind::Route, "weft/outbound");
    let domains: Vec<_> = it.virtual_hosts.iter().map(|it| it.domains.join(" ")).collect();
    assert_eq!(domains, ["users users.default users.default.weft", "*"]);
    let paths: Vec<_> = it.virtual_hosts[1]
        .routes
        .iter()
        .map(|it| format!("{:?}", it.r#match.as_ref().unwrap().path_specifier))
        .collect();
    assert_eq!(paths, ["Some(Path(\"/u.Users/Get\"))", "Some(Prefix(\"/u.Users/\"))"]);
    let cluster: Cluster = get(&world, &envoy, Kind::Cluster, "users.default");
    let policies: Vec<_> = cluster.load_balancing_policy.unwrap().policies;
    let names: Vec<_> = policies.iter().map(|it| it.typed_extension_config.as_ref().unwrap().name.as_str()).collect();
    assert_eq!(names, ["envoy.load_balancing_policies.round_robin"], "Envoy refuses wrr_locality around round robin");
    let silent = Profile { listen: None, ..envoy };
    assert!(
        super::super::names(&world, &silent, Kind::Listener).is_empty(),
        "an Envoy that does not say where has none"
    );
}

#[test]
fn an_envoy_tries_again_what_our_own_proxies_do_and_elsewhere() {
    let service = with_policies(with_methods(users([instance(1)])), &["method=u.Users/Create retry=3"]);
    let world = world_of([service]);
    let envoy = envoy();
    let it: RouteConfiguration = get(&world, &envoy, Kind::Route, "weft/outbound");
    let on = it.virtual_hosts[1].routes.iter().map(|it| {
        let Some(route::route::Action::Route(action)) = &it.action else { panic!("{it:?}") };
        let retry = action.retry_policy.as_ref().unwrap();
        assert_eq!(retry.retry_host_predicate[0].name, "envoy.retry_host_predicates.previous_hosts");
        retry.retry_on.as_str()
    });
    let broken_off = "unavailable,connect-failure,refused-stream,reset";
    assert_eq!(on.collect::<Vec<_>>(), [broken_off, broken_off, "connect-failure,refused-stream"]);
    let cluster: Cluster = get(&world, &envoy, Kind::Cluster, "users.default");
    let bounds = &cluster.circuit_breakers.unwrap().thresholds[0];
    assert!(bounds.max_retries.is_none() && bounds.retry_budget.is_some(), "its own default is 3 at once");
}

#[test]
fn a_server_enforces_the_access_policies_of_its_service() {
    let name = format!("{SERVER_LISTENER}0.0.0.0:50051");
    let filters = |service: ServiceSnapshot| {
        let profile = Profile { service: Some("users".parse().unwrap()), ..certified() };
        let it: Listener = get(&world_of([service]), &profile, Kind::Listener, &name);
        let chain = it.default_filter_chain.unwrap();
        assert!(chain.transport_socket.is_some());
        let Some(super::super::messages::listener::filter::ConfigType::TypedConfig(config)) =
            &chain.filters[0].config_type
        else {
            panic!("no config")
        };
        let manager = <HttpConnectionManager as prost::Message>::decode(config.value.as_slice()).unwrap();
        manager.http_filters.into_iter().map(|it| it.name).collect::<Vec<_>>()
    };
    let router = "envoy.filters.http.router";
    assert_eq!(filters(users([])), [router]);
    let rule = |name: &str, action| {
        let from = Callers { authenticated: true, ..Callers::default() };
        Rule::new(name.parse().unwrap(), action, from, vec![]).unwrap()
    };
    let with = |rules: Vec<Rule>| {
        let kind = PolicyKind::Access(Access::new(rules).unwrap());
        let policy =
            Policy { name: "p".parse().unwrap(), service: "users".parse().unwrap(), version: Version(1), kind };
        ServiceSnapshot { policies: [Arc::new(policy)].into(), ..users([]) }
    };
    assert_eq!(filters(with(vec![rule("a", Action::Allow)])), ["weft.allowed", router]);
    assert_eq!(filters(with(vec![rule("d", Action::Deny)])), ["weft.denied", "weft.allowed", router]);
    assert_eq!(filters(with(vec![])), ["weft.allowed", router], "a policy without rules lets nobody in");
}
