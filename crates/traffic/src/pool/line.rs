//! A line: one pool's connections to one endpoint, usually one.
//!
//! Lives here: which connection a stream goes on, when another is opened, single flight. Does not: the handshake (`connect`).
//!
//! ```text
//!              ready() finds none                    handshake done
//!   nothing ────────────────────────► opening ───────────────────────► open ──► closed by peer, GOAWAY, PING, or forgotten
//!      ▲                                 │                              │  at its limit: ready() starts opening another
//!      └──────────── failed ◄────────────┘                              │
//! ```
//! A failure answers everybody who waited for it, and those who come within `RECENT`: a storm of calls makes a few connects, not thousands.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::TrySendError};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use weft_model as model;

use super::{
    Pool,
    connect::{self, ConnectError, Dispatcher, Io, Opened, Sender},
    keep::Keeper,
    socket::Deaf,
};
use crate::{endpoint::Endpoint, replay::SendBody};

/// How long a failed connect answers for the next.
const RECENT: Duration = Duration::from_millis(20);

/// Connections of one line; more load than they carry queues in h2.
const MAX_CONNECTIONS: usize = 16;

pub(super) type Told = Option<Result<(), Arc<ConnectError>>>;

pub(super) struct Line {
    endpoint: model::Endpoint,
    gone: CancellationToken,
    open: ArcSwap<Vec<Arc<Connection>>>,
    /// Touched when there is no connection with room, and by the task that opens one; never across an await.
    opening: Mutex<Opening>,
    /// The rule that was logged last, until a connection opens: one line says it, not one a connect. Touched by the task that opens.
    logged: Mutex<Option<&'static str>>,
}

enum Opening {
    No,
    /// Whoever needs the result watches.
    Yes(watch::Receiver<Told>),
    Failed {
        at: Instant,
        error: Arc<ConnectError>,
    },
}

pub(super) struct Connection {
    sender: Sender,
    streams: AtomicUsize,
    /// What the peer allows, as far as known.
    peer_limit: AtomicUsize,
}

/// A stream's place on a connection, counted until dropped.
pub(crate) struct Stream {
    connection: Arc<Connection>,
    line: Arc<Line>,
}

impl Line {
    pub(super) fn new(endpoint: &Endpoint) -> Self {
        Self {
            endpoint: endpoint.model().clone(),
            gone: endpoint.gone().clone(),
            open: ArcSwap::default(),
            opening: Mutex::new(Opening::No),
            logged: Mutex::new(None),
        }
    }

    /// Whether no world and no call holds the endpoint any more.
    pub(super) fn gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    /// Whether calls find this connection here.
    pub(super) fn holds(&self, connection: *const Connection) -> bool {
        self.open.load().iter().any(|it| std::ptr::eq(Arc::as_ptr(it), connection))
    }

    pub(super) fn connections(&self) -> usize {
        self.open.load().len()
    }

    /// A place on an open connection, if one has room below the peer's limit. At our own limit it is used all the same, and another is opened beside it.
    pub(super) fn ready(self: &Arc<Self>, pool: &Pool) -> Option<Stream> {
        let open = self.open.load();
        let least = least(&open)?;
        let limit = least.limit();
        if least.streams.load(Relaxed) >= pool.0.config.streams_per_connection.min(limit)
            && open.len() < MAX_CONNECTIONS
        {
            drop(self.start(pool)); // a failure answers those who wait for it; here a connection is left
        }
        // Never beyond the peer's limit: hyper would hold every later request behind the one that waits for room, and h2 opens a stream that waited even after
        // GOAWAY, when the peer may close at any moment.
        Stream::within(limit, least, self)
    }

