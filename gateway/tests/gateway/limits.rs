//! Limits of size and time as callers meet them: each has its own status, and other routes know nothing of them.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Either, Empty, channel::Channel};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};
use weft_testkit::wait::until;

use crate::{
    policies::{read, start},
    support::{channel, send, start_with},
};

const SOON: Duration = Duration::from_secs(20);

const SMALL: &str = "
name: small
service: upstream
limits: { methods: [shop.users.v1.Users/CreateUser, weft.testkit.v1.Echo/Unary], max_request_bytes: 200, max_header_bytes: 400, max_uri_bytes: 50, max_depth: 3 }
";

#[tokio::test]
async fn what_is_too_large_has_a_status_of_its_own() {
    let gateway = start(SMALL).await;
    let long = format!("{{\"name\": \"{}\"}}", "x".repeat(300));
    let body = send(gateway.addr, "POST", "/api/users", &[], &long).await;
    assert_eq!((body.status, &body.json()["code"]), (StatusCode::PAYLOAD_TOO_LARGE, &8.into()), "{body:?}");
    assert!(body.json()["message"].as_str().unwrap().contains("200 bytes"), "{body:?}");
    assert_eq!(body.headers["connection"], "close", "its body was not read");

    let filler = "y".repeat(500);
    let head = send(gateway.addr, "POST", "/api/users", &[("x-filler", &filler)], "{}").await;
    assert_eq!(
        (head.status, &head.json()["code"]),
        (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, &8.into()),
        "{head:?}"
    );
    assert!(head.json()["message"].as_str().unwrap().contains("policy small, rule max-header-bytes"), "{head:?}");

    let uri = send(gateway.addr, "POST", &format!("/api/users?name={}", "z".repeat(60)), &[], "{}").await;
    assert_eq!((uri.status, &uri.json()["code"]), (StatusCode::URI_TOO_LONG, &8.into()), "{uri:?}");

    let deep = send(gateway.addr, "POST", "/echo", &[], r#"{"text": "a", "what": {"ever": [{"b": 1}]}}"#).await;
    assert_eq!((deep.status, &deep.json()["code"]), (StatusCode::BAD_REQUEST, &3.into()), "{deep:?}");
    assert_eq!(deep.json()["details"][0]["fieldViolations"][0]["field"], "what.ever[0]", "{deep:?}");
    let not_as_deep = send(gateway.addr, "POST", "/echo", &[], r#"{"text": "a", "what": {"ever": [1]}}"#).await;
    assert_eq!(not_as_deep.status, StatusCode::OK, "{not_as_deep:?}");

    // A route without the policy.
    let patch = send(gateway.addr, "PATCH", "/api/users/1", &[("x-filler", &filler)], &long).await;
    assert_eq!(patch.status, StatusCode::NOT_FOUND, "{patch:?}");
    assert!(!patch.headers.contains_key("connection"), "{patch:?}");

    // By other protocols.
    let json = [("content-type", "application/json"), ("connect-protocol-version", "1")];
    let message = send(gateway.addr, "POST", "/shop.users.v1.Users/CreateUser", &json, &long).await;
    assert_eq!(message.json()["code"], "resource_exhausted", "{message:?}");
    let mut users = weft_proto::shop::users::v1::users_client::UsersClient::new(channel(&gateway).await);
    let mut request = tonic::Request::new(weft_proto::shop::users::v1::CreateUserRequest::default());
    request.metadata_mut().insert("x-filler", filler.parse().unwrap());
    let refused = users.create_user(request).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");

    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    let counted = r#"weft_gateway_policy_refusals_total{policy="small",rule="max-header-bytes"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
    let counted = r#"weft_gateway_policy_refusals_total{policy="small",rule="max-request-bytes"} 2"#;
    assert!(metrics.contains(counted), "by REST and by Connect: {metrics}");
    for status in [413, 414, 431] {
        assert!(metrics.contains(&format!("route=\"/api/users\",status=\"{status}\"")), "{status} in {metrics}");
    }
}

/// What is written of this thread's events, and so by the gateway's writer of the access log, which runs on the test's own.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut *self.0.lock().unwrap(), bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Written {
    /// Waits for the line that says this.
    async fn line(&self, what: &str) -> String {
        let find = || async {
            let all = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            all.lines().find(|line| line.contains(what)).map(str::to_owned)
        };
        until(what, SOON, find).await
    }
}

#[tokio::test]
async fn the_access_log_says_whose_limit_a_body_was_beyond() {
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let _log = tracing::subscriber::set_default(subscriber);
    let gateway = start_with(|config| {
        config.policies = read(SMALL);
        config.limits.max_request_bytes = 1000;
    })
    .await;
    let long = |bytes| format!("{{\"name\": \"{}\"}}", "x".repeat(bytes));
    let send = async |method, path, id, bytes| {
        send(gateway.addr, method, path, &[("x-request-id", id)], &long(bytes)).await.status.as_u16()
    };
    assert_eq!(send("POST", "/api/users", "by-policy", 300).await, 413);
    assert_eq!(send("PATCH", "/api/users/1", "by-gateway", 1100).await, 413);
    let line = written.line("by-policy").await;
    for fact in ["access: call", "method=\"POST\"", "status=413", "policy=small", "rule=max-request-bytes"] {
        assert!(line.contains(fact), "{fact} in {line}");
    }
    let line = written.line("by-gateway").await;
    assert!(line.contains("status=413") && !line.contains("policy=") && !line.contains("rule="), "{line}");
}

#[tokio::test]
async fn how_deep_json_may_be_holds_for_messages_of_streams_and_other_protocols() {
    let gateway = start("name: flat\nservice: gateway\nlimits: { max_depth: 3 }\n").await;
    const DEEP: &str = r#"{"text": "a", "what": {"ever": [{"b": 1}]}}"#;
    const FLAT: &str = r#"{"text": "a", "what": {"ever": [1]}}"#;
    let stream = "/weft.testkit.v1.Echo/ClientStream";
    for (content_type, begin, end) in [("application/x-ndjson", "", ""), ("application/json", "[", "]")] {
        let separator = if begin.is_empty() { "\n" } else { "," };
        let post = async |last: &str| {
            let body = format!("{begin}{FLAT}{separator}{last}{end}");
            send(gateway.addr, "POST", stream, &[("content-type", content_type)], &body).await
        };
        let deep = post(DEEP).await;
        assert_eq!(deep.status, StatusCode::BAD_REQUEST, "{content_type}: {deep:?}");
        assert_eq!(deep.json()["details"][0]["fieldViolations"][0]["field"], "what.ever[0]", "{deep:?}");
        let flat = post(FLAT).await;
        assert_eq!(flat.status, StatusCode::OK, "{content_type}: {flat:?}");
    }
    let connect = [("content-type", "application/json"), ("connect-protocol-version", "1")];
    let deep = send(gateway.addr, "POST", "/weft.testkit.v1.Echo/Unary", &connect, DEEP).await;
    assert_eq!((deep.status, &deep.json()["code"]), (StatusCode::BAD_REQUEST, &"invalid_argument".into()), "{deep:?}");
    assert_eq!(send(gateway.addr, "POST", "/weft.testkit.v1.Echo/Unary", &connect, FLAT).await.status, StatusCode::OK);
}

#[tokio::test]
async fn how_much_json_may_have_holds_for_each_message_by_any_protocol() {
    let gateway = start("name: brief\nservice: gateway\nlimits: { max_elements: 4 }\n").await;
    const MUCH: &str = r#"{"text": "a", "what": {"ever": [1, 2]}}"#;
    const LITTLE: &str = r#"{"text": "a", "what": {"ever": [1]}}"#;
    let told = |answer: &crate::support::Answer| {
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        let expected = "more than 4 members and elements at line 1 column ";
        assert!(message.starts_with(&format!("what: {expected}")), "{message}");
        let cure = ": policy brief, rule max-elements; send fewer of them in one message";
        assert!(message.ends_with(cure), "{message}");
    };
    let rest = async |body: &str| send(gateway.addr, "POST", "/echo", &[], body).await;
    let much = rest(MUCH).await;
    told(&much);
    assert_eq!(much.json()["details"][0]["fieldViolations"][0]["field"], "what", "{much:?}");
    assert_eq!(rest(LITTLE).await.status, StatusCode::OK);

    let stream = async |last: &str| {
        let body = format!("[{LITTLE},{last}]");
        send(gateway.addr, "POST", "/weft.testkit.v1.Echo/ClientStream", &[], &body).await
    };
    told(&stream(MUCH).await);
    assert_eq!(stream(LITTLE).await.status, StatusCode::OK);

    let connect = [("content-type", "application/json"), ("connect-protocol-version", "1")];
    let unary = async |body: &str| send(gateway.addr, "POST", "/weft.testkit.v1.Echo/Unary", &connect, body).await;
    let much = unary(MUCH).await;
    told(&much);
    assert_eq!(much.json()["code"], "invalid_argument", "{much:?}");
    assert_eq!(unary(LITTLE).await.status, StatusCode::OK);

    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    let counted = r#"weft_gateway_policy_refusals_total{policy="brief",rule="max-elements"} 3"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn what_is_too_slow_has_a_status_of_its_own() {
    let gateway = start("{name: quick, service: upstream, limits: {timeout: 600ms, body_timeout: 200ms}}").await;
    let late = send(gateway.addr, "POST", "/echo", &[], r#"{"delayMs": 60000}"#).await;
    assert_eq!((late.status, &late.json()["code"]), (StatusCode::GATEWAY_TIMEOUT, &4.into()), "{late:?}");
    let by_policy = "deadline exceeded: 600ms: policy quick, rule timeout";
    assert_eq!(late.json()["message"], by_policy);
    let sooner = send(gateway.addr, "POST", "/echo", &[("grpc-timeout", "100m")], r#"{"delayMs": 60000}"#).await;
    assert_eq!(sooner.json()["message"], "deadline exceeded: 100ms, as the caller asked");
    let longer = [("grpc-timeout", "60S")];
    let late = send(gateway.addr, "POST", "/echo", &longer, r#"{"delayMs": 60000}"#).await;
    assert_eq!(late.status, StatusCode::GATEWAY_TIMEOUT, "a caller cannot have longer: {late:?}");
    let mut echo = weft_proto::weft::testkit::v1::echo_client::EchoClient::new(channel(&gateway).await);
    let request = weft_proto::weft::testkit::v1::EchoRequest { delay_ms: 60_000, ..Default::default() };
    let late = timeout(SOON, echo.unary(request)).await.expect("the policy ends it").unwrap_err();
    assert_eq!(late.code(), tonic::Code::DeadlineExceeded, "{late:?}");

    // A body that does not come.
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{\"text\": ";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer)).await.expect("the gateway answers and closes").unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("took too long"), "{answer}");
    assert!(answer.contains("longer than 200ms: policy quick, rule body-timeout"), "{answer}");
    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    for counted in [r#"rule="timeout"} "#, r#"rule="body-timeout"} 1"#] {
        let counted = format!(r#"weft_gateway_policy_refusals_total{{policy="quick",{counted}"#);
        assert!(metrics.contains(&counted), "{counted} in {metrics}");
    }
}

#[tokio::test]
async fn a_body_that_trickles_over_http2_is_ended_by_the_limit_that_is_set_and_its_connection_is_not() {
    let by_policy = start("{name: quick, service: upstream, limits: {body_timeout: 200ms}}").await;
    let policy = "the request body took too long to arrive, longer than 200ms: policy quick, rule body-timeout";
    let by_file = start_with(|config| config.limits.default_timeout = Duration::from_millis(200)).await;
    let file = "deadline exceeded: 200ms, the gateway's default_timeout; the request body is not all there";
    for (gateway, status, message) in [(&by_policy, 408, policy), (&by_file, 504, file)] {
        let stream = TcpStream::connect(gateway.addr).await.unwrap();
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(connection.await) });
        let (mut data, body) = Channel::<Bytes, Infallible>::new(1);
        tasks.spawn(async move {
            // Never silent for long.
            while data.send_data(Bytes::from_static(b" ")).await.is_ok() {
                sleep(Duration::from_millis(20)).await;
            }
        });
        let request = Request::post(format!("http://{}/echo", gateway.addr)).body(Either::Left(body)).unwrap();
        let response = timeout(SOON, sender.send_request(request)).await.expect("the limit ends it").unwrap();
        let (head, body) = response.into_parts();
        let told: Value = serde_json::from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!((head.status.as_u16(), &told["code"], &told["message"]), (status, &json!(4), &json!(message)));

        let list = Request::get(format!("http://{}/api/users", gateway.addr)).header("grpc-timeout", "60S");
        let list = list.body(Either::Right(Empty::<Bytes>::new())).unwrap();
        let response = timeout(SOON, sender.send_request(list)).await.expect("an answer").unwrap();
        assert_eq!(response.status(), StatusCode::OK, "the connection goes on");
    }
}
