//! Streams as a part of what a data thread carries, so that the next connection goes where fewer are.
//!
//! Lives here: counting each from its head to its answer's end. Does not: choosing a thread (`weft_runtime::threads`), what a stream says.
//! A watch lives as long as its watcher: a thread of few connections with many of them is not the idle one.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::service::{Service, service_fn};
use tonic::{Status, body::Body};
use weft_runtime::threads::{Load, LoadGuard};

/// Counts the streams of a connection.
pub(super) fn counted<B, S>(
    service: S,
    load: Load,
) -> impl Service<Request<B>, Response = Response<Carried>, Error = S::Error, Future: Send + 'static>
where
    B: HttpBody,
    S: Service<Request<B>, Response = Response<Body>, Error: Into<BoxError> + Send, Future: Send + 'static>,
{
    service_fn(move |request: Request<B>| {
        let (stream, answer) = (load.enter(), service.call(request));
        async move { Ok::<_, S::Error>(answer.await?.map(|body| Carried { body, _stream: stream })) }
    })
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of an answer, whose stream counts as long as it is there.
#[derive(Debug)]
pub(super) struct Carried {
    body: Body,
    _stream: LoadGuard,
}

impl HttpBody for Carried {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
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
    use std::convert::Infallible;

    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stream_counts_until_its_answer_is_over() {
        let load = Load::default();
        let answer = |_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::new(http_body_util::Full::<Bytes>::from("told"))))
        };
        let service = counted(service_fn(answer), load.clone());
        let ask = || service.call(Request::new(Body::empty()));
        let (long, unanswered, short) = (ask().await.unwrap(), ask(), ask().await.unwrap());
        assert_eq!(load.get(), 3);
        assert_eq!(short.into_body().collect().await.unwrap().to_bytes(), "told");
        assert_eq!(load.get(), 2, "one that is over");
        drop(unanswered);
        assert_eq!(load.get(), 1, "one whose caller left");
        drop(long);
        assert_eq!(load.get(), 0);
    }
}
