//! Deadlines: `grpc-timeout` in, what is left of it out, DEADLINE_EXCEEDED in between.
//!
//! Lives here: the layer that bounds everything below it. Does not: the header's grammar (`weft-model`), the bound on an answer's body (`answer`, which gets the instant).
//! Counted from the end of HEADERS (contracts/dataplane.md, section 5, row 16: others start late, or forget to shrink it). None is added when absent.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::time::Instant;
use weft_model::timeout;

use crate::{
    Error,
    answer::Answer,
    stage::{Called, Stage},
};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static(timeout::NAME);

/// Bounds everything below by the caller's deadline.
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    pub(crate) fn layer() -> impl tower::Layer<S, Service = Self> + use<S> {
        tower::layer::layer_fn(|inner| Self { inner })
    }
}

impl<S: Stage<Called>> Stage<Called> for Deadline<S> {
    async fn call(&self, mut call: Called) -> Result<Response<Answer>, Error> {
        let Some(deadline) = deadline(&call)? else { return self.inner.call(call).await };
        call.deadline = Some(deadline);
        match tokio::time::timeout_at(deadline, self.inner.call(call)).await {
            Ok(answered) => answered.map(|response| response.map(|answer| answer.until(deadline))),
            Err(_elapsed) => Err(Error::Deadline), // what was dropped has reset its stream and counted the failure
        }
    }
}

/// The sooner of the caller's and the route's. None if neither says.
fn deadline(call: &Called) -> Result<Option<Instant>, Error> {
    let asked = caller_timeout(&call.head.headers)?;
    let shorter = match (asked, call.options.timeout) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    // Far beyond what an Instant holds is as good as no deadline.
    Ok(shorter.and_then(|timeout| call.options.received.checked_add(timeout)))
}

/// Returns how long the caller of a call waits, as its `grpc-timeout` says; none if it does not say.
///
/// # Errors
/// [`Error::Timeout`] if it is malformed.
pub fn caller_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(&GRPC_TIMEOUT) else { return Ok(None) };
    match timeout::read(value.as_bytes()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Error::Timeout { value: String::from_utf8_lossy(value.as_bytes()).into_owned() }),
    }
}

/// Writes what is left.
pub(crate) fn write(left: Duration, headers: &mut HeaderMap) {
    let mut text = HeaderValue::try_from(timeout::write(left)).expect("digits and a letter are valid in a header");
    text.set_sensitive(true); // no other call has it, see `head::leave_unindexed`
    headers.insert(GRPC_TIMEOUT, text);
}
