//! Calls to other services as the sidecar sees them: who is meant, what they take over from the call being served, how they end.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::request::Parts;
use http::{HeaderMap, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tonic::transport;
use tonic::{Code, Request, Response, Status, Streaming};
use weft::{Channel, Services, Shutdown};
use weft_proto::weft::testkit::v1 as pb;
use weft_proto::weft::testkit::v1::echo_client::EchoClient;
use weft_proto::weft::testkit::v1::echo_server::{Echo, EchoServer};

const LONG: Duration = Duration::from_secs(20);
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Where the sidecar would be: records heads, and answers each call with NOT_FOUND or, told to be silent, not at all.
struct Sidecar {
    url: Uri,
    heads: mpsc::Receiver<Parts>,
    cancelled: mpsc::Receiver<()>,
    _served: JoinSet<()>,
}

#[derive(Clone, Copy, PartialEq)]
enum Answers {
    NotFound,
    Never,
}

/// Tells when it goes.
struct Goes(mpsc::Sender<()>);

impl Drop for Goes {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

impl Sidecar {
    async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let ((head, heads), (gone, cancelled), mut served) = (mpsc::channel(16), mpsc::channel(16), JoinSet::new());
        served.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (head, gone) = (head.clone(), gone.clone());
                let service = service_fn(move |request: http::Request<Incoming>| {
                    let (head, gone) = (head.clone(), Goes(gone.clone()));
                    async move {
                        head.send(request.into_parts().0).await.unwrap();
                        if answers == Answers::Never {
                            std::future::pending::<()>().await;
                        }
                        drop(gone);
                        let status = http::Response::builder().header("content-type", "application/grpc");
                        Ok::<_, Infallible>(status.header("grpc-status", "5").body(Empty::<Bytes>::new()).unwrap())
                    }
                });
                let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Sidecar { url, heads, cancelled, _served: served }
    }

    fn channel(&self) -> Channel {
        Channel::new(Some(self.url.clone()), "echo.shop")
    }

    async fn head(&mut self) -> Parts {
        timeout(LONG, self.heads.recv()).await.expect("a call comes").unwrap()
    }
}

type Told = Pin<Box<dyn Stream<Item = Result<pb::EchoResponse, Status>> + Send>>;

/// A service whose handlers make the same call through `next`: awaited, from a stream, or (`text` is "spawn") in a task of its own.
struct Middle {
    next: EchoClient<Channel>,
}

impl Middle {
    async fn start(next: Channel) -> (EchoClient<transport::Channel>, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let services = Services::new(weft_proto::descriptors::TESTKIT)
            .with(EchoServer::new(Middle { next: EchoClient::new(next) }));
        let mut served = JoinSet::new();
        served.spawn(async move { services.run(listener, Shutdown::new()).await.unwrap() });
        (EchoClient::connect(url).await.unwrap(), served)
    }
}

#[tonic::async_trait]
impl Echo for Middle {
    async fn unary(&self, request: Request<pb::EchoRequest>) -> Result<Response<pb::EchoResponse>, Status> {
        let (mut next, request) = (self.next.clone(), request.into_inner());
        if request.text == "spawn" {
            let mut task = JoinSet::new();
            task.spawn(async move { next.unary(request).await });
            return task.join_next().await.unwrap().unwrap();
        }
        next.unary(request).await
    }

    type ServerStreamStream = Told;

    async fn server_stream(&self, request: Request<pb::EchoRequest>) -> Result<Response<Told>, Status> {
        let (next, request) = (self.next.clone(), request.into_inner());
        let answers = stream::iter(0..request.count).then(move |_| {
            let (mut next, request) = (next.clone(), request.clone());
            async move { next.unary(request).await.map(Response::into_inner) }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn client_stream(
        &self,
        _: Request<Streaming<pb::EchoRequest>>,
    ) -> Result<Response<pb::EchoResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type BidiStream = Told;

    async fn bidi(&self, _: Request<Streaming<pb::EchoRequest>>) -> Result<Response<Told>, Status> {
        Err(Status::unimplemented(""))
    }
}

fn asks(text: &str) -> pb::EchoRequest {
    pb::EchoRequest { text: text.to_owned(), count: 1, ..Default::default() }
}

/// A request in a trace, with this deadline.
fn traced(text: &str, deadline: Duration) -> Request<pb::EchoRequest> {
    let mut request = Request::new(asks(text));
    request.metadata_mut().insert("traceparent", TRACE.parse().unwrap());
    request.metadata_mut().append("tracestate", "a=1".parse().unwrap());
    request.metadata_mut().append("tracestate", "b=2".parse().unwrap());
    request.set_timeout(deadline);
    request
}

/// The timeout of a head, in microseconds; those of these tests are long enough for that unit.
fn micros(headers: &HeaderMap) -> u128 {
    let text = headers["grpc-timeout"].to_str().unwrap();
    let (number, unit) = text.split_at(text.len() - 1);
    number.parse::<u128>().unwrap()
        * match unit {
            "u" => 1,
            "m" => 1_000,
            other => panic!("{other}"),
        }
}

#[tokio::test]
async fn a_call_names_the_service_and_carries_nothing_that_nobody_gave() {
    let mut sidecar = Sidecar::start(Answers::NotFound).await;
    let status = EchoClient::new(sidecar.channel()).unary(asks("")).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let head = sidecar.head().await;
    assert_eq!(head.uri.authority().unwrap(), "echo.shop");
    assert_eq!(head.uri.path(), "/weft.testkit.v1.Echo/Unary");
    for absent in ["grpc-timeout", "traceparent", "tracestate"] {
        assert!(!head.headers.contains_key(absent), "{absent}");
    }
}

#[tokio::test]
async fn a_nested_call_has_the_rest_of_its_callers_time_and_its_trace() {
    let mut sidecar = Sidecar::start(Answers::NotFound).await;
    let (mut middle, _served) = Middle::start(sidecar.channel()).await;
    let limit = Duration::from_secs(60);
    assert_eq!(middle.unary(traced("", limit)).await.unwrap_err().code(), Code::NotFound);
    let unary = sidecar.head().await;
    let mut answers = middle.server_stream(traced("", limit)).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::NotFound);
    let streamed = sidecar.head().await;
    for head in [unary, streamed] {
        assert_eq!(head.headers["traceparent"], TRACE);
        assert_eq!(head.headers.get_all("tracestate").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
        let left = micros(&head.headers);
        assert!((1..limit.as_micros()).contains(&left), "{left} µs of {limit:?}");
    }
}

#[tokio::test]
async fn the_channels_bound_holds_when_it_is_the_shorter_one() {
    let mut sidecar = Sidecar::start(Answers::NotFound).await;
    let (mut middle, _served) = Middle::start(sidecar.channel().at_most(Duration::from_secs(5))).await;
    middle.unary(traced("", LONG)).await.unwrap_err();
    assert!(micros(&sidecar.head().await.headers) <= 5_000_000);
    middle.unary(traced("", Duration::from_secs(2))).await.unwrap_err();
    assert!(micros(&sidecar.head().await.headers) <= 2_000_000);
}

#[tokio::test]
async fn a_task_of_its_own_calls_for_itself() {
    let mut sidecar = Sidecar::start(Answers::NotFound).await;
    let (mut middle, _served) = Middle::start(sidecar.channel()).await;
    middle.unary(traced("spawn", LONG)).await.unwrap_err();
    let head = sidecar.head().await;
    assert!(!head.headers.contains_key("traceparent") && !head.headers.contains_key("grpc-timeout"), "{head:?}");
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_says_whom_it_waited_for() {
    let mut sidecar = Sidecar::start(Answers::Never).await;
    let asked = Instant::now();
    let limit = Duration::from_secs(1); // long enough for the call to get there
    let channel = sidecar.channel().at_most(limit);
    let status = EchoClient::new(channel.clone()).unary(asks("")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "echo.shop did not answer in time"));
    assert!((limit..LONG).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    timeout(LONG, sidecar.cancelled.recv()).await.expect("the stream is reset").unwrap();

    sidecar.head().await;
    let mut spent = Request::new(asks(""));
    spent.set_timeout(Duration::ZERO);
    let status = EchoClient::new(channel).unary(spent).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(sidecar.heads.try_recv().is_err(), "a call without time is not sent");
}

#[tokio::test]
async fn a_caller_who_leaves_takes_the_nested_call_along() {
    let mut sidecar = Sidecar::start(Answers::Never).await;
    let (mut middle, _served) = Middle::start(sidecar.channel()).await;
    let mut calling = JoinSet::new();
    calling.spawn(async move { middle.unary(asks("")).await });
    sidecar.head().await;
    calling.abort_all();
    timeout(LONG, sidecar.cancelled.recv()).await.expect("the nested stream is reset").unwrap();
}

#[tokio::test]
async fn without_a_sidecar_a_call_says_what_is_missing() {
    let status = EchoClient::new(Channel::new(None, "users")).unary(asks("")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("users") && status.message().contains("WEFT_OUTBOUND"), "{status}");
}

#[tokio::test]
async fn a_sidecar_that_is_not_there_is_named_and_found_when_it_comes() {
    let addr = weft_runtime::listen::ListenAddr::loopback(0).lasting().get(); // no other test is given it meanwhile
    let mut client = EchoClient::new(Channel::new(Some(format!("http://{addr}").parse().unwrap()), "users"));
    let status = client.unary(asks("")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains(&addr.to_string()) && status.message().contains("users"), "{status}");

    let listener = TcpListener::bind(addr).await.unwrap();
    let mut served = JoinSet::new();
    let next = Channel::new(None, "nobody");
    let services = Services::new(weft_proto::descriptors::TESTKIT);
    let services = services.with(EchoServer::new(Middle { next: EchoClient::new(next) }));
    served.spawn(async move { services.run(listener, Shutdown::new()).await.unwrap() });
    let status = client.unary(asks("")).await.unwrap_err();
    assert!(status.message().contains("WEFT_OUTBOUND"), "the call came through this time: {status}");
}
