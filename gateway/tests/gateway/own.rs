//! Health and reflection of the gateway by gRPC-Web and Connect: what a browser or `curl` asks, natively `native.rs`.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

use crate::{
    policies,
    support::{framed, send, send_bytes, start, unframed},
};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const SOON: Duration = Duration::from_secs(20);
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn health_is_told_by_connect_and_grpc_web() {
    let gateway = start().await;
    for headers in [&[JSON, ("connect-protocol-version", "1")][..], &[JSON]] {
        for name in ["", "shop.users.v1.Users", "grpc.health.v1.Health"] {
            let body = format!("{{\"service\": \"{name}\"}}");
            let told = send(gateway.addr, "POST", CHECK, headers, &body).await;
            assert_eq!((told.status, &told.json()["status"]), (StatusCode::OK, &"SERVING".into()), "{name} {told:?}");
        }
    }
    let unknown = send(gateway.addr, "POST", CHECK, &[JSON], "{\"service\": \"no.Such\"}").await;
    assert_eq!((unknown.status, &unknown.json()["code"]), (StatusCode::NOT_FOUND, &"not_found".into()), "{unknown:?}");

    let asks = HealthCheckRequest { service: "weft.testkit.v1.Echo".into() }.encode_to_vec();
    let proto = [("content-type", "application/proto")];
    let (status, _, body) = send_bytes(gateway.addr, "POST", CHECK, &proto, asks.clone().into()).await;
    let told = HealthCheckResponse::decode(body).unwrap();
    assert_eq!((status, told.status()), (StatusCode::OK, ServingStatus::Serving));
    let web = [("content-type", "application/grpc-web+proto")];
    let (_, _, body) = send_bytes(gateway.addr, "POST", CHECK, &web, framed(0, &asks).into()).await;
    let frames = unframed(&body);
    assert_eq!(HealthCheckResponse::decode(frames[0].1.clone()).unwrap().status(), ServingStatus::Serving);
    assert!(String::from_utf8_lossy(&frames[1].1).contains("grpc-status: 0"), "{frames:?}");
}

#[tokio::test]
async fn reflection_answers_a_stream_of_either_protocol() {
    let gateway = start().await;
    let list = Some(MessageRequest::ListServices(String::new()));
    let asks = framed(0, &ServerReflectionRequest { host: String::new(), message_request: list }.encode_to_vec());
    for content_type in ["application/grpc-web+proto", "application/connect+proto"] {
        let (status, _, body) =
            send_bytes(gateway.addr, "POST", REFLECTION, &[("content-type", content_type)], asks.clone().into()).await;
        let frames = unframed(&body);
        assert_eq!((status, frames.len()), (StatusCode::OK, 2), "{content_type} {frames:?}");
        let told = ServerReflectionResponse::decode(frames[0].1.clone()).unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(list)) = told else { panic!("{content_type} {told:?}") };
        let names: Vec<_> = list.service.iter().map(|it| it.name.as_str()).collect();
        assert!(names.contains(&"shop.users.v1.Users") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    }
}

#[tokio::test]
async fn a_watch_ends_at_its_deadline_by_every_protocol() {
    let gateway = start().await;
    let asks = framed(0, &HealthCheckRequest::default().encode_to_vec());
    for (content_type, header, time, says) in [
        ("application/connect+proto", "connect-timeout-ms", "300", "deadline_exceeded"),
        ("application/grpc-web+proto", "grpc-timeout", "300m", "grpc-status: 4"),
    ] {
        let headers = [("content-type", content_type), (header, time)];
        let told = send_bytes(gateway.addr, "POST", WATCH, &headers, asks.clone().into());
        let (status, _, body) = timeout(SOON, told).await.expect("it ends");
        let frames = unframed(&body);
        let end = String::from_utf8_lossy(&frames.last().unwrap().1).into_owned();
        assert!(status == StatusCode::OK && end.contains(says), "{content_type}: {frames:?}");
    }
    let (status, end) = natively(gateway.addr, "300m", asks).await;
    assert_eq!((status, &end["grpc-status"]), (StatusCode::OK, &"4".parse().unwrap()), "{end:?}");
}

#[tokio::test]
async fn a_timeout_that_cannot_be_read_is_refused_as_in_calls_of_services() {
    let gateway = start().await;
    let (status, end) = natively(gateway.addr, "soon", framed(0, &HealthCheckRequest::default().encode_to_vec())).await;
    assert_eq!((status, &end["grpc-status"]), (StatusCode::BAD_REQUEST, &"3".parse().unwrap()), "{end:?}");
    assert!(end["grpc-message"].to_str().unwrap().contains("grpc-timeout"), "{end:?}");
}

/// Watches health by gRPC; returns the status and how it ended.
async fn natively(gateway: SocketAddr, time: &str, asks: Vec<u8>) -> (StatusCode, HeaderMap) {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::post(format!("http://a{WATCH}")).header("content-type", "application/grpc");
    let request = request.header("grpc-timeout", time).body(Full::new(Bytes::from(asks))).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let body = timeout(SOON, body.collect()).await.expect("it ends").unwrap();
    (head.status, body.trailers().cloned().unwrap_or(head.headers)) // of the head if not even that was in time
}

#[tokio::test]
async fn a_page_asks_where_a_policy_of_the_whole_gateway_lets_it() {
    const ORIGIN: (&str, &str) = ("origin", "https://app.example");
    let gateway = policies::start("{name: pages, service: gateway, cors: {origins: ['https://app.example']}}").await;
    let named = ("access-control-request-headers", "content-type, connect-protocol-version");
    for path in [CHECK, REFLECTION] {
        let asked = [ORIGIN, ("access-control-request-method", "POST"), named];
        let told = send(gateway.addr, "OPTIONS", path, &asked, "").await;
        assert_eq!(told.status, StatusCode::NO_CONTENT, "{path}: {told:?}");
        assert_eq!(told.headers["access-control-allow-origin"], ORIGIN.1, "{path}");
    }
    let told = send(gateway.addr, "POST", CHECK, &[ORIGIN, JSON], "{}").await;
    assert_eq!(
        (told.status, &told.headers["access-control-allow-origin"]),
        (StatusCode::OK, &ORIGIN.1.parse().unwrap())
    );
}
