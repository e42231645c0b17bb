//! The rules of retrying, plain: what happens after a failed attempt.
//!
//! Lives here: counting a call's attempts, pushback, patience. Does not: sending, waiting, the budget's count.
//! Source: design, 5.6; gRFC A6.
//! - Never processed (no connection, handed back, GOAWAY above our id, REFUSED_STREAM): always, any method, no budget. While endpoints are left that are expected to
//!   answer: at once. Then with a short back-off until patience or the deadline ends: a restart of an app or a whole service costs time, not calls.
//! - Broke off, or UNAVAILABLE in place of an answer: only methods declared idempotent, within the budget, at most `MAX_FAILURES` times. UNAVAILABLE only while
//!   another endpoint is left: when all fail, callers learn it at once. An endpoint's word (`grpc-retry-pushback-ms`) comes first.
//! - A route policy with a retry takes the place of this last rule: the statuses it names, so often as it says, any method, within the budget.

use std::time::Duration;

use http::HeaderMap;
use rand::Rng;
use tokio::time::Instant;
use weft_model::{RetryOn, RetryRule};

use crate::backoff::Backoff;

/// Attempts of one call that may have been processed (gRFC A6 caps at 5).
const MAX_FAILURES: u32 = 4;

/// Handed back by a connection that is going away: the endpoint may be well, so these go on at once.
const MAX_HANDED_BACK: u32 = 3;

/// What happens after a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Pick again; the endpoint just tried only if there is no other.
    Elsewhere,
    /// Pick again; the endpoint just tried is as good as any.
    Anywhere,
    /// Wait as the endpoint asked, then pick again.
    After(Duration),
    /// The caller gets the failure.
    GiveUp,
}

/// How often a call may run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeatable {
    /// At most `MAX_FAILURES` times in all.
    Yes,
    /// As a policy says: so often beyond the first time.
    Times(u32),
    /// Not at all.
    No,
}

impl Repeatable {
    /// What a policy makes of a call that broke off, which is UNAVAILABLE to gRPC.
    pub(super) fn by_rule(rule: &RetryRule) -> Self {
        if rule.on().contains(&RetryOn::Unavailable) { Self::Times(rule.retries()) } else { Self::No }
    }
}

/// Whether an endpoint is left that is expected to answer and has not been tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Elsewhere {
    Left,
    None,
}

/// What an endpoint says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushback {
    None,
    After(Duration),
    Never,
}

impl Pushback {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let Some(value) = headers.get("grpc-retry-pushback-ms") else { return Self::None };
        match value.to_str().ok().and_then(|v| v.parse().ok()) {
            Some(millis) => Self::After(Duration::from_millis(millis)),
            None => Self::Never, // negative or unparsable
        }
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub(super) struct Attempts {
    made: u32,
    failures: u32,
    handed_back: u32,
    waits: u32,
    rested: bool,
    give_up: Instant,
}

impl Attempts {
    pub(super) fn until(give_up: Instant) -> Self {
        Self { made: 0, failures: 0, handed_back: 0, waits: 0, rested: true, give_up }
    }

    /// Attempts so far.
    pub(super) fn made(&self) -> u32 {
        self.made
    }

    pub(super) fn give_up(&self) -> Instant {
        self.give_up
    }

    /// Whether a last resort may be tried now.
    pub(super) fn rested(&self) -> bool {
        self.rested
    }

    /// After an attempt that no application saw. Time bounds them, not number.
    pub(super) fn unprocessed(&mut self, now: Instant) -> Next {
        self.made += 1;
        self.rested = false;
        if now >= self.give_up { Next::GiveUp } else { Next::Elsewhere }
    }

    /// After a request came back from a connection on its way out, or was above its GOAWAY.
    pub(super) fn handed_back(&mut self, now: Instant) -> Next {
        self.handed_back += 1;
        if self.handed_back > MAX_HANDED_BACK {
            return self.unprocessed(now);
        }
        self.made += 1;
        self.rested = true;
        Next::Anywhere
    }

