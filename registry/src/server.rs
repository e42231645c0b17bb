//! The gRPC server of the registry: connections, services, how they end.
//!
//! Lives here: accepting, TLS, HTTP/2 settings, the list of services. Does not: what a service does (`sources`, `views`, `ca`).
//! With an identity the listener speaks TLS only; a caller without a certificate may come in and is anonymous, for how else would it get one.
//! Each request carries its [`Caller`], and passes the `gate` before anything of it is read. A caller that is revoked, or whose certificate runs out, while connected is dropped: one that renewed has long come back
//! with its new certificate.
//! A watcher that vanished without a word is noticed by HTTP/2 pings within 15 s. On drain every stream is told, connections get GOAWAY and
//! two seconds to end; then they are dropped.

use std::{fmt::Display, net::SocketAddr, num::NonZeroUsize, pin::pin, time::Duration};

use anyhow::Context as _;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::ClientStatusDiscoveryServiceServer;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{server::NamedService, service::Routes};
use tower::ServiceExt;
use weft_identity::{Callers, Identity, Peer, Refusal, Trust};
use weft_proto::{
    descriptors,
    weft::{
        policy::v1::policies_server::PoliciesServer,
        registry::v1::{identity_server::IdentityServer, registry_server::RegistryServer},
    },
};
use weft_reflection::{Health, Reflection};
use weft_runtime::{
    Shutdown,
    linger::lingering,
    strangers::{Crowd, Member},
    threads::{Connection, DataThreads, Load},
};

use crate::{
    ca::{self, Ca, kubernetes::Reviewer},
    catalog::Catalog,
    checks::Heard,
    drains::Drains,
    metrics::IdentityMetrics,
    policy,
    refusals::Refusals,
    server::{
        carried::counted,
        gate::{Gate, Stack},
    },
    sources, views,
    views::watch::Watches,
    views::xds::{Ads, Csds, Xds},
};

mod carried;
mod gate;

/// How often an idle connection is asked whether it lives, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connections may take to end once told.
const LEAVE: Duration = Duration::from_secs(2);
/// Threads that carry connections, at most: what they tell comes out of one catalog, and more would wait for each other.
const THREADS: NonZeroUsize = NonZeroUsize::new(4).expect("is not zero");
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Rule under which a caller's refusal of us is counted.
const REFUSED_BY_CALLER: &str = "refused_by_caller";
/// Rule by which the oldest stranger makes room.
const CROWDED: &str = "crowded";
const TOO_MANY: &str = "too many connections without a certificate";
/// Largest request: a descriptor set of a very large API.
const MAX_REQUEST: usize = 8 << 20;
/// Largest request of the services that anybody may ask: a token and a public key.
const MAX_OPEN_REQUEST: usize = 64 << 10;
/// Connections that have proved nothing, handshakes included; one more displaces the oldest. Whoever joins needs one for a moment.
const STRANGERS: usize = 512;
/// Calls of one connection at a time, and bytes of them that wait for being read: of members, of strangers.
const STREAMS: u32 = 1_024;
const WINDOW: u32 = 1 << 20;
const STREAMS_OF_STRANGERS: u32 = 16;
const WINDOW_OF_STRANGERS: u32 = 64 << 10;

/// Who sent a request, as its connection proved; an extension of every request that came by TLS.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// It showed no certificate.
    Anonymous,
    /// It proved to be this peer.
    Known(Peer),
}

/// A server before it runs.
#[derive(Debug)]
pub(crate) struct Server {
    routes: Routes,
    streams: TaskTracker,
    leaving: CancellationToken,
    door: Option<Door>,
}

/// What is behind the services.
#[derive(Debug)]
pub(crate) struct Rooms<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) watches: &'a Watches,
    pub(crate) xds: &'a Xds,
    pub(crate) drains: Drains,
    pub(crate) heard: Heard,
}

/// What a registry that is an authority serves with.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) ca: Ca,
    pub(crate) identity: Identity,
    pub(crate) kubernetes: Option<Reviewer>,
    pub(crate) metrics: IdentityMetrics,
}

/// TLS in front of the services.
#[derive(Debug, Clone)]
struct Door {
    identity: Identity,
    ca: Ca,
    refusals: Refusals,
    strangers: Crowd,
}