    /// Waits for the connection that is being opened, or opens one; again while those that came are full at once. Cancel-safe: the opening goes on for the others.
    pub(super) async fn open(self: &Arc<Self>, pool: &Pool) -> Result<Stream, Arc<ConnectError>> {
        for _ in self.connections()..MAX_CONNECTIONS {
            let opened = match self.start(pool) {
                Ok(mut opening) => told(opening.wait_for(Option::is_some).await.ok().as_deref()),
                Err(error) => Err(error),
            };
            match (opened, self.ready(pool)) {
                (_, Some(stream)) => return Ok(stream),
                (Ok(()), None) if self.connections() > 0 => {}
                // It opened and closed at once: as good as not opened, and no reason to try until it stays.
                (Ok(()), None) => break,
                // No further connection to be had: a full one queues.
                (Err(error), None) => return self.queue().ok_or(error),
            }
        }
        self.queue().ok_or_else(|| Arc::new(ConnectError::Closing))
    }

    /// A place on the connection with the fewest streams, full or not.
    fn queue(self: &Arc<Self>) -> Option<Stream> {
        let open = self.open.load();
        Stream::within(usize::MAX, least(&open)?, self)
    }

    /// Joins the opening under way, or starts one in the pool's tasks.
    pub(super) fn start(self: &Arc<Self>, pool: &Pool) -> Result<watch::Receiver<Told>, Arc<ConnectError>> {
        let mut opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        match &*opening {
            // A task that ended without a word (the runtime goes down, a panic) has closed its end.
            Opening::Yes(result) if result.has_changed().is_ok() => return Ok(result.clone()),
            Opening::Failed { at, error } if at.elapsed() < RECENT => return Err(error.clone()),
            Opening::Yes(_) | Opening::Failed { .. } | Opening::No => {}
        }
        let (tell, result) = watch::channel(None);
        *opening = Opening::Yes(result.clone());
        drop(opening);
        let (line, pool) = (self.clone(), pool.clone());
        let tasks = pool.0.tasks.clone();
        tasks.spawn(async move {
            let opened = connect::open(&line.endpoint, &pool.0.config, &pool.0.tasks).await;
            let result = line.opened(opened, &pool);
            tell.send_replace(Some(result));
        });
        Ok(result)
    }

    fn opened(
        self: &Arc<Self>,
        opened: Result<Opened, Arc<ConnectError>>,
        pool: &Pool,
    ) -> Result<(), Arc<ConnectError>> {
        let metrics = &pool.0.metrics;
        let (next, result) = match opened {
            Ok(opened) => {
                metrics.opened.inc();
                *self.logged.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.add(opened, pool);
                (Opening::No, Ok(()))
            }
            Err(error) => {
                metrics.failed.inc();
                self.log(&error);
                if let Some(rule) = error.rule() {
                    metrics.refused(rule);
                }
                (Opening::Failed { at: Instant::now(), error: error.clone() }, Err(error))
            }
        };
        *self.opening.lock().unwrap_or_else(PoisonError::into_inner) = next;
        result
    }

    fn log(&self, error: &ConnectError) {
        let address = self.endpoint.address;
        let rule = error.rule();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        if rule.is_none() || *logged == rule {
            tracing::debug!(%address, %error, "connect failed");
        } else {
            *logged = rule;
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(%address, rule, %error, cause, "endpoint cannot be called");
        }
    }

    fn add(self: &Arc<Self>, Opened { sender, dispatcher, io, deaf, proof }: Opened, pool: &Pool) {
        let connection = Arc::new(Connection {
            sender,
            streams: AtomicUsize::new(0),
            peer_limit: AtomicUsize::new(dispatcher.current_max_send_streams()),
        });
        self.change(|open| open.push(connection.clone()));
        let drive = Drive {
            dispatcher: Some(dispatcher),
            io,
            deaf,
            connection: Arc::downgrade(&connection),
            line: Arc::downgrade(self),
            gone: Box::pin(self.gone.clone().cancelled_owned()),
        };
        let (counted, ended) = (Counted::new(&pool.0.metrics.connections), CancellationToken::new());
        let told = ended.clone().drop_guard();
        let driving = pool.0.tasks.spawn(async move {
            drive.await;
            drop((counted, told));
        });
        if let Some(proof) = proof {
            let keeper = Keeper {
                proof,
                pool: Arc::downgrade(&pool.0),
                line: Arc::downgrade(self),
                connection: Arc::downgrade(&connection),
                cut: driving.abort_handle(),
                ended,
            };
            pool.0.tasks.spawn(keeper.run());
        }
    }

