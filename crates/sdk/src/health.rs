//! grpc.health.v1 for the whole process: SERVING until the shutdown begins, NOT_SERVING from then on.
//!
//! Lives here: Check and Watch. Does not: deciding whether a service feels well; a process that serves is well.
//! Why not tonic-health's own server: its Watch never ends, which would hold the graceful end for its full limit, and it answers an
//! unknown service with an error where the specification wants SERVICE_UNKNOWN on an open stream.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use weft_runtime::Shutdown;

pub(crate) fn add_to(routes: &mut RoutesBuilder, names: &[&'static str], shutdown: &Shutdown) {
    routes.add_service(HealthServer::new(Process { names: names.into(), shutdown: shutdown.clone() }));
}

struct Process {
    names: Arc<[&'static str]>,
    shutdown: Shutdown,
}

impl Process {
    /// The empty name asks for the process.
    fn serves(&self, name: &str) -> bool {
        name.is_empty() || self.names.contains(&name)
    }
}

#[tonic::async_trait]
impl Health for Process {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.serves(&request.get_ref().service) {
            return Err(Status::not_found(format!("no service {:?} here", request.get_ref().service)));
        }
        let now = if self.shutdown.is_draining() { ServingStatus::NotServing } else { ServingStatus::Serving };
        Ok(Response::new(answer(now)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let shutdown = self.shutdown.clone();
        let draining = async move { shutdown.draining().await };
        let now = |status| stream::iter([Ok(answer(status))]);
        let known = self.serves(&request.get_ref().service);
        Ok(Response::new(match (known, self.shutdown.is_draining()) {
            (true, true) => now(ServingStatus::NotServing).boxed(),
            (true, false) => {
                let last = stream::once(draining).map(|()| Ok(answer(ServingStatus::NotServing)));
                now(ServingStatus::Serving).chain(last).boxed()
            }
            (false, _) => now(ServingStatus::ServiceUnknown).chain(stream::pending().take_until(draining)).boxed(),
        }))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
