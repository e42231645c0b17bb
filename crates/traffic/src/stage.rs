//! What the layers of the stack hand to each other.
//!
//! Lives here: the one trait all of them have, and the request at each height: facts are fields of the type, set by exactly one layer, so that a missing one does
//! not compile. Does not: any layer.
//! Why not `tower::Service`: its futures have to be named or boxed; these are plain `async fn`s, and the stack costs the one box at its seam (`stack`).

use std::{future::Future, sync::Arc};

use http::{Request, Response, request::Parts, uri::Authority};
use tokio::time::Instant;
use weft_model::{InstanceId, RetryRule, ServiceName};

use crate::{
    Body, CallOptions, Error,
    answer::Answer,
    cluster::Cluster,
    span::CallTrace,
    world::{routes::Method, rules::Rules},
};

/// A layer, or what it stands on.
pub(crate) trait Stage<R>: Send + Sync {
    fn call(&self, request: R) -> impl Future<Output = Result<Response<Answer>, Error>> + Send;
}

/// As it came.
pub(crate) struct Came {
    pub(crate) request: Request<Body>,
    pub(crate) options: CallOptions,
}

/// Its method and route are looked up (`resolve`).
pub(crate) struct Called {
    pub(crate) head: Parts,
    pub(crate) body: Body,
    pub(crate) options: CallOptions,
    pub(crate) method: Arc<Method>,
    pub(crate) route: Route,
    /// Set by `deadline`.
    pub(crate) deadline: Option<Instant>,
    /// Set by `telemetry`, if attempts are to have spans.
    pub(crate) trace: Option<Arc<CallTrace>>,
}

/// Where a call leads, in the world it was resolved in.
pub(crate) enum Route {
    /// To a cluster, perhaps one without endpoints, unless the rules send it elsewhere.
    To { cluster: Arc<Cluster>, rules: Option<Arc<Rules>>, authority: Authority },
    /// To a service of the directory whose endpoints are not known.
    Unsubscribed { service: ServiceName, authority: Authority },
    /// Nowhere.
    Nowhere(Error),
}

/// Its cluster is known and has endpoints (`select`).
pub(crate) struct Selected {
    pub(crate) head: Parts,
    pub(crate) body: Body,
    pub(crate) method: Arc<Method>,
    pub(crate) authority: Authority,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) deadline: Option<Instant>,
    /// For the spans of attempts; none in unsampled calls.
    pub(crate) trace: Option<Arc<CallTrace>>,
    /// The cluster was narrowed to this instance; no other may take its place.
    pub(crate) pinned: Option<InstanceId>,
    /// How often a policy says that it is tried; none: as its method allows.
    pub(crate) retry: Option<Arc<RetryRule>>,
    /// End of the patience with endpoints that are not there; one for all waits of a call.
    pub(crate) give_up: Instant,
}
