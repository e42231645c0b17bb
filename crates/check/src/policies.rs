//! Policies: whether the services and methods that they name are anybody's, and whether anybody acts by them.
//!
//! Lives here: the names in policies, held against what is registered and declared; policies that nothing comes to, since nobody enforces them where they
//! stand, or since another one comes first. Does not: what a policy does to a call (`weft-traffic`), how it is written (`weft-policy`).
//! Who calls need not be registered (a gateway, a job that runs at night), so a caller is doubted only where its name is one slip away from that
//! of a registered service. A service whose descriptors are not known may have any method.

use std::collections::BTreeSet;

use weft_model::{self as model, GATEWAY, HttpBinding};
use weft_proto::weft::{
    discovery::v1::{ClaimsResponse, ListResponse, ServiceUpdate},
    model::v1::ServiceInfo,
    policy::v1::{Access, Callers, Http, Policy, Route, Rule, policy::Kind, rule::Action},
};

use crate::{ids, registry, report::Outcome, services, target::Mesh, text::counted};

/// The namespace of a name that tells none.
const DEFAULT: &str = "default";
/// Health and reflection belong to nobody: any app may have them.
const ANYBODYS: &str = "grpc.";
/// Names below this length are a slip away from too many.
const SHORTEST_DOUBTED: usize = 4;

/// What is doubtful in policies, given what a registry lists: the policy's name and what it names that nobody has. For whoever applies them.
pub fn doubts(policies: &[Policy], list: &ListResponse, claims: &ClaimsResponse) -> Vec<(String, String)> {
    let gateway = gateway();
    let registered = registered(list, claims, &gateway, registered_ever);
    let named = policies.iter().map(|policy| {
        let service = in_full(&policy.service);
        let nobody = ServiceUpdate { name: service.clone(), ..ServiceUpdate::default() };
        let service = list.services.iter().find(|it| it.name == service).unwrap_or(&nobody);
        let beside = policies.iter().filter(|it| in_full(&it.service) == service.name); // of a dry run the list knows nothing
        let beside = beside.chain(of(service).iter().filter(|it| policies.iter().all(|new| new.name != it.name)));
        let mut problems = problems(policy, service, beside, &registered, claims);
        problems.extend(left_to_clients(policy));
        (policy.name.clone(), problems.join("; "))
    });
    named.filter(|(_, doubts)| !doubts.is_empty()).collect()
}

/// What edge policies of gateways as a whole are called by.
fn gateway() -> String {
    format!("{GATEWAY}.{DEFAULT}")
}

/// The services that are somebody's.
fn registered<'a>(
    list: &'a ListResponse,
    claims: &'a ClaimsResponse,
    gateway: &'a str,
    is_there: impl Fn(&ServiceUpdate) -> bool,
) -> BTreeSet<&'a str> {
    let there = list.services.iter().filter(|it| is_there(it)).map(|it| it.name.as_str());
    let holders = claims.claims.iter().map(|claim| claim.holder.as_str()); // away, and expected back
    there.chain(holders).chain([gateway]).collect()
}

/// One outcome for each policy that names what is not there; one for all if there is none of these.
pub(crate) fn check(mesh: &Mesh, list: &ListResponse, claims: &ClaimsResponse) -> Vec<Outcome> {
    let gateway = gateway();
    let registered = registered(list, claims, &gateway, |it| is_there(mesh, it));
    let (mut outcomes, mut well) = (Vec::new(), 0);
    for service in &list.services {
        for policy in of(service) {
            let problems = problems(policy, service, of(service).iter(), &registered, claims);
            match problems.is_empty() {
                true => well += 1,
                false => outcomes.push(ids::POLICIES.warning(&policy.name, problems.join("; "))),
            }
        }
    }
    if outcomes.is_empty() && well > 0 {
        outcomes.push(ids::POLICIES.ok("", counted(well, "policy", "policies")));
    }
    outcomes
}

