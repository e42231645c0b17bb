//! Resources for tests of the view itself: as little as tells one state from another. What clients need in them is the matter of `resources`.
//!
//! Lives here: a maker, and how often it was asked. Does not: anything that ships.

use std::{cell::Cell, collections::BTreeSet, sync::Arc};

use envoy_types::pb::envoy::config::{
    cluster::v3::Cluster,
    core::v3::{Address, SocketAddress, address, socket_address::PortSpecifier},
    endpoint::v3::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier},
    listener::v3::Listener,
    route::v3::RouteConfiguration,
};
use weft_model::{ServiceName, ServiceSnapshot};

use super::{Built, Kind, Maker, Profile, Resource, XdsWorld};

/// Resources of every listed service, by its names; clusters are there by the name alone.
pub(crate) const MAKER: Maker = Maker { build, names };

thread_local! {
    /// How often this thread has built something.
    pub(crate) static BUILT: Cell<usize> = const { Cell::new(0) };
}

fn build(world: &XdsWorld, _: &Profile, kind: Kind, name: &str) -> Built {
    BUILT.set(BUILT.get() + 1);
    let Some(service) = ServiceName::from_authority(name) else { return Built::default() };
    let listed = world.service(&service);
    let resource = match kind {
        Kind::Cluster => Some(Resource::of(&Cluster { name: name.into(), ..Cluster::default() })),
        Kind::Endpoint => listed.map(|service| Resource::of(&endpoints(name, service))),
        Kind::Listener => listed.map(|_| Resource::of(&Listener { name: name.into(), ..Listener::default() })),
        Kind::Route => {
            listed.map(|_| Resource::of(&RouteConfiguration { name: name.into(), ..RouteConfiguration::default() }))
        }
    };
    Built { resource, depends_on: BTreeSet::from([service]), ..Built::default() }
}

fn endpoints(name: &str, service: &ServiceSnapshot) -> ClusterLoadAssignment {
    let serving = service.instances.values().filter(|it| it.status.takes_calls()).map(|it| {
        let socket = SocketAddress {
            address: it.endpoint.address.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(it.endpoint.address.port().into())),
            ..SocketAddress::default()
        };
        let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
        let endpoint = HostIdentifier::Endpoint(Endpoint { address, ..Endpoint::default() });
        LbEndpoint { host_identifier: Some(endpoint), ..LbEndpoint::default() }
    });
    let locality = LocalityLbEndpoints { lb_endpoints: serving.collect(), ..LocalityLbEndpoints::default() };
    ClusterLoadAssignment { cluster_name: name.into(), endpoints: vec![locality], ..ClusterLoadAssignment::default() }
}

/// Ports of the endpoints of an assignment.
pub(crate) fn ports(assignment: &ClusterLoadAssignment) -> Vec<u32> {
    let endpoints = assignment.endpoints.iter().flat_map(|it| &it.lb_endpoints);
    let port = |it: &LbEndpoint| match it.host_identifier.as_ref()? {
        HostIdentifier::Endpoint(endpoint) => match endpoint.address.as_ref()?.address.as_ref()? {
            address::Address::SocketAddress(socket) => match socket.port_specifier.as_ref()? {
                PortSpecifier::PortValue(port) => Some(*port),
                PortSpecifier::NamedPort(_) => None,
            },
            _ => None,
        },
        HostIdentifier::EndpointName(_) => None,
    };
    endpoints.filter_map(port).collect()
}

fn names(world: &XdsWorld, _: &Profile, _: Kind) -> Vec<Arc<str>> {
    world.services().map(|service| service.name.full().into()).collect()
}
