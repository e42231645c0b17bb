//! One call from its head to its end: who called, how it is traced, how it ended.
//!
//! Lives here: the facts, and telling metrics and access log once, when the answer's last byte was taken or nobody waits for it any more.
//! Does not: answering (`protocol`).
//! Invariant: dropping a `Call` ends it, so a client that leaves is counted like any other end: 499 or CANCELLED.

use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI32, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Instant;
use weft_model::ServiceName;
use weft_runtime::{Spans, threads::LoadGuard};
use weft_traffic::{Body, BodyError, Code, Entered, Error, TraceContext};

use crate::edge::{
    access_log::{AccessLog, Line},
    cache::{After, Writes},
    cors::Granted,
    forwarded::Downstream,
    guard::By,
    headers::Headers,
    limits::Noted,
    metrics::{RouteMeter, Status},
    span::{End, Tracing},
};
use crate::tls::peer::Peer;

/// Names a call for people, across services.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id that is taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// How a call ends whose protocol says so within the body: told by who writes the body, read when the body is over.
#[derive(Debug, Clone)]
pub(crate) struct Outcome(Arc<Ended>);

#[derive(Debug)]
struct Ended {
    code: AtomicI32,
    /// What the call may make untrue, from when it goes upstream until it has. The lock is held for one move.
    writes: Mutex<Option<Writes>>,
}

impl Outcome {
    /// Says the gRPC code that the call ends with.
    pub(crate) fn is(&self, code: i32) {
        self.is_after(code, After::Replies);
    }

    /// As [`Outcome::is`], and what came before the end.
    pub(crate) fn is_after(&self, code: i32, after: After) {
        self.0.code.store(code, Ordering::Relaxed);
        self.wrote(code, after);
    }

    fn wrote(&self, code: i32, after: After) {
        if let Some(writes) = self.0.writes.lock().unwrap_or_else(PoisonError::into_inner).take() {
            writes.ended(Status::Grpc(code), after); // before the caller hears of it: what it asks next must not be of before
        }
    }
}

/// A call that has not ended.
#[derive(Debug)]
pub(crate) struct Call {
    /// When its head was complete; deadlines count from here.
    pub(crate) received: Instant,
    /// The other end of its connection.
    pub(crate) downstream: Downstream,
    /// Where it comes from, as far as that is known.
    pub(crate) caller: IpAddr,
    /// The other end of its connection, where that is TLS.
    pub(crate) peer: Option<Arc<Peer>>,
    /// What goes upstream: in a sampled call our own span is the parent there.
    pub(crate) trace: TraceContext,
    begun_here: bool,
    /// Where the call's span goes, and the span above it; none in unsampled calls.
    span: Option<(Spans, Option<u64>)>,
    pub(crate) request_id: HeaderValue,
    /// Route it took.
    pub(crate) meter: Arc<RouteMeter>,
    /// Service that answers.
    pub(crate) service: Option<ServiceName>,
    /// How it would be said to have ended if it ended now.
    pub(crate) status: Status,
    /// What its answer says to browsers; none: nothing.
    pub(crate) cors: Option<Granted>,
    /// What becomes of its answer's headers; none: nothing.
    pub(crate) headers: Option<Arc<Headers>>,
    /// Edge policy and rule that refused it.
    pub(crate) refused: Option<By>,
    /// Who refused what was read of its body, once somebody did; none where no policy measures it.
    too_long: OnceLock<Noted>,
    /// Why it got no answer from upstream, for the access log.
    problem: OnceLock<Box<str>>,
    /// What of kept answers it may make untrue once it has gone upstream, until it has.
    writes: Option<Writes>,
    /// Whether somebody upstream may have heard of it.
    went_upstream: AtomicBool,
    /// Where it is said how it ended, if head and trailers do not.
    outcome: Option<Outcome>,
    method: Method,
    uri: Uri,
    log: AccessLog,
    _load: LoadGuard,
}

