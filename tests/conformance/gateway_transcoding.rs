//! Conformance: the REST ⇄ gRPC cases through the real gateway in static mode, sockets on both sides.
//!
//! Lives here: one gateway for each configuration, a gRPC backend that answers what a case says and remembers what it saw, and the score. Does not:
//! reading cases or comparing (`weft_tests::transcoding`), the library by itself (`transcoding.rs`).

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use weft_gateway::{Config, Gateway, Limits, Source};
use weft_runtime::{Context, Env, Shutdown, listen::ListenAddr};
use weft_tests::transcoding::{Answer, BackendReply, Call, Case, Observed, Suite};
use weft_transcode::Settings;

/// Cases that must hold. They only rise.
const FLOOR: usize = 340;
const FLOOR_OF_OURS: usize = 407;

/// Names the case to the backend; other metadata is free.
const CASE: &str = "x-weft-case";
/// Time one case may take.
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_gateway_holds_the_public_cases() {
    hold("transcoding.json", FLOOR).await;
}

#[tokio::test]
async fn the_gateway_holds_our_own_cases() {
    hold("more.json", FLOOR_OF_OURS).await;
}

async fn hold(file: &str, floor: usize) {
    let suite = Arc::new(Suite::load(file));
    let backend = Backend::start(&suite).await;
    let mut gateways = Gateways {
        suite: Arc::clone(&suite),
        upstream: backend.addr,
        running: HashMap::new(),
        tasks: JoinSet::new(),
        shutdown: Shutdown::new(),
    };
    let mut failures = Vec::new();
    for (index, case) in suite.cases.iter().enumerate() {
        let to = gateways.of(case).await;
        let checked = match timeout(LIMIT, send(to, index, case)).await {
            Ok(Ok(answer)) => suite.check(case, &Observed { calls: backend.calls(index), answer }),
            Ok(Err(error)) => Err(format!("no answer: {error}")),
            Err(_) => Err(format!("no answer within {LIMIT:?}")),
        };
        failures.extend(checked.err().map(|reason| format!("{}: {reason}", case.name)));
    }
    let held = suite.cases.len() - failures.len();
    println!("transcoding cases of {file}: {held} of {}", suite.cases.len());
    assert!(held >= floor, "{held} cases hold, the floor is {floor}; failing:\n{}", failures.join("\n"));
    gateways.end().await;
}

/// One gateway for each configuration that the cases use.
struct Gateways {
    suite: Arc<Suite>,
    upstream: SocketAddr,
    running: HashMap<String, SocketAddr>,
    tasks: JoinSet<Result<(), weft_gateway::Error>>,
    shutdown: Shutdown,
}

impl Gateways {
    async fn of(&mut self, case: &Case) -> SocketAddr {
        let key = serde_json::to_string(&case.config).expect("it was JSON");
        if let Some(running) = self.running.get(&key) {
            return *running;
        }
        let gateway =
            Gateway::bind(self.config(case), &Context::for_test("gateway", Env::default())).await.expect("it starts");
        let addr = gateway.local_addr();
        self.tasks.spawn(gateway.run(self.shutdown.clone()));
        self.running.insert(key, addr);
        addr
    }

    fn config(&self, case: &Case) -> Config {
        let mut settings = case.config.clone();
        let mut limits = Limits::default();
        if let Some(limit) = settings.shift_remove("max_request_bytes").and_then(|it| it.as_u64()) {
            limits.max_request_bytes = limit;
        }
        let transcoding: Settings = serde_json::from_value(settings.into()).expect("a case's config is the settings'");
        let descriptor_set = self.suite.descriptor_set.clone().into();
        Config {
            listen: ListenAddr::loopback(0),
            credential: None,
            source: Source::Static { descriptor_set, upstream: self.upstream.to_string() },
            identity: None,
            workers: NonZeroUsize::new(1),
            transcoding,
            limits,
            policies: Vec::new(),
            rules: Vec::new(),
            redis: None,
            cache_bytes: 1 << 20,
            proxies: weft_gateway::TrustedProxies::default(),
            tls: None,
            docs: weft_gateway::Docs::default(),
        }
    }

    async fn end(mut self) {
        self.shutdown.drain();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no panic").expect("a drained gateway ends well");
        }
    }
}

