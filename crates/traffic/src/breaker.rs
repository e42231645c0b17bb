//! The breaker of one endpoint: decides when it misbehaves enough to be ejected.
//!
//! Lives here: the two rules and the ejection's length. Does not: which answers are failures (`outcome`), choosing an endpoint (`cluster`).
//! Source: contracts/dataplane.md 2.5 (linkerd reference/circuit-breaking): 7 failures in a row, or success below 0.8 in ten exact one-second buckets with at
//! least 5 requests. gRFC A50's rules need more hosts than our usual user has.
//! Invariant: the last usable endpoint of a cluster is never ejected; the cluster says whether another is left.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rand::Rng;

use crate::{
    backoff::Backoff,
    rest::{Rest, State},
    ticks::Ticks,
    window::{Side, Window},
};

const CONSECUTIVE: u32 = 7;
const MIN_REQUESTS: u64 = 5;
/// Success rate below which it trips, in percent.
const MIN_SUCCESS_PERCENT: u64 = 80;

/// What an ejection would leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Others {
    /// Another endpoint is usable.
    Left,
    /// This is the last one.
    None,
}

#[derive(Debug)]
pub(crate) struct Breaker {
    consecutive: AtomicU32,
    window: Window,
    ejection: Rest,
}

impl Breaker {
    pub(crate) fn new() -> Self {
        Self { consecutive: AtomicU32::new(0), window: Window::default(), ejection: Rest::new(Backoff::EJECTION) }
    }

    /// The ejection, for picking and probing.
    pub(crate) fn ejection(&self) -> &Rest {
        &self.ejection
    }

    /// Counts a good answer; one that came to a probe ends the ejection.
    pub(crate) fn succeeded(&self, now: Ticks) {
        self.consecutive.store(0, Relaxed);
        if self.ejection.state(now) != State::Active {
            self.window.clear();
            self.ejection.clear();
        }
        self.window.add(now, Side::Left);
    }

    /// Counts a failure. Returns true if it ejected the endpoint just now.
    pub(crate) fn failed(&self, now: Ticks, others: impl FnOnce() -> Others, rng: &mut impl Rng) -> bool {
        self.window.add(now, Side::Right);
        let consecutive = self.consecutive.fetch_add(1, Relaxed) + 1;
        let sums = self.window.sums(now);
        let all = sums.left + sums.right;
        let rate_low = all >= MIN_REQUESTS && sums.left * 100 < all * MIN_SUCCESS_PERCENT;
        let probe_failed = self.ejection.state(now) != State::Active;
        let trips = consecutive >= CONSECUTIVE || rate_low || probe_failed;
        trips && others() == Others::Left && self.ejection.strike(now, rng)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};
    use std::time::Duration;

    fn at(millis: u64) -> Ticks {
        Ticks::from_duration(Duration::from_millis(millis))
    }

    fn fail(breaker: &Breaker, now: Ticks) -> bool {
        breaker.failed(now, || Others::Left, &mut StdRng::seed_from_u64(1))
    }

    #[test]
    fn seven_failures_in_a_row_eject_even_at_a_good_rate() {
        let breaker = Breaker::new();
        (0..1_000).for_each(|_| breaker.succeeded(at(0)));
        assert_eq!((0..7).map(|_| fail(&breaker, at(0))).collect::<Vec<_>>(), [vec![false; 6], vec![true]].concat());
    }

    #[test]
    fn a_low_success_rate_ejects_only_with_enough_requests() {
        let breaker = Breaker::new();
        (0..3).for_each(|_| breaker.succeeded(at(0)));
        assert!(!fail(&breaker, at(0)), "3 of 4 is below 0.8, but 4 requests are too few");
        assert!(fail(&breaker, at(0)), "3 of 5");
        let steady = Breaker::new();
        (0..9).for_each(|_| steady.succeeded(at(0)));
        assert!(!fail(&steady, at(0)), "9 of 10");
    }

    #[test]
    fn failures_older_than_ten_seconds_do_not_count() {
        let breaker = Breaker::new();
        (0..4).for_each(|_| assert!(!fail(&breaker, at(0))));
        breaker.succeeded(at(0)); // breaks the row
        (0..16).for_each(|_| breaker.succeeded(at(11_000)));
        assert!(!fail(&breaker, at(11_000)));
    }

    #[test]
    fn the_last_usable_endpoint_is_never_ejected() {
        let breaker = Breaker::new();
        for _ in 0..100 {
            assert!(!breaker.failed(at(0), || Others::None, &mut StdRng::seed_from_u64(1)));
        }
        assert_eq!(breaker.ejection().state(at(0)), State::Active);
    }

    #[test]
    fn a_failed_probe_doubles_the_ejection_and_a_good_one_ends_it() {
        let breaker = Breaker::new();
        assert!((0..7).any(|_| fail(&breaker, at(0))));
        assert_eq!(breaker.ejection().state(at(499)), State::Resting);
        let probe = at(1_500); // 1 s and half of it as jitter at most
        assert!(breaker.ejection().claim(probe, Duration::from_secs(1)));
        assert!(fail(&breaker, probe));
        assert_eq!(breaker.ejection().state(at(1_500 + 999)), State::Resting, "2 s, at least half of it");
        let again = at(1_500 + 3_000);
        assert!(breaker.ejection().claim(again, Duration::from_secs(1)));
        breaker.succeeded(again);
        assert_eq!(breaker.ejection().state(again), State::Active);
        assert!(!fail(&breaker, again), "the window began anew");
    }
}
