//! The life of the app as the mesh sees it: started, healthy, registered, crashed and back, leaving.
//!
//! Lives here: which status the registry is told and when, and the order of leaving. Does not: running the process (`weft-supervise`),
//! asking for its health (`health`), calls (`inbound`, `outbound`).
//! ```text
//!  app started ─► healthy ─► descriptors read and stored ─► registered SERVING ⇄ NOT_SERVING (health)
//!                                                               │ app ends: CRASHED at once, before it is started again
//!                                                               │           └ healthy again: SERVING      gave up: deregistered, exit 1
//!  Leaving (DRAINING, still accepting, ≤ notice) ─► Draining (GOAWAY, ≤ limit) ─► app SIGTERM, SIGKILL ─► outbound ─► deregistered
//!                                        an app that somebody else runs: wait until it is gone, or SIGTERM ─┘
//! ```
//! Invariants: SERVING is said only of an app that was found healthy since its last start; a crash is said before the restart; descriptors
//! that were registered stay until others are.
//! Source: design of drain and of supervision, `ARCHITECTURE.md`.

use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::anyhow;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use weft_discovery::{CallError, DescriptorSet, Drained, Lease, LeaseState, Leases, Registries};
use weft_model::{Digest, Instance, REVOKED, Status};
use weft_runtime::Shutdown;
use weft_runtime::admin::Readiness;
use weft_supervise::{Child, Event as AppEvent, Exit};

use crate::chain::chain;
use crate::descriptors::Described;
use crate::health::{Health, Monitor};
use crate::metrics::Metrics;
use crate::server::Side;
use crate::{HealthCheck, Timing, descriptors, entrance, health};

/// Time the deregistration may take; without it the lease runs out.
const DEREGISTER: Duration = Duration::from_secs(2);

/// Characters of the app's last line that go to the registry.
const LAST_WORDS: usize = 200;

/// How long the steps of leaving may take.
#[derive(Debug, Clone, Copy)]
pub struct DrainLimits {
    /// Until every caller has heard that it should call others. Default 5 s.
    pub notice: Duration,
    /// For calls in flight. Default 30 s.
    pub limit: Duration,
    /// For the app, between SIGTERM and SIGKILL. Default 10 s.
    pub app: Duration,
    /// For the app's own calls after its end, which an app we do not run may still make. Default 2 s.
    pub outbound: Duration,
}

impl Default for DrainLimits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { notice: seconds(5), limit: seconds(30), app: seconds(10), outbound: seconds(2) }
    }
}

/// The registry's side of a life; none in static mode.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) registries: Registries,
    pub(crate) leases: Leases,
    /// What is registered; status, reason and descriptors are filled in.
    pub(crate) instance: Instance,
    /// Given by flag; none asks the app.
    pub(crate) descriptors: Option<DescriptorSet>,
}

/// What a life is made of.
pub(crate) struct Parts {
    pub(crate) app: SocketAddr,
    pub(crate) child: Option<Child>,
    pub(crate) health: HealthCheck,
    pub(crate) timing: Timing,
    pub(crate) registration: Option<Registration>,
    pub(crate) inbound: Side,
    pub(crate) outbound: Side,
    pub(crate) limits: DrainLimits,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    /// Cancelled by `/drain`.
    pub(crate) asked_to_leave: CancellationToken,
    /// Tells `/drain` how the drain went.
    pub(crate) drained: watch::Sender<Option<String>>,
}

/// One app's life.
pub(crate) struct Lifecycle {
    parts: Parts,
    /// None while no app runs, and once it is to end: it need not wait for a connection that only asks how it is.
    monitor: Option<Monitor>,
    healthy: bool,
    /// An operator removed the instance: it is never ready again, whatever its app says.
    revoked: bool,
    status: Status,
    lease: Option<Lease>,
    /// Descriptors being read and stored; the registration waits for them.
    describing: Option<Pin<Box<dyn Future<Output = Described> + Send>>>,
    /// How often in a row the app failed to say what it offers.
    unread: u32,
    /// Descriptors being stored again, for a registry that may have forgotten them.
    storing: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    described: Option<DescriptorSet>,
}

enum Event {
    App(Option<AppEvent>),
    Health(Health),
    Described(Described),
    Stored,
    Lease(Option<LeaseState>),
    Drain,
}

/// How a life goes on after an event.
enum Next {
    On,
    Leave(Why),
}

/// Why the sidecar leaves.
enum Why {
    /// Asked to, or the app ended by its own word.
    Asked,
    /// The app failed too often.
    GaveUp(anyhow::Error),
    /// The registry wants us gone.
    Unwanted(anyhow::Error),
}

