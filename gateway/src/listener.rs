//! Connections on the one port: which version of HTTP each speaks, its limits, and how it ends.
//!
//! Lives here: version detection by the HTTP/2 preface, limits per connection, drain of a connection. Does not: accepting (`gateway`), answering (`protocol`).
//! ```text
//! Detecting --preface--> HTTP/2      every arrow has a bound; drain ends a detecting or idle connection after a last wait for a call
//!     └──────otherwise──► HTTP/1.1   that is on its way, a busy one when its calls have ended (GOAWAY; `connection: close`)
//!                            └──101──► Takeover: another protocol has the connection to its end, and knows of the drain
//! ```
//! The last wait is there because a client that has sent a call and is answered by a reset cannot tell whether the call was processed.
//! hyper-util's `auto` builder is not used: it waits for the first bytes without a bound, so a client that sends two of them is never let go.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION};
use http_body::Body;
use hyper::{
    body::Incoming,
    rt::Executor,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
    task::yield_now,
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use weft_runtime::{Shutdown, linger::lingering};

use crate::tls::{Door, Entered, peer::Peer};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bounds of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Bounds {
    /// Time for the first bytes. Default 10 s.
    pub(crate) detect: Duration,
    /// HTTP/1.1: time for a request's head, counted from the answer before, so that it also ends idle connections. Default 75 s, above what common
    /// clients and balancers keep connections for.
    pub(crate) head: Duration,
    /// Bytes of a request's head. Default 32 KiB.
    pub(crate) head_bytes: u32,
    /// HTTP/2: streams at once. Default 1024.
    pub(crate) streams: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { detect: Duration::from_secs(10), head: Duration::from_secs(75), head_bytes: 32 << 10, streams: 1024 }
    }
}

/// How long a connection may finish its calls whose client's certificate counts no more.
const DISTRUSTED: Duration = Duration::from_secs(30);

/// Receive windows: a stream may have 1 MiB on its way to us, a connection 8 MiB (probe C; a small connection window also trips h2's guard against
/// small frames).
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;
/// A client that is gone without a word is noticed within the sum of both.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls of a connection from which on each waits for a turn before it begins.
const MANY: usize = 100;
/// How long the calls may take that a client has not given up, when it has given up too many.
const CALM: Duration = Duration::from_secs(1);
/// How long a drain waits for the call that a client may have sent already.
const LAST_CALL: Duration = Duration::from_millis(100);

/// Serves connections of either version. One per data thread.
#[derive(Clone)]
pub(crate) struct Http {
    bounds: Arc<Bounds>,
}

/// Spawns the streams of one connection where they have an owner.
#[derive(Clone)]
struct Streams(TaskTracker);

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        drop(self.0.spawn(stream)); // the tracker keeps it; its result is the answer it sends
    }
}

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;
type Begin = Box<dyn FnOnce(Shutdown) -> Ending + Send>;

/// What a connection does once it has left HTTP: an extension of the answer that says so, 101.
#[derive(Clone)]
pub(crate) struct Takeover(Arc<Mutex<Option<Begin>>>);

impl Takeover {
    /// Makes one that is run once, by the connection's own task.
    pub(crate) fn new<F>(begin: impl FnOnce(Shutdown) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let begin: Begin = Box::new(|shutdown| Box::pin(begin(shutdown)));
        Self(Arc::new(Mutex::new(Some(begin))))
    }

    async fn run(&self, shutdown: Shutdown) {
        let begin = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(begin) = begin {
            begin(shutdown).await;
        }
    }
}

