//! How many connections there are, and when they go.

use futures_util::{StreamExt, stream::FuturesUnordered};
use http_body_util::BodyExt;
use weft_traffic::{Body, Code};

use crate::{
    mesh::{GET, Mesh, POST, request, until},
    upstream::{Call, Settings, Upstream},
};

#[tokio::test]
async fn calls_that_start_together_share_one_connect() {
    let server = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([server.address]);
    let calls: FuturesUnordered<_> = (0..50).map(|_| mesh.call(GET, Body::full("x"))).collect();
    assert!(calls.all(async |answer| answer.unwrap().code == Code::Ok).await);
    assert_eq!((server.connections(), mesh.pool.connections()), (1, 1));
}

#[tokio::test]
async fn at_the_peers_limit_another_connection_opens_and_nobody_waits() {
    let settings = Settings { max_streams: 10, ..Settings::default() };
    let server = Upstream::start_with(settings, |mut call: Call| async move {
        let stream = call.headers().unwrap();
        call.stall_on(stream).await;
    })
    .await;
    let mesh = Mesh::of([server.address]);
    drop(mesh.outbound.call(request(POST, Body::empty())).await.unwrap()); // now the peer's settings are known
    let mut held = Vec::new();
    for _ in 0..35 {
        held.push(mesh.outbound.call(request(POST, Body::empty())).await.unwrap());
    }
    assert!((4..=6).contains(&server.connections()), "{}", server.connections());
    assert_eq!(mesh.outbound.in_flight(), 35);
}

#[tokio::test]
async fn an_endpoint_that_leaves_the_world_keeps_its_calls_and_then_loses_its_connection() {
    let server = Upstream::start(|mut call: Call| async move {
        let mut stream = call.headers().unwrap();
        let body = call.body().await.unwrap();
        crate::upstream::send(&mut stream, body).await;
        crate::upstream::ok(stream);
    })
    .await;
    let mesh = Mesh::of([server.address]);
    let (mut sender, body) = Body::channel(1);
    let response = mesh.outbound.call(request(POST, body)).await.unwrap();
    mesh.set([]);
    sender.data("still here".into()).await.unwrap();
    drop(sender);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "still here");
    until("the connection is closed", || server.open() == 0).await;
    assert_eq!(mesh.pool.connections(), 0);
}

#[tokio::test]
async fn a_pool_that_finishes_leaves_no_connection_and_no_task() {
    let server = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([server.address]);
    mesh.call(GET, Body::full("x")).await.unwrap();
    mesh.pool.finish().await;
    assert_eq!(mesh.pool.connections(), 0);
    until("the connection is closed", || server.open() == 0).await;
}