impl Lifecycle {
    pub(crate) fn new(parts: Parts) -> Self {
        let monitor = Monitor::start(parts.app, parts.health.clone(), parts.timing);
        Self {
            parts,
            monitor: Some(monitor),
            healthy: false,
            revoked: false,
            status: Status::Starting,
            lease: None,
            describing: None,
            unread: 0,
            storing: None,
            described: None,
        }
    }

    /// Lives until told to leave, and leaves. A second signal cuts every wait short.
    pub(crate) async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        let why = loop {
            let event = self.event(&shutdown).await;
            match self.on(event) {
                Next::On => {}
                Next::Leave(why) => break why,
            }
        };
        self.parts.readiness.leave("leaving");
        tokio::select! {
            result = self.leave(why, &shutdown) => result,
            () = shutdown.aborting() => Err(anyhow!("aborted before the drain was over")),
        }
    }

    async fn event(&mut self, shutdown: &Shutdown) -> Event {
        let child = async {
            match &mut self.parts.child {
                Some(child) => child.next().await,
                None => pending().await,
            }
        };
        let health = async {
            match &mut self.monitor {
                Some(monitor) => monitor.next().await,
                None => pending().await,
            }
        };
        let lease = async {
            match &mut self.lease {
                Some(lease) => lease.changed().await,
                None => pending().await,
            }
        };
        tokio::select! {
            event = child => Event::App(event),
            health = health => Event::Health(health),
            described = done(&mut self.describing) => Event::Described(described),
            () = done(&mut self.storing) => Event::Stored,
            state = lease => Event::Lease(state),
            () = shutdown.draining() => Event::Drain,
            () = self.parts.asked_to_leave.cancelled() => Event::Drain,
        }
    }

    fn on(&mut self, event: Event) -> Next {
        match event {
            Event::App(event) => return self.on_app(event),
            Event::Health(health) => self.on_health(health),
            Event::Described(described) => self.on_described(described),
            Event::Stored => self.storing = None,
            Event::Lease(state) => return self.on_lease(state),
            Event::Drain => return Next::Leave(Why::Asked),
        }
        Next::On
    }

    fn on_app(&mut self, event: Option<AppEvent>) -> Next {
        match event {
            Some(AppEvent::Started { pid }) => {
                tracing::info!(pid, "the app runs");
                self.watch_health();
            }
            Some(AppEvent::Exited { exit }) => self.on_exit(&exit),
            Some(AppEvent::Restarting { after }) => {
                tracing::info!(after_ms = after.as_millis(), "the app is started again");
                self.parts.metrics.restarts.inc();
            }
            Some(AppEvent::GaveUp { restarts, within, exit }) => {
                return Next::Leave(Why::GaveUp(gave_up(restarts, within, &exit)));
            }
            Some(AppEvent::Stopped) | None => {
                tracing::info!("the app is done");
                return Next::Leave(Why::Asked);
            }
        }
        Next::On
    }

    fn on_exit(&mut self, exit: &Exit) {
        tracing::error!(%exit, "the app ended");
        self.monitor = None; // what it found a moment ago, and would tell next, was said of the process that is gone
        self.healthy = false;
        self.describing = None;
        self.say(Status::Crashed, &in_short(exit));
    }

    fn watch_health(&mut self) {
        self.healthy = false;
        self.monitor = Some(Monitor::start(self.parts.app, self.parts.health.clone(), self.parts.timing));
    }

    fn on_health(&mut self, health: Health) {
        match health {
            Health::Unknown { reason } => {
                tracing::debug!(reason, "the app is not healthy yet");
                if self.status == Status::Starting && !self.revoked {
                    self.parts.readiness.not_ready(format!("{}: {reason}", entrance::NO_APP));
                }
            }
            Health::Unhealthy { reason } => {
                self.healthy = false;
                self.describing = None;
                // A crash says more than the lost connection that it shows by.
                if self.status != Status::Crashed {
                    tracing::warn!(reason, "the app is not healthy");
                    self.say(Status::NotServing, &reason);
                }
            }
            Health::Healthy => {
                self.healthy = true;
                self.describe();
            }
        }
    }

    /// Reads what the app offers; a new process may offer something else.
    fn describe(&mut self) {
        if self.parts.registration.is_none() {
            return self.serve();
        }
        self.unread = 0;
        self.describe_after(Duration::ZERO);
        if self.lease.is_some() && self.status != Status::Crashed {
            self.serve(); // the same process is back: what it offers is known, and callers should not wait for a second reading
        }
    }

    fn describe_after(&mut self, pause: Duration) {
        let Some(registration) = &self.parts.registration else { return };
        let (app, registries, given) =
            (self.parts.app, registration.registries.clone(), registration.descriptors.clone());
        let instance = registration.instance.clone();
        let stored = self.described.as_ref().map(DescriptorSet::digest);
        self.describing = Some(Box::pin(async move {
            sleep(pause).await;
            descriptors::describe(app, &registries, &instance, given, stored).await
        }));
    }

    /// Without a new set the old one stays: methods that were known are not forgotten because nobody could read or store them again.
    fn on_described(&mut self, described: Described) {
        let before = self.described.as_ref().map(DescriptorSet::digest);
        match described {
            Described::As(set) => self.described = Some(set),
            Described::Unsaid => {}
            Described::Failed => {
                self.unread += 1;
                self.describe_after(descriptors::pause(self.unread));
            }
        }
        let now = self.described.as_ref().map(DescriptorSet::digest);
        if self.lease.is_none() || now != before {
            self.register(now);
        }
        self.serve();
    }

    fn register(&mut self, descriptors: Option<Digest>) {
        let Some(registration) = &self.parts.registration else { return };
        drop(self.lease.take()); // before the next one is held: both are of one id
        let instance =
            Instance { status: Status::Serving, reason: String::new(), descriptors, ..registration.instance.clone() };
        self.lease = Some(registration.leases.hold(instance));
    }

    fn serve(&mut self) {
        if self.healthy {
            self.say(Status::Serving, "");
        }
    }

    fn say(&mut self, status: Status, reason: &str) {
        if self.status != status {
            tracing::info!(%status, reason, "the app's status");
        }
        self.status = status;
        self.parts.metrics.status(status);
        if self.revoked {
            self.parts.readiness.not_ready(REVOKED);
        } else if status.takes_calls() {
            self.parts.readiness.ready();
        } else {
            self.parts.readiness.not_ready(if reason.is_empty() {
                status.to_string()
            } else {
                format!("{status}: {reason}")
            });
        }
        if let Some(lease) = &self.lease {
            lease.report(status, reason);
        }
    }

    fn on_lease(&mut self, state: Option<LeaseState>) -> Next {
        match state {
            Some(LeaseState::Held { epoch }) => {
                tracing::info!(%epoch, "registered");
                if let (Some(registration), Some(set)) = (&self.parts.registration, &self.described) {
                    let (registries, set) = (registration.registries.clone(), set.clone());
                    let instance = registration.instance.clone();
                    self.storing = Some(Box::pin(async move {
                        descriptors::store(&registries, &instance, &set).await; // a refusal is in the log
                    }));
                }
            }
            Some(LeaseState::Registering { failure }) => tracing::warn!(failure, "not registered; trying again"),
            Some(LeaseState::Revoked { reason }) => {
                tracing::warn!(reason, "an operator removed this instance; the app keeps running, unlisted");
                self.revoked = true;
                self.parts.readiness.not_ready(REVOKED);
            }
            Some(LeaseState::Fenced { reason }) => {
                return Next::Leave(Why::Unwanted(anyhow!("a newer registration holds this instance's id: {reason}")));
            }
            Some(LeaseState::Refused { reason }) => {
                return Next::Leave(Why::Unwanted(anyhow!("the registry does not list this instance: {reason}")));
            }
            None => return Next::Leave(Why::Unwanted(anyhow!("the keep-alive task ended"))),
        }
        Next::On
    }

    async fn leave(mut self, why: Why, shutdown: &Shutdown) -> anyhow::Result<()> {
        let result = match why {
            Why::Asked => {
                self.notify_callers().await;
                Ok(())
            }
            // The registry has heard CRASHED, with the last words, at the exit; callers have left.
            Why::GaveUp(error) | Why::Unwanted(error) => Err(error),
        };
        self.describing = None;
        self.monitor = None;
        tracing::info!(phase = "draining", "no new connections; calls in flight may finish");
        let cut = self.parts.inbound.finish(self.parts.limits.limit).await;
        if cut > 0 {
            tracing::warn!(connections = cut, "calls did not finish in time and were cut");
        }
        match &mut self.parts.child {
            Some(child) => {
                if let Some(exit) = child.stop().await {
                    tracing::info!(%exit, "the app ended");
                }
            }
            None if result.is_ok() => stay(self.parts.app, shutdown).await,
            None => {}
        }
        self.parts.outbound.finish(self.parts.limits.outbound).await;
        self.deregister().await;
        result
    }

    /// Tells every caller to call others, and accepts until they have heard it, or for `notice`.
    async fn notify_callers(&mut self) {
        let notice = self.parts.limits.notice;
        tracing::info!(phase = "leaving", ?notice, "draining: still accepting until callers have heard of it");
        let told = match &self.lease {
            Some(lease) => how_it_went(&lease.drain(notice).await),
            None => "no registry lists this instance".to_owned(),
        };
        tracing::info!(told, "callers were told");
        self.parts.drained.send_replace(Some(told));
    }

    async fn deregister(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        match lease.deregister(DEREGISTER).await {
            Ok(_) => tracing::info!(phase = "flushed", "deregistered"),
            Err(error) => tracing::warn!(error = chain(&error), "not deregistered; the lease will run out"),
        }
    }
}

