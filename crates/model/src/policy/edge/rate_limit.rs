//! Rate limit policies: how many calls of whom in what time.
//!
//! Lives here: rules and their bounds. Does not: counting (the gateway's `edge::rate_limit`).
//! Invariant: rules have names of their own, and no call fits into none of them by rounding: a rule lets at least one call through.

use std::{collections::BTreeSet, time::Duration};

use super::Methods;
use crate::{Invalid, PolicyName};

/// Rules of one policy at most.
const MAX_RULES: usize = 16;
/// Calls that a rule may allow in its time.
const MAX_CALLS: u32 = 1_000_000;

/// Rules about how many calls there may be. A call needs room in each that is about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    rules: Vec<LimitRule>,
}

impl RateLimit {
    /// Accepts 1 to 16 rules with names of their own.
    pub fn new(rules: Vec<LimitRule>) -> Result<Self, Invalid> {
        if rules.is_empty() {
            return Err(Invalid::new("rules", "has no rule; delete the policy to mean that"));
        }
        if rules.len() > MAX_RULES {
            return Err(Invalid::new("rules", format!("has {} rules, at most {MAX_RULES} are allowed", rules.len())));
        }
        let mut names = BTreeSet::new();
        for (index, rule) in rules.iter().enumerate() {
            if !names.insert(&rule.name) {
                let problem = format!("a second rule named {:?}", rule.name.as_str());
                return Err(Invalid::new(format!("rules[{index}].name"), problem));
            }
        }
        Ok(Self { rules })
    }

    /// Lets no call through: what stands in for a policy that cannot be read.
    pub const fn closed() -> Self {
        Self { rules: Vec::new() }
    }

    /// The rules; none in a policy that could not be read, which lets no call through.
    pub fn rules(&self) -> &[LimitRule] {
        &self.rules
    }
}

/// How many calls of whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRule {
    /// Its name within the policy.
    pub name: PolicyName,
    /// Which methods it is about.
    pub methods: Methods,
    /// What has a count of its own, all of these together; none: all calls have one.
    pub per: BTreeSet<Per>,
    /// How many calls.
    pub calls: u32,
    /// In what time.
    pub every: Duration,
    /// How many of them may come at once.
    pub burst: u32,
}

impl LimitRule {
    /// Accepts what lets something through, in bounds.
    pub fn checked(self) -> Result<Self, Invalid> {
        for (field, calls) in [("calls", self.calls), ("burst", self.burst)] {
            if calls == 0 || calls > MAX_CALLS {
                return Err(Invalid::new(field, format!("{calls} is outside 1 to {MAX_CALLS}")));
            }
        }
        if self.every < Duration::from_secs(1) || self.every > Duration::from_secs(24 * 3600) {
            return Err(Invalid::new("every", format!("{:?} is outside 1 s to 24 h", self.every)));
        }
        Ok(self)
    }
}

/// What has a count of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Per {
    /// Who calls, as authentication found out; who is nobody counts by address.
    Client,
    /// The address that calls; of IPv6 its first 64 bits.
    Address,
    /// The method that is called.
    Method,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(name: &str) -> LimitRule {
        let (per, every) = (BTreeSet::from([Per::Client]), Duration::from_secs(1));
        LimitRule { name: name.parse().unwrap(), methods: Methods::default(), per, calls: 1, every, burst: 1 }
    }

    #[test]
    fn rules_are_some_and_let_something_through() {
        let field = |it: Result<RateLimit, Invalid>| it.unwrap_err().field().to_owned();
        assert!(RateLimit::new(vec![rule("a"), rule("b")]).is_ok());
        assert_eq!(field(RateLimit::new(vec![])), "rules");
        assert_eq!(field(RateLimit::new(vec![rule("a"), rule("a")])), "rules[1].name");
        let wrong = |it: LimitRule| it.checked().unwrap_err().field().to_owned();
        assert!(rule("a").checked().is_ok());
        assert_eq!(wrong(LimitRule { calls: 0, ..rule("a") }), "calls");
        assert_eq!(wrong(LimitRule { burst: 0, ..rule("a") }), "burst");
        assert_eq!(wrong(LimitRule { every: Duration::from_millis(999), ..rule("a") }), "every");
        assert_eq!(wrong(LimitRule { every: Duration::from_secs(86_401), ..rule("a") }), "every");
    }
}
