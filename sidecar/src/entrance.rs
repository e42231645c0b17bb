//! The way into the mesh: shut until the sidecar is somebody, then open for good.
//!
//! Lives here: asking for the identity, what callers of either side are told meanwhile. Does not: keeping the identity fresh (`weft-discovery`), who of
//! the callers comes in (`door`).
//! ```text
//! Shut --identity, or none needed--> Open        callers wait in the kernel for it, at most 5 s (`outbound::first_world`); then
//!   └──refused, or nobody answered for a minute──► the process ends        the app's calls get UNAVAILABLE, calls to the app are turned away
//! ```
//! Calls to the app are of callers that knew the address from before: no registry lists it while the entrance is shut.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use http::Response;
use tokio::sync::SetOnce;
use tonic::Status;
use weft_discovery::{Credential, IdentityTask, enter};
use weft_identity::Identity;
use weft_model::ServiceName;
use weft_runtime::admin::Readiness;
use weft_traffic::{Body, Dialect, Outbound};

use crate::door::Door;
use crate::relay::Relay;

/// How long a registry may take to give an identity; then the process ends, and whoever started it decides.
const JOIN: Duration = Duration::from_secs(60);

/// What needs to know who the sidecar is.
pub(crate) struct Open {
    pub(crate) door: Door,
    pub(crate) to_mesh: Outbound,
    pub(crate) relay: Relay,
}

/// Cheap to clone; all clones are one.
#[derive(Clone)]
pub(crate) struct Entrance {
    open: Arc<SetOnce<Open>>,
    readiness: Readiness,
}

impl Entrance {
    /// Shut; `readiness` tells why.
    pub(crate) fn shut(readiness: Readiness) -> Self {
        Self { open: Arc::default(), readiness }
    }

    /// Opens it, once.
    pub(crate) fn open(&self, open: Open) {
        assert!(self.open.set(open).is_ok(), "a sidecar enters the mesh once");
    }

    /// What there is behind it; none while it is shut.
    pub(crate) fn get(&self) -> Option<&Open> {
        self.open.get()
    }

    /// Waits until it is open. Cancel-safe.
    pub(crate) async fn opened(&self) {
        self.open.wait().await;
    }

    /// The answer to a call of the app while it is shut.
    pub(crate) fn refusal(&self, dialect: Dialect) -> Response<Body> {
        let why = self.readiness.load().err();
        let why = format!("the sidecar is not ready: {}", why.as_deref().unwrap_or("it has just joined the mesh"));
        let refusal = Status::unavailable(&why).into_http::<tonic::body::Body>().map(Body::boxed);
        dialect.put(refusal, &why)
    }
}

/// What `/readyz` and the app's calls are told first.
pub(crate) fn starting(credential: Option<&Credential>) -> Readiness {
    Readiness::starting(match credential {
        Some(_) => "joining the mesh: asking a registry for an identity",
        None => NO_APP,
    })
}

/// What `/readyz` is told of an app that was not heard of.
pub(crate) const NO_APP: &str = "the app is not ready yet";

/// Becomes the service, where a token says that we may, and says meanwhile what it waits for. With a `file`, it may be who it was before.
pub(crate) async fn join(
    credential: Credential,
    service: ServiceName,
    file: Option<PathBuf>,
    readiness: &Readiness,
) -> anyhow::Result<(IdentityTask, Identity)> {
    let (service, clock) = (Some(service), Arc::new(weft_runtime::clock::wall));
    let waits = |why: &str| readiness.not_ready(format!("joining the mesh: {why}"));
    enter(credential, service, clock, JOIN, file, waits).await.context("joining the mesh")
}
