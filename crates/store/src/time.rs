//! Times of rows.
//!
//! Lives here: the one precision that every database keeps exactly. Does not: reading the clock (`weft::clock`).

use std::time::UNIX_EPOCH;

use prost_types::Timestamp;

/// Microseconds since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Micros(pub i64);

impl Micros {
    /// Returns the time now; a clock before 1970 counts as 1970.
    pub fn now() -> Self {
        let since = weft::clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        Micros(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }
}

impl From<Micros> for Timestamp {
    fn from(Micros(micros): Micros) -> Self {
        let nanos = micros.rem_euclid(1_000_000) * 1_000;
        Timestamp { seconds: micros.div_euclid(1_000_000), nanos: i32::try_from(nanos).unwrap_or_default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn microseconds_become_a_timestamp_also_before_1970() {
        assert_eq!(Timestamp::from(Micros(1_500_001)), Timestamp { seconds: 1, nanos: 500_001_000 });
        assert_eq!(Timestamp::from(Micros(-1)), Timestamp { seconds: -1, nanos: 999_999_000 });
    }
}