impl Server {
    pub(crate) fn new(rooms: Rooms<'_>, authority: Option<Authority>, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let Rooms { catalog, watches, xds, drains, heard } = rooms;
        let streams = TaskTracker::new();
        let registry = sources::grpc::Registry {
            catalog: catalog.clone(),
            drains,
            heard,
            streams: streams.clone(),
            shutdown: shutdown.clone(),
        };
        let discovery = views::grpc::Discovery {
            catalog: catalog.clone(),
            watches: watches.clone(),
            xds: xds.clone(),
            streams: streams.clone(),
            shutdown: shutdown.clone(),
        };
        let csds = Csds { xds: xds.clone(), streams: streams.clone(), shutdown: shutdown.clone() };
        let mut names = vec![
            RegistryServer::<sources::grpc::Registry>::NAME,
            views::grpc::Served::NAME,
            PoliciesServer::<policy::grpc::Policies>::NAME,
        ];
        // what the registry offers, and nothing of the mesh behind it
        let mut sets = vec![descriptors::REGISTRY, descriptors::DISCOVERY, descriptors::POLICY];
        let mut routes = Routes::new(RegistryServer::new(registry).max_decoding_message_size(MAX_REQUEST))
            .add_service(views::grpc::Served::new(discovery))
            .add_service(Ads { xds: xds.clone(), streams: streams.clone(), shutdown: shutdown.clone() })
            .add_service(ClientStatusDiscoveryServiceServer::new(csds));
        let (mut door, mut operators) = (None, None);
        if let Some(Authority { ca, identity, kubernetes, metrics }) = authority {
            let trust = identity.trust().clone();
            let refusals = Refusals::new(metrics.clone());
            let strangers = Crowd::of(STRANGERS);
            door = Some(Door { identity, ca: ca.clone(), refusals: refusals.clone(), strangers });
            let (streams, shutdown) = (streams.clone(), shutdown.clone());
            let service = ca::grpc::Identity { ca, trust, kubernetes, metrics, refusals, streams, shutdown };
            operators = Some(service.clone());
            names.push(IdentityServer::<ca::grpc::Identity>::NAME);
            sets.push(descriptors::IDENTITY);
            routes = routes.add_service(IdentityServer::new(service).max_decoding_message_size(MAX_OPEN_REQUEST));
        }
        let policies = policy::grpc::Policies { catalog: catalog.clone(), operators };
        let routes = routes.add_service(PoliciesServer::new(policies));
        let leaving = CancellationToken::new();
        let reflection = Reflection::new(&sets, &names, leaving.clone())?;
        // xDS is described by its own project, which nobody asks a server for.
        names.extend([Ads::NAME, ClientStatusDiscoveryServiceServer::<Csds>::NAME]);
        let routes = routes
            .add_service(Health::new(&names, leaving.clone()).server().max_decoding_message_size(MAX_OPEN_REQUEST))
            .add_service(reflection.v1().max_decoding_message_size(MAX_OPEN_REQUEST))
            .add_service(reflection.v1alpha().max_decoding_message_size(MAX_OPEN_REQUEST))
            .prepare();
        Ok(Self { routes, streams, leaving, door })
    }

    /// Serves until drained; every stream and connection has ended when it returns. Fails if a thread that carries connections cannot start, or ends early.
    pub(crate) async fn run(self, listener: TcpListener, shutdown: Shutdown) -> anyhow::Result<()> {
        let Self { routes, streams, leaving, door } = self;
        let connections = shutdown.child();
        let _owned = Owned(connections.clone());
        let until = connections.clone();
        let build = move |_| {
            let (door, routes, until) = (door.clone(), routes.clone(), until.clone());
            move |connection: Connection| serve_tcp(connection, door.clone(), routes.clone(), until.clone())
        };
        let mut threads = DataThreads::start("grpc", threads(), &connections, build)
            .context("starting the threads that carry connections")?;
        let ended = loop {
            tokio::select! {
                () = shutdown.draining() => break Ok(()),
                ended = threads.ended() => break Err(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        let handed = tokio::select! {
                            handed = threads.hand_over(stream, from) => handed,
                            () = shutdown.draining() => break Ok(()), // a thread whose queue is full keeps nobody from leaving
                        };
                        if let Err(error) = handed {
                            tracing::debug!(%error, "connection gone before it was served");
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: spinning would not free one
                    }
                },
            }
        };
        leaving.cancel();
        streams.close();
        connections.drain();
        let mut told = pin!(async {
            streams.wait().await;
            threads.finish().await;
        });
        tokio::select! {
            () = &mut told => return Ok(ended?),
            () = tokio::time::sleep(LEAVE) => tracing::debug!("dropping connections that did not end"),
            () = shutdown.aborting() => {}
        }
        connections.abort();
        told.await;
        Ok(ended?)
    }
}

/// Ends the connections when it is dropped: their threads outlive a server that is dropped before it has ended, and would go on without it.
struct Owned(Shutdown);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// One for each core, up to [`THREADS`].
fn threads() -> NonZeroUsize {
    std::thread::available_parallelism().map_or(NonZeroUsize::MIN, |cores| cores.min(THREADS))
}

