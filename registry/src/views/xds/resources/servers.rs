//! Listener of a gRPC server with xDS credentials (gRFC A36): who may connect, and what they may call.
//!
//! Lives here: the listener, access policies as RBAC (gRFC A41). Does not: what access policies mean (`weft-model`), judging calls of our own sidecars.
//! The server names its service by `node.cluster`; its access policies are then enforced by the server itself. Each policy of Allow rules becomes part
//! of one filter that lets in what a rule allows, and Deny rules become a filter before it, so that denying wins. Without an access policy every
//! caller with an identity gets in, as with our sidecars. With certificates, only callers with one of the mesh get a connection at all.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
};

use envoy_types::pb::envoy::config::rbac::v3::{self as rbac, Permission, Principal, permission, principal};
use weft_model::{Access, Action, Callers, MethodPattern, PolicyKind, ServiceSnapshot, SpiffeId};

use super::{
    listeners::{chain, ending_with_router},
    messages::{
        HttpConnectionManager, HttpFilter, Listener, Route, RouteConfiguration, RouteMatch, RouteSpecifier,
        VirtualHost, address, any, core, exactly, http_filter, matcher, rbac_filter, route,
    },
    tls::{self, Certificates},
};

/// The listener of a server of this service at this address. Without a service nobody's policies are enforced.
pub(super) fn listener(
    name: &str,
    at: SocketAddr,
    service: Option<&ServiceSnapshot>,
    certificates: Option<&Certificates>,
) -> Listener {
    let filters = service.map(access).unwrap_or_default();
    let manager = HttpConnectionManager {
        route_specifier: Some(RouteSpecifier::RouteConfig(everything())),
        http_filters: ending_with_router(filters),
        ..HttpConnectionManager::default()
    };
    let mut chain = chain(&any(&manager));
    chain.transport_socket = certificates.map(tls::downstream);
    Listener {
        name: name.to_owned(),
        address: address(at),
        default_filter_chain: Some(chain),
        traffic_direction: core::TrafficDirection::Inbound.into(),
        ..Listener::default()
    }
}

fn everything() -> RouteConfiguration {
    let prefix = route::route_match::PathSpecifier::Prefix("/".to_owned());
    let all = Route {
        r#match: Some(RouteMatch { path_specifier: Some(prefix), ..RouteMatch::default() }),
        action: Some(route::route::Action::NonForwardingAction(route::NonForwardingAction {})),
        ..Route::default()
    };
    let host = VirtualHost {
        name: "everything".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![all],
        ..VirtualHost::default()
    };
    RouteConfiguration { name: "inbound".to_owned(), virtual_hosts: vec![host], ..RouteConfiguration::default() }
}

fn access(service: &ServiceSnapshot) -> Vec<HttpFilter> {
    let policies: Vec<&Access> = service
        .policies
        .iter()
        .filter_map(|it| match &it.kind {
            PolicyKind::Access(access) => Some(access),
            PolicyKind::PlaintextUpstream(_) | PolicyKind::Route(_) | PolicyKind::Upstream(_) | PolicyKind::Edge(_) => {
                None
            }
        })
        .collect();
    if policies.is_empty() {
        return Vec::new();
    }
    let denied = filter("weft.denied", rbac::rbac::Action::Deny, rule(&policies, Action::Deny));
    let allowed = filter("weft.allowed", rbac::rbac::Action::Allow, rule(&policies, Action::Allow));
    denied.into_iter().chain(allowed.or_else(|| Some(nobody()))).collect()
}

/// A filter with one policy; of several entries the map would have no order. None if no rule says so.
fn filter(name: &str, action: rbac::rbac::Action, policy: Option<rbac::Policy>) -> Option<HttpFilter> {
    let policies = HashMap::from([("rules".to_owned(), policy?)]);
    let rules = rbac::Rbac { action: action.into(), policies, ..rbac::Rbac::default() };
    Some(http_filter(name, &rbac_filter::Rbac { rules: Some(rules), ..rbac_filter::Rbac::default() }))
}

