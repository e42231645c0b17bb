//! The four kinds of call, through the gateway and through two sidecars. Inventory: gateway, rest-grpc-queue.
//!
//! Lives here: that messages arrive in order and as they are sent, not when the call ends. Does not: load.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::Method;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_stream::StreamExt;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use weft_proto::weft::testkit::v1::{EchoRequest, echo_client::EchoClient};
use weft_testkit::{
    echo::feed,
    http::send,
    mesh::{App, Mesh},
};

use crate::ALONE;

fn say(text: &str) -> EchoRequest {
    EchoRequest { text: text.to_owned(), ..EchoRequest::default() }
}

async fn all_four_kinds_work(mut echo: EchoClient<Channel>) {
    let unary = echo.unary(say("one")).await.expect("unary").into_inner();
    assert_eq!(unary.text, "one");

    let stream = echo.server_stream(EchoRequest { count: 5, ..say("many") }).await.expect("server stream").into_inner();
    let texts: Vec<_> = stream.map(|m| m.expect("message").text).collect().await;
    assert_eq!(texts, ["many"; 5]);

    let joined = echo.client_stream(tokio_stream::iter(["a", "b", "c"].map(say))).await.expect("client stream");
    assert_eq!(joined.into_inner().text, "a,b,c");

    let (sender, requests) = feed();
    let mut answers = echo.bidi(requests).await.expect("bidi").into_inner();
    for round in 0..20 {
        sender.send(say(&round.to_string())).await.expect("the call is open");
        let answer = tokio::time::timeout(Duration::from_secs(10), answers.next()).await;
        let answer = answer.expect("an answer comes before the next question").expect("a message").expect("no error");
        assert_eq!(answer.text, round.to_string());
    }
    drop(sender);
    assert!(answers.next().await.is_none());

    let refused = echo.unary(EchoRequest { fail_with: Code::Aborted as u32, ..say("no") }).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::Aborted, "asked to fail: no"));
}

#[tokio::test]
async fn the_four_kinds_of_call_pass_through_the_gateway() {
    let _shared = ALONE.read().await;
    let Some(mesh) = Mesh::start("the_four_kinds_of_call_pass_through_the_gateway", &[App::Echo]).await else { return };
    all_four_kinds_work(EchoClient::new(mesh.gateway_channel())).await;
}

#[tokio::test]
async fn the_four_kinds_of_call_pass_through_both_sidecars() {
    let _shared = ALONE.read().await;
    let test = "the_four_kinds_of_call_pass_through_both_sidecars";
    let Some(mut mesh) = Mesh::start(test, &[App::Users, App::Echo]).await else { return };
    let outbound = mesh.members[0].sidecar.address("outbound").await;
    for authority in ["echo", "echo.default", "echo.default.weft", "somewhere.else.example"] {
        let endpoint = Endpoint::from_shared(format!("http://{outbound}")).unwrap();
        let channel = endpoint.origin(format!("http://{authority}").parse().unwrap()).connect().await.unwrap();
        all_four_kinds_work(EchoClient::new(channel)).await;
    }
}

/// The sidecar learns `google.api.http` from the app's reflection, which must hand out its options as they were compiled.
#[tokio::test]
async fn an_apps_rest_route_arrives_through_its_reflection() {
    let _shared = ALONE.read().await;
    let test = "an_apps_rest_route_arrives_through_its_reflection";
    let Some(mesh) = Mesh::start(test, &[App::Echo]).await else { return };
    let answer = send(mesh.gateway_at(), Method::POST, "/echo", r#"{"text": "by rest"}"#).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), &answer.json()["text"]), (200, &"by rest".into()), "{answer:?}");
}

#[tokio::test]
async fn a_deadline_shrinks_on_the_way_and_ends_the_call_in_time() {
    let _shared = ALONE.read().await;
    let test = "a_deadline_shrinks_on_the_way_and_ends_the_call_in_time";
    let Some(mesh) = Mesh::start(test, &[App::Echo]).await else { return };
    let mut echo = EchoClient::new(mesh.gateway_channel());

    let mut request = Request::new(say("hello"));
    request.set_timeout(Duration::from_secs(20));
    let left = echo.unary(request).await.expect("in time").into_inner().deadline_ms;
    assert!((1..=20_000).contains(&left), "{left}");

    let without = echo.unary(say("hello")).await.expect("in time").into_inner().deadline_ms;
    assert_eq!(without, 0, "no deadline is added to a native call");

    let start = std::time::Instant::now();
    let slow = EchoRequest { delay_ms: 60_000, ..say("late") };
    assert_eq!(status_of(mesh.gateway_at(), "200m", &slow).await, Code::DeadlineExceeded);
    assert!(start.elapsed() < Duration::from_secs(30), "the answer did not wait for the app: {:?}", start.elapsed());
}

/// Makes a unary call with a `grpc-timeout` by hand, because tonic's client would end it by itself. Returns its status.
async fn status_of(gateway: SocketAddr, timeout: &str, request: &EchoRequest) -> Code {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let message = request.encode_to_vec();
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    body.extend_from_slice(&message);
    let request = http::Request::post(format!("http://{gateway}/weft.testkit.v1.Echo/Unary"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(Full::<Bytes>::from(body))
        .unwrap();
    let response = sender.send_request(request).await.expect("an answer");
    let headers = response.headers().clone();
    let trailers =
        response.into_body().collect().await.expect("a whole answer").trailers().cloned().unwrap_or_default();
    let status = headers.get("grpc-status").or_else(|| trailers.get("grpc-status")).expect("a status");
    Code::from_bytes(status.as_bytes())
}

#[tokio::test]
async fn a_large_message_streams_through() {
    let _shared = ALONE.read().await;
    let Some(mesh) = Mesh::start("a_large_message_streams_through", &[App::Echo]).await else { return };
    let mut echo = EchoClient::new(mesh.gateway_channel());
    let size = 3 * 1024 * 1024;
    let answer = echo.unary(EchoRequest { padding: size, ..say("big") }).await.expect("it fits").into_inner();
    assert_eq!(answer.padding.len(), size as usize);
}
