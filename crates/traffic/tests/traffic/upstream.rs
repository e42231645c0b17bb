//! A scripted gRPC server on the h2 crate: it can refuse, reset, stall, send GOAWAY and die, and it counts what it saw.
//!
//! Lives here: the server and the ready-made answers. Does not: anything of weft.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};
use weft_identity::Identity;
use weft_runtime::linger::lingering;

use weft_testkit::authority;

/// One call as the server has it.
pub(crate) struct Call {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: server::SendResponse<Bytes>,
    pub(crate) seen: Arc<Seen>,
    /// Calls this server had before.
    pub(crate) before: usize,
}

/// What a server saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    /// Those that got through the TLS handshake.
    pub(crate) let_in: AtomicUsize,
    pub(crate) open: AtomicUsize,
    pub(crate) calls: AtomicUsize,
    pub(crate) resets: AtomicUsize,
    pub(crate) heads: std::sync::Mutex<Vec<http::request::Parts>>,
}

type Handled = Pin<Box<dyn Future<Output = ()> + Send>>;
type Handler = Arc<dyn Fn(Call) -> Handled + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Settings {
    /// Speaks TLS as this identity; none is plaintext.
    pub(crate) identity: Option<Identity>,
    pub(crate) max_streams: u32,
    /// GOAWAY (graceful) after so many calls of a connection.
    pub(crate) calls_per_connection: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { identity: None, max_streams: 200, calls_per_connection: usize::MAX }
    }
}

/// A running server; dropping it kills it like `kill -9` does: sockets close in mid-sentence.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    _tasks: JoinSet<()>,
    _alive: watch::Sender<()>,
}

impl Upstream {
    pub(crate) async fn start<F, T>(handler: F) -> Self
    where
        F: Fn(Call) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        Self::start_with(Settings::default(), handler).await
    }

    pub(crate) async fn start_with<F, T>(settings: Settings, handler: F) -> Self
    where
        F: Fn(Call) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        Self::start_on(([127, 0, 0, 1], 0).into(), settings, handler).await
    }

    pub(crate) async fn start_on<F, T>(address: SocketAddr, settings: Settings, handler: F) -> Self
    where
        F: Fn(Call) -> T + Send + Sync + 'static,
        T: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen::default());
        let handler: Handler = Arc::new(move |call| Box::pin(handler(call)));
        let (alive, dead) = watch::channel(());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, settings, seen.clone(), handler, dead));
        Self { address, seen, _tasks: tasks, _alive: alive }
    }

    pub(crate) fn calls(&self) -> usize {
        self.seen.calls.load(SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    pub(crate) fn let_in(&self) -> usize {
        self.seen.let_in.load(SeqCst)
    }

    pub(crate) fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    pub(crate) fn resets(&self) -> usize {
        self.seen.resets.load(SeqCst)
    }

    pub(crate) fn head(&self, n: usize) -> http::request::Parts {
        self.seen.heads.lock().unwrap()[n].clone()
    }
}

async fn accept(
    listener: TcpListener,
    settings: Settings,
    seen: Arc<Seen>,
    handler: Handler,
    dead: watch::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        socket.set_nodelay(true).unwrap();
        connections.spawn(connection(socket, settings.clone(), seen.clone(), handler.clone(), dead.clone()));
    }
}

async fn connection(
    socket: tokio::net::TcpStream,
    settings: Settings,
    seen: Arc<Seen>,
    handler: Handler,
    _dead: watch::Receiver<()>,
) {
    seen.connections.fetch_add(1, SeqCst);
    seen.open.fetch_add(1, SeqCst);
    let _open = Leave(seen.clone());
    let (socket, remains) = lingering(socket);
    match &settings.identity {
        None => serve(socket, &settings, &seen, &handler).await,
        Some(identity) => {
            let Ok(tls) = authority::accept(identity, socket).await else { return };
            seen.let_in.fetch_add(1, SeqCst);
            serve(tls, &settings, &seen, &handler).await;
        }
    }
    remains.close().await;
}

async fn serve(io: impl AsyncRead + AsyncWrite + Unpin, settings: &Settings, seen: &Arc<Seen>, handler: &Handler) {
    let mut handshake = server::Builder::new();
    handshake.max_concurrent_streams(settings.max_streams);
    let Ok(mut connection) = handshake.handshake::<_, Bytes>(io).await else { return };
    let mut calls = JoinSet::new();
    let mut here = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        let before = seen.calls.fetch_add(1, SeqCst);
        let (head, body) = request.into_parts();
        seen.heads.lock().unwrap().push(head.clone());
        let request = Request::from_parts(head, body);
        calls.spawn(handler(Call { request, respond, seen: seen.clone(), before }));
        here += 1;
        if here == settings.calls_per_connection {
            connection.graceful_shutdown();
        }
    }
    while calls.join_next().await.is_some() {}
}

struct Leave(Arc<Seen>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, SeqCst);
    }
}

impl Call {
    /// Reads the whole body.
    pub(crate) async fn body(&mut self) -> Option<Bytes> {
        let mut all = Vec::new();
        while let Some(data) = self.request.body_mut().data().await {
            let data = data.ok()?;
            self.request.body_mut().flow_control().release_capacity(data.len()).unwrap();
            all.extend_from_slice(&data);
        }
        Some(all.into())
    }

    /// Headers of a good answer.
    pub(crate) fn headers(&mut self) -> Option<SendStream<Bytes>> {
        let response = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        self.respond.send_response(response, false).ok()
    }

    /// Answers with the body it got, and OK.
    pub(crate) async fn echo(mut self) {
        let Some(body) = self.body().await else { return };
        let Some(mut stream) = self.headers() else { return };
        send(&mut stream, body).await;
        ok(stream);
    }

    /// Answers in headers alone.
    pub(crate) fn trailers_only(mut self, status: &str, more: &[(&'static str, &str)]) {
        let mut response = Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
        for (name, value) in more {
            response = response.header(*name, *value);
        }
        drop(self.respond.send_response(response.body(()).unwrap(), true));
    }

    pub(crate) fn refuse(mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }

    /// Never ends an answer it began; returns when the caller reset the stream, or never.
    pub(crate) async fn stall_on(self, mut stream: SendStream<Bytes>) {
        if std::future::poll_fn(|cx| stream.poll_reset(cx)).await.is_ok() {
            self.seen.resets.fetch_add(1, SeqCst);
        }
    }

    /// Never answers; returns when the caller reset the stream, or never.
    pub(crate) async fn stall(mut self) {
        if std::future::poll_fn(|cx| self.respond.poll_reset(cx)).await.is_ok() {
            self.seen.resets.fetch_add(1, SeqCst);
        }
    }
}

/// Sends data as the window allows.
pub(crate) async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> bool {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return false };
        if stream.send_data(data.split_to(room.min(data.len())), false).is_err() {
            return false;
        }
    }
    true
}

pub(crate) fn ok(mut stream: SendStream<Bytes>) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    drop(stream.send_trailers(trailers));
}
