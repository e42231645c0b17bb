//! Replay: a request's body on its way upstream, with a copy of what was sent while the call may still have to be sent again.
//!
//! Lives here: the copy (at most 64 KiB), handing the rest of the body from one attempt to the next. Does not: deciding that (`retry`).
//! The body flows while the client still sends: nothing is collected before the first attempt starts. Past the cap or after response headers the copy is
//! dropped and the body only passes through. A body that is all there when the call begins (nearly every unary call) needs none of the sharing.
//! Locking: the mutex of a shared body is touched by this call's own attempt only; it is there because the transport polls the body in a task of its own.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use crate::{Body, BodyError};

/// How much of a body is kept (Linkerd's figure).
pub(crate) const CAP: usize = 64 << 10;

/// What a call keeps of its body.
#[derive(Debug)]
pub(crate) enum Replay {
    /// No body.
    Empty,
    /// All of it, in one piece, within the cap.
    Whole(Bytes),
    /// A body that comes while it is sent.
    Shared(Arc<Shared>),
}

/// The body of one attempt, as the transport reads it.
#[derive(Debug)]
pub(crate) enum SendBody {
    Empty,
    Whole(Option<Bytes>),
    Shared { shared: Arc<Shared>, attempt: u32, at_end: bool },
}

#[derive(Debug)]
pub(crate) struct Shared(Mutex<State>);

#[derive(Debug)]
struct State {
    /// The attempt that may read; readers of earlier ones are told to stop.
    attempt: u32,
    source: Body,
    /// Frames sent, while `keeping`.
    kept: Vec<Bytes>,
    kept_bytes: usize,
    keeping: bool,
    /// Next kept frame the current attempt sends; beyond them it reads `source`.
    next: usize,
    trailers: Option<HeaderMap>,
    /// By the current attempt.
    trailers_sent: bool,
    end: End,
    reader: Option<Waker>,
}

/// How far the source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Complete,
    /// The client broke off.
    Failed,
    /// The call is over; nobody wants the rest.
    Abandoned,
}

impl Replay {
    /// Takes over a body. Looks once, without waiting, whether it is all there.
    pub(crate) async fn of(mut source: Body) -> Self {
        if source.is_end_stream() {
            return Self::Empty;
        }
        let first = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut source).poll_frame(cx))).await;
        let mut state = State {
            attempt: 0,
            source,
            kept: Vec::new(),
            kept_bytes: 0,
            keeping: true,
            next: 0,
            trailers: None,
            trailers_sent: false,
            end: End::Open,
            reader: None,
        };
        match first {
            Poll::Pending => {}
            Poll::Ready(None) => return Self::Empty,
            Poll::Ready(Some(Err(_))) => state.end = End::Failed,
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) if state.source.is_end_stream() && data.len() <= CAP => return Self::Whole(data),
                Ok(data) => state.take_first(data),
                Err(frame) => state.trailers = frame.into_trailers().ok(),
            },
        }
        if state.trailers.is_some() || (state.end == End::Open && state.source.is_end_stream()) {
            state.end = End::Complete;
        }
        Self::Shared(Arc::new(Shared(Mutex::new(state))))
    }

    /// The body of the next attempt. Stops the reader of the one before.
    pub(crate) fn attempt(&self) -> SendBody {
        match self {
            Self::Empty => SendBody::Empty,
            Self::Whole(bytes) => SendBody::Whole(Some(bytes.clone())),
            Self::Shared(shared) => {
                SendBody::Shared { attempt: shared.next_attempt(), shared: shared.clone(), at_end: false }
            }
        }
    }

    /// Whether another attempt would send the same.
    pub(crate) fn can_repeat(&self) -> bool {
        match self {
            Self::Empty | Self::Whole(_) => true,
            Self::Shared(shared) => {
                let state = shared.lock();
                state.keeping && state.end != End::Failed
            }
        }
    }

    /// Whether the client broke its body off.
    pub(crate) fn client_left(&self) -> bool {
        matches!(self, Self::Shared(shared) if shared.lock().end == End::Failed)
    }

    /// The attempt in hand is the last one: drops the copy, and returns what can stop the body.
    pub(crate) fn commit(self) -> Option<Arc<Shared>> {
        let Self::Shared(shared) = self else { return None };
        shared.lock().commit();
        Some(shared)
    }
}

impl Shared {
    /// Nobody wants the rest: the reader ends with an error, which resets the stream.
    pub(crate) fn abandon(&self) {
        let reader = {
            let mut state = self.lock();
            if state.all_sent() {
                return;
            }
            state.end = End::Abandoned;
            state.source = Body::empty();
            state.reader.take()
        };
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn next_attempt(&self) -> u32 {
        let mut state = self.lock();
        state.attempt += 1;
        state.next = 0;
        state.trailers_sent = false;
        state.attempt
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The first frame, taken before any attempt: it is kept even beyond the cap until the first attempt has sent it.
    fn take_first(&mut self, data: Bytes) {
        self.kept_bytes = data.len();
        self.kept.push(data);
    }

    fn commit(&mut self) {
        self.keeping = false;
        self.kept.drain(..self.next.min(self.kept.len()));
        self.next = 0;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(data) = self.kept.get(self.next).cloned() {
            self.next += 1;
            if !self.keeping || self.kept_bytes > CAP {
                self.commit(); // sent for good
            }
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match self.end {
            End::Open => {}
            End::Complete => return Poll::Ready(self.trailers().map(|trailers| Ok(Frame::trailers(trailers)))),
            End::Failed | End::Abandoned => return Poll::Ready(Some(Err(BodyError::abandoned()))),
        }
        match std::task::ready!(Pin::new(&mut self.source).poll_frame(cx)) {
            None => {
                self.end = End::Complete;
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.end = End::Failed;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    self.keep(&data);
                    if self.source.is_end_stream() {
                        self.end = End::Complete;
                    }
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
                Err(frame) => {
                    self.end = End::Complete;
                    self.trailers = frame.into_trailers().ok();
                    Poll::Ready(self.trailers().map(|trailers| Ok(Frame::trailers(trailers))))
                }
            },
        }
    }

    fn trailers(&mut self) -> Option<HeaderMap> {
        if std::mem::replace(&mut self.trailers_sent, true) { None } else { self.trailers.clone() }
    }

    fn keep(&mut self, data: &Bytes) {
        if !self.keeping {
            return;
        }
        self.kept_bytes += data.len();
        if self.kept_bytes > CAP {
            self.commit();
        } else {
            self.kept.push(data.clone());
            self.next += 1;
        }
    }

    fn all_sent(&self) -> bool {
        let trailers_sent = self.trailers.is_none() || self.trailers_sent;
        self.end == End::Complete && self.next >= self.kept.len() && trailers_sent
    }
}

impl http_body::Body for SendBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Shared { shared, attempt, at_end } => {
                let mut state = shared.lock();
                if state.attempt != *attempt {
                    return Poll::Ready(Some(Err(BodyError::abandoned())));
                }
                let polled = state.poll(cx);
                match &polled {
                    Poll::Pending => state.reader = Some(cx.waker().clone()),
                    Poll::Ready(_) => *at_end = state.all_sent(),
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_none(),
            Self::Shared { at_end, .. } => *at_end,
        }
    }

    /// Unknown on purpose: hyper would add a `content-length` that the caller did not send.
    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests;
