//! Inbound: one app on loopback.
use std::net::SocketAddr;

use http::{Request, Response};
use weft_model::ServiceName;

use crate::{Body, CallOptions, Error, Pool, Worlds};

/// Sends calls to the one app beside this process. Never retries what the app may have seen; does not touch the trace's decision or the route.
#[derive(Clone)]
pub struct ToApp {
    _pool: Pool,
}

impl ToApp {
    /// Calls go to `app` (h2c). `service` names it in errors and metrics; `worlds` tells its methods, for metrics.
    pub fn new(service: ServiceName, app: SocketAddr, worlds: Worlds, pool: Pool) -> Self {
        let _ = (service, app, worlds);
        Self { _pool: pool }
    }

    /// Forwards a call. On an error, answer [`Error::refusal`] if there is one (nothing reached the app, so any caller may send the call again), else
    /// [`Error::to_response`].
    pub async fn call_with(&self, request: Request<Body>, options: CallOptions) -> Result<Response<Body>, Error> {
        let _ = options;
        Err(Error::NoRoute { path: request.uri().path().to_owned() })
    }
}