/// Whether a service has policies.
pub(crate) fn has(service: &ServiceUpdate) -> bool {
    !of(service).is_empty()
}

/// Whether the route policies of a service send calls on to another, which then has reason to offer the same.
pub(crate) fn send_on(service: &ServiceUpdate, to: &str) -> bool {
    let routes = of(service).iter().filter_map(|it| match &it.kind {
        Some(Kind::Route(route)) => Some(route),
        _ => None,
    });
    routes.flat_map(|it| &it.rules).flat_map(|rule| &rule.to).any(|target| in_full(&target.service) == to)
}

/// Whether the access policies of a service let the gateway call none of its methods. Those of a gateway without an identity are not looked at.
pub(crate) fn shut_the_gateway_out(service: &ServiceUpdate) -> bool {
    let access = of(service).iter().filter_map(|it| match &it.kind {
        Some(Kind::Access(access)) => Some(access),
        _ => None,
    });
    let access: Vec<_> = access.collect();
    let is_meant = |rule: &&Rule| rule.from.as_ref().is_some_and(means_the_gateway);
    let (refuse, allow): (Vec<_>, Vec<_>) =
        access.iter().flat_map(|it| &it.rules).filter(is_meant).partition(|rule| rule.action() == Action::Deny);
    !access.is_empty() && (allow.is_empty() || refuse.iter().any(|rule| rule.methods.is_empty()))
}

fn means_the_gateway(from: &Callers) -> bool {
    let identity = format!("/ns/{DEFAULT}/svc/{GATEWAY}");
    from.authenticated
        || from.namespaces.iter().any(|it| it == DEFAULT)
        || from.services.iter().any(|it| in_full(it) == gateway())
        || from.identities.iter().any(|it| it.ends_with(&identity))
}

fn is_there(mesh: &Mesh, service: &ServiceUpdate) -> bool {
    registered_ever(service) || services::runs_here(mesh, &service.name) || services::is_had_here(mesh, &service.name)
}

fn registered_ever(service: &ServiceUpdate) -> bool {
    let declares = service.info.as_ref().is_some_and(|info| !info.grpc_services.is_empty());
    declares || !registry::instances(service).is_empty()
}

fn of(service: &ServiceUpdate) -> &[Policy] {
    service.policies.as_ref().map_or(&[], |it| &it.policies)
}

/// What is wrong with a policy of a service, given all of that service.
fn problems<'a>(
    policy: &Policy,
    service: &ServiceUpdate,
    all: impl Iterator<Item = &'a Policy>,
    registered: &BTreeSet<&str>,
    claims: &ClaimsResponse,
) -> Vec<String> {
    let mut problems = Vec::new();
    if service.name == gateway()
        && let Some((kind, instead)) = policy.kind.as_ref().and_then(of_no_gateway)
    {
        problems.push(format!(
            "nobody enforces {kind} of the gateway, and callers from outside are as free as before: {instead}"
        ));
    }
    let mut before: Vec<&Policy> = all.filter(|it| it.name < policy.name && comes_first(it, policy)).collect();
    before.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(first) = before.first() {
        problems.push(format!(
            "nothing comes to it: {} of the same service and kind is about the same calls, and comes first by its name; delete one, or name the methods of each",
            first.name
        ));
    }
    if !registered.contains(service.name.as_str()) {
        problems.push(format!("its service {} is nobody's{}", service.name, meant(&service.name, registered)));
    }
    match &policy.kind {
        Some(Kind::Access(access)) => of_access(access, service, registered, &mut problems),
        Some(Kind::Route(route)) => of_route(route, registered, &mut problems),
        Some(Kind::Http(http)) => of_http(http, service, claims, &mut problems),
        _ => {}
    }
    problems
}

/// The kind of a policy that gateways as a whole cannot have, and what is to be done instead.
const fn of_no_gateway(kind: &Kind) -> Option<(&'static str, &'static str)> {
    match kind {
        Kind::Access(_) => Some((
            "access",
            "write `authentication` for them, or an access policy for the service that is to be guarded",
        )),
        Kind::PlaintextUpstream(_) => Some(("plaintext_upstream", "write it for the service that is called")),
        Kind::Route(_) => Some(("route", "write it for the service that is called")),
        Kind::Upstream(_) => Some(("upstream", "write it for the service that is called")),
        _ => None,
    }
}

