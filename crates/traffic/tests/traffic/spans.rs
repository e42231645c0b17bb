//! Spans of calls: one for each attempt of a sampled call, hanging where they belong; none for any other call.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use weft_traffic::{
    Body, Code, End, Metrics, OutboundConfig, Pool, PoolConfig, Root, SpanRecord, SpanSink, ToApp, TraceContext,
    Tracing, Worlds,
};

use crate::{
    mesh::{GET, Mesh, POST, nobody, read, request, until, users},
    upstream::{Call, Upstream},
};

const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";

#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<SpanRecord>>>);

impl Taken {
    fn sink(&self) -> SpanSink {
        let taken = self.0.clone();
        SpanSink::to(move |span| taken.lock().unwrap().push(span))
    }

    fn all(&self) -> Vec<SpanRecord> {
        self.0.lock().unwrap().clone()
    }
}

fn traced(root: Root, addresses: impl IntoIterator<Item = std::net::SocketAddr>) -> (Mesh, Taken) {
    let taken = Taken::default();
    let config = OutboundConfig { root, spans: taken.sink(), ..OutboundConfig::default() };
    (Mesh::with(PoolConfig::default(), config, addresses), taken)
}

fn carrying(path: &str, traceparent: &'static str) -> http::Request<Body> {
    let mut request = request(path, Body::full("x"));
    request.headers_mut().insert("traceparent", http::HeaderValue::from_static(traceparent));
    request
}

fn seen(upstream: &Upstream, n: usize) -> TraceContext {
    TraceContext::from_headers(&upstream.head(n).headers).unwrap()
}

#[tokio::test]
async fn a_sampled_call_is_one_span_below_its_caller_and_above_whoever_serves_it() {
    let live = Upstream::start(Call::echo).await;
    let (mesh, taken) = traced(Root::NEVER, [live.address]);
    assert_eq!(mesh.send(carrying(GET, SAMPLED)).await.unwrap().code, Code::Ok);
    let [span] = &taken.all()[..] else { panic!("{:?}", taken.all()) };
    let caller = TraceContext::parse(SAMPLED.as_bytes()).unwrap();
    assert_eq!((span.trace_id, span.parent), (caller.trace_id(), Some(caller.parent_id())));
    assert_eq!((seen(&live, 0).trace_id(), seen(&live, 0).parent_id()), (span.trace_id, span.span_id));
    assert_eq!((span.end, span.code, span.previous_attempts), (End::Client, Code::Ok, 0));
    assert_eq!((&*span.method, span.service.clone()), ("test.v1.Users/Get", Some(users())));
    assert!(!span.is_error());
}

#[tokio::test]
async fn an_unsampled_call_makes_no_span_and_passes_its_context_unchanged() {
    let live = Upstream::start(Call::echo).await;
    let (mesh, taken) = traced(Root::NEVER, [live.address]);
    mesh.send(carrying(GET, UNSAMPLED)).await.unwrap();
    mesh.call(GET, Body::full("x")).await.unwrap();
    assert_eq!(taken.all(), []);
    assert_eq!(live.head(0).headers["traceparent"], UNSAMPLED);
    assert!(!seen(&live, 1).sampled(), "a trace begins here, unsampled");
}

#[tokio::test]
async fn each_attempt_has_its_own_span_beside_the_others() {
    let live = Upstream::start(Call::echo).await;
    let (mesh, taken) = traced(Root::ALWAYS, [nobody(), live.address]);
    let mut retried = None;
    for _ in 0..50 {
        taken.0.lock().unwrap().clear();
        mesh.send(carrying(POST, SAMPLED)).await.unwrap();
        if taken.all().len() > 1 {
            retried = Some(taken.all());
            break;
        }
    }
    let spans = retried.expect("half of the first picks meet the dead endpoint");
    let [failed, served] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((failed.code, served.code), (Code::Unavailable, Code::Ok));
    assert_eq!((failed.previous_attempts, served.previous_attempts), (0, 1));
    assert_eq!((failed.parent, failed.trace_id), (served.parent, served.trace_id));
    assert_ne!(failed.span_id, served.span_id);
    assert!(failed.is_error());
}

#[tokio::test]
async fn a_call_that_was_never_sent_is_a_span_that_says_why() {
    let taken = Taken::default();
    let config = OutboundConfig {
        root: Root::ALWAYS,
        spans: taken.sink(),
        patience: Duration::ZERO,
        ..OutboundConfig::default()
    };
    let mesh = Mesh::with(PoolConfig::default(), config, []);
    assert!(mesh.call(GET, Body::empty()).await.is_err());
    let [span] = &taken.all()[..] else { panic!("{:?}", taken.all()) };
    assert_eq!((span.code, span.parent), (Code::Unavailable, None));
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_span_as_cancelled() {
    let stalls = Upstream::start(Call::stall).await;
    let (mesh, taken) = traced(Root::ALWAYS, [stalls.address]);
    tokio::select! {
        answered = mesh.call(GET, Body::full("x")) => panic!("{answered:?}"),
        () = until("the call arrived", || stalls.calls() == 1) => {}
    }
    let [span] = &taken.all()[..] else { panic!("{:?}", taken.all()) };
    assert_eq!(span.code, Code::Cancelled);
}

#[tokio::test]
async fn a_deadline_while_an_answer_is_held_ends_the_span_as_such() {
    let stalls = Upstream::start(|mut call: Call| async move {
        let stream = call.headers().unwrap();
        call.stall_on(stream).await;
    })
    .await;
    let (mesh, taken) = traced(Root::ALWAYS, [stalls.address]);
    let mut timed = request(GET, Body::full("x"));
    timed.headers_mut().insert("grpc-timeout", http::HeaderValue::from_static("1S"));
    assert_eq!(mesh.send(timed).await.unwrap_err().grpc_code(), Code::DeadlineExceeded);
    let [span] = &taken.all()[..] else { panic!("{:?}", taken.all()) };
    assert_eq!(span.code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn towards_the_app_a_sampled_call_is_a_server_span() {
    let app = Upstream::start(Call::echo).await;
    let (worlds, _interests) = Worlds::new(Metrics::default());
    let taken = Taken::default();
    let tracing = Tracing { root: Root::ALWAYS, spans: taken.sink() };
    let to_app =
        ToApp::new(users(), app.address, worlds, tracing, Pool::new(PoolConfig::default(), Metrics::default()));
    for request in [carrying(GET, SAMPLED), carrying(GET, UNSAMPLED), request(GET, Body::full("x"))] {
        read(to_app.call_with(request, Default::default()).await.unwrap()).await;
    }
    let [carried, begun] = &taken.all()[..] else { panic!("{:?}", taken.all()) };
    assert_eq!((carried.end, carried.parent), (End::Server, Some(0x00f0_67aa_0ba9_02b7)));
    assert_eq!(seen(&app, 0).parent_id(), carried.span_id);
    assert_eq!((begun.parent, seen(&app, 2).parent_id()), (None, begun.span_id));
}
