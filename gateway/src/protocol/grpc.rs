//! Native gRPC: passed through unparsed to the service that owns the gRPC name; reflection and health answered here for the whole mesh.
//!
//! Lives here: choosing who answers, failures as trailers-only answers. Does not: deadlines, retries, balancing (`weft-traffic`).
//! The URL's authority is the gateway's own and says nothing about the service: only the path routes.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use weft_model::{InstanceId, ServiceName};
use weft_traffic::{Body, CallOptions, Code, Dialect, Error, caller_timeout};

use crate::{
    edge::{
        call::Call,
        guard,
        limits::{BY_ROUTE, Has, Limits},
        metrics::Status,
        policies::EdgePlan,
    },
    protocol::{Shard, health, own},
};

/// Names the service that a health check is for, or `service/instance id`: it is passed on to that app and not answered here.
const PROBE: &str = "weft-probe";

/// Answers a native call.
pub(crate) async fn answer(shard: &Shard, request: Request<Body>, call: &mut Call) -> Response<Body> {
    let dialect = Dialect::of(request.headers());
    let response = match request.version() {
        Version::HTTP_2 => dispatch(shard, request, call).await,
        _ => needs_http2(),
    };
    if let Some(code) = Code::from_headers(response.headers()) {
        call.status = Status::Grpc(code.number().into());
        return dialect.put(response, ""); // all of it is in the head
    }
    response
}

async fn dispatch(shard: &Shard, request: Request<Body>, call: &mut Call) -> Response<Body> {
    match request.uri().path() {
        health::CHECK if request.headers().contains_key(PROBE) => probe(shard, request, call).await,
        path if own::is_own(path) => {
            match caller_timeout(request.headers()) {
                // Far beyond what an Instant holds is as good as no deadline.
                Ok(timeout) => own::call(shard, request, timeout.and_then(|it| call.received.checked_add(it))).await,
                Err(error) => error.to_response(),
            }
        }
        _ => forward(shard, request, call).await,
    }
}

async fn forward(shard: &Shard, mut request: Request<Body>, call: &mut Call) -> Response<Body> {
    let (service, edge) = match route(shard, request.uri().path(), call) {
        Ok(found) => found,
        Err((code, message)) => return failed(code, &message),
    };
    if let Err(refusal) = guard::admit(edge.as_ref(), request.headers_mut(), call).await {
        let mut response = failed(refusal.code, &refusal.message);
        refusal.write(response.headers_mut());
        return response;
    }
    call.mark(request.headers_mut());
    call.goes_upstream();
    let limits = edge.as_ref().and_then(|edge| edge.limits_of_size.as_deref());
    let timeout = Limits::timeout(limits, None);
    let has = Has { asked: caller_timeout(request.headers()).ok().flatten(), usual: None };
    let options = CallOptions { received: call.received, timeout, service: Some(service), instance: None };
    match shard.outbound.call_with(request, options).await {
        Ok(response) => response,
        Err(error) => {
            let told = call.unanswered(&error);
            let late = || Limits::late(limits, has, call.received.elapsed(), || call.noted());
            let late = || late().unwrap_or_else(|| BY_ROUTE.to_owned());
            error.to_response_saying(&if matches!(error, Error::Deadline) { late() } else { told })
        }
    }
}

/// A health check that goes all the way to an app, as `weft check` sends it: the same table, stack, connection and sidecar as any call.
async fn probe(shard: &Shard, mut request: Request<Body>, call: &mut Call) -> Response<Body> {
    let wanted = request.headers_mut().remove(PROBE);
    let Some((service, instance)) = wanted.as_ref().and_then(|value| probed(value.to_str().ok()?)) else {
        return failed(Code::InvalidArgument, "weft-probe: write a service, or service/instance id");
    };
    if shard.shared.table.load().is_none() {
        return failed(Code::Unavailable, &shard.shared.no_table());
    }
    call.meter = shard.shared.meters.probes();
    call.service = Some(service.clone());
    call.mark(request.headers_mut());
    let service = Some(service);
    let options = CallOptions { received: call.received, service, instance, ..CallOptions::default() };
    match shard.outbound.call_with(request, options).await {
        Ok(response) => response,
        Err(error) => {
            let outside = call.unanswered(&error);
            // On the gateway's machine an operator asks, and wants to know at which hop; from elsewhere anybody can.
            if call.is_from_this_machine() { error.to_response() } else { error.to_response_saying(&outside) }
        }
    }
}

fn probed(text: &str) -> Option<(ServiceName, Option<InstanceId>)> {
    match text.split_once('/') {
        Some((service, instance)) => Some((service.parse().ok()?, Some(instance.parse().ok()?))),
        None => Some((text.parse().ok()?, None)),
    }
}

/// Who answers a call, and what it meets at the edge.
type Routed = (ServiceName, Option<Arc<EdgePlan>>);

/// Finds the service that owns a method; notes it in the call.
fn route(shard: &Shard, path: &str, call: &mut Call) -> Result<Routed, (Code, String)> {
    let table = shard.shared.table.load();
    let Some(table) = table.as_deref() else {
        return Err((Code::Unavailable, shard.shared.no_table()));
    };
    let Some(found) = table.native(path) else {
        return Err((Code::Unimplemented, format!("no service of the mesh offers {path}")));
    };
    if let Some(meters) = found.meters {
        call.meter = meters.grpc.clone();
    }
    call.service = Some(found.service.clone());
    Ok((found.service.clone(), found.edge))
}

/// A trailers-only answer.
fn failed(code: Code, message: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    code.write(message, response.headers_mut());
    response
}

/// gRPC ends in trailers, which HTTP/1.1 clients do not read: plain words for whoever tries.
fn needs_http2() -> Response<Body> {
    let mut response = Response::new(Body::full("gRPC needs HTTP/2; over HTTP/1.1 use the REST routes\n"));
    *response.status_mut() = StatusCode::HTTP_VERSION_NOT_SUPPORTED;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    *response.headers_mut() = HeaderMap::from_iter([(header::CONTENT_TYPE, text)]);
    response
}
