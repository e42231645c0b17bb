//! The stack towards the one app beside a sidecar.
//!
//! Lives here: the order of its layers, and asking whether the caller may. Does not: the rules (`access`), accepting calls, turning an error into REFUSED_STREAM (sidecar, by [`Error::refusal`]).
//! Never sends again what the app may have seen: the caller knows whether that is safe, and has other endpoints.

use std::{fmt, net::SocketAddr, sync::Arc};

use http::{Request, Response, request::Parts};
use tokio::time::Instant;
use tower::ServiceBuilder;
use weft_model::{Caller, Endpoint, Protocol, ServiceName, Transport};

use crate::{
    Body, CallOptions, Error, Pool, Root, SpanSink, Worlds,
    access::{Gate, Ground},
    answer::Answer,
    attempt::Sender,
    cluster::{Cluster, Hope, Member, Shared},
    deadline::Deadline,
    endpoint::{self, Key},
    head,
    retry::{Policy, Retry},
    select::Select,
    stage::{Called, Came, Route, Stage},
    telemetry::{Side, Telemetry},
    trace::TraceContext,
    world::World,
};

type Stack = ToCluster<Telemetry<Deadline<Select<Retry>>>>;

fn to_app(cluster: Arc<Cluster>, worlds: &Worlds, tracing: &Tracing, pool: Pool) -> Stack {
    let sender = Sender::new(pool, worlds.clock());
    let policy = Policy::App { worlds: worlds.clone() };
    ServiceBuilder::new()
        .layer(tower::layer::layer_fn(|inner| ToCluster { inner, cluster: cluster.clone(), worlds: worlds.clone() })) // outermost: the one load of the world gives facts, handles and whether the caller may
        .layer(Telemetry::layer(Side::Server, tracing.root, tracing.spans.clone())) // above all that fails
        .layer(Deadline::layer()) // the caller's, shrunk by its hop
        .layer(Select::layer(worlds.clone(), std::time::Duration::ZERO)) // counts the call; there is nothing to wait for
        .service(Retry::new(sender, policy)) // only for what came back from a connection on its way out
}

/// How calls to the app are traced.
#[derive(Debug, Clone)]
pub struct Tracing {
    /// How traces begin that no caller began: a stock client's call begins here.
    pub root: Root,
    /// Where spans of sampled calls go.
    pub spans: SpanSink,
}

impl Default for Tracing {
    /// No trace begins here, and no span is made.
    fn default() -> Self {
        Self { root: Root::NEVER, spans: SpanSink::off() }
    }
}

/// Every call goes to the one cluster, whatever it names, if its caller may. A refusal is a route to nowhere, so that the layers below count it.
/// Who calls says the [`Caller`] among the request's extensions, set by the listener; without one nobody proved to be anybody.
struct ToCluster<S> {
    inner: S,
    cluster: Arc<Cluster>,
    worlds: Worlds,
}

impl<S: Stage<Called>> Stage<Came> for ToCluster<S> {
    async fn call(&self, Came { request, options }: Came) -> Result<Response<Answer>, Error> {
        let (head, body) = request.into_parts();
        let (method, allowed) = {
            let world = self.worlds.borrow();
            (world.routes().method(head.uri.path()).clone(), self.judge(&world, &head, options.received))
        };
        let named = || self.cluster.name().to_string().parse().expect("a service name is made of DNS labels");
        let authority = head::authority(&head).unwrap_or_else(named);
        let route = match allowed {
            Ok(()) => Route::To { cluster: self.cluster.clone(), rules: None, authority }, // it has been where rules could send it
            Err(refused) => Route::Nowhere(refused),
        };
        self.inner.call(Called { head, body, options, method, route, deadline: None, trace: None }).await
    }
}

impl<S> ToCluster<S> {
    fn judge(&self, world: &World, head: &Parts, received: Instant) -> Result<(), Error> {
        let rules = match world.gate() {
            Gate::Open => return Ok(()),
            Gate::Unknown => return Err(Error::RulesUnknown { service: self.cluster.name().clone() }),
            Gate::Rules(rules) => rules,
        };
        let (caller, path) = (head.extensions.get().unwrap_or(&Caller::Anonymous), head.uri.path());
        let refused = |ground: &Ground| {
            let trace = TraceContext::from_headers(&head.headers);
            ground.refuse(caller, path, trace, self.worlds.clock().at(received))
        };
        rules.judge(caller, path).map_err(|ground| Error::Denied(Box::new(refused(ground))))
    }
}

/// Sends calls to the one app beside this process. Cheap to clone.
#[derive(Clone)]
pub struct ToApp {
    stack: Arc<Stack>,
    tracing: Tracing,
}

impl ToApp {
    /// Calls go to `app` (h2c), if the access rules that `worlds` [guard](Worlds::guard) let their callers. `service` names it in errors and metrics; `worlds`
    /// tells its methods, for metrics. One per process: data threads differ in their
    /// pools only, so give each its own by [`ToApp::on`].
    pub fn new(service: ServiceName, app: SocketAddr, worlds: Worlds, tracing: Tracing, pool: Pool) -> Self {
        let endpoint = Endpoint { address: app, transport: Transport::Plaintext, protocol: Protocol::H2 };
        let key = Key { instance: None, endpoint };
        let clock = worlds.clock();
        let shared = Shared::new(service.clone(), worlds.metrics().cluster(&service.to_string()), clock.now());
        let member = Member { endpoint: Arc::new(endpoint::Endpoint::new(key, clock)), weight: 1.0 };
        let (members, shared) = ([member].into(), Arc::new(shared));
        let cluster = Cluster { members, shared, hope: Hope::None, empty_since: None, parts: None, rules: None };
        Self { stack: Arc::new(to_app(Arc::new(cluster), &worlds, &tracing, pool)), tracing }
    }

    /// The same app over another thread's pool.
    pub fn on(&self, pool: Pool) -> Self {
        let stack = to_app(self.stack.cluster.clone(), &self.stack.worlds, &self.tracing, pool);
        Self { stack: Arc::new(stack), tracing: self.tracing.clone() }
    }

    /// Forwards a call. On an error, answer [`Error::refusal`] if there is one (nothing reached the app, so any caller may send the call again), else
    /// [`Error::to_response`].
    pub async fn call_with(&self, request: Request<Body>, options: CallOptions) -> Result<Response<Body>, Error> {
        let response = self.stack.call(Came { request, options }).await?;
        Ok(response.map(Body::from))
    }
}

impl fmt::Debug for ToApp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToApp").field("service", self.stack.cluster.name()).finish_non_exhaustive()
    }
}
