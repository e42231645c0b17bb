//! The app's health: asked on loopback, told as transitions.
//!
//! Lives here: the three checks, when an answer counts. Does not: what the registry is told (`lifecycle`).
//! gRPC health is watched, so that a change shows at once, and polled beside it, since a watch of a hung app stays silent. An explicit
//! "not serving" and a lost connection count at once; silence counts when it is met twice in a row.
//! ```text
//! Unknown ─► Healthy ⇄ Unhealthy      while not healthy the app is asked every 20 to 200 ms: a start should not be waited for
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

use crate::HealthCheck;

/// Time between two attempts while the app is not healthy; doubles up to the second figure.
const EAGER: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));
/// While its end is awaited: time between two looks for the app, and how long one may take.
const GONE_EVERY: Duration = Duration::from_millis(200);
const GONE_LIMIT: Duration = Duration::from_secs(1);
const SAYS_SO: &str = "says that it is not serving";
const BROKE: &str = "the connection broke";
const NO_GRPC: &str = "speaks no HTTP/2, which gRPC needs";
/// With these a client opens HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Metadata beside NOT_SERVING that tells why; other apps do not send it.
const REASON: &str = "weft-health-reason";
/// Unanswered polls in a row that make an app unhealthy.
const SILENCE: u32 = 2;

/// When the app is asked.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Time between two polls of a healthy app. Default 2 s.
    pub interval: Duration,
    /// Time an answer may take. Default 1 s.
    pub timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { interval: Duration::from_secs(2), timeout: Duration::from_secs(1) }
    }
}

/// What is known of the app's health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    /// It was not healthy since the monitor started.
    Unknown {
        /// What the last attempt met.
        reason: String,
    },
    /// It takes calls.
    Healthy,
    /// It was healthy and is not any more.
    Unhealthy {
        /// Why, for people.
        reason: String,
    },
}

/// Nobody takes calls there, or not yet.
#[derive(Debug, thiserror::Error)]
#[error("{addr} is not healthy: {reason}")]
pub struct NotHealthy {
    addr: SocketAddr,
    reason: String,
}

/// Asks once, for people and for health commands of containers: returns when a process listens at `addr` and is healthy. While it is not,
/// it is asked again until `limit` is over.
///
/// # Errors
/// [`NotHealthy`], with what the last attempt met.
pub async fn healthy_within(addr: SocketAddr, check: HealthCheck, limit: Duration) -> Result<(), NotHealthy> {
    let mut monitor = Monitor::start(addr, check, Timing { timeout: limit, ..Timing::default() });
    let mut reason = format!("no answer within {limit:?}");
    let asking = async {
        loop {
            match monitor.next().await {
                Health::Healthy => return,
                Health::Unknown { reason: met } | Health::Unhealthy { reason: met } => reason = met,
            }
        }
    };
    timeout(limit, asking).await.map_err(|_| NotHealthy { addr, reason })
}

/// Asks one app until it is dropped.
#[derive(Debug)]
pub(crate) struct Monitor {
    health: watch::Receiver<Health>,
    /// Holds the one task that asks; dropped with the monitor, so that nothing is asked of a process that is gone.
    _task: JoinSet<()>,
}

impl Monitor {
    pub(crate) fn start(app: SocketAddr, check: HealthCheck, timing: Timing) -> Self {
        let (told, health) = watch::channel(Health::Unknown { reason: "not asked yet".to_owned() });
        let mut task = JoinSet::new();
        task.spawn(Prober { app, check, timing, told, falls_back: false }.run());
        Self { health, _task: task }
    }

    /// Waits for the next change. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Health {
        match self.health.changed().await {
            Ok(()) => self.health.borrow_and_update().clone(),
            Err(_) => std::future::pending().await, // the task never ends before the monitor
        }
    }
}

struct Prober {
    app: SocketAddr,
    check: HealthCheck,
    timing: Timing,
    told: watch::Sender<Health>,
    /// The app does not implement grpc.health.v1: from now on a connection that opens is enough.
    falls_back: bool,
}