/// An app that somebody else runs may call other services to its last moment, and whoever asked for `/drain` may ask again: so stay until
/// the app is gone, or until we are told to end, which Kubernetes does last.
async fn stay(app: SocketAddr, shutdown: &Shutdown) {
    tracing::info!("callers are gone; carrying the app's own calls until it ends");
    tokio::select! {
        () = shutdown.draining() => {}
        () = health::gone(app) => tracing::info!("the app is gone"),
    }
}

/// Waits for a future that may not be there. Cancel-safe: the future stays where it is.
async fn done<T>(slot: &mut Option<Pin<Box<dyn Future<Output = T> + Send>>>) -> T {
    match slot {
        Some(future) => {
            let value = future.await;
            *slot = None;
            value
        }
        None => pending().await,
    }
}

fn how_it_went(answer: &Result<Drained, CallError>) -> String {
    match answer {
        Ok(Drained { acknowledged: true, waited_for, .. }) if waited_for.is_empty() => {
            "no caller had to be waited for".to_owned()
        }
        Ok(Drained { acknowledged: true, waited_for, .. }) => format!("acknowledged by {}", waited_for.join(", ")),
        Ok(Drained { waiting, .. }) => format!("not acknowledged in time by {}", waiting.join(", ")),
        Err(error) => format!("not proven: {}", chain(error)),
    }
}

