//! What resources say.
//!
//! Lives here: which builder makes a resource of a name, what its outcome rests on, what there is. Does not: when, for whom, how often (`hub`, `session`).
//! Names of resources:
//! ```text
//! Listener   users · users.default · users.default.weft, each with or without a port      a gRPC channel to xds:///…
//!            grpc/server?xds.resource.listening_address=ADDRESS                           a gRPC server
//!            weft/outbound                                                               an Envoy
//! Route      weft/outbound; of a service: as its listener
//! Cluster    users.default
//! Endpoint   users.default: those who take plaintext · users.default/mtls: those who speak mutual TLS
//! ```
//! A name without a namespace means a service of the node's own namespace first, then one of `default`, for its listener and its routes, as with
//! sidecars; names of clusters and endpoints are full.
//! A service's listener, routes and cluster exist by the name alone. Its endpoints exist when it is listed, so that a client waits for a service that
//! is about to come, keeps what it has while a restarted registry does not know it yet, and fails at once where a listed service has nobody.

mod clusters;
mod endpoints;
mod listeners;
mod messages;
mod places;
mod reach;
mod routes;
mod rules;
mod servers;
mod tls;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use prost::Name;
use weft_model::{Protocol, ServiceName, ServiceSnapshot, Transport};

use self::{
    endpoints::Spread,
    messages::{Cluster, ClusterLoadAssignment},
    reach::{Reach, Set, TrustDomain},
    tls::Certificates,
};
use super::{
    Built, Kind, Profile, Resource, XdsWorld,
    profile::{Family, SERVER_LISTENER},
    resource::LeftOut,
};

/// Why endpoints that serve are not told.
const TLS_ONLY: &str = "they take mutual TLS only: start the client with a bootstrap of `weft bootstrap --identity DIR`; \
    it gets them if all instances of the service speak mutual TLS";
const NOT_ALLOWED: &str = "they speak plaintext, which no policy of the service allows: give them a sidecar, or apply `plaintext_upstream: allow`";
const OTHER_TLS: &str = "they speak TLS with a certificate from outside of the mesh, which xDS clients are not told of";

/// Builds a resource for nodes of a profile: a pure function of the services it names in `depends_on`. `profile` has only what is relevant
/// for the kind and name ([`Profile::relevant`]).
pub(crate) fn build(world: &XdsWorld, profile: &Profile, kind: Kind, name: &str) -> Built {
    match (kind, profile.family) {
        (Kind::Listener, _) if name.starts_with(SERVER_LISTENER) => servers_listener(world, profile, name),
        (Kind::Listener, Family::Envoy) => envoys_listener(profile, name),
        (Kind::Listener, Family::Grpc) => of_service(world, profile, name, |service| {
            let routes = routes::of_service(service.name.full(), service);
            let filters = rules::filters(service);
            Resource::of(&listeners::for_channel(name, routes, filters))
        }),
        (Kind::Route, _) if name == routes::ALL => all_routes(world, profile),
        (Kind::Route, _) => {
            of_service(world, profile, name, |service| Resource::of(&routes::of_service(name, service)))
        }
        (Kind::Cluster, _) => cluster(world, profile, name),
        (Kind::Endpoint, family) => assignment(world, profile, family, name),
    }
}

/// Names of all resources of a kind that has a wildcard. Depends on the names, policies and facts of services only, never on instances.
pub(crate) fn names(world: &XdsWorld, profile: &Profile, kind: Kind) -> Vec<Arc<str>> {
    match (kind, profile.family) {
        (Kind::Listener, Family::Envoy) => profile.listen.map(|_| routes::ALL.into()).into_iter().collect(),
        (Kind::Listener | Kind::Cluster, _) => world.services().map(|it| it.name.full().into()).collect(),
        (Kind::Endpoint | Kind::Route, _) => Vec::new(),
    }
}

fn of_service(
    world: &XdsWorld,
    profile: &Profile,
    name: &str,
    make: impl FnOnce(&Arc<ServiceSnapshot>) -> Resource,
) -> Built {
    let Some(service) = ServiceName::from_authority(name) else { return Built::default() };
    let bare = !name.contains('.'); // a port has no dots
    let home = profile.home.as_ref().filter(|_| bare);
    let Some(own) = home.and_then(|home| format!("{}.{home}", service.name()).parse::<ServiceName>().ok()) else {
        return of(service.clone(), Some(make(&known(world, &service))));
    };
    let is_guess = world.service(&own).is_none();
    let meant = if is_guess && world.service(&service).is_some() { &service } else { &own };
    let resource = Some(make(&known(world, meant)));
    Built { resource, depends_on: [service, own].into(), is_guess, ..Built::default() }
}

