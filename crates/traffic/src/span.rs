//! Spans of sampled calls, as the data path makes them: one for each attempt upstream, one for each call passed to the app.
//!
//! Lives here: the record, the handle it goes to, an open span that ends exactly once. Does not: ids and the decision (`trace`), where records
//! go from the handle, their wire form (whoever gave it).
//! An unsampled call, or a process in which nobody wants spans, makes none: not an id, not an allocation.
//! Source: OpenTelemetry semantic conventions for gRPC; differs: a call sent again has a client span for each attempt, beside each other, as
//! the conventions for HTTP have it, so that every server span hangs below the attempt that caused it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::HeaderMap;
use tokio::time::Instant;
use weft_model::ServiceName;

use crate::{Code, TraceContext, telemetry::Side};

/// A finished span.
#[derive(Debug, Clone, PartialEq)]
pub struct SpanRecord {
    /// Its trace.
    pub trace_id: u128,
    /// Its own id.
    pub span_id: u64,
    /// The span that caused it; none if the trace began with it.
    pub parent: Option<u64>,
    /// Which end of the call it is.
    pub end: End,
    /// Full name of the method, `shop.users.v1.Users/GetUser`; `_OTHER` if no directory knows it.
    pub method: Arc<str>,
    /// Service called; none if the call found no way to one.
    pub service: Option<ServiceName>,
    /// How it ended.
    pub code: Code,
    /// Attempts of the same call before this one.
    pub previous_attempts: u32,
    /// When it began.
    pub began: std::time::Instant,
    /// How long it took.
    pub took: Duration,
}

/// Which end of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was made.
    Client,
    /// It was served, by the app that it was passed to.
    Server,
}

impl SpanRecord {
    /// Whether the end counts as an error: at the client's end everything but OK, at the server's what is not the caller's doing.
    pub fn is_error(&self) -> bool {
        match (self.end, self.code) {
            (_, Code::Ok) => false,
            (End::Client, _) => true,
            (End::Server, code) => code.is_servers_fault(),
        }
    }
}

/// Takes finished spans; called on data threads, so it must not wait. Cheap to clone.
#[derive(Clone, Default)]
pub struct SpanSink(Option<Arc<dyn Fn(SpanRecord) + Send + Sync>>);

impl SpanSink {
    /// Nobody wants spans: none is made.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Hands spans to `take`.
    pub fn to(take: impl Fn(SpanRecord) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(take)))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for SpanSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SpanSink").field(&self.is_on()).finish()
    }
}

/// What the spans of one call have in common. Made for sampled calls only.
#[derive(Debug)]
pub(crate) struct CallTrace {
    sink: SpanSink,
    context: TraceContext,
    parent: Option<u64>,
    method: Arc<str>,
    received: Instant,
    attempted: AtomicBool,
}

impl CallTrace {
    pub(crate) fn new(
        sink: &SpanSink,
        context: TraceContext,
        parent: Option<u64>,
        method: Arc<str>,
        received: Instant,
    ) -> Self {
        Self { sink: sink.clone(), context, parent, method, received, attempted: AtomicBool::new(false) }
    }

    /// Opens the span of the call itself and writes it into the head that goes on.
    pub(crate) fn open(&self, side: Side, headers: &mut HeaderMap) -> OpenSpan {
        // A trace that begins here has no span yet: the id that its context was born with is free.
        let own = if self.parent.is_some() { self.context.child(&mut rand::rng()) } else { self.context };
        own.write(headers);
        self.span(side, own, self.received)
    }

    /// Opens the span of an attempt and writes it into the attempt's head.
    pub(crate) fn attempt(
        &self,
        headers: &mut HeaderMap,
        service: &ServiceName,
        previous: u32,
        deadline: Option<Instant>,
    ) -> Box<OpenSpan> {
        self.attempted.store(true, Relaxed);
        let own = self.context.child(&mut rand::rng());
        own.write(headers);
        let mut span = self.span(Side::Client, own, Instant::now());
        span.record.service = Some(service.clone());
        span.record.previous_attempts = previous;
        span.deadline = deadline;
        Box::new(span)
    }

    /// The call failed; one that was never sent is a span all the same, or its trace would not say why.
    pub(crate) fn failed(&self, code: Code) {
        if !self.attempted.load(Relaxed) {
            self.span(Side::Client, self.context.child(&mut rand::rng()), self.received).finish(code);
        }
    }

    fn span(&self, side: Side, own: TraceContext, began: Instant) -> OpenSpan {
        let end = match side {
            Side::Client => End::Client,
            Side::Server => End::Server,
        };
        let record = SpanRecord {
            trace_id: own.trace_id(),
            span_id: own.parent_id(),
            parent: self.parent,
            end,
            method: self.method.clone(),
            service: None,
            code: Code::Unknown,
            previous_attempts: 0,
            began: began.into_std(),
            took: Duration::ZERO,
        };
        OpenSpan { sink: self.sink.clone(), record, deadline: None, done: false }
    }
}

/// A span that has not ended. Dropped before its end: the caller left, or the deadline passed while nobody looked.
pub(crate) struct OpenSpan {
    sink: SpanSink,
    record: SpanRecord,
    deadline: Option<Instant>,
    done: bool,
}

impl OpenSpan {
    pub(crate) fn finish(mut self, code: Code) {
        self.end(code);
    }

    fn end(&mut self, code: Code) {
        self.done = true;
        if let Some(take) = &self.sink.0 {
            take(SpanRecord { code, took: self.record.began.elapsed(), ..self.record.clone() });
        }
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        if !self.done {
            let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            self.end(if late { Code::DeadlineExceeded } else { Code::Cancelled });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn what_is_the_callers_doing_is_an_error_at_the_clients_end_only() {
        let record = |end, code| {
            let context = TraceContext::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap();
            let taken = Arc::new(Mutex::new(Vec::new()));
            let sink = SpanSink::to({
                let taken = taken.clone();
                move |span| taken.lock().unwrap().push(span)
            });
            let trace = CallTrace::new(&sink, context, Some(context.parent_id()), "a.B/C".into(), Instant::now());
            trace.span(end, context, Instant::now()).finish(code);
            let span = taken.lock().unwrap().pop().unwrap();
            span.is_error()
        };
        let errors = |end| Code::ALL.into_iter().filter(|code| record(end, *code)).count();
        assert_eq!((errors(Side::Client), errors(Side::Server)), (16, 6));
        assert!(!record(Side::Server, Code::NotFound) && record(Side::Server, Code::Unavailable));
    }
}
