//! The pool: a data thread's connections to endpoints, on hyper's h2 client.
//!
//! Lives here: finding the line of an endpoint, owning every task a connection needs. Does not: how many connections a line has and when (`pool/line`), opening
//! one (`pool/connect`), what outlasts the identities it was made with (`pool/keep`), choosing an endpoint (`cluster`).
//! Invariants: no lock is held across a handshake; the path to an open connection takes none; a connection that got GOAWAY, or whose endpoint left the world, gets
//! no new stream and ends when its streams have.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio_util::task::TaskTracker;
use weft_identity::Identity;

pub use self::connect::ConnectError;
use self::line::Line;
pub(crate) use self::line::Stream;
use crate::{
    Metrics,
    endpoint::{Endpoint, EndpointId},
    metrics::PoolMetrics,
};

mod connect;
mod keep;
mod line;
mod seal;
mod socket;
mod wire;

/// How connections are made and kept. Defaults fit the inside of a mesh.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Who dials `mtls` endpoints; without it they cannot be reached. Default none.
    pub identity: Option<Identity>,
    /// Time a connection may take to open. Default 1 s.
    pub connect_timeout: Duration,
    /// Streams on a connection before another is opened; the peer's own limit counts when it is lower. Default 100.
    pub streams_per_connection: usize,
    /// Receive window of a stream, bytes. Default 1 MiB.
    pub stream_window: u32,
    /// Receive window of a connection, bytes. It has room for a whole window of each stream that a connection takes: else some streams that nobody reads on
    /// would hold up all others. Default 128 MiB, which is what may be waiting for slow readers and not what is used.
    pub connection_window: u32,
    /// Whom to ask by PING whether it is still there. Default: peers of the mesh. TCP notices a peer that vanished in any case, within 20 s.
    pub pings: Pings,
    /// Time between two PINGs, also on idle connections. Default 10 s.
    pub ping_every: Duration,
    /// Time a PING may stay unanswered before the connection counts as dead. Default 5 s.
    pub ping_timeout: Duration,
}

/// Whom to send PINGs. They also find a peer whose kernel answers and whose process does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pings {
    /// Only peers that are ours by their transport (`mtls`). Other servers may punish PINGs: grpc-go and the C core end a connection, with the calls on it, that has
    /// more than one in five minutes.
    Mesh,
    /// Everybody.
    All,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            identity: None,
            connect_timeout: Duration::from_secs(1),
            streams_per_connection: 100,
            stream_window: 1 << 20,
            connection_window: 128 << 20,
            pings: Pings::Mesh,
            ping_every: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(5),
        }
    }
}

/// The upstream connections of one data thread (proxies) or one process (SDK). Its tasks run in the runtime that calls it; `Send + Sync`, cheap to clone, but
/// give each data thread its own.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    config: PoolConfig,
    metrics: PoolMetrics,
    lines: Lines,
    /// Owns connection tasks and what hyper spawns for them.
    tasks: TaskTracker,
}

/// Copied on write: endpoints come and go rarely, calls look up always.
#[derive(Default)]
struct Lines {
    current: ArcSwap<HashMap<EndpointId, Arc<Line>>>,
    writing: Mutex<()>,
}

impl Pool {
    /// An empty pool; connections open at the first call.
    pub fn new(config: PoolConfig, metrics: Metrics) -> Self {
        let metrics = metrics.pool();
        Self(Arc::new(Inner { config, metrics, lines: Lines::default(), tasks: TaskTracker::new() }))
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.0.lines.current.load().values().map(|line| line.connections()).sum()
    }

    /// Forgets every connection and waits until each has finished its streams; then no task of the pool is left. The caller bounds the wait, and has stopped
    /// calling: a later call would open connections anew.
    pub async fn finish(&self) {
        self.0.lines.clear();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Returns a stream's place on a connection to the endpoint; opens one if there is none. Calls that wait for the same connection share one attempt.
    pub(crate) async fn stream(&self, endpoint: &Arc<Endpoint>) -> Result<Stream, Arc<ConnectError>> {
        let line = self.line(endpoint);
        match line.ready(self) {
            Some(stream) => Ok(stream),
            None => line.open(self).await,
        }
    }

    fn line(&self, endpoint: &Arc<Endpoint>) -> Arc<Line> {
        if let Some(line) = self.0.lines.current.load().get(&endpoint.id()) {
            return line.clone();
        }
        self.0.lines.insert(endpoint)
    }
}

impl Lines {
    /// Adds a line, and sweeps those of endpoints that have gone; their connections have let go already.
    fn insert(&self, endpoint: &Arc<Endpoint>) -> Arc<Line> {
        self.write(|lines| {
            lines.retain(|_, line| !line.gone());
            lines.entry(endpoint.id()).or_insert_with(|| Arc::new(Line::new(endpoint))).clone()
        })
    }

    fn clear(&self) {
        self.write(HashMap::clear);
    }

    fn write<R>(&self, change: impl FnOnce(&mut HashMap<EndpointId, Arc<Line>>) -> R) -> R {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::clone(&self.current.load());
        let result = change(&mut next);
        self.current.store(Arc::new(next));
        result
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("connections", &self.connections()).finish_non_exhaustive()
    }
}
