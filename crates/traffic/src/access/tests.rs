//! Rules against a plain reading of what policy.proto says, by tables and by random policies.

use std::time::Duration;

use proptest::prelude::*;
use weft_model::{Access, Callers, MethodPattern, ServiceName, SpiffeId, Version};

use super::*;

const GET: &str = "/shop.users.v1.Users/GetUser";
const DELETE: &str = "/shop.users.v1.Users/DeleteUser";

fn rule(name: &str, action: Action, from: Callers, methods: &[&str]) -> Rule {
    let methods = methods.iter().map(|m| m.parse().unwrap()).collect();
    Rule::new(name.parse().unwrap(), action, from.checked().unwrap(), methods).unwrap()
}

fn policy(name: &str, rules: Vec<Rule>) -> Arc<Policy> {
    Arc::new(Policy {
        name: name.parse().unwrap(),
        service: "users".parse().unwrap(),
        version: Version(1),
        kind: PolicyKind::Access(Access::new(rules).unwrap()),
    })
}

fn services(names: &[&str]) -> Callers {
    Callers { services: names.iter().map(|it| it.parse().unwrap()).collect(), ..Callers::default() }
}

fn authenticated() -> Callers {
    Callers { authenticated: true, ..Callers::default() }
}

fn anonymous() -> Callers {
    Callers { anonymous: true, ..Callers::default() }
}

fn is(service: &str) -> Caller {
    let service: ServiceName = service.parse().unwrap();
    let id = format!("spiffe://weft.local/ns/{}/svc/{}", service.namespace(), service.name());
    Caller::Identity(id.parse().unwrap())
}

/// What refuses the call, `policy/rule`; "allowed" if nothing does.
fn judged(policies: &[Arc<Policy>], caller: &Caller, path: &str) -> String {
    match Gate::Unknown.next(policies, &Metrics::default()) {
        Gate::Open => "open".to_owned(),
        Gate::Unknown => panic!("policies are known"),
        Gate::Rules(rules) => match rules.judge(caller, path) {
            Ok(()) => "allowed".to_owned(),
            Err(ground) => format!("{}/{}", ground.policy, ground.rule),
        },
    }
}

#[test]
fn a_service_without_access_policies_is_open() {
    let other = Policy {
        kind: PolicyKind::PlaintextUpstream(model::PlaintextUpstream::Allow),
        ..Policy::clone(&policy("p", vec![]))
    };
    assert_eq!(judged(&[], &Caller::Anonymous, GET), "open");
    assert_eq!(judged(&[Arc::new(other)], &Caller::Anonymous, GET), "open");
    assert_eq!(judged(&[policy("p", vec![])], &is("posts"), GET), "p/default");
}

#[test]
fn a_call_needs_a_rule_that_allows_it_and_none_that_denies_it() {
    let users = policy(
        "users-callers",
        vec![
            rule("readers", Action::Allow, services(&["posts", "comments.eu"]), &["shop.users.v1.Users/GetUser"]),
            rule("gateway", Action::Allow, services(&["gateway"]), &["shop.users.v1.Users/*"]),
            rule("health", Action::Allow, anonymous(), &["grpc.health.v1.Health/*"]),
            rule("no-deletes", Action::Deny, authenticated(), &["shop.users.v1.Users/DeleteUser"]),
        ],
    );
    let operator = Callers {
        identities: ["spiffe://weft.local/ns/weft/svc/operator".parse::<SpiffeId>().unwrap()].into(),
        namespaces: ["eu".parse().unwrap()].into(),
        ..Callers::default()
    };
    let ops = policy("ops", vec![rule("all", Action::Allow, operator, &[])]);
    let both = [ops, users];
    for (caller, path, expected) in [
        (is("posts"), GET, "allowed"),
        (is("posts.eu"), GET, "allowed"), // by its namespace
        (is("posts"), "/shop.users.v1.Users/CreateUser", "ops/default"),
        (is("comments"), GET, "ops/default"),
        (is("comments.eu"), GET, "allowed"),
        (is("gateway"), "/shop.users.v1.Users/CreateUser", "allowed"),
        (is("gateway"), DELETE, "users-callers/no-deletes"),
        (is("operator.weft"), "/any.Service/Method", "allowed"),
        (is("operator.weft"), DELETE, "users-callers/no-deletes"),
        (is("gateway"), "/shop.users.v1.Users2/CreateUser", "ops/default"),
        (Caller::Anonymous, GET, "ops/default"),
        (Caller::Anonymous, "/grpc.health.v1.Health/Check", "allowed"),
        (is("posts"), "/grpc.health.v1.Health/Check", "ops/default"),
        // what is no gRPC method's path meets every denying rule, and only rules about everything let it in
        (is("gateway"), "/shop.users.v1.Users/Delete%55ser", "users-callers/no-deletes"),
        (is("operator.weft"), "/shop.users.v1.Users/DeleteUser/", "users-callers/no-deletes"),
        (is("posts"), "*", "users-callers/no-deletes"),
        (Caller::Anonymous, "/", "ops/default"),
    ] {
        assert_eq!(judged(&both, &caller, path), expected, "{caller} {path}");
    }
}

