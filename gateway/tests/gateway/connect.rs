//! Connect: unary calls by POST and GET, streams, errors in both shapes, compression.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full, channel::Channel};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use weft_proto::weft::testkit::v1::{EchoRequest, EchoResponse};

use crate::lifecycle::in_flight;
use crate::support::{Answer, Running, framed, send, send_bytes, start, start_with, unframed};

const UNARY: &str = "/weft.testkit.v1.Echo/Unary";
const SERVER_STREAM: &str = "/weft.testkit.v1.Echo/ServerStream";
const CLIENT_STREAM: &str = "/weft.testkit.v1.Echo/ClientStream";
const BIDI: &str = "/weft.testkit.v1.Echo/Bidi";
const GET_USER: &str = "/shop.users.v1.Users/GetUser";
const CREATE_USER: &str = "/shop.users.v1.Users/CreateUser";
const VERSION: (&str, &str) = ("connect-protocol-version", "1");
const JSON: (&str, &str) = ("content-type", "application/json");
const PROTO: (&str, &str) = ("content-type", "application/proto");
const STREAM: (&str, &str) = ("content-type", "application/connect+json");

async fn unary(gateway: &Running, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let headers: Vec<_> = [VERSION, JSON].iter().chain(headers).copied().collect();
    send(gateway.addr, "POST", path, &headers, body).await
}

/// The messages of an answer, and its end.
fn stream(body: &[u8]) -> (Vec<Value>, Value) {
    let mut frames = unframed(body);
    let (flags, end) = frames.pop().expect("an end");
    assert_eq!(flags, 2, "the last envelope is the end, and it alone");
    let json = |bytes: &Bytes| serde_json::from_slice(bytes).unwrap();
    let messages = frames.iter().map(|(flags, message)| {
        assert_eq!(*flags, 0);
        json(message)
    });
    (messages.collect(), json(&end))
}

async fn streamed(gateway: &Running, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> (Vec<Value>, Value) {
    let headers: Vec<_> = [STREAM].iter().chain(headers).copied().collect();
    let (status, headers, body) = send_bytes(gateway.addr, "POST", path, &headers, body.into()).await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"application/connect+json".parse().unwrap()));
    stream(&body)
}

fn envelopes(messages: &[&str]) -> Vec<u8> {
    messages.iter().flat_map(|message| framed(0, message.as_bytes())).collect()
}

