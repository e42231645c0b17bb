//! Writes: calls that may make untrue what is kept of their service.
//!
//! Lives here: how far a write reaches, and which ends of a call leave everything as it was. Does not: what is kept (`cache`).
//! What is kept of REST lies under its path, what is kept of Connect under the path of its method, which says nothing of what it is about. So a unary
//! write by a path of REST forgets that path (RFC 9111, 4.4) and what is kept by method; one by method, whatever the protocol, and a stream, whose
//! messages may be about anything, forget all of the service.
//! Invariants: a call that went upstream and whose end is not known counts as having written; who is not let in, or calls what is not there, makes nothing
//! be forgotten.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use http::{StatusCode, request};
use weft_model::ServiceName;

use super::{Caching, paths};
use crate::edge::metrics::Status;

/// What is known of a method. By default nothing, so that it may do anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Nature {
    /// It changes nothing.
    pub(crate) reads: bool,
    /// It takes one message and gives one.
    pub(crate) unary: bool,
}

/// What came of a call before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing: the end is the first that the caller hears.
    Nothing,
    /// Replies, or nobody knows.
    Replies,
}

/// By what a path is one: what a kept answer lies under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A path of REST.
    Path,
    /// The path of a method.
    Method,
}

/// The last changes of one service: a number each that no other change has.
#[derive(Debug)]
pub(super) struct Changes {
    of_paths: AtomicU64,
    of_methods: AtomicU64,
}

impl Changes {
    /// The last one that made answers untrue which lie under such paths.
    pub(super) fn last(&self, by: By) -> u64 {
        match by {
            By::Path => self.of_paths.load(Ordering::Acquire),
            By::Method => self.of_methods.load(Ordering::Acquire),
        }
    }
}

/// The changes of all services, for as long as a route knows of them. The lock is held for one look and one change, beside the calls.
#[derive(Debug, Default)]
pub(super) struct AllChanges(Mutex<HashMap<ServiceName, Arc<Changes>>>);

impl AllChanges {
    pub(super) fn of(&self, service: &ServiceName, number: impl Fn() -> u64) -> Arc<Changes> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.get(service) {
            return Arc::clone(known);
        }
        all.retain(|_, it| Arc::strong_count(it) > 1);
        let made = Arc::new(Changes { of_paths: AtomicU64::new(number()), of_methods: AtomicU64::new(number()) });
        all.insert(service.clone(), Arc::clone(&made));
        made
    }
}

/// What calls of one method may make untrue. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Writes {
    caching: Arc<Caching>,
    changes: Arc<Changes>,
    unary: bool,
}

impl Writes {
    pub(super) fn new(caching: &Arc<Caching>, changes: &Arc<Changes>, nature: Nature) -> Self {
        Self { caching: Arc::clone(caching), changes: Arc::clone(changes), unary: nature.unary }
    }

    /// A call of the method has ended: all of its service is forgotten, unless the end says that nothing was done.
    pub(crate) fn ended(&self, status: Status, after: After) {
        let did_nothing = if self.unary { refused(status) } else { turned_away(status, after) };
        if !did_nothing {
            self.forget(None);
        }
    }

    /// Begins a unary call of REST; `by` says what of its path names what it changes.
    pub(crate) fn begin<'w>(&'w self, head: &'w request::Parts, by: By) -> Writing<'w> {
        let path = (by == By::Path).then(|| head.uri.path());
        Writing { writes: self, path, forgets: true }
    }

    /// Forgets what a path of REST may mean, or everything.
    fn forget(&self, path: Option<&str>) {
        let Caching { store, .. } = &*self.caching;
        self.changes.of_methods.store(store.number(), Ordering::Release);
        match path {
            Some(path) => drop(store.forget(&paths::resource(path))),
            None => self.changes.of_paths.store(store.number(), Ordering::Release),
        }
    }
}

/// A unary call of REST. Dropped before it is answered, it may have written.
#[derive(Debug)]
pub(crate) struct Writing<'w> {
    writes: &'w Writes,
    path: Option<&'w str>,
    forgets: bool,
}

impl Writing<'_> {
    /// It is answered, and later calls may not see what was before.
    pub(crate) fn answered(mut self, status: StatusCode) {
        self.forgets = !refused(Status::Http(status.as_u16()));
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        if self.forgets {
            self.writes.forget(self.path);
        }
    }
}

/// Whether a unary call that ended so did nothing. 408 and 499 end calls that were under way, and 409 is ABORTED, too.
fn refused(status: Status) -> bool {
    // INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, PERMISSION_DENIED, RESOURCE_EXHAUSTED, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED
    const REFUSALS: [i32; 9] = [3, 5, 6, 7, 8, 9, 11, 12, 16];
    match status {
        Status::Http(code) => matches!(code, 400..500) && !matches!(code, 408 | 409 | 499),
        Status::Grpc(code) => REFUSALS.contains(&code),
    }
}

/// Whether a call of any shape that ended so did nothing: of a stream, what refuses one message says nothing of those before it.
fn turned_away(status: Status, after: After) -> bool {
    match status {
        Status::Grpc(12) | Status::Http(501) => true, // UNIMPLEMENTED: there is nothing that could have done something
        // PERMISSION_DENIED, UNAUTHENTICATED: after replies a credential may have run out.
        Status::Grpc(7 | 16) | Status::Http(401 | 403) => after == After::Nothing,
        Status::Grpc(_) | Status::Http(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_end_that_says_so_has_changed_nothing() {
        let http = |code| refused(Status::Http(code));
        assert!(http(400) && http(404) && http(412));
        assert!(![200, 201, 204, 304, 408, 409, 499, 500, 503, 504].into_iter().any(http), "409 may be ABORTED");
        let grpc = |code| refused(Status::Grpc(code));
        assert!(grpc(3) && grpc(16));
        assert!(![0, 1, 2, 4, 10, 13, 14, 15].into_iter().any(grpc), "OK, cancelled, unknown, late, aborted, failed");
    }

    #[test]
    fn a_stream_did_nothing_only_if_it_was_not_let_in_or_is_not_there() {
        let ends = [
            Status::Grpc(12),
            Status::Http(501),
            Status::Grpc(7),
            Status::Grpc(16),
            Status::Http(401),
            Status::Http(403),
        ];
        assert!(ends.into_iter().all(|it| turned_away(it, After::Nothing)));
        assert_eq!(ends.map(|it| turned_away(it, After::Replies)), [true, true, false, false, false, false]);
        assert!(
            ![0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15]
                .into_iter()
                .any(|it| turned_away(Status::Grpc(it), After::Nothing))
        );
        assert!(
            ![200, 400, 404, 409, 412, 499, 500, 503]
                .into_iter()
                .any(|it| turned_away(Status::Http(it), After::Nothing))
        );
    }

    #[test]
    fn changes_of_a_service_are_known_to_all_its_routes_and_no_longer() {
        let numbers = AtomicU64::new(0);
        let number = || numbers.fetch_add(1, Ordering::Relaxed);
        let (all, name) = (AllChanges::default(), |name: &str| -> ServiceName { name.parse().unwrap() });
        let (first, second) = (all.of(&name("a"), number), all.of(&name("a"), number));
        assert!(Arc::ptr_eq(&first, &second));
        let before = first.last(By::Path);
        drop((first, second));
        all.of(&name("b"), number);
        assert_eq!(all.0.lock().unwrap().len(), 1, "that of a is gone");
        assert_ne!(all.of(&name("a"), number).last(By::Path), before, "what was kept by it is not found by another");
    }
}
