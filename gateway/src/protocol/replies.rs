//! What upstream answers to a gRPC call, one message at a time, and the status it ends with.
//!
//! Lives here: reading an answer's head, messages and trailers as gRPC means them. Does not: JSON (`rest`), native calls, which pass through.
//! Source: gRPC over HTTP/2, "Responses"; http-grpc-status-mapping.md for answers that are not gRPC.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body::Body as _;
use weft_traffic::{Body, is_grpc};
use weft_transcode::{Status, status};

use crate::protocol::{
    chain,
    codes::{INTERNAL, UNAVAILABLE, UNKNOWN},
    frames::{Deframer, MAX_MESSAGE},
};

/// An answer as it arrives.
#[derive(Debug)]
pub(crate) struct Replies {
    body: Body,
    deframer: Deframer,
    trailers: HeaderMap,
    /// Known from the head already: a trailers-only answer, or one that is not gRPC.
    ended: Option<Status>,
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Next {
    Message(Bytes),
    /// The end; code 0 is success.
    End(Status),
}

impl Replies {
    /// Reads the head; returns its metadata too. That of a trailers-only answer is trailers.
    pub(crate) fn new(response: Response<Body>) -> (HeaderMap, Self) {
        let (head, body) = response.into_parts();
        let mut replies = Self {
            body,
            deframer: Deframer::new(MAX_MESSAGE),
            trailers: HeaderMap::new(),
            ended: status_in(&head.headers),
        };
        if replies.ended.is_some() {
            replies.trailers = head.headers;
            return (HeaderMap::new(), replies);
        }
        replies.ended = not_grpc(head.status, &head.headers);
        (head.headers, replies)
    }

    /// Waits for the next message or the end. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Next {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As `next`.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if let Some(status) = &self.ended {
                return Poll::Ready(Next::End(status.clone()));
            }
            match self.deframer.next() {
                Ok(Some(message)) if message.flags == 0 => return Poll::Ready(Next::Message(message.bytes)),
                Ok(Some(_)) => {
                    let message = "upstream sent a compressed message although none was asked for";
                    self.ended = Some(Status::new(INTERNAL, message));
                    continue;
                }
                Ok(None) => {}
                Err(error) => {
                    self.ended = Some(Status::new(INTERNAL, format!("upstream: {error}")));
                    continue;
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.deframer.push(data),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            self.ended = Some(self.end(&trailers));
                            self.trailers = trailers;
                        }
                    }
                },
                Some(Err(error)) => self.ended = Some(Status::new(UNAVAILABLE, chain(&error))),
                None => self.ended = Some(Status::new(UNKNOWN, "upstream ended without a status")),
            }
        }
    }

    /// Metadata that came after the messages, with the status; empty before the end.
    pub(crate) fn trailers(&self) -> &HeaderMap {
        &self.trailers
    }

    fn end(&self, trailers: &HeaderMap) -> Status {
        let status = status_in(trailers).unwrap_or_else(|| Status::new(UNKNOWN, "upstream ended without a status"));
        match self.deframer.finish() {
            Err(error) if status.code == 0 => Status::new(INTERNAL, format!("upstream: {error}")),
            _ => status,
        }
    }
}

fn status_in(headers: &HeaderMap) -> Option<Status> {
    let code = headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN);
    let bytes = |name| headers.get(name).map(http::HeaderValue::as_bytes);
    Some(Status::from_trailers(code, bytes("grpc-message"), bytes("grpc-status-details-bin")))
}

fn not_grpc(http: StatusCode, headers: &HeaderMap) -> Option<Status> {
    if http != StatusCode::OK {
        let message = format!("upstream answered HTTP {http} in place of gRPC");
        return Some(Status::new(status::grpc_code(http.as_u16()), message));
    }
    (!is_grpc(headers)).then(|| {
        let content_type = headers.get(header::CONTENT_TYPE).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let content_type = String::from_utf8_lossy(content_type);
        Status::new(UNKNOWN, format!("upstream answered with content type {content_type:?} in place of gRPC"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::frames::{COMPRESSED, frame, frame_with};
    use http::{HeaderName, HeaderValue};
    use weft_traffic::BodySender;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        HeaderMap::from_iter(
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        )
    }

    fn answer(status: u16, headers: &[(&'static str, &'static str)]) -> (BodySender, Replies) {
        let (sender, body) = Body::channel(8);
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = map(headers);
        (sender, Replies::new(response).1)
    }

    const GRPC: (&str, &str) = ("content-type", "application/grpc");

    async fn end(replies: &mut Replies) -> Status {
        match replies.next().await {
            Next::End(status) => status,
            Next::Message(message) => panic!("a message: {message:?}"),
        }
    }

    #[tokio::test]
    async fn messages_come_before_the_status_of_the_trailers() {
        let (mut sender, mut replies) = answer(200, &[GRPC]);
        sender.data(frame(b"one")).await.unwrap();
        sender.trailers(map(&[("grpc-status", "5"), ("grpc-message", "no %C3%A4")])).await.unwrap();
        assert!(matches!(replies.next().await, Next::Message(it) if it == "one"));
        assert_eq!(end(&mut replies).await, Status::new(5, "no ä"));
        assert_eq!(end(&mut replies).await, Status::new(5, "no ä"), "the end stays the end");
    }

    #[tokio::test]
    async fn answers_that_are_no_grpc_have_a_status_too() {
        assert_eq!(end(&mut answer(200, &[GRPC, ("grpc-status", "7")]).1).await, Status::new(7, ""));
        assert_eq!(end(&mut answer(503, &[]).1).await.code, 14);
        assert_eq!(end(&mut answer(404, &[("content-type", "text/html")]).1).await.code, 12);
        assert_eq!(end(&mut answer(200, &[("content-type", "text/html")]).1).await.code, 2);
        assert_eq!(
            end(&mut answer(200, &[("content-type", "application/grpc-web")]).1).await.code,
            2,
            "ends in its body"
        );
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_is_no_success() {
        let (sender, mut replies) = answer(200, &[GRPC]);
        drop(sender);
        assert_eq!(end(&mut replies).await.code, 2);
        let (sender, mut replies) = answer(200, &[GRPC]);
        sender.fail("cable cut");
        assert_eq!(end(&mut replies).await.code, 14);
        let (mut sender, mut replies) = answer(200, &[GRPC]);
        sender.data(frame(b"one").slice(..6)).await.unwrap();
        sender.trailers(map(&[("grpc-status", "0")])).await.unwrap();
        assert_eq!(end(&mut replies).await.code, 13);
        let (mut sender, mut replies) = answer(200, &[GRPC]);
        sender.data(frame_with(COMPRESSED, b"one")).await.unwrap();
        assert_eq!(end(&mut replies).await.code, 13, "nobody asked for a compressed message");
    }
}
