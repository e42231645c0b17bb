//! Rest: keeping an endpoint out of picks for a while, then letting one call try it.
//!
//! Lives here: the state of one endpoint's rest, in one atomic. Does not: why it rests (`endpoint`: unreachable; `breaker`: misbehaving).
//!
//! ```text
//! Active ── strike ──► Resting(until) ── time ──► Due ── claim ──► Probing(until) ── clear ──► Active
//!                         ▲                                           │
//!                         └──────────────── strike ◄──────────────────┘      Probing falls back to Due when its probe never reports
//! ```

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use rand::Rng;

use crate::{backoff::Backoff, ticks::Ticks};

const STRIKES: u64 = 0xff;
const PROBING: u64 = 0x100;
const UNTIL_SHIFT: u32 = 9;

/// Whether an endpoint may be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// As usual.
    Active,
    /// Not for now.
    Resting,
    /// The rest is over; whoever claims it sends the probe.
    Due,
}

/// Packed: until in milliseconds (55 bits), probing (1), strikes (8). Zero is `Active`.
#[derive(Debug)]
pub(crate) struct Rest {
    packed: AtomicU64,
    backoff: Backoff,
}

impl Rest {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self { packed: AtomicU64::new(0), backoff }
    }

    pub(crate) fn state(&self, now: Ticks) -> State {
        match self.packed.load(Relaxed) {
            0 => State::Active,
            packed if now.millis() < packed >> UNTIL_SHIFT => State::Resting,
            _ => State::Due,
        }
    }

    /// Takes the right to probe. Returns false if another call was faster. The right lasts for `hold`; then the next may try.
    pub(crate) fn claim(&self, now: Ticks, hold: Duration) -> bool {
        let until = now.plus(hold).millis();
        self.packed
            .fetch_update(Relaxed, Relaxed, |packed| {
                let due = packed != 0 && now.millis() >= packed >> UNTIL_SHIFT;
                due.then_some(until << UNTIL_SHIFT | PROBING | packed & STRIKES)
            })
            .is_ok()
    }

    /// Sends the endpoint to rest, longer each time. Returns false if it rests already: failures of calls that were under way count once.
    pub(crate) fn strike(&self, now: Ticks, rng: &mut impl Rng) -> bool {
        self.packed
            .fetch_update(Relaxed, Relaxed, |packed| {
                let resting = packed & PROBING == 0 && now.millis() < packed >> UNTIL_SHIFT;
                if resting {
                    return None;
                }
                let strikes = ((packed & STRIKES) + 1).min(STRIKES);
                let until = now.plus(self.backoff.after(strikes as u32, rng)).millis().max(1);
                Some(until << UNTIL_SHIFT | strikes)
            })
            .is_ok()
    }

    /// Ends the rest and forgets the strikes.
    pub(crate) fn clear(&self) {
        // A plain load first: this runs for every answer, and a store would bounce the line between threads.
        if self.packed.load(Relaxed) != 0 {
            self.packed.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    const HOLD: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Ticks {
        Ticks::from_duration(Duration::from_millis(millis))
    }

    fn rest() -> (Rest, StdRng) {
        (Rest::new(Backoff { jitter: 0.0, ..Backoff::CONNECT }), StdRng::seed_from_u64(0))
    }

    #[test]
    fn one_call_probes_after_the_rest_and_success_ends_it() {
        let (rest, mut rng) = rest();
        assert!(rest.strike(at(0), &mut rng));
        assert_eq!(rest.state(at(99)), State::Resting);
        assert!(!rest.claim(at(99), HOLD));
        assert_eq!(rest.state(at(100)), State::Due);
        assert!(rest.claim(at(100), HOLD));
        assert!(!rest.claim(at(100), HOLD), "only one probe");
        assert_eq!(rest.state(at(100)), State::Resting);
        rest.clear();
        assert_eq!(rest.state(at(100)), State::Active);
    }

    #[test]
    fn failures_of_calls_under_way_count_once_and_a_failed_probe_counts() {
        let (rest, mut rng) = rest();
        assert!(rest.strike(at(0), &mut rng));
        assert!(!rest.strike(at(1), &mut rng));
        assert!(rest.claim(at(100), HOLD));
        assert!(rest.strike(at(110), &mut rng));
        assert_eq!(rest.state(at(110 + 159)), State::Resting);
        assert_eq!(rest.state(at(110 + 160)), State::Due);
    }

    #[test]
    fn a_probe_that_never_reports_frees_the_next() {
        let (rest, mut rng) = rest();
        rest.strike(at(0), &mut rng);
        assert!(rest.claim(at(100), HOLD));
        assert_eq!(rest.state(at(1_100)), State::Due);
        assert!(rest.claim(at(1_100), HOLD));
    }
}