/// What a policy asks of clients of xDS alone. For whoever applies it: it is no fault that others leave it out.
fn left_to_clients(policy: &Policy) -> Option<String> {
    let what = match policy.kind.as_ref()? {
        Kind::Upstream(_) => "upstream",
        Kind::Route(route) if route.rules.iter().any(|rule| rule.fault.is_some()) => "fault",
        _ => return None,
    };
    Some(format!("`{what}` is for clients of xDS, Envoy among them: gateways and sidecars leave it out"))
}

/// Whether one policy, which comes first by its name, leaves no call to another of its service. Those of most kinds add up.
fn comes_first(first: &Policy, other: &Policy) -> bool {
    match (&first.kind, &other.kind) {
        (Some(Kind::Cors(a)), Some(Kind::Cors(b))) => cover(&a.methods, &b.methods),
        (Some(Kind::Authentication(a)), Some(Kind::Authentication(b))) => cover(&a.methods, &b.methods),
        (Some(Kind::Cache(a)), Some(Kind::Cache(b))) => cover(&a.methods, &b.methods),
        (Some(Kind::Limits(a)), Some(Kind::Limits(b))) => cover(&a.methods, &b.methods),
        (Some(Kind::Headers(a)), Some(Kind::Headers(b))) => cover(&a.methods, &b.methods),
        (Some(Kind::Transcoding(a)), Some(Kind::Transcoding(b))) => cover(&a.methods, &b.methods),
        (Some(Kind::Route(a)), Some(Kind::Route(_))) => a.rules.iter().any(|rule| rule.r#match.is_none()),
        (Some(Kind::Http(a)), Some(Kind::Http(b))) => {
            b.rules.iter().all(|it| a.rules.iter().any(|first| first.selector == it.selector))
        }
        _ => false,
    }
}

/// Whether patterns of methods are about all that others are about; none means every method.
fn cover(patterns: &[String], others: &[String]) -> bool {
    let covers = |pattern: &String, other: &String| {
        pattern == other || pattern.strip_suffix('*').is_some_and(|of| other.starts_with(of))
    };
    patterns.is_empty()
        || !others.is_empty() && others.iter().all(|other| patterns.iter().any(|pattern| covers(pattern, other)))
}

fn named(rule: &str, place: usize) -> String {
    if rule.is_empty() { format!("rule-{}", place + 1) } else { rule.to_owned() }
}

/// Calls may be sent on to a service that is yet to come only with a share of 0: those of any other share would fail.
fn of_route(route: &Route, registered: &BTreeSet<&str>, problems: &mut Vec<String>) {
    for (place, rule) in route.rules.iter().enumerate() {
        let name = named(&rule.name, place);
        for to in rule.to.iter().filter(|to| to.weight > 0).map(|to| in_full(&to.service)) {
            if !registered.contains(to.as_str()) {
                problems
                    .push(format!("rule {name}: it sends calls to {to}, which is nobody's{}", meant(&to, registered)));
            }
        }
    }
}

/// A rule takes no path that another service claims: gateways would leave it out.
fn of_http(http: &Http, service: &ServiceUpdate, claims: &ClaimsResponse, problems: &mut Vec<String>) {
    let nothing = ServiceInfo::default();
    let info = service.info.as_ref().unwrap_or(&nothing);
    let holder = |name: &str| claims.claims.iter().find(|it| it.name == name).map(|it| it.holder.as_str());
    for rule in http.rules.iter().filter_map(|it| model::HttpRule::try_from(it.clone()).ok()) {
        let selector = &rule.selector;
        if !declares(info, &format!("{}/{}", selector.grpc_service(), selector.method())) {
            problems.push(format!("rule {selector}: {} has no such method", service.name));
            continue;
        }
        let owner = holder(selector.grpc_service()).unwrap_or(&service.name);
        for claim in rule.bindings().map(HttpBinding::claim) {
            if let Some(other) = holder(&claim).filter(|it| *it != owner) {
                let cure = "gateways leave it out: give it another path";
                problems.push(format!("rule {selector}: {claim} belongs to {other}; {cure}"));
            }
        }
    }
}

fn of_access(access: &Access, service: &ServiceUpdate, registered: &BTreeSet<&str>, problems: &mut Vec<String>) {
    let nothing = ServiceInfo::default();
    let info = service.info.as_ref().unwrap_or(&nothing);
    for (place, rule) in access.rules.iter().enumerate() {
        let name = named(&rule.name, place);
        for method in rule.methods.iter().filter(|it| !declares(info, it)) {
            problems.push(format!("rule {name}: {} has no method {method}", service.name));
        }
        for caller in rule.from.iter().flat_map(|from| &from.services).map(|it| in_full(it)) {
            let meant = meant(&caller, registered);
            if !registered.contains(caller.as_str()) && !meant.is_empty() {
                problems.push(format!("rule {name}: the caller {caller} is nobody's{meant}"));
            }
        }
    }
}

/// Whether a pattern, `pkg.Service/Method` or `pkg.Service/*`, is about something that the service has, as far as is known.
fn declares(info: &ServiceInfo, pattern: &str) -> bool {
    let (grpc_service, method) = pattern.split_once('/').unwrap_or((pattern, "*"));
    let refused = info.refused_claims.iter().any(|it| it.name == grpc_service); // declared, and another's
    if info.grpc_services.is_empty() || grpc_service.starts_with(ANYBODYS) || refused {
        return true;
    }
    let declared = info.grpc_services.iter().find(|it| it.name == grpc_service);
    declared.is_some_and(|it| method == "*" || it.methods.iter().any(|it| it.name == method))
}

fn in_full(service: &str) -> String {
    if service.contains('.') { service.to_owned() } else { format!("{service}.{DEFAULT}") }
}

/// Names the registered service that may have been meant; empty if none is near.
fn meant(name: &str, registered: &BTreeSet<&str>) -> String {
    let bare = name.split('.').next().unwrap_or_default();
    let near = |it: &&&str| bare.len() >= SHORTEST_DOUBTED && strsim::osa_distance(name, it) == 1;
    registered.iter().find(near).map_or_else(String::new, |it| format!("; is {it} meant?"))
}

#[cfg(test)]
mod tests {
    use weft_proto::{
        google::api::{HttpRule, http_rule::Pattern},
        weft::{
            discovery::v1::{Claim, Full, ServicePolicies, service_update::Body},
            model::v1::{GrpcService, Instance, Method},
            policy::v1::{
                Authentication, CallMatch, Callers, Fault, Limits, RouteRule, Rule, Upstream, route_rule::Target,
            },
        },
    };

    use super::*;
    use crate::report::Status;

    fn mesh() -> Mesh {
        Mesh::for_test()
    }

    fn users(policy: Option<Policy>) -> ServiceUpdate {
        let methods = ["GetUser", "DeleteUser"].map(|name| Method { name: name.into(), ..Method::default() });
        let grpc_service = GrpcService { name: "shop.users.v1.Users".into(), methods: methods.into() };
        ServiceUpdate {
            name: "users.default".into(),
            body: Some(Body::Full(Full { instances: vec![Instance::default()] })),
            info: Some(ServiceInfo { grpc_services: vec![grpc_service], ..ServiceInfo::default() }),
            policies: Some(ServicePolicies { policies: policy.into_iter().collect() }),
            ..ServiceUpdate::default()
        }
    }

    fn policy(callers: &[&str], methods: &[&str]) -> Policy {
        let words = |of: &[&str]| of.iter().map(|it| (*it).to_owned()).collect();
        let from = Callers { services: words(callers), ..Callers::default() };
        let rule = Rule { from: Some(from), methods: words(methods), ..Rule::default() };
        Policy { name: "p".into(), kind: Some(Kind::Access(Access { rules: vec![rule] })), ..Policy::default() }
    }

    /// What is said of one policy of users that allows these.
    fn said(callers: &[&str], methods: &[&str]) -> String {
        said_of(policy(callers, methods))
    }

    fn said_of(policy: Policy) -> String {
        let posts = ServiceUpdate { name: "posts.default".into(), ..users(None) };
        let services = vec![posts, users(Some(policy))];
        let list = ListResponse { services, ..ListResponse::default() };
        let mut outcomes = check(&mesh(), &list, &ClaimsResponse::default());
        assert_eq!(outcomes.len(), 1);
        let outcome = outcomes.remove(0);
        match outcome.status {
            Status::Ok => "well".to_owned(),
            _ => outcome.detail,
        }
    }

    #[test]
    fn the_gateway_is_shut_out_where_no_rule_lets_it_call_anything() {
        let out = |policy: Option<Policy>| shut_the_gateway_out(&users(policy));
        assert!(!out(None), "nobody said who may");
        assert!(out(Some(policy(&["posts"], &[]))));
        assert!(!out(Some(policy(&["gateway"], &["shop.users.v1.Users/GetUser"]))), "some calls of its pass");
        assert!(!out(Some(policy(&["gateway.default"], &[]))));
        let rule = |action: Action, methods: &[&str]| {
            let Some(Kind::Access(access)) = policy(&["gateway"], methods).kind else {
                unreachable!("it is of access")
            };
            Rule { action: action.into(), ..access.rules[0].clone() }
        };
        let denied = |methods: &[&str]| {
            let rules = vec![rule(Action::Allow, &[]), rule(Action::Deny, methods)];
            out(Some(Policy { kind: Some(Kind::Access(Access { rules })), ..policy(&[], &[]) }))
        };
        assert!(denied(&[]));
        assert!(!denied(&["shop.users.v1.Users/DeleteUser"]));
    }

    #[test]
    fn a_name_that_somebody_has_or_may_have_is_well() {
        assert_eq!(said(&["posts", "posts.default", "gateway", "nightly", "post.eu"], &[]), "well");
        let has = ["shop.users.v1.Users/GetUser", "shop.users.v1.Users/*", "grpc.health.v1.Health/Check"];
        assert_eq!(said(&[], &has), "well");
    }

    #[test]
    fn a_method_that_the_service_does_not_declare_is_named_with_its_rule() {
        let wrong = "rule rule-1: users.default has no method shop.users.v1.Users/GetUsr";
        assert_eq!(said(&[], &["shop.users.v1.Users/GetUsr", "shop.users.v1.Users/GetUser"]), wrong);
        let wrong = "rule rule-1: users.default has no method shop.users.v2.Users/*";
        assert_eq!(said(&[], &["shop.users.v2.Users/*"]), wrong);
    }

    #[test]
    fn a_caller_is_doubted_only_where_another_is_likely_to_be_meant() {
        let wrong = "rule rule-1: the caller psots.default is nobody's; is posts.default meant?";
        assert_eq!(said(&["psots", "comments"], &[]), wrong);
    }

    #[test]
    fn calls_that_are_sent_on_to_nobody_are_named_with_their_rule() {
        let to = |service: &str, weight| Target { service: service.into(), weight };
        let route = |to: Vec<Target>| {
            let rules = vec![RouteRule { name: "canary".into(), to, ..RouteRule::default() }];
            Policy { name: "p".into(), kind: Some(Kind::Route(Route { rules })), ..Policy::default() }
        };
        let wrong = "rule canary: it sends calls to users-canary.default, which is nobody's";
        assert_eq!(said_of(route(vec![to("posts", 90), to("users-canary", 10)])), wrong);
        assert_eq!(said_of(route(vec![to("posts.default", 90), to("users-canary", 0)])), "well");
    }

    fn authentication(name: &str, methods: &[&str]) -> Policy {
        let methods = methods.iter().map(|it| (*it).to_owned()).collect();
        let kind = Kind::Authentication(Authentication { methods, ..Authentication::default() });
        Policy { name: name.into(), service: "users".into(), kind: Some(kind), ..Policy::default() }
    }

    #[test]
    fn a_policy_that_another_leaves_no_call_to_is_named_with_that_one() {
        let said = |first: Policy, second: Policy| {
            let service = ServiceUpdate {
                policies: Some(ServicePolicies { policies: vec![second.clone(), first.clone()] }),
                ..users(None)
            };
            let list = ListResponse { services: vec![service], ..ListResponse::default() };
            let listed: Vec<_> = check(&mesh(), &list, &ClaimsResponse::default())
                .into_iter()
                .filter(|it| it.status != Status::Ok)
                .map(|it| (it.subject, it.detail))
                .collect();
            let unlisted = ListResponse { services: vec![users(None)], ..ListResponse::default() };
            let dry = doubts(&[second.clone(), first], &unlisted, &ClaimsResponse::default());
            assert_eq!(listed, dry, "a dry run says the same");
            assert_eq!(
                doubts(&[second], &list, &ClaimsResponse::default()),
                dry,
                "so does whoever applies the second alone"
            );
            dry
        };
        let void = "nothing comes to it: a of the same service and kind is about the same calls, and comes first by its name; delete one, or name the methods of each";
        let void = [("b".to_owned(), void.to_owned())];
        let (all, get) = ("shop.users.v1.Users/*", "shop.users.v1.Users/GetUser");
        assert_eq!(said(authentication("a", &[]), authentication("b", &[])), void);
        assert_eq!(said(authentication("a", &[all]), authentication("b", &[get])), void);
        assert_eq!(said(authentication("a", &[get]), authentication("b", &[])), []);
        assert_eq!(said(authentication("a", &[get]), authentication("b", &[all])), []);
        let limits = Policy { kind: Some(Kind::Limits(Limits::default())), ..authentication("a", &[]) };
        assert_eq!(said(limits, authentication("b", &[])), [], "another kind");
        let http = |name: &str, selectors: &[&str]| {
            let rule = |it: &&str| HttpRule { selector: (*it).to_owned(), ..HttpRule::default() };
            let kind = Kind::Http(Http { rules: selectors.iter().map(rule).collect() });
            Policy { kind: Some(kind), ..authentication(name, &[]) }
        };
        let (one, two) = ("shop.users.v1.Users.GetUser", "shop.users.v1.Users.DeleteUser");
        assert_eq!(said(http("a", &[one, two]), http("b", &[one])), void);
        assert_eq!(said(http("a", &[one]), http("b", &[one, two])), []);
        let route = |name: &str, rules: &[Option<CallMatch>]| {
            let rule =
                |it: &Option<CallMatch>| RouteRule { r#match: it.clone(), timeout_ms: 9, ..RouteRule::default() };
            let kind = Kind::Route(Route { rules: rules.iter().map(rule).collect() });
            Policy { kind: Some(kind), ..authentication(name, &[]) }
        };
        let some = Some(CallMatch { methods: vec![get.to_owned()], ..CallMatch::default() });
        assert_eq!(said(route("a", &[some.clone(), None]), route("b", std::slice::from_ref(&some))), void);
        assert_eq!(said(route("a", &[some]), route("b", &[None])), []);
    }

    #[test]
    fn what_nobody_enforces_of_the_gateway_is_said_with_what_to_write_instead() {
        let of_gateway = |policy: Policy| Policy { service: "gateway".into(), ..policy };
        let said = |policy| doubts(&[of_gateway(policy)], &ListResponse::default(), &ClaimsResponse::default());
        let wrong = "nobody enforces access of the gateway, and callers from outside are as free as before: write `authentication` for them, or an access policy for the service that is to be guarded";
        assert_eq!(said(policy(&[], &[])), [("p".to_owned(), wrong.to_owned())]);
        assert_eq!(said(authentication("a", &[])), []);
    }

    #[test]
    fn whoever_applies_what_only_clients_of_xds_do_hears_so() {
        let list = ListResponse { services: vec![users(None)], ..ListResponse::default() };
        let said = |kind| {
            let policy = Policy { kind: Some(kind), ..authentication("a", &[]) };
            doubts(&[policy], &list, &ClaimsResponse::default())
        };
        let left_out = "`upstream` is for clients of xDS, Envoy among them: gateways and sidecars leave it out";
        assert_eq!(said(Kind::Upstream(Upstream::default())), [("a".to_owned(), left_out.to_owned())]);
        let rule = |fault| Kind::Route(Route { rules: vec![RouteRule { fault, ..RouteRule::default() }] });
        assert_eq!(said(rule(None)), []);
        assert_eq!(said(rule(Some(Fault::default()))).len(), 1);
    }

    #[test]
    fn a_rule_about_no_method_or_on_a_path_of_another_service_is_named() {
        let of = |service: &str, selector: &str, path: &str| {
            let (selector, pattern) = (selector.to_owned(), Some(Pattern::Get(path.to_owned())));
            let rules = vec![HttpRule { selector, pattern, ..HttpRule::default() }];
            let kind = Some(Kind::Http(Http { rules }));
            Policy { name: "p".into(), service: service.into(), kind, ..Policy::default() }
        };
        let claim = |name: &str, holder: &str| Claim { name: name.into(), holder: holder.into(), ..Claim::default() };
        let held = [claim("shop.users.v1.Users", "users.default"), claim("GET /people/*", "posts.default")];
        let claims = ClaimsResponse { claims: held.into(), ..ClaimsResponse::default() };
        let list = ListResponse { services: vec![users(None)], ..ListResponse::default() };
        let said = |policy| doubts(&[policy], &list, &claims).into_iter().map(|(_, it)| it).collect::<String>();
        let get = "shop.users.v1.Users.GetUser";
        assert_eq!(said(of("users", get, "/users/{id}")), "");
        let other =
            format!("rule {get}: GET /people/* belongs to posts.default; gateways leave it out: give it another path");
        assert_eq!(said(of("users", get, "/people/{id}")), other);
        assert_eq!(said(of("gateway", get, "/people/{name}")), other, "whoever says it");
        let none = "rule shop.users.v1.Users.GetUsr: users.default has no such method";
        assert_eq!(said(of("users", "shop.users.v1.Users.GetUsr", "/a")), none);
    }

    #[test]
    fn a_service_that_only_a_policy_names_is_nobodys() {
        let named = ServiceUpdate {
            name: "usres.default".into(),
            policies: users(Some(policy(&["posts"], &["any.Service/Method"]))).policies,
            ..ServiceUpdate::default()
        };
        let list = ListResponse { services: vec![users(None), named], ..ListResponse::default() };
        let applied = Policy { service: "usres".into(), ..policy(&["posts"], &["any.Service/Method"]) };
        let doubts = doubts(&[applied], &list, &ClaimsResponse::default());
        let doubted = "its service usres.default is nobody's; is users.default meant?";
        assert_eq!(doubts, [("p".to_owned(), doubted.to_owned())]);
        let outcomes = check(&mesh(), &list, &ClaimsResponse::default());
        let said: Vec<_> = outcomes.iter().map(|it| (it.id, it.status, it.detail.as_str())).collect();
        let wrong = "its service usres.default is nobody's; is users.default meant?";
        assert_eq!(said, [("WEFT0409", Status::Warning, wrong)]);
        let claim = Claim { holder: "usres.default".into(), ..Claim::default() };
        let claims = ClaimsResponse { claims: vec![claim], ..ClaimsResponse::default() };
        assert_eq!(check(&mesh(), &list, &claims)[0].status, Status::Ok, "it is away, and holds a claim");
    }
}
