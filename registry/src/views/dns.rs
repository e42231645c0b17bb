//! DNS: the catalog for whoever only knows names. A compatibility door: gRPC clients have better ones.
//!
//! Lives here: the sockets, one per carrier on the same port, and what is counted. Does not: names (`dns::names`), what there is of them
//! (`dns::answer`), messages (`dns::wire`).
//! ```text
//! datagram ──► one task: read, answer, send
//! connection ► at most 256, a task each: message after message, each within 10 s
//! ```
//! Answering waits for nothing, so a datagram is answered before the next is read, and what comes faster waits in the kernel or is lost
//! there, as datagrams may be. Names outside `weft.` are refused: this server resolves nothing for others.
//! Sockets are ours and not those of hickory-server, which starts a task for each datagram and takes any number of connections; the codec is
//! hickory's.

mod answer;
mod names;
mod wire;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_proto::op::Query;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use weft_runtime::listen::{self, BindError, ListenAddr};

use crate::{
    catalog::Catalog,
    metrics::DnsMetrics,
    views::{
        dns::{
            answer::{Question, Reply, Zone},
            wire::Carrier,
        },
        watch::Watches,
    },
};

/// Name under which a drain waits for those who asked.
const VIEW: &str = "dns";
/// Connections at once; more are closed at accept.
const MAX_CONNECTIONS: usize = 256;
/// How long a connection may take to send its next question (RFC 7766, 6.2.3), and to take an answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after a socket failed: spinning would not mend it.
const PAUSE: Duration = Duration::from_millis(100);
/// Other ports tried when the kernel gave one for TCP that is taken for UDP.
const TRIES: usize = 16;

/// The DNS server, listening.
#[derive(Debug)]
pub(crate) struct Dns {
    udp: UdpSocket,
    tcp: TcpListener,
    view: View,
}

impl Dns {
    /// Listens at one port by TCP and UDP.
    pub(crate) fn bind(
        addr: ListenAddr,
        ttl: Duration,
        catalog: &Catalog,
        watches: &Watches,
        metrics: &weft_runtime::Metrics,
    ) -> Result<Self, BindError> {
        let (tcp, udp) = both(addr)?;
        let local = tcp.local_addr().map_err(|source| BindError::Other { addr, source })?;
        let server = Some(local.ip()).filter(|ip| !ip.is_unspecified());
        let zone = Zone { ttl: u32::try_from(ttl.as_secs()).unwrap_or(u32::MAX), server };
        let (catalog, watches, metrics) = (catalog.clone(), watches.clone(), DnsMetrics::register(metrics));
        Ok(Self { udp, tcp, view: View(Arc::new(Inner { catalog, watches, zone, metrics })) })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until dropped; connections end with it.
    pub(crate) async fn run(self) {
        let Self { udp, tcp, view } = self;
        tokio::join!(datagrams(&udp, &view), connections(&tcp, &view));
    }
}

fn both(addr: ListenAddr) -> Result<(TcpListener, UdpSocket), BindError> {
    let mut tries = TRIES;
    loop {
        let tcp = listen::bind(addr)?;
        let local = tcp.local_addr().map_err(|source| BindError::Other { addr, source })?;
        match listen::bind_udp(local.into()) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(BindError::Taken { .. }) if addr.get().port() == 0 && tries > 0 => tries -= 1,
            Err(error) => return Err(error),
        }
    }
}

async fn datagrams(socket: &UdpSocket, view: &View) {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                let Some(answer) = view.respond(&buffer[..length], Carrier::Udp) else { continue };
                if let Err(error) = socket.send_to(&answer, from).await {
                    tracing::debug!(%error, %from, "a DNS answer could not be sent");
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the DNS socket cannot receive");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn connections(listener: &TcpListener, view: &View) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = connections.join_next() => drop(ended), // a panic costs one connection and was reported by its hook
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    let view = view.clone();
                    connections.spawn(async move {
                        if let Err(error) = connection(stream, &view).await {
                            tracing::debug!(%error, "a DNS connection broke");
                        }
                    });
                }
                Ok(_) => drop(view.0.metrics.turned_away.inc()),
                Err(error) => {
                    tracing::warn!(%error, "the DNS listener cannot accept");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}

/// Answers one question after the other (RFC 7766), until the client has no more or is too slow.
async fn connection(mut stream: TcpStream, view: &View) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = Vec::new();
    loop {
        let Ok(read) = timeout(PATIENCE, question(&mut stream, &mut buffer)).await else { return Ok(()) };
        if !read? {
            return Ok(());
        }
        let Some(answer) = view.respond(&buffer, Carrier::Tcp) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let framed = [length.to_be_bytes().as_slice(), &answer].concat();
        let Ok(written) = timeout(PATIENCE, stream.write_all(&framed)).await else { return Ok(()) };
        written?;
    }
}

/// Reads one message; false at the end of the connection.
async fn question(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<bool> {
    let length = match stream.read_u16().await {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    };
    buffer.resize(length.into(), 0);
    stream.read_exact(buffer).await?;
    Ok(true)
}

/// What answers are made of.
#[derive(Debug, Clone)]
struct View(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    catalog: Catalog,
    watches: Watches,
    zone: Zone,
    metrics: DnsMetrics,
}

impl View {
    fn respond(&self, packet: &[u8], carrier: Carrier) -> Option<Vec<u8>> {
        let answered = wire::respond(packet, carrier, |query, most| self.resolve(query, most));
        self.0.metrics.answered(answered.as_ref().map(|it| (it.kind, it.code)));
        let answered = answered?;
        if answered.truncated {
            self.0.metrics.truncated.inc();
        }
        Some(answered.bytes)
    }

    fn resolve(&self, query: &Query, most: usize) -> Option<Reply> {
        let Inner { catalog, watches, zone, .. } = &*self.0;
        let asked = names::read(query.name())?;
        if zone.ttl > 0
            && let Some(service) = answer::service_asked(&catalog.published(), &asked)
        {
            // Said before the snapshot is loaded: a drain that this answer does not know of is told of it.
            watches.told(VIEW, &service, Instant::now() + Duration::from_secs(zone.ttl.into()));
        }
        let question = Question { name: query.name(), kind: query.query_type(), most };
        Some(answer::answer(&catalog.published(), *zone, &asked, question))
    }
}

#[cfg(test)]
mod tests;
