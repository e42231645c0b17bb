//! Logs: one JSON object a line, or text for people, always on stderr.
//!
//! Lives here: format, filter, where lines go, the layer for traces beside them. Does not: what is logged, which call a line belongs to
//! (`call`), metrics (`metrics`).

use std::{
    fmt::{self, Write as _},
    io::IsTerminal,
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{JsonFields, Writer},
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

use crate::{
    call::{self, Call},
    spans::{Spans, export, subscriber},
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// Text for people.
    Text,
    /// One JSON object a line on stderr; stdout then carries one line for each listener.
    Json,
}

impl LogFormat {
    fn is_json(self) -> bool {
        match self {
            Self::Auto => !std::io::stderr().is_terminal(),
            Self::Text => false,
            Self::Json => true,
        }
    }
}

/// Starts logging for the process. With `spans`, what `tracing` says of sampled calls goes there, too; the filter is for lines only. A second
/// call is ignored: tests share a process.
pub(crate) fn init(format: LogFormat, filter: &str, spans: Option<Spans>) {
    let lines = lines(format).with_filter(EnvFilter::builder().parse_lossy(filter));
    let started = tracing_subscriber::registry().with(lines).with(spans.map(subscriber::layer)).try_init();
    drop(started); // the error says only that a subscriber exists already
}

/// Whether `filter` lets the lines pass that stand for spans where there is no collector.
pub(crate) fn logs_spans(filter: &str) -> bool {
    let subscriber = tracing_subscriber::registry().with(EnvFilter::builder().parse_lossy(filter));
    tracing::subscriber::with_default(subscriber, || tracing::enabled!(target: export::TRACE, Level::DEBUG))
}

fn lines<S: Subscriber + for<'a> LookupSpan<'a>>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync> {
    let mut layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr); // it knows of NO_COLOR
    if !std::io::stderr().is_terminal() {
        layer.set_ansi(false); // text that was asked for goes into a file or a pipe
    }
    if format.is_json() {
        let json = tracing_subscriber::fmt::format().json().flatten_event(true).with_span_list(false);
        layer.fmt_fields(JsonFields::new()).event_format(OfCall { inner: json, end: "}\n", add: json_fields }).boxed()
    } else {
        let text = tracing_subscriber::fmt::format().with_target(false);
        layer.event_format(OfCall { inner: text, end: "\n", add: text_fields }).boxed()
    }
}

/// Adds to a line which call it belongs to.
struct OfCall<F> {
    inner: F,
    /// What a line of `inner` ends with, before which there is room.
    end: &'static str,
    add: fn(&Call, &mut String),
}

impl<S, N, F> FormatEvent<S, N> for OfCall<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(call) = call::current() else { return self.inner.format_event(context, writer, event) };
        let mut line = String::new();
        self.inner.format_event(context, Writer::new(&mut line), event)?;
        let says_itself = event.fields().any(|field| field.name() == "trace_id");
        if !says_itself && line.ends_with(self.end) {
            line.truncate(line.len() - self.end.len());
            (self.add)(&call, &mut line);
            line.push_str(self.end);
        }
        writer.write_str(&line)
    }
}

/// The method is text of a caller's: it is escaped.
fn json_fields(call: &Call, line: &mut String) {
    let method = serde_json::Value::from(&*call.method);
    let _ = write!(
        line,
        ",\"trace_id\":\"{:032x}\",\"span_id\":\"{:016x}\",\"method\":{method}",
        call.trace_id, call.span_id
    );
}

fn text_fields(call: &Call, line: &mut String) {
    let _ = write!(line, " trace_id={:032x}", call.trace_id);
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(call: Option<Call>, log: impl FnOnce()) -> String {
        let lines = Lines::default();
        let to = lines.clone();
        let json = tracing_subscriber::fmt::format().json().flatten_event(true).with_span_list(false);
        let layer = tracing_subscriber::fmt::layer()
            .fmt_fields(JsonFields::new())
            .event_format(OfCall { inner: json, end: "}\n", add: json_fields })
            .with_writer(move || to.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            call::within(call.map(Arc::new), log)
        });
        String::from_utf8(lines.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_within_a_call_says_which_trace_and_span() {
        let call = Call { trace_id: 0xabc, span_id: 0x1f, method: "/a.B/\"C".into() };
        let line = written(Some(call.clone()), || tracing::warn!(n = 3, "late"));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["trace_id"], "00000000000000000000000000000abc");
        assert_eq!((&line["span_id"], &line["method"]), (&"000000000000001f".into(), &"/a.B/\"C".into()));
        assert_eq!((&line["n"], &line["message"]), (&3.into(), &"late".into()));
        let own = written(Some(call), || tracing::warn!(trace_id = "its own", "late"));
        assert_eq!(own.matches("trace_id").count(), 1, "{own}");
        assert!(!written(None, || tracing::warn!("late")).contains("trace_id"));
    }

    #[test]
    fn spans_are_logged_where_the_filter_lets_their_lines_pass() {
        assert!(logs_spans("debug") && logs_spans("warn,trace=debug"));
        assert!(!logs_spans("info") && !logs_spans("users=debug"));
    }
}
