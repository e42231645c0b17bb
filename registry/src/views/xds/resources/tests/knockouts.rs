//! The rules are no formality: with one field taken out or changed, of a resource that they pass, they fail and name it.
//!
//! Lives here: one row a rule; the test traps of the xDS contract by name. Does not: what real clients make of it (`tests/e2e/xds/knockout`).

use weft_model::{
    Endpoint, Epoch, Instance, InstanceId, Locality, Protocol, ServiceSnapshot, Status, Transport, Version, Weight,
};

use super::{
    super::{
        build, decode,
        messages::{
            Any, Cluster, ClusterLoadAssignment, HttpConnectionManager, Listener, RouteConfiguration, RouteSpecifier,
            any, cluster, core, endpoint, http_filter, route, tls,
        },
    },
    any_mesh::world_of,
    rules::{self, Bootstrap, Verdict},
};
use crate::views::xds::{Kind, Profile};

fn secured() -> Profile {
    Profile { providers: ["weft".to_owned()].into(), ..Profile::default() }
}

/// A resource of a mesh with three instances in two zones, which the rules pass.
fn sound<M: prost::Message + prost::Name + Default>(kind: Kind, name: &str) -> M {
    let instance = |n: u16, zone: &str| Instance {
        id: InstanceId::from_bytes([u8::try_from(n).unwrap(); 16]),
        service: "users".parse().unwrap(),
        epoch: Epoch(1),
        endpoint: Endpoint {
            address: format!("127.0.0.1:{n}").parse().unwrap(),
            transport: Transport::Mtls { identity: "spiffe://a/ns/default/svc/users".parse().unwrap() },
            protocol: Protocol::H2,
        },
        status: Status::Serving,
        reason: String::new(),
        locality: Locality::new("", zone, ""),
        weight: Weight::ONE,
        metadata: Default::default(),
        descriptors: None,
        check: None,
    };
    let instances = [instance(1, "a"), instance(2, "a"), instance(3, "b")];
    let users = ServiceSnapshot {
        instances: instances.into_iter().map(|it| (it.id, std::sync::Arc::new(it))).collect(),
        ..ServiceSnapshot::empty("users".parse().unwrap(), Version(1))
    };
    let from = Locality::new("", "a", "");
    let profile = Profile { locality: from, ..secured() };
    let built = build(&world_of([users]), &profile.relevant(kind, name), kind, name);
    decode(&built.resource.expect("there is one"))
}

