//! Documents in three formats: what they mean, what is wrong with them and where, and the way out and back in.

use proptest::prelude::*;
use weft_model::{Access, Action, Callers, MethodPattern, PlaintextUpstream, PolicyKind, Rule, Version};

use super::*;
use crate::Document;

mod edge;
mod routes;

const TOML: &str = r#"
[[policies]]
name = "users-callers"
service = "users"

[[policies.access.rules]]
name = "readers"
from = { services = ["posts", "comments.eu"], authenticated = false }
methods = ["shop.users.v1.Users/GetUser"]

[[policies.access.rules]]
action = "deny"
from = { anonymous = true }

[[policies]]
name = "old-posts"
service = "posts"
plaintext_upstream = "allow"
"#;

const YAML: &str = r#"# who may call users
name: users-callers
service: users
access:
  rules:
    - name: readers
      from: { services: [posts, comments.eu], authenticated: false }
      methods:
        - shop.users.v1.Users/GetUser
    - action: deny
      from: { anonymous: true }
---
policies:
  - { name: old-posts, service: posts, plaintext_upstream: allow }
---
"#;

const JSON: &str = r#"[
	{"name": "users-callers", "service": "users", "access": {"rules": [
		{"name": "readers", "from": {"services": ["posts", "comments.eu"], "authenticated": false},
		 "methods": ["shop.users.v1.Users\/GetUser"]},
		{"action": "deny", "from": {"anonymous": true}}
	]}},
	{"name": "old-posts", "service": "posts", "plaintext_upstream": "allow"}
]
"#;

#[test]
fn three_formats_say_the_same() {
    let read = |text, format| parse(text, format).unwrap_or_else(|e| panic!("{format:?}: {e}"));
    let (toml, yaml, json) = (read(TOML, Format::Toml), read(YAML, Format::Yaml), read(JSON, Format::Json));
    let policies = |read: &[(usize, Policy)]| read.iter().map(|(_, it)| it.clone()).collect::<Vec<_>>();
    assert_eq!(policies(&toml), policies(&yaml));
    assert_eq!(policies(&toml), policies(&json));
    let lines = |read: &[(usize, Policy)]| read.iter().map(|(line, _)| *line).collect::<Vec<_>>();
    assert_eq!((lines(&toml), lines(&yaml), lines(&json)), (vec![2, 15], vec![2, 14], vec![2, 7]));
    let [(_, users), (_, posts)] = toml.as_slice() else { panic!("{toml:?}") };
    let PolicyKind::Access(access) = &users.kind else { panic!("{users:?}") };
    let names: Vec<_> = access.rules().iter().map(|it| (it.name().as_str(), it.action())).collect();
    assert_eq!(names, [("readers", Action::Allow), ("rule-2", Action::Deny)]);
    assert_eq!(posts.kind, PolicyKind::PlaintextUpstream(PlaintextUpstream::Allow));
}

#[test]
fn a_text_without_policies_is_none() {
    for (text, format) in
        [("", Format::Toml), ("# nothing\n", Format::Yaml), ("---\n---\n", Format::Yaml), ("[]", Format::Json)]
    {
        assert_eq!(parse(text, format), Ok(vec![]), "{text:?}");
    }
}

