//! A served process as its callers see it: health, reflection, deadlines, panics, and the graceful end.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use weft::{ServeError, Services, Shutdown};
use weft_proto::weft::testkit::v1 as pb;
use weft_proto::weft::testkit::v1::echo_client::EchoClient;
use weft_proto::weft::testkit::v1::echo_server::{Echo, EchoServer};

const LONG: Duration = Duration::from_secs(20);

/// Answers after the delay asked for; panics when the text says so.
struct Teller;

type Answers = Pin<Box<dyn Stream<Item = Result<pb::EchoResponse, Status>> + Send>>;

async fn tell(request: pb::EchoRequest) -> Result<pb::EchoResponse, Status> {
    sleep(Duration::from_millis(request.delay_ms.into())).await;
    assert_ne!(request.text, "panic", "the secret of the handler");
    Ok(pb::EchoResponse { text: request.text, ..Default::default() })
}

#[tonic::async_trait]
impl Echo for Teller {
    async fn unary(&self, request: Request<pb::EchoRequest>) -> Result<Response<pb::EchoResponse>, Status> {
        Ok(weft::http_status(Response::new(tell(request.into_inner()).await?), http::StatusCode::ACCEPTED))
    }

    type ServerStreamStream = Answers;

    /// `count` answers, the last of which may panic.
    async fn server_stream(&self, request: Request<pb::EchoRequest>) -> Result<Response<Answers>, Status> {
        let request = request.into_inner();
        let last = request.count.saturating_sub(1);
        let answers = stream::iter(0..request.count).then(move |number| {
            let text = if number == last { request.text.clone() } else { number.to_string() };
            tell(pb::EchoRequest { text, ..request.clone() })
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn client_stream(
        &self,
        _: Request<Streaming<pb::EchoRequest>>,
    ) -> Result<Response<pb::EchoResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type BidiStream = Answers;

    async fn bidi(&self, _: Request<Streaming<pb::EchoRequest>>) -> Result<Response<Answers>, Status> {
        Err(Status::unimplemented(""))
    }
}

struct Served {
    addr: SocketAddr,
    shutdown: Shutdown,
    task: JoinSet<Result<(), ServeError>>,
}

impl Served {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, shutdown, mut task) = (listener.local_addr().unwrap(), Shutdown::new(), JoinSet::new());
        let services = Services::new(weft_proto::descriptors::TESTKIT).with(EchoServer::new(Teller));
        task.spawn(services.run(listener, shutdown.clone()));
        Served { addr, shutdown, task }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.addr)).unwrap().connect().await.unwrap()
    }

    async fn ends(&mut self) {
        timeout(LONG, self.task.join_next()).await.expect("ends soon").unwrap().unwrap().unwrap();
    }
}

fn asks(text: &str, delay_ms: u32) -> pb::EchoRequest {
    pb::EchoRequest { text: text.to_owned(), delay_ms, ..Default::default() }
}

/// Calls without a client that would apply the deadline itself; returns the messages' bytes and the status code.
async fn raw_call(addr: SocketAddr, method: &str, grpc_timeout: &str, request: &pb::EchoRequest) -> (usize, Code) {
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(request.encoded_len() as u32);
    request.encode(&mut frame).unwrap();
    let request = http::Request::post(format!("http://{addr}/weft.testkit.v1.Echo/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", grpc_timeout);
    let response = sender.send_request(request.body(Full::<Bytes>::from(frame.freeze())).unwrap()).await.unwrap();
    let headers = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    let status = body.trailers().unwrap_or(&headers).get("grpc-status").unwrap();
    let code = Code::from_bytes(status.as_bytes());
    (body.to_bytes().len(), code)
}

#[tokio::test]
async fn health_says_serving_until_the_end_begins() {
    let mut served = Served::start().await;
    let mut health = HealthClient::new(served.channel().await);
    let about = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for name in ["", "weft.testkit.v1.Echo"] {
        let answer = health.check(about(name)).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
    }
    assert_eq!(health.check(about("nobody")).await.unwrap_err().code(), Code::NotFound);

    let mut watch = health.watch(about("")).await.unwrap().into_inner();
    let mut unknown = health.watch(about("nobody")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    served.shutdown.drain();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watch.message().await.unwrap().is_none(), "an open watch does not hold the end");
    assert!(unknown.message().await.unwrap().is_none());
    served.ends().await;
}

#[tokio::test]
async fn both_reflections_tell_the_services_and_do_not_hold_the_end() {
    use tonic_reflection::pb::{v1, v1alpha};
    let mut served = Served::start().await;

    let question = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1::ServerReflectionRequest { host: "h".to_owned(), message_request: Some(question) };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(served.channel().await);
    let asking = stream::iter([request.clone()]).chain(stream::pending());
    let mut answers = client.server_reflection_info(asking).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.valid_host.as_str(), answer.original_request), ("h", Some(request)));
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) = answer.message_response
    else {
        panic!("expected a list");
    };
    assert!(list.service.iter().any(|it| it.name == "weft.testkit.v1.Echo"), "{list:?}");

    let question =
        v1alpha::server_reflection_request::MessageRequest::FileByFilename("weft/testkit/v1/echo.proto".into());
    let request = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(served.channel().await);
    let mut alpha = client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let answer = alpha.message().await.unwrap().unwrap().message_response;
    assert!(matches!(answer, Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(_))));

    served.shutdown.drain();
    assert!(answers.message().await.unwrap().is_none());
    served.ends().await;
}