    pub(super) fn forget(&self, connection: *const Connection) {
        self.change(|open| open.retain(|c| !std::ptr::eq(Arc::as_ptr(c), connection)));
    }

    fn change(&self, change: impl Fn(&mut Vec<Arc<Connection>>)) {
        self.open.rcu(|open| {
            let mut next = Vec::clone(open);
            change(&mut next);
            next
        });
    }
}

/// One open connection on the gauge, until dropped.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn least(open: &[Arc<Connection>]) -> Option<&Arc<Connection>> {
    open.iter().filter(|c| !c.sender.is_closed()).min_by_key(|c| c.streams.load(Relaxed))
}

impl Connection {
    /// The peer's limit, less what h2 may still count after we do not.
    fn limit(&self) -> usize {
        let limit = self.peer_limit.load(Relaxed);
        limit - limit / 16
    }
}

fn told(result: Option<&Told>) -> Result<(), Arc<ConnectError>> {
    match result {
        Some(Some(result)) => result.clone(),
        Some(None) | None => Err(Arc::new(ConnectError::Closing)),
    }
}

/// Runs a connection to its end: hyper's dispatcher and the I/O in one task, never at the same time. Notes what the peer allows. Holds no sender: when the line
/// has let go and the last stream ends, so does the connection.
struct Drive {
    /// None once it takes no more requests; streams may be left.
    dispatcher: Option<Dispatcher>,
    io: Io,
    /// Once set, requests are kept until the I/O has read its end; they are handed back then.
    deaf: Deaf,
    connection: Weak<Connection>,
    line: Weak<Line>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Drive {
    fn let_go(&mut self) {
        if let Some(line) = std::mem::take(&mut self.line).upgrade() {
            line.forget(self.connection.as_ptr());
        }
    }

    fn dispatch(&mut self, cx: &mut Context<'_>) {
        let Some(dispatcher) = &mut self.dispatcher else { return };
        match Pin::new(&mut *dispatcher).poll(cx) {
            Poll::Pending => {
                if let Some(connection) = self.connection.upgrade() {
                    connection.peer_limit.store(dispatcher.current_max_send_streams(), Relaxed);
                }
            }
            Poll::Ready(ended) => {
                if let Err(error) = ended {
                    tracing::debug!(%error, "connection takes no more requests");
                }
                self.dispatcher = None;
                self.let_go();
            }
        }
    }
}

impl Future for Drive {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.line.strong_count() > 0 && self.gone.as_mut().poll(cx).is_ready() {
            self.let_go();
        }
        if !self.deaf.is_set() {
            self.dispatch(cx); // first, so that what it opens is written at once
        }
        std::task::ready!(self.io.as_mut().poll(cx));
        self.dispatch(cx); // its end hands back what still waits
        self.let_go();
        Poll::Ready(())
    }
}

impl Stream {
    fn within(limit: usize, connection: &Arc<Connection>, line: &Arc<Line>) -> Option<Self> {
        let taken =
            connection.streams.fetch_update(Relaxed, Relaxed, |streams| (streams < limit).then_some(streams + 1));
        taken.is_ok().then(|| Self { connection: connection.clone(), line: line.clone() })
    }

    /// Sends a request. An error with the message means that nothing of it left.
    pub(crate) async fn send(
        &self,
        request: Request<SendBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<SendBody>>> {
        self.connection.sender.clone().try_send_request(request).await
    }

    /// The connection takes no more streams (GOAWAY, reset): the next call must not find it, those on it finish.
    pub(crate) fn retire(&self) {
        self.line.forget(Arc::as_ptr(&self.connection));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Relaxed);
    }
}
