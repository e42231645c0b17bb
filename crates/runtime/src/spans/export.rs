//! The one task that takes spans out of the queue: to a collector by OTLP, or to the log where there is none.
//!
//! Lives here: batching, the wire form of our spans, what is said of a collector that does not answer. Does not: the queue's bound (`spans`).
//! A collector that is slow or gone costs spans, counted, and nothing else: the queue fills and drops, nobody waits. Its failure is logged
//! once, and so is its return.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    InstrumentationScope, KeyValue,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanEvents, SpanExporter, SpanLinks},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{Counts, Dropped, Kind, Queue, Span, Spans, Value, Waiting, settings::Settings};
use crate::{Metrics, clock};

/// Target of the lines that stand for spans where there is no collector.
pub(crate) const TRACE: &str = "trace";

/// How often the queue is emptied.
pub(super) const EVERY: Duration = Duration::from_millis(500);
/// Spans in one message.
const BATCH: usize = 512;
/// Longest time for one batch, retries included, whatever the exporter thinks.
const PATIENCE: Duration = Duration::from_secs(15);

/// Returns the queue's two ends; off, without a reading end, if nobody wants spans. `logged` says whether lines that stand for them would be
/// written.
pub(crate) fn start(settings: &Settings, metrics: &Metrics, process: &str, logged: bool) -> (Spans, Option<Exporter>) {
    let counts = Counts::register(metrics, process);
    if settings.disabled || (settings.endpoint.is_none() && !logged) {
        return (Spans::off(), None);
    }
    let (spans, taken, queue) = Spans::on(counts);
    let to = settings
        .endpoint
        .as_ref()
        .map(|endpoint| Collector { endpoint: endpoint.clone(), resource: settings.resource.clone() });
    (spans, Some(Exporter { taken, queue, to }))
}

/// The reading end.
pub(crate) struct Exporter {
    taken: mpsc::Receiver<Waiting>,
    queue: Arc<Queue>,
    to: Option<Collector>,
}

struct Collector {
    endpoint: String,
    resource: Vec<(String, String)>,
}

impl Collector {
    /// Connects when first used. Has to be called inside a runtime.
    fn open(&self) -> Result<opentelemetry_otlp::SpanExporter, opentelemetry_otlp::ExporterBuildError> {
        let builder = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(&self.endpoint);
        let mut exporter = builder.build()?;
        let attributes = self.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
        let ours = [
            KeyValue::new("telemetry.sdk.name", "opentelemetry"),
            KeyValue::new("telemetry.sdk.language", "rust"),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ];
        exporter.set_resource(&Resource::builder_empty().with_attributes(ours).with_attributes(attributes).build());
        Ok(exporter)
    }
}

/// What is to be said of spans when their exporter has ended.
pub(crate) struct Settlement(Arc<Queue>);

impl Settlement {
    /// Counts the spans that the exporter left behind as lost, and returns how many they are.
    pub(crate) fn settle(&self) -> u64 {
        self.0.counts.settle()
    }
}

impl Exporter {
    /// For when it has ended, by itself or not.
    pub(crate) fn settlement(&self) -> Settlement {
        Settlement(self.queue.clone())
    }

    /// Exports until `stop`, and then what is left; whoever stops it bounds that.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let collector = match self.to.as_ref().map(Collector::open).transpose() {
            Ok(collector) => collector,
            Err(error) => {
                warn!(error = %error, "no spans are exported: check OTEL_EXPORTER_OTLP_*");
                return;
            }
        };
        let mut failing = false;
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let last = tokio::select! {
                _ = ticks.tick() => false,
                () = self.queue.half_full.notified() => false,
                () = stop.cancelled() => true,
            };
            while let Some(batch) = self.batch() {
                match &collector {
                    None => self.log(batch),
                    Some(collector) => failing = self.export(collector, batch, failing).await,
                }
            }
            if last {
                return;
            }
        }
    }

    /// The spans that wait, none if there are none.
    fn batch(&mut self) -> Option<Vec<SpanData>> {
        let (now, wall) = (Instant::now(), clock::wall());
        let waiting = std::iter::from_fn(|| self.taken.try_recv().ok()).take(BATCH);
        let batch: Vec<_> = waiting
            .map(|span| match span {
                Waiting::Ours(span) => data(*span, now, wall),
                Waiting::Tracing(data) => *data,
            })
            .collect();
        (!batch.is_empty()).then_some(batch)
    }

    /// Returns whether the collector fails.
    async fn export(&self, to: &opentelemetry_otlp::SpanExporter, batch: Vec<SpanData>, failing: bool) -> bool {
        let count = batch.len();
        let problem = match timeout(PATIENCE, to.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {PATIENCE:?}")),
        };
        match problem {
            None => {
                self.queue.counts.exported.inc_by(count as u64);
                if failing {
                    info!("the collector takes spans again");
                }
                false
            }
            Some(problem) => {
                self.queue.counts.dropped(Dropped::ExportFailed, count as u64);
                if !failing {
                    let endpoint = self.to.as_ref().map(|to| to.endpoint.as_str());
                    warn!(endpoint, error = problem, "the collector takes no spans; they are dropped until it does");
                }
                true
            }
        }
    }

    fn log(&self, batch: Vec<SpanData>) {
        for span in batch {
            let took = span.end_time.duration_since(span.start_time).unwrap_or_default();
            let result = result(&span);
            debug!(
                target: TRACE,
                trace_id = %span.span_context.trace_id(),
                span_id = %span.span_context.span_id(),
                parent_span_id = (span.parent_span_id != SpanId::INVALID).then(|| tracing::field::display(span.parent_span_id)),
                name = &*span.name,
                duration_ms = took.as_micros() as f64 / 1000.0,
                result = &*result,
                "span"
            );
            self.queue.counts.exported.inc();
        }
    }
}

