//! Tables of services with several descriptor sets, of services that were refused what they claim, and with rules beside annotations.

use protox::file::{ChainFileResolver, DescriptorSetFileResolver, File, FileResolver};
use weft_discovery::DescriptorSet;
use weft_model::{GrpcService, RefusedClaim};

use super::{rules::FileRule, *};
use crate::edge::policies::{Told, tests::compiler};

struct Text(String);

impl FileResolver for Text {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        if name == "it.proto" { File::from_source(name, &self.0) } else { Err(protox::Error::file_not_found(name)) }
    }
}

/// A set with one service of these methods, each with its annotation, if it has one.
fn set(package: &str, methods: &[(&str, &str)]) -> Arc<LinkedSet> {
    let rule = |(name, rule): &(&str, &str)| match *rule {
        "" => format!("rpc {name}(It) returns (It);"),
        rule => format!("rpc {name}(It) returns (It) {{ option (google.api.http) = {{ {rule} }}; }}"),
    };
    let methods: String = methods.iter().map(rule).collect();
    let text = format!(
        "syntax = \"proto3\"; package {package}; import \"google/api/annotations.proto\";
         message It {{ string id = 1; }} service Api {{ {methods} }}"
    );
    let mut resolver = ChainFileResolver::new();
    resolver.add(Text(text));
    resolver.add(DescriptorSetFileResolver::decode(weft_proto::descriptors::SHOP_USERS).unwrap());
    let mut compiler = protox::Compiler::with_file_resolver(resolver);
    compiler.include_imports(true).open_file("it.proto").unwrap();
    let set = DescriptorSet::from_encoded_set(&compiler.encode_file_descriptor_set()).unwrap();
    Arc::new(LinkedSet::link(&set).unwrap())
}

fn entry(name: &str, package: &str, sets: Vec<Arc<LinkedSet>>, refused: &[(&str, &str)]) -> Entry {
    let refused = refused.iter().map(|(name, holder)| RefusedClaim {
        name: (*name).to_owned(),
        holder: holder.parse().unwrap(),
        method: format!("{package}.Api/It"),
    });
    let info = ServiceInfo {
        grpc_services: vec![GrpcService { name: format!("{package}.Api"), methods: Vec::new() }],
        refused: refused.collect(),
        ..ServiceInfo::default()
    };
    Entry { name: name.parse().unwrap(), info: Arc::new(info), sets }
}

fn table(entries: Vec<Entry>) -> Table {
    table_with(entries, "", "")
}

/// A table with rules of a file, and of policies.
fn table_with(entries: Vec<Entry>, toml: &str, yaml: &str) -> Table {
    let rules = weft_policy::parse_http_among(toml).unwrap();
    let rules = rules.into_iter().map(|(line, rule)| FileRule { at: format!("gateway.toml:{line}").into(), rule });
    let mut policies = weft_policy::parse(yaml, weft_policy::Format::Yaml).unwrap();
    policies.sort_by(|(_, a), (_, b)| a.name.cmp(&b.name)); // as snapshots have them
    let told = Told::from_policies(policies.into_iter().map(|(_, it)| Arc::new(it)));
    let edge = compiler().with_rules(rules.collect()).compile(&told);
    Table::build(entries, edge, &Meters::new(&weft_runtime::Metrics::default()))
}

/// An `http` policy with rules that bind methods to paths by GET.
fn policy(name: &str, service: &str, rules: &[(&str, &str)]) -> String {
    let rule = |(selector, path): &(&str, &str)| format!("{{ selector: {selector}, get: '{path}' }}");
    let rules = rules.iter().map(rule).collect::<Vec<_>>().join(", ");
    format!("name: {name}\nservice: {service}\nhttp: {{ rules: [{rules}] }}\n---\n")
}

/// Service and method that a path leads to.
fn leads(table: &Table, http_method: &str, path: &str) -> Option<(String, String)> {
    match table.rest(http_method, path) {
        Rest::Found(found) => Some((found.service.to_string(), found.plan.method().name().to_owned())),
        Rest::MethodNotAllowed(_) | Rest::NotFound => None,
    }
}