async fn serve_tcp(connection: Connection, door: Option<Door>, routes: Routes, shutdown: Shutdown) {
    match door {
        None => {
            let Connection { stream, downstream, load } = connection;
            let (stream, remains) = lingering(stream);
            serve(stream, Some(downstream), load, routes, shutdown).await;
            remains.close().await;
        }
        // Boxed, so that a connection without TLS has no room for one.
        Some(door) => Box::pin(serve_tls(connection, &door, routes, shutdown)).await,
    }
}

async fn serve_tls(connection: Connection, door: &Door, routes: Routes, shutdown: Shutdown) {
    let Connection { stream, downstream, load } = connection;
    let (from, (stream, remains)) = (Some(downstream), lingering(stream));
    let stranger = door.strangers.enter();
    let acceptor = TlsAcceptor::from(door.identity.server_config(Callers::MayShow));
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => accepted,
        () = stranger.displaced() => return door.refused(from, CROWDED, &TOO_MANY),
        () = shutdown.draining() => return,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => match Refusal::of(&error) {
            Some(refusal) => return door.refused(from, refusal.rule(), &refusal),
            None => return door.turned_away(from, &error),
        },
        Err(_) => return tracing::debug!(?from, "TLS handshake took too long"),
    };
    let (caller, bounds) = match door.identity.accepted(stream.get_ref().1) {
        Ok(None) => (Caller::Anonymous, Bounds::STRANGER),
        Ok(Some(peer)) => (Caller::Known(peer), Bounds::MEMBER),
        Err(refusal) => return door.refused(from, refusal.rule(), &refusal),
    };
    let gate = Gate { caller: caller.clone(), refusals: door.refusals.clone(), ca: door.ca.clone() };
    let welcome = welcome(door.identity.trust().clone(), caller, stranger);
    let stack = told_whence(gate.before(routes), from);
    tokio::select! {
        (rule, why) = welcome => door.refused(from, rule, &why),
        () = serve_as(stream, stack, load, bounds, shutdown) => remains.close().await,
    }
}

impl Door {
    /// A handshake that failed, and not because of the caller's certificate. If it was the caller who refused us, because we are not the
    /// registry its token names, an operator wants to know.
    fn turned_away(&self, from: Option<SocketAddr>, error: &std::io::Error) {
        match Refusal::by_peer(error) {
            Some(alert) => {
                let why = format!("it does not believe that this is its registry: {alert}");
                self.refused(from, REFUSED_BY_CALLER, &why);
            }
            None => tracing::debug!(%error, ?from, "TLS handshake failed"),
        }
    }

    fn refused(&self, from: Option<SocketAddr>, rule: &'static str, why: &dyn Display) {
        self.refusals.note(rule, from, why);
    }
}

/// Waits until the caller is no longer welcome, and says by which rule. A stranger keeps its place among strangers as long as its connection.
async fn welcome(trust: Trust, caller: Caller, place: Member) -> (&'static str, String) {
    match caller {
        Caller::Anonymous => {
            place.displaced().await;
            (CROWDED, TOO_MANY.to_owned())
        }
        Caller::Known(peer) => {
            drop(place);
            let refusal = trust.refuses(&peer).await;
            (refusal.rule(), refusal.to_string())
        }
    }
}

/// What one connection may hold at a time.
#[derive(Clone, Copy)]
struct Bounds {
    streams: u32,
    /// Bytes that were received and not read yet.
    window: u32,
}

impl Bounds {
    const MEMBER: Self = Self { streams: STREAMS, window: WINDOW };
    const STRANGER: Self = Self { streams: STREAMS_OF_STRANGERS, window: WINDOW_OF_STRANGERS };
}

/// Where a request came from; an extension of every request whose connection knows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CallerAddr(pub(crate) SocketAddr);

fn told_whence(stack: Stack, from: Option<SocketAddr>) -> Stack {
    let mark = move |mut request: http::Request<hyper::body::Incoming>| {
        if let Some(from) = from {
            request.extensions_mut().insert(CallerAddr(from));
        }
        request
    };
    stack.map_request(mark).boxed_clone()
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: Option<SocketAddr>,
    load: Load,
    routes: Routes,
    shutdown: Shutdown,
) {
    serve_as(stream, told_whence(routes.boxed_clone(), from), load, Bounds::MEMBER, shutdown).await;
}

async fn serve_as(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    stack: Stack,
    load: Load,
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(bounds.streams)
        .initial_stream_window_size(bounds.window)
        .initial_connection_window_size(bounds.window)
        .serve_connection(TokioIo::new(stream), counted(TowerToHyperService::new(stack), load));
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

#[cfg(test)]
mod tests;