impl Prober {
    async fn run(mut self) {
        let mut pause = EAGER.0;
        loop {
            let began = Instant::now();
            let reason = match (&self.check, self.falls_back) {
                (HealthCheck::Grpc, false) => self.grpc().await,
                (HealthCheck::Http(path), _) => self.poll(|| get(self.app, path)).await,
                (HealthCheck::Grpc, true) | (HealthCheck::Tcp, _) => self.poll(|| connect(self.app)).await,
            };
            self.unhealthy(reason);
            if began.elapsed() > self.timing.interval {
                pause = EAGER.0;
            }
            sleep(pause).await;
            pause = (pause * 2).min(EAGER.1);
        }
    }

    /// Polls with a check of one question; returns why the app is not healthy.
    async fn poll<F: Future<Output = Result<(), String>>>(&self, ask: impl Fn() -> F) -> String {
        let mut silent = 0;
        loop {
            match timeout(self.timing.timeout, ask()).await {
                Ok(Ok(())) => {
                    silent = 0;
                    self.healthy();
                }
                Ok(Err(reason)) => return reason,
                Err(_) => silent += 1,
            }
            if silent >= SILENCE || (silent > 0 && !self.is_healthy()) {
                return format!("no answer within {:?}", self.timing.timeout);
            }
            sleep(if silent > 0 {
                self.timing.interval.saturating_sub(self.timing.timeout)
            } else {
                self.timing.interval
            })
            .await;
        }
    }

    /// One connection's worth of gRPC health; returns why the app is not healthy (any more).
    async fn grpc(&mut self) -> String {
        let endpoint = match Endpoint::from_shared(format!("http://{}", self.app)) {
            Ok(endpoint) => endpoint.tcp_nodelay(true),
            Err(error) => return error.to_string(),
        };
        let channel = match timeout(self.timing.timeout, endpoint.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(_)) => {
                return match timeout(self.timing.timeout, connect(self.app)).await {
                    Ok(Err(reason)) => reason,
                    Ok(Ok(())) | Err(_) => NO_GRPC.to_owned(),
                };
            }
            Err(_) => return format!("no connection within {:?}", self.timing.timeout),
        };
        match self.grpc_on(channel).await {
            Ok(never) => match never {},
            Err(Answer::Says(reason)) if reason.ends_with(BROKE) && self.speaks_http1().await => NO_GRPC.to_owned(),
            Err(Answer::Says(reason)) => reason,
            Err(Answer::Unimplemented) => {
                tracing::info!(
                    "the app does not implement grpc.health.v1; it counts as healthy while a connection opens"
                );
                self.falls_back = true;
                "health is checked by connecting".to_owned()
            }
        }
    }

    /// Whether the app, which never was healthy, answers the first words of HTTP/2 in HTTP/1, as one does that knows no other.
    async fn speaks_http1(&self) -> bool {
        if !matches!(*self.told.borrow(), Health::Unknown { .. }) {
            return false;
        }
        let greet = async {
            let mut stream = TcpStream::connect(self.app).await?;
            stream.write_all(PREFACE).await?;
            let mut said = [0; 5];
            stream.read_exact(&mut said).await?;
            std::io::Result::Ok(said == *b"HTTP/")
        };
        matches!(timeout(self.timing.timeout, greet).await, Ok(Ok(true)))
    }

    async fn grpc_on(&self, channel: Channel) -> Result<std::convert::Infallible, Answer> {
        let mut client = HealthClient::new(channel.clone());
        let mut polls = interval(self.timing.interval); // the first at once
        polls.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut watch = Watching::open(channel, self.timing.timeout).await;
        let mut silent = 0;
        loop {
            tokio::select! {
                said = watch.next() => match said {
                    Ok(ServingStatus::NotServing) => return Err(Answer::Says(self.why(&mut client).await)),
                    said => self.said(said)?,
                },
                _ = polls.tick() => {
                    match timeout(self.timing.timeout, client.check(HealthCheckRequest::default())).await {
                        Ok(answer) => {
                            silent = 0;
                            match answer {
                                Ok(answer) if answer.get_ref().status() == ServingStatus::NotServing => {
                                    return Err(Answer::Says(not_serving(&answer)));
                                }
                                answer => self.said(answer.map(|answer| answer.into_inner().status()))?,
                            }
                        }
                        Err(_) => silent += 1,
                    }
                    if silent >= SILENCE || (silent > 0 && !self.is_healthy()) {
                        return Err(Answer::Says(format!("no answer within {:?}", self.timing.timeout)));
                    }
                }
            }
        }
    }

    /// Asks why the app is not serving: a watch has no room for that.
    async fn why(&self, client: &mut HealthClient<Channel>) -> String {
        match timeout(self.timing.timeout, client.check(HealthCheckRequest::default())).await {
            Ok(Ok(answer)) => not_serving(&answer),
            Ok(Err(_)) | Err(_) => SAYS_SO.to_owned(),
        }
    }

    fn said(&self, answer: Result<ServingStatus, Status>) -> Result<(), Answer> {
        match answer {
            Ok(ServingStatus::Serving) => self.healthy(),
            Ok(ServingStatus::NotServing) => return Err(Answer::Says(SAYS_SO.to_owned())),
            // The server answers, and has no opinion of itself as a whole.
            Ok(ServingStatus::Unknown | ServingStatus::ServiceUnknown) => self.healthy(),
            Err(status) if status.code() == Code::NotFound => self.healthy(),
            Err(status) if status.code() == Code::Unimplemented => return Err(Answer::Unimplemented),
            Err(status) => return Err(Answer::Says(format!("health check failed: {}", text(&status)))),
        }
        Ok(())
    }

    fn is_healthy(&self) -> bool {
        *self.told.borrow() == Health::Healthy
    }

    fn healthy(&self) {
        self.tell(|_| Health::Healthy);
    }

    fn unhealthy(&self, reason: String) {
        self.tell(|health| match health {
            Health::Unknown { .. } => Health::Unknown { reason },
            Health::Healthy | Health::Unhealthy { .. } => Health::Unhealthy { reason },
        });
    }

    fn tell(&self, next: impl FnOnce(&Health) -> Health) {
        self.told.send_if_modified(|health| {
            let next = next(health);
            let changed = *health != next;
            *health = next;
            changed
        });
    }
}

