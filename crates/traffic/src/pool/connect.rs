//! Opening a connection: TCP, TLS if the endpoint wants it, then the h2 handshake.
//!
//! Lives here: socket options, h2 settings, the error. Does not: TLS (`seal`), when to open (`line`), back-off (`endpoint`).
//! A sealed connection is open when its peer has said something: a call that it was never going to take is not lost on it.

use std::{
    future::Future,
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use hyper::client::conn::http2::{self, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use weft_identity::Refusal;
use weft_model::{Endpoint, SpiffeId, Transport};

use super::{
    Pings, PoolConfig,
    seal::{Proof, failure, seal},
    socket::{Deaf, Socket},
    wire::{First, Wire},
};
use crate::replay::SendBody;

/// Why a connection did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It took longer than the connect timeout.
    #[error("connect timed out")]
    Timeout,
    /// The system refused: nobody listens, no route, no file descriptor.
    #[error("connect failed")]
    Io(#[source] io::Error),
    /// The peer does not speak HTTP/2.
    #[error("HTTP/2 handshake failed")]
    Handshake(#[source] hyper::Error),
    /// The peer proved to be nobody that may be called.
    #[error("refused by rule {}", .0.rule())]
    Refused(#[source] Refusal),
    /// The peer does not let this process in.
    #[error("the peer refused this process: {alert}")]
    RefusedByPeer {
        /// Its alert, by its name in TLS.
        alert: String,
    },
    /// TLS failed for a reason that is nobody's identity.
    #[error("TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The endpoint wants mutual TLS, and this process has no identity to show: it needs a token to join with.
    #[error("{expected} wants mutual TLS and this process has no identity; start it with a token")]
    NoIdentity {
        /// Whom the endpoint was registered as.
        expected: SpiffeId,
    },
    /// The endpoint wants a transport that this build does not have yet.
    #[error("endpoint wants {transport:?}")]
    Transport {
        /// What it wants.
        transport: Transport,
    },
    /// The pool's runtime is going down.
    #[error("the pool is closing")]
    Closing,
}

impl ConnectError {
    /// The rule that refused this connection, for metrics and logs; a closed set. None if it failed otherwise.
    pub fn rule(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.rule()),
            Self::RefusedByPeer { .. } => Some("by_peer"),
            Self::NoIdentity { .. } => Some("no_identity"),
            Self::Timeout
            | Self::Io(_)
            | Self::Handshake(_)
            | Self::Tls(_)
            | Self::Transport { .. }
            | Self::Closing => None,
        }
    }
}

/// What hyper spawns for a connection: the task of its I/O first, during the handshake; then one or two for each stream.
///
/// The first is kept back, to run in one task with hyper's dispatcher (`line`). Two tasks would race on a multi-thread runtime: a GOAWAY that arrives between
/// the dispatcher's opening a stream and its second look at the connection fails that stream as if it had never been sent, although it may have been.
#[derive(Clone)]
pub(super) struct Executor {
    tasks: TaskTracker,
    kept: Arc<Kept>,
}

struct Kept {
    done: AtomicBool,
    /// Written once during the handshake and taken once after it.
    first: Mutex<Option<Io>>,
}

/// A connection's I/O.
pub(super) type Io = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Executor {
    fn new(tasks: TaskTracker) -> Self {
        Self { tasks, kept: Arc::new(Kept { done: AtomicBool::new(false), first: Mutex::new(None) }) }
    }

    fn take_first(&self) -> Option<Io> {
        self.kept.first.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Into the pool's set, so that each task has an owner.
impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        if self.kept.done.load(Relaxed) {
            self.tasks.spawn(task);
        } else {
            self.kept.done.store(true, Relaxed); // the handshake is one task: nobody else is here yet
            *self.kept.first.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(task));
        }
    }
}

pub(super) type Sender = SendRequest<SendBody>;
pub(super) type Dispatcher = Connection<TokioIo<Wire>, SendBody, Executor>;

/// A connection just opened: where requests go in, and the two halves of what runs it.
pub(super) struct Opened {
    pub(super) sender: Sender,
    pub(super) dispatcher: Dispatcher,
    pub(super) io: Io,
    pub(super) deaf: Deaf,
    /// None for plaintext.
    pub(super) proof: Option<Proof>,
}

/// Opens a connection within the connect timeout.
pub(super) async fn open(
    endpoint: &Endpoint,
    config: &PoolConfig,
    tasks: &TaskTracker,
) -> Result<Opened, Arc<ConnectError>> {
    let opened = tokio::time::timeout(config.connect_timeout, open_unbounded(endpoint, config, tasks)).await;
    opened.unwrap_or(Err(ConnectError::Timeout)).map_err(Arc::new)
}

async fn open_unbounded(endpoint: &Endpoint, config: &PoolConfig, tasks: &TaskTracker) -> Result<Opened, ConnectError> {
    let seal_as = match (&endpoint.transport, &config.identity) {
        (Transport::Plaintext, _) => None,
        (Transport::Mtls { identity: expected }, Some(identity)) => Some((identity, expected)),
        (Transport::Mtls { identity }, None) => return Err(ConnectError::NoIdentity { expected: identity.clone() }),
        (wanted @ Transport::Tls { .. }, _) => return Err(ConnectError::Transport { transport: wanted.clone() }),
    };
    let socket = TcpStream::connect(endpoint.address).await.map_err(ConnectError::Io)?;
    prepare(&socket).map_err(ConnectError::Io)?;
    let socket = Socket::new(socket);
    let deaf = socket.deaf();
    match seal_as {
        None => {
            let (sender, dispatcher, io) = speak(Wire::Plain(socket), endpoint, config, tasks).await?;
            Ok(Opened { sender, dispatcher, io, deaf, proof: None })
        }
        Some((identity, expected)) => {
            let (sealed, first, proof) = seal(socket, endpoint.address, identity, expected).await?;
            let (sender, dispatcher, mut io) = speak(Wire::Sealed(Box::new(sealed)), endpoint, config, tasks).await?;
            heard(first, &mut io).await?;
            Ok(Opened { sender, dispatcher, io, deaf, proof: Some(proof) })
        }
    }
}

/// Waits for the peer's first word, which ours has to reach first: some servers say nothing before.
async fn heard(mut first: First, io: &mut Io) -> Result<(), ConnectError> {
    let ended = tokio::select! {
        biased; // the I/O is what brings the word
        () = io => first.try_recv().ok(),
        word = &mut first => return word.unwrap_or_else(|_| Err(ErrorKind::UnexpectedEof.into())).map_err(failure),
    };
    let closed = || ErrorKind::UnexpectedEof.into();
    Err(failure(ended.and_then(Result::err).unwrap_or_else(closed)))
}

/// Begins HTTP/2.
async fn speak(
    wire: Wire,
    endpoint: &Endpoint,
    config: &PoolConfig,
    tasks: &TaskTracker,
) -> Result<(Sender, Dispatcher, Io), ConnectError> {
    let executor = Executor::new(tasks.clone());
    let mut h2 = http2::Builder::new(executor.clone());
    let pings = match (config.pings, &endpoint.transport) {
        (Pings::All, _) | (Pings::Mesh, Transport::Mtls { .. }) => Some(config.ping_every),
        (Pings::Mesh, Transport::Plaintext | Transport::Tls { .. }) => None,
    };
    h2.timer(TokioTimer::new())
        .initial_stream_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_header_list_size(64 << 10)
        // Callers that leave reset their streams; frames that cross the reset are not an error of the peer.
        .max_concurrent_reset_streams(1_000)
        .keep_alive_interval(pings)
        .keep_alive_timeout(config.ping_timeout)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(wire))
        .await
        .map_err(ConnectError::Handshake)
        .map(|(sender, dispatcher)| {
            let io = executor.take_first().expect("hyper spawns a connection's I/O during its handshake");
            (sender, dispatcher, io)
        })
}

/// Socket options: no delay (a missing one shows as exactly 40 ms), and a peer that vanished without a word is noticed within 20 s, idle or not.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    let second = Duration::from_secs(1);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(10 * second).with_interval(3 * second).with_retries(3))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(15 * second))?;
    Ok(())
}
