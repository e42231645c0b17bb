//! The wall clock, read in one place.
//!
//! Lives here: the only reading of `SystemTime`. Does not: monotonic time, for which tokio's `Instant` serves and tests can pause.

use std::time::SystemTime;

/// Returns the present wall-clock time. It may jump; measure durations with `tokio::time::Instant`.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