#[test]
fn what_is_wrong_is_told_with_line_field_and_cure() {
    let rule = |rule: &str| format!("name: a\nservice: b\naccess:\n  rules:\n    - {rule}\n");
    let from = "from: { anonymous: true }";
    for (format, text, expected) in [
        // syntax
        (Format::Toml, "name = \"a\"\nservice = b\n".to_owned(), "line 2: this is no TOML"),
        (Format::Yaml, "name: a\nservice: [\n".to_owned(), "this is no YAML"),
        (Format::Json, "{\n  \"name\": a\n}".to_owned(), "line 2: this is no JSON"),
        (Format::Yaml, "name: a\nname: b\n".to_owned(), "line 2: \"name\" was given on line 1 already"),
        (Format::Yaml, "name: &n a\nservice: *n\n".to_owned(), "line 2: aliases are not read"),
        (Format::Yaml, "[".repeat(40) + &"]".repeat(40), "nested deeper than 32 levels"),
        // shape
        (Format::Yaml, "just text".to_owned(), "line 1: expected a policy, found text"),
        (Format::Yaml, "policies: {}\n".to_owned(), "line 1: policies: expected a list, found a table"),
        (Format::Yaml, "policies: []\nname: x\n".to_owned(), "line 2: name: unknown key; known here: policies"),
        (
            Format::Yaml,
            "- name: a\n- text\n".to_owned(),
            "line 1: [0]: says nothing: give one of access, plaintext_upstream, route, upstream",
        ),
        (
            Format::Toml,
            "\nname = 5\nservice = \"b\"\nplaintext_upstream = \"allow\"".to_owned(),
            "line 2: name: expected text, found a number",
        ),
        // keys
        (Format::Yaml, "name: a\nservce: b\n".to_owned(), "line 2: servce: unknown key; did you mean service?"),
        (
            Format::Yaml,
            rule(&format!("{{ {from}, method: [] }}")),
            "line 5: access.rules[0].method: unknown key; did you mean methods?",
        ),
        (
            Format::Yaml,
            rule("from: { everybody: true }"),
            "line 5: access.rules[0].from.everybody: unknown key; known here: identities",
        ),
        (
            Format::Toml,
            "[[policies]]\nname = \"a\"\nservice = \"b\"\n[[policies.access.rules]]\nfrom = { anonymus = true }"
                .to_owned(),
            "line 5: policies[0].access.rules[0].from.anonymus: unknown key; did you mean anonymous?",
        ),
        // what is missing
        (Format::Yaml, "service: b\nplaintext_upstream: allow\n".to_owned(), "line 1: name: is required"),
        (Format::Yaml, "name: a\nplaintext_upstream: allow\n".to_owned(), "line 1: service: is required"),
        (Format::Yaml, "name: a\nservice: b\naccess: {}\n".to_owned(), "line 3: access.rules: is required"),
        (Format::Yaml, rule("name: x"), "line 5: access.rules[0].from: is required"),
        (Format::Yaml, rule("from: {}"), "line 5: access.rules[0].from: names nobody"),
        (Format::Yaml, rule(&format!("{{ {from}, methods: [] }}")), "line 5: access.rules[0].methods: is empty"),
        // values
        (Format::Yaml, "name: A\nservice: b\nplaintext_upstream: allow\n".to_owned(), "line 1: name: \"A\" is no name"),
        (
            Format::Yaml,
            "name: a\nservice: b\nplaintext_upstream: alow\n".to_owned(),
            "line 3: plaintext_upstream: \"alow\" is not known; did you mean allow?",
        ),
        (
            Format::Yaml,
            "name: a\nservice: b\nplaintext_upstream: true\n".to_owned(),
            "line 3: plaintext_upstream: expected text, found true or false",
        ),
        (
            Format::Yaml,
            "name: a\nservice: b\nplaintext_upstream: allow\naccess: { rules: [] }\n".to_owned(),
            "line 3: plaintext_upstream: a policy is of one kind",
        ),
        (
            Format::Yaml,
            rule(&format!("{{ {from}, action: block }}")),
            "line 5: access.rules[0].action: \"block\" is not known; expected allow or deny",
        ),
        (
            Format::Yaml,
            rule("from: { services:\n        [posts,\n         Posts] }"),
            "line 7: access.rules[0].from.services[1]: name \"Posts\" is no DNS label",
        ),
        (
            Format::Yaml,
            rule("from: { identities: [posts] }"),
            "access.rules[0].from.identities[0]: \"posts\" does not start with spiffe://",
        ),
        (
            Format::Yaml,
            rule("from: { anonymous: yes }"),
            "access.rules[0].from.anonymous: expected true or false, found text",
        ),
        (
            Format::Yaml,
            rule(&format!("{{ {from}, methods: [GetUser] }}")),
            "access.rules[0].methods[0]: \"GetUser\" has no slash; write pkg.Service/Method",
        ),
        (Format::Yaml, rule(&format!("{{ name: default, {from} }}")), "access.rules[0].name: \"default\" stands for"),
        (
            Format::Yaml,
            rule(&format!("{{ name: x, {from} }}\n    - {{ name: x, {from} }}")),
            "line 6: access.rules[1].name: a second rule named \"x\"",
        ),
    ] {
        let error = parse(&text, format).expect_err(&text).to_string();
        assert!(error.contains(expected), "{text}\nsays     {error}\nexpected {expected}");
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let name = || "[a-z][a-z0-9]{0,8}(-[a-z0-9]{1,4})?";
    let service = || {
        ("[a-z]{1,8}", proptest::option::of("[a-z]{1,5}"))
            .prop_map(|(name, namespace)| namespace.map_or(name.clone(), |it| format!("{name}.{it}")))
    };
    let method = "([a-z]{1,5}\\.){0,2}[A-Z][a-z]{1,5}/([A-Z][A-Za-z]{1,8}|\\*)";
    let some = |of: BoxedStrategy<String>| proptest::collection::vec(of, 0..3);
    let callers = (
        some("spiffe://[a-z]{1,5}/ns/[a-z]{1,5}/svc/[a-z]{1,5}".boxed()),
        some(service().boxed()),
        some(name().boxed()),
        any::<bool>(),
        any::<bool>(),
    );
    let callers =
        callers.prop_filter_map("names somebody", |(identities, services, namespaces, anonymous, authenticated)| {
            let parse = |texts: &[String]| texts.iter().map(|it| it.parse().unwrap()).collect();
            let services = services.iter().map(|it| it.parse().unwrap()).collect();
            let namespaces = namespaces.iter().map(|it| it.parse().unwrap()).collect();
            Callers { identities: parse(&identities), services, namespaces, anonymous, authenticated }.checked().ok()
        });
    let rule = (prop_oneof![Just(Action::Allow), Just(Action::Deny)], callers, some(method.boxed()));
    let access = proptest::collection::vec(rule, 0..4).prop_map(|rules| {
        let rule = |(index, (action, from, methods)): (usize, (Action, Callers, Vec<String>))| {
            let methods: Vec<MethodPattern> = methods.iter().map(|it| it.parse().unwrap()).collect();
            Rule::new(Rule::name_of_place(index), action, from, methods).unwrap()
        };
        PolicyKind::Access(Access::new(rules.into_iter().enumerate().map(rule).collect()).unwrap())
    });
    let mode = prop_oneof![Just(PlaintextUpstream::Allow), Just(PlaintextUpstream::Refuse)];
    let kind = prop_oneof![
        access.boxed(),
        mode.prop_map(PolicyKind::PlaintextUpstream).boxed(),
        routes::any_route().prop_map(PolicyKind::Route).boxed(),
        routes::any_upstream().prop_map(PolicyKind::Upstream).boxed(),
    ];
    (name(), service(), kind).prop_map(|(name, service, kind)| Policy {
        name: name.parse().unwrap(),
        service: service.parse().unwrap(),
        version: Version(0),
        kind,
    })
}

proptest! {
    #[test]
    fn what_is_written_out_is_read_back_the_same(policies in proptest::collection::vec(any_policy(), 0..4)) {
        let document = Document::new(&policies);
        let yaml = serde_saphyr::to_string(&document).unwrap();
        let json = serde_json::to_string_pretty(&document).unwrap();
        let toml = toml::to_string(&document).unwrap();
        for (text, format) in [(yaml, Format::Yaml), (json, Format::Json), (toml, Format::Toml)] {
            let read = parse(&text, format).map_err(|e| TestCaseError::fail(format!("{e} in\n{text}")))?;
            prop_assert_eq!(read.into_iter().map(|(_, it)| it).collect::<Vec<_>>(), policies.clone(), "{}", text);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "[ \\[\\]{}:,&*!|>'\"%#\\-a-z\n\t0-9=.]{0,200}") {
        for format in [Format::Toml, Format::Yaml, Format::Json] {
            drop(parse(&text, format));
        }
    }
}
