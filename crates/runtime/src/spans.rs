//! Spans of sampled calls on their way out of the process: a bounded queue between whoever served the call and the one task that exports.
//!
//! Lives here: the span as our code fills it, the queue's writing end. Does not: deciding what is sampled (`spans::settings` reads what the
//! operator wants, the data path and the SDK act on it), exporting (`spans::export`), turning `tracing` spans into these (`spans::subscriber`).
//! Invariants: offering never waits and never fails; what does not fit is dropped and counted. The reader looks twice a second, and
//! earlier only when the queue is half full: waking a thread for each span would cost more than the span.

pub(crate) mod export;
pub(crate) mod settings;
pub(crate) mod subscriber;

use std::{
    borrow::Cow,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use opentelemetry_sdk::trace::SpanData;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use tokio::sync::{Notify, mpsc};

use crate::Metrics;

pub use settings::Sampling;
pub use subscriber::{continue_trace, fail, ids, set};

/// Target of the spans that begin what is exported from a process that traces by `tracing`: its own spans inside such a one are exported,
/// too, and none outside.
pub const TARGET: &str = "weft::call";

/// Spans waiting to be exported: half a second at 16,000 a second.
const QUEUE: usize = 8192;

/// A finished span of a sampled call.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// The trace.
    pub trace_id: u128,
    /// This span in it.
    pub span_id: u64,
    /// The span that caused it; none for a root.
    pub parent: Option<u64>,
    /// Which end of which kind of work.
    pub kind: Kind,
    /// What was done, by a name from a bounded set: a method, a route.
    pub name: Text,
    /// When it began.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
    /// Facts, under the names of OpenTelemetry's semantic conventions.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it counts as an error; none if it does not.
    pub error: Option<Text>,
}

/// Which end of a call a span is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call that was served, or passed on to whoever serves it here.
    Server,
    /// A call that was made.
    Client,
}

/// Text that is static, shared or its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Text {
    /// Of the program.
    Static(&'static str),
    /// Of somebody who keeps it.
    Shared(Arc<str>),
    /// Made for the span.
    Owned(String),
}

impl Text {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Static(text) => text,
            Self::Shared(text) => text,
            Self::Owned(text) => text,
        }
    }

    fn into_cow(self) -> Cow<'static, str> {
        match self {
            Self::Static(text) => text.into(),
            Self::Shared(text) => text.to_string().into(),
            Self::Owned(text) => text.into(),
        }
    }
}

impl From<&'static str> for Text {
    fn from(text: &'static str) -> Self {
        Self::Static(text)
    }
}

impl From<Arc<str>> for Text {
    fn from(text: Arc<str>) -> Self {
        Self::Shared(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::Owned(text)
    }
}

/// Value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    Text(Text),
    /// A number.
    Int(i64),
    /// A yes or no.
    Bool(bool),
}