fn to(service: &str, method: &str) -> Option<(String, String)> {
    Some((service.to_owned(), method.to_owned()))
}

#[test]
fn a_method_is_bound_by_the_first_set_that_declares_it_and_none_is_left_out() {
    let old = set("a.v1", &[("Both", "get: \"/old/both\""), ("Gone", "get: \"/gone\"")]);
    let new = set("a.v1", &[("Both", "get: \"/new/both\""), ("New", "get: \"/new\"")]);
    let table = table(vec![entry("a", "a.v1", vec![new, old], &[])]);
    assert_eq!(leads(&table, "GET", "/new/both"), to("a", "Both"));
    assert_eq!(leads(&table, "GET", "/old/both"), None, "the newest says how it is called");
    assert_eq!(leads(&table, "GET", "/new"), to("a", "New"));
    assert_eq!(leads(&table, "GET", "/gone"), to("a", "Gone"), "instances that have it are still there");
    assert_eq!(leads(&table, "POST", "/a.v1.Api/Gone"), to("a", "Gone"));
    assert_eq!(table.problems(), [""; 0]);
}

#[test]
fn what_the_registry_refused_a_service_is_not_routed_to_it_even_if_it_came_first() {
    let rule = "get: \"/x/{id}\" additional_bindings { get: \"/y\" }";
    let (thief, owner) = (set("t.v1", &[("It", rule)]), set("o.v1", &[("It", "get: \"/x/{id}\"")]));
    let entries =
        vec![entry("thief", "t.v1", vec![thief], &[("GET /x/*", "owner")]), entry("owner", "o.v1", vec![owner], &[])];
    let table = table(entries);
    assert_eq!(leads(&table, "GET", "/x/1"), to("owner", "It"));
    assert_eq!(leads(&table, "GET", "/y"), to("thief", "It"), "the rest of it serves");
    assert_eq!(table.problems(), ["GET /x/* belongs to owner; that of t.v1.Api/It of thief is not routed"]);
}

#[test]
fn no_template_takes_the_grpc_path_of_another_service() {
    let thief = set("t.v1", &[("It", "post: \"/o.v1.Api/It\" body: \"*\"")]);
    let owner = set("o.v1", &[("It", "get: \"/o\"")]);
    let table = table(vec![entry("thief", "t.v1", vec![thief], &[]), entry("owner", "o.v1", vec![owner], &[])]);
    assert_eq!(leads(&table, "POST", "/o.v1.Api/It"), to("owner", "It"));
    assert_eq!(table.problems().len(), 1);
}

#[test]
fn a_policys_rule_binds_what_has_no_annotation_and_stands_in_for_one() {
    let entries = || {
        let set = set("a.v1", &[("Bare", ""), ("Said", "get: \"/said\" additional_bindings { get: \"/again\" }")]);
        vec![entry("a", "a.v1", vec![set], &[])]
    };
    let bare = table(entries());
    assert_eq!(leads(&bare, "GET", "/bare/1"), None);
    let rules = [("a.v1.Api.Bare", "/bare/{id}"), ("a.v1.Api.Said", "/other")];
    let ruled = table_with(entries(), "", &policy("paths", "a", &rules));
    assert_eq!(leads(&ruled, "GET", "/bare/1"), to("a", "Bare"));
    assert_eq!(leads(&ruled, "GET", "/other"), to("a", "Said"));
    assert_eq!(
        (leads(&ruled, "GET", "/said"), leads(&ruled, "GET", "/again")),
        (None, None),
        "all of the annotation is gone"
    );
    assert_eq!(leads(&ruled, "POST", "/a.v1.Api/Said"), to("a", "Said"), "what every method has stays");
    assert_eq!(ruled.problems(), [""; 0]);
    let usual = Codec::default();
    let plans = ruled.plans(&usual).map(|(plan, _)| plan).filter(|it| !it.is_plain());
    let described: Vec<_> = plans.map(|it| it.template().to_string()).collect();
    assert_eq!(described, ["/bare/{id}", "/other"], "documents are made of these");
}