#[tokio::test]
async fn a_descriptor_set_of_other_services_is_refused_at_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let services = Services::new(weft_proto::descriptors::SHOP_USERS).with(EchoServer::new(Teller));
    let error = services.run(listener, Shutdown::new()).await.unwrap_err();
    assert!(matches!(error, ServeError::Descriptors(_)), "{error}");
}

#[tokio::test]
async fn an_answer_carries_the_http_status_it_was_given() {
    let served = Served::start().await;
    let answer = EchoClient::new(served.channel().await).unary(asks("hello", 0)).await.unwrap();
    assert_eq!(answer.metadata().get("weft-http-status").unwrap(), "202");
    assert_eq!(answer.into_inner().text, "hello");
}

#[tokio::test]
async fn a_call_over_its_deadline_is_answered_so() {
    let served = Served::start().await;
    let asked = Instant::now();
    let (bytes, code) = raw_call(served.addr, "Unary", "100m", &asks("late", 10_000)).await;
    assert_eq!((bytes, code), (0, Code::DeadlineExceeded));
    assert!((Duration::from_millis(100)..LONG).contains(&asked.elapsed()), "{:?}", asked.elapsed());
    let (_, code) = raw_call(served.addr, "Unary", "20S", &asks("in time", 0)).await;
    assert_eq!(code, Code::Ok);
}

#[tokio::test]
async fn a_stream_over_its_deadline_ends_so_after_what_was_sent() {
    let served = Served::start().await;
    let request = pb::EchoRequest { count: 1_000_000, ..asks("", 10) };
    let (bytes, code) = raw_call(served.addr, "ServerStream", "2S", &request).await;
    assert!(bytes > 0);
    assert_eq!(code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_panic_is_internal_without_its_text_and_costs_one_call() {
    let served = Served::start().await;
    let mut client = EchoClient::new(served.channel().await);
    let status = client.unary(asks("panic", 0)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));

    let mut answers =
        client.server_stream(pb::EchoRequest { count: 3, ..asks("panic", 0) }).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().text, "0");
    assert_eq!(answers.message().await.unwrap().unwrap().text, "1");
    let status = answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "internal error"));

    assert!(client.unary(asks("still here", 0)).await.is_ok());
}

#[tokio::test]
async fn what_is_in_flight_at_the_end_is_finished_and_nothing_new_is_taken() {
    let mut served = Served::start().await;
    let mut client = EchoClient::new(served.channel().await);
    let mut answers =
        client.server_stream(pb::EchoRequest { count: 5, ..asks("last", 50) }).await.unwrap().into_inner();
    assert_eq!(answers.message().await.unwrap().unwrap().text, "0"); // it is in flight for certain
    served.shutdown.drain();
    let mut texts = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        texts.push(answer.text);
    }
    assert_eq!(texts, ["1", "2", "3", "last"]);
    served.ends().await;
    assert!(TcpStream::connect(served.addr).await.is_err());
}

#[tokio::test]
async fn an_abort_does_not_wait_for_what_is_in_flight() {
    let mut served = Served::start().await;
    let mut client = EchoClient::new(served.channel().await);
    let mut answers =
        client.server_stream(pb::EchoRequest { count: 100, ..asks("", 1_000) }).await.unwrap().into_inner();
    let asked = Instant::now();
    served.shutdown.abort();
    served.ends().await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    drop(answers.message().await);
}
