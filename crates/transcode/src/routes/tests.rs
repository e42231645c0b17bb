//! The table as its callers see it, and the tree against a matcher that tries every template.

use proptest::prelude::*;

use super::*;
use crate::fixture;
use crate::template::{Segment, Template};

const API: &str = r#"
    syntax = "proto3";
    package test.v1;
    import "google/api/annotations.proto";
    message Req { string x = 1; string y = 2; Inner inner = 3; }
    message Inner { string id = 1; }
    service Api {
      rpc Literal(Req) returns (Req) { option (google.api.http) = { get: "/p/lit" }; }
      rpc Star(Req) returns (Req) { option (google.api.http) = { get: "/p/{x}" additional_bindings { post: "/p/only" } }; }
      rpc Double(Req) returns (Req) { option (google.api.http) = { get: "/p/{x=**}" }; }
      rpc Tail(Req) returns (Req) { option (google.api.http) = { get: "/files/{x=**}/raw/{y}" }; }
      rpc Span(Req) returns (Req) { option (google.api.http) = { get: "/{x=shelves/*/books/*}/of/{inner.id}" }; }
      rpc Run(Req) returns (Req) { option (google.api.http) = { get: "/v/{x}:run" }; }
      rpc Plain(Req) returns (Req) { option (google.api.http) = { get: "/v/{x}" }; }
      rpc Any(Req) returns (Req) { option (google.api.http) = { custom: { kind: "*" path: "/any/{x}" } }; }
      rpc Put(Req) returns (Req) { option (google.api.http) = { put: "/any/{y}" }; }
    }
"#;

/// Returns the method and the variables, or the methods allowed, or nothing.
fn seen(table: &RouteTable<&str>, http_method: &str, path: &str) -> String {
    match table.lookup(http_method, path) {
        Lookup::Found(found) => format!("{} {:?}", found.plan.method().name(), found.variables.0),
        Lookup::MethodNotAllowed { allow } => format!("405 {}", allow.join(" ")),
        Lookup::NotFound => "404".to_owned(),
    }
}

