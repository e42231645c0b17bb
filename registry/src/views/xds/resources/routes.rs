//! RouteConfiguration: which calls go to which cluster, for how long, and how often they are tried.
//!
//! Lives here: virtual hosts, the order of routes. Does not: what one route says (`rules`), clusters (`clusters`), who gets the routes inline (`listeners`).
//! A gRPC client asks for the routes of one service, and every authority that its channel may use means that service. An Envoy has the routes of
//! all services: by authority, and where the authority is none of ours by the gRPC service in the path.
//! The order of a service's routes: the rules of its route policies, policies by name; then everything else, to the service itself.

use std::collections::BTreeSet;

use weft_model::{PolicyKind, RouteRule, ServiceName, ServiceSnapshot};

use super::{
    messages::{Route, RouteConfiguration, VirtualHost},
    rules,
};
use crate::views::xds::profile::Family;

/// Name of the routes that an Envoy's listener uses.
pub(super) const ALL: &str = "weft/outbound";

/// Routes of one service, for a gRPC client.
pub(super) fn of_service(name: &str, service: &ServiceSnapshot) -> RouteConfiguration {
    let host = VirtualHost {
        name: service.name.full().to_owned(),
        domains: vec!["*".to_owned()],
        routes: routes(service, Family::Grpc),
        ..VirtualHost::default()
    };
    RouteConfiguration { name: name.to_owned(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}

/// Routes of all services, for an Envoy. A name without a namespace is one of its home, if that has such a service.
pub(super) fn of_all(services: &[&ServiceSnapshot], home: Option<&str>) -> RouteConfiguration {
    let at_home = services.iter().map(|it| &it.name).filter(|it| Some(it.namespace()) == home);
    let at_home: BTreeSet<&str> = at_home.map(ServiceName::name).collect();
    let by_authority = services.iter().map(|service| VirtualHost {
        name: service.name.full().to_owned(),
        domains: names(&service.name, home, &at_home),
        routes: routes(service, Family::Envoy),
        ..VirtualHost::default()
    });
    let by_path = services.iter().flat_map(|service| {
        let prefixes = service.info.grpc_services.iter().map(|grpc| format!("/{}/", grpc.name));
        prefixes.flat_map(|prefix| rules::within(&prefix, service, Family::Envoy))
    });
    let others = VirtualHost {
        name: "by gRPC service".to_owned(),
        domains: vec!["*".to_owned()],
        routes: by_path.collect(),
        ..VirtualHost::default()
    };
    let virtual_hosts = by_authority.chain([others]).collect();
    RouteConfiguration { name: ALL.to_owned(), virtual_hosts, ..RouteConfiguration::default() }
}

/// Every authority that names a service; an Envoy takes no domain twice.
fn names(service: &ServiceName, home: Option<&str>, at_home: &BTreeSet<&str>) -> Vec<String> {
    let full = service.full();
    let bare = match Some(service.namespace()) == home {
        true => service.name().to_owned(),
        false if at_home.contains(service.name()) => full.to_owned(),
        false => service.to_string(),
    };
    let mut names = vec![bare, full.to_owned(), format!("{full}.weft")];
    names.dedup();
    names
}

fn routes(service: &ServiceSnapshot, family: Family) -> Vec<Route> {
    rules::within("/", service, family)
}

/// The rules of a service's route policies, in the order in which they are asked.
pub(super) fn policies(service: &ServiceSnapshot) -> impl Iterator<Item = &RouteRule> {
    service
        .policies
        .iter()
        .filter_map(|it| match &it.kind {
            PolicyKind::Route(route) => Some(route.rules()),
            PolicyKind::Access(_)
            | PolicyKind::PlaintextUpstream(_)
            | PolicyKind::Upstream(_)
            | PolicyKind::Edge(_) => None,
        })
        .flatten()
}
