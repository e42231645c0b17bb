//! The access log: one line per call at level info, target `access`.
//!
//! Lives here: the line, and the queue between data threads and the one task that writes. Does not: deciding when a call has ended (`edge::call`).
//! Writing a line costs more than routing a call, so data threads only fill a record. The queue holds [`QUEUE`] of them; when it is full the
//! line is dropped and counted, never waited for. The query is not logged: it may hold secrets.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderValue, Method, Uri};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::mpsc;
use weft_model::ServiceName;
use weft_traffic::TraceContext;

use crate::edge::{
    guard::By,
    metrics::{RouteMeter, Status},
};

/// Lines waiting to be written: about a tenth of a second at 80,000 calls a second.
const QUEUE: usize = 8192;

/// What a line says.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) downstream: SocketAddr,
    /// Where the call comes from, also behind proxies.
    pub(crate) caller: IpAddr,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) meter: Arc<RouteMeter>,
    pub(crate) service: Option<ServiceName>,
    pub(crate) status: Status,
    pub(crate) took: Duration,
    pub(crate) trace: TraceContext,
    /// The call's own span, if it has one.
    pub(crate) span_id: Option<u64>,
    pub(crate) request_id: HeaderValue,
    /// Who refused it at the edge.
    pub(crate) refused: Option<By>,
    /// Why it got no answer from upstream, in more words than its caller was told.
    pub(crate) problem: Option<Box<str>>,
}

/// The data threads' end. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AccessLog {
    lines: Option<mpsc::Sender<Line>>,
    lost: Counter,
}

/// The writing end.
pub(crate) struct Writer(mpsc::Receiver<Line>);

/// Returns both ends. If nobody listens at level info, there is no writing end and lines are not even made.
pub(crate) fn access_log(lost: Counter) -> (AccessLog, Option<Writer>) {
    if !tracing::enabled!(target: "access", tracing::Level::INFO) {
        return (AccessLog { lines: None, lost }, None);
    }
    let (lines, queue) = mpsc::channel(QUEUE);
    (AccessLog { lines: Some(lines), lost }, Some(Writer(queue)))
}

impl AccessLog {
    /// Queues a line.
    pub(crate) fn write(&self, line: impl FnOnce() -> Line) {
        if let Some(lines) = &self.lines
            && lines.try_send(line()).is_err()
        {
            self.lost.inc();
        }
    }
}

impl Writer {
    /// Writes until every [`AccessLog`] is gone.
    pub(crate) async fn run(mut self) {
        while let Some(line) = self.0.recv().await {
            line.print();
        }
    }
}

impl Line {
    fn print(&self) {
        let status = match self.status {
            Status::Http(code) => i32::from(code),
            Status::Grpc(code) => code,
        };
        tracing::info!(
            target: "access",
            protocol = self.meter.protocol(),
            method = self.method.as_str(),
            path = self.uri.path(),
            route = self.meter.route(),
            service = self.service.as_ref().map(tracing::field::display),
            status,
            duration_ms = self.took.as_micros() as f64 / 1000.0,
            trace_id = format_args!("{:032x}", self.trace.trace_id()),
            span_id = self.span_id.map(|id| tracing::field::display(format!("{id:016x}"))),
            request_id = self.request_id.to_str().unwrap_or_default(),
            downstream = %self.downstream,
            caller = %self.caller,
            policy = self.refused.as_ref().map(|it| tracing::field::display(&it.policy)),
            rule = self.refused.as_ref().map(|it| tracing::field::display(&it.rule)),
            error = self.problem.as_deref(),
            "call"
        );
    }
}