impl Http {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self { bounds: Arc::new(bounds) }
    }

    /// Serves a connection to its end. Errors are the peer's doing and end it quietly.
    pub(crate) async fn serve<S, B>(self, stream: TcpStream, service: S, shutdown: Shutdown)
    where
        S: Service<Request<Incoming>, Response = Response<B>> + Send,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (stream, remains) = lingering(stream);
        if self.speak(stream, service, shutdown).await {
            remains.close().await;
        }
    }

    /// Serves a connection that enters by a door, with the service that is made for its peer.
    pub(crate) async fn serve_at<S, B>(
        self,
        door: &Door,
        stream: TcpStream,
        service: impl FnOnce(Option<Arc<Peer>>) -> S,
        shutdown: Shutdown,
    ) where
        S: Service<Request<Incoming>, Response = Response<B>> + Send,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let entered = tokio::select! {
            entered = timeout(self.bounds.detect, door.enter(stream)) => entered,
            () = last_call(&shutdown) => return,
        };
        match entered {
            Ok(Ok(Some(Entered::Plain(stream)))) => self.serve(stream, service(None), shutdown).await,
            Ok(Ok(Some(Entered::Tls(stream, remains, peer, trust)))) => {
                let own = shutdown.child();
                let distrust = async {
                    trust.over().await;
                    own.drain();
                    sleep(DISTRUSTED).await; // a client need not heed GOAWAY
                };
                let spoke = tokio::select! {
                    spoke = self.speak(*stream, service(Some(peer)), own.clone()) => spoke,
                    () = distrust => false,
                };
                if spoke {
                    remains.close().await;
                }
            }
            Ok(Ok(None) | Err(_)) | Err(_) => {} // told, or gone
        }
    }

    /// Speaks HTTP on a connection; returns whether it said enough for that.
    async fn speak<I, S, B>(&self, stream: I, service: S, shutdown: Shutdown) -> bool
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Send,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let (mut read, write) = tokio::io::split(stream);
        let detected = tokio::select! {
            detected = timeout(self.bounds.detect, detect(&mut read)) => detected,
            () = last_call(&shutdown) => return false,
        };
        let Ok(Ok((version, start))) = detected else { return false };
        let io = tokio::io::join(io::Cursor::new(start).chain(read), write);
        let served = match version {
            Version::Http1 => self.serve_http1(io, service, shutdown).await,
            Version::Http2 => self.serve_http2(io, service, shutdown).await,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended early");
        }
        true
    }

    async fn serve_http1<I, S, B>(&self, io: I, service: S, shutdown: Shutdown) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: Body + 'static,
        B::Error: Into<BoxError>,
    {
        let takeover = OnceLock::new();
        self.until_it_leaves_http(io, service, shutdown.clone(), &takeover).await?;
        if let Some(takeover) = takeover.get() {
            takeover.run(shutdown).await;
        }
        Ok(())
    }

    async fn until_it_leaves_http<I, S, B>(
        &self,
        io: I,
        service: S,
        shutdown: Shutdown,
        takeover: &OnceLock<Takeover>,
    ) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Error: Into<BoxError>,
        B: Body + 'static,
        B::Error: Into<BoxError>,
    {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(self.bounds.head)
            .max_header_size(self.bounds.head_bytes as usize); // fields: hyper's default of 100; another number costs an allocation
        let leaving = AtomicBool::new(false);
        let service = service_fn(|request| {
            let (answer, leaving) = (service.call(request), &leaving);
            async move {
                let mut response = answer.await?;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    if let Some(taken) = response.extensions_mut().remove() {
                        drop(takeover.set(taken)); // the first is the last: hyper reads no further request
                    }
                } else if leaving.load(Ordering::Relaxed) {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, S::Error>(response)
            }
        });
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(io), service).with_upgrades());
        tokio::select! {
            served = connection.as_mut() => return served,
            () = shutdown.draining() => leaving.store(true, Ordering::Relaxed),
        }
        // Not at once: hyper would close a connection that it has not read from yet, with a call perhaps waiting in the socket.
        tokio::select! {
            served = connection.as_mut() => return served,
            () = sleep(LAST_CALL) => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }

    async fn serve_http2<I, S, B>(&self, io: I, service: S, shutdown: Shutdown) -> hyper::Result<()>
    where
        I: AsyncRead + AsyncWrite + Unpin,
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let streams = TaskTracker::new();
        let calls = Arc::new(Calls::at_most(2 * self.bounds.streams as usize));
        let io = Heard { io, calls: calls.clone() };
        let service = service_fn(|request| {
            let (begun, answer) = (Calls::begin(&calls), service.call(request));
            async move {
                if begun.of_many {
                    yield_now().await; // who has been reset meanwhile goes no further
                }
                let answer = answer.await;
                drop(begun);
                answer
            }
        });
        let mut http = http2::Builder::new(Streams(streams.clone()));
        http.timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(self.bounds.streams)
            // A client that gives up on many calls at once resets them together; h2's limit of 20 would take it for an attack and end the connection.
            .max_pending_accept_reset_streams(self.bounds.streams as usize)
            .max_header_list_size(self.bounds.head_bytes)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_TIMEOUT);
        let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(io), service));
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = shutdown.draining() => {
                connection.as_mut().graceful_shutdown();
                connection.as_mut().await
            }
            () = calls.too_many() => {
                tracing::debug!("a client gives up on more calls than it may have at once, faster than they can be let go");
                connection.as_mut().graceful_shutdown();
                timeout(CALM, connection.as_mut()).await.unwrap_or(Ok(()))
            }
        };
        streams.close();
        streams.wait().await; // without their connection they end at once
        served
    }
}

