//! The answer's side: replies and the status after them become one body of frames.
//!
//! Lives here: pulling replies as the client takes them, compression of messages, the one place where such a call's end is known. Does not: what the
//! last frame looks like, which each protocol says through [`Ending`].
//! Dropping the body takes the call back.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use tokio::sync::oneshot;
use weft_traffic::Body;
use weft_transcode::Status;

use super::{Answered, Messages};
use crate::{
    edge::{cache::After, call::Outcome},
    protocol::{
        compression::Encoding,
        frames::{COMPRESSED, frame, frame_with},
        replies::{Next, Replies},
    },
};

/// Messages from here on are compressed: what is shorter gains nothing that a network would notice.
pub(crate) const WORTH_COMPRESSING: usize = 1024;

/// How a protocol ends a stream.
pub(crate) trait Ending: Send + Unpin + 'static {
    /// Returns the last frame: the status and the metadata after it.
    fn last(&self, status: &Status, trailers: &HeaderMap) -> Bytes;

    /// Returns a frame as the body carries it.
    fn carried(&self, frame: Bytes) -> Bytes {
        frame
    }
}

/// A call's answer as frames, and its ending.
pub(crate) struct Answers<E> {
    /// None once the body has ended.
    replies: Option<Replies>,
    messages: Messages,
    encoding: Option<Encoding>,
    ending: E,
    outcome: Outcome,
    after: After,
    went_wrong: Option<oneshot::Receiver<Status>>,
}

impl<E: Ending> Answers<E> {
    /// Returns the body of an answer that upstream has begun.
    pub(crate) fn body(
        answered: Answered,
        messages: Messages,
        encoding: Option<Encoding>,
        ending: E,
        outcome: Outcome,
    ) -> Body {
        let Answered { replies, went_wrong, .. } = answered;
        let went_wrong = went_wrong.filter(|it| !it.is_terminated()); // the client's stream may have ended well already
        let after = After::Nothing;
        Body::boxed(Self { replies: Some(replies), messages, encoding, ending, outcome, after, went_wrong })
    }

    /// Returns the body of an answer that is nothing but a failure.
    pub(crate) fn failed(status: &Status, ending: &E, outcome: &Outcome) -> Body {
        outcome.is_after(status.code, After::Nothing);
        Body::full(ending.carried(ending.last(status, &HeaderMap::new())))
    }

    fn next(&mut self, next: Next) -> Bytes {
        let ended = match next {
            Next::End(status) => status,
            Next::Message(message) => {
                self.after = After::Replies;
                match self.messages.reply(message) {
                    Ok(message) => return self.framed(&message),
                    Err(status) => status,
                }
            }
        };
        self.end(&ended)
    }

    fn framed(&self, message: &Bytes) -> Bytes {
        match self.encoding {
            Some(encoding) if message.len() >= WORTH_COMPRESSING => frame_with(COMPRESSED, &encoding.compress(message)),
            _ => frame(message),
        }
    }

    fn end(&mut self, status: &Status) -> Bytes {
        self.outcome.is_after(status.code, self.after);
        match self.replies.take() {
            Some(replies) => self.ending.last(status, replies.trailers()),
            None => self.ending.last(status, &HeaderMap::new()),
        }
    }

    /// Whether the client's own stream turned out wrong; asked first, because that also breaks the call.
    fn poll_went_wrong(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        match Pin::new(self.went_wrong.as_mut()?).poll(cx) {
            Poll::Pending => None,
            Poll::Ready(told) => {
                self.went_wrong = None; // an error means that the stream ended well
                told.ok()
            }
        }
    }
}

impl<E: Ending> http_body::Body for Answers<E> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.replies.is_none() {
            return Poll::Ready(None);
        }
        let framed = match self.poll_went_wrong(cx) {
            Some(status) => self.end(&status),
            None => {
                let next = ready!(self.replies.as_mut().expect("checked above").poll_next(cx));
                self.next(next)
            }
        };
        Poll::Ready(Some(Ok(Frame::data(self.ending.carried(framed)))))
    }

    fn is_end_stream(&self) -> bool {
        self.replies.is_none()
    }
}
