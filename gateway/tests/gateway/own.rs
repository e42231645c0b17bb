//! Health and reflection of the gateway by gRPC-Web and Connect: what a browser or `curl` asks, natively `native.rs`.

use http::StatusCode;
use prost::Message;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, ServerReflectionResponse, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

use crate::support::{framed, send, send_bytes, start, unframed};

const CHECK: &str = "/grpc.health.v1.Health/Check";
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
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let list = Some(MessageRequest::ListServices(String::new()));
    let asks = framed(0, &ServerReflectionRequest { host: String::new(), message_request: list }.encode_to_vec());
    for content_type in ["application/grpc-web+proto", "application/connect+proto"] {
        let (status, _, body) =
            send_bytes(gateway.addr, "POST", path, &[("content-type", content_type)], asks.clone().into()).await;
        let frames = unframed(&body);
        assert_eq!((status, frames.len()), (StatusCode::OK, 2), "{content_type} {frames:?}");
        let told = ServerReflectionResponse::decode(frames[0].1.clone()).unwrap().message_response;
        let Some(MessageResponse::ListServicesResponse(list)) = told else { panic!("{content_type} {told:?}") };
        let names: Vec<_> = list.service.iter().map(|it| it.name.as_str()).collect();
        assert!(names.contains(&"shop.users.v1.Users") && names.contains(&"grpc.health.v1.Health"), "{names:?}");
    }
}
