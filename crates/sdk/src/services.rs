//! What a process serves: the author's services beside health and reflection, on one listener, until a shutdown.
//!
//! Lives here: composing the server, what health follows, the graceful end. Does not: where the listener comes from (`process`).
//! The end: no new connection, health says NOT_SERVING, GOAWAY, calls in flight finish (at most 30 s, or until aborted).

use std::convert::Infallible;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all, select_all};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::{Routes, RoutesBuilder};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower::Service;
use weft_reflection::{BadDescriptors, Health, Reflection};
use weft_runtime::Shutdown;
use weft_runtime::admin::Readiness;

use crate::guard::GuardLayer;

/// How long calls in flight may take after the shutdown began.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// Flow control: what a peer may send ahead, for one stream and for a connection. The larger window also bounds how many small DATA
/// frames h2 takes before it suspects an attack.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// The services of a process.
pub struct Services {
    descriptor_set: &'static [u8],
    routes: RoutesBuilder,
    names: Vec<&'static str>,
    exports_spans: bool,
    needs: Vec<Need>,
}

/// Something beyond the process that its services cannot do without.
struct Need {
    there: Readiness,
    kept: BoxFuture<'static, anyhow::Result<()>>,
}

/// Why serving ended, other than by a shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The descriptor set does not describe what is served: a mistake of the build.
    #[error("the descriptor set is unusable")]
    Descriptors(#[from] BadDescriptors),
    /// The server failed.
    #[error("the server failed")]
    Transport(#[from] tonic::transport::Error),
    /// What the services cannot do without is not to be had, and waiting would not help.
    #[error("the services cannot go on")]
    Need(#[source] anyhow::Error),
}

impl Services {
    /// Starts with the encoded `FileDescriptorSet` of all services that will be added, imports included. It is served byte by byte,
    /// so that options such as `google.api.http` arrive.
    pub fn new(descriptor_set: &'static [u8]) -> Self {
        Services {
            descriptor_set,
            routes: Routes::builder(),
            names: Vec::new(),
            exports_spans: false,
            needs: Vec::new(),
        }
    }

    /// Adds a tonic service.
    pub fn with<S>(mut self, service: S) -> Self
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
        S: NamedService + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        self.names.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Says whether sampled calls have spans: whether the process exports them.
    pub(crate) fn exports_spans(self, exports_spans: bool) -> Self {
        Services { exports_spans, ..self }
    }

    /// Adds something that the services cannot do without, such as a database that is another process. `kept` runs while they are served
    /// and says by `there` how it is; as long as that is not ready, health says NOT_SERVING, so that callers turn to other instances.
    /// An error of `kept` ends the serving.
    #[must_use]
    pub fn need(mut self, there: Readiness, kept: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> Self {
        self.needs.push(Need { there, kept: Box::pin(kept) });
        self
    }

    /// Serves on `listener` until `shutdown` drains, then finishes what is in flight.
    ///
    /// # Errors
    /// A descriptor set that does not fit, before anything is served; a failure of the server, or of something it needs.
    pub async fn run(mut self, listener: TcpListener, shutdown: Shutdown) -> Result<(), ServeError> {
        let leaving = CancellationToken::new();
        let reflection = Reflection::new(&[self.descriptor_set], &self.names, leaving.clone())?;
        self.routes.add_service(reflection.v1());
        self.routes.add_service(reflection.v1alpha());
        let health = Health::new(&self.names, leaving.clone());
        self.routes.add_service(health.server());
        let mut needs = keep(self.needs, health);
        let server = Server::builder()
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .layer(GuardLayer { exports: self.exports_spans.then(|| self.names.as_slice().into()) })
            .add_routes(self.routes.routes().prepare())
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                leave(shutdown.clone(), leaving),
            );
        tokio::select! {
            served = server => Ok(served?),
            error = failed(&mut needs) => Err(ServeError::Need(error)),
            () = end_of_patience(&shutdown) => {
                tracing::warn!("calls were still in flight at the end");
                Ok(())
            }
        }
    }
}

/// Starts what keeps the needs, and lets health follow them: well while all are there.
fn keep(needs: Vec<Need>, health: Health) -> JoinSet<anyhow::Result<()>> {
    let mut parts = JoinSet::new();
    let mut there = Vec::new();
    for need in needs {
        parts.spawn(need.kept);
        there.push(need.there);
    }
    if !there.is_empty() {
        if let Some(reason) = there.iter().find_map(|need| need.load().err()) {
            unwell(&health, reason); // before the first caller can ask
        }
        parts.spawn(follow(there, health));
    }
    parts
}

async fn follow(there: Vec<Readiness>, health: Health) -> anyhow::Result<()> {
    loop {
        join_all(there.iter().map(Readiness::until_ready)).await;
        if there.iter().all(|need| need.load().is_ok()) {
            tracing::info!("all that the services need is there");
            health.well();
        }
        let lost = there.iter().map(|need| Box::pin(need.until_not_ready()));
        let (reason, ..) = select_all(lost).await;
        unwell(&health, reason);
    }
}

fn unwell(health: &Health, reason: String) {
    tracing::warn!(reason, "the services cannot work; health says NOT_SERVING until they can");
    health.unwell(reason);
}

/// Waits until one of the parts fails; one that ends well has nothing left to do.
async fn failed(parts: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Error {
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(error) => return error.into(),
        }
    }
    std::future::pending().await
}

async fn end_of_patience(shutdown: &Shutdown) {
    shutdown.draining().await;
    // No answer from either side of this wait means anything else than: enough.
    let _ = tokio::time::timeout(DRAIN_LIMIT, shutdown.aborting()).await;
}

/// Tells watchers, too: their streams would hold the end.
async fn leave(shutdown: Shutdown, leaving: CancellationToken) {
    shutdown.draining().await;
    leaving.cancel();
}
