//! Durations as people write them on a command line: `250ms`, `30s`, `10m`, `24h`, `90d`.
//!
//! Lives here: the one grammar. Does not: which durations make sense where.

use std::{str::FromStr, time::Duration};

use crate::Usage;

/// A duration with its unit, above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HumanDuration(pub Duration);

impl FromStr for HumanDuration {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Self, Usage> {
        let wrong = || Usage::new(format!("{text:?} is no duration above zero, like 250ms, 30s, 10m, 24h or 90d"));
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
        let unit_ms = match &text[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(wrong()),
        };
        let millis = number.checked_mul(unit_ms).filter(|ms| *ms > 0).ok_or_else(wrong)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_a_number_and_its_unit() {
        for (text, millis) in
            [("250ms", 250), ("30s", 30_000), ("10m", 600_000), ("24h", 86_400_000), ("1d", 86_400_000)]
        {
            assert_eq!(text.parse::<HumanDuration>().unwrap().0, Duration::from_millis(millis), "{text}");
        }
        for wrong in ["", "5", "s", "0s", "1.5h", "-1h", "1 h", "1w", "99999999999999999999h", "18446744073709551615d"]
        {
            let said = wrong.parse::<HumanDuration>().unwrap_err().to_string();
            assert!(said.contains(wrong) && said.contains("24h"), "{wrong}: {said}");
        }
    }
}
