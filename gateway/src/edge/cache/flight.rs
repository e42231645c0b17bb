//! Single flight: of calls that want the same at the same time one goes upstream, and the others wait for its answer.
//!
//! Lives here: who goes and who waits. Does not: how long a call may wait (`cache`), what an answer is.
//! ```text
//! first ──► leads ──► lands with something ──► those who follow have it
//!             └────── is dropped: its client has left ──► those who follow try anew, one of them leads
//! ```
//! Invariant: nobody waits for a leader that is no more, whatever ended it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::watch;

use super::store::Key;

/// All flights of a gateway. The lock is held for one look and one change.
#[derive(Debug)]
pub(super) struct Flights<T>(Mutex<HashMap<Key, watch::Receiver<Option<T>>>>);

/// What a call does.
#[derive(Debug)]
pub(super) enum Turn<T> {
    Lead(Lead<T>),
    Follow(Follow<T>),
}

/// Goes upstream for all.
#[derive(Debug)]
pub(super) struct Lead<T> {
    key: Key,
    flights: Arc<Flights<T>>,
    landing: watch::Sender<Option<T>>,
}

/// Waits for who went.
#[derive(Debug)]
pub(super) struct Follow<T>(watch::Receiver<Option<T>>);

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Flights<T> {
    /// Joins the flight of a key, or begins it.
    pub(super) fn join(self: &Arc<Self>, key: &[u8]) -> Turn<T> {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.entry(key.into()) {
            Entry::Occupied(flight) => Turn::Follow(Follow(flight.get().clone())),
            Entry::Vacant(none) => {
                let (landing, flight) = watch::channel(None);
                none.insert(flight);
                Turn::Lead(Lead { key: key.into(), flights: Arc::clone(self), landing })
            }
        }
    }
}

impl<T> Lead<T> {
    /// Hands what came of it to those who wait. What later calls find must be in place before.
    pub(super) fn land(self, with: T) {
        self.landing.send_replace(Some(with));
    }
}

impl<T> Drop for Lead<T> {
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

impl<T: Clone> Follow<T> {
    /// Waits for what the leader lands with; none if it is gone without.
    pub(super) async fn landed(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|it| it.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(flights: &Arc<Flights<u8>>) -> Follow<u8> {
        match flights.join(b"a") {
            Turn::Follow(it) => it,
            Turn::Lead(_) => panic!("somebody leads"),
        }
    }

    fn lead(flights: &Arc<Flights<u8>>) -> Lead<u8> {
        match flights.join(b"a") {
            Turn::Lead(it) => it,
            Turn::Follow(_) => panic!("nobody leads"),
        }
    }

    #[tokio::test]
    async fn those_who_follow_have_what_the_leader_lands_with() {
        let flights = Arc::default();
        let first = lead(&flights);
        let (early, late) = (follow(&flights), follow(&flights));
        assert!(matches!(flights.join(b"b"), Turn::Lead(_)), "another thing is another flight");
        first.land(7);
        assert_eq!((early.landed().await, late.landed().await), (Some(7), Some(7)));
        drop(lead(&flights));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_leader_that_has_left() {
        let flights = Arc::default();
        let (first, waits) = (lead(&flights), follow(&flights));
        drop(first);
        assert_eq!(waits.landed().await, None);
        lead(&flights).land(1);
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
