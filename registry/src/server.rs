//! The gRPC server of the registry: connections, services, how they end.
//!
//! Lives here: accepting, HTTP/2 settings, the list of services. Does not: what a service does (`sources`, `views`).
//! A watcher that vanished without a word is noticed by HTTP/2 pings within 15 s. On drain every stream is told, connections get GOAWAY and
//! two seconds to end; then they are dropped.

use std::time::Duration;

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
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{server::NamedService, service::Routes};
use weft_proto::{
    descriptors,
    weft::{discovery::v1::discovery_server::DiscoveryServer, registry::v1::registry_server::RegistryServer},
};
use weft_reflection::{Health, Reflection};
use weft_runtime::Shutdown;

use crate::{catalog::Catalog, checks::Heard, sources, views, views::watch::Watches};

/// How often an idle connection is asked whether it lives, and how long it may take to answer.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long connections may take to end once told.
const LEAVE: Duration = Duration::from_secs(2);
/// Largest request: a descriptor set of a very large API.
const MAX_REQUEST: usize = 32 << 20;

/// A server before it runs.
#[derive(Debug)]
pub(crate) struct Server {
    routes: Routes,
    streams: TaskTracker,
    leaving: CancellationToken,
}

impl Server {
    pub(crate) fn new(catalog: &Catalog, watches: &Watches, heard: Heard, shutdown: &Shutdown) -> anyhow::Result<Self> {
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
        let names = [RegistryServer::<sources::grpc::Registry>::NAME, DiscoveryServer::<views::grpc::Discovery>::NAME];
        let leaving = CancellationToken::new();
        // what the registry offers, and nothing of the mesh behind it
        let sets = [descriptors::REGISTRY, descriptors::DISCOVERY];
        let reflection = Reflection::new(&sets, &names, leaving.clone())?;
        let routes = Routes::new(RegistryServer::new(registry).max_decoding_message_size(MAX_REQUEST))
            .add_service(DiscoveryServer::new(discovery))
            .add_service(Health::new(&names, leaving.clone()).server())
            .add_service(reflection.v1())
            .add_service(reflection.v1alpha())
            .prepare();
        Ok(Self { routes, streams, leaving })
    }

    /// Serves until drained; every stream and connection has ended when it returns.
    pub(crate) async fn run(self, listener: TcpListener, shutdown: Shutdown) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = shutdown.draining() => break,
                Some(ended) = connections.join_next() => drop(ended), // a panic costs one connection and was reported by its hook
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(connections.spawn(serve_tcp(stream, self.routes.clone(), shutdown.clone()))),
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

async fn serve_tcp(stream: TcpStream, routes: Routes, shutdown: Shutdown) {
    match stream.set_nodelay(true) {
        Ok(()) => serve(stream, routes, shutdown).await,
        Err(error) => tracing::debug!(%error, "connection gone before it was served"),
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, routes: Routes, shutdown: Shutdown) {
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(1024)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
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
