//! Telemetry of calls: duration by method and code, and the trace context.
//!
//! Lives here: the layer and the report that outlives it in the answer's body. Does not: names and buckets (`metrics`), what a span says
//! (`span`), the spans of attempts (`retry`, by what is put into the call here).
//! A valid `traceparent` passes unchanged where this hop records no span: a new parent id would leave a hole in the trace.

use std::{sync::Arc, time::Duration};

use http::Response;
use tokio::time::Instant;

use crate::{
    Code, Error, Root,
    answer::Answer,
    metrics::CallMetrics,
    span::{CallTrace, SpanSink},
    stage::{Called, Stage},
    trace::Entered,
    world::routes::Method,
};

/// Which end of a call is counted.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Counts calls, refused ones included, and begins traces that no caller began.
pub(crate) struct Telemetry<S> {
    inner: S,
    side: Side,
    root: Root,
    spans: SpanSink,
}

impl<S> Telemetry<S> {
    pub(crate) fn layer(side: Side, root: Root, spans: SpanSink) -> impl tower::Layer<S, Service = Self> + use<S> {
        tower::layer::layer_fn(move |inner| Self { inner, side, root, spans: spans.clone() })
    }

    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    /// Sees to the call's trace context; returns what its spans need if there are to be any.
    fn trace(&self, call: &mut Called) -> Option<CallTrace> {
        let entered = self.root.enter(&call.head.headers, &mut rand::rng());
        let context = entered.context();
        if !matches!(entered, Entered::Carried(_)) {
            context.write(&mut call.head.headers);
        }
        let wanted = context.sampled() && self.spans.is_on();
        let method = || call.method.name.clone();
        wanted.then(|| CallTrace::new(&self.spans, context, entered.parent(), method(), call.options.received))
    }
}

impl<S: Stage<Called>> Stage<Called> for Telemetry<S> {
    async fn call(&self, mut call: Called) -> Result<Response<Answer>, Error> {
        let mut span = None;
        if let Some(trace) = self.trace(&mut call) {
            match self.side {
                Side::Server => span = Some(Box::new(trace.open(self.side, &mut call.head.headers))),
                Side::Client => call.trace = Some(Arc::new(trace)),
            }
        }
        let trace = call.trace.clone();
        let report = Report { method: call.method.clone(), side: self.side, began: call.options.received, done: false };
        match self.inner.call(call).await {
            Ok(response) => Ok(response.map(|answer| {
                let answer = answer.with_report(report);
                match span {
                    Some(span) => answer.with_span(span),
                    None => answer,
                }
            })),
            Err(error) => {
                report.finish(error.grpc_code());
                if let Some(span) = span {
                    span.finish(error.grpc_code());
                }
                if let Some(trace) = trace {
                    trace.failed(error.grpc_code());
                }
                Err(error)
            }
        }
    }
}

/// A call to be counted once, at its end.
pub(crate) struct Report {
    method: Arc<Method>,
    side: Side,
    began: Instant,
    done: bool,
}

impl Report {
    pub(crate) fn finish(mut self, code: Code) {
        self.record(code, Instant::now());
    }

    fn record(&mut self, code: Code, now: Instant) {
        self.done = true;
        let took: Duration = now.saturating_duration_since(self.began);
        self.metrics().record(code, took);
    }

    fn metrics(&self) -> &CallMetrics {
        match self.side {
            Side::Client => &self.method.client,
            Side::Server => &self.method.server,
        }
    }
}

/// Dropped before its end: the caller left. An answer that is dropped says itself how it ended.
impl Drop for Report {
    fn drop(&mut self) {
        if !self.done {
            self.record(Code::Cancelled, Instant::now());
        }
    }
}