/// How a call ended, for people: a server's span of a call that the caller got wrong is no error (OpenTelemetry's rules), and yet it is not "ok".
fn result(span: &SpanData) -> Cow<'_, str> {
    let told = |key: &str| span.attributes.iter().find(|it| it.key.as_str() == key).map(|it| &it.value);
    match &span.status {
        Status::Error { description } if description.is_empty() => Cow::Borrowed("error"),
        Status::Error { description } => Cow::Borrowed(description),
        Status::Ok | Status::Unset => match (told("rpc.response.status_code"), told("http.response.status_code")) {
            (Some(code), _) if code.as_str() != "OK" => code.as_str(),
            (_, Some(opentelemetry::Value::I64(status))) if *status >= 400 => Cow::Owned(status.to_string()),
            _ => Cow::Borrowed("ok"),
        },
    }
}

/// A span of ours in OpenTelemetry's form. Its times are told back from now, since it knows the monotonic clock only.
fn data(span: Span, now: Instant, wall: SystemTime) -> SpanData {
    let at = |instant: Instant| wall - now.saturating_duration_since(instant);
    let start_time = at(span.began);
    let kept = |value: Value| match value {
        Value::Text(text) => opentelemetry::Value::from(text.into_cow()),
        Value::Int(number) => number.into(),
        Value::Bool(yes) => yes.into(),
    };
    SpanData {
        span_context: SpanContext::new(
            TraceId::from(span.trace_id),
            SpanId::from(span.span_id),
            TraceFlags::SAMPLED,
            false,
            TraceState::NONE,
        ),
        parent_span_id: span.parent.map_or(SpanId::INVALID, SpanId::from),
        parent_span_is_remote: span.parent.is_some() && span.kind == Kind::Server,
        span_kind: match span.kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        },
        name: span.name.into_cow(),
        start_time,
        end_time: start_time + span.took,
        attributes: span.attributes.into_iter().map(|(key, value)| KeyValue::new(key, kept(value))).collect(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: span.error.map_or(Status::Unset, |error| Status::error(error.into_cow())),
        instrumentation_scope: InstrumentationScope::builder("weft").with_version(env!("CARGO_PKG_VERSION")).build(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::span;
    use super::*;

    #[test]
    fn a_span_keeps_its_ids_its_parent_and_its_time() {
        let (now, wall) = (Instant::now(), clock::wall());
        let ours =
            Span { parent: Some(9), began: now - Duration::from_secs(1), error: Some("UNAVAILABLE".into()), ..span(3) };
        let data = data(ours, now, wall);
        assert_eq!(data.span_context.trace_id().to_string(), format!("{:032x}", 7));
        assert_eq!((data.span_context.span_id(), data.parent_span_id), (SpanId::from(3_u64), SpanId::from(9_u64)));
        assert_eq!(data.start_time, wall - Duration::from_secs(1));
        assert_eq!(data.end_time.duration_since(data.start_time).unwrap(), Duration::from_millis(3));
        assert_eq!(data.attributes, [KeyValue::new("http.response.status_code", 200)]);
        assert_eq!(data.status, Status::error("UNAVAILABLE"));
    }

    #[tokio::test(start_paused = true)]
    async fn spans_that_a_dead_collector_cannot_take_are_counted_and_nobody_waits() {
        let metrics = Metrics::default();
        let env = crate::Env::from_pairs([("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")]);
        let (spans, exporter) = start(&Settings::read(&env, "gateway"), &metrics, "gateway", false);
        spans.offer(span(1));
        let stop = CancellationToken::new();
        stop.cancel();
        exporter.unwrap().run(stop).await;
        let text = metrics.encode();
        assert!(text.contains("weft_gateway_spans_dropped_total{reason=\"export_failed\"} 1\n"), "{text}");
    }

    #[test]
    fn a_call_that_its_caller_got_wrong_is_neither_an_error_nor_ok() {
        let ended = |attributes: &[(&'static str, opentelemetry::Value)], status| {
            let mut span = data(span(1), Instant::now(), clock::wall());
            span.attributes = attributes.iter().map(|(key, value)| KeyValue::new(*key, value.clone())).collect();
            span.status = status;
            result(&span).into_owned()
        };
        let grpc = |code: &'static str| [("rpc.response.status_code", code.into())];
        assert_eq!(ended(&grpc("OK"), Status::Unset), "ok");
        assert_eq!(ended(&grpc("NOT_FOUND"), Status::Unset), "NOT_FOUND");
        assert_eq!(ended(&grpc("UNAVAILABLE"), Status::error("UNAVAILABLE")), "UNAVAILABLE");
        assert_eq!(ended(&[("http.response.status_code", 201_i64.into())], Status::Unset), "ok");
        assert_eq!(ended(&[("http.response.status_code", 400_i64.into())], Status::Unset), "400");
    }

    #[tokio::test]
    async fn spans_are_lines_where_there_is_no_collector_and_somebody_reads_them() {
        let metrics = Metrics::default();
        let settings = Settings::read(&crate::Env::default(), "gateway");
        assert!(!start(&settings, &metrics, "registry", false).0.is_on());
        let (spans, exporter) = start(&settings, &metrics, "gateway", true);
        spans.offer(span(1));
        let stop = CancellationToken::new();
        stop.cancel();
        exporter.unwrap().run(stop).await;
        assert!(metrics.encode().contains("weft_gateway_spans_exported_total 1\n"));
    }
}
