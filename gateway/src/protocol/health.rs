//! `grpc.health.v1` for the whole mesh: the gateway itself, every service, every gRPC service.
//!
//! Lives here: what is SERVING and who is told of a change. Does not: finding out whether an instance serves (registry, sidecars).
//! A name is SERVING while its routes are known and at least one instance of its service takes calls; the empty name is the gateway: SERVING once it has routes, until it drains.
//! A watch ends when the gateway drains, so that it does not hold the drain for its whole limit.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};
use weft_model::{ServiceInfo, ServiceName, Snapshot};

use crate::routes::keeper::Published;

/// Path of its one question that is answered at once.
pub(crate) const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Path prefix of the service.
pub(crate) const PREFIX: &str = "/grpc.health.v1.Health/";

/// What serves, by name.
#[derive(Debug, Default)]
pub(crate) struct Board(HashMap<String, bool>);

impl Board {
    /// Reads what serves off a snapshot: `users`, `users.default` and `shop.users.v1.Users` say the same.
    pub(crate) fn of(snapshot: &Snapshot, routed: impl Fn(&ServiceName) -> bool) -> Self {
        let mut board = HashMap::new();
        let listed = snapshot.directory.iter().chain(snapshot.services.iter().map(|(name, it)| (name, &it.info)));
        for (name, info) in listed {
            let instances = snapshot.services.get(name).into_iter().flat_map(|service| service.instances.values());
            let serves = routed(name) && instances.into_iter().any(|instance| instance.status.takes_calls());
            board.insert(name.to_string(), serves);
            board.insert(name.full().to_owned(), serves);
            board.extend(info.grpc_services.iter().map(|service| (service.name.clone(), serves)));
        }
        Self(board)
    }
}

impl Board {
    /// The board of static mode: whether the upstream is there shows in each call only.
    pub(crate) fn serving(name: &ServiceName, info: &ServiceInfo) -> Self {
        let names = [name.to_string(), name.full().to_owned()];
        Self(
            names
                .into_iter()
                .chain(info.grpc_services.iter().map(|it| it.name.clone()))
                .map(|name| (name, true))
                .collect(),
        )
    }
}

/// The health service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MeshHealth {
    board: watch::Receiver<Arc<Board>>,
    table: Published,
    leaving: CancellationToken,
}

impl MeshHealth {
    pub(crate) fn new(board: watch::Receiver<Arc<Board>>, table: Published, leaving: CancellationToken) -> Self {
        Self { board, table, leaving }
    }

    /// Returns the service as tonic serves it.
    pub(crate) fn server(&self) -> HealthServer<Self> {
        HealthServer::new(self.clone())
    }

    fn status(&self, board: &Board, name: &str) -> ServingStatus {
        let serves = match name {
            "" => Some(self.table.load().is_some() && !self.leaving.is_cancelled()),
            name if name.starts_with("grpc.") => Some(true),
            name => board.0.get(name).copied(),
        };
        match serves {
            Some(true) => ServingStatus::Serving,
            Some(false) => ServingStatus::NotServing,
            None => ServingStatus::ServiceUnknown,
        }
    }
}

#[tonic::async_trait]
impl Health for MeshHealth {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let name = request.into_inner().service;
        let board = Arc::clone(&self.board.borrow());
        match self.status(&board, &name) {
            ServingStatus::ServiceUnknown => Err(Status::not_found(format!("no service {name:?} in the mesh"))),
            status => Ok(Response::new(response(status))),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (this, name) = (self.clone(), request.into_inner().service);
        let changes = WatchStream::new(self.board.clone()).take_until(self.leaving.clone().cancelled_owned());
        let board = self.board.clone();
        let at_the_end = stream::once(async move { Arc::clone(&board.borrow()) });
        let mut last = None;
        let told = changes.chain(at_the_end).map(move |board| {
            let status = this.status(&board, &name);
            (last.replace(status) != Some(status)).then(|| Ok(response(status)))
        });
        Ok(Response::new(told.filter_map(std::future::ready).boxed()))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
