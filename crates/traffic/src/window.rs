//! Counts of the last ten seconds in exact one-second buckets, without a lock.
//!
//! Lives here: two counters per bucket and their sums. Does not: what they mean (`breaker`: successes and failures; `budget`: calls and retries).
//! Exact buckets, not a decayed average: a tight burst hides in the decay.
//! Simplifying assumption: a bucket remembers its second modulo 65,536; one untouched for a multiple of 18.2 hours would count once more for a second.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ticks::Ticks;

/// Seconds that count.
const SECONDS: u64 = 10;
const COUNTER_BITS: u32 = 24;
const COUNTER_MAX: u64 = (1 << COUNTER_BITS) - 1;

/// Which of the two counters.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Left,
    Right,
}

/// Sums of both counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Sums {
    pub(crate) left: u64,
    pub(crate) right: u64,
}

/// Ten buckets, each an atomic of second (16 bits), left and right (24 bits each, saturating).
#[derive(Debug, Default)]
pub(crate) struct Window {
    buckets: [AtomicU64; SECONDS as usize],
}

impl Window {
    /// Counts one event.
    pub(crate) fn add(&self, now: Ticks, side: Side) {
        let bucket = &self.buckets[(now.seconds() % SECONDS) as usize];
        let _ = bucket.fetch_update(Relaxed, Relaxed, |packed| {
            let Sums { mut left, mut right } =
                if holds(packed, now.seconds()) { counts(packed) } else { Sums::default() };
            match side {
                Side::Left => left = (left + 1).min(COUNTER_MAX),
                Side::Right => right = (right + 1).min(COUNTER_MAX),
            }
            Some(stamp(now.seconds()) << (2 * COUNTER_BITS) | left << COUNTER_BITS | right)
        });
    }

    /// Sums of the last ten seconds, the current one included.
    pub(crate) fn sums(&self, now: Ticks) -> Sums {
        let oldest = now.seconds().saturating_sub(SECONDS - 1);
        let mut sums = Sums::default();
        for second in oldest..=now.seconds() {
            let one = self.second(second);
            sums.left += one.left;
            sums.right += one.right;
        }
        sums
    }

    /// Counts of the current second.
    pub(crate) fn current(&self, now: Ticks) -> Sums {
        self.second(now.seconds())
    }

    /// Forgets everything.
    pub(crate) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
    }

    fn second(&self, second: u64) -> Sums {
        let packed = self.buckets[(second % SECONDS) as usize].load(Relaxed);
        if holds(packed, second) { counts(packed) } else { Sums::default() }
    }
}

fn stamp(second: u64) -> u64 {
    second & 0xffff
}

fn holds(packed: u64, second: u64) -> bool {
    packed >> (2 * COUNTER_BITS) == stamp(second)
}

fn counts(packed: u64) -> Sums {
    Sums { left: packed >> COUNTER_BITS & COUNTER_MAX, right: packed & COUNTER_MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Ticks {
        Ticks::from_duration(Duration::from_secs(seconds))
    }

    proptest::proptest! {
        #[test]
        fn sums_equal_those_of_a_list(steps in proptest::collection::vec((0_u64..4, proptest::bool::ANY), 1..200)) {
            let window = Window::default();
            let mut list = Vec::new();
            let mut second = 0;
            for (step, left) in steps {
                second += step;
                window.add(at(second), if left { Side::Left } else { Side::Right });
                list.push((second, left));
                let recent = |wanted: bool| list.iter().filter(|(s, l)| s + SECONDS > second && *l == wanted).count() as u64;
                proptest::prop_assert_eq!(window.sums(at(second)), Sums { left: recent(true), right: recent(false) });
            }
        }
    }

    #[test]
    fn a_bucket_that_is_old_counts_as_empty() {
        let window = Window::default();
        window.add(at(3), Side::Left);
        assert_eq!(window.sums(at(12)).left, 1);
        assert_eq!(window.sums(at(13)).left, 0);
        assert_eq!(window.current(at(13)).left, 0);
    }
}