/// Sends a case's request as it stands in the file.
async fn send(to: SocketAddr, index: usize, case: &Case) -> Result<Answer, Box<dyn std::error::Error>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(to).await?)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut request = Request::builder().method(case.request.method.as_str()).uri(case.request.path.as_str());
    request = request.header("host", "gateway.test").header(CASE, index);
    for (name, value) in &case.request.headers {
        request = request.header(name, value);
    }
    let body = Full::new(Bytes::from(case.request.body.clone().unwrap_or_default()));
    let (head, body) = sender.send_request(request.body(body)?).await?.into_parts();
    let header = |(name, value): (&http::HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    Ok(Answer {
        status: head.status.as_u16(),
        headers: head.headers.iter().map(header).collect(),
        body: body.collect().await?.to_bytes().to_vec(),
    })
}

/// A gRPC server that knows no schema of its own.
struct Backend {
    addr: SocketAddr,
    seen: Seen,
    _tasks: JoinSet<()>,
}

/// Calls by case.
type Seen = Arc<Mutex<HashMap<usize, Vec<Call>>>>;

impl Backend {
    async fn start(suite: &Arc<Suite>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("it is bound");
        let (seen, mut tasks) = (Seen::default(), JoinSet::new());
        let server = (Arc::clone(suite), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (suite, seen) = server.clone();
                let service = service_fn(move |request| answer(Arc::clone(&suite), Arc::clone(&seen), request));
                connections
                    .spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { addr, seen, _tasks: tasks }
    }

    fn calls(&self, index: usize) -> Vec<Call> {
        self.seen.lock().expect("no panic holds it").remove(&index).unwrap_or_default()
    }
}

type Reply = Response<StreamBody<tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>>;

async fn answer(suite: Arc<Suite>, seen: Seen, request: Request<Incoming>) -> Result<Reply, Infallible> {
    let (head, mut body) = request.into_parts();
    let index: usize =
        head.headers[CASE].to_str().ok().and_then(|it| it.parse().ok()).expect("the gateway forwards the case");
    let method = head.uri.path().trim_start_matches('/').replace('/', ".");
    let metadata = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    let at = {
        let call = Call {
            method: method.clone(),
            metadata: metadata.collect(),
            deadline: head.headers.get("grpc-timeout").map(deadline),
            ..Call::default()
        };
        let mut seen = seen.lock().expect("no panic holds it");
        let calls = seen.entry(index).or_default();
        calls.push(call);
        calls.len() - 1
    };
    let mut bytes = BytesMut::new();
    let mut complete = true;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes.extend(frame.into_data().ok()),
            Err(_) => {
                complete = false;
                break;
            }
        }
    }
    if let Some(call) = seen.lock().expect("no panic holds it").get_mut(&index).and_then(|calls| calls.get_mut(at)) {
        call.requests = messages(bytes.freeze());
        call.complete = complete;
    }
    Ok(reply(&suite.backend_reply(&suite.cases[index], &method)))
}

fn messages(mut body: Bytes) -> Vec<Bytes> {
    let mut messages = Vec::new();
    while body.len() >= 5 {
        assert_eq!(body.get_u8(), 0, "nothing is compressed");
        let length = body.get_u32() as usize;
        messages.push(body.split_to(length.min(body.len())));
    }
    messages
}

fn reply(reply: &BackendReply) -> Reply {
    let mut frames: Vec<_> = reply.messages.iter().map(|message| Ok(Frame::data(frame(message)))).collect();
    frames.push(Ok(Frame::trailers(trailers(reply))));
    let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn frame(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put_slice(message);
    framed.freeze()
}

fn trailers(reply: &BackendReply) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let Some(status) = &reply.status else {
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        return trailers;
    };
    trailers.insert("grpc-status", HeaderValue::from(status.code));
    trailers.insert("grpc-message", HeaderValue::try_from(escape(&status.message)).expect("it is escaped"));
    if let Some(details) = &status.details {
        let details = HeaderValue::try_from(BASE64_STANDARD_NO_PAD.encode(details)).expect("base64 is ASCII");
        trailers.insert("grpc-status-details-bin", details);
    }
    trailers
}

/// Percent-encodes as gRPC does in `grpc-message`.
fn escape(message: &str) -> String {
    let plain = |it: u8| (0x20..=0x7E).contains(&it) && it != b'%';
    message.bytes().map(|it| if plain(it) { char::from(it).to_string() } else { format!("%{it:02X}") }).collect()
}

fn deadline(value: &HeaderValue) -> Duration {
    let text = value.to_str().expect("grpc-timeout is ASCII");
    let (number, unit) = text.split_at(text.len() - 1);
    let number: u64 = number.parse().expect("digits");
    match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        other => panic!("unit {other}"),
    }
}