    /// After an attempt whose stream or connection broke before headers.
    pub(super) fn broken(&mut self, repeatable: Repeatable, budget: impl FnOnce() -> bool) -> Next {
        if self.may_fail_again(repeatable) && budget() { Next::Elsewhere } else { Next::GiveUp }
    }

    /// After UNAVAILABLE in place of an answer.
    pub(super) fn answered_unavailable(
        &mut self,
        repeatable: Repeatable,
        pushback: Pushback,
        elsewhere: Elsewhere,
        budget: impl FnOnce() -> bool,
    ) -> Next {
        if !self.may_fail_again(repeatable) {
            return Next::GiveUp;
        }
        let next = match (pushback, elsewhere) {
            (Pushback::After(wait), _) if Instant::now() + wait < self.give_up => {
                self.rested = true;
                Next::After(wait)
            }
            (Pushback::None, Elsewhere::Left) => Next::Elsewhere,
            (Pushback::Never | Pushback::After(_), _) | (Pushback::None, Elsewhere::None) => return Next::GiveUp,
        };
        if budget() { next } else { Next::GiveUp }
    }

    fn may_fail_again(&mut self, repeatable: Repeatable) -> bool {
        self.made += 1;
        self.failures += 1;
        self.rested = false;
        match repeatable {
            Repeatable::Yes => self.failures < MAX_FAILURES,
            Repeatable::Times(retries) => self.failures <= retries,
            Repeatable::No => false,
        }
    }

    /// After a status in place of an answer that a policy says is tried again. Any endpoint will do, the same one after a wait (gRFC A6, A44): a policy
    /// speaks of the call and not of endpoints. Each wait is twice the one before, up to the longest, less up to a fifth.
    pub(super) fn answered_by_rule(
        &mut self,
        rule: &RetryRule,
        pushback: Pushback,
        budget: impl FnOnce() -> bool,
        rng: &mut impl Rng,
    ) -> Next {
        if !self.may_fail_again(Repeatable::Times(rule.retries())) {
            return Next::GiveUp;
        }
        self.rested = true;
        let wait = match pushback {
            Pushback::Never => return Next::GiveUp,
            Pushback::After(wait) => wait,
            Pushback::None => {
                let doubled = rule.back_off().saturating_mul(1 << (self.failures - 1).min(16));
                doubled.min(rule.max_back_off()).mul_f64(rng.random_range(0.8..=1.0))
            }
        };
        if budget() { Next::After(wait) } else { Next::GiveUp }
    }