/// What an app says of itself, with the reason that an app on our SDK gives.
fn not_serving(answer: &Response<HealthCheckResponse>) -> String {
    match answer.metadata().get(REASON).and_then(|reason| reason.to_str().ok()) {
        Some(reason) => format!("{SAYS_SO}: {reason}"),
        None => SAYS_SO.to_owned(),
    }
}

fn text(status: &Status) -> String {
    if std::error::Error::source(status).is_some() {
        return BROKE.to_owned(); // the details are HTTP/2's, and the app's end says more
    }
    if status.message().is_empty() { status.code().to_string() } else { status.message().to_owned() }
}

enum Answer {
    Says(String),
    Unimplemented,
}

/// A health watch, or its absence: not every app that implements Check implements Watch.
struct Watching(Option<Streaming<HealthCheckResponse>>);

impl Watching {
    async fn open(channel: Channel, within: Duration) -> Self {
        let mut client = HealthClient::new(channel);
        let opened = timeout(within, client.watch(HealthCheckRequest::default())).await;
        Self(opened.ok().and_then(Result::ok).map(tonic::Response::into_inner))
    }

    /// Waits for the next word of the watch. Cancel-safe.
    async fn next(&mut self) -> Result<ServingStatus, Status> {
        let Some(stream) = &mut self.0 else { return std::future::pending().await };
        match stream.message().await {
            Ok(Some(answer)) => Ok(answer.status()),
            Ok(None) => Err(Status::unavailable("the app ended the health watch")),
            Err(status) if status.code() == Code::Unimplemented => {
                self.0 = None;
                std::future::pending().await
            }
            Err(status) => Err(status),
        }
    }
}

/// Waits until nothing listens where the app was.
pub(crate) async fn gone(app: SocketAddr) {
    while !matches!(timeout(GONE_LIMIT, connect(app)).await, Ok(Err(_))) {
        sleep(GONE_EVERY).await;
    }
}

async fn connect(app: SocketAddr) -> Result<(), String> {
    TcpStream::connect(app).await.map(drop).map_err(|error| match error.kind() {
        std::io::ErrorKind::ConnectionRefused => format!("nothing listens on {app}"),
        _ => format!("cannot connect to {app}: {error}"),
    })
}