#[test]
fn the_most_specific_template_of_the_method_wins() {
    let table = RouteTable::builder().add(&fixture::schema(API), "api").build();
    assert_eq!(table.problems(), []);
    let lookups = [
        ("GET", "/p/lit", r#"Literal []"#),
        ("GET", "/p/lit/", r#"Literal []"#),
        ("GET", "/p/lit//", r#"Literal []"#),
        ("GET", "/p/a%2Fb", r#"Star ["a%2Fb"]"#),
        ("GET", "/p/only", r#"Star ["only"]"#),
        ("POST", "/p/only", r#"Star []"#),
        ("GET", "/p/a/b", r#"Double ["a/b"]"#),
        ("GET", "/p/lit/b", r#"Double ["lit/b"]"#),
        ("GET", "/p", r#"Double [""]"#),
        ("GET", "/p//b", r#"Double ["/b"]"#),
        ("DELETE", "/p/only", "405 GET POST"),
        ("GET", "/files/raw/1", r#"Tail ["", "1"]"#),
        ("GET", "/files/a/b/raw/1", r#"Tail ["a/b", "1"]"#),
        ("GET", "/files/raw/raw/raw/1", r#"Tail ["raw/raw", "1"]"#),
        ("GET", "/files/a/raw", "404"),
        ("GET", "/shelves/1/books/2/of/3", r#"Span ["shelves/1/books/2", "3"]"#),
        ("GET", "/v/a:run", r#"Run ["a"]"#),
        ("GET", "/v/a:run/", r#"Plain ["a:run"]"#),
        ("GET", "/v/a:b:run", r#"Run ["a:b"]"#),
        ("GET", "/v/a:other", r#"Plain ["a:other"]"#),
        ("GET", "/v/:run", "404"),
        ("PUT", "/v/a:run", "405 GET"),
        ("PUT", "/any/1", r#"Put ["1"]"#),
        ("PURGE", "/any/1", r#"Any ["1"]"#),
        ("POST", "/test.v1.Api/Plain", "Plain []"),
        ("GET", "/test.v1.Api/Plain", "405 POST"),
        ("GET", "/nothing", "404"),
        ("OPTIONS", "*", "404"),
        ("GET", "", "404"),
    ];
    for (http_method, path, expected) in lookups {
        assert_eq!(seen(&table, http_method, path), expected, "{http_method} {path}");
    }
}

#[test]
fn the_first_to_claim_a_service_or_a_template_keeps_it() {
    const OTHER: &str = r#"
        syntax = "proto3";
        package other.v1;
        import "google/api/annotations.proto";
        message Req { string name = 1; }
        service Other { rpc Lit(Req) returns (Req) { option (google.api.http) = { get: "/p/{name}" additional_bindings { get: "/q" } }; } }
    "#;
    let (first, second) = (fixture::schema(API), fixture::schema(OTHER));
    let table = RouteTable::builder().add(&first, "a").add(&first, "b").add(&second, "c").build();
    let expected = [
        RouteProblem::Service { service: "test.v1.Api".to_owned(), kept: "a", refused: "b" },
        RouteProblem::Binding {
            http_method: "GET".to_owned(),
            template: "/p/{name}".to_owned(),
            origin: Origin::Annotation,
            kept_method: "test.v1.Api.Star".to_owned(),
            kept: "a",
            refused_method: "other.v1.Other.Lit".to_owned(),
            refused: "c",
        },
    ];
    assert_eq!(table.problems(), expected);
    assert_eq!(seen(&table, "GET", "/p/x"), r#"Star ["x"]"#);
    assert_eq!(seen(&table, "GET", "/q"), "Lit []");
    assert_eq!(table.service("other.v1.Other"), Some(&"c"));
    assert_eq!(
        table.method("/other.v1.Other/Lit").map(|(plan, owner)| (plan.method().name(), *owner)),
        Some(("Lit", "c"))
    );
    assert!(table.method("/other.v1.Other/None").is_none());
}

#[test]
fn one_service_of_a_schema_can_be_added_alone_and_grpc_ones_never() {
    const TWO: &str = r#"
        syntax = "proto3";
        package grpc.test;
        message Req {}
        service Hidden { rpc Call(Req) returns (Req); }
    "#;
    let table = RouteTable::builder()
        .add(&fixture::schema(TWO), "x")
        .add_service(&fixture::schema(API), "no.such", "y")
        .build();
    assert_eq!(table.plans().count(), 0);
    assert_eq!(seen(&table, "POST", "/grpc.test.Hidden/Call"), "404");
}

/// Whether a template matches, by trying every length of its `**`.
fn matches(template: &[Segment], path: &[&str]) -> bool {
    match (template, path) {
        ([], []) => true,
        ([Segment::DoubleStar, rest @ ..], _) => (0..=path.len()).any(|taken| matches(rest, &path[taken..])),
        ([Segment::Star, rest @ ..], [_, path @ ..]) => matches(rest, path),
        ([Segment::Literal(text), rest @ ..], [first, path @ ..]) => text == first && matches(rest, path),
        _ => false,
    }
}

/// Orders templates by the leftmost difference: literal, `*`, the end, `**`; behind a `**` the longer rest comes first.
fn rank(template: &Template) -> Vec<usize> {
    let class = |it: &Segment| match it {
        Segment::Literal(_) => 0,
        Segment::Star => 1,
        Segment::DoubleStar => 3,
    };
    let mut parts = template.segments().split(|it| *it == Segment::DoubleStar);
    let before = parts.next().unwrap_or_default().iter().map(class);
    match parts.next() {
        None => before.chain([2]).collect(),
        Some(after) => before.chain([3, usize::MAX - after.len()]).chain(after.iter().map(class)).collect(),
    }
}

proptest! {
    #[test]
    fn the_tree_finds_what_trying_every_template_finds(
        texts in prop::collection::vec("(/(a|b|\\*)){0,3}(/\\*\\*)?(/(a|b|\\*)){0,2}", 1..8),
        path in prop::collection::vec("[abc]", 0..6),
    ) {
        let templates: Vec<Template> = texts.iter().filter(|it| !it.is_empty()).filter_map(|it| it.parse().ok()).collect();
        let mut tree = Trie::new();
        for (route, template) in templates.iter().enumerate() {
            // The first of several equal ones keeps the paths.
            let _ = tree.claim(template.segments(), Claim { verb: None, http_method: "GET".to_owned(), route });
        }
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        let found = tree.find(&path, |claims| pick(claims, None, "GET"));
        let best = templates.iter().filter(|it| matches(it.segments(), &path)).min_by_key(|it| rank(it));
        prop_assert_eq!(found.map(|it| templates[it].segments()), best.map(Template::segments));
    }

    #[test]
    fn no_path_makes_a_lookup_panic(path in "[/:ab%*]{0,24}") {
        let table = RouteTable::builder().add(&fixture::schema(API), "api").build();
        let _ = table.lookup("GET", &path);
    }
}