impl Call {
    /// Begins a call at a request's head: takes over or begins its trace, gives it an id, and settles what the head says of its way.
    pub(crate) fn begin<B>(
        request: &mut Request<B>,
        downstream: Downstream,
        load: LoadGuard,
        meter: Arc<RouteMeter>,
        log: AccessLog,
        tracing: &Tracing,
    ) -> Self {
        let entered = tracing.root.enter(request.headers(), &mut rand::rng());
        let (carried, parent) = (entered.context(), entered.parent());
        let recorded = carried.sampled() && tracing.spans.is_on();
        // A trace that begins here has no span yet: the id that its context was born with is free.
        let trace = if recorded && parent.is_some() { carried.child(&mut rand::rng()) } else { carried };
        Self {
            received: Instant::now(),
            caller: downstream.settle(request.headers_mut()),
            downstream,
            peer: request.extensions().get::<Arc<Peer>>().cloned(),
            request_id: request_id(request.headers(), trace),
            trace,
            begun_here: matches!(entered, Entered::Begun(_)),
            span: recorded.then(|| (tracing.spans.clone(), parent)),
            meter,
            service: None,
            status: Status::Http(499),
            cors: None,
            headers: None,
            refused: None,
            too_long: OnceLock::new(),
            problem: OnceLock::new(),
            writes: None,
            went_upstream: AtomicBool::new(false),
            outcome: None,
            method: request.method().clone(),
            uri: request.uri().clone(),
            log,
            _load: load,
        }
    }

    /// What was asked for.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Writes trace and request id into a head on its way upstream.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        self.trace.write(headers);
        if self.begun_here {
            headers.remove("tracestate"); // it belongs to a trace that could not be read (Trace Context, 3.3.1.1)
        }
        headers.insert(REQUEST_ID, self.request_id.clone());
    }

    /// Makes the call one that ends as the returned handle says, and as cancelled if the client leaves before.
    pub(crate) fn ends_by_outcome(&mut self) -> Outcome {
        self.status = Status::Grpc(1);
        let code = AtomicI32::new(Code::Unknown.number().into());
        self.outcome.insert(Outcome(Arc::new(Ended { code, writes: Mutex::new(None) }))).clone()
    }

    /// Notes what it may make untrue of kept answers by the time that it has ended, if it goes upstream.
    pub(crate) fn may_write(&mut self, writes: Option<Writes>) {
        self.writes = writes;
    }

    /// It goes upstream now. A call that ends before, because the request is none that could, has made nothing untrue.
    pub(crate) fn goes_upstream(&self) {
        match &self.outcome {
            Some(outcome) => {
                (*outcome.0.writes.lock().unwrap_or_else(PoisonError::into_inner)).clone_from(&self.writes);
            }
            None => self.went_upstream.store(true, Ordering::Relaxed),
        }
    }

    /// Whether its caller is on this machine, and no proxy there that is known to pass on calls of others.
    pub(crate) fn is_from_this_machine(&self) -> bool {
        self.downstream.addr.ip().to_canonical().is_loopback() && self.caller.is_loopback()
    }

    /// Where whoever reads its body notes that a policy refused that.
    pub(crate) fn noted(&self) -> Noted {
        Arc::clone(self.too_long.get_or_init(Noted::default))
    }

    /// Takes note of why the call got no answer, and returns what its caller is told of that. The log has the rest, under the same request id: whoever
    /// calls from outside is told nothing of addresses and identities within.
    pub(crate) fn unanswered(&self, error: &Error) -> String {
        let _ = self.problem.set(error.message().into()); // the first is the one
        error.message_outside()
    }

    /// Takes over to see to what the call makes untrue.
    pub(crate) fn take_writes(&mut self) -> Option<Writes> {
        self.writes.take()
    }

    fn wrote(&mut self, after: After) {
        if let Some(writes) = self.writes.take().filter(|_| *self.went_upstream.get_mut()) {
            writes.ended(self.status, after);
        }
    }

    /// Ties the call's end to the end of its answer's body.
    pub(crate) fn answered(mut self, mut response: Response<Body>) -> Response<Observed> {
        if let Some(rules) = &self.headers {
            rules.answer(response.headers_mut());
        }
        response.headers_mut().insert(REQUEST_ID, self.request_id.clone());
        if let Some(cors) = &self.cors {
            cors.write(response.headers_mut());
        }
        let unsaid = match self.status {
            Status::Grpc(_) if self.outcome.is_none() && Code::from_headers(response.headers()).is_none() => {
                let http = response.status();
                let code = if http.is_success() { Code::Unknown } else { Code::from_http(http) };
                Some(Status::Grpc(code.number().into()))
            }
            _ => None,
        };
        let ends_with_its_head = match self.status {
            Status::Grpc(_) => unsaid.is_none() && self.outcome.is_none(),
            Status::Http(code) => code >= 400, // what fails after replies says so in its body
        };
        if ends_with_its_head {
            self.wrote(After::Nothing);
        }
        response.map(|body| Observed { body, unsaid, call: Some(self) })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.received.elapsed();
        self.wrote(After::Replies);
        if let (Some(outcome), Status::Grpc(code)) = (&self.outcome, self.status) {
            outcome.wrote(code, After::Replies);
        }
        self.meter.ended(self.status, took);
        let recorded = self.span.take();
        let span_id = recorded.is_some().then(|| self.trace.parent_id());
        if let Some((spans, parent)) = recorded {
            let end = End {
                context: self.trace,
                parent,
                method: &self.method,
                uri: &self.uri,
                route: self.meter.known_route(),
                status: self.status,
                began: self.received.into_std(),
                took,
            };
            spans.offer(end.span());
        }
        self.log.write(|| Line {
            downstream: self.downstream.addr,
            caller: self.caller,
            method: self.method.clone(),
            uri: self.uri.clone(),
            meter: Arc::clone(&self.meter),
            service: self.service.clone(),
            status: self.status,
            took,
            trace: self.trace,
            span_id,
            request_id: self.request_id.clone(),
            refused: self.refused.take().or_else(|| self.too_long.get()?.get().cloned()),
            problem: self.problem.take(),
        });
    }
}

