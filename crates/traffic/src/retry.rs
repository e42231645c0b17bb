//! Retry: sends a call again where that is safe, each time to an endpoint picked afresh.
//!
//! Lives here: the layer, what it keeps of a call, which answers it reads to their end first. Does not: the rules (`retry/attempts`), telling failures apart
//! (`attempt`), the copy of the request's body (`replay`), that of the answer's (`answer`).
//! Invariants: nothing is sent again once the caller has anything of an answer, or when more than 64 KiB of body have been sent; each attempt picks afresh; the
//! caller gets the last failure, not the first.
//! Held back is the answer of a unary method that may run again, from its headers to its end: a caller can do nothing with a message whose status is missing, and a
//! server may die between the two (grpc-js sends them in two turns of its loop). At most 64 KiB and a frame, and no longer than the call's patience; then the answer goes
//! on as it comes, and what breaks off then is the caller's to see. Nothing is held of a stream, and no byte is copied.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Request, Response};
use tokio::time::Instant;
use weft_model::{InstanceId, RetryOn, RetryRule};

use self::attempts::{Attempts, Elsewhere, Next, Pushback, Repeatable};
use crate::{
    Code, Error, Worlds,
    answer::Answer,
    attempt::{Failure, Sender},
    cluster::{Chance, Cluster, Tried},
    endpoint::Endpoint,
    head::{self, Kept, Target},
    replay::{self, Replay, SendBody},
    select,
    span::{CallTrace, OpenSpan},
    stage::{Selected, Stage},
    ticks::Ticks,
};

mod attempts;

/// Picks endpoints and sends attempts until one answers.
pub(crate) struct Retry {
    sender: Sender,
    policy: Policy,
}

/// How far a stack goes.
#[derive(Debug, Clone)]
pub(crate) enum Policy {
    /// Other endpoints, and waits while there are none; methods declared idempotent may run twice.
    Mesh { worlds: Worlds },
    /// One app: only what came back from a connection on its way out goes again. The caller has other endpoints, we have none.
    App { worlds: Worlds },
}

impl Policy {
    fn worlds(&self) -> &Worlds {
        match self {
            Self::Mesh { worlds } | Self::App { worlds } => worlds,
        }
    }

    fn repeatable(&self, idempotent: bool) -> Repeatable {
        match self {
            Self::Mesh { .. } if idempotent => Repeatable::Yes,
            Self::Mesh { .. } | Self::App { .. } => Repeatable::No,
        }
    }
}

impl Retry {
    pub(crate) fn new(sender: Sender, policy: Policy) -> Self {
        Self { sender, policy }
    }

    /// Another attempt goes by the world as it is then: the one of the call's beginning may name nobody but the endpoint that just died.
    fn refresh(&self, call: &mut Call) {
        let Policy::Mesh { worlds } = &self.policy else { return };
        if call.pinned.is_some() {
            return;
        }
        let world = worlds.borrow();
        let cluster = world.serving_of(call.cluster.name(), call.target.path.path());
        if let Some(cluster) = cluster.filter(|c| !c.members.is_empty()) {
            call.cluster = cluster.clone();
        }
    }

    /// The endpoint of the next attempt. Waits before a last resort, and then goes by the world as it is after the wait. None: nothing in time.
    async fn choose(&self, call: &mut Call) -> Option<Arc<Endpoint>> {
        loop {
            let now = self.policy.worlds().clock().now();
            let picked = call.cluster.pick(now, &call.tried, &mut rand::rng());
            match picked {
                Some((endpoint, Chance::Fresh)) => return Some(endpoint.clone()),
                // The first attempt never waits: all may be resting, and a fresh try beats failing blindly.
                Some((endpoint, Chance::LastResort)) if call.attempts.rested() => return Some(endpoint.clone()),
                Some((_, Chance::LastResort)) => {
                    let wait = call.attempts.back_off(Instant::now(), &mut rand::rng())?;
                    self.rest(call, wait).await?;
                }
                None => self.rest(call, Duration::ZERO).await?,
            }
        }
    }

    /// Waits until the time is over or the world changes, and takes the cluster as it is then.
    async fn rest(&self, call: &mut Call, wait: Duration) -> Option<()> {
        if call.pinned.is_some() {
            return None; // whoever asks for one instance wants to know how it is now
        }
        match &self.policy {
            Policy::App { .. } => tokio::time::sleep(wait).await,
            Policy::Mesh { worlds } => {
                let mut changes = worlds.changes();
                drop(tokio::time::timeout(wait, changes.next()).await);
                let (service, path) = (call.cluster.name(), call.target.path.path());
                let endpoints = select::endpoints(worlds, service, path, call.attempts.give_up()).await;
                call.cluster = endpoints.ok()?;
            }
        }
        Some(())
    }
}

