//! The span of a sampled call, served or made: what it says, and its one end.
//!
//! Lives here: names and attributes, the body that notices the end of an answer. Does not: which calls have one (`served`), the export
//! (`weft-runtime`). Unsampled calls have none.
//! Source: OpenTelemetry semantic conventions for gRPC.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};
use tracing::Span;
use weft_runtime::spans::{self, TARGET};

/// A span until its call has ended; dropped before that, the call was cancelled.
#[derive(Debug)]
pub(crate) struct CallSpan {
    span: Option<Span>,
    side: Side,
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Client,
    Server,
}

impl CallSpan {
    /// Of no call that is sampled.
    pub(crate) const NONE: Self = CallSpan { span: None, side: Side::Server };

    /// Opens the span of a call that came from another process. A method of none of these services may have any name, so it has none.
    pub(crate) fn server(path: &str, services: &[&'static str], trace_id: u128, parent: u64) -> Self {
        let method = path.trim_start_matches('/');
        let known = method.split_once('/').is_some_and(|(service, _)| services.contains(&service));
        let method = if known { method } else { "_OTHER" };
        let span = tracing::info_span!(
            target: TARGET,
            parent: None,
            "call",
            otel.name = method,
            otel.kind = "server",
            rpc.system.name = "grpc",
            rpc.method = method,
        );
        spans::continue_trace(&span, trace_id, parent);
        CallSpan { span: Some(span), side: Side::Server }
    }

    /// Opens the span of a call to `service`, below whatever runs now.
    pub(crate) fn client(path: &str, service: &str) -> Self {
        let method = path.trim_start_matches('/');
        let span = tracing::info_span!(
            target: TARGET,
            "call",
            otel.name = method,
            otel.kind = "client",
            rpc.system.name = "grpc",
            rpc.method = method,
            server.address = service,
        );
        CallSpan { span: Some(span), side: Side::Client }
    }

    /// The span, for what runs in it.
    pub(crate) fn span(&self) -> Option<&Span> {
        self.span.as_ref()
    }

    /// Trace and id, if it is exported.
    pub(crate) fn ids(&self) -> Option<(u128, u64)> {
        spans::ids(self.span.as_ref()?)
    }

    /// Ends it, once.
    pub(crate) fn end(&mut self, code: Code) {
        let Some(span) = self.span.take() else { return };
        let name = name(code);
        spans::set(&span, "rpc.response.status_code", name);
        if is_error(self.side, code) {
            spans::fail(&span, name);
        }
    }

    /// Ends it with the status in these headers or trailers, if there is one.
    pub(crate) fn end_with(&mut self, headers: &HeaderMap) {
        if self.span.is_some()
            && let Some(status) = Status::from_header_map(headers)
        {
            self.end(status.code());
        }
    }

    /// Ties the end to that of an answer.
    pub(crate) fn around(mut self, answer: Response<Body>) -> Response<Body> {
        self.end_with(answer.headers());
        if self.span.is_none() {
            return answer;
        }
        answer.map(|inner| Body::new(Spanned { inner, span: self }))
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The body of an answer with the span of its call.
struct Spanned {
    inner: Body,
    span: CallSpan,
}

impl http_body::Body for Spanned {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.span.end_with(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => self.span.end(status.code()),
            Poll::Ready(None) => self.span.end(Code::Unknown), // an answer without a status
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// At the client's end everything but OK; at the server's what is not the caller's doing.
fn is_error(side: Side, code: Code) -> bool {
    match (side, code) {
        (_, Code::Ok) => false,
        (Side::Client, _) => true,
        (Side::Server, code) => matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
    }
}

/// The protocol's name.
const fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_mistake_is_an_error_of_the_call_made_and_not_of_the_call_served() {
        assert!(is_error(Side::Client, Code::NotFound) && !is_error(Side::Server, Code::NotFound));
        assert!(is_error(Side::Server, Code::Unavailable));
        assert!(!is_error(Side::Client, Code::Ok));
    }
}
