//! Deadlines: kept to, handed on, never invented.

use std::time::{Duration, Instant};

use http::HeaderValue;
use weft_traffic::{Body, CallOptions, Code, Error};

use crate::{
    mesh::{GET, Mesh, POST, read, request, until},
    upstream::{Call, Upstream},
};

fn with_timeout(value: &'static str) -> http::Request<Body> {
    timed(request(GET, Body::full("x")), value)
}

fn timed(mut request: http::Request<Body>, value: &'static str) -> http::Request<Body> {
    request.headers_mut().insert("grpc-timeout", HeaderValue::from_static(value));
    request
}

#[tokio::test]
async fn a_deadline_ends_the_call_in_time_and_resets_the_stream() {
    let server = Upstream::start(Call::stall).await;
    let mesh = Mesh::of([server.address]);
    let began = Instant::now();
    let sent = mesh.send(with_timeout("1S")); // long enough for the call to get there
    let error = tokio::time::timeout(Duration::from_secs(30), sent).await.expect("the call ends").unwrap_err();
    let took = began.elapsed();
    assert!(matches!(error, Error::Deadline), "{error:?}");
    assert!(took >= Duration::from_secs(1), "{took:?}");
    until("the server saw the reset", || server.resets() == 1).await;
    assert_eq!(mesh.outbound.in_flight(), 0);
}

#[tokio::test]
async fn a_deadline_in_mid_answer_ends_in_trailers_and_resets_the_stream() {
    let server = Upstream::start(|mut call: Call| async move {
        let mut stream = call.headers().unwrap();
        crate::upstream::send(&mut stream, "part".into()).await;
        call.stall_on(stream).await;
    })
    .await;
    let mesh = Mesh::of([server.address]);
    let answered = mesh.send(timed(request(POST, Body::full("x")), "1S")).await.unwrap();
    assert_eq!((answered.code, &*answered.body), (Code::DeadlineExceeded, &b"part"[..]));
    until("the server saw the reset", || server.resets() == 1).await;
    assert_eq!(mesh.outbound.in_flight(), 0);
}

#[tokio::test]
async fn a_deadline_in_mid_answer_also_stops_a_client_that_still_sends() {
    let server = Upstream::start(|mut call: Call| async move {
        let stream = call.headers().unwrap();
        call.stall_on(stream).await;
    })
    .await;
    let mesh = Mesh::of([server.address]);
    let (mut sender, body) = Body::channel(1);
    let answered = read(mesh.outbound.call(timed(request(POST, body), "1S")).await.unwrap()).await;
    assert_eq!(answered.code, Code::DeadlineExceeded);
    until("the server saw the reset", || server.resets() == 1).await;
    assert!(sender.data("more".into()).await.is_err(), "the client's side is closed");
}

#[tokio::test]
async fn what_is_left_is_handed_on_and_nothing_is_added() {
    let server = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([server.address]);
    mesh.send(with_timeout("60S")).await.unwrap();
    let left = server.head(0).headers["grpc-timeout"].to_str().unwrap().to_owned();
    let micros: u64 = left.strip_suffix('u').expect("microseconds").parse().unwrap();
    assert!((30_000_000..60_000_000).contains(&micros), "{left}");
    mesh.call(GET, Body::full("x")).await.unwrap();
    assert!(!server.head(1).headers.contains_key("grpc-timeout"));
}

#[tokio::test]
async fn time_before_the_call_counts_and_the_shorter_limit_wins() {
    let server = Upstream::start(Call::stall).await;
    let mesh = Mesh::of([server.address]);
    let options = CallOptions {
        received: tokio::time::Instant::now() - Duration::from_secs(60),
        timeout: Some(Duration::from_millis(60_050)),
        ..CallOptions::default()
    };
    let began = Instant::now();
    let error = mesh.outbound.call_with(with_timeout("1H"), options).await.unwrap_err();
    assert!(matches!(error, Error::Deadline));
    assert!(began.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_malformed_timeout_is_the_callers_fault() {
    let mesh = Mesh::of([]);
    let error = mesh.send(with_timeout("1 second")).await.unwrap_err();
    assert_eq!(error.grpc_code(), Code::InvalidArgument);
    assert_eq!(error.to_response().status(), 400);
}
