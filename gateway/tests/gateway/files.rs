//! Files as `google.api.HttpBody`, both ways and by both versions of HTTP, against a backend that sends as fast as it may and reads once it is told to.
//!
//! Lives here: files many times longer than what the gateway may hold, which pass at the pace of the slower side. Does not: files in forms (`forms`), what
//! such a body is among the messages (weft-transcode).

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody, channel::Channel, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    server::conn::http2::Builder,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};
use weft_gateway::Source;

use crate::support::{Running, framed, send, send_bytes, stands_still, start_gateway};

const PROTO: &str = r#"
    syntax = "proto3";
    package files.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";
    message Nothing {}
    service Files {
      rpc Read(Nothing) returns (stream google.api.HttpBody) { option (google.api.http) = { get: "/read" }; }
      rpc Fetch(Nothing) returns (google.api.HttpBody) { option (google.api.http) = { get: "/fetch" }; }
      rpc Announce(Nothing) returns (google.api.HttpBody) { option (google.api.http) = { get: "/announce" }; }
      rpc Write(stream google.api.HttpBody) returns (Nothing) { option (google.api.http) = { post: "/write" body: "*" }; }
    }
"#;
/// Also for a whole file to pass.
const SOON: Duration = Duration::from_secs(60);

/// What the gateway may hold of a body.
const LIMIT: usize = 64 << 10;
/// A file is so many chunks: 64 MiB, of which the buffers of two connections hold much less than half.
const CHUNK: usize = 64 << 10;
const CHUNKS: usize = 1024;
/// One that comes in one message.
const FETCHED: usize = 128;

#[derive(Clone, PartialEq, Message)]
struct HttpBody {
    #[prost(string, tag = "1")]
    content_type: String,
    #[prost(bytes = "bytes", tag = "2")]
    data: Bytes,
}

/// A chunk of a file, unlike any other of it.
fn made(at: usize) -> Vec<u8> {
    at.to_be_bytes().repeat(CHUNK / size_of::<usize>())
}

/// Takes a file in pieces of any length, and compares it to what `made` makes.
#[derive(Default)]
struct Compared {
    chunks: usize,
    rest: BytesMut,
}

impl Compared {
    fn take(&mut self, data: &[u8]) {
        self.rest.extend_from_slice(data);
        while self.rest.len() >= CHUNK {
            assert!(self.rest.split_to(CHUNK) == made(self.chunks), "chunk {} is another", self.chunks);
            self.chunks += 1;
        }
    }

    /// Whole chunks, and bytes beyond them.
    fn length(&self) -> (usize, usize) {
        (self.chunks, self.rest.len())
    }
}

/// A backend and a gateway in front of it.
struct Files {
    gateway: Running,
    backend: Backend,
    _server: JoinSet<()>,
}

#[derive(Clone, Default)]
struct Backend {
    /// Chunks of files that were handed to a connection.
    sent: Arc<AtomicUsize>,
    /// The file that came, and the content type of each message that had one.
    got: Arc<Mutex<(Compared, Vec<String>)>>,
    /// Lets an upload be read.
    reads: Arc<Notify>,
}

type Boxed = UnsyncBoxBody<Bytes, Infallible>;

impl Backend {
    async fn serve(self, request: Request<Incoming>) -> Result<Response<Boxed>, Infallible> {
        let (head, body) = request.into_parts();
        let part = |at: usize, data: Vec<u8>| {
            let content_type = if at == 0 { "text/csv" } else { "" };
            let message = HttpBody { content_type: content_type.to_owned(), data: data.into() };
            Bytes::from(framed(0, &message.encode_to_vec()))
        };
        let replies: BoxStream<'static, Bytes> = match head.uri.path() {
            "/files.v1.Files/Read" => {
                let sent = self.sent;
                let next = move |at| {
                    sent.fetch_add(1, SeqCst);
                    part(at, made(at))
                };
                stream::iter((0..CHUNKS).map(next)).boxed()
            }
            "/files.v1.Files/Fetch" => {
                let whole: Vec<u8> = (0..FETCHED).flat_map(made).collect();
                stream::iter([part(0, whole)]).boxed()
            }
            "/files.v1.Files/Announce" => {
                let prefix = [&[0_u8][..], &(65_u32 << 20).to_be_bytes()[..]].concat();
                stream::iter([Bytes::from(prefix)]).chain(stream::pending()).boxed()
            }
            _ => {
                self.reads.notified().await;
                self.read(body).await;
                stream::iter([Bytes::from(framed(0, b""))]).boxed()
            }
        };
        let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static("0"))]);
        let frames = replies.map(|it| Ok(Frame::data(it))).chain(stream::iter([Ok(Frame::trailers(status))]));
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        Ok(response)
    }

    async fn read(&self, mut body: Incoming) {
        let mut held = BytesMut::new();
        while let Some(Ok(frame)) = body.frame().await {
            held.extend_from_slice(&frame.into_data().unwrap_or_default());
            while held.len() >= 5 && held.len() >= 5 + u32::from_be_bytes(held[1..5].try_into().unwrap()) as usize {
                let length = u32::from_be_bytes(held[1..5].try_into().unwrap()) as usize;
                let message = HttpBody::decode(held.split_to(5 + length).freeze().slice(5..)).unwrap();
                let (file, content_types) = &mut *self.got.lock().unwrap();
                file.take(&message.data);
                content_types.extend(Some(message.content_type).filter(|it| !it.is_empty()));
            }
        }
    }
}

