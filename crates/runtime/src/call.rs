//! The call that the running code serves, for the lines it logs.
//!
//! Lives here: a task-local, set by whoever serves calls (the SDK). Does not: what a call hands on to other calls (the SDK's `served`).
//! Not a `tracing` span: that would be made for every call, sampled or not, and a filter of lines would filter it away.

use std::{future::Future, sync::Arc};

tokio::task_local! {
    static CALL: Option<Arc<Call>>;
}

/// What a line says of its call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The trace it belongs to, sampled or not.
    pub trace_id: u128,
    /// The span that serves it; in an unsampled call the caller's.
    pub span_id: u64,
    /// Path of its method, `/shop.users.v1.Users/GetUser`.
    pub method: String,
}

/// Returns the call being served, none outside of one.
pub(crate) fn current() -> Option<Arc<Call>> {
    CALL.try_with(Clone::clone).ok().flatten()
}

/// Runs `work` as part of a call; without one, as part of none.
pub fn within<T>(call: Option<Arc<Call>>, work: impl FnOnce() -> T) -> T {
    CALL.sync_scope(call, work)
}

/// Returns `work` as part of a call; without one, as part of none.
pub fn around<F: Future>(call: Option<Arc<Call>>, work: F) -> impl Future<Output = F::Output> {
    CALL.scope(call, work)
}