    /// The wait before a last resort is tried; none if that would take too long.
    pub(super) fn back_off(&mut self, now: Instant, rng: &mut impl Rng) -> Option<Duration> {
        self.waits += 1;
        self.rested = true;
        let wait = Backoff::CALL.after(self.waits, rng);
        (now + wait < self.give_up).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(patience: Duration) -> (Attempts, Instant) {
        let now = Instant::now();
        (Attempts::until(now + patience), now)
    }

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn what_nobody_saw_goes_again_until_patience_ends() {
        let (mut attempts, now) = attempts(PATIENCE);
        assert!((0..1_000).all(|_| attempts.unprocessed(now) == Next::Elsewhere));
        assert_eq!(attempts.unprocessed(now + PATIENCE), Next::GiveUp);
    }

    #[test]
    fn a_request_handed_back_goes_again_at_once_even_without_patience_but_not_for_ever() {
        let (mut attempts, now) = attempts(Duration::ZERO);
        let all: Vec<_> = (0..4).map(|_| attempts.handed_back(now)).collect();
        assert_eq!(all, [Next::Anywhere, Next::Anywhere, Next::Anywhere, Next::GiveUp]);
    }

    #[test]
    fn what_may_have_run_goes_again_only_if_it_may_run_twice_and_the_budget_allows() {
        let broken = |repeatable, budget| attempts(PATIENCE).0.broken(repeatable, || budget);
        assert_eq!(broken(Repeatable::Yes, true), Next::Elsewhere);
        assert_eq!(broken(Repeatable::Yes, false), Next::GiveUp);
        assert_eq!(broken(Repeatable::No, true), Next::GiveUp);
        let (mut many, _) = attempts(PATIENCE);
        let all: Vec<_> = (0..4).map(|_| many.broken(Repeatable::Yes, || true)).collect();
        assert_eq!(all, [Next::Elsewhere, Next::Elsewhere, Next::Elsewhere, Next::GiveUp]);
    }

    #[test]
    fn unavailable_goes_elsewhere_or_as_the_endpoint_says() {
        let after = |pushback, elsewhere| {
            attempts(PATIENCE).0.answered_unavailable(Repeatable::Yes, pushback, elsewhere, || true)
        };
        let wait = Duration::from_millis(7);
        assert_eq!(after(Pushback::None, Elsewhere::Left), Next::Elsewhere);
        assert_eq!(after(Pushback::None, Elsewhere::None), Next::GiveUp);
        assert_eq!(after(Pushback::After(wait), Elsewhere::None), Next::After(wait));
        assert_eq!(after(Pushback::After(PATIENCE * 2), Elsewhere::Left), Next::GiveUp);
        assert_eq!(after(Pushback::Never, Elsewhere::Left), Next::GiveUp);
    }

    #[test]
    fn a_policys_word_is_how_often_and_how_long_between() {
        let millis = Duration::from_millis;
        let rule = RetryRule::new([RetryOn::Internal].into(), 3, Some(millis(10)), Some(millis(25))).unwrap();
        let (mut attempts, _) = attempts(PATIENCE);
        let mut again = |pushback| attempts.answered_by_rule(&rule, pushback, || true, &mut rand::rng());
        for longest in [10, 20, 25] {
            let Next::After(wait) = again(Pushback::None) else { panic!("it goes on") };
            assert!(wait <= millis(longest) && wait >= millis(longest).mul_f64(0.79), "{wait:?}");
        }
        assert_eq!(again(Pushback::None), Next::GiveUp);
        let (mut attempts, _) = self::attempts(PATIENCE);
        let mut once = |pushback, budget| attempts.answered_by_rule(&rule, pushback, || budget, &mut rand::rng());
        assert_eq!(once(Pushback::After(millis(7)), true), Next::After(millis(7)));
        assert_eq!(once(Pushback::None, false), Next::GiveUp);
        assert_eq!(once(Pushback::Never, true), Next::GiveUp);
        let never = RetryRule::new([].into(), 0, None, None).unwrap();
        let (mut attempts, _) = self::attempts(PATIENCE);
        assert_eq!(attempts.answered_by_rule(&never, Pushback::None, || true, &mut rand::rng()), Next::GiveUp);
        assert_eq!((Repeatable::by_rule(&rule), Repeatable::by_rule(&never)), (Repeatable::No, Repeatable::No));
    }

    #[test]
    fn pushback_is_read_as_a6_says() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-retry-pushback-ms", http::HeaderValue::from_static(value));
            Pushback::of(&headers)
        };
        assert_eq!(of("0"), Pushback::After(Duration::ZERO));
        assert_eq!(of("150"), Pushback::After(Duration::from_millis(150)));
        assert_eq!((of("-1"), of("soon")), (Pushback::Never, Pushback::Never));
        assert_eq!(Pushback::of(&HeaderMap::new()), Pushback::None);
    }

    #[test]
    fn waits_grow_and_stop_before_patience_ends() {
        let (mut attempts, now) = attempts(Duration::from_millis(200));
        let mut spent = Duration::ZERO;
        while let Some(wait) = attempts.back_off(now + spent, &mut rand::rng()) {
            spent += wait;
        }
        assert!(spent < Duration::from_millis(200) && spent > Duration::from_millis(50), "{spent:?}");
    }
}