#[test]
fn a_rule_of_the_file_comes_before_a_services_policies_and_these_before_the_gateways() {
    let entries = vec![entry("a", "a.v1", vec![set("a.v1", &[("One", ""), ("Two", ""), ("Three", "")])], &[])];
    let toml = "\n[[http]]\nselector = \"a.v1.Api.One\"\nget = \"/file\"\n";
    let yaml = [
        policy("whole", "gateway", &[("a.v1.Api.One", "/w1"), ("a.v1.Api.Two", "/w2"), ("a.v1.Api.Three", "/w3")]),
        policy("own-b", "a", &[("a.v1.Api.Two", "/b2")]),
        policy("own-a", "a", &[("a.v1.Api.Two", "/a2")]),
    ];
    let table = table_with(entries, toml, &yaml.concat());
    assert_eq!(leads(&table, "GET", "/file"), to("a", "One"));
    assert_eq!(leads(&table, "GET", "/a2"), to("a", "Two"), "the first by name");
    assert_eq!(leads(&table, "GET", "/w3"), to("a", "Three"));
    for nobodys in ["/w1", "/w2", "/b2"] {
        assert_eq!(leads(&table, "GET", nobodys), None, "{nobodys}");
    }
    let expected = [
        "policy own-b: a.v1.Api.Two: the rule of policy own-a comes first; this one is left out",
        "policy whole: a.v1.Api.One: the rule of gateway.toml:2 comes first; this one is left out",
    ];
    assert_eq!(table.problems(), expected);
}

#[test]
fn a_rule_takes_no_path_that_another_service_claims_even_where_it_is_not_called_by_it() {
    let entries = || {
        let (holder, other) = (set("h.v1", &[("It", "get: \"/x/{id}\"")]), set("o.v1", &[("It", ""), ("Too", "")]));
        // Who wants the path was met first.
        vec![entry("other", "o.v1", vec![other], &[]), entry("holder", "h.v1", vec![holder], &[])]
    };
    let wants = policy("wants", "other", &[("o.v1.Api.It", "/x/{id}"), ("o.v1.Api.Too", "/free")]);
    let table = table_with(entries(), "", &wants);
    assert_eq!(leads(&table, "GET", "/x/1"), to("holder", "It"));
    assert_eq!(leads(&table, "GET", "/free"), to("other", "Too"), "the rest of it serves");
    let left_out =
        "policy wants: GET /x/* belongs to holder; that of o.v1.Api.It of other is not routed: give it another path";
    assert_eq!(table.problems(), [left_out]);

    let moved = policy("moved", "holder", &[("h.v1.Api.It", "/moved/{id}")]);
    let table = table_with(entries(), "", &(wants + &moved));
    assert_eq!(leads(&table, "GET", "/moved/1"), to("holder", "It"));
    assert_eq!(leads(&table, "GET", "/x/1"), None, "the claim is the holder's as long as its descriptors make it");
    assert_eq!(table.problems(), [left_out]);
}

