//! Figures of several rounds: the median, and how far the rounds lie apart; of many values in one, a quantile.
//!
//! Lives here: summing up. Does not: measuring.

use std::fmt;

/// One figure from several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// Half of the rounds lie below it.
    pub median: f64,
    /// The lowest round.
    pub low: f64,
    /// The highest round.
    pub high: f64,
}

impl Figure {
    /// Sums up rounds; none if there were none.
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 };
        Some(Self { median, low, high })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:6.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}

/// Returns the lowest of some sorted values that so large a share of them is not above (nearest rank); of fewer than a hundred the highest is the 99th
/// percentile. None if there are none.
pub fn quantile<T: Copy>(sorted: &[T], share: f64) -> Option<T> {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two() {
        assert_eq!(Figure::of(&[3.0, 1.0, 2.0]), Some(Figure { median: 2.0, low: 1.0, high: 3.0 }));
        assert_eq!(Figure::of(&[4.0, 1.0, 2.0, 3.0]).map(|it| it.median), Some(2.5));
        assert_eq!(Figure::of(&[]), None);
    }

    #[test]
    fn a_quantile_is_one_of_the_values_and_of_few_the_highest() {
        let hundreds: Vec<u32> = (1..=200).collect();
        assert_eq!((quantile(&hundreds, 0.5), quantile(&hundreds, 0.99)), (Some(100), Some(198)));
        assert_eq!((quantile(&[1, 2, 3], 0.5), quantile(&[1, 2, 3], 0.99)), (Some(2), Some(3)));
        assert_eq!((quantile(&[7], 0.5), quantile(&[7], 0.0), quantile(&[7], 1.0)), (Some(7), Some(7), Some(7)));
        assert_eq!(quantile::<u32>(&[], 0.5), None);
    }
}
