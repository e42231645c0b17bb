//! The answer's body on its way down: passes frames through, and notices how the call ends.
//!
//! Lives here: the deadline on the body, trailers for gRPC answers that break off, reading ahead of the caller, the end of every guard. Does not: what the
//! guards record (`flight`, `telemetry`), what is read ahead and tried again (`retry`).
//! Dropping it before its end resets the upstream stream, in both directions, and returns every count.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::{
    BodyError, Code, answer::held::Held, dialect::is_grpc, error::code_of_break, flight::Flight, limit::Permit,
    outcome::Outcome, replay, span::OpenSpan, telemetry::Report,
};

mod held;

/// In a box: it goes up by value through every layer, whose futures each have room for it twice.
pub(crate) struct Answer(Box<State>);

pub(crate) struct State {
    incoming: Incoming,
    /// Read ahead. In a box of its own: most answers of streams have nothing there.
    held: Option<Box<Held>>,
    flight: Flight,
    /// What the answer's headers say, should no trailers follow.
    headers_say: (Code, Outcome),
    format: Format,
    end: End,
    /// Set by `retry`: stops the request's body when nobody reads the answer any more.
    request_body: Option<Arc<replay::Shared>>,
    /// Set by `deadline`: when the body ends at the latest.
    deadline: Option<Instant>,
    /// Until then. Made when something has to be waited for: most answers are all there.
    sleep: Option<Pin<Box<Sleep>>>,
    /// Set by `retry` or `telemetry`, in sampled calls.
    span: Option<Box<OpenSpan>>,
    /// Set by `telemetry`.
    report: Option<Report>,
    /// Set by `limit`.
    permit: Option<Permit>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// An end before trailers is told in trailers.
    Grpc,
    /// An end before the end resets the stream.
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Reached(Code),
}

impl Answer {
    /// Wraps what upstream answered.
    pub(crate) fn of(response: Response<Incoming>, flight: Flight) -> Response<Self> {
        flight.answered();
        let (head, incoming) = response.into_parts();
        let headers_say = match Code::from_headers(&head.headers) {
            Some(code) => (code, Outcome::of_code(code, &head.headers)),
            None => {
                let code = if head.status.is_success() { Code::Unknown } else { Code::from_http(head.status) };
                (code, Outcome::of_http(head.status, &head.headers))
            }
        };
        let mut answer = Self(Box::new(State {
            incoming,
            held: None,
            flight,
            headers_say,
            format: if is_grpc(&head.headers) { Format::Grpc } else { Format::Other },
            end: End::Open,
            request_body: None,
            deadline: None,
            sleep: None,
            span: None,
            report: None,
            permit: None,
        }));
        if answer.incoming.is_end_stream() {
            answer.flight.settle(headers_say.1);
        }
        Response::from_parts(head, answer)
    }

    /// Reads ahead until the end, `until`, or more than `room` bytes, so that a call can still run elsewhere. What was read is handed on as it came. The error
    /// of an answer that broke off is no answer any more.
    ///
    /// Cancel-safe: what was read is held.
    pub(crate) async fn hold(&mut self, room: usize, until: Instant) -> Result<(), hyper::Error> {
        let end = std::future::poll_fn(|cx| {
            while self.end == End::Open && self.held.as_ref().is_none_or(|held| held.bytes() <= room) {
                match std::task::ready!(self.poll_incoming(cx)) {
                    None => break,
                    Some(frame) => self.held.get_or_insert_default().push(frame?),
                }
            }
            Poll::Ready(Ok(()))
        });
        // The timer is no work for an answer that is all there, as nearly all are.
        tokio::time::timeout_at(until, end).await.unwrap_or(Ok(()))
    }

    /// Trailers that were read ahead.
    pub(crate) fn held_trailers(&self) -> Option<&HeaderMap> {
        self.held.as_ref().and_then(|held| held.trailers())
    }

    /// Whether gRPC's trailers may follow.
    pub(crate) fn is_open_grpc(&self) -> bool {
        self.format == Format::Grpc && self.ended().is_none()
    }

    /// How the call ended, if nothing more comes from upstream.
    fn ended(&self) -> Option<Code> {
        match self.end {
            End::Reached(code) => Some(code),
            End::Open => self.incoming.is_end_stream().then_some(self.headers_say.0),
        }
    }

