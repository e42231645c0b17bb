//! Callers that leave: nothing of theirs stays.

use bytes::Bytes;
use http_body_util::BodyExt;
use weft_traffic::{Body, Code};

use crate::{
    mesh::{GET, Mesh, POST, request, until},
    upstream::{Call, Upstream, ok, send},
};

#[tokio::test]
async fn a_thousand_callers_that_leave_before_headers_leave_nothing() {
    let server = Upstream::start(Call::stall).await;
    let mesh = Mesh::of([server.address]);
    for n in 1..=1_000 {
        let call = mesh.outbound.call(request(GET, Body::full("x")));
        tokio::select! {
            _ = call => unreachable!("it stalls"),
            () = until("the call arrived", || server.calls() == n) => {}
        }
    }
    until("every stream was reset", || server.resets() == 1_000).await;
    assert_eq!((mesh.outbound.in_flight(), server.connections()), (0, 1));
}

#[tokio::test]
async fn a_thousand_callers_that_leave_in_mid_answer_leak_no_window() {
    // 1,000 × 64 KiB is four times the connection's window: a leak would stall the last call.
    let server = Upstream::start(|mut call: Call| async move {
        let Some(mut stream) = call.headers() else { return };
        if send(&mut stream, Bytes::from(vec![b'x'; 64 << 10])).await {
            ok(stream);
        }
    })
    .await;
    let mesh = Mesh::of([server.address]);
    for _ in 0..1_000 {
        let mut response = mesh.outbound.call(request(POST, Body::full("x"))).await.unwrap();
        response.body_mut().frame().await.unwrap().unwrap();
    }
    assert_eq!(mesh.outbound.in_flight(), 0);
    let last = mesh.call(GET, Body::full("x")).await.unwrap();
    assert_eq!((last.code, last.body.len()), (Code::Ok, 64 << 10));
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_client_that_breaks_its_body_off_resets_the_stream_and_gets_cancelled() {
    let server = Upstream::start(Call::stall).await;
    let mesh = Mesh::of([server.address]);
    let (mut sender, body) = Body::channel(1);
    let call = mesh.call(GET, body);
    let client = async {
        sender.data("part".into()).await.unwrap();
        until("the call arrived", || server.calls() == 1).await;
        sender.fail("client left");
    };
    let (answer, ()) = tokio::join!(call, client);
    assert_eq!(answer.unwrap_err().grpc_code(), Code::Cancelled);
    until("the server saw the reset", || server.resets() == 1).await;
    assert_eq!(server.calls(), 1, "not sent again");
}
