//! Bodies pass through: large ones with back-pressure, both ways at once, as they come.

use bytes::Bytes;
use http_body_util::BodyExt;
use weft_traffic::{Body, Code};

use crate::{
    mesh::{Mesh, POST, request},
    upstream::{Call, Upstream, ok, send},
};

const LARGE: usize = 5 << 20;

#[tokio::test]
async fn five_megabytes_pass_both_ways() {
    let server = Upstream::start(Call::echo).await;
    let mesh = Mesh::of([server.address]);
    let body: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    let answered = mesh.call(POST, Body::full(body.clone())).await.unwrap();
    assert_eq!(answered.code, Code::Ok);
    assert!(answered.body == body, "the bytes are the same");
}

#[tokio::test]
async fn a_reader_that_waits_holds_the_sender_back() {
    let (go, gate) = tokio::sync::watch::channel(false);
    let server = Upstream::start(move |call: Call| {
        let mut gate = gate.clone();
        async move {
            gate.wait_for(|open| *open).await.unwrap();
            call.echo().await;
        }
    })
    .await;
    let mesh = Mesh::of([server.address]);
    let (mut sender, body) = Body::channel(1);
    let chunk = Bytes::from(vec![b'x'; 16 << 10]);
    let client = async {
        let mut sent = 0;
        // The sender stands still: no further chunk is taken while nothing moves.
        while let Ok(taken) =
            tokio::time::timeout(std::time::Duration::from_millis(300), sender.data(chunk.clone())).await
        {
            taken.unwrap();
            sent += chunk.len();
            assert!(sent < LARGE, "nobody held it back");
        }
        go.send_replace(true);
        while sent < LARGE {
            sender.data(chunk.clone()).await.unwrap();
            sent += chunk.len();
        }
        drop(sender);
        sent
    };
    let (answered, sent) = tokio::join!(mesh.call(POST, body), client);
    // A chunk that was offered when the wait ended may or may not have gone.
    let received = answered.unwrap().body.len();
    assert_eq!(received, sent);
}

#[tokio::test]
async fn both_sides_talk_in_turns() {
    let server = Upstream::start(|mut call: Call| async move {
        let mut stream = call.headers().unwrap();
        while let Some(Ok(data)) = call.request.body_mut().data().await {
            call.request.body_mut().flow_control().release_capacity(data.len()).unwrap();
            send(&mut stream, data).await;
        }
        ok(stream);
    })
    .await;
    let mesh = Mesh::of([server.address]);
    let (mut sender, body) = Body::channel(1);
    let mut answer = mesh.outbound.call(request(POST, body)).await.unwrap().into_body();
    for n in 0..100 {
        let ping = Bytes::from(format!("ping {n}"));
        sender.data(ping.clone()).await.unwrap();
        let pong = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(pong, ping);
    }
    drop(sender);
    let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(Code::from_headers(&trailers), Some(Code::Ok));
    drop(answer);
    assert_eq!(mesh.outbound.in_flight(), 0);
}

#[tokio::test]
async fn an_answer_that_is_complete_ends_the_call_while_the_client_still_sends() {
    let server = Upstream::start(|mut call: Call| async move {
        ok(call.headers().unwrap());
        call.body().await;
    })
    .await;
    let mesh = Mesh::of([server.address]);
    let (mut sender, body) = Body::channel(1);
    let answered = mesh.call(POST, body).await.unwrap();
    assert_eq!(answered.code, Code::Ok);
    assert!(sender.data("more".into()).await.is_err(), "nobody reads it any more");
}