/// Lets no call in.
fn nobody() -> HttpFilter {
    let rules = rbac::Rbac { action: rbac::rbac::Action::Allow.into(), ..rbac::Rbac::default() };
    http_filter("weft.allowed", &rbac_filter::Rbac { rules: Some(rules), ..rbac_filter::Rbac::default() })
}

/// All rules of one action as one policy: a permission that holds both who and what would need two lists that belong together, so each rule is an
/// `and` of its methods and the callers it is about, told apart by a permission that matches the path and a principal that matches everything.
fn rule(policies: &[&Access], action: Action) -> Option<rbac::Policy> {
    let rules = policies.iter().flat_map(|it| it.rules()).filter(|it| it.action() == action);
    let principals: Vec<Principal> = rules
        .map(|rule| {
            let who = any_principal(callers(rule.from()));
            let what = rule.methods().iter().map(path).collect::<Vec<_>>();
            if what.is_empty() { who } else { all_principals(vec![who, any_principal(what)]) }
        })
        .collect();
    let everything = Permission { rule: Some(permission::Rule::Any(true)) };
    (!principals.is_empty()).then(|| rbac::Policy {
        permissions: vec![everything],
        principals,
        ..rbac::Policy::default()
    })
}

fn principal(identifier: principal::Identifier) -> Principal {
    Principal { identifier: Some(identifier) }
}

fn any_principal(ids: Vec<Principal>) -> Principal {
    principal(principal::Identifier::OrIds(principal::Set { ids }))
}

fn all_principals(ids: Vec<Principal>) -> Principal {
    principal(principal::Identifier::AndIds(principal::Set { ids }))
}

fn path(pattern: &MethodPattern) -> Principal {
    use matcher::string_matcher::MatchPattern;
    let pattern = match pattern.method() {
        Some(method) => MatchPattern::Exact(format!("/{}/{method}", pattern.grpc_service())),
        None => MatchPattern::Prefix(format!("/{}/", pattern.grpc_service())),
    };
    let path = matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false };
    principal(principal::Identifier::UrlPath(matcher::PathMatcher {
        rule: Some(matcher::path_matcher::Rule::Path(path)),
    }))
}

/// The callers of a rule. Services and namespaces stand for the end of an identity, whatever its trust domain: the connection has proved that.
fn callers(from: &Callers) -> Vec<Principal> {
    let exact = from.identities.iter().map(|it: &SpiffeId| named(exactly(it.as_str())));
    let services = from.services.iter().map(|it| format!("/ns/{}/svc/{}", it.namespace(), it.name()));
    let services = services
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|end| named(string(matcher::string_matcher::MatchPattern::Suffix(end))));
    let namespaces = from.namespaces.iter().map(|it| {
        let regex = format!("spiffe://[^/]+/ns/{}/svc/[^/]+", it.as_str());
        named(string(matcher::string_matcher::MatchPattern::SafeRegex(matcher::RegexMatcher {
            regex,
            ..Default::default()
        })))
    });
    let authenticated = from.authenticated.then(somebody);
    let anonymous = from.anonymous.then(|| principal(principal::Identifier::NotId(Box::new(somebody()))));
    exact.chain(services).chain(namespaces).chain(authenticated).chain(anonymous).collect()
}

fn string(pattern: matcher::string_matcher::MatchPattern) -> matcher::StringMatcher {
    matcher::StringMatcher { match_pattern: Some(pattern), ignore_case: false }
}

fn named(name: matcher::StringMatcher) -> Principal {
    principal(principal::Identifier::Authenticated(principal::Authenticated { principal_name: Some(name) }))
}

/// Anyone with an identity.
fn somebody() -> Principal {
    principal(principal::Identifier::Authenticated(principal::Authenticated { principal_name: None }))
}
