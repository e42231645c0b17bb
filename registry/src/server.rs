//! The gRPC server of the registry: connections, services, how they end.
//!
//! Lives here: accepting, TLS, HTTP/2 settings, the list of services. Does not: what a service does (`sources`, `views`, `ca`).
//! With an identity the listener speaks TLS only; a caller without a certificate may come in and is anonymous, for how else would it get one.
//! Each request carries its [`Caller`]. A caller that is revoked, or whose certificate runs out, while connected is dropped: one that renewed has long come back
//! with its new certificate.
//! A watcher that vanished without a word is noticed by HTTP/2 pings within 15 s. On drain every stream is told, connections get GOAWAY and
//! two seconds to end; then they are dropped.

use std::{convert::Infallible, time::Duration};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{server::NamedService, service::Routes};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneService};
use weft_identity::{Callers, Identity, Peer, Refusal, Trust};
use weft_proto::{
    descriptors,
    weft::{
        discovery::v1::discovery_server::DiscoveryServer,
        policy::v1::policies_server::PoliciesServer,
        registry::v1::{identity_server::IdentityServer, registry_server::RegistryServer},
    },
};
use weft_reflection::{Health, Reflection};
use weft_runtime::Shutdown;

use crate::{
    ca::{self, Ca, kubernetes::Reviewer},
    catalog::Catalog,
    checks::Heard,
    metrics::IdentityMetrics,
    policy, sources, views,
    views::watch::Watches,
};

/// How often an idle connection is asked whether it lives, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connections may take to end once told.
const LEAVE: Duration = Duration::from_secs(2);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Rule under which a caller's refusal of us is counted.
const REFUSED_BY_CALLER: &str = "refused_by_caller";
/// Largest request: a descriptor set of a very large API.
const MAX_REQUEST: usize = 32 << 20;

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
    metrics: IdentityMetrics,
}

impl Server {
    pub(crate) fn new(
        catalog: &Catalog,
        watches: &Watches,
        heard: Heard,
        authority: Option<Authority>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Self> {
        let streams = TaskTracker::new();
        let registry = sources::grpc::Registry {
            catalog: catalog.clone(),
            watches: watches.clone(),
            heard,
            streams: streams.clone(),
            shutdown: shutdown.clone(),
        };
        let discovery = views::grpc::Discovery {
            catalog: catalog.clone(),
            watches: watches.clone(),
            streams: streams.clone(),
            shutdown: shutdown.clone(),
        };
        let mut names = vec![
            RegistryServer::<sources::grpc::Registry>::NAME,
            DiscoveryServer::<views::grpc::Discovery>::NAME,
            PoliciesServer::<policy::grpc::Policies>::NAME,
        ];
        // what the registry offers, and nothing of the mesh behind it
        let mut sets = vec![descriptors::REGISTRY, descriptors::DISCOVERY, descriptors::POLICY];
        let mut routes = Routes::new(RegistryServer::new(registry).max_decoding_message_size(MAX_REQUEST))
            .add_service(DiscoveryServer::new(discovery));
        let (mut door, mut operators) = (None, None);
        if let Some(Authority { ca, identity, kubernetes, metrics }) = authority {
            let trust = identity.trust().clone();
            door = Some(Door { identity, metrics: metrics.clone() });
            let (streams, shutdown) = (streams.clone(), shutdown.clone());
            let service = ca::grpc::Identity { ca, trust, kubernetes, metrics, streams, shutdown };
            operators = Some(service.clone());
            names.push(IdentityServer::<ca::grpc::Identity>::NAME);
            sets.push(descriptors::IDENTITY);
            routes = routes.add_service(IdentityServer::new(service));
        }
        let policies = policy::grpc::Policies { catalog: catalog.clone(), operators };
        let routes = routes.add_service(PoliciesServer::new(policies));
        let leaving = CancellationToken::new();
        let reflection = Reflection::new(&sets, &names, leaving.clone())?;
        let routes = routes
            .add_service(Health::new(&names, leaving.clone()).server())
            .add_service(reflection.v1())
            .add_service(reflection.v1alpha())
            .prepare();
        Ok(Self { routes, streams, leaving, door })
    }

    /// Serves until drained; every stream and connection has ended when it returns.
    pub(crate) async fn run(self, listener: TcpListener, shutdown: Shutdown) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.draining() => break,
                Some(ended) = connections.join_next() => drop(ended), // a panic costs one connection and was reported by its hook
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        drop(connections.spawn(serve_tcp(stream, self.door.clone(), self.routes.clone(), shutdown.clone())));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: spinning would not free one
                    }
                },
            }
        }
        self.leaving.cancel();
        self.streams.close();
        let told = async {
            self.streams.wait().await;
            while connections.join_next().await.is_some() {}
        };
        tokio::select! {
            () = told => {}
            () = tokio::time::sleep(LEAVE) => tracing::debug!("dropping connections that did not end"),
            () = shutdown.aborting() => {}
        }
        connections.shutdown().await;
    }
}

