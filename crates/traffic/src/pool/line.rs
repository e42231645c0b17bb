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
use tokio::{sync::watch, time::Instant};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use weft_model as model;

use super::{
    Pool,
    connect::{self, ConnectError, Driver, Sender},
};
use crate::{endpoint::Endpoint, replay::SendBody};

/// How long a failed connect answers for the next.
const RECENT: Duration = Duration::from_millis(20);

/// Connections of one line; more load than they carry queues in h2.
const MAX_CONNECTIONS: usize = 16;

type Opened = Option<Result<(), Arc<ConnectError>>>;

pub(super) struct Line {
    endpoint: model::Endpoint,
    gone: CancellationToken,
    open: ArcSwap<Vec<Arc<Connection>>>,
    /// Touched when there is no connection with room, and by the task that opens one; never across an await.
    opening: Mutex<Opening>,
}

enum Opening {
    No,
    /// Whoever needs the result watches.
    Yes(watch::Receiver<Opened>),
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
        }
    }

    /// Whether no world and no call holds the endpoint any more.
    pub(super) fn gone(&self) -> bool {
        self.gone.is_cancelled()
    }

    pub(super) fn connections(&self) -> usize {
        self.open.load().len()
    }

    /// A place on an open connection, if one has room below the peer's limit. At our own limit it is used all the same, and another is opened beside it.
    pub(super) fn ready(self: &Arc<Self>, pool: &Pool) -> Option<Stream> {
        let open = self.open.load();
        let least = open.iter().filter(|c| !c.sender.is_closed()).min_by_key(|c| c.streams.load(Relaxed))?;
        let (streams, peer_limit) = (least.streams.load(Relaxed), least.peer_limit.load(Relaxed));
        let full = streams >= pool.0.config.streams_per_connection.min(peer_limit);
        if full && open.len() < MAX_CONNECTIONS {
            drop(self.start(pool));
            if streams >= peer_limit {
                return None; // hyper would hold every later request behind one that the peer has no room for
            }
        }
        Some(Stream::new(least, self))
    }

    /// Waits for the connection that is being opened, or opens one. Cancel-safe: the opening goes on for the others.
    pub(super) async fn open(self: &Arc<Self>, pool: &Pool) -> Result<Stream, Arc<ConnectError>> {
        let mut opening = self.start(pool)?;
        let opened = opening.wait_for(Option::is_some).await;
        match opened.ok().as_deref() {
            Some(Some(Ok(()))) => {}
            Some(Some(Err(error))) => return self.fall_back(error),
            Some(None) | None => return Err(Arc::new(ConnectError::Closing)),
        }
        // The connection may be full or gone again by now; then the call counts as not sent and is tried afresh.
        self.ready(pool).or_else(|| self.least()).ok_or_else(|| Arc::new(ConnectError::Closing))
    }

    /// No further connection to be had: a full one queues.
    fn fall_back(self: &Arc<Self>, error: &Arc<ConnectError>) -> Result<Stream, Arc<ConnectError>> {
        self.least().ok_or_else(|| error.clone())
    }

    fn least(self: &Arc<Self>) -> Option<Stream> {
        let open = self.open.load();
        let least = open.iter().filter(|c| !c.sender.is_closed()).min_by_key(|c| c.streams.load(Relaxed))?;
        Some(Stream::new(least, self))
    }

    /// Joins the opening under way, or starts one in the pool's tasks.
    fn start(self: &Arc<Self>, pool: &Pool) -> Result<watch::Receiver<Opened>, Arc<ConnectError>> {
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
        opened: Result<(Sender, Driver), Arc<ConnectError>>,
        pool: &Pool,
    ) -> Result<(), Arc<ConnectError>> {
        let metrics = &pool.0.metrics;
        let (next, result) = match opened {
            Ok((sender, driver)) => {
                metrics.opened.inc();
                self.add(sender, driver, pool);
                (Opening::No, Ok(()))
            }
            Err(error) => {
                metrics.failed.inc();
                tracing::debug!(address = %self.endpoint.address, error = %error, "connect failed");
                (Opening::Failed { at: Instant::now(), error: error.clone() }, Err(error))
            }
        };
        *self.opening.lock().unwrap_or_else(PoisonError::into_inner) = next;
        result
    }

    fn add(self: &Arc<Self>, sender: Sender, driver: Driver, pool: &Pool) {
        let connection = Arc::new(Connection {
            sender,
            streams: AtomicUsize::new(0),
            peer_limit: AtomicUsize::new(driver.current_max_send_streams()),
        });
        self.change(|open| open.push(connection.clone()));
        let gauge = pool.0.metrics.connections.clone();
        gauge.inc();
        let drive = Drive {
            driver,
            connection: Arc::downgrade(&connection),
            line: Arc::downgrade(self),
            gone: Box::pin(self.gone.clone().cancelled_owned()),
        };
        pool.0.tasks.spawn(async move {
            if let Err(error) = drive.await {
                tracing::debug!(%error, "connection ended");
            }
            gauge.dec();
        });
    }

    fn forget(&self, connection: *const Connection) {
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

/// Runs a connection to its end, noting what the peer allows. Holds no sender: when the line has let go and the last stream ends, so does the connection.
struct Drive {
    driver: Driver,
    connection: Weak<Connection>,
    line: Weak<Line>,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Drive {
    fn let_go(&self) {
        if let Some(line) = self.line.upgrade() {
            line.forget(self.connection.as_ptr());
        }
    }
}

impl Future for Drive {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        if self.line.strong_count() > 0 && self.gone.as_mut().poll(cx).is_ready() {
            self.let_go();
            self.line = Weak::new();
        }
        let polled = Pin::new(&mut self.driver).poll(cx);
        match &polled {
            Poll::Ready(_) => self.let_go(),
            Poll::Pending => {
                if let Some(connection) = self.connection.upgrade() {
                    connection.peer_limit.store(self.driver.current_max_send_streams(), Relaxed);
                }
            }
        }
        polled
    }
}

impl Stream {
    fn new(connection: &Arc<Connection>, line: &Arc<Line>) -> Self {
        connection.streams.fetch_add(1, Relaxed);
        Self { connection: connection.clone(), line: line.clone() }
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