async fn get(app: SocketAddr, path: &str) -> Result<(), String> {
    let stream = TcpStream::connect(app).await.map_err(|error| format!("cannot connect to {app}: {error}"))?;
    let broken = |error: hyper::Error| format!("health check failed: {error}");
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = http::Request::get(path)
        .header(http::header::HOST, app.to_string())
        .body(Empty::<bytes::Bytes>::new())
        .expect("the path was checked when it was read");
    let answer = tokio::select! { // the connection has no end of its own: dropping it closes it
        answer = sender.send_request(request) => answer.map_err(broken)?,
        ended = connection => return Err(ended.err().map_or_else(|| "the app closed the connection".to_owned(), broken)),
    };
    if answer.status().is_success() { Ok(()) } else { Err(format!("{path} answers {}", answer.status())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::Server;
    use weft_runtime::admin::{Admin, Readiness};
    use weft_runtime::{Metrics, Shutdown};
    use weft_testkit::echo;

    const LIMIT: Duration = Duration::from_secs(20);
    /// Polls so rare that only a watch can tell in time.
    const RARELY: Timing = Timing { interval: Duration::from_secs(600), timeout: Duration::from_secs(5) };
    const OFTEN: Timing = Timing { interval: Duration::from_millis(50), timeout: Duration::from_secs(5) };

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        (listener, at)
    }

    async fn becomes(monitor: &mut Monitor, wanted: impl Fn(&Health) -> bool) -> Health {
        let waited = timeout(LIMIT, async {
            loop {
                let health = monitor.next().await;
                if wanted(&health) {
                    return health;
                }
            }
        });
        waited.await.expect("the health wanted comes in time")
    }

    fn is_unhealthy(health: &Health) -> bool {
        matches!(health, Health::Unhealthy { .. })
    }

    #[tokio::test]
    async fn a_watched_app_tells_at_once_and_a_broken_connection_counts() {
        let (listener, at) = listener().await;
        let (reporter, service) = tonic_health::server::health_reporter();
        let mut server = JoinSet::new();
        server.spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
        let mut monitor = Monitor::start(at, HealthCheck::Grpc, RARELY);
        becomes(&mut monitor, |health| *health == Health::Healthy).await;
        reporter.set_service_status("", tonic_health::ServingStatus::NotServing).await;
        let health = becomes(&mut monitor, is_unhealthy).await;
        assert_eq!(health, Health::Unhealthy { reason: "says that it is not serving".into() });
        reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
        becomes(&mut monitor, |health| *health == Health::Healthy).await;
    }

    #[tokio::test]
    async fn an_app_without_the_health_service_is_healthy_while_it_listens() {
        let (listener, at) = listener().await;
        let mut server = JoinSet::new();
        let reflection = tonic_reflection::server::Builder::configure().build_v1().unwrap();
        server.spawn(Server::builder().add_service(reflection).serve_with_incoming(TcpListenerStream::new(listener)));
        let mut monitor = Monitor::start(at, HealthCheck::Grpc, OFTEN);
        becomes(&mut monitor, |health| *health == Health::Healthy).await;
        server.shutdown().await;
        let health = becomes(&mut monitor, is_unhealthy).await;
        assert_eq!(health, Health::Unhealthy { reason: format!("nothing listens on {at}") });
    }

    #[tokio::test]
    async fn an_app_that_was_never_healthy_is_unknown_and_found_soon_after_it_starts() {
        let at = weft_runtime::listen::ListenAddr::loopback(0).lasting().get(); // no other test is given it meanwhile
        let mut monitor = Monitor::start(at, HealthCheck::Grpc, RARELY);
        let unknown = Health::Unknown { reason: format!("nothing listens on {at}") };
        assert_eq!(becomes(&mut monitor, |_| true).await, unknown);
        let listener = TcpListener::bind(at).await.unwrap();
        let mut server = JoinSet::new();
        server.spawn(echo::serve(listener, String::new(), std::future::pending()));
        becomes(&mut monitor, |health| *health == Health::Healthy).await;
    }

    #[tokio::test]
    async fn http_health_is_the_status_of_the_path() {
        let (listener, at) = listener().await;
        let readiness = Readiness::starting("warming up");
        let mut server = JoinSet::new();
        server.spawn(Admin::new(Metrics::default(), readiness.clone()).run(listener, Shutdown::new()));
        let mut monitor = Monitor::start(at, HealthCheck::Http("/readyz".into()), OFTEN);
        let unknown = Health::Unknown { reason: "/readyz answers 503 Service Unavailable".into() };
        assert_eq!(becomes(&mut monitor, |_| true).await, unknown);
        readiness.ready();
        becomes(&mut monitor, |health| *health == Health::Healthy).await;
        readiness.not_ready("ill");
        becomes(&mut monitor, is_unhealthy).await;
    }
}