async fn files() -> Files {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("files.proto"), PROTO).unwrap();
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler = protox::Compiler::new([dir.path(), protos.as_ref()]).unwrap();
    compiler.include_imports(true).open_files(["files.proto"]).unwrap();
    let set = compiler.encode_file_descriptor_set();
    let backend = Backend::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let mut server = JoinSet::new();
    let served = backend.clone();
    server.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let backend = served.clone();
            let service = service_fn(move |request| backend.clone().serve(request));
            connections.spawn(async move {
                drop(Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    let gateway = start_gateway(upstream.clone(), |config| {
        config.source = Source::Static { descriptor_set: set.into(), upstream };
        config.limits.max_request_bytes = LIMIT as u64;
    })
    .await;
    Files { gateway, backend, _server: server }
}

impl Files {
    /// Makes a call; returns the answer with its body still open. The connection lives as long as the set.
    async fn call(&self, http2: bool, request: Request<Boxed>) -> (Response<Incoming>, JoinSet<()>) {
        let stream = TokioIo::new(TcpStream::connect(self.gateway.addr).await.unwrap());
        let mut driver = JoinSet::new();
        let answer = if http2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            driver.spawn(async move { drop(connection.await) });
            timeout(SOON, sender.send_request(request)).await
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            driver.spawn(async move { drop(connection.await) });
            timeout(SOON, sender.send_request(request)).await
        };
        (answer.expect("an answer").unwrap(), driver)
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.addr)
    }
}

#[tokio::test]
async fn a_download_waits_at_its_source_for_a_client_that_does_not_read() {
    for http2 in [false, true] {
        let files = files().await;
        let request =
            Request::get(files.url("/read")).header("host", "a").body(Empty::<Bytes>::new().boxed_unsync()).unwrap();
        let (response, _driver) = files.call(http2, request).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/csv".parse().unwrap())
        );
        let sent = stands_still(&files.backend.sent).await;
        assert!(sent < CHUNKS / 2, "{sent} chunks left for a client that reads nothing");

        let (mut body, mut file) = (response.into_body(), Compared::default());
        while let Some(frame) = timeout(SOON, body.frame()).await.expect("it goes on") {
            file.take(&frame.unwrap().into_data().unwrap_or_default());
        }
        assert_eq!(file.length(), (CHUNKS, 0), "HTTP/2: {http2}");
        assert_eq!(files.backend.sent.load(SeqCst), CHUNKS);
    }
}

#[tokio::test]
async fn an_upload_waits_at_its_client_for_an_upstream_that_does_not_read() {
    for http2 in [false, true] {
        let files = Arc::new(files().await);
        let (mut data, body) = Channel::<Bytes, Infallible>::new(1);
        let request =
            Request::post(files.url("/write")).header("host", "a").header("content-type", "application/x-tar");
        let request = request.body(body.boxed_unsync()).unwrap();
        let mut answer = JoinSet::new();
        let calling = Arc::clone(&files);
        // The answer comes behind the file.
        answer.spawn(async move { calling.call(http2, request).await.0.status().as_u16() });
        let mut taken = 0;
        while taken < CHUNKS
            && timeout(Duration::from_secs(3), data.send_data(made(taken).into())).await.is_ok_and(|it| it.is_ok())
        {
            taken += 1;
        }
        assert!(taken < CHUNKS / 2, "{taken} chunks were taken for an upstream that reads nothing");

        files.backend.reads.notify_one();
        for at in taken..CHUNKS {
            timeout(SOON, data.send_data(made(at).into())).await.expect("it flows").unwrap();
        }
        drop(data);
        assert_eq!(timeout(SOON, answer.join_next()).await.unwrap().unwrap().unwrap(), 200);
        let (file, content_types) = &*files.backend.got.lock().unwrap();
        assert_eq!((file.length(), &content_types[..]), ((CHUNKS, 0), &["application/x-tar".to_owned()][..]));
    }
}

#[tokio::test]
async fn a_file_in_one_message_is_held_whole_and_one_beyond_what_is_held_is_refused_by_its_prefix() {
    let files = files().await;
    let (status, headers, body) = send_bytes(files.gateway.addr, "GET", "/fetch", &[], Bytes::new()).await;
    assert_eq!((status.as_u16(), &headers["content-type"]), (200, &"text/csv".parse().unwrap()));
    let mut file = Compared::default();
    file.take(&body);
    assert_eq!(file.length(), (FETCHED, 0), "the limit is of requests");

    let told = timeout(SOON, send(files.gateway.addr, "GET", "/announce", &[], "")).await.expect("an answer");
    assert_eq!((told.status.as_u16(), &told.json()["code"]), (500, &json!(13)), "{told:?}");
    assert!(told.body.contains("at most 67108864 are taken"), "{told:?}");
}
