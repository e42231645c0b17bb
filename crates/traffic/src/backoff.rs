//! Back-off: how long to wait after the n-th failure.
//!
//! Lives here: the formula and the two sets of numbers. Does not: waiting, counting failures (`rest`).
//! Source: contracts/dataplane.md 2.13 (Linkerd's numbers: gRPC's first second would make every rolling restart visible) and 2.5.

use std::time::Duration;

use rand::Rng;

/// Exponential back-off with a cap and jitter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) factor: f64,
    pub(crate) cap: Duration,
    /// Share of the wait that varies: 0.1 is ±10 %.
    pub(crate) jitter: f64,
}

impl Backoff {
    /// Between two attempts to reach an endpoint.
    pub(crate) const CONNECT: Self =
        Self { first: Duration::from_millis(100), factor: 1.6, cap: Duration::from_secs(10), jitter: 0.1 };

    /// How long an ejected endpoint stays out.
    pub(crate) const EJECTION: Self =
        Self { first: Duration::from_secs(1), factor: 2.0, cap: Duration::from_secs(60), jitter: 0.5 };

    /// Between two attempts of one call while no endpoint is usable. Short: an app's restart takes less than a second.
    pub(crate) const CALL: Self =
        Self { first: Duration::from_millis(20), factor: 1.6, cap: Duration::from_millis(500), jitter: 0.2 };

    /// The wait after `failures` failures in a row (at least 1).
    pub(crate) fn after(self, failures: u32, rng: &mut impl Rng) -> Duration {
        let exponent = failures.clamp(1, 64) - 1;
        let wait = self.first.as_secs_f64() * self.factor.powi(exponent as i32);
        let spread = rng.random_range(1.0 - self.jitter..=1.0 + self.jitter);
        Duration::from_secs_f64(wait.min(self.cap.as_secs_f64()) * spread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::StdRng};

    proptest::proptest! {
        #[test]
        fn every_wait_is_within_its_jitter_of_the_formula(failures in 1_u32..1_000, seed: u64) {
            let mut rng = StdRng::seed_from_u64(seed);
            for backoff in [Backoff::CONNECT, Backoff::EJECTION, Backoff::CALL] {
                let wait = backoff.after(failures, &mut rng).as_secs_f64();
                let wanted = (backoff.first.as_secs_f64() * backoff.factor.powi(failures.min(64) as i32 - 1))
                    .min(backoff.cap.as_secs_f64());
                proptest::prop_assert!(wait >= wanted * (1.0 - backoff.jitter) - 1e-6);
                proptest::prop_assert!(wait <= wanted * (1.0 + backoff.jitter) + 1e-6);
            }
        }
    }
}
