//! Calls to other services, through the sidecar.
//!
//! Lives here: the way of one call, what it takes over from the call being served, what is said when there is no way. Does not: finding
//! instances, balancing, retrying; the sidecar does (`weft-traffic`).

use std::error::Error;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderValue, Request, Response, Uri};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::transport;
use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tower::{Service, ServiceExt};
use weft_model::timeout;

use crate::call_span::CallSpan;
use crate::served::{Served, timeout_of};

/// How long the sidecar, on loopback, may take to accept.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Flow control as in `services`: what the sidecar may send ahead.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// A way to another service of the mesh, for a client that tonic generated: `UsersClient::new(app.channel("users"))`. Cheap to clone.
///
/// A call made while a call is served belongs to it: it ends with the served call's deadline at the latest, carries its trace, and is
/// cancelled when the served call is. A task spawned by a handler makes calls of its own.
///
/// Calls end with UNAVAILABLE when there is no sidecar or no instance, and with DEADLINE_EXCEEDED in time; see
/// [`status::upstream`](crate::status::upstream) for what to answer then.
#[derive(Debug, Clone)]
pub struct Channel {
    service: Arc<str>,
    sidecar: Option<Sidecar>,
    limit: Option<Duration>,
}

#[derive(Debug, Clone)]
struct Sidecar {
    at: Uri,
    connection: transport::Channel,
}

impl Channel {
    /// Makes a channel to `service` through the sidecar whose outbound listens at the URL `outbound`. What
    /// [`App::channel`](crate::App::channel) does with `WEFT_OUTBOUND`; by itself it is for tests, where any gRPC server may stand in for
    /// the sidecar. Connects when first used; runs inside a tokio runtime.
    ///
    /// # Panics
    /// If `service` cannot be the name of a service.
    pub fn new(outbound: Option<Uri>, service: &str) -> Self {
        let origin: Uri = format!("http://{service}").parse().expect("a service's name can be an authority");
        let sidecar = outbound.map(|at| {
            let endpoint = transport::Channel::builder(at.clone())
                .origin(origin)
                .connect_timeout(CONNECT_LIMIT)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW);
            Sidecar { at, connection: endpoint.connect_lazy() }
        });
        Channel { service: service.into(), sidecar, limit: None }
    }

    /// Bounds each call on this channel, also one without a caller who bounds it. A stream is a call until its end.
    #[must_use]
    pub fn at_most(self, limit: Duration) -> Self {
        Channel { limit: Some(limit), ..self }
    }

    /// The earliest of the served call's deadline, the bound of the channel, and what the author gave this very request.
    fn deadline(&self, served: Option<&Served>, request: &Request<Body>) -> Option<Instant> {
        let own = [self.limit, timeout_of(request.headers())].into_iter().flatten().min();
        let own = own.map(|limit| Instant::now() + limit);
        own.into_iter().chain(served.and_then(Served::deadline)).min()
    }

    fn late(&self) -> Status {
        Status::deadline_exceeded(format!("{} did not answer in time", self.service))
    }

    fn no_sidecar(&self) -> Status {
        Status::unavailable(format!(
            "there is no sidecar to carry calls to {}: WEFT_OUTBOUND is not set; `weft up` and `weft sidecar` set it",
            self.service
        ))
    }

    /// What a failure of the transport means; statuses of the sidecar and of the service are answers and do not come here.
    fn failed(&self, at: &Uri, error: transport::Error) -> Status {
        if has_cause::<TimeoutExpired>(&error) {
            return self.late(); // tonic has a timer, too
        }
        if let Some(ConnectError(cause)) = cause_of(&error) {
            let service = &self.service;
            return Status::unavailable(format!(
                "cannot reach the sidecar at {at}, which carries calls to {service}: {cause}"
            ));
        }
        let status = Status::from_error(Box::new(error));
        match status.code() {
            Code::Unknown => {
                Status::unavailable(format!("the call to {} broke off: {}", self.service, status.message()))
            }
            _ => status,
        }
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    /// Always: a call waits for the connection inside, where its deadline counts.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let channel = self.clone();
        let served = Served::current();
        let deadline = channel.deadline(served.as_deref(), &request);
        let mut span = CallSpan::NONE;
        if let Some(served) = served {
            span = served.trace(&mut request, &channel.service);
        }
        Box::pin(async move {
            match channel.send(request, deadline).await {
                Ok(answer) => Ok(span.around(answer)),
                Err(status) => {
                    span.end(status.code());
                    Err(status)
                }
            }
        })
    }
}

impl Channel {
    async fn send(&self, mut request: Request<Body>, deadline: Option<Instant>) -> Result<Response<Body>, Status> {
        let Some(Sidecar { at, connection }) = &self.sidecar else { return Err(self.no_sidecar()) };
        if let Some(at) = deadline {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.late());
            }
            let left = HeaderValue::try_from(timeout::write(left)).expect("digits and a letter are valid in a header");
            request.headers_mut().insert(timeout::NAME, left);
        }
        let answer = connection.clone().oneshot(request);
        let answer = match deadline {
            Some(deadline) => timeout_at(deadline, answer).await.map_err(|_| self.late())?,
            None => answer.await,
        };
        answer.map_err(|error| self.failed(at, error))
    }
}

fn cause_of<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    std::iter::successors(Some(error), |error| (**error).source()).find_map(|error| error.downcast_ref())
}

fn has_cause<E: Error + 'static>(error: &(dyn Error + 'static)) -> bool {
    cause_of::<E>(error).is_some()
}
