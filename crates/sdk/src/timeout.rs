//! `grpc-timeout`: how long a caller still waits, as it travels.
//!
//! Lives here: reading and writing the header. Does not: any choice of a time.
//! Source: gRPC over HTTP/2, `Timeout`: at most eight digits and a unit.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

pub(crate) const NAME: &str = "grpc-timeout";
const MAX: u128 = 99_999_999;

/// Reads the header; one that is malformed counts as none.
pub(crate) fn read(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(NAME)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3_600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Returns the header's value in the finest unit that holds it, rounded down: a call made for another never has more time.
pub(crate) fn write(left: Duration) -> HeaderValue {
    let units = [(left.as_nanos(), "n"), (left.as_micros(), "u"), (left.as_millis(), "m")];
    let finest = units.into_iter().find(|(amount, _)| *amount <= MAX);
    let (amount, unit) = finest.unwrap_or((u128::from(left.as_secs()).min(MAX), "S")); // MAX seconds are three years
    HeaderValue::try_from(format!("{amount}{unit}")).expect("digits and a letter are valid in a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &'static str) -> Option<Duration> {
        read(&HeaderMap::from_iter([(http::HeaderName::from_static(NAME), HeaderValue::from_static(text))]))
    }

    #[test]
    fn a_timeout_is_eight_digits_and_a_unit() {
        assert_eq!(parse("5S"), Some(Duration::from_secs(5)));
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("7u"), Some(Duration::from_micros(7)));
        for wrong in ["", "S", "5", "5s", "123456789S", "-1S", "+1S", "1.5S"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn what_is_written_is_never_more_and_fits() {
        for (left, text) in [
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_millis(200), "200000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(86_400 * 30), "2592000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(write(left), text, "{left:?}");
        }
    }
}
