//! Whether and when a child that ended starts again.
//!
//! Lives here: intensity and back-off, as a plain struct with time and randomness as arguments. Does not: which exits count
//! (`spec::Restart`), waiting or starting (`child`).
//! Invariants: at most `max_restarts` restarts are granted in any window of `within`; a delay never exceeds `cap` plus its jitter.
//! Source: OTP supervisor principles for the intensity; the numbers are ours: a single crash costs well under a second, a crash
//! loop ends after a few.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::Rng;

/// How often and how soon a child is restarted.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Restarts granted within `within`; one more and the child is given up. Default 5.
    pub max_restarts: u32,
    /// The window for `max_restarts`. Default 30 s.
    pub within: Duration,
    /// Delay of the second restart in a row; the first is immediate, each later one waits twice as long. Default 0.1 s.
    pub base: Duration,
    /// Longest delay before jitter. Default 15 s.
    pub cap: Duration,
    /// Share by which a delay is randomly shortened or lengthened. Default 0.2.
    pub jitter: f64,
    /// A run of this length makes the next restart immediate again. Default 30 s.
    pub stable_after: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            max_restarts: 5,
            within: Duration::from_secs(30),
            base: Duration::from_millis(100),
            cap: Duration::from_secs(15),
            jitter: 0.2,
            stable_after: Duration::from_secs(30),
        }
    }
}

/// What to do about an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Start again, `after` from now.
    Restart {
        /// How long to wait; zero for the first restart in a row.
        after: Duration,
    },
    /// Leave it down: it was restarted `restarts` times within the policy's window and failed again.
    GiveUp {
        /// The restarts that did not help.
        restarts: u32,
    },
}

/// The restarts of one child so far, judged by a policy.
#[derive(Debug, Clone)]
pub(crate) struct Restarts {
    policy: Policy,
    /// When restarts were granted, oldest first; only those within the window.
    granted: VecDeque<Instant>,
    /// Restarts since the child last ran for `stable_after`.
    in_a_row: u32,
}

impl Restarts {
    /// Returns an empty history under `policy`.
    pub(crate) fn new(policy: Policy) -> Self {
        Restarts { policy, granted: VecDeque::new(), in_a_row: 0 }
    }

    /// Decides about an exit at `now` after a run of `ran_for`, and remembers the decision. `now` does not go back between calls.
    pub(crate) fn decide(&mut self, now: Instant, ran_for: Duration, rng: &mut impl Rng) -> Decision {
        if ran_for >= self.policy.stable_after {
            self.in_a_row = 0;
        }
        let window = self.policy.within;
        while self.granted.front().is_some_and(|at| now.duration_since(*at) >= window) {
            self.granted.pop_front();
        }
        if self.granted.len() >= self.policy.max_restarts as usize {
            return Decision::GiveUp { restarts: self.policy.max_restarts };
        }
        self.granted.push_back(now);
        let after = self.delay(rng);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Decision::Restart { after }
    }

    /// Forgets the past: what an operator orders is not a failure.
    pub(crate) fn forget(&mut self) {
        self.granted.clear();
        self.in_a_row = 0;
    }

    fn delay(&self, rng: &mut impl Rng) -> Duration {
        let Some(doublings) = self.in_a_row.checked_sub(1) else { return Duration::ZERO };
        let exact = self.policy.base.saturating_mul(2_u32.saturating_pow(doublings)).min(self.policy.cap);
        exact.mul_f64(rng.random_range(1.0 - self.policy.jitter..=1.0 + self.policy.jitter))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    /// A child that runs for each of `runs` in turn; returns every decision with its time.
    fn decisions(policy: &Policy, runs: &[Duration], seed: u64) -> Vec<(Instant, Decision)> {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut restarts = Restarts::new(policy.clone());
        let mut now = Instant::now();
        let mut all = Vec::new();
        for ran_for in runs {
            now += *ran_for;
            let decision = restarts.decide(now, *ran_for, &mut rng);
            all.push((now, decision));
            let Decision::Restart { after } = decision else { break };
            now += after;
        }
        all
    }

    fn without_jitter() -> Policy {
        Policy { jitter: 0.0, ..Policy::default() }
    }

    #[test]
    fn a_crash_loop_is_restarted_at_once_then_slower_and_given_up_after_five() {
        let seen: Vec<Decision> =
            decisions(&without_jitter(), &[Duration::ZERO; 9], 1).into_iter().map(|it| it.1).collect();
        let after = |ms| Decision::Restart { after: Duration::from_millis(ms) };
        assert_eq!(seen, [after(0), after(100), after(200), after(400), after(800), Decision::GiveUp { restarts: 5 }]);
    }

    #[test]
    fn a_child_that_fails_every_seven_seconds_is_kept_with_delays_up_to_the_cap() {
        let seen = decisions(&without_jitter(), &[Duration::from_secs(7); 20], 1);
        assert_eq!(seen.len(), 20, "never given up: {seen:?}");
        assert_eq!(seen[19].1, Decision::Restart { after: Duration::from_secs(15) });
    }

    #[test]
    fn a_stable_run_makes_the_next_restart_immediate() {
        let runs = [0, 0, 0, 31].map(Duration::from_secs);
        let seen = decisions(&without_jitter(), &runs, 1);
        assert_eq!(seen[2].1, Decision::Restart { after: Duration::from_millis(200) });
        assert_eq!(seen[3].1, Decision::Restart { after: Duration::ZERO });
    }

    #[test]
    fn an_order_starts_a_new_history() {
        let mut restarts = Restarts::new(without_jitter());
        let now = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        while restarts.decide(now, Duration::ZERO, &mut rng) != (Decision::GiveUp { restarts: 5 }) {}
        restarts.forget();
        assert_eq!(restarts.decide(now, Duration::ZERO, &mut rng), Decision::Restart { after: Duration::ZERO });
    }

    proptest! {
        #[test]
        fn no_window_holds_more_restarts_than_allowed(
            runs in prop::collection::vec(0_u64..20_000, 1..200), seed: u64, max in 1_u32..8, within in 1_u64..60,
        ) {
            let policy = Policy { max_restarts: max, within: Duration::from_secs(within), ..Policy::default() };
            let runs: Vec<Duration> = runs.into_iter().map(Duration::from_millis).collect();
            let granted: Vec<Instant> = decisions(&policy, &runs, seed)
                .into_iter()
                .filter_map(|(at, decision)| matches!(decision, Decision::Restart { .. }).then_some(at))
                .collect();
            for (index, at) in granted.iter().enumerate() {
                let inside = granted[index..].iter().filter(|it| it.duration_since(*at) < policy.within).count();
                prop_assert!(inside <= max as usize, "{inside} restarts within {:?}", policy.within);
            }
        }

        #[test]
        fn a_delay_is_doubled_within_its_jitter_and_bounded_by_the_cap(runs in 1_usize..40, seed: u64) {
            let policy = Policy { max_restarts: u32::MAX, ..Policy::default() };
            let seen = decisions(&policy, &vec![Duration::from_secs(1); runs], seed);
            for (index, (_, decision)) in seen.iter().enumerate() {
                let Decision::Restart { after } = decision else { panic!("given up") };
                let exact = if index == 0 { 0.0 } else { (0.1 * 2_f64.powi(index as i32 - 1)).min(15.0) };
                let share = if exact == 0.0 { 1.0 } else { after.as_secs_f64() / exact };
                prop_assert!((0.799..=1.201).contains(&share), "restart {index} after {after:?}");
                prop_assert!(*after <= policy.cap.mul_f64(1.2));
            }
        }
    }
}
