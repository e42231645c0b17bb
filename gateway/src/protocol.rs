//! Protocols on the one port: which one a request speaks.
//!
//! Lives here: telling native gRPC, gRPC-Web, Connect, WebSocket and REST apart; what a data thread needs to answer them. Does not: connections
//! (`listener`), any protocol's rules (below).

pub(crate) mod codes;
pub(crate) mod compression;
pub(crate) mod connect;
pub(crate) mod frames;
pub(crate) mod grpc;
pub(crate) mod grpc_web;
pub(crate) mod health;
pub(crate) mod own;
pub(crate) mod reflection;
pub(crate) mod replies;
pub(crate) mod rest;
pub(crate) mod rpc;
mod websocket;

use std::sync::{Arc, LazyLock};

use http::{Method, Request, Response, header::ACCEPT_ENCODING};
use hyper::body::Incoming;
use weft_reflection::Reflection;
use weft_runtime::{admin::Readiness, threads::Load};
use weft_traffic::{Body, Outbound, is_grpc};
use weft_transcode::Codec;

use crate::{
    config::Limits,
    docs::{self, Docs},
    edge::{
        access_log::AccessLog,
        call::{Call, Observed},
        forwarded::{Downstream, TrustedProxies},
        metrics::{Meters, Status},
        span::Tracing,
    },
    protocol::{health::MeshHealth, own::Own, rpc::unread::Unread},
    routes::{Table, keeper::Published},
};

/// What all data threads share.
pub(crate) struct Shared {
    pub(crate) table: Published,
    pub(crate) codec: Codec,
    pub(crate) limits: Limits,
    pub(crate) docs: Docs,
    pub(crate) meters: Meters,
    pub(crate) log: AccessLog,
    pub(crate) tracing: Tracing,
    pub(crate) reflection: Reflection,
    pub(crate) health: MeshHealth,
    pub(crate) readiness: Readiness,
    pub(crate) proxies: Arc<TrustedProxies>,
    pub(crate) own: Own,
}

impl Shared {
    /// What a client reads before the first route table is there.
    pub(crate) fn no_table(&self) -> String {
        let why = self.readiness.load().err();
        format!("the gateway is not ready: {}", why.as_deref().unwrap_or("no routes yet"))
    }
}

/// A data thread's way upstream. Made at its first call that has a route: the gateway answers before it knows who it is upstream.
pub(crate) type Upstream = Arc<LazyLock<Outbound, Box<dyn FnOnce() -> Outbound + Send>>>;

/// Answers the requests of one data thread. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shard {
    pub(crate) shared: Arc<Shared>,
    pub(crate) outbound: Upstream,
}

impl Shard {
    /// Answers a request. Never fails: every failure is an answer in the protocol of the request.
    pub(crate) async fn answer(
        &self,
        mut request: Request<Incoming>,
        downstream: Downstream,
        load: Load,
    ) -> Response<Observed> {
        let spoken = Spoken::of(&request, self.shared.table.load().as_deref());
        let meters = &self.shared.meters;
        let meter = match spoken {
            Spoken::Grpc => meters.unmatched_grpc(),
            Spoken::GrpcWeb => meters.unmatched_grpc_web(),
            Spoken::Connect => meters.unmatched_connect(),
            Spoken::WebSocket | Spoken::Rest => meters.unmatched_rest(),
        };
        let Shared { log, tracing, .. } = &*self.shared;
        let mut call = Call::begin(&mut request, downstream, load.enter(), meter, log.clone(), tracing);
        let request = request.map(Body::from);
        let response = match spoken {
            Spoken::Grpc => {
                call.status = Status::Grpc(1);
                grpc::answer(self, request, &mut call).await
            }
            Spoken::GrpcWeb | Spoken::Connect => {
                let (request, unread) = Unread::watch(request);
                let mut response = if spoken == Spoken::Connect {
                    connect::answer(self, request, &mut call).await
                } else {
                    grpc_web::answer(self, request, &mut call).await
                };
                unread.tell(&mut response);
                response
            }
            Spoken::WebSocket => return Box::pin(websocket::answer(self, request, call)).await,
            Spoken::Rest => {
                let accepted =
                    rpc::list(request.headers(), &ACCEPT_ENCODING).filter(|_| request.method() != Method::HEAD);
                let response = match docs::asked(&self.shared, request.method(), request.uri().path()) {
                    Some(page) => {
                        let (head, _) = request.into_parts();
                        let response = docs::answer(&self.shared, &head, page).await;
                        rest::without_body_for_head(&head.method, response)
                    }
                    None => rest::answer(self, request, &mut call).await,
                };
                call.status = Status::Http(response.status().as_u16());
                compression::answers::answer(accepted.as_deref(), response).await
            }
        };
        call.answered(response)
    }
}

/// The protocol of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Grpc,
    GrpcWeb,
    Connect,
    /// Streams of REST routes.
    WebSocket,
    Rest,
}

impl Spoken {
    fn of<B>(request: &Request<B>, table: Option<&Table>) -> Self {
        match request.headers() {
            headers if is_grpc(headers) => Self::Grpc,
            headers if grpc_web::speaks(headers) => Self::GrpcWeb,
            _ if websocket::asked_for(request) => Self::WebSocket,
            _ if connect::speaks(request, table) => Self::Connect,
            _ => Self::Rest,
        }
    }
}

/// An error and its sources in one line, for people.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(error.source(), |error| error.source());
    sources.fold(error.to_string(), |line, source| format!("{line}: {source}"))
}
