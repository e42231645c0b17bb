//! Edge policies, compiled: what a call of each method meets before it becomes a call of the mesh.
//!
//! Lives here: which policy speaks of which method. Does not: what a kind does (`edge::cors`, …), following the mesh (`routes::keeper`).
//! A policy of the service that owns a method comes before one of the service `gateway`, kind by kind; of several, the first by name counts.
//! Invariants: made once a version, beside the calls; a route that no policy speaks of has no plan, and its calls pay nothing.

use std::{collections::BTreeMap, collections::HashMap, sync::Arc};

use weft_model::{Edge, GATEWAY, Methods, Policy, PolicyKind, ServiceName, Snapshot};

use crate::edge::cors::Cors;

/// The edge policies as they were told, by service. Equal ones need no new table.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Told(BTreeMap<ServiceName, Vec<Arc<Policy>>>);

impl Told {
    /// Those of a mesh.
    pub(crate) fn of(snapshot: &Snapshot) -> Self {
        let services = snapshot.services.iter();
        Self::from_policies(services.flat_map(|(_, service)| service.policies.iter().cloned()))
    }

    /// Those of an edge kind among these, which come ordered by name.
    pub(crate) fn from_policies(policies: impl IntoIterator<Item = Arc<Policy>>) -> Self {
        let mut told: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for policy in policies {
            match policy.kind {
                PolicyKind::Edge(_) => told.entry(policy.service.clone()).or_default().push(policy),
                PolicyKind::Access(_)
                | PolicyKind::PlaintextUpstream(_)
                | PolicyKind::Route(_)
                | PolicyKind::Upstream(_) => {}
            }
        }
        Self(told)
    }
}

/// What calls of one method meet; something.
#[derive(Debug)]
pub(crate) struct EdgePlan {
    pub(crate) cors: Option<Arc<Cors>>,
}

/// The policies of all services, compiled.
#[derive(Debug, Default)]
pub(crate) struct Scopes {
    gateway: Scope,
    services: HashMap<ServiceName, Scope>,
}

/// The policies of one service, by name.
#[derive(Debug, Default)]
struct Scope {
    cors: Vec<(Methods, Arc<Cors>)>,
}

impl Scopes {
    pub(crate) fn compile(told: &Told) -> Self {
        let mut services: HashMap<ServiceName, Scope> =
            told.0.iter().map(|(name, policies)| (name.clone(), Scope::compile(policies))).collect();
        let gateway: ServiceName = GATEWAY.parse().expect("a constant that is a name");
        Self { gateway: services.remove(&gateway).unwrap_or_default(), services }
    }

    /// What calls of a method of `service` meet; `grpc_path` is `/pkg.Service/Method`.
    pub(crate) fn plan(&self, service: &ServiceName, grpc_path: &str) -> Option<Arc<EdgePlan>> {
        let own = self.services.get(service);
        let cors = own.and_then(|it| it.cors(grpc_path)).or_else(|| self.gateway.cors(grpc_path));
        cors.is_some().then(|| Arc::new(EdgePlan { cors: cors.cloned() }))
    }

    /// Which pages may read that nothing answers here: those that may call the gateway as a whole.
    pub(crate) fn cors_of_unmatched(&self) -> Option<&Arc<Cors>> {
        self.gateway.cors("")
    }
}

impl Scope {
    fn compile(policies: &[Arc<Policy>]) -> Self {
        let mut scope = Self::default();
        for policy in policies {
            match &policy.kind {
                PolicyKind::Edge(Edge::Cors(it)) => {
                    scope.cors.push((it.methods.clone(), Arc::new(Cors::new(policy.name.clone(), it))));
                }
                PolicyKind::Access(_)
                | PolicyKind::PlaintextUpstream(_)
                | PolicyKind::Route(_)
                | PolicyKind::Upstream(_) => {}
            }
        }
        scope
    }

    fn cors(&self, grpc_path: &str) -> Option<&Arc<Cors>> {
        first(&self.cors, grpc_path)
    }
}

fn first<'s, T>(scope: &'s [(Methods, Arc<T>)], grpc_path: &str) -> Option<&'s Arc<T>> {
    scope.iter().find(|(methods, _)| methods.include(grpc_path)).map(|(_, it)| it)
}

#[cfg(test)]
mod tests {
    use weft_model::{Cors as CorsPolicy, PlaintextUpstream, Version};

    use super::*;

    fn policy(name: &str, service: &str, kind: PolicyKind) -> Arc<Policy> {
        let (name, service) = (name.parse().unwrap(), service.parse().unwrap());
        Arc::new(Policy { name, service, version: Version(1), kind })
    }

    fn cors(name: &str, service: &str, methods: &[&str]) -> Arc<Policy> {
        let methods = Methods::new(methods.iter().map(|it| it.parse().unwrap()).collect()).unwrap();
        let origins = vec![format!("https://{name}.example").parse().unwrap()];
        policy(name, service, PolicyKind::Edge(Edge::Cors(CorsPolicy { methods, origins, ..CorsPolicy::closed() })))
    }

    /// The one origin that may call a method, as its first part.
    fn may(scopes: &Scopes, service: &str, path: &str) -> Option<String> {
        let plan = scopes.plan(&service.parse().unwrap(), path)?;
        let mut headers = http::HeaderMap::new();
        for name in ["a", "b", "whole"] {
            headers.insert("origin", format!("https://{name}.example").parse().unwrap());
            let mut told = http::HeaderMap::new();
            plan.cors.as_ref().unwrap().grant(&headers).write(&mut told);
            if told.contains_key("access-control-allow-origin") {
                return Some(name.to_owned());
            }
        }
        None
    }

    #[test]
    fn a_services_own_policy_comes_before_the_gateways_and_the_first_by_name_counts() {
        let told = Told::from_policies([
            cors("a", "users", &["u.Users/Get"]),
            cors("b", "users", &["u.Users/*"]),
            cors("whole", "gateway", &[]),
            policy("p", "posts", PolicyKind::PlaintextUpstream(PlaintextUpstream::Allow)),
        ]);
        let scopes = Scopes::compile(&told);
        assert_eq!(may(&scopes, "users", "/u.Users/Get").as_deref(), Some("a"));
        assert_eq!(may(&scopes, "users", "/u.Users/Put").as_deref(), Some("b"));
        assert_eq!(may(&scopes, "users", "/u.Admin/Stop").as_deref(), Some("whole"));
        assert_eq!(may(&scopes, "posts", "/p.Posts/Get").as_deref(), Some("whole"));
        assert!(scopes.cors_of_unmatched().is_some());
    }

    #[test]
    fn without_a_policy_there_is_no_plan() {
        let scopes = Scopes::compile(&Told::from_policies([cors("a", "users", &["u.Users/Get"])]));
        assert!(scopes.plan(&"users".parse().unwrap(), "/u.Users/Put").is_none());
        assert!(scopes.plan(&"posts".parse().unwrap(), "/u.Users/Get").is_none());
        assert!(scopes.cors_of_unmatched().is_none());
        let other =
            Told::from_policies([policy("p", "posts", PolicyKind::PlaintextUpstream(PlaintextUpstream::Allow))]);
        assert_eq!(other, Told::default());
    }
}
