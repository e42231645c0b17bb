//! The outermost layer of a served call: its deadline, and what becomes of a panic.
//!
//! Lives here: `grpc-timeout` → DEADLINE_EXCEEDED, panic → INTERNAL without its text, for the call and for a streamed answer; that a
//! handler runs within the call it serves (`served`), and that the span of a sampled call ends with its answer. Does not: any choice of a deadline; a call without one has none.
//! Why not tonic's own timeout: it answers CANCELLED, which a REST caller would see as "client closed request", and it does not cover
//! a stream. Ours starts no later than tonic's and is asked first, so it wins.

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep_until, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::served::Served;

/// Adds [`Guard`].
#[derive(Debug, Clone)]
pub(crate) struct GuardLayer {
    /// The services whose sampled calls have spans; none if the process exports no spans.
    pub(crate) exports: Option<Arc<[&'static str]>>,
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, exports: self.exports.clone() }
    }
}

/// The layer; see the file's header.
#[derive(Debug, Clone)]
pub(crate) struct Guard<S> {
    inner: S,
    exports: Option<Arc<[&'static str]>>,
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
        let (served, mut span) = Served::read(request.headers(), request.uri().path(), self.exports.as_deref());
        let deadline = served.deadline();
        let answer = served.within(|| self.inner.call(request));
        let answer = AssertUnwindSafe(served.clone().around(answer)).catch_unwind();
        Box::pin(async move {
            let answer = match deadline {
                None => answer.await,
                Some(at) => match timeout_at(at, answer).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        span.end(Code::DeadlineExceeded);
                        return Ok(deadline_exceeded().into_http());
                    }
                },
            };
            Ok(match answer {
                Ok(Ok(response)) => span.around(response.map(|body| Body::new(Guarded::new(body, served)))),
                Ok(Err(never)) => match never {},
                Err(_) => {
                    span.end(Code::Internal);
                    served.within(panicked).into_http()
                }
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
    served: Arc<Served>,
}

impl Guarded {
    fn new(body: Body, served: Arc<Served>) -> Self {
        Guarded { inner: Some(body), deadline: served.deadline().map(|at| Box::pin(sleep_until(at))), served }
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
        let Guarded { inner, served, .. } = &mut *self;
        let Some(inner) = inner else { return Poll::Ready(None) };
        match catch_unwind(AssertUnwindSafe(|| served.within(|| Pin::new(inner).poll_frame(cx)))) {
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

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use weft_model::timeout;

    #[tokio::test]
    async fn a_stream_that_always_has_more_ends_at_its_deadline() {
        let more = futures_util::stream::repeat_with(|| Ok::<_, Status>(Frame::data(Bytes::from_static(b"more"))));
        let no_time = HeaderMap::from_iter([(HeaderName::from_static(timeout::NAME), HeaderValue::from_static("0n"))]);
        let mut body = Guarded::new(Body::new(StreamBody::new(more)), Served::read(&no_time, "/a.B/C", None).0);
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
}
