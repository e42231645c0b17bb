//! The answer's body on its way down: passes frames through, and notices how the call ends.
//!
//! Lives here: the deadline on the body, trailers for gRPC answers that break off, the end of every guard. Does not: what the guards record (`flight`,
//! `telemetry`), retrying (too late after headers).
//! Dropping it before its end resets the upstream stream, in both directions, and returns every count.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Response, header::CONTENT_TYPE};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::{
    BodyError, Code, error::code_of_break, flight::Flight, limit::Permit, outcome::Outcome, replay, span::OpenSpan,
    telemetry::Report,
};

pub(crate) struct Answer {
    incoming: Incoming,
    flight: Flight,
    /// What the answer's headers say, should no trailers follow.
    headers_say: (Code, Outcome),
    format: Format,
    end: End,
    /// Set by `retry`: stops the request's body when nobody reads the answer any more.
    request_body: Option<Arc<replay::Shared>>,
    /// Set by `deadline`. Boxed: most calls have none.
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
    Reached,
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
        let grpc = head.headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        let mut answer = Self {
            incoming,
            flight,
            headers_say,
            format: if grpc { Format::Grpc } else { Format::Other },
            end: End::Open,
            request_body: None,
            sleep: None,
            span: None,
            report: None,
            permit: None,
        };
        if answer.incoming.is_end_stream() {
            answer.flight.settle(headers_say.1);
        }
        Response::from_parts(head, answer)
    }

    pub(crate) fn with_request_body(mut self, request_body: Option<Arc<replay::Shared>>) -> Self {
        self.request_body = request_body;
        self
    }

    /// Ends the body at the deadline, unless it is over.
    pub(crate) fn until(mut self, deadline: Instant) -> Self {
        self.sleep = (!self.incoming.is_end_stream()).then(|| Box::pin(tokio::time::sleep_until(deadline)));
        self
    }

    /// When the body ends at the latest.
    fn deadline(&self) -> Option<Instant> {
        self.sleep.as_ref().map(|sleep| sleep.deadline())
    }

    pub(crate) fn with_permit(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }

    pub(crate) fn with_span(mut self, span: Box<OpenSpan>) -> Self {
        if self.incoming.is_end_stream() {
            span.finish(self.headers_say.0);
        } else {
            self.span = Some(span);
        }
        self
    }

    pub(crate) fn with_report(mut self, report: Report) -> Self {
        if self.incoming.is_end_stream() {
            report.finish(self.headers_say.0);
        } else {
            self.report = Some(report);
        }
        self
    }

    fn finish(&mut self, code: Code, outcome: Outcome) {
        self.end = End::Reached;
        self.flight.settle(outcome);
        self.sleep = None;
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

    fn deadline_passed(&mut self, cx: &mut Context<'_>) -> bool {
        self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.end == End::Reached {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending if self.deadline_passed(cx) => {
                let ended = self.break_off(Code::DeadlineExceeded, Outcome::DEADLINE, BodyError::Deadline);
                Poll::Ready(ended)
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                let (code, outcome) = self.headers_say;
                self.finish(code, outcome);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let code = code_of_break(&error);
                Poll::Ready(self.break_off(code, Outcome::BROKEN, BodyError::Broken(error)))
            }
            Poll::Ready(Some(Ok(frame))) => {
                match frame.trailers_ref() {
                    None => self.flight.first_frame(),
                    Some(trailers) => {
                        let code = Code::from_headers(trailers).unwrap_or(Code::Unknown);
                        let outcome = Outcome::of_code(code, trailers);
                        self.finish(code, outcome);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end == End::Reached || self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
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
            let late = self.deadline().is_some_and(|deadline| Instant::now() >= deadline);
            self.tell(if late { Code::DeadlineExceeded } else { Code::Cancelled });
        }
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("format", &self.format).field("end", &self.end).finish_non_exhaustive()
    }
}
