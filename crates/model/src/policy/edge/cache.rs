//! Cache policies: which answers gateways may keep and give again.
//!
//! Lives here: what a policy says, bounds. Does not: the rules of caching itself (the gateway's `edge::cache`).

use std::time::Duration;

use super::Methods;
use crate::Invalid;

/// Longest time for which a policy may call an answer fresh.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// Which answers are kept, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Which methods of the service it is about.
    pub methods: Methods,
    /// How long an answer is fresh that does not say so itself; zero: such answers are not kept.
    pub ttl: Duration,
    /// Whether answers to calls with a credential are kept, too, each for its caller alone.
    pub per_caller: bool,
    /// A number that has no meaning but to differ: with another one all that was kept is forgotten.
    pub epoch: u32,
    /// Nothing is kept, whatever answers say.
    pub off: bool,
}

impl Cache {
    /// Keeps nothing: what stands in for a policy that cannot be read.
    pub fn closed() -> Self {
        Self { methods: Methods::default(), ttl: Duration::ZERO, per_caller: false, epoch: 0, off: true }
    }

    /// Accepts times of at most a day, and no more than `off` where nothing is kept.
    pub fn checked(self) -> Result<Self, Invalid> {
        if self.ttl > LONGEST {
            return Err(Invalid::new("ttl", format!("{:?} is longer than a day", self.ttl)));
        }
        if self.off && (!self.ttl.is_zero() || self.per_caller) {
            return Err(Invalid::new("off", "keeps nothing: leave out ttl and per_caller, or off"));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_keeps_for_a_day_at_most_or_nothing_at_all() {
        let of = |ttl, off| Cache { ttl: Duration::from_secs(ttl), off, ..Cache::closed() }.checked();
        assert!(of(86_400, false).is_ok() && of(0, true).is_ok() && of(0, false).is_ok());
        assert_eq!(of(86_401, false).unwrap_err().field(), "ttl");
        assert_eq!(of(1, true).unwrap_err().field(), "off");
        assert_eq!(Cache { per_caller: true, ..Cache::closed() }.checked().unwrap_err().field(), "off");
    }
}
