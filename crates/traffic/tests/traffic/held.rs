//! Servers that die between an answer's message and its status: what was not handed on yet runs elsewhere.
//!
//! Lives here: the behaviours of answers that are held back, and that everything else passes as it comes. Does not: failures before headers (`failures`).

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::sync::watch;
use weft_traffic::{Body, Code, Error, OutboundConfig, PoolConfig};

use crate::{
    mesh::{GET, LIST, Mesh, POST, read, request, until},
    upstream::{Call, Settings, Upstream, ok, send},
};

const CAP: usize = 64 << 10;

/// Sends a message and no status, as a server does that is killed in between.
async fn says_and_stalls(mut call: Call) {
    let mut stream = call.headers().unwrap();
    send(&mut stream, "first".into()).await;
    call.stall_on(stream).await;
}

/// As a sidecar tells of an app that broke off: a message, and UNAVAILABLE after it.
async fn says_and_is_unavailable(mut call: Call) {
    let mut stream = call.headers().unwrap();
    send(&mut stream, "first".into()).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("14"));
    drop(stream.send_trailers(trailers));
}

async fn says_second(mut call: Call) {
    let mut stream = call.headers().unwrap();
    send(&mut stream, "second".into()).await;
    ok(stream);
}

#[tokio::test]
async fn a_server_that_dies_between_message_and_status_costs_no_call_that_may_run_twice() {
    let dies = Upstream::start(says_and_stalls).await;
    let mesh = Mesh::of([dies.address]);
    let call = mesh.call(GET, Body::full("x"));
    let kill = async {
        until("the call arrived", || dies.calls() == 1).await;
        // A later answer on the same connection is here: so is the message of the first.
        let mut later = mesh.outbound.call(request(POST, Body::full("x"))).await.unwrap();
        later.body_mut().frame().await.unwrap().unwrap();
        let live = Upstream::start(says_second).await;
        mesh.set([dies.address, live.address]);
        drop(dies);
        assert_eq!(read(later).await.code, Code::Unavailable);
        live
    };
    let (answer, live) = tokio::join!(call, kill);
    let answered = answer.unwrap();
    assert_eq!((answered.code, &*answered.body, live.calls()), (Code::Ok, &b"second"[..], 1));
    assert_eq!(mesh.outbound.in_flight(), 0);
}

#[tokio::test]
async fn a_message_of_a_call_that_may_not_run_twice_or_of_a_stream_is_the_callers_at_once() {
    for path in [POST, LIST] {
        let (said, heard) = watch::channel(false);
        let dies = Upstream::start(says_and_stalls).await;
        let live = Upstream::start(says_second).await;
        let mesh = Mesh::of([dies.address]);
        let call = async {
            let mut response = mesh.outbound.call(request(path, Body::full("x"))).await.unwrap();
            let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
            said.send_replace(true);
            (first, read(response).await)
        };
        let kill = async {
            let mut heard = heard.clone();
            heard.wait_for(|it| *it).await.unwrap(); // it dies after its message was read, and not before
            mesh.set([dies.address, live.address]);
            drop(dies);
        };
        let ((first, rest), ()) = tokio::join!(call, kill);
        assert_eq!((&*first, rest.code, live.calls()), (&b"first"[..], Code::Unavailable, 0), "{path}");
    }
}

#[tokio::test]
async fn unavailable_after_a_message_goes_elsewhere_and_without_another_it_is_the_answer() {
    let fails = Upstream::start(says_and_is_unavailable).await;
    let live = Upstream::start(says_second).await;
    let mesh = Mesh::of([fails.address, live.address]);
    while fails.calls() == 0 {
        let answered = mesh.call(GET, Body::full("x")).await.unwrap();
        assert_eq!((answered.code, &*answered.body), (Code::Ok, &b"second"[..]));
    }
    let alone = Mesh::of([fails.address]);
    for path in [GET, POST] {
        let answered = alone.call(path, Body::full("x")).await.unwrap();
        assert_eq!((answered.code, &*answered.body), (Code::Unavailable, &b"first"[..]), "{path}");
    }
}

#[tokio::test]
async fn what_breaks_off_everywhere_is_unavailable_and_asked_for_four_times() {
    let breaks = |mut call: Call| async move {
        let mut stream = call.headers().unwrap();
        send(&mut stream, "first".into()).await;
        stream.send_reset(h2::Reason::INTERNAL_ERROR);
    };
    let servers = [Upstream::start(breaks).await, Upstream::start(breaks).await];
    let mesh = Mesh::of(servers.iter().map(|it| it.address));
    let error = mesh.call(GET, Body::full("x")).await.unwrap_err();
    assert!(matches!(error, Error::Broken { .. }), "{error:?}");
    assert_eq!(error.grpc_code(), Code::Internal, "what the reset says");
    assert_eq!(servers.iter().map(Upstream::calls).sum::<usize>(), 4);
}

#[tokio::test]
async fn an_answer_is_held_no_longer_than_the_calls_patience() {
    let (go, gate) = watch::channel(false);
    let late = Upstream::start(move |mut call: Call| {
        let mut gate = gate.clone();
        async move {
            let mut stream = call.headers().unwrap();
            send(&mut stream, "first".into()).await;
            gate.wait_for(|open| *open).await.unwrap();
            ok(stream);
        }
    })
    .await;
    let config = OutboundConfig { patience: Duration::from_millis(100), ..OutboundConfig::default() };
    let mesh = Mesh::with(PoolConfig::default(), config, [late.address]);
    let mut response = mesh.outbound.call(request(GET, Body::full("x"))).await.unwrap();
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    go.send_replace(true); // only now: the message came without its status
    assert_eq!((&*first, read(response).await.code), (&b"first"[..], Code::Ok));
}

