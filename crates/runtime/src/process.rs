//! A process from its first line to its exit code.
//!
//! Lives here: runtime, signals, error report, exit codes. Does not: what the process does.
//! Exit codes: 0 ended as asked; 1 failed; 2 was started wrongly ([`Usage`]).

use std::{fmt, io, process::ExitCode, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Env, LogFormat, Metrics, Sampling, Shutdown, Spans,
    spans::{
        export::{self, Exporter, Settlement},
        settings::Settings,
    },
    telemetry,
};

/// After `abort`, how long the main future may still take before the process ends without it.
const ABORT_LIMIT: Duration = Duration::from_secs(5);
/// How long the last spans may take to leave at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// What a process is before it runs.
#[derive(Debug, Clone)]
pub struct Process {
    name: &'static str,
    log: LogFormat,
    log_filter: &'static str,
    service: Option<String>,
    traces_by_tracing: bool,
    small_pages: bool,
}

impl Process {
    /// Names the process: a role, or a service.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            log: LogFormat::Auto,
            log_filter: "info",
            service: None,
            traces_by_tracing: false,
            small_pages: false,
        }
    }

    /// Sets how log lines look.
    #[must_use]
    pub const fn log(mut self, format: LogFormat) -> Self {
        self.log = format;
        self
    }

    /// Sets which log lines are written where `RUST_LOG` says nothing; "info" if left out. For commands that talk to a person themselves.
    #[must_use]
    pub const fn log_filter(mut self, filter: &'static str) -> Self {
        self.log_filter = filter;
        self
    }

    /// Sets what traces call the process where `OTEL_SERVICE_NAME` says nothing; its name if left out.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// Exports the `tracing` spans of sampled calls, see [`crate::spans::TARGET`]. For what is no data path.
    #[must_use]
    pub const fn traces_by_tracing(mut self) -> Self {
        self.traces_by_tracing = true;
        self
    }

    /// Keeps memory in the kernel's usual pages. With huge ones, which the allocator asks for, all of a buffer is in memory once its first byte is
    /// used. For a process of thousands of connections that say little: an idle one takes 24 KiB then instead of 39.
    #[must_use]
    pub const fn small_pages(mut self) -> Self {
        self.small_pages = true;
        self
    }
}

/// What the frame gives to the process's main future.
#[derive(Debug, Clone)]
pub struct Context {
    name: &'static str,
    shutdown: Shutdown,
    env: Env,
    metrics: Metrics,
    log: LogFormat,
    spans: Spans,
    sampling: Sampling,
}

impl Context {
    /// Makes a context outside [`run`]: for tests, which bring their own runtime.
    pub fn for_test(name: &'static str, env: Env) -> Self {
        let sampling = Settings::read(&env, name).sampling;
        let (shutdown, metrics) = (Shutdown::new(), Metrics::default());
        Self { name, shutdown, env, metrics, log: LogFormat::Text, spans: Spans::off(), sampling }
    }

    /// Name of the process.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The process's shutdown.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// The environment as it was at the start.
    pub const fn env(&self) -> &Env {
        &self.env
    }

    /// The process's metrics.
    pub const fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// How log lines look.
    pub const fn log_format(&self) -> LogFormat {
        self.log
    }

    /// Where spans of sampled calls go.
    pub const fn spans(&self) -> &Spans {
        &self.spans
    }

    /// How this process decides on traces that begin in it.
    pub const fn sampling(&self) -> Sampling {
        self.sampling
    }
}

/// An error of how the process was started: flags, environment, configuration. Ends it with code 2.
#[derive(Debug)]
pub struct Usage(String);

