//! The one body of the path: frames pass through unparsed, whoever makes them.
//!
//! Lives here: the kinds of body, the channel kind's sender, the error. Does not: what the stack adds to an upstream answer (`answer`), replay (`replay`).
//! Back-pressure: every kind is pulled by its reader; a channel holds at most its capacity in frames.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use http_body_util::{BodyExt, channel, combinators::UnsyncBoxBody};
use hyper::body::Incoming;

use crate::answer::Answer;

/// Why a body ended early.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The peer's stream or connection broke; its reset reason is kept as the source.
    #[error("stream broke off")]
    Broken(#[source] hyper::Error),
    /// The reader of the answer left, or the call was given up: nobody wants the rest.
    #[error("nobody waits for the rest")]
    Abandoned(#[source] h2::Error),
    /// The call's deadline passed.
    #[error("deadline exceeded")]
    Deadline,
    /// The maker of a channel or boxed body failed.
    #[error("body failed")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl BodyError {
    /// The stream ends with RST_STREAM CANCEL.
    pub(crate) fn abandoned() -> Self {
        Self::Abandoned(h2::Reason::CANCEL.into())
    }
}

/// A body of a request or an answer. Cheap to move; `Send`, `Unpin`.
pub struct Body(Kind);

pub(crate) enum Kind {
    Empty,
    Full(Bytes),
    Incoming(Incoming),
    Channel(channel::Channel<Bytes, BodyError>),
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
    Answer(Answer),
}

impl Body {
    /// A body without a byte.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// A body that is all there.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self(if bytes.is_empty() { Kind::Empty } else { Kind::Full(bytes) })
    }

    /// A body made while it is read. At most `frames` (at least 1) wait in between; then the sender waits.
    pub fn channel(frames: usize) -> (BodySender, Self) {
        let (sender, channel) = channel::Channel::new(frames.max(1));
        (BodySender(sender), Self(Kind::Channel(channel)))
    }

    /// Any other body. Costs a box.
    pub fn boxed<B>(body: B) -> Self
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        Self(Kind::Boxed(body.map_err(|e| BodyError::Source(e.into())).boxed_unsync()))
    }
}

impl From<Incoming> for Body {
    fn from(incoming: Incoming) -> Self {
        Self(Kind::Incoming(incoming))
    }
}

impl From<Answer> for Body {
    fn from(answer: Answer) -> Self {
        Self(Kind::Answer(answer))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::full(bytes)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Kind::Empty => Poll::Ready(None),
            full @ Kind::Full(_) => {
                let Kind::Full(bytes) = std::mem::replace(full, Kind::Empty) else { return Poll::Ready(None) };
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Kind::Incoming(body) => Pin::new(body).poll_frame(cx).map_err(BodyError::Broken),
            Kind::Channel(body) => Pin::new(body).poll_frame(cx),
            Kind::Boxed(body) => Pin::new(body).poll_frame(cx),
            Kind::Answer(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Full(_) => false,
            Kind::Incoming(body) => body.is_end_stream(),
            Kind::Channel(body) => body.is_end_stream(),
            Kind::Boxed(body) => body.is_end_stream(),
            Kind::Answer(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Incoming(body) => body.size_hint(),
            Kind::Channel(body) => body.size_hint(),
            Kind::Boxed(body) => body.size_hint(),
            Kind::Answer(body) => body.size_hint(),
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.0 {
            Kind::Empty => "empty",
            Kind::Full(_) => "full",
            Kind::Incoming(_) => "incoming",
            Kind::Channel(_) => "channel",
            Kind::Boxed(_) => "boxed",
            Kind::Answer(_) => "answer",
        };
        f.debug_struct("Body").field("kind", &kind).finish_non_exhaustive()
    }
}

/// The reader of a channel body is gone; the sender may stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody reads this body any more")]
pub struct Closed;

/// The writing end of [`Body::channel`]. Dropping it ends the body in good order.
#[derive(Debug)]
pub struct BodySender(channel::Sender<Bytes, BodyError>);

impl BodySender {
    /// Sends data; waits while the channel is full. Cancel-safe: a frame is sent or not.
    pub async fn data(&mut self, data: Bytes) -> Result<(), Closed> {
        self.0.send_data(data).await.map_err(|_| Closed)
    }

    /// Sends trailers and ends the body.
    pub async fn trailers(mut self, trailers: HeaderMap) -> Result<(), Closed> {
        self.0.send_trailers(trailers).await.map_err(|_| Closed)
    }

    /// Ends the body in failure: its reader gets the error, an h2 stream is reset.
    pub fn fail(self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) {
        self.0.abort(BodyError::Source(error.into()));
    }
}