#[test]
fn identities_that_only_resemble_a_services_are_not_its() {
    let eu = Callers { namespaces: ["eu".parse().unwrap()].into(), ..services(&["posts"]) };
    let policies = [policy("p", vec![rule("r", Action::Allow, eu, &[])])];
    for id in ["ns/default/svc/posts2", "ns/default/svc/posts/x", "ns/eu", "ns/eu/sa/posts", "ns/eu/x/svc/y", "posts"] {
        let caller = Caller::Identity(format!("spiffe://weft.local/{id}").parse().unwrap());
        assert_eq!(judged(&policies, &caller, GET), "p/default", "{id}");
    }
}

#[test]
fn a_refusal_is_counted_at_its_rule_across_changes_and_forgotten_with_it() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = Metrics::register(&mut registry, "sidecar");
    let shown = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.lines()
            .filter(|it| it.starts_with("weft_sidecar_policy_refusals_total"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let refuse = |gate: &Gate| match gate {
        Gate::Rules(rules) => rules.judge(&is("x"), GET).unwrap_err().refuse(&is("x"), GET, None, Ticks::default()),
        Gate::Open | Gate::Unknown => panic!("there are rules"),
    };
    let gate = Gate::Unknown.next(&[policy("p", vec![rule("no", Action::Deny, authenticated(), &[])])], &metrics);
    refuse(&gate);
    let with_more = vec![rule("a", Action::Allow, anonymous(), &[]), rule("no", Action::Deny, authenticated(), &[])];
    let gate = gate.next(&[policy("p", with_more)], &metrics);
    let denied = refuse(&gate);
    assert_eq!(denied.to_string(), "x may not call shop.users.v1.Users/GetUser: policy p, rule no");
    assert!(
        shown().contains(&r#"weft_sidecar_policy_refusals_total{policy="p",rule="no"} 2"#.to_owned()),
        "{:?}",
        shown()
    );
    let gate = gate.next(&[policy("q", vec![])], &metrics);
    assert_eq!(shown(), [r#"weft_sidecar_policy_refusals_total{policy="q",rule="default"} 0"#]);
    gate.next(&[], &metrics);
    assert_eq!(shown(), [""; 0]);
}

#[test]
fn a_flood_of_refusals_is_a_line_a_second() {
    let ground = Ground::new(&"p".parse().unwrap(), &"r".parse().unwrap(), &Metrics::default());
    let at = |ms| Ticks::from_duration(Duration::from_millis(ms));
    let lines = (0..3_000).filter(|ms| ground.may_log(at(*ms))).count();
    assert_eq!(lines, 3);
}

/// What policy.proto says, read plainly.
fn plainly(policies: &[Arc<Policy>], caller: &Caller, method: &MethodPattern) -> bool {
    let rules: Vec<&Rule> = policies
        .iter()
        .flat_map(|it| match &it.kind {
            PolicyKind::Access(access) => access.rules(),
            PolicyKind::PlaintextUpstream(_) | PolicyKind::Route(_) | PolicyKind::Upstream(_) | PolicyKind::Edge(_) => {
                &[]
            }
        })
        .collect();
    let about_caller = |from: &Callers| match caller {
        Caller::Anonymous => from.anonymous,
        Caller::Identity(id) => {
            let in_namespace = |ns: &str| id.path().starts_with(&format!("ns/{ns}/svc/"));
            from.authenticated
                || from.identities.contains(id)
                || from.services.iter().any(|it| is(it.full()) == *caller)
                || from.namespaces.iter().any(|it| in_namespace(it.as_str()))
        }
    };
    let about_method = |rule: &Rule| {
        let covers = |it: &MethodPattern| {
            it.grpc_service() == method.grpc_service() && (it.method().is_none() || it.method() == method.method())
        };
        rule.methods().is_empty() || rule.methods().iter().any(covers)
    };
    let matches = |action| rules.iter().any(|it| it.action() == action && about_caller(it.from()) && about_method(it));
    rules.is_empty() && policies.is_empty() || matches(Action::Allow) && !matches(Action::Deny)
}

const NAMES: [&str; 4] = ["posts", "comments", "posts.eu", "gateway"];
const METHODS: [&str; 6] = ["a.S/One", "a.S/Two", "a.S/*", "b.S/One", "b.S/*", "S/One"];

fn any_rule() -> impl Strategy<Value = (Action, Callers, Vec<MethodPattern>)> {
    let some = |of: &'static [&'static str]| proptest::collection::vec(proptest::sample::select(of), 0..3);
    let action = prop_oneof![Just(Action::Allow), Just(Action::Allow), Just(Action::Deny)];
    let flag = || proptest::bool::weighted(0.2);
    (action, some(&NAMES), some(&NAMES), some(&["eu", "default"]), some(&METHODS), flag(), flag()).prop_map(
        |(action, ids, names, namespaces, methods, anonymous, authenticated)| {
            let id = |name: &&str| match is(name) {
                Caller::Identity(id) => id,
                Caller::Anonymous => panic!("it is somebody"),
            };
            let callers = Callers {
                identities: ids.iter().map(id).collect(),
                services: names.iter().map(|it| it.parse().unwrap()).collect(),
                namespaces: namespaces.iter().map(|it| it.parse().unwrap()).collect(),
                anonymous,
                authenticated,
            };
            let callers = if callers == Callers::default() { super::tests::anonymous() } else { callers };
            (action, callers, methods.iter().map(|it| it.parse().unwrap()).collect())
        },
    )
}

fn any_policies() -> impl Strategy<Value = Vec<Arc<Policy>>> {
    proptest::collection::vec(proptest::collection::vec(any_rule(), 0..5), 1..4).prop_map(|policies| {
        let made = policies.into_iter().enumerate().map(|(n, rules)| {
            let rules = rules.into_iter().enumerate();
            let rules = rules
                .map(|(n, (action, from, methods))| Rule::new(Rule::name_of_place(n), action, from, methods).unwrap());
            policy(&format!("p{n}"), rules.collect())
        });
        made.collect()
    })
}

fn every_call() -> impl Iterator<Item = (Caller, MethodPattern)> {
    let callers = NAMES.map(is).into_iter().chain([is("other.us"), Caller::Anonymous]);
    let methods = || ["a.S/One", "a.S/Two", "a.S/Three", "b.S/One", "b.S/Two", "S/One", "c.S/One"].into_iter();
    callers.flat_map(move |caller| methods().map(move |it| (caller.clone(), it.parse().unwrap())))
}

fn allows(policies: &[Arc<Policy>], caller: &Caller, method: &MethodPattern) -> bool {
    matches!(judged(policies, caller, &format!("/{method}")).as_str(), "allowed" | "open")
}

fn swapped(policies: &[Arc<Policy>]) -> Vec<Arc<Policy>> {
    let backwards = |it: &Arc<Policy>| match &it.kind {
        PolicyKind::Access(access) => policy(it.name.as_str(), access.rules().iter().rev().cloned().collect()),
        PolicyKind::PlaintextUpstream(_) | PolicyKind::Route(_) | PolicyKind::Upstream(_) | PolicyKind::Edge(_) => {
            it.clone()
        }
    };
    policies.iter().rev().map(backwards).collect()
}

proptest! {
    #[test]
    fn compiled_rules_decide_as_the_contract_reads(policies in any_policies()) {
        for (caller, method) in every_call() {
            prop_assert_eq!(allows(&policies, &caller, &method), plainly(&policies, &caller, &method), "{} {}", caller, method);
        }
    }

    #[test]
    fn neither_the_order_of_rules_nor_of_policies_decides(policies in any_policies()) {
        let backwards = swapped(&policies);
        for (caller, method) in every_call() {
            prop_assert_eq!(allows(&policies, &caller, &method), allows(&backwards, &caller, &method));
        }
    }

    #[test]
    fn one_more_denying_rule_lets_nobody_in_and_one_more_allowing_rule_shuts_nobody_out(
        policies in any_policies(),
        (_, from, methods) in any_rule(),
    ) {
        let with = |action| {
            let more = Rule::new("more".parse().unwrap(), action, from.clone(), methods.clone()).unwrap();
            [policies.clone(), vec![policy("more", vec![more])]].concat()
        };
        let (denying, allowing) = (with(Action::Deny), with(Action::Allow));
        for (caller, method) in every_call() {
            let before = allows(&policies, &caller, &method);
            prop_assert!(before || !allows(&denying, &caller, &method), "{caller} {method} came in by a deny");
            prop_assert!(!before || allows(&allowing, &caller, &method), "{caller} {method} was shut out by an allow");
        }
    }

    #[test]
    fn a_rule_about_others_changes_nothing_for_a_caller(policies in any_policies(), (action, _, methods) in any_rule()) {
        let more = Rule::new("more".parse().unwrap(), action, services(&["nobody-here"]), methods).unwrap();
        let with = [policies.clone(), vec![policy("more", vec![more])]].concat();
        for (caller, method) in every_call() {
            prop_assert_eq!(allows(&policies, &caller, &method), allows(&with, &caller, &method));
        }
    }
}
