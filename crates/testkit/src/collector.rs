//! An OTLP receiver of a test: what a mesh exports, read back span by span.
//!
//! Lives here: the gRPC server of OTLP's trace service, the spans it got as plain values, a trace drawn as a tree. Does not: any judgement.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value},
    trace::v1::{ResourceSpans, span::SpanKind, status::StatusCode},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// A span as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of the process it came from.
    pub service: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// The same of its parent; none for a root.
    pub parent: Option<String>,
    /// What was done.
    pub name: String,
    /// `SERVER`, `CLIENT`, `INTERNAL`.
    pub kind: String,
    /// Its attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Whether its status is an error.
    pub error: bool,
    /// When it began and ended, nanoseconds since 1970.
    pub time: (u64, u64),
}

/// A running receiver; it ends with this value.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    got: Got,
    _server: JoinSet<()>,
}

#[derive(Debug, Clone, Default)]
struct Got {
    spans: Arc<Mutex<Vec<Span>>>,
    /// Values of the header `x-test`, as `OTEL_EXPORTER_OTLP_HEADERS` sets it.
    headers: Arc<Mutex<BTreeSet<String>>>,
}

impl Collector {
    /// Listens on a free port.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of loopback is free");
        let address = listener.local_addr().expect("a bound listener has an address");
        let got = Got::default();
        let mut server = JoinSet::new();
        let service = TraceServiceServer::new(got.clone());
        server.spawn(async move {
            let served = Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
            served.await.expect("a server on a bound listener serves");
        });
        Self { address, got, _server: server }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything received so far, as it came.
    pub fn spans(&self) -> Vec<Span> {
        self.got.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything received since this was last asked for; forgotten here.
    pub fn take(&self) -> Vec<Span> {
        std::mem::take(&mut *self.got.spans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Values of the header `x-test` received so far.
    pub fn headers(&self) -> BTreeSet<String> {
        self.got.headers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of one trace.
    pub fn trace(&self, id: &str) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.trace_id == id).collect()
    }
}

/// Draws a trace: one line a span, `service KIND name`, children indented below their parent in the order of their beginning. A span whose
/// parent is not there stands at the margin, so a hole in a trace is seen.
pub fn tree(spans: &[Span]) -> String {
    let ids: BTreeSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut roots: Vec<_> =
        spans.iter().filter(|span| span.parent.as_deref().is_none_or(|parent| !ids.contains(parent))).collect();
    roots.sort_by_key(|span| span.time);
    let mut drawn = String::new();
    for root in roots {
        draw(root, spans, 0, &mut drawn);
    }
    drawn
}

fn draw(span: &Span, all: &[Span], depth: usize, drawn: &mut String) {
    let orphan = if depth == 0 && span.parent.is_some() { " (its parent is missing)" } else { "" };
    let Span { service, kind, name, .. } = span;
    drawn.push_str(&format!("{:1$}{service} {kind} {name}{orphan}\n", "", depth * 2));
    let mut children: Vec<_> = all.iter().filter(|it| it.parent.as_ref() == Some(&span.span_id)).collect();
    children.sort_by_key(|span| span.time);
    for child in children {
        draw(child, all, depth + 1, drawn);
    }
}

#[tonic::async_trait]
impl TraceService for Got {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        if let Some(value) = request.metadata().get("x-test").and_then(|value| value.to_str().ok()) {
            self.headers.lock().unwrap_or_else(PoisonError::into_inner).insert(value.to_owned());
        }
        let new = request.into_inner().resource_spans.into_iter().flat_map(spans);
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).extend(new);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn spans(of: ResourceSpans) -> impl Iterator<Item = Span> {
    let resource = texts(of.resource.unwrap_or_default().attributes);
    let service = resource.get("service.name").cloned().unwrap_or_default();
    of.scope_spans.into_iter().flat_map(|scope| scope.spans).map(move |span| Span {
        service: service.clone(),
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent: Some(hex(&span.parent_span_id)).filter(|id| !id.is_empty()),
        kind: SpanKind::as_str_name(&span.kind()).trim_start_matches("SPAN_KIND_").to_owned(),
        error: span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
        time: (span.start_time_unix_nano, span.end_time_unix_nano),
        attributes: texts(span.attributes),
        name: span.name,
    })
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |pair: KeyValue| {
        let value = match pair.value?.value? {
            any_value::Value::StringValue(text) => text,
            any_value::Value::IntValue(number) => number.to_string(),
            any_value::Value::BoolValue(yes) => yes.to_string(),
            other => format!("{other:?}"),
        };
        Some((pair.key, value))
    };
    attributes.into_iter().filter_map(text).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
