//! The outbound stack: the same in gateway, sidecar and SDK.
//!
//! Lives here: the order of the layers, and the service that hides it. Does not: any layer, the stack towards an app (`to_app`).

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use tokio::time::Instant;
use tower::ServiceBuilder;
use weft_model::{InstanceId, ServiceName};

use crate::{
    Body, Error, Pool, Root, SpanSink, Worlds,
    attempt::Sender,
    deadline::Deadline,
    limit::Limit,
    resolve::Resolve,
    retry::{Policy, Retry},
    select::Select,
    stage::{Came, Stage as _},
    telemetry::{Side, Telemetry},
};

/// What the stack does with calls. The default fits proxies and SDK.
#[derive(Debug, Clone)]
pub struct OutboundConfig {
    /// How traces begin that no caller began. Default: ratio 0.01.
    pub root: Root,
    /// Where spans of sampled calls go. Default: nowhere, and none is made.
    pub spans: SpanSink,
    /// Longest wait for an endpoint of a service that is known but not (yet) there, or that cannot be reached. Default 5 s.
    pub patience: Duration,
    /// Calls in flight per `Outbound` and its clones before new ones get RESOURCE_EXHAUSTED. Default 65,536.
    pub max_in_flight: usize,
}

impl Default for OutboundConfig {
    fn default() -> Self {
        Self { root: Root::default(), spans: SpanSink::off(), patience: Duration::from_secs(5), max_in_flight: 65_536 }
    }
}

/// What a caller knows of one call besides its head.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// When HEADERS was complete; the deadline counts from here. Default: now.
    pub received: Instant,
    /// A limit besides the caller's `grpc-timeout`, as REST routes have; the shorter wins. Default: none.
    pub timeout: Option<Duration>,
    /// Service to call whatever `:authority` and path say. Default: route by them.
    pub service: Option<ServiceName>,
    /// The one instance that may answer; for probes. One that is not there, or cannot be reached, fails the call at once. Default: whichever is best.
    pub instance: Option<InstanceId>,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { received: Instant::now(), timeout: None, service: None, instance: None }
    }
}

type Stack = Resolve<Telemetry<Limit<Deadline<Select<Retry>>>>>;

fn outbound(config: &OutboundConfig, worlds: &Worlds, pool: Pool) -> Stack {
    let sender = Sender::new(pool, worlds.clock());
    let policy = Policy::Mesh { worlds: worlds.clone() };
    ServiceBuilder::new()
        .layer(Resolve::layer(worlds.clone())) // outermost: the one load of the world gives all below their facts and handles; it refuses nothing
        .layer(Telemetry::layer(Side::Client, config.root, config.spans.clone())) // above all that refuses or fails, so that it is counted
        .layer(Limit::layer(config.max_in_flight)) // a full limit answers at once: nothing waits up here
        .layer(Deadline::layer()) // above all that waits or retries: one budget of time, counted from the end of HEADERS
        .layer(Select::layer(worlds.clone(), config.patience)) // may wait for endpoints; from here on there are some
        .service(Retry::new(sender, policy)) // above the pick: every attempt picks afresh; then this thread's connections
}

/// Calls services of the mesh: route → deadline → retry → balance → connection. Cheap to clone; clones share limits and connections.
#[derive(Clone)]
pub struct Outbound {
    stack: Arc<Stack>,
}

impl Outbound {
    /// Builds the stack over a process's worlds and a thread's pool.
    pub fn new(config: OutboundConfig, worlds: Worlds, pool: Pool) -> Self {
        Self { stack: Arc::new(outbound(&config, &worlds, pool)) }
    }

    /// Sends a call and returns upstream's answer, whatever its status; an error means that there is none. Dropping the future, or later the answer's body,
    /// resets the upstream stream.
    ///
    /// The authority may be in the URI or in `host`. An answer that breaks off after its headers ends, for gRPC, with trailers that say so.
    pub async fn call(&self, request: Request<Body>) -> Result<Response<Body>, Error> {
        self.call_with(request, CallOptions::default()).await
    }

    /// As [`Outbound::call`], with what the caller knows besides the head.
    pub async fn call_with(&self, request: Request<Body>, options: CallOptions) -> Result<Response<Body>, Error> {
        let response = self.stack.call(Came { request, options }).await?;
        Ok(response.map(Body::from))
    }

    /// Calls in flight now, bodies of answers included.
    pub fn in_flight(&self) -> usize {
        self.stack.inner().inner().in_flight()
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outbound").field("in_flight", &self.in_flight()).finish_non_exhaustive()
    }
}

/// For clients that want a tower service (tonic's generated ones). Always ready: what waits, waits inside the call. Costs one box a call.
impl tower::Service<Request<Body>> for Outbound {
    type Response = Response<Body>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let it = self.clone();
        Box::pin(async move { Self::call(&it, request).await })
    }
}