impl Usage {
    /// Says what is wrong and what would be right.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// Says what an error says, with its causes.
    pub fn of(error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string);
        Self(causes.collect::<Vec<_>>().join(": "))
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Runs the process: starts logging and a runtime, drains on the first SIGTERM or SIGINT, aborts on the second and on a SIGINT that finds it
/// draining, reports the error once.
///
/// The runtime is the control runtime: two threads, nothing of the data path.
pub fn run<F>(process: Process, main: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let env = Env::capture();
    let filter = env.log_filter().unwrap_or(process.log_filter);
    let settings = Settings::read(&env, process.service.as_deref().unwrap_or(process.name));
    let metrics = Metrics::default();
    let (spans, exporter) = export::start(&settings, &metrics, process.name, telemetry::logs_spans(filter));
    telemetry::init(process.log, filter, (process.traces_by_tracing && spans.is_on()).then(|| spans.clone()));
    for problem in &settings.problems {
        warn!("{problem}");
    }
    if process.small_pages
        && let Err(error) = without_huge_pages()
    {
        warn!(%error, "the kernel keeps huge pages on: more memory for each connection");
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(process.name, &anyhow::Error::new(error).context("starting the runtime")),
    };
    let (name, log, sampling) = (process.name, process.log, settings.sampling);
    let context = Context { name, shutdown: Shutdown::new(), env, metrics, log, spans, sampling };
    context.metrics.tell_build();
    let shutdown = context.shutdown();
    let result = runtime.block_on(async {
        let exporting = Exporting::start(exporter);
        let result = tokio::select! {
            result = main(context) => result,
            never = signals(shutdown.clone()) => never,
        };
        exporting.finish(&shutdown).await;
        result
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(process.name, &error),
    }
}

/// Holds for what is touched from now on, and for children.
#[cfg(target_os = "linux")]
fn without_huge_pages() -> io::Result<()> {
    Ok(rustix::thread::disable_transparent_huge_pages(true)?)
}

/// Elsewhere nobody is given huge pages for the asking.
#[cfg(not(target_os = "linux"))]
fn without_huge_pages() -> io::Result<()> {
    Ok(())
}

/// The export of spans, owned by the frame: it is to outlive everything that makes spans.
struct Exporting {
    task: JoinSet<()>,
    stop: CancellationToken,
    settlement: Option<Settlement>,
}

impl Exporting {
    fn start(exporter: Option<Exporter>) -> Self {
        let (mut task, stop) = (JoinSet::new(), CancellationToken::new());
        let settlement = exporter.as_ref().map(Exporter::settlement);
        if let Some(exporter) = exporter {
            task.spawn(exporter.run(stop.clone()));
        }
        Self { task, stop, settlement }
    }

    /// Sends what is left, unless somebody is out of patience; what did not leave is counted and told.
    async fn finish(mut self, shutdown: &Shutdown) {
        self.stop.cancel();
        let limit = if shutdown.is_aborting() { Duration::ZERO } else { FLUSH_LIMIT };
        drop(timeout(limit, self.task.join_next()).await); // in time or not, what counts is what it left
        self.task.shutdown().await;
        let lost = self.settlement.map_or(0, |it| it.settle());
        if lost > 0 {
            warn!(spans = lost, "the last spans were not exported in time");
        }
    }
}

/// Moves the shutdown at each signal. Ends only when signals cannot be had, or `ABORT_LIMIT` after the abort.
async fn signals(shutdown: Shutdown) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    let mut signal = next().await;
    // SIGTERM is counted: that we drain already says nothing, since a `preStop` hook asks for it by `/drain` and the first SIGTERM follows as a
    // matter of course. Ctrl-C is a person who has seen the drain and will not wait for it.
    if signal == "SIGTERM" || !shutdown.is_draining() {
        info!(signal, "draining; a second signal aborts");
        shutdown.drain();
        signal = next().await;
    }
    warn!(signal, "aborting");
    shutdown.abort();
    tokio::time::sleep(ABORT_LIMIT).await;
    anyhow::bail!("aborted: still busy {ABORT_LIMIT:?} after the signal to abort");
}

fn report(name: &str, error: &anyhow::Error) -> ExitCode {
    tracing::error!(error = format!("{error:#}"), "{name} failed");
    ExitCode::from(if error.downcast_ref::<Usage>().is_some() { 2 } else { 1 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans::tests::span;

    #[test]
    #[cfg(target_os = "linux")]
    fn huge_pages_can_be_done_without() {
        without_huge_pages().unwrap();
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains("\nTHP_enabled:\t0\n"), "{status}");
    }

    /// What is counted as lost at the end of a process that recorded a span.
    async fn lost(endpoint: String, shutdown: &Shutdown) -> String {
        let metrics = Metrics::default();
        let env = Env::from_pairs([("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]);
        let (spans, exporter) = export::start(&Settings::read(&env, "gateway"), &metrics, "gateway", false);
        let exporting = Exporting::start(exporter);
        spans.offer(span(1));
        exporting.finish(shutdown).await;
        let text = metrics.encode();
        let line =
            text.lines().find_map(|it| it.strip_prefix("weft_gateway_spans_dropped_total{reason=\"export_failed\"} "));
        line.unwrap_or_default().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn spans_that_are_cut_off_at_the_end_are_counted_as_lost() {
        // It takes the connection, and never answers.
        let collector = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", collector.local_addr().unwrap());
        assert_eq!(lost(endpoint.clone(), &Shutdown::new()).await, "1");
        let shutdown = Shutdown::new();
        shutdown.abort();
        assert_eq!(lost(endpoint, &shutdown).await, "1", "of a process that has no time left");
    }
}
