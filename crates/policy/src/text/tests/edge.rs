//! Edge policies: what they mean, what is wrong with them and where, out and back.

use std::time::Duration;

use weft_model::{Action, Authentication, Edge, JsonOutput, KeySource, Per, PolicyKind, StreamFormat};

use super::*;

const YAML: &str = r#"
name: pages
service: gateway
cors: { origins: ["https://a.example", "https://*.b.example"], credentials: true, headers: [X-Tenant], max_age: 1m }
---
name: callers
service: users
authentication:
  methods: [shop.users.v1.Users/*]
  jwt:
    - { issuer: "https://issuer.example", audiences: [shop] }
    - { issuer: other, audiences: [a, b], jwks_uri: "https://other.example/keys", leeway: 5s }
  api_keys: { header: X-Key }
  anonymous: true
  to_metadata: [{ claim: sub, metadata: X-User }]
  forward_credentials: true
  rules:
    - { claims: [{ claim: roles, any_of: [admin, 7] }, { claim: plan, is: gold }, { claim: sub }], methods: [a.B/C] }
    - { name: banned, action: deny, claims: [{ claim: sub, is: eve }] }
---
name: few
service: users
rate_limit:
  rules:
    - { calls: 10 }
    - { name: slow, methods: [a.B/*], per: [client, method], calls: 100, every: 1m, burst: 5 }
---
name: billing
service: gateway
api_key: { sha256: "SHA", claims: { plan: gold, seats: 5 }, expires: "2027-01-31T12:00:00Z" }
---
name: kept
service: users
cache: { methods: [a.B/C], ttl: 30s, per_caller: true, epoch: 3 }
---
name: not-kept
service: users
cache: { off: true }
---
name: small
service: gateway
limits: { max_request_bytes: 1000, max_header_bytes: 2000, max_uri_bytes: 300, max_depth: 9, max_elements: 50, timeout: 5s, body_timeout: 250ms }
---
name: names
service: users
headers:
  request: [{ name: X-Tenant-Id, rename: Tenant }, { name: cookie, remove: true }, { name: x-via, append: edge }]
  response: [{ name: x-served-by, set: weft }]
---
name: as-numbers
service: users
transcoding: { methods: [a.B/C], infer_update_mask: false, stream_format: ndjson, json_output: { emit_defaults: true, enums_as_ints: false } }
---
name: as-events
service: gateway
transcoding: { stream_format: sse }
---
name: paths
service: users
http:
  rules:
    - selector: shop.users.v1.Users.GetUser
      get: /people/{id}
      response_body: name
      additional_bindings: [{ post: "/people:get", body: "*" }, { custom: { kind: head, path: "/people/{id}" } }]
    - { selector: a.B.C, patch: "/c/{it.id=x/**}", body: it }
"#;

fn yaml() -> String {
    YAML.replace("SHA", &"0f".repeat(32))
}

fn kinds(text: &str, format: Format) -> Vec<PolicyKind> {
    let read = parse(text, format).unwrap_or_else(|e| panic!("{format:?}: {e} in\n{text}"));
    read.into_iter().map(|(_, it)| it.kind).collect()
}

#[test]
fn a_document_says_what_it_seems_to_say() {
    let kinds = kinds(&yaml(), Format::Yaml);
    let [PolicyKind::Edge(Edge::Cors(cors)), PolicyKind::Edge(Edge::Authentication(callers)), rest @ ..] =
        kinds.as_slice()
    else {
        panic!("{kinds:?}")
    };
    assert_eq!((cors.origins.len(), &*cors.headers[0], cors.max_age), (2, "x-tenant", Duration::from_secs(60)));
    assert_eq!(callers.jwt[0].keys(), &KeySource::Discovered);
    assert_eq!(callers.jwt[1].leeway(), Duration::from_secs(5));
    assert_eq!(callers.api_key_header.as_deref(), Some("x-key"));
    assert_eq!((&**callers.to_metadata[0].metadata(), callers.rules[0].name.as_str()), ("x-user", "rule-1"));
    let any_of: Vec<&str> = callers.rules[0].claims[0].any_of().iter().map(|it| &**it).collect();
    assert_eq!(any_of, ["admin", "7"]);
    assert_eq!((callers.rules[1].action, callers.rules[0].claims[2].any_of().len()), (Action::Deny, 0));
    let [PolicyKind::Edge(Edge::RateLimit(few)), PolicyKind::Edge(Edge::ApiKey(key)), rest @ ..] = rest else {
        panic!("{rest:?}")
    };
    assert_eq!((few.rules()[0].burst, few.rules()[0].every), (10, Duration::from_secs(1)));
    assert!(few.rules()[1].per.contains(&Per::Client) && few.rules()[1].burst == 5);
    assert_eq!((key.claims.get("seats").map(|it| &**it), key.expires), (Some("5"), Some(1_801_396_800_000)));
    let [
        PolicyKind::Edge(Edge::Cache(kept)),
        PolicyKind::Edge(Edge::Cache(not_kept)),
        PolicyKind::Edge(Edge::Limits(small)),
        PolicyKind::Edge(Edge::Headers(names)),
        PolicyKind::Edge(Edge::Transcoding(numbers)),
        PolicyKind::Edge(Edge::Transcoding(events)),
        PolicyKind::Edge(Edge::Http(paths)),
    ] = rest
    else {
        panic!("{rest:?}")
    };
    assert_eq!((kept.ttl, kept.per_caller, kept.epoch, kept.off), (Duration::from_secs(30), true, 3, false));
    assert_eq!(*not_kept, weft_model::Cache::closed());
    assert_eq!(
        (names.request[0].name(), names.request[0].change()),
        ("x-tenant-id", &weft_model::HeaderChange::Rename("tenant".into()))
    );
    assert_eq!((names.request.len(), names.response.len()), (3, 1));
    let claims: Vec<_> = paths.rules().iter().flat_map(|rule| rule.bindings().map(|it| it.claim())).collect();
    assert_eq!(claims, ["GET /people/*", "POST /people:get", "HEAD /people/*", "PATCH /c/x/**"]);
    let (get, patch) = (&paths.rules()[0], &paths.rules()[1]);
    assert_eq!((get.selector.method(), get.binding.response_body.as_str()), ("GetUser", "name"));
    assert_eq!((get.additional[0].body.as_str(), patch.binding.body.as_str()), ("*", "it"));
    let output = JsonOutput { emit_defaults: Some(true), preserve_proto_names: None, enums_as_ints: Some(false) };
    assert_eq!((numbers.json_output, numbers.infer_update_mask), (output, Some(false)));
    assert_eq!((numbers.stream_format, events.stream_format), (Some(StreamFormat::Ndjson), Some(StreamFormat::Sse)));
    assert_eq!((events.json_output, events.infer_update_mask), (JsonOutput::default(), None));
    assert_eq!(
        (small.max_request_bytes, small.max_depth, small.max_elements, small.body_timeout),
        (Some(1000), Some(9), Some(50), Some(Duration::from_millis(250)))
    );
}

#[test]
fn api_keys_are_on_or_off_or_in_a_header() {
    let of = |keys: &str| {
        let text = format!("name: a\nservice: users\nauthentication: {{ anonymous: true, api_keys: {keys} }}");
        match kinds(&text, Format::Yaml).remove(0) {
            PolicyKind::Edge(Edge::Authentication(it)) => it.api_key_header,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(of("true").as_deref(), Some(Authentication::API_KEY_HEADER));
    assert_eq!(of("{}").as_deref(), Some(Authentication::API_KEY_HEADER));
    assert_eq!(of("false"), None);
}

#[test]
fn what_is_written_out_is_read_back_as_the_same() {
    let policies: Vec<Policy> = parse(&yaml(), Format::Yaml).unwrap().into_iter().map(|(_, it)| it).collect();
    let document = crate::Document::new(&policies);
    let json = serde_json::to_string(&document).unwrap();
    let toml = toml::to_string(&document).unwrap();
    for (text, format) in [(json, Format::Json), (toml, Format::Toml)] {
        let back: Vec<Policy> =
            parse(&text, format).unwrap_or_else(|e| panic!("{e} in\n{text}")).into_iter().map(|(_, it)| it).collect();
        assert_eq!(back, policies, "{text}");
    }
}

#[test]
fn what_is_wrong_is_named_with_line_and_field() {
    let wrong = |from: &str, to: &str| {
        let (yaml, of) = (yaml(), |text: &str| parse(text, Format::Yaml).unwrap_err());
        assert!(yaml.contains(from), "{from}");
        let wrong = of(&yaml.replacen(from, to, 1));
        (wrong.line, wrong.field)
    };
    let at = |line: usize, field: &str| (line, field.to_owned());
    assert_eq!(wrong("https://*.b.example", "*.b.example"), at(4, "cors.origins[1]"));
    assert_eq!(wrong("audiences: [shop]", "audience: shop"), at(11, "authentication.jwt[0].audience"));
    assert_eq!(
        wrong("https://other.example/keys", "http://other.example/keys"),
        at(12, "authentication.jwt[1].jwks_uri")
    );
    assert_eq!(wrong("metadata: X-User", "metadata: te"), at(15, "authentication.to_metadata[0].metadata"));
    assert_eq!(wrong("per: [client, method]", "per: [client, methods]"), at(26, "rate_limit.rules[1].per[1]"));
    assert_eq!(wrong("calls: 10 }", "burst: 10 }"), at(25, "rate_limit.rules[0].calls"));
    assert_eq!(wrong("every: 1m", "every: 1ms"), at(26, "rate_limit.rules[1].every"));
    assert_eq!(wrong("0f0f", "0F0f"), at(30, "api_key.sha256"));
    assert_eq!(wrong("ttl: 30s", "ttl: 30"), at(34, "cache.ttl"));
    assert_eq!(wrong("ttl: 30s", "off: true"), at(34, "cache.off"));
    assert_eq!(wrong("max_depth: 9", "max_depth: 900"), at(42, "limits.max_depth"));
    assert_eq!(wrong("max_elements: 50", "max_elements: 0"), at(42, "limits.max_elements"));
    assert_eq!(wrong("remove: true", "remove: false"), at(47, "headers.request[1].remove"));
    assert_eq!(wrong("stream_format: ndjson", "stream_format: xml"), at(52, "transcoding.stream_format"));
    assert_eq!(wrong("emit_defaults: true", "emit_defaults: 1"), at(52, "transcoding.json_output.emit_defaults"));
    assert_eq!(wrong("emit_defaults: true", "emit: true"), at(52, "transcoding.json_output.emit"));
    assert_eq!(wrong("stream_format: sse", "json_output: {}"), at(56, "transcoding"));
    assert_eq!(wrong("set: weft", "remove: true, set: weft"), at(48, "headers.response[0].set"));
    assert_eq!(wrong("rename: Tenant", "rename: Host"), at(47, "headers.request[0].rename"));
    assert_eq!(wrong("get: /people/{id}", "get: /people/{id"), at(63, "http.rules[0].get"));
    assert_eq!(wrong("get: /people/{id}", "gte: /people/{id}"), at(63, "http.rules[0].gte"));
    assert_eq!(wrong("Users.GetUser", "Users/GetUser"), at(62, "http.rules[0].selector"));
    assert_eq!(wrong("kind: head", "kind: he ad"), at(65, "http.rules[0].additional_bindings[1].custom.kind"));
    assert_eq!(wrong("post: \"/people:get\"", "pots: /people"), at(65, "http.rules[0].additional_bindings[0].pots"));
    assert_eq!(wrong("selector: a.B.C", "selector: shop.users.v1.Users.GetUser"), at(66, "http.rules[1].selector"));
    assert_eq!(wrong("2027-01-31T12", "2027-01-32T12"), at(30, "api_key.expires"));
    assert_eq!(wrong("methods: [shop.users.v1.Users/*]", "methods: []"), at(9, "authentication.methods"));
}
