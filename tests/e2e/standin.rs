//! An app in the test's own process that speaks HTTP/2 by hand, to see what no gRPC library tells: how each stream ended.
//!
//! Lives here: answering calls as a test says, and noting them. Does not: being found; a sidecar stands beside it.

use std::{
    future::poll_fn,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, server::SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};

/// What a call is answered.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    /// Before the answer.
    pub(crate) after: Duration,
    /// The message, or a code of gRPC.
    pub(crate) answer: Result<Vec<u8>, u8>,
}

impl Reply {
    /// At once.
    pub(crate) fn with(message: &impl Message) -> Self {
        Self { after: Duration::ZERO, answer: Ok(message.encode_to_vec()) }
    }

    pub(crate) fn after(self, after: Duration) -> Self {
        Self { after, ..self }
    }

    /// UNAVAILABLE, at once.
    pub(crate) const UNAVAILABLE: Self = Self { after: Duration::ZERO, answer: Err(14) };
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    /// RST_STREAM from the caller.
    Reset(h2::Reason),
    ConnectionLost,
}

/// A call that came in.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// `grpc-timeout`.
    pub(crate) timeout: Option<Duration>,
    /// How, and how long after it came; none while it is open.
    pub(crate) end: Option<(End, Duration)>,
}

/// The app; dropped, it is gone.
pub(crate) struct StandIn {
    pub(crate) at: SocketAddr,
    calls: Arc<Mutex<Vec<Seen>>>,
    _served: JoinSet<()>,
}

impl StandIn {
    /// Serves; `reply` gets the method's name and how often it was called before.
    pub(crate) async fn start(reply: impl Fn(&str, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (at, calls, mut served) = (listener.local_addr().unwrap(), Arc::default(), JoinSet::new());
        served.spawn(serve(listener, Arc::clone(&calls), Arc::new(reply)));
        Self { at, calls, _served: served }
    }

    /// All calls so far.
    pub(crate) fn calls(&self) -> Vec<Seen> {
        lock(&self.calls).clone()
    }
}

type Told = Arc<dyn Fn(&str, usize) -> Reply + Send + Sync>;

fn lock(calls: &Mutex<Vec<Seen>>) -> std::sync::MutexGuard<'_, Vec<Seen>> {
    calls.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, calls: Arc<Mutex<Vec<Seen>>>, told: Told) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, Arc::clone(&calls), Arc::clone(&told)));
    }
}

async fn connection(stream: TcpStream, calls: Arc<Mutex<Vec<Seen>>>, told: Told) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return }; // a health check that only connects
    let mut streams = JoinSet::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        streams.spawn(call(request, respond, Arc::clone(&calls), Arc::clone(&told)));
    }
    while streams.join_next().await.is_some() {}
}

async fn call(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    calls: Arc<Mutex<Vec<Seen>>>,
    told: Told,
) {
    let came = Instant::now();
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let (number, reply) = {
        let mut calls = lock(&calls);
        let before = calls.iter().filter(|seen| seen.method == method).count();
        let reply = told(&method, before);
        calls.push(Seen { method, timeout: timeout(request.headers()), end: None });
        (calls.len() - 1, reply)
    };
    let end = tokio::select! {
        () = sleep(reply.after) => match answer(&mut respond, &reply) {
            Ok(()) => End::Answered,
            Err(_) => End::ConnectionLost,
        },
        reset = poll_fn(|cx| respond.poll_reset(cx)) => match reset {
            Ok(reason) => End::Reset(reason),
            Err(_) => End::ConnectionLost,
        },
    };
    lock(&calls)[number].end = Some((end, came.elapsed()));
    drop(request); // only now: dropped earlier, its body would look like one that nobody wants
}

fn answer(respond: &mut SendResponse<Bytes>, reply: &Reply) -> Result<(), h2::Error> {
    let head = Response::builder().header("content-type", "application/grpc");
    match &reply.answer {
        Ok(message) => {
            let mut send = respond.send_response(head.body(()).expect("a valid head"), false)?;
            let mut frame = BytesMut::new();
            frame.put_u8(0); // not compressed
            frame.put_u32(u32::try_from(message.len()).expect("a short message"));
            frame.put_slice(message);
            send.send_data(frame.freeze(), false)?;
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            send.send_trailers(trailers)
        }
        Err(code) => {
            let head = head.header("grpc-status", HeaderValue::from(u16::from(*code)));
            respond.send_response(head.body(()).expect("a valid head"), true).map(drop)
        }
    }
}

/// Source: gRPC over HTTP/2, "Timeout".
pub(crate) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let nanos = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        _ => 1,
    };
    Some(Duration::from_nanos(number.parse::<u64>().ok()? * nanos))
}
