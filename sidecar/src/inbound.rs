//! Inbound: calls from the mesh to the app.
//!
//! Lives here: the one hop to the app, and what a caller is told when it cannot or may not be made. Does not: retries (the caller's), status
//! (`lifecycle`): an inbound accepts while it is listed and for as long as callers may not have heard that it is not. Whether a caller may
//! call is decided in `weft-traffic`, by the policies of the app's service and the caller that the listener noted at the request.
//! The app cannot be reached: REFUSED_STREAM, since nothing was processed and callers of any make may send the call again. The app died
//! over the call: UNAVAILABLE, since it may have been processed. A policy refuses it: PERMISSION_DENIED, which no caller tries again.
//! The app is told who calls: `x-forwarded-client-cert: URI=spiffe://…`, as Envoy writes it, of a caller whose certificate proved it, and of no other.

use std::collections::HashMap;

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use weft_model::Caller;
use weft_traffic::{Body, CallOptions, Denied, Dialect, Error, Reset, ToApp};

/// `reason` of google.rpc.ErrorInfo in a refusal by policy.
const REFUSED_BY_POLICY: &str = "REFUSED_BY_POLICY";

const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

/// What the app hears of the caller of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Introduction(Option<HeaderValue>);

impl Introduction {
    pub(crate) fn of(caller: &Caller) -> Self {
        Self(match caller {
            Caller::Anonymous => None,
            Caller::Identity(id) => HeaderValue::try_from(format!("URI={id}")).ok(),
        })
    }

    /// Writes it into a call's head, in place of what the caller says of itself.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        match &self.0 {
            Some(who) => drop(headers.insert(CLIENT_CERT, who.clone())),
            None => drop(headers.remove(CLIENT_CERT)),
        }
    }
}

pub(crate) async fn call(app: ToApp, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
    let dialect = Dialect::of(request.headers());
    match app.call_with(request.map(Body::from), CallOptions::default()).await {
        Ok(answer) => Ok(answer),
        Err(Error::Denied(denied)) => Ok(dialect.put(refusal(&denied), &denied.to_string())),
        Err(error) => match error.refusal() {
            Some(reset) => Err(reset),
            None => Ok(dialect.put(error.to_response(), &error.message())),
        },
    }
}

/// PERMISSION_DENIED whose google.rpc.ErrorInfo names policy, rule and caller.
fn refusal(denied: &Denied) -> Response<Body> {
    let facts = [
        ("policy", denied.policy.to_string()),
        ("rule", denied.rule.to_string()),
        ("caller", denied.caller.to_string()),
        ("method", denied.method.clone()),
    ];
    let facts: HashMap<_, _> = facts.into_iter().map(|(name, fact)| (name.to_owned(), fact)).collect();
    let details = ErrorDetails::with_error_info(REFUSED_BY_POLICY, "weft", facts);
    Status::with_error_details(Code::PermissionDenied, denied.to_string(), details).into_http()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_policy_rule_caller_and_method() {
        let denied = Denied {
            policy: "users-callers".parse().unwrap(),
            rule: "default".parse().unwrap(),
            caller: Caller::Identity("spiffe://weft.local/ns/default/svc/posts".parse().unwrap()),
            method: "shop.users.v1.Users/DeleteUser".to_owned(),
        };
        let response = refusal(&denied);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"application/grpc".parse().unwrap())
        );
        let status = Status::from_header_map(response.headers()).unwrap();
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, denied.to_string().as_str()));
        let info = status.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), (REFUSED_BY_POLICY, "weft"));
        let facts: std::collections::BTreeMap<_, _> =
            info.metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = [
            ("caller", "spiffe://weft.local/ns/default/svc/posts"),
            ("method", "shop.users.v1.Users/DeleteUser"),
            ("policy", "users-callers"),
            ("rule", "default"),
        ];
        assert_eq!(facts.into_iter().collect::<Vec<_>>(), expected);
    }
}
