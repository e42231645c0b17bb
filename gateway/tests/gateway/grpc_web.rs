//! gRPC-Web as a browser speaks it: over HTTP/1.1, binary and text, and what it is told when things go wrong.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use weft_proto::weft::testkit::v1::{EchoRequest, EchoResponse};

use crate::lifecycle::in_flight;
use crate::support::{Running, framed, send, send_bytes, start, start_with, unframed};

const UNARY: &str = "/weft.testkit.v1.Echo/Unary";
const SERVER_STREAM: &str = "/weft.testkit.v1.Echo/ServerStream";
const CLIENT_STREAM: &str = "/weft.testkit.v1.Echo/ClientStream";
const BINARY: (&str, &str) = ("content-type", "application/grpc-web+proto");

/// What a call ended with.
struct Heard {
    status: StatusCode,
    headers: HeaderMap,
    messages: Vec<EchoResponse>,
    trailers: HashMap<String, String>,
}

impl Heard {
    fn code(&self) -> &str {
        &self.trailers["grpc-status"]
    }
}

fn says(text: &str) -> EchoRequest {
    EchoRequest { text: text.into(), count: 3, ..EchoRequest::default() }
}

fn body(messages: &[EchoRequest]) -> Vec<u8> {
    messages.iter().flat_map(|message| framed(0, &message.encode_to_vec())).collect()
}

fn heard(status: StatusCode, headers: HeaderMap, body: &[u8]) -> Heard {
    let mut frames = unframed(body);
    let (flags, last) = frames.pop().expect("a frame of trailers");
    assert_eq!(flags, 0x80, "the last frame is the trailers, and it alone");
    let lines = String::from_utf8(last.to_vec()).unwrap();
    let trailers = lines.split_terminator("\r\n").map(|line| line.split_once(": ").unwrap());
    let trailers = trailers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let messages = frames.into_iter().map(|(flags, message)| {
        assert_eq!(flags, 0);
        EchoResponse::decode(message).unwrap()
    });
    Heard { status, headers, messages: messages.collect(), trailers }
}

