//! Delays between attempts to reach the registry.
//!
//! Lives here: the growth and the jitter. Does not: waiting.
//! Source: Linkerd's connect back-off (100 ms, jitter); the cap of 5 s is ours: a registry that is back should not be waited for longer.

use std::time::Duration;

use rand::Rng;

const FIRST: Duration = Duration::from_millis(100);
const CAP: Duration = Duration::from_secs(5);

/// 100 ms, doubled up to 5 s, each ±20 %.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Returns how long to wait after one more failure.
    pub(crate) fn delay(&mut self, rng: &mut impl Rng) -> Duration {
        let plain = FIRST.saturating_mul(1 << self.failures.min(16)).min(CAP);
        self.failures = self.failures.saturating_add(1);
        plain.mul_f64(rng.random_range(0.8..1.2))
    }

    /// Starts anew after a success.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_the_cap_and_start_anew_after_a_success() {
        let mut backoff = Backoff::default();
        for expected in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            let delay = backoff.delay(&mut rand::rng()).as_millis();
            assert!((expected * 8 / 10..=expected * 12 / 10).contains(&delay), "{delay} for {expected}");
        }
        backoff.reset();
        assert!(backoff.delay(&mut rand::rng()) < Duration::from_millis(121));
    }
}
