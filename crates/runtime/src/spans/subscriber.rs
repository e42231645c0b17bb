//! `tracing` spans as spans of a trace, for processes that are no data path: a service's own code may add spans with `tracing` alone.
//!
//! Lives here: the subscriber's layer and which spans it sees. Does not: beginning a trace (the SDK's server layer does, for sampled calls).
//! Only what runs inside a span of target [`TARGET`] is seen: in an unsampled call there is none, so no span of that call is made, not even
//! to be thrown away (which costs 1.5 µs each). Details below level info and events are not spans of a call.
//! Source: tracing-opentelemetry 0.34.

use std::time::Duration;

use opentelemetry::{
    Context,
    trace::{SpanContext, SpanId, Status, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider as _},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use tracing::{Level, Metadata, Subscriber, subscriber::Interest};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    Layer,
    layer::{Context as Spot, Filter},
    registry::LookupSpan,
};

use super::{Spans, TARGET, Waiting};

/// Returns the layer; its spans go to `spans`.
pub(crate) fn layer<S>(spans: Spans) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    // Every span that gets here belongs to a sampled call: the provider has nothing left to decide.
    let provider =
        SdkTracerProvider::builder().with_sampler(Sampler::AlwaysOn).with_span_processor(Forward(spans)).build();
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("weft"))
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(WithinACall)
}

struct WithinACall;

impl WithinACall {
    fn may(metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && *metadata.level() <= Level::INFO
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Filter<S> for WithinACall {
    fn enabled(&self, metadata: &Metadata<'_>, spot: &Spot<'_, S>) -> bool {
        Self::may(metadata) && (metadata.target() == TARGET || spot.lookup_current().is_some())
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        match Self::may(metadata) {
            true => Interest::sometimes(),
            false => Interest::never(),
        }
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::INFO)
    }
}

/// Puts finished spans into the process's one queue.
#[derive(Debug)]
struct Forward(Spans);

impl SpanProcessor for Forward {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if let Some(queue) = &self.0.0 {
            queue.push(Waiting::Tracing(Box::new(span)));
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(()) // the queue is flushed by its reader
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Makes a span of target [`TARGET`] the child of a span in another process. Before it is entered, and before [`ids`].
pub fn continue_trace(span: &tracing::Span, trace_id: u128, parent: u64) {
    let (trace, parent) = (TraceId::from(trace_id), SpanId::from(parent));
    let caller = SpanContext::new(trace, parent, TraceFlags::SAMPLED, true, TraceState::NONE);
    // Fails where no layer listens, and then there is no trace to continue.
    let _ = span.set_parent(Context::new().with_remote_span_context(caller));
}

/// Returns trace and id of a span, for the calls made in it; none if it is not exported.
pub fn ids(span: &tracing::Span) -> Option<(u128, u64)> {
    let context = span.context();
    let context = context.span().span_context().clone();
    let id = |bytes: [u8; 8]| u64::from_be_bytes(bytes);
    context.is_valid().then(|| (u128::from_be_bytes(context.trace_id().to_bytes()), id(context.span_id().to_bytes())))
}

/// Adds an attribute to a span.
pub fn set(span: &tracing::Span, name: &'static str, value: &'static str) {
    span.set_attribute(name, value);
}

/// Makes a span count as an error.
pub fn fail(span: &tracing::Span, why: &'static str) {
    span.set_attribute("error.type", why);
    span.set_status(Status::error(why));
}

#[cfg(test)]
mod tests {
    use tracing::{info_span, subscriber::with_default, trace_span};
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::{Metrics, spans::Counts};

    #[test]
    fn spans_are_made_within_a_sampled_call_only_and_hang_together() {
        let (spans, mut taken, _) = Spans::on(Counts::register(&Metrics::default(), "users"));
        with_default(tracing_subscriber::registry().with(layer(spans)), || {
            info_span!("of an unsampled call, or of none").in_scope(|| ());
            let call = info_span!(target: TARGET, "call");
            continue_trace(&call, 7, 9);
            let (trace, _) = ids(&call).unwrap();
            assert_eq!(trace, 7);
            fail(&call, "UNAVAILABLE");
            call.in_scope(|| {
                trace_span!("a detail").in_scope(|| info_span!("look up").in_scope(|| ()));
            });
            info_span!("afterwards").in_scope(|| ());
        });
        let mut next = || match taken.try_recv().ok()? {
            Waiting::Tracing(data) => Some(*data),
            Waiting::Ours(_) => None,
        };
        let (inner, call) = (next().unwrap(), next().unwrap());
        assert_eq!((&*inner.name, &*call.name), ("look up", "call"));
        assert_eq!(inner.parent_span_id, call.span_context.span_id());
        assert_eq!((call.parent_span_id, call.parent_span_is_remote), (SpanId::from(9_u64), true));
        assert_eq!(call.status, Status::error("UNAVAILABLE"));
        assert!(next().is_none());
    }
}
