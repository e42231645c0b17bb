//! grpc.health.v1 for one process: SERVING while it is well, NOT_SERVING otherwise and, for good, once it leaves.
//!
//! Lives here: Check and Watch. Does not: deciding whether a process is well; until it says otherwise, one that serves is.
//! Why not tonic-health's own server: its Watch never ends, which would hold the graceful end for its full limit, and it answers an
//! unknown service with an error where the specification wants SERVICE_UNKNOWN on an open stream.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::{self, Ready};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Metadata of a Check's answer; our sidecar reads it.
const REASON: &str = "weft-health-reason";

/// The health of a process and of the services it names. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health {
    names: Arc<[&'static str]>,
    /// Or why not.
    well: Arc<watch::Sender<Result<(), String>>>,
    leaving: CancellationToken,
}

impl Health {
    /// Health of the process, by the empty name, and of the services `names`, until `leaving`.
    pub fn new(names: &[&'static str], leaving: CancellationToken) -> Self {
        Self { names: names.into(), well: Arc::new(watch::Sender::new(Ok(()))), leaving }
    }

    /// From now on the process is well: SERVING.
    pub fn well(&self) {
        drop(self.well.send_replace(Ok(())));
    }

    /// From now on the process is not well, and callers should call others: NOT_SERVING. Check tells why, in metadata `weft-health-reason`,
    /// since the message has no room for it.
    pub fn unwell(&self, reason: impl Into<String>) {
        drop(self.well.send_replace(Err(reason.into())));
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
        let now = match self.leaving.is_cancelled() {
            true => Err("it is leaving".to_owned()),
            false => self.well.borrow().clone(),
        };
        let mut said = Response::new(answer(status(&now)));
        // A reason that is no metadata, since it is not in English perhaps, is in the log.
        if let Some(reason) = now.err().and_then(|reason| MetadataValue::try_from(reason).ok()) {
            said.metadata_mut().insert(REASON, reason);
        }
        Ok(said)
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let leaving = self.leaving.clone().cancelled_owned();
        let known = self.serves(&request.get_ref().service);
        Ok(Response::new(match (known, self.leaving.is_cancelled()) {
            (true, true) => stream::iter([Ok(answer(ServingStatus::NotServing))]).boxed(),
            (true, false) => {
                let now = stream::iter([status(&self.well.borrow())]);
                let changes = WatchStream::new(self.well.subscribe()).take_until(leaving).map(|well| status(&well));
                let last = stream::iter([ServingStatus::NotServing]);
                now.chain(changes)
                    .chain(last)
                    .scan(None, changed)
                    .filter_map(future::ready)
                    .map(|it| Ok(answer(it)))
                    .boxed()
            }
            (false, _) => {
                let unknown = stream::iter([Ok(answer(ServingStatus::ServiceUnknown))]);
                unknown.chain(stream::pending().take_until(leaving)).boxed()
            }
        }))
    }
}

fn status(well: &Result<(), String>) -> ServingStatus {
    if well.is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// Returns a status if it is another than the one before: the specification wants changes only.
fn changed(before: &mut Option<ServingStatus>, now: ServingStatus) -> Ready<Option<Option<ServingStatus>>> {
    future::ready(Some((before.replace(now) != Some(now)).then_some(now)))
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
    async fn a_process_that_is_not_well_says_so_until_it_is_again() {
        let health = Health::new(&["a.B"], CancellationToken::new());
        let now = async || {
            let check = Request::new(HealthCheckRequest { service: "a.B".into() });
            health.check(check).await.unwrap().get_ref().status()
        };
        let mut watch = watch(&health, "").await.map(|it| it.unwrap().status());
        assert_eq!((watch.next().await, now().await), (Some(ServingStatus::Serving), ServingStatus::Serving));
        health.unwell("no database");
        assert_eq!((watch.next().await, now().await), (Some(ServingStatus::NotServing), ServingStatus::NotServing));
        let said = health.check(Request::new(HealthCheckRequest::default())).await.unwrap();
        assert_eq!(said.metadata().get("weft-health-reason").unwrap(), "no database");
        health.unwell("still none");
        health.well();
        assert_eq!((watch.next().await, now().await), (Some(ServingStatus::Serving), ServingStatus::Serving));
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
