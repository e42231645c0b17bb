//! Failures as REST clients see them: `google.rpc.Status` as JSON, whoever made them.

use serde_json::json;

use crate::support::{Answer, send, start, start_gateway, start_with};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

fn check(answer: &Answer, http: u16, code: i32) -> String {
    assert_eq!((answer.status.as_u16(), answer.json()["code"].clone()), (http, json!(code)), "{answer:?}");
    assert_eq!(answer.headers["content-type"], "application/json");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(!message.is_empty());
    message
}

#[tokio::test]
async fn the_gateways_own_errors_say_what_is_wrong_and_where() {
    let gateway = start().await;
    let to = gateway.addr;
    check(&send(to, "GET", "/nowhere", &[], "").await, 404, 5);
    let wrong_method = send(to, "DELETE", "/api/users", &[], "").await;
    check(&wrong_method, 405, 12);
    assert_eq!(wrong_method.headers["allow"], "GET, POST");

    let message = check(&send(to, "POST", "/api/users", &JSON, "{\"name\": \"x\",\n \"email\" 7}").await, 400, 3);
    assert!(message.contains("line 2") && message.contains("column"), "{message}");
    let mistyped = send(to, "POST", "/api/users", &JSON, r#"{"name": 7}"#).await;
    assert!(check(&mistyped, 400, 3).contains("name"));
    let violations = &mistyped.json()["details"][0];
    assert_eq!(violations["@type"], "type.googleapis.com/google.rpc.BadRequest");
    assert_eq!(violations["fieldViolations"][0]["field"], "name");
    let unknown = send(to, "GET", "/api/users?page_siz=1", &[], "").await;
    assert!(check(&unknown, 400, 3).contains("page_siz"));
    let timeout = send(to, "GET", "/api/users", &[("grpc-timeout", "soon")], "").await;
    assert!(check(&timeout, 400, 3).contains("grpc-timeout"));
}

#[tokio::test]
async fn a_backends_error_keeps_its_details() {
    let gateway = start().await;
    let answer = send(gateway.addr, "POST", "/api/users", &JSON, "{}").await;
    assert_eq!(check(&answer, 400, 3), "name is empty");
    assert_eq!(answer.json()["details"][0]["fieldViolations"], json!([{"field": "name", "description": "is empty"}]));
    let body = r#"{"name": "n", "email": "e@example.org"}"#;
    send(gateway.addr, "POST", "/api/users", &JSON, body).await;
    check(&send(gateway.addr, "POST", "/api/users", &JSON, body).await, 409, 6);
}

#[tokio::test]
async fn targets_that_are_no_path_are_answered() {
    let gateway = start().await;
    for (method, target) in [("OPTIONS", "*"), ("CONNECT", "a.example:443"), ("GET", "http://a.example"), ("GET", "//")]
    {
        let answer = send(gateway.addr, method, target, &[], "").await;
        assert!(answer.status.is_client_error(), "{method} {target}: {answer:?}");
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413() {
    let gateway = start_with(|config| config.limits.max_request_bytes = 64).await;
    let body = format!(r#"{{"name": "{}"}}"#, "x".repeat(64));
    let message = check(&send(gateway.addr, "POST", "/api/users", &JSON, &body).await, 413, 8);
    assert!(message.contains("64"), "{message}");
}

#[tokio::test]
async fn a_call_beyond_its_deadline_is_504() {
    let gateway = start_with(|config| config.limits.default_timeout = std::time::Duration::from_millis(100)).await;
    let slow = r#"{"delayMs": 60000}"#;
    check(&send(gateway.addr, "POST", "/echo", &JSON, slow).await, 504, 4);
    let headers = [("grpc-timeout", "20m"), ("content-type", "application/json")];
    check(&send(gateway.addr, "POST", "/echo", &headers, slow).await, 504, 4);
}

#[tokio::test]
async fn an_upstream_that_is_down_is_503_with_the_cause() {
    let unused = weft_runtime::listen::ListenAddr::loopback(0).lasting().get(); // no other test is given it meanwhile
    let upstream = unused.to_string();
    let gateway = start_gateway(upstream, |_| {}).await;
    let message = check(&send(gateway.addr, "GET", "/api/users/1", &[("grpc-timeout", "30S")], "").await, 503, 14);
    assert!(message.contains("refused"), "{message}");
}

#[tokio::test]
async fn an_answer_to_head_has_no_body() {
    let gateway = start().await;
    let answer = send(gateway.addr, "HEAD", "/nowhere", &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.body.as_str()), (404, ""));
    assert!(answer.headers["content-length"].to_str().unwrap().parse::<u64>().unwrap() > 0);
}