/// The one listener of an Envoy. It has every filter that a route may ever refer to: one that came with the first policy would change it, and cut calls.
fn envoys_listener(profile: &Profile, name: &str) -> Built {
    let Some(at) = profile.listen.filter(|_| name == routes::ALL) else { return Built::default() };
    of_list(Resource::of(&listeners::for_envoy(name, at, routes::ALL, rules::all_filters())))
}

fn all_routes(world: &XdsWorld, profile: &Profile) -> Built {
    let services: Vec<&ServiceSnapshot> = world.services().map(AsRef::as_ref).collect();
    of_list(Resource::of(&routes::of_all(&services, profile.home.as_deref())))
}

/// What rests on one service.
fn of(service: ServiceName, resource: Option<Resource>) -> Built {
    Built { resource, depends_on: [service].into(), ..Built::default() }
}

/// What rests on the list of services: whoever is missing is missing in it.
fn of_list(resource: Resource) -> Built {
    Built { resource: Some(resource), depends_on_list: true, is_guess: true, ..Built::default() }
}

fn servers_listener(world: &XdsWorld, profile: &Profile, name: &str) -> Built {
    let address = name.strip_prefix(SERVER_LISTENER).and_then(|it| it.parse().ok());
    let Some(address) = address else { return Built::default() };
    let service = profile.service.as_ref().map(|it| known(world, it));
    let listener = servers::listener(name, address, service.as_deref(), certificates(profile).as_ref());
    let depends_on = profile.service.iter().cloned().collect();
    Built { resource: Some(Resource::of(&listener)), depends_on, ..Built::default() }
}

fn cluster(world: &XdsWorld, profile: &Profile, name: &str) -> Built {
    let Some(service) = ServiceName::from_authority(name) else { return Built::default() };
    let certificates = certificates(profile);
    let domain = TrustDomain(profile.trust_domain.as_deref().map(Into::into));
    let known = known(world, &service);
    let reach = Reach::of(&known, certificates.as_ref().map(|_| &domain));
    let bytes = clusters::cluster(name, &known, profile.family, &reach, certificates.as_ref());
    of(service, Some(Resource::encoded(Cluster::type_url(), bytes)))
}

fn assignment(world: &XdsWorld, profile: &Profile, family: Family, name: &str) -> Built {
    let Some((service, set)) = Set::named(name) else { return Built::default() };
    let spread = match family {
        Family::Grpc => Spread::Evenly,
        Family::Envoy => Spread::Endpoints,
    };
    let listed = world.service(&service);
    let told = listed.and_then(|it| {
        let members = reach::Members { service: it, set, mesh: world.mesh() };
        let bytes = endpoints::assignment(name, members, &profile.locality, spread)?;
        Some(Resource { left_out: left_out(members), ..Resource::encoded(ClusterLoadAssignment::type_url(), bytes) })
    });
    let is_in_doubt = listed.is_some() && told.is_none();
    Built { is_in_doubt, ..of(service.clone(), told) }
}

/// A service as it is listed, or as one that nobody knows.
fn known(world: &XdsWorld, service: &ServiceName) -> Arc<ServiceSnapshot> {
    let nobody = || Arc::new(ServiceSnapshot::empty(service.clone(), world.version()));
    world.service(service).cloned().unwrap_or_else(nobody)
}

fn certificates(profile: &Profile) -> Option<Certificates> {
    match (profile.family, &profile.secrets, profile.providers.first()) {
        (Family::Envoy, Some(directory), _) => Some(Certificates::Files(directory.clone())),
        (Family::Grpc, _, Some(provider)) => Some(Certificates::Provider(provider.clone())),
        (Family::Envoy, None, _) | (Family::Grpc, _, None) => None,
    }
}

fn left_out(members: reach::Members<'_>) -> Vec<LeftOut> {
    let mut counts = BTreeMap::new();
    let serving = members.service.instances.values().filter(|it| it.status.takes_calls());
    for instance in serving.filter(|it| it.endpoint.protocol == Protocol::H2 && !members.hold(it)) {
        let why = match instance.endpoint.transport {
            Transport::Mtls { .. } => TLS_ONLY,
            Transport::Plaintext => NOT_ALLOWED,
            Transport::Tls { .. } => OTHER_TLS,
        };
        *counts.entry(why).or_insert(0) += 1;
    }
    counts.into_iter().map(|(why, endpoints)| LeftOut { endpoints, why }).collect()
}

/// Reads a resource back.
#[cfg(test)]
fn decode<M: prost::Message + Name + Default>(resource: &Resource) -> M {
    let any = <messages::Any as prost::Message>::decode(resource.bytes.as_ref()).expect("an Any");
    assert_eq!(any.type_url, M::type_url());
    M::decode(any.value.as_slice()).expect("a message of its type")
}
