//! The outermost layer of a served call: its deadline, and what becomes of a panic.
//!
//! Lives here: `grpc-timeout` → DEADLINE_EXCEEDED, panic → INTERNAL without its text, for the call and for a streamed answer. Does not:
//! any choice of a deadline; a call without one has none.
//! Why not tonic's own timeout: it answers CANCELLED, which a REST caller would see as "client closed request", and it does not cover
//! a stream. Ours starts no later than tonic's and is asked first, so it wins.
//! Source: gRPC over HTTP/2, `Timeout`.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until, timeout_at};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Adds [`Guard`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuardLayer;

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner }
    }
}

/// The layer; see the file's header.
#[derive(Debug, Clone)]
pub(crate) struct Guard<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let deadline = grpc_timeout(request.headers()).map(|left| Instant::now() + left);
        let answer = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            let answer = match deadline {
                None => answer.await,
                Some(at) => match timeout_at(at, answer).await {
                    Ok(answer) => answer,
                    Err(_) => return Ok(deadline_exceeded().into_http()),
                },
            };
            Ok(match answer {
                Ok(Ok(response)) => response.map(|body| Body::new(Guarded::new(body, deadline))),
                Ok(Err(never)) => match never {},
                Err(_) => panicked().into_http(),
            })
        })
    }
}

fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("the deadline of the call is over")
}

/// The panic itself went to stderr by the panic hook, with its place.
fn panicked() -> Status {
    tracing::error!("a handler panicked");
    Status::internal("internal error")
}

/// The body of an answer under the same guard; an answer that ends early ends with the status in its trailers.
struct Guarded {
    /// `None` after the last frame was given.
    inner: Option<Body>,
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Guarded {
    fn new(body: Body, deadline: Option<Instant>) -> Self {
        Guarded { inner: Some(body), deadline: deadline.map(|at| Box::pin(sleep_until(at))) }
    }

    fn end_with(&mut self, status: Status) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.inner = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.inner.is_none() {
            return Poll::Ready(None);
        }
        // Asked first: a stream that always has something to say would else never be asked.
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return self.end_with(deadline_exceeded());
        }
        let Some(inner) = &mut self.inner else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(cx))) {
            Ok(polled) => polled,
            Err(_) => self.end_with(panicked()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

/// At most eight digits and a unit; anything else counts as no deadline.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    #[tokio::test]
    async fn a_stream_that_always_has_more_ends_at_its_deadline() {
        let more = futures_util::stream::repeat_with(|| Ok::<_, Status>(Frame::data(Bytes::from_static(b"more"))));
        let mut body = Guarded::new(Body::new(StreamBody::new(more)), Some(Instant::now()));
        let mut frames = 0;
        let trailers = loop {
            match body.frame().await.unwrap().unwrap().into_trailers() {
                Ok(trailers) => break trailers,
                Err(_) => frames += 1,
            }
            assert!(frames < 1_000_000, "the deadline is over, and it still goes on");
            tokio::task::yield_now().await; // as a connection does now and then; only then do timers fire
        };
        assert_eq!(trailers.get("grpc-status").unwrap(), "4");
        assert!(body.frame().await.is_none());
    }

    #[test]
    fn a_timeout_is_eight_digits_and_a_unit() {
        let parse = |text: &'static str| {
            let value = http::HeaderValue::from_static(text);
            grpc_timeout(&HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), value)]))
        };
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        for wrong in ["", "S", "5", "5s", "123456789S", "-1S", "+1S", "1.5S"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
