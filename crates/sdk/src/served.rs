//! The call that a handler serves, for the calls that the handler makes.
//!
//! Lives here: reading a request's deadline and trace context, and having them at hand while the handler runs. Does not: ending the
//! call at its deadline (`guard`), writing them into another call (`channel`).
//! A task-local, because an author cannot forget to pass it on. What a handler awaits itself is part of the call; a task that it spawns
//! is not, since it may outlive the call: what that one calls has no deadline, and a trace of its own.
//! Source: W3C Trace Context, sections 3.2 and 3.3; `tracestate` means nothing without `traceparent`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tokio::time::Instant;
use tracing::{Instrument, Span};
use weft_model::timeout;
use weft_runtime::call::{self, Call};

use crate::call_span::CallSpan;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

tokio::task_local! {
    static SERVED: Arc<Served>;
}

/// Reads `grpc-timeout`; one that is malformed counts as none.
pub(crate) fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    timeout::read(headers.get(timeout::NAME)?.as_bytes())
}

/// What a call hands on to the calls made for it.
#[derive(Debug)]
pub(crate) struct Served {
    deadline: Option<Instant>,
    /// `traceparent` and `tracestate`; empty for a call that came outside of any trace.
    trace: HeaderMap,
    /// What a line logged meanwhile says; none outside of any trace.
    call: Option<Arc<Call>>,
    /// The call's own span; disabled in unsampled calls.
    span: Span,
}

impl Served {
    /// Reads the head of a request, now: its deadline counts from here. Opens its span if it is sampled and the process exports spans, of
    /// these services.
    pub(crate) fn read(headers: &HeaderMap, path: &str, exports: Option<&[&'static str]>) -> (Arc<Self>, CallSpan) {
        let deadline = timeout_of(headers).map(|left| Instant::now() + left);
        let mut trace = HeaderMap::new();
        let mut call_span = CallSpan::NONE;
        let mut call = None;
        if let Some(parent) = headers.get(TRACEPARENT) {
            trace.insert(TRACEPARENT, parent.clone());
            trace.extend(headers.get_all(TRACESTATE).iter().map(|state| (TRACESTATE, state.clone())));
            if let Some(Parent { trace_id, span_id, sampled }) = Parent::parse(parent.as_bytes()) {
                if let Some(services) = exports.filter(|_| sampled) {
                    call_span = CallSpan::server(path, services, trace_id, span_id);
                }
                let span_id = call_span.ids().map_or(span_id, |(_, id)| id);
                call = Some(Arc::new(Call { trace_id, span_id, method: path.to_owned() }));
            }
        }
        let span = call_span.span().cloned().unwrap_or_else(Span::none);
        (Arc::new(Served { deadline, trace, call, span }), call_span)
    }

    /// Returns the call that the running code serves; none outside of a handler.
    pub(crate) fn current() -> Option<Arc<Self>> {
        SERVED.try_with(Arc::clone).ok()
    }

    /// Returns when the call has to be answered.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Puts another call, to a method of `service`, into the same trace, unless it has one of its own. Returns its span.
    pub(crate) fn trace<B>(&self, request: &mut Request<B>, service: &str) -> CallSpan {
        if request.headers().contains_key(TRACEPARENT) {
            return CallSpan::NONE;
        }
        request.headers_mut().extend(self.trace.clone());
        if self.span.is_none() {
            return CallSpan::NONE;
        }
        let span = CallSpan::client(request.uri().path(), service);
        if let Some((trace_id, span_id)) = span.ids() {
            let value = format!("00-{trace_id:032x}-{span_id:016x}-01");
            let value = HeaderValue::try_from(value).expect("digits and dashes are valid in a header");
            request.headers_mut().insert(TRACEPARENT, value);
        }
        span
    }

    /// Runs `work` as a part of this call.
    pub(crate) fn within<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        SERVED.sync_scope(self.clone(), || call::within(self.call.clone(), || self.span.in_scope(work)))
    }

    /// Returns `work` as a part of this call.
    pub(crate) fn around<F: Future>(self: Arc<Self>, work: F) -> impl Future<Output = F::Output> {
        let (call, span) = (self.call.clone(), self.span.clone());
        SERVED.scope(self, call::around(call, work.instrument(span)))
    }
}

/// What `traceparent` says. Source: W3C Trace Context, section 3.2; a version above 00 is read by its first 55 bytes.
#[derive(Debug, PartialEq, Eq)]
struct Parent {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

impl Parent {
    fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut parts = text.split('-');
        let mut digits = |length| {
            let part = parts.next()?;
            let plain = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
            (part.len() == length && part.bytes().all(plain)).then_some(part)
        };
        let (version, trace, span, flags) = (digits(2)?, digits(32)?, digits(16)?, digits(2)?);
        let trace_id = u128::from_str_radix(trace, 16).ok()?;
        let span_id = u64::from_str_radix(span, 16).ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        let more = parts.next().is_some();
        let valid = version != "ff" && !(version == "00" && more) && trace_id != 0 && span_id != 0;
        valid.then_some(Parent { trace_id, span_id, sampled: flags & 1 == 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_or_there_is_none() {
        let parse = |text: &str| Parent::parse(text.as_bytes());
        let read = parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
        assert_eq!((read.trace_id, read.span_id), (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7));
        assert!(read.sampled);
        assert!(!parse("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-02-later").unwrap().sampled);
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }
}