async fn call(gateway: &Running, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Heard {
    let headers: Vec<_> = [BINARY].iter().chain(headers).copied().collect();
    let (status, headers, body) = send_bytes(gateway.addr, "POST", path, &headers, body.into()).await;
    heard(status, headers, &body)
}

#[tokio::test]
async fn unary_and_streams_end_with_their_trailers_in_the_body() {
    let gateway = start().await;
    let one = call(&gateway, UNARY, &[("grpc-timeout", "5S"), ("x-tenant", "acme")], body(&[says("a")])).await;
    assert_eq!((one.status.as_u16(), one.code()), (200, "0"));
    assert_eq!(one.headers["content-type"], "application/grpc-web+proto");
    assert!(one.headers.contains_key("x-request-id"));
    let answer = &one.messages[0];
    assert_eq!((answer.text.as_str(), answer.metadata["x-tenant"].as_str()), ("a", "acme"));
    assert!((4000..=5000).contains(&answer.deadline_ms), "the deadline goes on: {}", answer.deadline_ms);
    assert!(answer.metadata.contains_key("traceparent"));
    let many = call(&gateway, SERVER_STREAM, &[], body(&[says("b")])).await;
    assert_eq!((many.messages.len(), many.code()), (3, "0"));
    let client = call(&gateway, CLIENT_STREAM, &[], body(&["x", "y"].map(says))).await;
    assert_eq!((client.messages[0].text.as_str(), client.code()), ("x,y", "0"));
}

#[tokio::test]
async fn text_is_the_same_in_base64_both_ways() {
    let gateway = start().await;
    let text = BASE64_STANDARD.encode(body(&[says("a")]));
    let headers = [("content-type", "application/grpc-web-text"), ("accept", "application/grpc-web-text")];
    let (status, headers, answer) = send_bytes(gateway.addr, "POST", SERVER_STREAM, &headers, text.into()).await;
    assert_eq!(headers["content-type"], "application/grpc-web-text");
    let answer = String::from_utf8(answer.to_vec()).unwrap();
    // Each chunk is padded by itself: a client decodes group by group.
    let chunks = answer.split_inclusive('=').collect::<Vec<_>>().join("").into_bytes();
    let decoded: Vec<u8> = chunks.chunks(4).flat_map(|group| BASE64_STANDARD.decode(group).unwrap()).collect();
    let heard = heard(status, headers, &decoded);
    assert_eq!((heard.messages.len(), heard.code()), (3, "0"));
    let headers = [("content-type", "application/grpc-web-text")];
    let wrong = send(gateway.addr, "POST", UNARY, &headers, "no base64!").await;
    let decoded: Vec<u8> = wrong.body.as_bytes().chunks(4).flat_map(|it| BASE64_STANDARD.decode(it).unwrap()).collect();
    assert!(String::from_utf8_lossy(&decoded).contains("grpc-status: 3"), "{decoded:?}");
}

#[tokio::test]
async fn json_messages_are_translated() {
    let gateway = start().await;
    let headers = [("content-type", "application/grpc-web+json")];
    let sent = framed(0, br#"{"text": "a", "count": 2}"#);
    let (_, headers, answer) = send_bytes(gateway.addr, "POST", SERVER_STREAM, &headers, sent.into()).await;
    assert_eq!(headers["content-type"], "application/grpc-web+json");
    let frames = unframed(&answer);
    assert_eq!(frames.len(), 3);
    let first: serde_json::Value = serde_json::from_slice(&frames[0].1).unwrap();
    assert_eq!(first["text"], "a");
}

#[tokio::test]
async fn a_failure_is_a_status_in_the_body_whoever_failed() {
    let gateway = start_with(|config| config.limits.max_request_bytes = 1000).await;
    let failing = EchoRequest { fail_with: 9, ..says("é") };
    let upstreams = call(&gateway, UNARY, &[], body(std::slice::from_ref(&failing))).await;
    assert_eq!((upstreams.status.as_u16(), upstreams.code()), (200, "9"));
    assert_eq!(upstreams.trailers["grpc-message"], "asked%20to%20fail:%20%C3%A9");
    for (path, headers, body, code) in [
        ("/no.Such/Method", [BINARY; 1], body(&[says("a")]), "12"),
        (UNARY, [BINARY; 1], vec![], "12"),
        (UNARY, [BINARY; 1], body(&["a", "b"].map(says)), "12"),
        (SERVER_STREAM, [BINARY; 1], body(&["a", "b"].map(says)), "12"),
        (UNARY, [BINARY; 1], framed(1, b"x"), "13"),
        (UNARY, [BINARY; 1], framed(0, &[0; 1001]), "8"),
        (CLIENT_STREAM, [BINARY; 1], framed(0, &[0; 1001]), "8"),
        (UNARY, [("grpc-encoding", "foo"); 1], framed(1, b"x"), "12"),
        (UNARY, [("grpc-timeout", "soon"); 1], body(&[says("a")]), "3"),
        (UNARY, [("grpc-timeout", "20m"); 1], body(&[EchoRequest { delay_ms: 60_000, ..says("a") }]), "4"),
    ] {
        let heard = call(&gateway, path, &headers, body).await;
        assert_eq!(heard.code(), code, "{path} {headers:?}: {:?}", heard.trailers);
        assert!(heard.messages.is_empty());
    }
    let unknown = send(gateway.addr, "POST", UNARY, &[("content-type", "application/grpc-web+thrift")], "").await;
    assert_eq!(unknown.status, 415);
    let get = send(gateway.addr, "GET", UNARY, &[BINARY], "").await;
    assert_eq!((get.status.as_u16(), &get.headers["allow"]), (405, &"POST".parse().unwrap()));
}

#[tokio::test]
async fn calls_are_counted_by_protocol_and_status() {
    let gateway = start().await;
    call(&gateway, UNARY, &[], body(&[says("a")])).await;
    call(&gateway, UNARY, &[], body(&[EchoRequest { fail_with: 5, ..says("a") }])).await;
    let metrics = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    for status in ["OK", "NOT_FOUND"] {
        let line = format!(
            r#"weft_gateway_calls_total{{protocol="grpc_web",method="POST",route="{UNARY}",status="{status}"}} 1"#
        );
        assert!(metrics.contains(&line), "{line} in\n{metrics}");
    }
}

#[tokio::test]
async fn replies_arrive_as_they_are_made_and_a_client_that_leaves_takes_the_call_back() {
    let gateway = start().await;
    let stream = TcpStream::connect(gateway.addr).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let slow = EchoRequest { count: 1000, delay_ms: 100, ..says("a") };
    let request = Request::post(SERVER_STREAM).header("host", "a").header(BINARY.0, BINARY.1);
    let request = request.body(Full::new(Bytes::from(body(&[slow])))).unwrap();
    let mut answer = timeout(Duration::from_secs(10), sender.send_request(request)).await.unwrap().unwrap().into_body();
    let first = timeout(Duration::from_secs(10), answer.frame()).await.unwrap().unwrap().unwrap().into_data().unwrap();
    assert_eq!(unframed(&first).len(), 1);
    in_flight(&gateway, 1).await;
    drop((answer, sender, driver));
    in_flight(&gateway, 0).await;
}

#[tokio::test]
async fn it_is_spoken_over_http_2_too() {
    let gateway = start().await;
    let stream = TcpStream::connect(gateway.addr).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let request = Request::post(format!("http://{}{UNARY}", gateway.addr)).header(BINARY.0, BINARY.1);
    let request = request.body(Full::new(Bytes::from(body(&[says("a")])))).unwrap();
    let (head, answer) = sender.send_request(request).await.unwrap().into_parts();
    let answer = answer.collect().await.unwrap();
    assert!(answer.trailers().is_none());
    assert_eq!(heard(head.status, head.headers, &answer.to_bytes()).code(), "0");
}

#[tokio::test]
async fn messages_are_compressed_both_ways_as_the_head_says() {
    let gateway = start().await;
    let long = EchoRequest { padding: 5000, ..says(&"a".repeat(2000)) }.encode_to_vec();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &long).unwrap();
    let sent = framed(1, &gzip.finish().unwrap());
    let headers = [BINARY, ("grpc-encoding", "gzip"), ("grpc-accept-encoding", "zstd, gzip")];
    let (_, headers, answer) = send_bytes(gateway.addr, "POST", UNARY, &headers, sent.into()).await;
    assert_eq!(headers["grpc-encoding"], "zstd");
    let frames = unframed(&answer);
    assert_eq!(frames[0].0, 1);
    let mut message = Vec::new();
    let mut zstd = ruzstd::decoding::StreamingDecoder::new(&frames[0].1[..]).unwrap();
    std::io::Read::read_to_end(&mut zstd, &mut message).unwrap();
    let message = EchoResponse::decode(message.as_slice()).unwrap();
    assert_eq!((message.text.len(), message.padding.len()), (2000, 5000));
    assert!(frames[0].1.len() < 500, "{}", frames[0].1.len());
}
