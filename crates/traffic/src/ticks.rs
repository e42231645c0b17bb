//! Time as the decisions see it: nanoseconds since a process's worlds began, small enough for an atomic.
//!
//! Lives here: the unit and its one source. Does not: deadlines (`Instant`), wall clocks.

use std::time::Duration;

use tokio::time::Instant;

/// A moment: nanoseconds since its clock began. Wraps after 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ticks(u64);

impl Ticks {
    pub(crate) const fn from_duration(since_start: Duration) -> Self {
        Self(since_start.as_nanos() as u64)
    }

    /// Time since `earlier`; zero if that is later, as two threads' readings may be.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    pub(crate) const fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time.as_nanos() as u64))
    }

    pub(crate) const fn millis(self) -> u64 {
        self.0 / 1_000_000
    }

    pub(crate) const fn seconds(self) -> u64 {
        self.0 / 1_000_000_000
    }

    pub(crate) const fn nanos(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
}

/// Makes ticks; every part of one process uses a copy of the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    began: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { began: Instant::now() }
    }

    pub(crate) fn now(self) -> Ticks {
        self.at(Instant::now())
    }

    pub(crate) fn at(self, instant: Instant) -> Ticks {
        Ticks::from_duration(instant.saturating_duration_since(self.began))
    }
}
