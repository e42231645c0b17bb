//! Opening a connection: TCP, then the h2 handshake.
//!
//! Lives here: socket options, h2 settings, the error. Does not: when to open (`line`), back-off (`endpoint`).

use std::{future::Future, io, sync::Arc, time::Duration};

use hyper::client::conn::http2::{self, Connection, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;
use weft_model::{Endpoint, Transport};

use crate::{
    pool::{Pings, PoolConfig},
    replay::SendBody,
};

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

/// Spawns hyper's tasks into the pool's set, so that they have an owner.
#[derive(Debug, Clone)]
pub(super) struct Executor(pub(super) TaskTracker);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

pub(super) type Sender = SendRequest<SendBody>;
pub(super) type Driver = Connection<TokioIo<TcpStream>, SendBody, Executor>;

/// Opens a connection within the connect timeout.
pub(super) async fn open(
    endpoint: &Endpoint,
    config: &PoolConfig,
    tasks: &TaskTracker,
) -> Result<(Sender, Driver), Arc<ConnectError>> {
    let opened = tokio::time::timeout(config.connect_timeout, open_unbounded(endpoint, config, tasks)).await;
    opened.unwrap_or(Err(ConnectError::Timeout)).map_err(Arc::new)
}

async fn open_unbounded(
    endpoint: &Endpoint,
    config: &PoolConfig,
    tasks: &TaskTracker,
) -> Result<(Sender, Driver), ConnectError> {
    match &endpoint.transport {
        Transport::Plaintext => {}
        wanted @ (Transport::Tls { .. } | Transport::Mtls { .. }) => {
            return Err(ConnectError::Transport { transport: wanted.clone() });
        }
    }
    let socket = TcpStream::connect(endpoint.address).await.map_err(ConnectError::Io)?;
    prepare(&socket).map_err(ConnectError::Io)?;
    let mut h2 = http2::Builder::new(Executor(tasks.clone()));
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
        .handshake(TokioIo::new(socket))
        .await
        .map_err(ConnectError::Handshake)
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
