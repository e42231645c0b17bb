//! REST → unary gRPC: the answers newcomers try first, and what crosses in headers.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{send, start, start_with};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[tokio::test]
async fn a_user_is_created_read_listed_changed_and_deleted() {
    let gateway = start().await;
    let to = gateway.addr;
    let created = send(to, "POST", "/api/users", &JSON, r#"{"name": "Ada", "email": "ada@example.org"}"#).await;
    assert_eq!(created.status, 201, "{created:?}");
    assert_eq!(created.headers["content-type"], "application/json");
    assert!(
        !created.headers.contains_key("grpc-metadata-weft-http-status")
            && !created.headers.contains_key("weft-http-status")
    );
    let ada = json!({"id": "1", "name": "Ada", "email": "ada@example.org"});
    assert_eq!(created.json(), ada);

    let read = send(to, "GET", "/api/users/1", &[], "").await;
    assert_eq!((read.status.as_u16(), read.json()), (200, ada.clone()));
    let listed = send(to, "GET", "/api/users?page_size=10", &[], "").await;
    assert_eq!((listed.status.as_u16(), listed.json()), (200, json!({"users": [ada]})));

    let changed = send(to, "PATCH", "/api/users/1?updateMask=name", &JSON, r#"{"name": "Ada L."}"#).await;
    assert_eq!((changed.status.as_u16(), changed.json()["name"].clone()), (200, json!("Ada L.")), "{changed:?}");
    let deleted = send(to, "DELETE", "/api/users/1", &[], "").await;
    assert_eq!((deleted.status.as_u16(), deleted.json()), (200, json!({})));
    let missing = send(to, "GET", "/api/users/1", &[], "").await;
    assert_eq!((missing.status.as_u16(), missing.json()), (404, json!({"code": 5, "message": "no user \"1\""})));
}

#[tokio::test]
async fn head_is_answered_like_get_without_the_body() {
    let gateway = start().await;
    send(gateway.addr, "POST", "/api/users", &JSON, r#"{"name": "Ada", "email": "ada@example.org"}"#).await;
    for (path, status) in [("/api/users/1", 200), ("/api/users", 200), ("/api/users/2", 404), ("/echo", 405)] {
        let get = send(gateway.addr, "GET", path, &[], "").await;
        let head = send(gateway.addr, "HEAD", path, &[], "").await;
        assert_eq!((head.status.as_u16(), get.status.as_u16(), head.body.as_str()), (status, status, ""), "{path}");
        if status != 405 {
            assert_eq!(head.headers["content-length"], get.body.len().to_string(), "{path}");
            assert_eq!(head.headers["content-type"], get.headers["content-type"], "{path}");
        }
    }
}

#[tokio::test]
async fn an_http_1_1_request_names_its_host_once() {
    let gateway = start().await;
    for (hosts, status) in [("", "400"), ("host: a\r\nhost: b\r\n", "400"), ("host: a\r\n", "200")] {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let request = format!("GET /api/users HTTP/1.1\r\n{hosts}connection: close\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{hosts:?}: {answer}");
        assert_eq!(answer.contains("\"field\":\"host\""), status == "400", "{answer}");
    }
}

#[tokio::test]
async fn a_body_without_a_content_type_or_with_that_of_a_form_is_read_as_json() {
    let gateway = start().await;
    for (at, headers) in [&[][..], &[("content-type", "application/x-www-form-urlencoded")]].into_iter().enumerate() {
        let body = format!(r#"{{"name": "n", "email": "{at}@example.org"}}"#);
        let answer = send(gateway.addr, "POST", "/api/users", headers, &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    let refused = send(gateway.addr, "POST", "/api/users", &[("content-type", "application/x-protobuf")], "x").await;
    assert_eq!((refused.status.as_u16(), refused.json()["code"].clone()), (415, json!(3)));
}

#[tokio::test]
async fn a_body_that_calls_itself_something_else_is_refused_as_a_page_may_send_it_without_asking() {
    let gateway = start().await;
    let paths = ["/api/users", "/echo", "/weft.testkit.v1.Echo/Unary", "/weft.testkit.v1.Echo/ClientStream"];
    for content_type in ["text/plain", "text/plain;charset=UTF-8", "application/xml", "application/jsonx", "x"] {
        for path in paths {
            let headers = [("content-type", content_type), ("origin", "https://evil.example"), ("cookie", "session=1")];
            let refused = send(gateway.addr, "POST", path, &headers, "{}").await;
            let told = (refused.status.as_u16(), refused.json()["code"].clone());
            assert_eq!(told, (415, json!(3)), "{content_type} {path}: {refused:?}");
            assert!(refused.body.contains("application/json"), "{refused:?}");
        }
    }
    for content_type in
        ["application/json; charset=utf-8", "Application/JSON", "application/merge-patch+json", "text/json", ""]
    {
        let answer = send(gateway.addr, "POST", "/echo", &[("content-type", content_type)], r#"{"text": "a"}"#).await;
        assert_eq!(answer.status, 200, "{content_type}: {answer:?}");
    }
    let streamed = [("content-type", "application/x-www-form-urlencoded")];
    let answer = send(gateway.addr, "POST", paths[3], &streamed, r#"[{"text": "a"}]"#).await;
    assert_eq!(answer.status, 200, "curl -d: {answer:?}");
    let read = send(gateway.addr, "GET", "/api/users", &[("content-type", "text/plain")], "").await;
    assert_eq!(read.status, 200, "there is no body: {read:?}");
}

#[tokio::test]
async fn headers_reach_the_backend_with_trace_and_request_id() {
    let gateway = start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [
        ("authorization", "Bearer t"),
        ("grpc-metadata-tenant", "acme"),
        ("traceparent", trace),
        ("x-request-id", "r-1"),
        ("grpc-timeout", "5S"),
        ("content-type", "application/json"),
    ];
    let answer = send(gateway.addr, "POST", "/echo", &headers, r#"{"text": "hi"}"#).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["x-request-id"], "r-1");
    let echoed = answer.json();
    let heard = &echoed["metadata"];
    assert_eq!((&heard["authorization"], &heard["tenant"]), (&json!("Bearer t"), &json!("acme")));
    assert_eq!((&heard["x-request-id"], &heard["x-forwarded-host"]), (&json!("r-1"), &json!("gateway.test")));
    let forwarded = heard["traceparent"].as_str().unwrap();
    assert!(
        forwarded.starts_with(&trace[..35]) && forwarded.ends_with("-01"),
        "the trace and its decision: {forwarded}"
    );
    let deadline = echoed["deadlineMs"].as_u64().unwrap();
    assert!((4_000..=5_000).contains(&deadline), "{deadline}");
    let without = send(gateway.addr, "POST", "/echo", &JSON, "{}").await;
    assert_eq!(without.headers["x-request-id"].len(), 32);
    assert!(without.json()["deadlineMs"].as_u64().unwrap() > 50_000, "the default timeout is a deadline upstream");
}

#[tokio::test]
async fn rest_is_served_over_http_2_on_the_same_port() {
    let gateway = start().await;
    let stream = TcpStream::connect(gateway.addr).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut asked = JoinSet::new();
    for text in ["a", "b"] {
        let request = http::Request::post(format!("http://{}/echo", gateway.addr));
        let body = Full::new(Bytes::from(format!(r#"{{"text": "{text}"}}"#)));
        asked.spawn(sender.send_request(request.body(body).unwrap()));
    }
    for answer in asked.join_all().await {
        let (head, body) = answer.unwrap().into_parts();
        assert_eq!((head.status.as_u16(), &head.headers["content-type"]), (200, &"application/json".parse().unwrap()));
        let json: serde_json::Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(json["metadata"]["x-forwarded-host"], gateway.addr.to_string());
    }
}

#[tokio::test]
async fn a_patch_says_by_its_members_what_it_changes_null_among_them() {
    let gateway = start_with(|config| config.transcoding.infer_update_mask = true).await;
    let user =
        send(gateway.addr, "POST", "/api/users", &JSON, r#"{"name": "Ada", "email": "a@example.org"}"#).await.json();
    let path = format!("/api/users/{}", user["id"].as_str().unwrap());
    let name_after = async |query: &str, body: &str| {
        let changed = send(gateway.addr, "PATCH", &format!("{path}{query}"), &JSON, body).await;
        assert_eq!(changed.status, 200, "{body}: {changed:?}");
        changed.json()["name"].clone()
    };
    assert_eq!(name_after("", r#"{"email": "b@example.org"}"#).await, "Ada", "absent: untouched");
    assert_eq!(name_after("", r#"{"name": "Eva"}"#).await, "Eva");
    assert_eq!(name_after("?updateMask=email", r#"{"name": "Ida"}"#).await, "Eva", "who names a mask means it");
    assert_eq!(name_after("", r#"{"name": null}"#).await, serde_json::Value::Null, "null: cleared");
}