impl Stage<Selected> for Retry {
    async fn call(&self, selected: Selected) -> Result<Response<Answer>, Error> {
        let repeatable = match &selected.retry {
            Some(rule) => Repeatable::by_rule(rule),
            None => self.policy.repeatable(selected.method.idempotent),
        };
        let (mut call, mut request) = Call::begin(selected, repeatable).await;
        let mut failed = None;
        loop {
            let Some(endpoint) = self.choose(&mut call).await else {
                return Err(failed.unwrap_or_else(|| Error::NoEndpoint { service: call.cluster.name().clone() }));
            };
            call.stamp(&mut request);
            let span = call.span(&mut request);
            let sent = self.sender.send(&endpoint, &call.cluster, request, call.deadline).await;
            let mut sent = spanned(sent, span);
            if let Ok(response) = &mut sent
                && let Err(broken) = call.hold(response).await
            {
                sent = Err(Failure::Broken(broken));
            }
            match sent {
                Ok(response) if !call.might_repeat(&response) => return Ok(call.commit(response)),
                Ok(response) => {
                    self.refresh(&mut call);
                    match call.after_unavailable(&endpoint, &response, self.policy.worlds().clock().now()) {
                        Next::GiveUp => return Ok(call.commit(response)),
                        Next::Elsewhere | Next::Anywhere => {}
                        Next::After(wait) => tokio::time::sleep(wait).await,
                    }
                    drop(response);
                    request = call.request();
                }
                Err(failure) => {
                    self.refresh(&mut call);
                    let now = self.policy.worlds().clock().now();
                    (request, failed) = call.after_failure(&endpoint, failure, now).map(|(r, e)| (r, Some(e)))?;
                }
            }
        }
    }
}

fn code_of(it: RetryOn) -> Code {
    match it {
        RetryOn::Cancelled => Code::Cancelled,
        RetryOn::DeadlineExceeded => Code::DeadlineExceeded,
        RetryOn::Internal => Code::Internal,
        RetryOn::ResourceExhausted => Code::ResourceExhausted,
        RetryOn::Unavailable => Code::Unavailable,
    }
}

/// Where the status is, if it is known.
fn said(response: &Response<Answer>) -> &HeaderMap {
    response.body().held_trailers().unwrap_or(response.headers())
}

/// Ends an attempt's span: at once if it failed, else with its answer.
fn spanned(sent: Result<Response<Answer>, Failure>, span: Option<Box<OpenSpan>>) -> Result<Response<Answer>, Failure> {
    match (sent, span) {
        (sent, None) => sent,
        (Ok(response), Some(span)) => Ok(response.map(|answer| answer.with_span(span))),
        (Err(failure), Some(span)) => {
            span.finish(failure.code());
            Err(failure)
        }
    }
}

/// A call while it may have to be sent again.
struct Call {
    target: Target,
    kept: Kept,
    replay: Replay,
    deadline: Option<Instant>,
    trace: Option<Arc<CallTrace>>,
    cluster: Arc<Cluster>,
    pinned: Option<InstanceId>,
    tried: Tried,
    attempts: Attempts,
    repeatable: Repeatable,
    /// One message each way.
    unary: bool,
    /// A policy's word on what is tried again, and how often.
    rule: Option<Arc<RetryRule>>,
}

impl Call {
    /// Returns the call and the request of its first attempt, which takes the headers as they came: only further ones need the copy.
    async fn begin(selected: Selected, repeatable: Repeatable) -> (Self, Request<SendBody>) {
        let Selected { head, body, authority, cluster, deadline, trace, pinned, retry, give_up, method } = selected;
        let mut headers = head.headers;
        head::strip_hop_by_hop(&mut headers);
        head::leave_unindexed(&mut headers);
        let path = head.uri.into_parts().path_and_query;
        let target = Target {
            method: head.method,
            authority,
            path: path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")),
        };
        let (kept, replay) = (Kept::of(&headers), Replay::of(body).await);
        let first = target.request(headers, replay.attempt());
        let call = Self {
            target,
            kept,
            replay,
            deadline,
            trace,
            cluster,
            pinned,
            tried: Tried::default(),
            attempts: Attempts::until(give_up),
            repeatable,
            unary: method.unary,
            rule: retry,
        };
        (call, first)
    }

