//! Telemetry of calls: duration by method and code, and the trace context.
//!
//! Lives here: the layer and the report that outlives it in the answer's body. Does not: names and buckets (`metrics`), spans.
//! A valid `traceparent` passes unchanged: while hops record no span of their own, a new parent id would leave a hole in the trace.

use std::{sync::Arc, time::Duration};

use http::Response;
use tokio::time::Instant;

use crate::{
    Code, Error, Root, TraceContext,
    answer::Answer,
    metrics::CallMetrics,
    stage::{Called, Stage},
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
}

impl<S> Telemetry<S> {
    pub(crate) fn layer(side: Side, root: Root) -> impl tower::Layer<S, Service = Self> + use<S> {
        tower::layer::layer_fn(move |inner| Self { inner, side, root })
    }

    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }
}

impl<S: Stage<Called>> Stage<Called> for Telemetry<S> {
    async fn call(&self, mut call: Called) -> Result<Response<Answer>, Error> {
        if TraceContext::from_headers(&call.head.headers).is_none() {
            self.root.begin(&mut rand::rng()).write(&mut call.head.headers);
        }
        let mut report = Report {
            method: call.method.clone(),
            side: self.side,
            began: call.options.received,
            deadline: None,
            done: false,
        };
        match self.inner.call(call).await {
            Ok(response) => Ok(response.map(|answer| {
                report.deadline = answer.deadline();
                answer.with_report(report)
            })),
            Err(error) => {
                report.finish(error.grpc_code());
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
    deadline: Option<Instant>,
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

/// Dropped before its end: the caller left, or the deadline passed while nobody looked.
impl Drop for Report {
    fn drop(&mut self) {
        if !self.done {
            let now = Instant::now();
            let late = self.deadline.is_some_and(|deadline| now >= deadline);
            self.record(if late { Code::DeadlineExceeded } else { Code::Cancelled }, now);
        }
    }
}
