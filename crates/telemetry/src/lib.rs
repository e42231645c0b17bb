//! The joint between the data path's spans and the frame that exports them, for the proxies.
//!
//! Lives here: the operator's sampling as traffic's root, traffic's records as the frame's spans, the names of their attributes. Does not:
//! making records (`weft-traffic`), exporting (`weft-runtime`): neither names the other.
//! Source: OpenTelemetry semantic conventions 1.44, "RPC" and "gRPC"; `previous-rpc-attempts` is gRFC A72's.
#![forbid(unsafe_code)]

use weft_runtime::{
    Context, Sampling,
    spans::{Kind, Span, Spans, Value},
};
use weft_traffic::{Code, End, Root, SpanRecord, SpanSink, Tracing};

/// Returns how calls of a process are traced.
pub fn tracing(context: &Context) -> Tracing {
    Tracing { root: root(context.sampling()), spans: sink(context.spans()) }
}

/// Returns the decision on traces that begin here.
pub fn root(sampling: Sampling) -> Root {
    let root = Root::ratio(sampling.ratio);
    if sampling.parent_based { root } else { root.whoever_calls() }
}

/// Returns what takes the data path's spans; off where nobody wants spans.
pub fn sink(spans: &Spans) -> SpanSink {
    if !spans.is_on() {
        return SpanSink::off();
    }
    let spans = spans.clone();
    SpanSink::to(move |record| spans.offer(span(record)))
}

/// Attributes of the end of a gRPC call, and why it counts as an error.
pub fn rpc_attributes(method: impl Into<Value>, code: Code) -> Vec<(&'static str, Value)> {
    vec![
        ("rpc.system.name", "grpc".into()),
        ("rpc.method", method.into()),
        ("rpc.response.status_code", code.as_str().into()),
    ]
}

fn span(record: SpanRecord) -> Span {
    let mut attributes = rpc_attributes(record.method.clone(), record.code);
    if let Some(service) = &record.service {
        attributes.push(("server.address", service.to_string().into()));
    }
    if record.previous_attempts > 0 {
        attributes.push(("previous-rpc-attempts", i64::from(record.previous_attempts).into()));
    }
    let error = record.is_error().then(|| record.code.as_str());
    if let Some(code) = error {
        attributes.push(("error.type", code.into()));
    }
    Span {
        trace_id: record.trace_id,
        span_id: record.span_id,
        parent: record.parent,
        kind: match record.end {
            End::Client => Kind::Client,
            End::Server => Kind::Server,
        },
        name: record.method.into(),
        began: record.began,
        took: record.took,
        attributes,
        error: error.map(Into::into),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn an_attempt_that_failed_is_a_client_span_with_the_conventions_attributes() {
        let record = SpanRecord {
            trace_id: 1,
            span_id: 2,
            parent: Some(3),
            end: End::Client,
            method: "shop.users.v1.Users/GetUser".into(),
            service: Some("users".parse().unwrap()),
            code: Code::Unavailable,
            previous_attempts: 1,
            began: Instant::now(),
            took: Duration::from_millis(1),
        };
        let span = span(record);
        let method = Value::from(std::sync::Arc::<str>::from("shop.users.v1.Users/GetUser"));
        assert_eq!(
            span.attributes,
            [
                ("rpc.system.name", "grpc".into()),
                ("rpc.method", method),
                ("rpc.response.status_code", "UNAVAILABLE".into()),
                ("server.address", "users".to_owned().into()),
                ("previous-rpc-attempts", 1.into()),
                ("error.type", "UNAVAILABLE".into()),
            ]
        );
        assert_eq!((span.name.as_str(), span.kind), ("shop.users.v1.Users/GetUser", Kind::Client));
        assert_eq!(span.error.unwrap().as_str(), "UNAVAILABLE");
    }

    #[test]
    fn a_ratio_alone_decides_for_callers_too_and_a_parent_based_one_does_not() {
        let sampling = |ratio, parent_based| root(Sampling { ratio, parent_based });
        assert_eq!(sampling(1.0, true), Root::ALWAYS);
        assert_eq!(sampling(0.0, true), Root::NEVER);
        assert_eq!(sampling(0.0, false), Root::NEVER.whoever_calls());
    }
}