#[tokio::test]
async fn beyond_64_kib_an_answer_passes_as_it_comes() {
    let (go, gate) = watch::channel(false);
    let large = Upstream::start(move |mut call: Call| {
        let mut gate = gate.clone();
        async move {
            let mut stream = call.headers().unwrap();
            send(&mut stream, Bytes::from(vec![b'x'; CAP + 1])).await;
            gate.wait_for(|open| *open).await.unwrap();
            send(&mut stream, "rest".into()).await;
            ok(stream);
        }
    })
    .await;
    let mesh = Mesh::of([large.address]);
    let mut response = mesh.outbound.call(request(GET, Body::full("x"))).await.unwrap();
    let mut read_so_far = 0;
    while read_so_far <= CAP {
        read_so_far += response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
    go.send_replace(true);
    let rest = read(response).await;
    assert_eq!((read_so_far, &*rest.body, rest.code), (CAP + 1, &b"rest"[..], Code::Ok));
}

#[tokio::test]
async fn a_deadline_ends_a_call_whose_answer_is_held() {
    let stalls = Upstream::start(says_and_stalls).await;
    let mesh = Mesh::of([stalls.address]);
    let mut timed = request(GET, Body::full("x"));
    timed.headers_mut().insert("grpc-timeout", HeaderValue::from_static("1S"));
    let error = mesh.send(timed).await.unwrap_err();
    assert!(matches!(error, Error::Deadline), "{error:?}");
    until("the server saw the reset", || stalls.resets() == 1).await;
    assert_eq!(mesh.outbound.in_flight(), 0);
}

#[tokio::test]
async fn a_caller_that_leaves_while_its_answer_is_held_leaves_nothing() {
    let stalls = Upstream::start(says_and_stalls).await;
    let mesh = Mesh::of([stalls.address]);
    for n in 1..=100 {
        tokio::select! {
            _ = mesh.call(GET, Body::full("x")) => unreachable!("it stalls"),
            () = until("the call arrived", || stalls.calls() == n) => {}
        }
    }
    until("every stream was reset", || stalls.resets() == 100).await;
    assert_eq!((mesh.outbound.in_flight(), stalls.connections()), (0, 1));
}

#[tokio::test]
async fn a_client_that_still_sends_is_stopped_when_the_answer_that_was_held_is_whole() {
    let server = Upstream::start(|mut call: Call| async move {
        ok(call.headers().unwrap());
        call.body().await;
    })
    .await;
    let mesh = Mesh::of([server.address]);
    let (mut sender, body) = Body::channel(1);
    let response = mesh.outbound.call(request(GET, body)).await.unwrap();
    assert!(sender.data("more".into()).await.is_err(), "nobody reads it any more");
    assert_eq!(read(response).await.code, Code::Ok);
}

/// An answer as a server sends it: its bytes cut into frames, and how many of them it sends before it breaks off; none if it sends all and a status.
#[derive(Debug, Clone)]
struct Script {
    frames: Vec<Bytes>,
    dies_after: Option<usize>,
}

impl Script {
    fn any() -> impl Strategy<Value = Self> {
        let frames = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300).prop_map(Bytes::from), 0..5);
        (frames, any::<prop::sample::Index>(), any::<bool>()).prop_map(|(frames, at, dies)| {
            let dies_after = dies.then(|| at.index(frames.len() + 1));
            Self { frames, dies_after }
        })
    }

    async fn play(self: Arc<Self>, mut call: Call) {
        call.body().await;
        let mut stream = call.headers().unwrap();
        for frame in self.frames.iter().take(self.dies_after.unwrap_or(usize::MAX)) {
            send(&mut stream, frame.clone()).await;
            tokio::task::yield_now().await; // so that the connection may write them apart
        }
        match self.dies_after {
            Some(_) => stream.send_reset(h2::Reason::INTERNAL_ERROR),
            None => ok(stream),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// However an answer is cut, and wherever its server breaks off: a unary call that may run twice has one whole answer, of a server that did not.
    #[test]
    fn a_call_that_may_run_twice_has_one_whole_answer(script in Script::any()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let script = Arc::new(script);
            let scripted = {
                let script = script.clone();
                Upstream::start_with(Settings::default(), move |call| script.clone().play(call)).await
            };
            let mesh = Mesh::of([scripted.address]);
            let whole: Bytes = script.frames.concat().into();
            if script.dies_after.is_none() {
                let answered = mesh.call(GET, Body::full("x")).await.unwrap();
                assert_eq!((answered.code, answered.body), (Code::Ok, whole));
                assert_eq!(scripted.calls(), 1, "a good answer is asked for once");
                return;
            }
            let live = Upstream::start(says_second).await;
            mesh.set([scripted.address, live.address]);
            let calls: FuturesUnordered<_> = (0..4).map(|_| mesh.call(GET, Body::full("x"))).collect();
            for answered in calls.collect::<Vec<_>>().await {
                let answered = answered.unwrap();
                assert_eq!((answered.code, &*answered.body), (Code::Ok, &b"second"[..]));
            }
            assert_eq!(live.calls(), 4);
        });
    }
}
