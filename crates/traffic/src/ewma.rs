//! Peak EWMA: what one endpoint's answers have taken lately, quick to rise and slow to fall.
//!
//! Lives here: the estimate, in one atomic, and the penalty beside it. Does not: in-flight counts, choosing (`cluster`), what deserves a penalty (`outcome`).
//! Source: contracts/dataplane.md 2.1 (tower's peak_ewma, Linkerd's numbers). Differs: no mutex; the estimate (f32, µs) and its time (u32, ms, wrapping after
//! 49 days) share a word. And a penalty is a term that ends, not a peak that decays: a peak of 5 s beside a neighbour at 1 ms takes τ·ln 5000 = 85 s to be
//! tried again, so one failure in thousands, or an app that was restarted, would idle an endpoint for a minute and a half.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::ticks::Ticks;

const TAU_MILLIS: f32 = 10_000.0;
const INITIAL_MICROS: f32 = 30_000.0;

/// What a failure adds to the estimate, running out as time passes: fast failures look attractive otherwise.
pub(crate) const PENALTY: Duration = Duration::from_secs(5);
/// The longest penalty an endpoint may ask for by `grpc-retry-pushback-ms` or `retry-after`.
pub(crate) const MAX_PENALTY: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct PeakEwma {
    packed: AtomicU64,
    /// Nanoseconds on the clock; a penalty counts what is left of it.
    penalty_until: AtomicU64,
}

impl PeakEwma {
    /// Begins at 30 ms: a new endpoint is neither shunned nor flooded.
    pub(crate) fn new(now: Ticks) -> Self {
        Self { packed: AtomicU64::new(pack(INITIAL_MICROS, now)), penalty_until: AtomicU64::new(0) }
    }

    /// Counts one answer: a higher time replaces the estimate, a lower one pulls it down with τ = 10 s.
    pub(crate) fn observe(&self, took: Duration, now: Ticks) {
        let took = took.as_secs_f32() * 1e6;
        let _ = self.packed.fetch_update(Relaxed, Relaxed, |packed| {
            let (estimate, age) = unpack(packed, now);
            let keep = (-age / TAU_MILLIS).exp();
            let next = if took > estimate { took } else { estimate * keep + took * (1.0 - keep) };
            Some(pack(next, now))
        });
    }

    /// Makes the endpoint unattractive for this long; the longest of several counts.
    pub(crate) fn penalize(&self, penalty: Duration, now: Ticks) {
        self.penalty_until.fetch_max(now.plus(penalty).nanos(), Relaxed);
    }

    /// The estimate in microseconds, decayed towards zero for the time without answers, so that idle endpoints get tried again; plus what is left of a penalty.
    pub(crate) fn micros(&self, now: Ticks) -> f32 {
        let (estimate, age) = unpack(self.packed.load(Relaxed), now);
        let penalty = self.penalty_until.load(Relaxed).saturating_sub(now.nanos()) as f32 / 1_000.0;
        estimate * (-age / TAU_MILLIS).exp() + penalty
    }
}

fn pack(estimate: f32, now: Ticks) -> u64 {
    u64::from(estimate.to_bits()) << 32 | now.millis() & 0xffff_ffff
}

/// Estimate and its age in milliseconds. A reading from before the last write (another thread's) has age zero.
fn unpack(packed: u64, now: Ticks) -> (f32, f32) {
    let age = (now.millis() as u32).wrapping_sub(packed as u32);
    let age = if age > u32::MAX / 2 { 0 } else { age };
    (f32::from_bits((packed >> 32) as u32), age as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Ticks {
        Ticks::from_duration(Duration::from_millis(millis))
    }

    fn near(actual: f32, wanted: f32) -> bool {
        (actual - wanted).abs() <= wanted.abs() * 0.001 + 0.01
    }

    #[test]
    fn a_peak_counts_at_once_and_decays_with_tau() {
        let ewma = PeakEwma::new(at(0));
        ewma.observe(Duration::from_millis(100), at(0));
        assert!(near(ewma.micros(at(0)), 100_000.0));
        assert!(near(ewma.micros(at(10_000)), 100_000.0 / std::f32::consts::E));
        ewma.observe(Duration::from_millis(10), at(10_000));
        let e = std::f32::consts::E;
        assert!(near(ewma.micros(at(10_000)), 100_000.0 / e + 10_000.0 * (1.0 - 1.0 / e)));
    }

    #[test]
    fn an_idle_endpoint_drifts_to_zero() {
        let ewma = PeakEwma::new(at(0));
        ewma.observe(Duration::from_secs(5), at(0));
        assert!(ewma.micros(at(200_000)) < 1.0);
    }

    #[test]
    fn a_penalty_runs_out_and_leaves_the_estimate_as_it_was() {
        let (ewma, clean) = (PeakEwma::new(at(0)), PeakEwma::new(at(0)));
        ewma.penalize(PENALTY, at(0));
        ewma.penalize(PENALTY / 2, at(0));
        assert!(near(ewma.micros(at(0)), clean.micros(at(0)) + 5e6));
        assert!(near(ewma.micros(at(4_000)), clean.micros(at(4_000)) + 1e6));
        assert_eq!(ewma.micros(at(5_000)), clean.micros(at(5_000)));
    }

    #[test]
    fn a_reading_from_before_the_last_write_is_no_decay() {
        let ewma = PeakEwma::new(at(1_000));
        assert!(near(ewma.micros(at(990)), 30_000.0));
    }

    proptest::proptest! {
        #[test]
        fn the_estimate_stays_between_zero_and_the_peak(times in proptest::collection::vec((0_u64..100_000, 0_u64..20_000), 1..100)) {
            let ewma = PeakEwma::new(at(0));
            let (mut now, mut peak) = (0, 30_000.0_f32);
            for (took, step) in times {
                now += step;
                ewma.observe(Duration::from_micros(took), at(now));
                peak = peak.max(took as f32);
                let micros = ewma.micros(at(now));
                proptest::prop_assert!(micros >= took as f32 * 0.0 && micros <= peak * 1.0001);
            }
        }
    }
}