async fn serve_tcp(stream: TcpStream, door: Option<Door>, routes: Routes, shutdown: Shutdown) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "connection gone before it was served");
        return;
    }
    match door {
        None => serve(stream, routes, shutdown).await,
        Some(door) => serve_tls(stream, &door, routes, shutdown).await,
    }
}

async fn serve_tls(stream: TcpStream, door: &Door, routes: Routes, shutdown: Shutdown) {
    let from = stream.peer_addr().ok();
    let acceptor = TlsAcceptor::from(door.identity.server_config(Callers::MayShow));
    let accepted = tokio::select! {
        accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => accepted,
        () = shutdown.draining() => return,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => match Refusal::of(&error) {
            Some(refusal) => return door.refused(from, &refusal),
            None => return door.turned_away(from, &error),
        },
        Err(_) => return tracing::debug!(?from, "TLS handshake took too long"),
    };
    let caller = match door.identity.accepted(stream.get_ref().1) {
        Ok(None) => Caller::Anonymous,
        Ok(Some(peer)) => Caller::Known(peer),
        Err(refusal) => return door.refused(from, &refusal),
    };
    let welcome = welcome(door.identity.trust().clone(), caller.clone());
    let told = tokio::select! {
        refusal = welcome => refusal,
        () = serve_as(stream, with_caller(routes, caller, door.metrics.clone()), shutdown) => return,
    };
    door.refused(from, &told);
}

impl Door {
    /// A handshake that failed, and not because of the caller's certificate. If it was the caller who refused us, because we are not the
    /// registry its token names, an operator wants to know.
    fn turned_away(&self, from: Option<std::net::SocketAddr>, error: &std::io::Error) {
        match Refusal::by_peer(error) {
            Some(alert) => {
                self.metrics.refused(REFUSED_BY_CALLER);
                tracing::warn!(
                    rule = REFUSED_BY_CALLER,
                    alert,
                    ?from,
                    "a caller does not believe that this is its registry"
                );
            }
            None => tracing::debug!(%error, ?from, "TLS handshake failed"),
        }
    }

    fn refused(&self, from: Option<std::net::SocketAddr>, refusal: &Refusal) {
        self.metrics.refused(refusal.rule());
        tracing::warn!(rule = refusal.rule(), ?from, %refusal, "caller refused");
    }
}

/// Waits until the caller is no longer welcome.
async fn welcome(trust: Trust, caller: Caller) -> Refusal {
    match caller {
        Caller::Anonymous => std::future::pending().await,
        Caller::Known(peer) => trust.refuses(&peer).await,
    }
}

/// What a connection is served with.
type Stack = BoxCloneService<http::Request<Incoming>, http::Response<tonic::body::Body>, Infallible>;

fn with_caller(routes: Routes, caller: Caller, metrics: IdentityMetrics) -> Stack {
    let mark = move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(caller.clone());
        request.extensions_mut().insert(metrics.clone());
        request
    };
    ServiceBuilder::new().map_request(mark).service(routes).boxed_clone()
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Routes, shutdown: Shutdown) {
    serve_as(stream, routes.boxed_clone(), shutdown).await;
}

async fn serve_as(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, stack: Stack, shutdown: Shutdown) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(stack));
    let mut connection = std::pin::pin!(connection);
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
