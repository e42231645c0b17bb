//! Inbound: calls from the mesh to the app.
//!
//! Lives here: the one hop to the app, and what a caller is told when it cannot be made. Does not: retries (the caller's), status
//! (`lifecycle`): an inbound accepts while it is listed and for as long as callers may not have heard that it is not.
//! The app cannot be reached: REFUSED_STREAM, since nothing was processed and callers of any make may send the call again. The app died
//! over the call: UNAVAILABLE, since it may have been processed.

use http::{Request, Response};
use hyper::body::Incoming;
use weft_traffic::{Body, CallOptions, Reset, ToApp};

pub(crate) async fn call(app: ToApp, request: Request<Incoming>) -> Result<Response<Body>, Reset> {
    match app.call_with(request.map(Body::from), CallOptions::default()).await {
        Ok(answer) => Ok(answer),
        Err(error) => match error.refusal() {
            Some(reset) => Err(reset),
            None => Ok(error.to_response()),
        },
    }
}