/// What the verdict says, and what is taken out or put in.
type Row<M> = (&'static str, fn(&mut M));

fn check<M: prost::Message + prost::Name + Default>(
    kind: Kind,
    name: &str,
    rules: impl Fn(&M) -> Verdict,
    rows: Vec<Row<M>>,
) {
    assert_eq!(rules(&sound(kind, name)), Ok(()));
    for (says, out) in rows {
        let mut broken: M = sound(kind, name);
        out(&mut broken);
        let verdict = rules(&broken).expect_err(says);
        assert!(verdict.contains(says), "{verdict:?} does not say {says:?}");
    }
}

fn manager(it: &mut Listener, how: impl FnOnce(&mut HttpConnectionManager)) {
    let inner = it.api_listener.as_mut().unwrap().api_listener.as_mut().unwrap();
    let mut manager = <HttpConnectionManager as prost::Message>::decode(inner.value.as_slice()).unwrap();
    how(&mut manager);
    *inner = any(&manager);
}

fn routes(it: &mut Listener, how: impl FnOnce(&mut RouteConfiguration)) {
    manager(it, |it| {
        let Some(RouteSpecifier::RouteConfig(routes)) = &mut it.route_specifier else { panic!("routes are inline") };
        how(routes);
    });
}

fn action(it: &mut Listener, how: impl FnOnce(&mut route::RouteAction)) {
    routes(it, |it| {
        let Some(route::route::Action::Route(action)) = &mut it.virtual_hosts[0].routes[0].action else {
            panic!("forwards")
        };
        how(action);
    });
}

#[test]
fn a_listener_without_a_field_is_no_listener() {
    let rows: Vec<Row<Listener>> = vec![
        ("name is", |it| it.name = "other".into()),
        ("address is set beside api_listener", |it| it.address = Some(core::Address::default())),
        ("api_listener.api_listener is not set", |it| it.api_listener = None),
        ("http_filters is empty", |it| manager(it, |it| it.http_filters.clear())),
        ("xff_num_trusted_hops is not 0", |it| manager(it, |it| it.xff_num_trusted_hops = 1)),
        ("names of http_filters are not unique", |it| {
            manager(it, |it| it.http_filters.push(it.http_filters[0].clone()));
        }),
        ("the router is not the last", |it| {
            manager(it, |it| {
                it.http_filters[0] = http_filter("x", &super::super::messages::fault::HttpFault::default())
            })
        }),
        ("is an unknown filter", |it| manager(it, |it| it.http_filters[0] = http_filter("x", &Cluster::default()))),
        ("route_config and rds are both not set", |it| manager(it, |it| it.route_specifier = None)),
        ("virtual_hosts is empty", |it| routes(it, |it| it.virtual_hosts.clear())),
        ("domains of", |it| routes(it, |it| it.virtual_hosts[0].domains.clear())),
        ("in its middle", |it| routes(it, |it| it.virtual_hosts[0].domains = vec!["a.*.b".into()])),
        ("is there twice", |it| routes(it, |it| it.virtual_hosts[0].domains = vec!["*".into(), "*".into()])),
        ("match is not set", |it| routes(it, |it| it.virtual_hosts[0].routes[0].r#match = None)),
        ("match has no path specifier", |it| {
            routes(it, |it| it.virtual_hosts[0].routes[0].r#match.as_mut().unwrap().path_specifier = None);
        }),
        ("action is not set", |it| routes(it, |it| it.virtual_hosts[0].routes[0].action = None)),
        ("cluster_specifier is not set", |it| action(it, |it| it.cluster_specifier = None)),
        ("weights of weighted_clusters add up to 0", |it| {
            action(it, |it| {
                let none = route::WeightedCluster::default();
                it.cluster_specifier = Some(route::route_action::ClusterSpecifier::WeightedClusters(none));
            });
        }),
        ("num_retries is 0", |it| {
            action(it, |it| {
                let none = super::super::messages::number(0);
                it.retry_policy = Some(route::RetryPolicy { num_retries: none, ..route::RetryPolicy::default() });
            });
        }),
        ("base_interval is not set", |it| {
            action(it, |it| {
                let back_off = Some(route::retry_policy::RetryBackOff::default());
                it.retry_policy =
                    Some(route::RetryPolicy { retry_back_off: back_off, ..route::RetryPolicy::default() });
            });
        }),
    ];
    check(Kind::Listener, "users", |it| rules::channel_listener(it, "users"), rows);
}

fn context(it: &mut Cluster, how: impl FnOnce(&mut tls::CommonTlsContext)) {
    let Some(core::transport_socket::ConfigType::TypedConfig(inner)) =
        &mut it.transport_socket.as_mut().unwrap().config_type
    else {
        panic!("it has one")
    };
    let mut context = <tls::UpstreamTlsContext as prost::Message>::decode(inner.value.as_slice()).unwrap();
    how(context.common_tls_context.as_mut().unwrap());
    *inner = any(&context);
}

#[test]
fn a_cluster_without_a_field_is_no_cluster() {
    let rows: Vec<Row<Cluster>> = vec![
        ("name is", |it| it.name.clear()),
        ("type is not EDS", |it| it.cluster_discovery_type = None),
        ("eds_cluster_config is not set", |it| it.eds_cluster_config = None),
        ("eds_config is neither ads nor self", |it| it.eds_cluster_config.as_mut().unwrap().eds_config = None),
        ("lb_policy is LeastRequest", |it| it.set_lb_policy(cluster::cluster::LbPolicy::LeastRequest)),
        ("does not end with round robin", |it| drop(it.load_balancing_policy.as_mut().unwrap().policies.pop())),
        ("tls_certificate_provider_instance is not set", |it| {
            context(it, |it| it.tls_certificate_provider_instance = None)
        }),
        ("is not in the bootstrap", |it| {
            context(it, |it| it.tls_certificate_provider_instance.as_mut().unwrap().instance_name = "x".into());
        }),
        ("validation context is None", |it| context(it, |it| it.validation_context_type = None)),
        ("tls_params is set", |it| context(it, |it| it.tls_params = Some(Default::default()))),
    ];
    let bootstrap = Bootstrap { providers: secured().providers };
    check(Kind::Cluster, "users.default", |it| rules::cluster_of(it, "users.default", &bootstrap), rows);
}

fn first(it: &mut ClusterLoadAssignment) -> &mut endpoint::LbEndpoint {
    &mut it.endpoints[0].lb_endpoints[0]
}

fn socket(it: &mut ClusterLoadAssignment) -> &mut core::SocketAddress {
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = &mut first(it).host_identifier else {
        panic!("it has one")
    };
    let Some(core::address::Address::SocketAddress(socket)) = &mut host.address.as_mut().unwrap().address else {
        panic!("it has one")
    };
    socket
}

#[test]
fn endpoints_without_a_field_are_none() {
    let rows: Vec<Row<ClusterLoadAssignment>> = vec![
        ("cluster_name is", |it| it.cluster_name.clear()),
        ("locality is not set", |it| it.endpoints[0].locality = None),
        ("the locality is ignored in silence", |it| it.endpoints[0].load_balancing_weight = None),
        ("priorities have a gap", |it| it.endpoints[1].priority = 2),
        ("is there twice", |it| it.endpoints.push(it.endpoints[0].clone())),
        ("127.0.0.1:1 is there twice", |it| {
            let twice = it.endpoints[0].lb_endpoints[0].clone();
            it.endpoints[1].lb_endpoints.push(twice);
        }),
        ("has no endpoint", |it| it.endpoints[0].lb_endpoints.clear()),
        ("is no IP literal", |it| socket(it).address = "localhost".into()),
        ("has no port_value", |it| socket(it).port_specifier = None),
        ("is Draining: no client uses it", |it| first(it).set_health_status(core::HealthStatus::Draining)),
        ("is Unhealthy: no client uses it", |it| first(it).set_health_status(core::HealthStatus::Unhealthy)),
        ("weight of 127.0.0.1:1 is 0", |it| first(it).load_balancing_weight = super::super::messages::number(0)),
    ];
    let name = "users.default/mtls";
    check(Kind::Endpoint, name, |it| rules::endpoints_of(it, name), rows);
}

#[test]
fn an_any_of_another_type_is_seen() {
    let mut it: Listener = sound(Kind::Listener, "users");
    it.api_listener.as_mut().unwrap().api_listener = Some(Any::default());
    assert!(rules::channel_listener(&it, "users").is_err());
}