/// Calls of a connection of HTTP/2 that wait for their answer. A stream that its client resets counts no more for the protocol, but its call lives until its task
/// has had a turn: by resets alone a client may have any number of them (rapid reset, CVE-2023-44487).
#[derive(Debug)]
struct Calls {
    alive: AtomicUsize,
    most: usize,
    /// There were more, once.
    exceeded: AtomicBool,
    told: Notify,
}

impl Calls {
    fn at_most(most: usize) -> Self {
        Self { alive: AtomicUsize::new(0), most, exceeded: AtomicBool::new(false), told: Notify::new() }
    }

    fn begin(this: &Arc<Self>) -> Begun {
        let alive = this.alive.fetch_add(1, Ordering::Relaxed);
        if alive >= this.most && !this.exceeded.swap(true, Ordering::Relaxed) {
            this.told.notify_one();
        }
        Begun { calls: this.clone(), of_many: alive >= MANY }
    }

    /// Waits until there are more than an honest client can have. For one to wait.
    async fn too_many(&self) {
        self.told.notified().await;
    }
}

/// A call, until it is answered or given up.
struct Begun {
    calls: Arc<Calls>,
    /// It is one of so many that some of them may have been given up already.
    of_many: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.calls.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client says, for as long as it does not have too many calls: then nothing more is read of it.
struct Heard<I> {
    io: I,
    calls: Arc<Calls>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Heard<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.calls.exceeded.load(Ordering::Relaxed) {
            return Poll::Pending; // for good: the connection is about to be ended
        }
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Heard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bytes)
    }
}

/// Waits for the drain, and then for as long as a call may still arrive.
async fn last_call(shutdown: &Shutdown) {
    shutdown.draining().await;
    sleep(LAST_CALL).await;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    Http1,
    Http2,
}

