//! grpc.health.v1 for one process: SERVING until it leaves, NOT_SERVING from then on.
//!
//! Lives here: Check and Watch. Does not: deciding whether a service feels well; a process that serves is well.
//! Why not tonic-health's own server: its Watch never ends, which would hold the graceful end for its full limit, and it answers an
//! unknown service with an error where the specification wants SERVICE_UNKNOWN on an open stream.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// The health of a process and of the services it names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    names: Arc<[&'static str]>,
    leaving: CancellationToken,
}

impl Health {
    /// Health of the process, by the empty name, and of the services `names`, until `leaving`.
    pub fn new(names: &[&'static str], leaving: CancellationToken) -> Self {
        Self { names: names.into(), leaving }
    }

    /// Returns the service as tonic serves it.
    pub fn server(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    fn serves(&self, name: &str) -> bool {
        name.is_empty() || self.names.contains(&name)
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.serves(&request.get_ref().service) {
            return Err(Status::not_found(format!("no service {:?} here", request.get_ref().service)));
        }
        let now = if self.leaving.is_cancelled() { ServingStatus::NotServing } else { ServingStatus::Serving };
        Ok(Response::new(answer(now)))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let leaving = self.leaving.clone().cancelled_owned();
        let now = |status| stream::iter([Ok(answer(status))]);
        let known = self.serves(&request.get_ref().service);
        Ok(Response::new(match (known, self.leaving.is_cancelled()) {
            (true, true) => now(ServingStatus::NotServing).boxed(),
            (true, false) => {
                let last = stream::once(leaving).map(|()| Ok(answer(ServingStatus::NotServing)));
                now(ServingStatus::Serving).chain(last).boxed()
            }
            (false, _) => now(ServingStatus::ServiceUnknown).chain(stream::pending().take_until(leaving)).boxed(),
        }))
    }
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use health_server::Health as _;

    async fn watch(health: &Health, name: &str) -> <Health as health_server::Health>::WatchStream {
        health.watch(Request::new(HealthCheckRequest { service: name.into() })).await.unwrap().into_inner()
    }

    #[tokio::test]
    async fn a_watch_says_not_serving_and_ends_when_the_process_leaves() {
        let leaving = CancellationToken::new();
        let health = Health::new(&["a.B"], leaving.clone());
        let watches = [watch(&health, "").await, watch(&health, "a.B").await, watch(&health, "no.Such").await];
        leaving.cancel();
        let mut told = Vec::new();
        for watch in watches {
            told.push(watch.map(|it| it.unwrap().status()).collect::<Vec<_>>().await);
        }
        let both = vec![ServingStatus::Serving, ServingStatus::NotServing];
        assert_eq!(told, [both.clone(), both, vec![ServingStatus::ServiceUnknown]]);
        let late: Vec<_> = watch(&health, "a.B").await.collect().await;
        assert_eq!(late.len(), 1, "one that comes too late ends, too");
    }

    #[tokio::test]
    async fn check_knows_the_process_and_its_services() {
        let leaving = CancellationToken::new();
        let health = Health::new(&["a.B"], leaving.clone());
        let check = |name: &str| Request::new(HealthCheckRequest { service: name.into() });
        assert_eq!(health.check(check("")).await.unwrap().get_ref().status(), ServingStatus::Serving);
        assert_eq!(health.check(check("no.Such")).await.unwrap_err().code(), tonic::Code::NotFound);
        leaving.cancel();
        assert_eq!(health.check(check("a.B")).await.unwrap().get_ref().status(), ServingStatus::NotServing);
    }
}
