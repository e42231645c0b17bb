//! `grpc-timeout`: how long a caller still waits, as it travels.
//!
//! Lives here: the header's grammar, both ways. Does not: headers, instants, any choice of a time.
//! Source: gRPC over HTTP/2, "Timeout": one to eight digits and one of `H M S m u n`.

use std::time::Duration;

/// Name of the header.
pub const NAME: &str = "grpc-timeout";

/// Units, finest first, in nanoseconds.
const UNITS: [(u128, char); 6] =
    [(1, 'n'), (1_000, 'u'), (1_000_000, 'm'), (1_000_000_000, 'S'), (60_000_000_000, 'M'), (3_600_000_000_000, 'H')];

/// Largest number that the grammar can carry.
const MAX: u128 = 99_999_999;

/// Reads a value; `None` if it is malformed.
pub fn read(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |amount, digit| amount * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'n' => Duration::from_nanos(amount),
        b'u' => Duration::from_micros(amount),
        b'm' => Duration::from_millis(amount),
        b'S' => Duration::from_secs(amount),
        b'M' => Duration::from_secs(amount * 60),
        b'H' => Duration::from_secs(amount * 3_600),
        _ => return None,
    })
}

/// Writes a value in the finest unit that holds it, rounded down: no hop adds time. What no unit holds becomes the longest there is.
pub fn write(left: Duration) -> String {
    let nanos = left.as_nanos();
    let finest = UNITS.into_iter().find(|(unit, _)| nanos / unit <= MAX);
    let (unit, letter) = finest.unwrap_or(UNITS[UNITS.len() - 1]);
    format!("{}{letter}", (nanos / unit).min(MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_anything_else_is_malformed() {
        for (text, wanted) in [
            ("1H", Duration::from_secs(3_600)),
            ("99999999H", Duration::from_secs(359_999_996_400)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("100m", Duration::from_millis(100)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(read(text.as_bytes()), Some(wanted), "{text}");
        }
        for bad in ["", "S", "1", "123456789S", "1s", "-1S", "+1S", "1.5S", " 1S", "1S ", "1é"] {
            assert_eq!(read(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_finest_unit_that_holds_it_is_written() {
        for (left, text) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_999), "100000u"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(86_400 * 30), "2592000S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(write(left), text, "{left:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again_and_never_longer(nanos: u64) {
            let left = Duration::from_nanos(nanos);
            let read = read(write(left).as_bytes()).expect("what we write is well formed");
            proptest::prop_assert!(read <= left);
            // Eight digits, and the next unit is a thousand times larger at most: 100,000 of a unit are left to round.
            proptest::prop_assert!(left - read <= left / 100_000 + Duration::from_nanos(1), "{left:?} became {read:?}");
        }
    }
}