/// The id a client sent, if it is short printable ASCII, else the trace's.
fn request_id(headers: &HeaderMap, trace: TraceContext) -> HeaderValue {
    let sent = headers.get(&REQUEST_ID).filter(|id| {
        (1..=MAX_REQUEST_ID).contains(&id.len()) && id.as_bytes().iter().all(|byte| matches!(byte, b'!'..=b'~'))
    });
    sent.cloned().unwrap_or_else(|| trace.trace_id_header())
}

/// The body of an answer, and the call that ends with it.
#[derive(Debug)]
pub(crate) struct Observed {
    body: Body,
    /// How a native gRPC call ended whose answer ends without saying so.
    unsaid: Option<Status>,
    call: Option<Call>,
}

impl Observed {
    /// A body whose end is not the call's.
    pub(crate) fn unobserved(body: Body) -> Self {
        Self { body, unsaid: None, call: None }
    }

    /// The answer is over, unlike one that is dropped because the client left.
    fn over(&mut self) {
        if let Some(mut call) = self.call.take() {
            let told = call.outcome.as_ref().map(|it| Status::Grpc(it.0.code.load(Ordering::Relaxed)));
            call.status = told.or(self.unsaid).unwrap_or(call.status);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.over(); // who goes by `is_end_stream` does not ask for the end
        }
    }
}

impl http_body::Body for Observed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(trailers), Some(call)) = (frame.trailers_ref(), &mut self.call)
                    && let (Status::Grpc(_), Some(code)) = (call.status, Code::from_headers(trailers))
                {
                    call.status = Status::Grpc(code.number().into());
                    call.wrote(After::Replies); // before its caller hears of it
                    self.unsaid = None;
                }
            }
            Poll::Ready(None | Some(Err(_))) => self.over(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_runtime::{Metrics, threads::Load};
    use weft_traffic::Root;

    use super::*;
    use crate::edge::{access_log::access_log, forwarded::TrustedProxies, metrics::Meters};

    #[test]
    fn a_call_weighs_on_its_thread_until_its_answer_is_over() {
        let (meters, load) = (Meters::new(&Metrics::default()), Load::default());
        let tracing = Tracing { root: Root::NEVER, spans: Spans::off() };
        let downstream = Arc::new(TrustedProxies::default()).see(([127, 0, 0, 1], 1).into());
        let begin = || {
            let log = access_log(meters.lines_lost.clone()).0;
            let meter = meters.unmatched_rest();
            Call::begin(&mut Request::new(()), downstream.clone(), load.enter(), meter, log, &tracing)
        };
        let (_upstream, body) = Body::channel(1);
        let long = begin().answered(Response::new(body));
        let short = begin().answered(Response::new(Body::full("done")));
        let unanswered = begin();
        assert_eq!(load.get(), 3);
        drop(short);
        drop(unanswered);
        assert_eq!(load.get(), 1, "a stream that goes on");
        drop(long);
        assert_eq!(load.get(), 0);
    }
}
