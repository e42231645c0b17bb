//! An open-loop load generator over HTTP/1.1: calls start when they are due, whatever became of the ones before.
//!
//! Lives here: the schedule, the connections, the outcome of each call, a report. Does not: what to call (a closure), what may fail.
//! Latency counts from the intended start, so that a stall shows in every call it delayed (no coordinated omission).

use std::{
    collections::HashMap,
    fmt,
    future::pending,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::wait;

/// Fewer calls are no load, and that none of them failed says nothing.
const LOAD: usize = 100;

/// A call that has not answered by then has failed.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// One call to make.
#[derive(Debug, Clone)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// JSON body; none for an empty one.
    pub body: Option<String>,
}

/// How many calls a load has begun, for who waits until there are more: what goes on beside a load may be over in less than it takes to be one.
#[derive(Debug, Clone, Default)]
pub struct Begun(Arc<AtomicUsize>);

impl Begun {
    /// The same calls, counted.
    pub fn counting<C: FnMut(usize) -> Call>(&self, mut call: C) -> impl FnMut(usize) -> Call + use<C> {
        let begun = Arc::clone(&self.0);
        move |n| {
            begun.fetch_add(1, Ordering::Relaxed);
            call(n)
        }
    }

    /// Waits until this many more have begun. Panics after `limit`.
    pub async fn more(&self, calls: usize, limit: Duration) {
        let wanted = self.0.load(Ordering::Relaxed) + calls;
        let begun = || async { (self.0.load(Ordering::Relaxed) >= wanted).then_some(()) };
        wait::until(&format!("{calls} more calls of the load"), limit, begun).await;
    }
}

/// What became of one call.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Position in the schedule.
    pub index: usize,
    /// The call.
    pub call: Call,
    /// Intended start, since the load began.
    pub due: Duration,
    /// From the intended start to the end of the answer.
    pub latency: Duration,
    /// When it really began.
    pub began: Instant,
    /// When the answer was there.
    pub ended: Instant,
    /// Status and body, or what went wrong below HTTP.
    pub answer: Result<(StatusCode, String), String>,
}

impl Outcome {
    /// Whether it was under way at some moment of a span of time.
    pub fn under_way(&self, from: Instant, to: Instant) -> bool {
        self.began <= to && self.ended >= from
    }

    /// Whether the answer was a 2xx.
    pub fn ok(&self) -> bool {
        matches!(&self.answer, Ok((status, _)) if status.is_success())
    }
}

/// Sends `rate` calls a second for `span` to `target`; `call` makes the n-th one when it is due. Returns every outcome in order.
pub async fn run(target: SocketAddr, rate: u32, span: Duration, call: impl FnMut(usize) -> Call) -> Report {
    let total = (span.as_secs_f64() * f64::from(rate)).round() as usize;
    schedule(move |_| target, rate, total, pending(), call).await
}

/// The same until `stop` is over, for what takes as long as it takes: such a load outlasts what goes on beside it.
pub async fn run_until(
    target: SocketAddr,
    rate: u32,
    stop: impl Future<Output = ()>,
    call: impl FnMut(usize) -> Call,
) -> Report {
    run_balanced_until(move |_| target, rate, stop, call).await
}

/// The same, where `target` says where the n-th call goes, as a balancer in front would.
pub async fn run_balanced_until(
    target: impl FnMut(usize) -> SocketAddr,
    rate: u32,
    stop: impl Future<Output = ()>,
    call: impl FnMut(usize) -> Call,
) -> Report {
    schedule(target, rate, usize::MAX, stop, call).await
}

async fn schedule(
    mut target: impl FnMut(usize) -> SocketAddr,
    rate: u32,
    total: usize,
    stop: impl Future<Output = ()>,
    mut call: impl FnMut(usize) -> Call,
) -> Report {
    let connections = Arc::new(Connections::default());
    let start = Instant::now();
    let mut calls = JoinSet::new();
    let mut outcomes = Vec::new();
    tokio::pin!(stop);
    for index in 0..total {
        let due = Duration::from_secs_f64(index as f64 / f64::from(rate));
        tokio::select! {
            biased; // a load that is behind its schedule stops, too
            () = &mut stop => break,
            () = sleep_until(start + due) => {}
        }
        let (call, target, connections) = (call(index), target(index), Arc::clone(&connections));
        calls.spawn(async move {
            let began = Instant::now();
            let limited = timeout(CALL_LIMIT, connections.send(target, &call)).await;
            let answer = limited.unwrap_or_else(|_| Err(format!("no answer within {CALL_LIMIT:?}")));
            let ended = Instant::now();
            Outcome { index, call, due, latency: (ended - start).saturating_sub(due), began, ended, answer }
        });
        while let Some(Ok(outcome)) = calls.try_join_next() {
            outcomes.push(outcome);
        }
    }
    outcomes.extend(calls.join_all().await);
    outcomes.sort_by_key(|outcome| outcome.index);
    Report { outcomes }
}