/// Reads until the version is certain; returns what was read. An HTTP/2 client sends the preface first, and no HTTP/1.1 request starts like it.
async fn detect(read: &mut (impl AsyncRead + Unpin)) -> io::Result<(Version, Bytes)> {
    let mut start = Vec::with_capacity(PREFACE.len());
    loop {
        let missing = PREFACE.len() - start.len();
        if read.take(missing as u64).read_buf(&mut start).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(&start) {
            return Ok((Version::Http1, start.into()));
        }
        if start.len() == PREFACE.len() {
            return Ok((Version::Http2, start.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    use base64::{Engine, engine::general_purpose::STANDARD};
    use http_body_util::Full;
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};
    use tokio::{io::AsyncWriteExt, net::TcpListener, task::JoinSet};
    use weft_runtime::Metrics;

    use crate::tls::{self, TlsFiles};

    async fn served(bounds: Bounds, shutdown: Shutdown) -> (TcpStream, JoinSet<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let mut tasks = JoinSet::new();
        let answer = |_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hi")))) };
        tasks.spawn(Http::new(bounds).serve(stream, service_fn(answer), shutdown));
        (client, tasks)
    }

    async fn read_to_end(client: &mut TcpStream) -> String {
        let mut text = Vec::new();
        tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut text)).await.unwrap().unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    #[tokio::test]
    async fn the_version_is_told_however_the_start_is_cut() {
        for cut in 1..PREFACE.len() {
            let mut parts = (&PREFACE[..cut]).chain(&PREFACE[cut..]);
            assert_eq!(detect(&mut parts).await.unwrap(), (Version::Http2, Bytes::from_static(PREFACE)), "{cut}");
        }
        let (version, start) = detect(&mut &b"POST / HTTP/1.1\r\n"[..]).await.unwrap();
        assert_eq!((version, start.len() < 24), (Version::Http1, true));
        assert!(detect(&mut &b"PRI"[..]).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_says_too_little_is_let_go() {
        let bounds = Bounds { detect: Duration::from_millis(20), head: Duration::from_millis(50), ..Bounds::default() };
        for start in ["", "PR", "GET / HTTP/1.1\r\nhost: a\r\n"] {
            let (mut client, mut tasks) = served(bounds.clone(), Shutdown::new()).await;
            client.write_all(start.as_bytes()).await.unwrap();
            read_to_end(&mut client).await;
            tasks.join_next().await.unwrap().unwrap();
        }
    }

    #[tokio::test]
    async fn of_a_client_that_gives_up_on_more_calls_than_it_may_have_nothing_more_is_read() {
        let calls = Arc::new(Calls::at_most(2));
        for _ in 0..10 {
            let both = [Calls::begin(&calls), Calls::begin(&calls)];
            assert!(both.iter().all(|it| !it.of_many));
        }
        let mut heard = Heard { io: &b"all it says"[..], calls: calls.clone() };
        let mut said = [0; 3];
        assert_eq!(AsyncReadExt::read(&mut heard, &mut said).await.unwrap(), 3);
        let early = timeout(Duration::from_millis(10), calls.too_many()).await;
        assert!(early.is_err(), "they were over before the next ones began");
        let alive = [Calls::begin(&calls), Calls::begin(&calls), Calls::begin(&calls)];
        timeout(Duration::from_secs(10), calls.too_many()).await.unwrap();
        drop(alive);
        let read = timeout(Duration::from_millis(10), AsyncReadExt::read(&mut heard, &mut said)).await;
        assert!(read.is_err(), "it has had its chance");
    }

    fn pem(what: &str, der: &[u8]) -> String {
        format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", STANDARD.encode(der))
    }

    /// A door for TLS, and the first that a client says there.
    fn door(metrics: &Metrics) -> (Door, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let (chain, key) = (dir.path().join("a.pem"), dir.path().join("a.key"));
        let pair = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&pair).unwrap();
        std::fs::write(&chain, pem("CERTIFICATE", certificate.der())).unwrap();
        std::fs::write(&key, pem("PRIVATE KEY", &pair.serialize_der())).unwrap();
        let files = TlsFiles { certificates: vec![(chain, key)], clients: None, plaintext: false };
        let (door, _) = tls::open(&files, metrics).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let mut client = ClientConnection::new(Arc::new(config), "a.test".try_into().unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        (door, hello)
    }

    #[tokio::test]
    async fn a_client_that_stalls_in_its_handshake_is_let_go() {
        let metrics = Metrics::default();
        let (door, hello) = door(&metrics);
        let bounds = Bounds { detect: Duration::from_millis(200), ..Bounds::default() };
        // Nothing, the first byte, a record's head, half a hello, and a whole one whose answer it takes no note of.
        for said in [0, 1, 5, hello.len() / 2, hello.len()] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            client.write_all(&hello[..said]).await.unwrap();
            let (http, door) = (Http::new(bounds.clone()), door.clone());
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let answer = |_| async { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hi")))) };
                http.serve_at(&door, stream, |_| service_fn(answer), Shutdown::new()).await;
            });
            let heard = read_to_end(&mut client).await;
            assert_eq!(heard.is_empty(), said < hello.len(), "after {said} bytes: {heard:?}");
            tasks.join_next().await.unwrap().unwrap();
        }
        let failed = "weft_gateway_tls_handshake_failures_total 0";
        assert!(metrics.encode().contains(failed), "nothing but the time was wrong with them");
    }

    #[tokio::test]
    async fn a_head_beyond_the_limits_is_refused_with_431() {
        let (mut client, _tasks) = served(Bounds::default(), Shutdown::new()).await;
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(40 << 10));
        drop(client.write_all(head.as_bytes()).await); // it may be cut off before all is written
        let answer = read_to_end(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
        let (mut client, _tasks) = served(Bounds::default(), Shutdown::new()).await;
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(200));
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = read_to_end(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn a_burst_of_aborted_calls_does_not_cost_the_connection() {
        let (client, mut tasks) = served(Bounds::default(), Shutdown::new()).await;
        let (mut sender, connection) = h2::client::handshake(client).await.unwrap();
        tasks.spawn(async { drop(connection.await) });
        for _ in 0..5 {
            for _ in 0..500 {
                sender = sender.ready().await.unwrap();
                let (_, mut body) = sender.send_request(Request::post("http://a/").body(()).unwrap(), false).unwrap();
                body.send_reset(h2::Reason::CANCEL);
            }
            sender = sender.ready().await.unwrap();
            let (answer, _) = sender.send_request(Request::post("http://a/").body(()).unwrap(), true).unwrap();
            timeout(Duration::from_secs(30), answer).await.unwrap().expect("the connection lives");
        }
    }

    #[tokio::test]
    async fn drain_ends_an_idle_connection_soon() {
        let shutdown = Shutdown::new();
        let (mut client, mut tasks) = served(Bounds::default(), shutdown.clone()).await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = [0; 256];
        let length = client.read(&mut answer).await.unwrap();
        assert!(answer[..length].starts_with(b"HTTP/1.1 200"));
        shutdown.drain();
        read_to_end(&mut client).await;
        tasks.join_next().await.unwrap().unwrap();
    }
}