#[tokio::test]
async fn a_unary_call_is_a_bare_message_each_way() {
    let gateway = start().await;
    let headers = [("connect-timeout-ms", "5000"), ("x-tenant", "acme")];
    let answer = unary(&gateway, UNARY, &headers, r#"{"text": "a"}"#).await;
    assert_eq!((answer.status.as_u16(), &answer.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    let heard = answer.json();
    assert_eq!((&heard["text"], &heard["metadata"]["x-tenant"]), (&json!("a"), &json!("acme")));
    let left = heard["deadlineMs"].as_u64().unwrap();
    assert!((4000..=5000).contains(&left), "the deadline goes on: {left}");
    assert!(heard["metadata"].get("connect-timeout-ms").is_none());

    let sent = EchoRequest { text: "b".into(), ..EchoRequest::default() }.encode_to_vec();
    let (status, headers, body) = send_bytes(gateway.addr, "POST", UNARY, &[PROTO], sent.into()).await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"application/proto".parse().unwrap()));
    assert_eq!(EchoResponse::decode(body).unwrap().text, "b");
}

#[tokio::test]
async fn metadata_keeps_its_names() {
    let gateway = start().await;
    let made = unary(&gateway, CREATE_USER, &[], r#"{"name": "Ada", "email": "a@b"}"#).await;
    assert_eq!(made.status, 200, "what a backend asks for over REST is no matter here: {made:?}");
    assert!(made.headers.keys().all(|name| !name.as_str().starts_with("grpc-")), "{:?}", made.headers);
    assert!(made.headers.contains_key("x-request-id"));
}

#[tokio::test]
async fn a_read_is_a_get_too_and_nothing_else_is() {
    let gateway = start().await;
    unary(&gateway, CREATE_USER, &[], r#"{"name": "Ada", "email": "a@b"}"#).await;
    let get = |query: &str| {
        let path = format!("{GET_USER}?{query}");
        async move { send(gateway.addr, "GET", &path, &[], "").await }
    };
    let text = get("connect=v1&encoding=json&message=%7B%22id%22%3A%221%22%7D").await;
    assert_eq!((text.status.as_u16(), text.json()["name"].clone()), (200, json!("Ada")), "{text:?}");
    let binary = get("connect=v1&encoding=json&base64=1&message=eyJpZCI6IjEifQ").await;
    assert_eq!(binary.json()["name"], "Ada");
    let unknown = get("connect=v1&encoding=json&message=%7B%22id%22%3A%229%22%7D").await;
    assert_eq!((unknown.status.as_u16(), unknown.json()["code"].clone()), (404, json!("not_found")));
    assert_eq!(get("connect=v1&encoding=xml&message=a").await.status, 415);
    assert_eq!(get("connect=v1&encoding=json").await.json()["code"], "invalid_argument");
    let path = format!("{CREATE_USER}?connect=v1&encoding=json&message=%7B%7D");
    let write = send(gateway.addr, "GET", &path, &[], "").await;
    assert_eq!((write.status.as_u16(), &write.headers["allow"]), (405, &"POST".parse().unwrap()));
}

#[tokio::test]
async fn an_error_is_json_with_its_status_and_details() {
    let gateway = start_with(|config| config.limits.max_request_bytes = 1000).await;
    let invalid = unary(&gateway, CREATE_USER, &[], "{}").await;
    assert_eq!(
        (invalid.status.as_u16(), &invalid.headers["content-type"]),
        (400, &"application/json".parse().unwrap())
    );
    let error = invalid.json();
    assert_eq!((&error["code"], &error["message"]), (&json!("invalid_argument"), &json!("name is empty")));
    let detail = &error["details"][0];
    assert_eq!(detail["type"], "google.rpc.BadRequest");
    assert_eq!(detail["debug"]["fieldViolations"][0]["field"], "name");
    let long = format!(r#"{{"text": "{}"}}"#, "x".repeat(1000));
    for (path, headers, body, status, code) in [
        (UNARY, vec![], r#"{"text": 7}"#, 400, "invalid_argument"),
        (UNARY, vec![], "", 400, "invalid_argument"),
        (UNARY, vec![], long.as_str(), 429, "resource_exhausted"),
        (UNARY, vec![], r#"{"failWith": 16}"#, 401, "unauthenticated"),
        (UNARY, vec![("connect-timeout-ms", "20")], r#"{"delayMs": 60000}"#, 504, "deadline_exceeded"),
        (UNARY, vec![("connect-timeout-ms", "soon")], "{}", 400, "invalid_argument"),
        (UNARY, vec![("content-encoding", "foo")], "{}", 501, "unimplemented"),
        (UNARY, vec![("content-encoding", "gzip")], "{}", 400, "invalid_argument"),
        ("/no.Such/Method", vec![], "{}", 404, "unimplemented"),
        (SERVER_STREAM, vec![], "{}", 415, "unknown"),
    ] {
        let answer = unary(&gateway, path, &headers, body).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["code"]), (status, &json!(code)), "{path} {headers:?}");
    }
    let version = [("connect-protocol-version", "2"), JSON];
    assert_eq!(send(gateway.addr, "POST", UNARY, &version, "{}").await.status, 400);
    let verb = send(gateway.addr, "DELETE", UNARY, &[VERSION, JSON], "{}").await;
    assert_eq!((verb.status.as_u16(), &verb.headers["allow"]), (405, &"POST".parse().unwrap()));
    let codec = send(gateway.addr, "POST", UNARY, &[VERSION, ("content-type", "application/xml")], "{}").await;
    assert_eq!((codec.status.as_u16(), codec.headers.contains_key("accept-post")), (415, true));
}

#[tokio::test]
async fn streams_end_with_an_envelope_that_says_how() {
    let gateway = start_with(|config| config.limits.max_request_bytes = 1000).await;
    let (many, end) = streamed(&gateway, SERVER_STREAM, &[], envelopes(&[r#"{"text": "a", "count": 3}"#])).await;
    assert_eq!((many.len(), &many[2]["text"], end), (3, &json!("a"), json!({})));
    let (one, _) = streamed(&gateway, CLIENT_STREAM, &[], envelopes(&[r#"{"text": "x"}"#, r#"{"text": "y"}"#])).await;
    assert_eq!(one[0]["text"], "x,y");
    let long = format!(r#"{{"text": "{}"}}"#, "x".repeat(1000));
    for (path, headers, body, code) in [
        (SERVER_STREAM, vec![], envelopes(&[r#"{"count": 1, "failWith": 5}"#]), "not_found"),
        (SERVER_STREAM, vec![], vec![], "unimplemented"),
        (SERVER_STREAM, vec![], envelopes(&["{}", "{}"]), "unimplemented"),
        (SERVER_STREAM, vec![], framed(1, b"{}"), "internal"),
        (SERVER_STREAM, vec![("connect-content-encoding", "foo")], envelopes(&["{}"]), "unimplemented"),
        (
            SERVER_STREAM,
            vec![("connect-timeout-ms", "30")],
            envelopes(&[r#"{"delayMs": 60000, "count": 1}"#]),
            "deadline_exceeded",
        ),
        (CLIENT_STREAM, vec![], envelopes(&["{}", "7"]), "invalid_argument"),
        (CLIENT_STREAM, vec![], envelopes(&["{}", &long]), "resource_exhausted"),
        (CLIENT_STREAM, vec![], envelopes(&["{}"])[..6].to_vec(), "invalid_argument"),
    ] {
        let (messages, end) = streamed(&gateway, path, &headers, body).await;
        assert_eq!((messages.len(), &end["error"]["code"]), (0, &json!(code)), "{path} {headers:?} {end}");
    }
    let unary = send(gateway.addr, "POST", UNARY, &[STREAM], "").await;
    assert_eq!((unary.status.as_u16(), &unary.json()["code"]), (415, &json!("unknown")));
}

#[tokio::test]
async fn both_sides_of_a_bidirectional_call_stream_at_once() {
    let gateway = start().await;
    let connection = TcpStream::connect(gateway.addr).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(connection)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let (mut requests, body) = Channel::<Bytes, std::io::Error>::new(1);
    let request =
        Request::post(format!("http://{}{BIDI}", gateway.addr)).header(STREAM.0, STREAM.1).body(body).unwrap();
    requests.send_data(envelopes(&[r#"{"text": "one"}"#]).into()).await.unwrap();
    let mut answer = timeout(Duration::from_secs(10), sender.send_request(request)).await.unwrap().unwrap().into_body();
    let mut next = async || {
        let frame = timeout(Duration::from_secs(10), answer.frame()).await.expect("in time").unwrap().unwrap();
        unframed(&frame.into_data().unwrap()).remove(0)
    };
    assert!(String::from_utf8_lossy(&next().await.1).contains("one"));
    requests.send_data(envelopes(&[r#"{"text": "two"}"#]).into()).await.unwrap();
    assert!(String::from_utf8_lossy(&next().await.1).contains("two"));
    requests.send_data(envelopes(&["7"]).into()).await.unwrap();
    let (flags, end) = next().await;
    let end: Value = serde_json::from_slice(&end).unwrap();
    assert_eq!((flags, &end["error"]["code"]), (2, &json!("invalid_argument")));
}

#[tokio::test]
async fn a_client_that_leaves_takes_the_call_back() {
    let gateway = start().await;
    for (path, content_type, body) in [
        (UNARY, PROTO, EchoRequest { delay_ms: 60_000, ..EchoRequest::default() }.encode_to_vec()),
        (SERVER_STREAM, STREAM, envelopes(&[r#"{"delayMs": 60000, "count": 2}"#])),
    ] {
        let stream = TcpStream::connect(gateway.addr).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        let request = Request::post(path).header("host", "a").header(content_type.0, content_type.1);
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap());
        driver.spawn(async move {
            let _held = answer.await; // of a stream, its head comes at once
            std::future::pending().await
        });
        in_flight(&gateway, 1).await;
        drop((sender, driver));
        in_flight(&gateway, 0).await;
    }
}

#[tokio::test]
async fn bodies_and_messages_are_compressed_as_the_client_accepts() {
    let gateway = start().await;
    let gzip = |bytes: &[u8]| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, bytes).unwrap();
        gzip.finish().unwrap()
    };
    let gunzip = |bytes: &[u8]| {
        let mut all = Vec::new();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(bytes), &mut all).unwrap();
        serde_json::from_slice::<Value>(&all).unwrap()
    };
    let long = format!(r#"{{"text": "{}"}}"#, "a".repeat(5000));
    let headers = [VERSION, JSON, ("content-encoding", "gzip"), ("accept-encoding", "gzip")];
    let (_, headers, body) = send_bytes(gateway.addr, "POST", UNARY, &headers, gzip(long.as_bytes()).into()).await;
    assert_eq!(
        (&headers["content-encoding"], &headers["vary"]),
        (&"gzip".parse().unwrap(), &"accept-encoding".parse().unwrap())
    );
    assert!(body.len() < 1000);
    assert_eq!(gunzip(&body)["text"].as_str().unwrap().len(), 5000);

    let long = format!(r#"{{"text": "{}", "count": 1}}"#, "a".repeat(5000));
    let sent = framed(1, &gzip(long.as_bytes()));
    let headers = [STREAM, ("connect-content-encoding", "gzip")];
    let (_, headers, body) = send_bytes(gateway.addr, "POST", SERVER_STREAM, &headers, sent.into()).await;
    assert_eq!(headers["connect-content-encoding"], "gzip", "who writes gzip reads it");
    let frames = unframed(&body);
    assert_eq!((frames[0].0, gunzip(&frames[0].1)["text"].as_str().unwrap().len()), (1, 5000));
    assert_eq!(frames.last().unwrap().0, 2);

    let plain = unary(&gateway, UNARY, &[("accept-encoding", "gzip")], r#"{"text": "a"}"#).await;
    assert!(!plain.headers.contains_key("content-encoding"), "a short answer is sent as it is");
}

#[tokio::test]
async fn calls_are_counted_by_protocol_and_status() {
    let gateway = start().await;
    unary(&gateway, UNARY, &[], "{}").await;
    unary(&gateway, UNARY, &[], r#"{"failWith": 5}"#).await;
    streamed(&gateway, SERVER_STREAM, &[], envelopes(&[r#"{"failWith": 5, "count": 1}"#])).await;
    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    for (route, status) in [(UNARY, "OK"), (UNARY, "NOT_FOUND"), (SERVER_STREAM, "NOT_FOUND")] {
        let line = format!(
            r#"weft_gateway_calls_total{{protocol="connect",method="POST",route="{route}",status="{status}"}} 1"#
        );
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
}
