//! Ends of calls, connections and the gateway itself: nothing is left behind.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_proto::weft::testkit::v1::{EchoRequest, echo_client::EchoClient};
use weft_testkit::wait::until;

use crate::support::{Running, channel, send, start};

const SOON: Duration = Duration::from_secs(30);

pub(crate) async fn in_flight(gateway: &Running, expected: usize) {
    let what = format!("{expected} calls in flight");
    until(&what, SOON, || async { (gateway.in_flight.load(Ordering::SeqCst) == expected).then_some(()) }).await;
}

async fn post(gateway: &Running, path: &str, body: &str) -> TcpStream {
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    let length = body.len();
    let request = format!("POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n{body}");
    client.write_all(request.as_bytes()).await.unwrap();
    client
}

#[tokio::test]
async fn a_rest_client_that_leaves_takes_its_call_back() {
    let gateway = start().await;
    for (path, body) in [
        ("/echo", r#"{"delayMs": 60000}"#),
        ("/weft.testkit.v1.Echo/ServerStream", r#"{"count": 3, "delayMs": 60000}"#),
    ] {
        let client = post(&gateway, path, body).await;
        in_flight(&gateway, 1).await;
        drop(client);
        in_flight(&gateway, 0).await;
    }
}

#[tokio::test]
async fn a_native_client_that_leaves_takes_its_call_back() {
    let gateway = start().await;
    let mut echo = EchoClient::new(channel(&gateway).await);
    let slow = EchoRequest { delay_ms: 60_000, ..EchoRequest::default() };
    {
        let mut call = std::pin::pin!(echo.unary(slow));
        tokio::select! {
            answer = &mut call => panic!("{answer:?}"),
            () = in_flight(&gateway, 1) => {}
        }
    }
    in_flight(&gateway, 0).await;
}

#[tokio::test]
async fn drain_finishes_what_is_in_flight_and_takes_nothing_new() {
    let mut gateway = start().await;
    assert_eq!(send(gateway.admin, "GET", "/readyz", &[], "").await.status, 200);
    let mut idle = TcpStream::connect(gateway.addr).await.unwrap();
    let mut health = HealthClient::new(channel(&gateway).await);
    let mut watching = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut client = post(&gateway, "/echo", r#"{"text": "late", "delayMs": 4000}"#).await;
    in_flight(&gateway, 1).await;

    gateway.shutdown.drain();
    let told = timeout(SOON, watching.message()).await.expect("a watch of the gateway is told").unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    assert!(timeout(SOON, watching.message()).await.expect("a watch does not hold the drain").unwrap().is_none());
    let closed = timeout(SOON, idle.read(&mut [0; 1])).await.expect("an idle connection ends at once");
    assert_eq!(closed.unwrap_or_default(), 0);
    let ready = send(gateway.admin, "GET", "/readyz", &[], "").await;
    assert_eq!(ready.status, 503, "{ready:?}");
    // Who accepts hears of the drain for itself.
    until("nothing to listen any more", SOON, || async { TcpStream::connect(gateway.addr).await.err() }).await;

    let mut answer = Vec::new();
    timeout(SOON, client.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close") && answer.contains("late"),
        "{answer}"
    );
    timeout(SOON, gateway.gateway.join_next()).await.unwrap().unwrap().unwrap().unwrap();
}

/// Connects and sends without letting the runtime in: what is sent waits in the kernel when the drain begins.
fn send_blocking(client: &mut std::net::TcpStream) {
    std::io::Write::write_all(client, b"POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 13\r\n\r\n{\"text\": \"x\"}")
        .unwrap();
}

async fn read_to_end(client: std::net::TcpStream) -> String {
    client.set_nonblocking(true).unwrap();
    let (mut client, mut answer) = (TcpStream::from_std(client).unwrap(), Vec::new());
    timeout(SOON, client.read_to_end(&mut answer)).await.expect("the connection ends").expect("no reset");
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_call_that_was_sent_before_the_drain_is_answered() {
    let mut gateway = start().await;
    let mut kept = TcpStream::connect(gateway.addr).await.unwrap();
    kept.write_all(b"GET /nowhere HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(kept.read(&mut [0; 2048]).await.unwrap() > 0);
    let mut kept = kept.into_std().unwrap();

    let connect = |_| std::net::TcpStream::connect(gateway.addr).unwrap();
    let (mut clients, native): (Vec<_>, _) = ((0..20).map(connect).collect(), connect(0));
    clients.iter_mut().for_each(send_blocking);
    send_blocking(&mut kept);
    gateway.shutdown.drain();
    clients.push(kept);
    native.set_nonblocking(true).unwrap();
    let native = TokioIo::new(TcpStream::from_std(native).unwrap());
    let (mut calls, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), native).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let late = Request::post("http://a/echo").body(Full::<Bytes>::from("{}")).unwrap();
    match calls.try_send_request(late).await {
        Ok(response) => assert_eq!(response.status(), 200),
        Err(refused) => assert!(refused.message().is_some(), "not processed: {:?}", refused.error()),
    }
    for client in clients {
        let answer = read_to_end(client).await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer:?}");
    }
    timeout(SOON, gateway.gateway.join_next()).await.unwrap().unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_native_stream_gets_goaway_and_its_last_message() {
    let mut gateway = start().await;
    let mut echo = EchoClient::new(channel(&gateway).await);
    let asked = EchoRequest { text: "a".into(), count: 3, delay_ms: 200, ..EchoRequest::default() };
    let mut answers = echo.server_stream(asked).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    gateway.shutdown.drain();
    assert!(answers.message().await.unwrap().is_some());
    assert!(answers.message().await.unwrap().is_some());
    assert!(answers.message().await.unwrap().is_none());
    timeout(SOON, gateway.gateway.join_next()).await.unwrap().unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn metrics_count_calls_by_route_and_not_by_path() {
    let gateway = start().await;
    for id in ["1", "2"] {
        send(gateway.addr, "GET", &format!("/api/users/{id}"), &[], "").await;
    }
    send(gateway.addr, "GET", "/nowhere/at/all", &[], "").await;
    let text = send(gateway.admin, "GET", "/metrics", &[], "").await.body;
    let route = r#"weft_gateway_calls_total{protocol="rest",method="GET",route="/api/users/{id}",status="404"} 2"#;
    assert!(text.contains(route), "{text}");
    assert!(text.contains(r#"route="unmatched",status="404"} 1"#) && !text.contains("nowhere"), "{text}");
}