#[test]
fn a_rule_takes_no_call_of_anothers_annotation_by_any_method_by_head_or_by_a_verb() {
    const ANY: &str = "custom: { kind: \"*\" path: \"/x/{id}\" }";
    const HEAD: &str = "custom: { kind: \"HEAD\" path: \"/x/{id}\" }";
    const TWO: &str = "post: \"/x/{id}\" additional_bindings { get: \"/x/{id}\" }";
    for (annotation, rule, claim) in [
        ("get: \"/x/{id}\"", "custom: { kind: '*', path: '/x/{id}' }", Some("GET /x/*")),
        ("get: \"/x/{id}\"", "custom: { kind: HEAD, path: '/x/{id}' }", Some("GET /x/*")),
        ("get: \"/x/{id}\"", "custom: { kind: PURGE, path: '/x/{id}' }", None),
        ("get: \"/x/{id}\"", "post: '/x/{id}'", None),
        (HEAD, "custom: { kind: head, path: '/x/{id}' }", Some("HEAD /x/*")),
        (HEAD, "custom: { kind: '*', path: '/x/{id}' }", Some("HEAD /x/*")),
        (HEAD, "get: '/x/{id}'", None),
        (ANY, "get: '/x/{id}'", Some("* /x/*")),
        (ANY, "custom: { kind: HEAD, path: '/x/{id}' }", Some("* /x/*")),
        (ANY, "custom: { kind: PURGE, path: '/x/{id}' }", Some("* /x/*")),
        (ANY, "custom: { kind: '*', path: '/x/{id}' }", Some("* /x/*")),
        (ANY, "custom: { kind: '*', path: '/x/{id}:see' }", None),
        (ANY, "custom: { kind: '*', path: '/x/*/{id}' }", None),
        ("get: \"/x/{id}:see\"", "custom: { kind: '*', path: '/x/{id}:see' }", Some("GET /x/*:see")),
        ("get: \"/x/{id}:see\"", "custom: { kind: HEAD, path: '/x/{id}' }", None),
        (TWO, "custom: { kind: '*', path: '/x/{id}' }", Some("GET /x/*")),
    ] {
        let other = entry("other", "o.v1", vec![set("o.v1", &[("It", "")])], &[]);
        let holder = entry("holder", "h.v1", vec![set("h.v1", &[("It", annotation)])], &[]);
        let yaml = format!("name: wants\nservice: other\nhttp: {{ rules: [{{ selector: o.v1.Api.It, {rule} }}] }}\n");
        let left_out = claim.map(|claim| {
            format!("policy wants: {claim} belongs to holder; that of o.v1.Api.It of other is not routed: give it another path")
        });
        let table = table_with(vec![other, holder], "", &yaml);
        assert_eq!(table.problems(), left_out.into_iter().collect::<Vec<_>>(), "{rule} beside {annotation}");
    }
}

#[test]
fn a_rule_may_have_all_methods_of_a_path_that_its_own_service_claims() {
    let own = set("a.v1", &[("Said", "get: \"/x/{id}\""), ("Bare", "")]);
    let yaml = "name: all\nservice: a\nhttp: { rules: [{ selector: a.v1.Api.Bare, custom: { kind: '*', path: '/x/{id}' } }] }\n";
    let table = table_with(vec![entry("a", "a.v1", vec![own], &[])], "", yaml);
    assert_eq!(leads(&table, "GET", "/x/1"), to("a", "Said"), "who names the method comes first");
    assert_eq!(leads(&table, "PUT", "/x/1"), to("a", "Bare"));
    assert_eq!(table.problems(), [""; 0]);
}

#[test]
fn what_the_registry_refused_a_service_no_rule_gives_it() {
    let entries =
        vec![entry("thief", "t.v1", vec![set("t.v1", &[("It", "get: \"/x/{id}\"")])], &[("GET /x/*", "away")])];
    let table = table_with(entries, "", &policy("again", "thief", &[("t.v1.Api.It", "/x/{id}")]));
    assert_eq!(leads(&table, "GET", "/x/1"), None);
    assert!(
        table.problems().iter().any(|it| it.starts_with("policy again: GET /x/* belongs to away;")),
        "{:?}",
        table.problems()
    );
}

#[test]
fn of_two_rules_with_one_path_the_policy_that_is_first_by_name_has_it_at_every_gateway() {
    let yaml = policy("b", "one", &[("a.v1.Api.It", "/x")]) + &policy("a", "two", &[("b.v1.Api.It", "/x")]);
    let one = || entry("one", "a.v1", vec![set("a.v1", &[("It", "")])], &[]);
    let two = || entry("two", "b.v1", vec![set("b.v1", &[("It", "")])], &[]);
    for entries in [vec![one(), two()], vec![two(), one()]] {
        let table = table_with(entries, "", &yaml);
        assert_eq!(leads(&table, "GET", "/x"), to("two", "It"));
        let expected = "policy b: GET /x belongs to b.v1.Api.It of two; that of a.v1.Api.It of one is not routed: give it another path";
        assert_eq!(table.problems(), [expected]);
    }
}

