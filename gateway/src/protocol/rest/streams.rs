//! Bodies that stream: an HTTP body that becomes request messages while it arrives, replies that become an HTTP body while they arrive.
//!
//! Lives here: pulling one side as the other asks for more, and what happens when one side fails. Does not: splitting or framing JSON
//! (`weft_transcode::stream`).
//! Back-pressure: both are pulled by whoever writes them out; at most the messages of one chunk wait. Dropping either takes the call back.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::Frame;
use tokio::sync::oneshot;
use weft_traffic::Body;
use weft_transcode::{
    BindError, Status,
    stream::{ReplyStream, RequestStream},
};

use crate::protocol::{
    chain,
    frames::frame,
    replies::{Next, Replies},
};

const INTERNAL: i32 = 13;

/// The request was wrong; what is wrong went to the one who answers.
#[derive(Debug, thiserror::Error)]
#[error("the request body cannot become messages")]
pub(super) struct Wrong;

/// The request messages of a client stream.
pub(super) struct RequestMessages {
    body: Body,
    messages: RequestStream,
    limit: u64,
    wrong: Option<oneshot::Sender<BindError>>,
    ready: VecDeque<Bytes>,
    ended: bool,
}

impl RequestMessages {
    /// Reads messages of at most `limit` bytes off `body`; `wrong` is told what cannot become one.
    pub(super) fn new(body: Body, messages: RequestStream, limit: u64, wrong: oneshot::Sender<BindError>) -> Self {
        Self { body, messages, limit, wrong: Some(wrong), ready: VecDeque::new(), ended: false }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), BindError> {
        self.ready.extend(self.messages.feed(data)?);
        if self.messages.buffered() as u64 > self.limit {
            return Err(BindError::too_large(self.limit));
        }
        Ok(())
    }

    fn fail(&mut self, error: BindError) -> Poll<Option<Result<Frame<Bytes>, Wrong>>> {
        if let Some(wrong) = self.wrong.take() {
            drop(wrong.send(error)); // nobody waits for it only when the answer was given up
        }
        Poll::Ready(Some(Err(Wrong)))
    }
}

impl http_body::Body for RequestMessages {
    type Data = Bytes;
    type Error = Wrong;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Wrong>>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame(&message)))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let taken = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(&data),
                    Err(_) => Ok(()), // trailers of a request carry nothing for us
                },
                Some(Err(error)) => {
                    Err(BindError::field("body", format!("the request body broke off: {}", chain(&error))))
                }
                None => {
                    self.ended = true;
                    self.messages.finish().map(|last| self.ready.extend(last))
                }
            };
            if let Err(error) = taken {
                return self.fail(error);
            }
        }
    }
}

/// The replies of a server stream as one HTTP body. A failure after the first message is its last element.
pub(super) struct FramedReplies {
    framing: ReplyStream,
    first: Option<Bytes>,
    /// None once the body has ended: dropping it takes the call back.
    replies: Option<Replies>,
    went_wrong: Option<oneshot::Receiver<BindError>>,
}

impl FramedReplies {
    /// `first` was waited for, so that a call that fails before it is answered by its status; `went_wrong` tells of a client stream that turns out wrong.
    pub(super) fn new(
        mut framing: ReplyStream,
        first: Next,
        replies: Replies,
        went_wrong: Option<oneshot::Receiver<BindError>>,
    ) -> Self {
        let (first, more) = match first {
            Next::Message(message) => match framing.message(&message) {
                Ok(framed) => (framed, true),
                Err(error) => (framing.fail(&Status::new(INTERNAL, error.to_string())), false),
            },
            Next::End(_) => (framing.finish(), false),
        };
        let went_wrong = went_wrong.filter(|it| !it.is_terminated()); // the client's stream may have ended well already
        Self { framing, first: Some(first), replies: more.then_some(replies), went_wrong }
    }

    pub(super) fn content_type(&self) -> &str {
        self.framing.content_type()
    }

    fn next(&mut self, next: Next) -> Bytes {
        match next {
            Next::Message(message) => match self.framing.message(&message) {
                Ok(framed) => framed,
                Err(error) => self.end(Some(Status::new(INTERNAL, error.to_string()))),
            },
            Next::End(status) if status.code == 0 => self.end(None),
            Next::End(status) => self.end(Some(status)),
        }
    }

    fn end(&mut self, failure: Option<Status>) -> Bytes {
        self.replies = None;
        match failure {
            Some(status) => self.framing.fail(&status),
            None => self.framing.finish(),
        }
    }

    /// Whether the client's own stream turned out wrong; asked first, because that also breaks the call.
    fn poll_went_wrong(&mut self, cx: &mut Context<'_>) -> Option<BindError> {
        match Pin::new(self.went_wrong.as_mut()?).poll(cx) {
            Poll::Pending => None,
            Poll::Ready(told) => {
                self.went_wrong = None; // an error means that the stream ended well
                told.ok()
            }
        }
    }
}

impl http_body::Body for FramedReplies {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            let framed = match self.first.take() {
                Some(first) => first,
                None if self.replies.is_none() => return Poll::Ready(None),
                None => match self.poll_went_wrong(cx) {
                    Some(error) => self.end(Some(error.status())),
                    None => {
                        let replies = self.replies.as_mut().expect("checked above");
                        let next = ready!(replies.poll_next(cx));
                        self.next(next)
                    }
                },
            };
            if !framed.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(framed))));
            }
        }
    }
}
