//! Upstream policies: what callers bear from the instances of a service.
//!
//! Lives here: bounds on calls in flight, when an instance is left out for a while. Does not: enforcing it (clients of xDS; the registry's view
//! compiles it for them).

use std::time::Duration;

use crate::Invalid;

/// What each caller bears from a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// Calls in flight of one client at most; more are refused at once. None: no bound, not even one that a client has of its own.
    pub max_requests: Option<u32>,
    /// When an instance is left out for a while; none: never.
    pub outliers: Option<Outliers>,
}

impl Upstream {
    /// Accepts what says something.
    pub fn checked(self) -> Result<Self, Invalid> {
        if self.max_requests.is_none() && self.outliers.is_none() {
            return Err(Invalid::new("", "says nothing; give max_requests or outliers"));
        }
        if self.max_requests == Some(0) {
            return Err(Invalid::new("max_requests", "0 would refuse every call; at least 1 is allowed"));
        }
        Ok(self)
    }
}

/// When an instance is left out for a while (gRFC A50). At least one rule is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outliers {
    /// How often the instances are judged.
    pub interval: Duration,
    /// How long one is left out, times how often in a row.
    pub base_ejection: Duration,
    /// The longest that one is left out.
    pub max_ejection: Duration,
    /// Percent of the instances that may be out at once; one always may.
    pub max_ejection_percent: u32,
    /// Leave out who succeeds much less often than the others.
    pub success_rate: Option<SuccessRate>,
    /// Leave out who fails too often by itself.
    pub failure_percentage: Option<FailurePercentage>,
}

/// Out goes who is this far below the mean of success rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRate {
    /// Thousandths of a standard deviation below the mean.
    pub stdev_thousandths: u32,
    /// Instances with enough calls that it takes to judge.
    pub min_hosts: u32,
    /// Calls in an interval that it takes to judge an instance.
    pub min_calls: u32,
}

/// Out goes who fails this often.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Percent of calls that may fail, 1 to 100.
    pub threshold: u32,
    /// As in [`SuccessRate`].
    pub min_hosts: u32,
    /// As in [`SuccessRate`].
    pub min_calls: u32,
}

impl Default for Outliers {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            base_ejection: Duration::from_secs(30),
            max_ejection: Duration::from_secs(300),
            max_ejection_percent: 10,
            success_rate: None,
            failure_percentage: None,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { stdev_thousandths: 1_900, min_hosts: 5, min_calls: 100 }
    }
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self { threshold: 85, min_hosts: 5, min_calls: 50 }
    }
}

impl Outliers {
    /// Accepts what some rule can judge, in bounds.
    pub fn checked(self) -> Result<Self, Invalid> {
        if self.success_rate.is_none() && self.failure_percentage.is_none() {
            return Err(Invalid::new("", "has no rule; give success_rate or failure_percentage"));
        }
        for (field, time) in
            [("interval", self.interval), ("base_ejection", self.base_ejection), ("max_ejection", self.max_ejection)]
        {
            if !(Duration::from_millis(100)..=Duration::from_secs(24 * 3600)).contains(&time) {
                return Err(Invalid::new(field, format!("{time:?} is outside 100 ms to 24 h")));
            }
        }
        if self.max_ejection < self.base_ejection {
            let problem = format!("{:?} is below base_ejection, {:?}", self.max_ejection, self.base_ejection);
            return Err(Invalid::new("max_ejection", problem));
        }
        percent("max_ejection_percent", self.max_ejection_percent)?;
        if let Some(it) = &self.success_rate {
            let counts =
                [("stdev_thousandths", it.stdev_thousandths), ("min_hosts", it.min_hosts), ("min_calls", it.min_calls)];
            counts.into_iter().try_for_each(|(field, it)| some(field, it)).map_err(|e| e.within("success_rate"))?;
        }
        if let Some(it) = &self.failure_percentage {
            let counts = [("min_hosts", it.min_hosts), ("min_calls", it.min_calls)];
            let checked = percent("threshold", it.threshold);
            let checked = checked.and_then(|()| counts.into_iter().try_for_each(|(field, it)| some(field, it)));
            checked.map_err(|e| e.within("failure_percentage"))?;
        }
        Ok(self)
    }
}

fn percent(field: &str, it: u32) -> Result<(), Invalid> {
    if (1..=100).contains(&it) { Ok(()) } else { Err(Invalid::new(field, format!("{it} is outside 1 to 100"))) }
}

fn some(field: &str, it: u32) -> Result<(), Invalid> {
    if it > 0 { Ok(()) } else { Err(Invalid::new(field, "0 is not allowed; at least 1")) }
}
