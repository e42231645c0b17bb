//! The gate between a connection and the services: what a caller that proved nothing may ask for.
//!
//! Lives here: the rule, judged by path and metadata before any of a message is read, since reading is what strangers would make us pay for.
//! Does not: what a known caller may (`access`, `ca`).
//! Open to anybody is how to get a certificate, and what every server tells; policies are to whoever shows a token that is good.

use std::convert::Infallible;

use hyper::body::Incoming;
use tonic::{Code, Status, server::NamedService, service::Routes};
use tower::{ServiceExt, util::BoxCloneService};
use weft_proto::weft::{policy::v1::policies_server::PoliciesServer, registry::v1::identity_server::IdentityServer};

use crate::{ca, policy, refusals::Refusals, server::Caller};

/// What a connection is served with.
pub(super) type Stack = BoxCloneService<http::Request<Incoming>, http::Response<tonic::body::Body>, Infallible>;

/// Services whose every method anybody may ask; those of [`IdentityServer`] look at tokens themselves.
const OPEN: [&str; 4] = [
    <IdentityServer<ca::grpc::Identity>>::NAME,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];
/// The service whose methods an operator may ask with its token alone.
const BY_TOKEN: &str = <PoliciesServer<policy::grpc::Policies>>::NAME;

/// The gate of one connection.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) caller: Caller,
    pub(super) refusals: Refusals,
    pub(super) ca: ca::Ca,
}

impl Gate {
    /// Puts the gate before the services. A request that passes carries its caller, and where to note what it is refused further on.
    pub(super) fn before(self, routes: Routes) -> Stack {
        tower::service_fn(move |mut request: http::Request<Incoming>| {
            let admitted = self.admit(&request);
            request.extensions_mut().insert(self.caller.clone());
            request.extensions_mut().insert(self.refusals.clone());
            let routes = routes.clone();
            async move {
                match admitted {
                    Ok(()) => routes.oneshot(request).await,
                    Err(status) => Ok(status.into_http()),
                }
            }
        })
        .boxed_clone()
    }

    fn admit<B>(&self, request: &http::Request<B>) -> Result<(), Status> {
        if let Caller::Known(_) = self.caller {
            return Ok(()); // until its connection is dropped: `server` follows its certificate
        }
        let service =
            request.uri().path().strip_prefix('/').and_then(|path| path.split('/').next()).unwrap_or_default();
        match request.headers().get(http::header::AUTHORIZATION) {
            _ if OPEN.contains(&service) => Ok(()),
            Some(bearer) if service == BY_TOKEN => {
                let token = ca::grpc::bearer(bearer.to_str().unwrap_or_default());
                let checked = self.ca.check_token(token).map(drop);
                checked.map_err(|e| self.refusals.status(Code::Unauthenticated, e.rule(), &e.to_string()))
            }
            Some(_) | None => Err(self.refusals.nobody()),
        }
    }
}