#[test]
fn of_two_rules_of_one_policy_with_one_path_the_method_that_is_first_by_name_has_it() {
    let one = || entry("one", "a.v1", vec![set("a.v1", &[("Second", ""), ("First", "")])], &[]);
    let two = || entry("two", "b.v1", vec![set("b.v1", &[("First", "")])], &[]);
    let left_out = |method: &str, of: &str| {
        format!(
            "policy p: GET /x belongs to a.v1.Api.First of one; that of {method} of {of} is not routed: give it another path"
        )
    };
    let (first, second, elsewhere) = (("a.v1.Api.First", "/x"), ("a.v1.Api.Second", "/x"), ("b.v1.Api.First", "/x"));
    for rules in [[first, second], [second, first]] {
        let table = table_with(vec![one()], "", &policy("p", "one", &rules));
        assert_eq!(leads(&table, "GET", "/x"), to("one", "First"), "{rules:?}");
        assert_eq!(table.problems(), [left_out("a.v1.Api.Second", "one")]);
    }
    for rules in [[first, elsewhere], [elsewhere, first]] {
        for entries in [vec![one(), two()], vec![two(), one()]] {
            let table = table_with(entries, "", &policy("p", "gateway", &rules));
            assert_eq!(leads(&table, "GET", "/x"), to("one", "First"), "{rules:?}");
            assert_eq!(table.problems(), [left_out("b.v1.Api.First", "two")]);
        }
    }
}

#[test]
fn a_set_keeps_its_plans_for_as_long_as_the_rules_about_it_are_the_same() {
    let set = set("a.v1", &[("One", ""), ("Two", "get: \"/two\"")]);
    let rule = |selector: &str, path: &str| {
        let toml = format!("[[http]]\nselector = \"a.v1.Api.{selector}\"\nget = \"{path}\"\n");
        weft_policy::parse_http_among(&toml).unwrap().remove(0).1
    };
    let claims = |schema: &Schema| -> Vec<String> {
        schema.plans().iter().filter(|plan| !plan.is_plain()).map(|plan| plan.claim()).collect()
    };
    let same = |a: &Schema, b: &Schema| {
        a.plans().len() == b.plans().len() && a.plans().iter().zip(b.plans()).all(|(a, b)| Arc::ptr_eq(a, b))
    };
    let first = set.ruled(&[&rule("One", "/one")]);
    assert_eq!(claims(&first), ["GET /one", "GET /two"]);
    assert!(same(&set.ruled(&[&rule("One", "/one")]), &first), "rules that say the same are the same");
    for (rules, expected) in [
        (vec![rule("One", "/1")], ["GET /1", "GET /two"]),
        (vec![rule("One", "/1"), rule("Two", "/2")], ["GET /1", "GET /2"]),
        (vec![rule("Two", "/2"), rule("One", "/1")], ["GET /1", "GET /2"]),
    ] {
        assert_eq!(claims(&set.ruled(&rules.iter().collect::<Vec<_>>())), expected);
    }
    assert!(same(&set.ruled(&[]), set.schema()), "what it says itself stays as it is");
    assert_eq!(claims(set.schema()), ["GET /two"]);
}

#[test]
fn what_a_rule_names_that_is_not_there_is_told_once_with_who_says_it() {
    let sets = || vec![set("a.v1", &[("New", "")]), set("a.v1", &[("Old", "")])];
    let yaml = policy(
        "paths",
        "a",
        &[("a.v1.Api.Old", "/old"), ("a.v1.Api.Odl", "/odl"), ("a.v2.Api.Old", "/v2"), ("a.v1.Api.New", "/{no}")],
    );
    let toml = "[[http]]\nselector = \"b.v1.Api.It\"\nget = \"/b\"\n";
    let table = table_with(vec![entry("a", "a.v1", sets(), &[])], toml, &yaml);
    assert_eq!(leads(&table, "GET", "/old"), to("a", "Old"), "one of the sets declares it");
    let expected = [
        "policy paths: a.v2.Api.Old: a has no gRPC service a.v2.Api; it has a.v1.Api",
        "policy paths: a.v1.Api.New: GET \"/{no}\": variable no names no, which is no field of a.v1.It; it has id",
        "policy paths: a.v1.Api.Odl: a.v1.Api has no method Odl; it has New",
        "gateway.toml:1: b.v1.Api.It: no service declares the gRPC service b.v1.Api",
    ];
    assert_eq!(table.problems(), expected);
    assert_eq!(table.mistakes_of_file().collect::<Vec<_>>(), expected[3..]);
}
