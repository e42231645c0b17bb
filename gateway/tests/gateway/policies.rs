//! Edge policies as callers meet them, over real connections, in static mode. How they reach a gateway of a mesh: `tests/e2e/edge.rs`.

use http::StatusCode;
use weft_gateway::Config;
use weft_model::Policy;

use crate::support::{Running, send, start_with};

/// Starts a gateway with these policies, one YAML document each.
pub(crate) async fn start(yaml: &str) -> Running {
    let policies = read(yaml);
    start_with(|config: &mut Config| config.policies = policies).await
}

/// Reads policies, one YAML document each.
pub(crate) fn read(yaml: &str) -> Vec<Policy> {
    let read = weft_policy::parse(yaml, weft_policy::Format::Yaml).unwrap_or_else(|e| panic!("{e} in\n{yaml}"));
    read.into_iter().map(|(_, policy)| policy).collect()
}

const PAGES: &str = "
name: pages
service: gateway
cors: { origins: ['https://app.example'], credentials: true, expose: [x-total] }
";

const ORIGIN: (&str, &str) = ("origin", "https://app.example");
const FOREIGN: (&str, &str) = ("origin", "https://evil.example");

#[tokio::test]
async fn a_page_is_told_before_and_after_what_it_may() {
    let gateway = start(PAGES).await;
    let ask = |method| ("access-control-request-method", method);
    let asked = [ORIGIN, ask("PATCH"), ("access-control-request-headers", "content-type, authorization")];
    let told = send(gateway.addr, "OPTIONS", "/api/users/1", &asked, "").await;
    assert_eq!((told.status, told.body.as_str()), (StatusCode::NO_CONTENT, ""));
    assert_eq!(told.headers["access-control-allow-origin"], ORIGIN.1);
    assert_eq!(told.headers["access-control-allow-methods"], "PATCH");
    assert_eq!(told.headers["access-control-allow-headers"], "content-type, authorization");
    assert_eq!(told.headers["access-control-allow-credentials"], "true");

    let refused = send(gateway.addr, "OPTIONS", "/api/users/1", &[FOREIGN, ask("PATCH")], "").await;
    assert_eq!((refused.status, &refused.json()["code"]), (StatusCode::FORBIDDEN, &serde_json::json!(7)));
    assert!(refused.json()["message"].as_str().unwrap().contains("policy pages"), "{refused:?}");
    assert!(!refused.headers.contains_key("access-control-allow-origin"));

    // Answers, errors, and what has no route: a page that may call may read them all.
    for (path, status) in [("/api/users", 200), ("/api/users/9", 404), ("/nowhere", 404)] {
        let answer = send(gateway.addr, "GET", path, &[ORIGIN], "").await;
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert_eq!(answer.headers["access-control-allow-origin"], ORIGIN.1, "{path}");
        assert!(answer.headers["access-control-expose-headers"].to_str().unwrap().contains("x-total"), "{path}");
        assert_eq!(answer.headers["vary"], "origin", "{path}");
        let foreign = send(gateway.addr, "GET", path, &[FOREIGN], "").await;
        assert_eq!(foreign.status.as_u16(), status, "{path}: the browser keeps it from the page");
        assert!(!foreign.headers.contains_key("access-control-allow-origin"), "{path}");
    }
    // By gRPC-Web and Connect, too.
    for content_type in ["application/grpc-web+proto", "application/grpc-web+none", "application/connect+json"] {
        for path in ["/shop.users.v1.Users/GetUser", "/no.Such/Method"] {
            let answer = send(gateway.addr, "POST", path, &[ORIGIN, ("content-type", content_type)], "").await;
            assert_eq!(answer.headers["access-control-allow-origin"], ORIGIN.1, "{content_type} {path} {answer:?}");
        }
    }
    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    let counted = r#"weft_gateway_calls_total{protocol="rest",method="OPTIONS",route="preflight",status="204"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn without_a_policy_a_page_is_told_nothing() {
    let gateway =
        start("{name: some, service: upstream, cors: {methods: [shop.users.v1.Users/GetUser], origins: ['*']}}").await;
    let get = send(gateway.addr, "GET", "/api/users/9", &[ORIGIN], "").await;
    assert_eq!(get.headers["access-control-allow-origin"], "*");
    for (method, path) in [("GET", "/api/users"), ("GET", "/nowhere"), ("OPTIONS", "/api/users")] {
        let headers = [ORIGIN, ("access-control-request-method", "GET")];
        let answer = send(gateway.addr, method, path, &headers, "").await;
        assert!(answer.headers.keys().all(|it| !it.as_str().starts_with("access-control")), "{path}: {answer:?}");
    }
}
