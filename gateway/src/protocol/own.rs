//! What the gateway answers itself, by whatever protocol it is asked: health and reflection of the mesh.
//!
//! Lives here: which methods these are, and who answers them. Does not: the answers (`protocol::health`, `protocol::reflection`).
//! They are answered before there is a table, and to everybody: no policy is about them but which pages may call the gateway as a whole.

use std::{collections::HashMap, sync::Arc};

use http::{Request, Response};
use tower::ServiceExt;
use weft_model::{GATEWAY, ServiceName};
use weft_traffic::Body;
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

/// Answers a gRPC call of such a path.
pub(crate) async fn call(shard: &Shard, request: Request<Body>) -> Response<Body> {
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
