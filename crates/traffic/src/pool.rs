//! The endpoint pool.
use std::time::Duration;

use crate::Metrics;

/// How connections are made and kept. Defaults fit the inside of a mesh.
#[derive(Debug, Clone)]
pub struct PoolConfig {
    /// Time a connection may take to open. Default 1 s.
    pub connect_timeout: Duration,
    /// Streams on a connection before another is opened; the peer's own limit counts when it is lower. Default 100.
    pub streams_per_connection: usize,
    /// Receive window of a stream, bytes. Default 1 MiB.
    pub stream_window: u32,
    /// Receive window of a connection, bytes; at least 8 streams' worth. Default 16 MiB.
    pub connection_window: u32,
    /// Time between two PINGs, also on idle connections. Default 10 s.
    pub ping_every: Duration,
    /// Time a PING may stay unanswered before the connection counts as dead. Default 5 s.
    pub ping_timeout: Duration,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            streams_per_connection: 100,
            stream_window: 1 << 20,
            connection_window: 16 << 20,
            ping_every: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(5),
        }
    }
}

/// Why a connection did not open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// It took longer than the connect timeout.
    #[error("connect timed out")]
    Timeout,
}

/// The upstream connections of one data thread (proxies) or one process (SDK). Create it inside the runtime that will carry them; `Send + Sync`, cheap to clone,
/// but give each data thread its own.
#[derive(Debug, Clone)]
pub struct Pool {}

impl Pool {
    /// An empty pool; connections open at the first call.
    pub fn new(config: PoolConfig, metrics: Metrics) -> Self {
        let _ = (config, metrics);
        Self {}
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        0
    }

    /// Opens nothing more and waits until every connection has finished its calls. The caller bounds the wait.
    pub async fn finish(&self) {}
}
