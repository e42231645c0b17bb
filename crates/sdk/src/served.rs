//! The call that a handler serves, for the calls that the handler makes.
//!
//! Lives here: reading a request's deadline and trace context, and having them at hand while the handler runs. Does not: ending the
//! call at its deadline (`guard`), writing them into another call (`channel`).
//! A task-local, because an author cannot forget to pass it on. What a handler awaits itself is part of the call; a task that it spawns
//! is not, since it may outlive the call: what that one calls has no deadline, and a trace of its own.
//! Source: W3C Trace Context, sections 3.2 and 3.3; `tracestate` means nothing without `traceparent`.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

use crate::timeout;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

tokio::task_local! {
    static SERVED: Arc<Served>;
}

/// What a call hands on to the calls made for it.
#[derive(Debug)]
pub(crate) struct Served {
    deadline: Option<Instant>,
    /// `traceparent` and `tracestate`; empty for a call that came outside of any trace.
    trace: HeaderMap,
}

impl Served {
    /// Reads the head of a request, now: its deadline counts from here.
    pub(crate) fn read(headers: &HeaderMap) -> Arc<Self> {
        let deadline = timeout::read(headers).map(|left: Duration| Instant::now() + left);
        let mut trace = HeaderMap::new();
        if let Some(parent) = headers.get(TRACEPARENT) {
            trace.insert(TRACEPARENT, parent.clone());
            trace.extend(headers.get_all(TRACESTATE).iter().map(|state| (TRACESTATE, state.clone())));
        }
        Arc::new(Served { deadline, trace })
    }

    /// Returns the call that the running code serves; none outside of a handler.
    pub(crate) fn current() -> Option<Arc<Self>> {
        SERVED.try_with(Arc::clone).ok()
    }

    /// Returns when the call has to be answered.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Puts another call into the same trace, unless it has one of its own.
    pub(crate) fn trace(&self, headers: &mut HeaderMap) {
        if !headers.contains_key(TRACEPARENT) {
            headers.extend(self.trace.clone());
        }
    }

    /// Runs `work` as a part of this call.
    pub(crate) fn within<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        SERVED.sync_scope(self.clone(), work)
    }

    /// Returns `work` as a part of this call.
    pub(crate) fn around<F: Future>(self: Arc<Self>, work: F) -> impl Future<Output = F::Output> {
        SERVED.scope(self, work)
    }
}