    /// The request of another attempt.
    fn request(&self) -> Request<SendBody> {
        self.target.request(self.kept.headers(), self.replay.attempt())
    }

    fn stamp(&self, request: &mut Request<SendBody>) {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        head::stamp(request.headers_mut(), left, self.attempts.made());
    }

    /// Opens the attempt's span, if the call is sampled.
    fn span(&self, request: &mut Request<SendBody>) -> Option<Box<OpenSpan>> {
        let trace = self.trace.as_ref()?;
        Some(trace.attempt(request.headers_mut(), self.cluster.name(), self.attempts.made(), self.deadline))
    }

    /// Reads a unary answer to its end, if the call could still run elsewhere. What breaks off meanwhile is as if nothing had come.
    async fn hold(&self, response: &mut Response<Answer>) -> Result<(), hyper::Error> {
        if self.unary && self.may_run_again() && response.body().is_open_grpc() && self.replay.can_repeat() {
            response.body_mut().hold(replay::CAP, self.attempts.give_up()).await?;
        }
        Ok(())
    }

    fn may_run_again(&self) -> bool {
        match &self.rule {
            Some(rule) => rule.retries() > 0,
            None => self.repeatable != Repeatable::No,
        }
    }

    /// Only a status in place of an answer, or at the end of one that was held, need not be the call's end: UNAVAILABLE, or what a policy names.
    fn might_repeat(&self, response: &Response<Answer>) -> bool {
        let code = Code::from_headers(said(response));
        let named = match &self.rule {
            Some(rule) => code.is_some_and(|code| rule.on().iter().any(|it| code_of(*it) == code)),
            None => code == Some(Code::Unavailable),
        };
        named && self.replay.can_repeat()
    }

    fn after_unavailable(&mut self, endpoint: &Endpoint, response: &Response<Answer>, now: Ticks) -> Next {
        self.tried.add(endpoint.id());
        let elsewhere = if self.cluster.any_fresh(now, &self.tried) { Elsewhere::Left } else { Elsewhere::None };
        let (shared, pushback) = (&self.cluster.shared, Pushback::of(said(response)));
        let next = match &self.rule {
            Some(rule) => self.attempts.answered_by_rule(rule, pushback, || shared.withdraw(now), &mut rand::rng()),
            None => self.attempts.answered_unavailable(self.repeatable, pushback, elsewhere, || shared.withdraw(now)),
        };
        if next != Next::GiveUp {
            shared.metrics.failed.inc();
        }
        next
    }

    /// Returns the request of the next attempt and the error should there be none, or the error at once.
    fn after_failure(
        &mut self,
        endpoint: &Endpoint,
        failure: Failure,
        now: Ticks,
    ) -> Result<(Request<SendBody>, Error), Error> {
        let service = || self.cluster.name().clone();
        let at = Instant::now();
        let (returned, error, next) = match failure {
            Failure::Connect(request, source) => {
                (Some(request), Error::Connect { service: service(), source }, self.attempts.unprocessed(at))
            }
            Failure::HandedBack(request, source) => {
                (Some(request), Error::Refused { service: service(), source }, self.attempts.handed_back(at))
            }
            Failure::WentAway(source) => {
                (None, Error::Refused { service: service(), source }, self.attempts.handed_back(at))
            }
            Failure::Refused(source) => {
                (None, Error::Refused { service: service(), source }, self.attempts.unprocessed(at))
            }
            Failure::Broken(_) if self.replay.client_left() => return Err(Error::ClientLeft),
            Failure::Broken(source) => {
                let shared = &self.cluster.shared;
                let next = self.attempts.broken(self.repeatable, || shared.withdraw(now));
                (None, Error::Broken { service: service(), source }, next)
            }
        };
        let request = match (returned, next) {
            (_, Next::GiveUp) => return Err(error),
            (Some(request), _) => *request,
            (None, _) if self.replay.can_repeat() => self.request(),
            (None, _) => return Err(error),
        };
        if next == Next::Elsewhere {
            self.tried.add(endpoint.id());
        }
        match &error {
            Error::Broken { .. } => self.cluster.shared.metrics.failed.inc(),
            _ => self.cluster.shared.metrics.unprocessed.inc(),
        };
        Ok((request, error))
    }

    /// This is the answer: the copy goes, and the rest of the request's body lives as long as the answer is read.
    fn commit(self, response: Response<Answer>) -> Response<Answer> {
        let request_body = self.replay.commit();
        response.map(|answer| answer.with_request_body(request_body))
    }
}