/// How it ended and its last words, as a reason that fits on a line.
fn in_short(exit: &Exit) -> String {
    match exit.last_lines.iter().rev().find_map(|line| telling(&line.text)) {
        Some(words) => format!("{exit}: {}", words.chars().take(LAST_WORDS).collect::<String>()),
        None => exit.to_string(),
    }
}

/// What a line says of a failure. A JSON log line, as the SDK writes them, says something from WARN on: its message.
fn telling(line: &str) -> Option<String> {
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(line).unwrap_or_default();
    let text = |name| fields.get(name).and_then(serde_json::Value::as_str);
    match (text("level"), text("message")) {
        (Some("WARN" | "ERROR"), Some(message)) => Some(message.to_owned()),
        (Some(_), Some(_)) => None,
        _ => Some(line.to_owned()).filter(|line| !line.trim().is_empty()),
    }
}

fn gave_up(restarts: u32, within: Duration, exit: &Exit) -> anyhow::Error {
    let lines: Vec<_> = exit.last_lines.iter().map(|line| format!("\n  | {line}")).collect();
    anyhow!(
        "the app crashed {} times within {within:?}, the last time with {exit}; its last lines:{}",
        restarts + 1,
        lines.concat()
    )
}

#[cfg(test)]
mod tests {
    use weft_supervise::{Line, Outcome, Stream};

    use super::*;

    fn reason(lines: &[&str]) -> String {
        let line = |text: &&str| Line { number: 0, stream: Stream::Stderr, text: (*text).into() };
        in_short(&Exit {
            outcome: Outcome::Code(3),
            ran_for: Duration::from_secs(1),
            last_lines: lines.iter().map(line).collect(),
        })
    }

    #[test]
    fn the_last_words_are_what_tells_of_a_failure() {
        let info =
            r#"{"timestamp":"2026-11-20T12:00:01.250731Z","level":"INFO","message":"listening","addr":"127.0.0.1:1"}"#;
        let error = r#"{"timestamp":"2026-11-20T12:00:01.250731Z","level":"ERROR","message":"cannot open the shop"}"#;
        let plain = "exit code 3 after 1.0 s";
        assert_eq!(reason(&[]), plain);
        assert_eq!(reason(&["no database", "  "]), format!("{plain}: no database"));
        assert_eq!(reason(&[info]), plain, "that all went well is no reason");
        assert_eq!(reason(&[error, info]), format!("{plain}: cannot open the shop"));
        assert_eq!(reason(&[r#"{"code":7}"#]), format!("{plain}: {{\"code\":7}}"), "no log line of ours");
    }
}
