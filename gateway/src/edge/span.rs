//! The span of a call at the edge: the root of most traces, and the parent of every attempt upstream.
//!
//! Lives here: what it says, by protocol. Does not: when a call ends (`edge::call`), spans of attempts (`weft-traffic`), exporting.
//! Source: OpenTelemetry semantic conventions for HTTP servers and for gRPC. The query is left out, as in the access log: it may hold secrets.

use std::time::{Duration, Instant};

use http::{Method, Uri};
use weft_runtime::spans::{Kind, Span, Spans, Text, Value};
use weft_traffic::{Code, Root, TraceContext};

use crate::edge::metrics::Status;

/// How calls at the edge are traced.
#[derive(Debug, Clone)]
pub(crate) struct Tracing {
    pub(crate) root: Root,
    pub(crate) spans: Spans,
}

/// A sampled call's end.
pub(crate) struct End<'a> {
    /// Its trace, and its own span's id as the parent of others.
    pub(crate) context: TraceContext,
    pub(crate) parent: Option<u64>,
    pub(crate) method: &'a Method,
    pub(crate) uri: &'a Uri,
    /// `other` if none matched.
    pub(crate) route: Option<&'a str>,
    pub(crate) status: Status,
    pub(crate) began: Instant,
    pub(crate) took: Duration,
}

impl End<'_> {
    pub(crate) fn span(self) -> Span {
        let (name, mut attributes, error) = match self.status {
            Status::Http(status) => self.http(status),
            Status::Grpc(code) => self.grpc(code),
        };
        if let Some(error) = &error {
            attributes.push(("error.type", error.clone().into()));
        }
        Span {
            trace_id: self.context.trace_id(),
            span_id: self.context.parent_id(),
            parent: self.parent,
            kind: Kind::Server,
            name,
            began: self.began,
            took: self.took,
            attributes,
            error,
        }
    }

    fn http(&self, status: u16) -> (Text, Vec<(&'static str, Value)>, Option<Text>) {
        let method = self.method.as_str();
        let name = self.route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"));
        let mut attributes = vec![
            ("http.request.method", method.to_owned().into()),
            ("url.path", self.uri.path().to_owned().into()),
            ("http.response.status_code", i64::from(status).into()),
        ];
        attributes.extend(self.route.map(|route| ("http.route", route.to_owned().into())));
        (name.into(), attributes, (status >= 500).then(|| status.to_string().into()))
    }

    fn grpc(&self, code: i32) -> (Text, Vec<(&'static str, Value)>, Option<Text>) {
        let code = u32::try_from(code).map_or(Code::Unknown, Code::from_number);
        // A path that no descriptor declares may be anything: it is no name.
        let method = self.route.map_or("_OTHER", |route| route.trim_start_matches('/')).to_owned();
        let attributes = weft_telemetry::rpc_attributes(method.clone(), code);
        (method.into(), attributes, code.is_servers_fault().then(|| code.as_str().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(route: Option<&str>, status: Status) -> Span {
        let end = End {
            context: TraceContext::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01").unwrap(),
            parent: None,
            method: &Method::POST,
            uri: &"/api/posts?token=secret".parse().unwrap(),
            route,
            status,
            began: Instant::now(),
            took: Duration::from_millis(2),
        };
        end.span()
    }

    #[test]
    fn a_rest_call_is_named_by_its_route_and_does_not_show_its_query() {
        let it = span(Some("/api/posts"), Status::Http(201));
        assert_eq!((it.name.as_str(), &it.error), ("POST /api/posts", &None));
        assert!(it.attributes.contains(&("http.response.status_code", 201.into())));
        assert!(!format!("{:?}", it.attributes).contains("secret"));
        assert_eq!(span(None, Status::Http(404)).name.as_str(), "POST");
    }

    #[test]
    fn only_what_is_not_the_callers_doing_is_an_error() {
        assert_eq!(span(Some("/a"), Status::Http(503)).error, Some("503".to_owned().into()));
        assert_eq!(span(Some("/a"), Status::Http(404)).error, None);
        let late = span(Some("/a.B/C"), Status::Grpc(4));
        assert_eq!((late.name.as_str(), late.error), ("a.B/C", Some("DEADLINE_EXCEEDED".into())));
        assert_eq!(span(None, Status::Grpc(12)).name.as_str(), "_OTHER");
        assert_eq!(span(Some("/a.B/C"), Status::Grpc(5)).error, None);
    }
}