/// A connection and the task that drives it.
type Connection = (SendRequest<Full<Bytes>>, JoinSet<()>);

#[derive(Default)]
struct Connections {
    idle: Mutex<HashMap<SocketAddr, Vec<Connection>>>,
}

impl Connections {
    async fn send(&self, target: SocketAddr, call: &Call) -> Result<(StatusCode, String), String> {
        let (mut sender, driver) = match self.take(target) {
            Some(connection) => connection,
            None => connect(target).await.map_err(|e| format!("connect: {e}"))?,
        };
        let request = Request::builder()
            .method(call.method.clone())
            .uri(&call.path)
            .header("host", target.to_string())
            .header("content-type", "application/json")
            .body(Full::from(call.body.clone().unwrap_or_default()))
            .map_err(|e| format!("request: {e}"))?;
        let response = sender.send_request(request).await.map_err(|e| format!("send: {e}"))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|e| format!("body: {e}"))?.to_bytes();
        if !sender.is_closed() {
            self.idle().entry(target).or_default().push((sender, driver));
        }
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    /// Takes an idle connection; one that the other side closed meanwhile is no failure of a call and is dropped.
    fn take(&self, target: SocketAddr) -> Option<Connection> {
        let mut idle = self.idle();
        let idle = idle.get_mut(&target)?;
        while let Some((sender, driver)) = idle.pop() {
            if sender.is_ready() {
                return Some((sender, driver));
            }
        }
        None
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, HashMap<SocketAddr, Vec<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn connect(target: SocketAddr) -> Result<Connection, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(target).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) }); // its error reaches the call that is on it
    Ok((sender, driver))
}

/// All outcomes of a load, in the order of their schedule.
#[derive(Debug, Clone)]
pub struct Report {
    /// The outcomes.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Panics unless there were calls enough to be a load, and all of them ended with a 2xx.
    #[track_caller]
    pub fn lost_none(&self) {
        assert!(self.outcomes.len() >= LOAD, "this is no load: {self}");
        assert!(self.failed().is_empty(), "{self}");
    }

    /// Calls that did not end with a 2xx.
    pub fn failed(&self) -> Vec<&Outcome> {
        self.outcomes.iter().filter(|outcome| !outcome.ok()).collect()
    }

    /// Failed calls of one method.
    pub fn failed_with(&self, method: &Method) -> Vec<&Outcome> {
        self.failed().into_iter().filter(|outcome| outcome.call.method == *method).collect()
    }

    /// Latency below which the share `q` (0 to 1) of the calls lies.
    pub fn quantile(&self, q: f64) -> Duration {
        let mut latencies: Vec<_> = self.outcomes.iter().map(|o| o.latency).collect();
        latencies.sort();
        let index = ((latencies.len().saturating_sub(1)) as f64 * q).round() as usize;
        latencies.get(index).copied().unwrap_or_default()
    }
}

/// One line of figures, then one line for each failed call, at most twenty.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failed();
        write!(
            f,
            "{} calls, {} failed, p50 {:?}, p99 {:?}, max {:?}",
            self.outcomes.len(),
            failed.len(),
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0)
        )?;
        for outcome in failed.iter().take(20) {
            let Outcome { index, call, due, latency, answer, .. } = outcome;
            write!(f, "\n  #{index} {} {} due {due:?} took {latency:?}: {answer:?}", call.method, call.path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_load_without_an_end_goes_on_until_it_is_stopped() {
        let nobody = "127.0.0.1:1".parse().unwrap();
        let call = |n| Call { method: Method::GET, path: format!("/{n}"), body: None };
        let report = run_until(nobody, 10, tokio::time::sleep(Duration::from_millis(1_950)), call).await;
        assert_eq!(report.outcomes.len(), 20);
        assert_eq!(report.outcomes.last().map(|it| it.due), Some(Duration::from_millis(1_900)));
    }
}
