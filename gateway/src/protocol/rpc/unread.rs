//! Answers that begin before their request's body is over, over HTTP/1.1: such a connection cannot carry another call, and the client has to be told.
//!
//! Lives here: noticing it, and saying `connection: close`. Does not: closing, which hyper does by itself. HTTP/2 has streams for this.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Version, header::CONNECTION};
use http_body::{Body as _, Frame, SizeHint};
use weft_traffic::{Body, BodyError};

/// Whether a request's body was read to its end; none where it does not matter.
pub(crate) struct Unread(Option<Arc<AtomicBool>>);

impl Unread {
    /// Watches the body of a request.
    pub(crate) fn watch(request: Request<Body>) -> (Request<Body>, Self) {
        if request.version() == Version::HTTP_2 || request.body().is_end_stream() {
            return (request, Self(None));
        }
        let over = Arc::new(AtomicBool::new(false));
        let request = request.map(|body| Body::boxed(Watched { body, over: Arc::clone(&over) }));
        (request, Self(Some(over)))
    }

    /// Tells the client that the connection ends with this answer, if it does.
    pub(crate) fn tell(&self, response: &mut Response<Body>) {
        if self.0.as_ref().is_some_and(|over| !over.load(Ordering::Relaxed)) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

struct Watched {
    body: Body,
    over: Arc<AtomicBool>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.over.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    fn says_close(unread: &Unread) -> bool {
        let mut response = Response::new(Body::empty());
        unread.tell(&mut response);
        response.headers().contains_key(CONNECTION)
    }

    #[tokio::test]
    async fn only_an_http_1_connection_with_a_body_on_it_ends() {
        let request = |version, body| {
            let mut request = Request::new(body);
            *request.version_mut() = version;
            Unread::watch(request)
        };
        let (read, unread) = request(Version::HTTP_11, Body::full("abc"));
        assert!(says_close(&unread));
        read.into_body().collect().await.unwrap();
        assert!(!says_close(&unread));
        assert!(!says_close(&request(Version::HTTP_11, Body::empty()).1));
        assert!(!says_close(&request(Version::HTTP_2, Body::full("abc")).1));
    }
}