impl<T: Into<Text>> From<T> for Value {
    fn from(text: T) -> Self {
        Self::Text(text.into())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<bool> for Value {
    fn from(yes: bool) -> Self {
        Self::Bool(yes)
    }
}

/// Where finished spans go. Cheap to clone. Off where nobody wants them: then none is to be made.
#[derive(Clone, Default)]
pub struct Spans(Option<Arc<Queue>>);

struct Queue {
    waiting: mpsc::Sender<Waiting>,
    half_full: Notify,
    counts: Counts,
}

/// A span in the queue: ours, or one that `tracing` made.
enum Waiting {
    Ours(Box<Span>),
    Tracing(Box<SpanData>),
}

impl Spans {
    /// Takes no span.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Whether anybody wants spans; if not, making one is a waste.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Queues a span, or drops and counts it.
    pub fn offer(&self, span: Span) {
        if let Some(queue) = &self.0 {
            queue.push(Waiting::Ours(Box::new(span)));
        }
    }

    fn on(counts: Counts) -> (Self, mpsc::Receiver<Waiting>, Arc<Queue>) {
        let (waiting, taken) = mpsc::channel(QUEUE);
        let queue = Arc::new(Queue { waiting, half_full: Notify::new(), counts });
        (Self(Some(queue.clone())), taken, queue)
    }
}

impl Queue {
    fn push(&self, span: Waiting) {
        self.counts.recorded.inc();
        if self.waiting.try_send(span).is_err() {
            self.counts.dropped(Dropped::QueueFull, 1);
        } else if self.waiting.capacity() <= QUEUE / 2 {
            self.half_full.notify_one(); // from the half on each push: two at once may both see more than the half
        }
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spans").field(&self.is_on()).finish()
    }
}

/// What became of spans.
#[derive(Debug, Clone, Default)]
struct Counts {
    recorded: Counter,
    exported: Counter,
    dropped: Family<Reason, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Why a span was lost.
#[derive(Debug, Clone, Copy)]
enum Dropped {
    QueueFull,
    ExportFailed,
}

impl Dropped {
    const ALL: [Self; 2] = [Self::QueueFull, Self::ExportFailed];

    const fn label(self) -> Reason {
        let reason = match self {
            Self::QueueFull => "queue_full",
            Self::ExportFailed => "export_failed",
        };
        Reason { reason }
    }
}

impl Counts {
    fn register(metrics: &Metrics, process: &str) -> Self {
        let it = Self::default();
        for reason in Dropped::ALL {
            it.dropped(reason, 0); // a series that appears only in trouble cannot be alerted on
        }
        let name = |noun: &str| format!("weft_{process}_{noun}");
        metrics.register(|registry| {
            registry.register(name("spans"), "Spans of sampled calls that were recorded", it.recorded.clone());
            registry.register(
                name("spans_exported"),
                "Spans that the collector took, or that were logged where there is none",
                it.exported.clone(),
            );
            registry.register(
                name("spans_dropped"),
                "Spans lost: the queue was full, or the collector did not take them",
                it.dropped.clone(),
            );
        });
        it
    }

    fn dropped(&self, why: Dropped, count: u64) {
        self.dropped.get_or_create(&why.label()).inc_by(count);
    }

    /// Counts what was recorded and came to nothing as lost; returns how much that is. Only when nobody exports any more.
    fn settle(&self) -> u64 {
        let dropped = Dropped::ALL.map(|why| self.dropped.get_or_create(&why.label()).get());
        let lost = self.recorded.get().saturating_sub(self.exported.get() + dropped.iter().sum::<u64>());
        self.dropped(Dropped::ExportFailed, lost);
        lost
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn span(span_id: u64) -> Span {
        Span {
            trace_id: 7,
            span_id,
            parent: None,
            kind: Kind::Server,
            name: "GET /".into(),
            began: Instant::now(),
            took: Duration::from_millis(3),
            attributes: vec![("http.response.status_code", 200.into())],
            error: None,
        }
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_never_waits() {
        let metrics = Metrics::default();
        let (spans, taken, _) = Spans::on(Counts::register(&metrics, "gateway"));
        for id in 0..QUEUE as u64 + 5 {
            spans.offer(span(id + 1));
        }
        assert_eq!(taken.len(), QUEUE);
        let text = metrics.encode();
        assert!(text.contains(&format!("weft_gateway_spans_total {}\n", QUEUE + 5)), "{text}");
        assert!(text.contains("weft_gateway_spans_dropped_total{reason=\"queue_full\"} 5\n"), "{text}");
        assert!(text.contains("weft_gateway_spans_dropped_total{reason=\"export_failed\"} 0\n"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_more_than_half_full_wakes_its_reader_at_whichever_span() {
        let (spans, _taken, queue) = Spans::on(Counts::register(&Metrics::default(), "gateway"));
        for id in 1..=QUEUE as u64 / 2 {
            spans.offer(span(id));
        }
        let woken = || tokio::time::timeout(Duration::from_secs(1), queue.half_full.notified());
        assert!(woken().await.is_ok() && woken().await.is_err());
        spans.offer(span(1));
        assert!(woken().await.is_ok());
    }

    #[test]
    fn nobody_who_wants_spans_gets_none() {
        Spans::off().offer(span(1));
        assert!(!Spans::off().is_on());
    }
}
