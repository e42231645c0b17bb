//! What the gateway answers itself, by whatever protocol it is asked: health and reflection of the mesh.
//!
//! Lives here: which methods these are, who answers them, and that a call's deadline ends it. Does not: the answers (`protocol::health`, `protocol::reflection`).
//! They are answered before there is a table, and to everybody: no policy is about them but which pages may call the gateway as a whole.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::Frame;
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tower::ServiceExt;
use weft_model::{GATEWAY, ServiceName};
use weft_traffic::{Body, BodyError, Code};
use weft_transcode::{MethodPlan, Schema};

use crate::{
    protocol::{Shard, health, reflection},
    routes::Rpc,
};

/// The methods, by path.
#[derive(Debug)]
pub(crate) struct Own {
    service: ServiceName,
    plans: HashMap<String, Arc<MethodPlan>>,
}

impl Own {
    pub(crate) fn new() -> Self {
        let schema =
            Schema::decode(&weft_reflection::COMMON_SETS.concat()).expect("tonic publishes whole descriptor sets");
        let plans = schema.plans().iter().filter(|it| it.is_plain());
        let plans = plans.map(|it| (it.method().grpc_path().to_owned(), Arc::clone(it))).collect();
        Self { service: GATEWAY.parse().expect("a constant that is a name"), plans }
    }

    /// The method of a path, as gRPC-Web and Connect call it.
    pub(crate) fn rpc(&self, path: &str) -> Option<Rpc> {
        let plan = Arc::clone(self.plans.get(path)?);
        let uri = format!("http://{}{path}", self.service.full()).parse().ok()?;
        Some(Rpc { service: self.service.clone(), uri, plan: Some(plan), meters: None, edge: None, own: true })
    }
}

/// Whether a path is one of a service that is answered here.
pub(crate) fn is_own(path: &str) -> bool {
    [reflection::V1, reflection::V1ALPHA].contains(&path) || path.starts_with(health::PREFIX)
}

/// Answers a gRPC call of such a path; at its deadline the call ends, begun or not.
pub(crate) async fn call(shard: &Shard, request: Request<Body>, deadline: Option<Instant>) -> Response<Body> {
    let Some(deadline) = deadline else { return answer(shard, request).await };
    match timeout_at(deadline, answer(shard, request)).await {
        Ok(response) => {
            response.map(|body| Body::boxed(Timed { body, deadline: Some(Box::pin(sleep_until(deadline))) }))
        }
        Err(_) => {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = late();
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(header::CONTENT_TYPE, grpc);
            response
        }
    }
}

/// How a call ends whose deadline passed.
fn late() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    Code::DeadlineExceeded.write("deadline exceeded", &mut trailers);
    trailers
}

/// An answer until its call's deadline.
struct Timed {
    body: Body,
    /// None once it has passed.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Timed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, deadline } = &mut *self;
        let Some(sleep) = deadline else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(&mut *body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        ready!(sleep.as_mut().poll(cx));
        (*body, *deadline) = (Body::empty(), None); // who answers need not go on
        Poll::Ready(Some(Ok(Frame::trailers(late()))))
    }

    fn is_end_stream(&self) -> bool {
        self.deadline.is_none() || self.body.is_end_stream()
    }
}

async fn answer(shard: &Shard, request: Request<Body>) -> Response<Body> {
    let shared = &shard.shared;
    let Ok(response) = match request.uri().path() {
        reflection::V1 => shared.reflection.v1().oneshot(request).await,
        reflection::V1ALPHA => shared.reflection.v1alpha().oneshot(request).await,
        _ => shared.health.server().oneshot(request).await, // says UNIMPLEMENTED of what it does not know
    };
    response.map(Body::boxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_health_and_reflection_are_known_with_their_types() {
        let own = Own::new();
        for (path, streams) in [(health::CHECK, false), (reflection::V1, true), (reflection::V1ALPHA, true)] {
            let rpc = own.rpc(path).unwrap();
            assert!(is_own(path) && rpc.own, "{path}");
            assert_eq!(rpc.plan.unwrap().method().streaming().client(), streams, "{path}");
        }
        assert!(own.rpc("/grpc.health.v1.Health/Nothing").is_none() && !is_own("/shop.users.v1.Users/GetUser"));
    }
}