    pub(crate) fn with_request_body(mut self, request_body: Option<Arc<replay::Shared>>) -> Self {
        self.request_body = request_body;
        if self.end != End::Open {
            self.stop_request_body();
        }
        self
    }

    /// Ends the body at the deadline, unless it is over.
    pub(crate) fn until(mut self, deadline: Instant) -> Self {
        if self.ended().is_none() && self.deadline.is_none_or(|sooner| deadline < sooner) {
            self.deadline = Some(deadline);
        }
        self
    }

    pub(crate) fn with_permit(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }

    pub(crate) fn with_span(mut self, span: Box<OpenSpan>) -> Self {
        match self.ended() {
            Some(code) => span.finish(code),
            None => self.span = Some(span),
        }
        self
    }

    pub(crate) fn with_report(mut self, report: Report) -> Self {
        match self.ended() {
            Some(code) => report.finish(code),
            None => self.report = Some(report),
        }
        self
    }

    fn finish(&mut self, code: Code, outcome: Outcome) {
        self.end = End::Reached(code);
        self.flight.settle(outcome);
        (self.deadline, self.sleep) = (None, None);
        self.permit = None;
        self.stop_request_body(); // the call is over, whatever the client still sends
        self.tell(code);
    }

    /// Tells telemetry how the call ended.
    fn tell(&mut self, code: Code) {
        if let Some(span) = self.span.take() {
            span.finish(code);
        }
        if let Some(report) = self.report.take() {
            report.finish(code);
        }
    }

    /// Ends the body before its time: with trailers where the format has them, else with the error.
    fn break_off(&mut self, code: Code, outcome: Outcome, error: BodyError) -> Option<Result<Frame<Bytes>, BodyError>> {
        self.finish(code, outcome);
        match self.format {
            Format::Grpc => {
                let mut trailers = HeaderMap::new();
                code.write(&error.to_string(), &mut trailers);
                Some(Ok(Frame::trailers(trailers)))
            }
            Format::Other => Some(Err(error)),
        }
    }

    fn stop_request_body(&mut self) {
        if let Some(body) = self.request_body.take() {
            body.abandon();
        }
    }

    /// The next frame from upstream, and what its end means for every guard.
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = std::task::ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &polled {
            None => {
                let (code, outcome) = self.headers_say;
                self.finish(code, outcome);
            }
            Some(Err(error)) => self.finish(code_of_break(error), Outcome::BROKEN),
            Some(Ok(frame)) => match frame.trailers_ref() {
                None => self.flight.first_frame(),
                Some(trailers) => {
                    let code = Code::from_headers(trailers).unwrap_or(Code::Unknown);
                    let outcome = Outcome::of_code(code, trailers);
                    self.finish(code, outcome);
                }
            },
        }
        Poll::Ready(polled)
    }

    fn deadline_passed(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.deadline else { return false };
        self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline))).as_mut().poll(cx).is_ready()
    }
}

impl Deref for Answer {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl DerefMut for Answer {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.0
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.held.as_mut().and_then(|held| held.next()) {
            return Poll::Ready(Some(Ok(frame)));
        }
        if self.end != End::Open {
            return Poll::Ready(None);
        }
        match self.poll_incoming(cx) {
            Poll::Pending if self.deadline_passed(cx) => {
                let ended = self.break_off(Code::DeadlineExceeded, Outcome::DEADLINE, BodyError::Deadline);
                Poll::Ready(ended)
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => {
                let code = code_of_break(&error);
                Poll::Ready(self.break_off(code, Outcome::BROKEN, BodyError::Broken(error)))
            }
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.as_ref().is_none_or(|held| held.is_empty()) && self.ended().is_some()
    }

    /// Unknown when part of it was read ahead: hyper would add a `content-length` that upstream did not send.
    fn size_hint(&self) -> SizeHint {
        if self.held.is_some() { SizeHint::default() } else { self.incoming.size_hint() }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if self.end == End::Open && self.incoming.is_end_stream() {
            let (code, outcome) = self.headers_say;
            self.finish(code, outcome); // a reader that goes by `is_end_stream` does not ask for the end
        }
        if self.end == End::Open {
            self.stop_request_body();
            // The caller left, or the deadline passed while nobody looked.
            let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline) || self.flight.is_late();
            self.tell(if late { Code::DeadlineExceeded } else { Code::Cancelled });
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("format", &self.format).field("end", &self.end).finish_non_exhaustive()
    }
}
