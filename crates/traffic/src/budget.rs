//! The retry budget of one cluster: bounds what retries add to the load of a service that fails.
//!
//! Lives here: counting calls and retries of the last ten seconds. Does not: which failures may be retried (`retry`). Calls that no application has seen cost nothing.
//! Source: Finagle's RetryBudget (contracts/dataplane.md 2.6): 20 % of the calls of the last 10 s, and always 10 a second. Differs: the ten do not add up over
//! idle seconds, so that total sends never exceed 1.2 × offered + 10/s, whatever the interval.

use crate::{
    ticks::Ticks,
    window::{Side, Window},
};

const MIN_PER_SECOND: u64 = 10;
const PERCENT: u64 = 20;

/// Left counts calls, right retries.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    window: Window,
}

impl Budget {
    /// Counts a call, once whatever its attempts.
    pub(crate) fn deposit(&self, now: Ticks) {
        self.window.add(now, Side::Left);
    }

    /// Takes one retry if there is one. Threads that ask at the same instant may overdraw by their number.
    pub(crate) fn withdraw(&self, now: Ticks) -> bool {
        let sums = self.window.sums(now);
        let allowed = sums.right * 100 < sums.left * PERCENT || self.window.current(now).right < MIN_PER_SECOND;
        if allowed {
            self.window.add(now, Side::Right);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    proptest::proptest! {
        #[test]
        fn retries_never_exceed_a_fifth_of_the_calls_and_ten_a_second(rates in proptest::collection::vec(0_u64..500, 1..30)) {
            let budget = Budget::default();
            let (mut calls, mut retries) = (0, 0);
            for (second, rate) in rates.iter().enumerate() {
                for n in 0..*rate {
                    let now = Ticks::from_duration(Duration::from_millis(second as u64 * 1000 + n * 1000 / rate));
                    budget.deposit(now);
                    calls += 1;
                    retries += (0..3).filter(|_| budget.withdraw(now)).count() as u64;
                }
            }
            proptest::prop_assert!(retries <= calls / 5 + 1 + 10 * rates.len() as u64, "{retries} of {calls}");
        }
    }

    #[test]
    fn a_quiet_service_has_ten_retries_a_second() {
        let budget = Budget::default();
        let now = Ticks::from_duration(Duration::from_secs(100));
        assert_eq!((0..100).filter(|_| budget.withdraw(now)).count(), 10);
    }
}
