//! The well-known types whose JSON is not an object of their fields.
//!
//! Lives here: telling them apart; the string forms of Timestamp, Duration and FieldMask, both directions. Does not:
//! wire bytes; Any, Struct and Value, which are JSON structures (`decode`, `encode`).
//! Source: comments of google/protobuf/{timestamp,duration,field_mask}.proto; RFC 3339 in the subset that ProtoJSON
//! allows (upper case, a zone).

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

/// A type with a JSON form of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WellKnown {
    Any,
    Timestamp,
    Duration,
    FieldMask,
    Struct,
    Value,
    ListValue,
    /// `BoolValue` and its siblings: the field 1 stands for the message.
    Wrapper,
}

impl WellKnown {
    pub(crate) fn of(message: &MessageDescriptor) -> Option<Self> {
        Some(match message.full_name().strip_prefix("google.protobuf.")? {
            "Any" => Self::Any,
            "Timestamp" => Self::Timestamp,
            "Duration" => Self::Duration,
            "FieldMask" => Self::FieldMask,
            "Struct" => Self::Struct,
            "Value" => Self::Value,
            "ListValue" => Self::ListValue,
            "DoubleValue" | "FloatValue" | "Int64Value" | "UInt64Value" | "Int32Value" | "UInt32Value"
            | "BoolValue" | "StringValue" | "BytesValue" => Self::Wrapper,
            _ => return None,
        })
    }

    /// Returns whether a string can stand for a value, so that path and query may carry it.
    pub(crate) fn is_text(self) -> bool {
        match self {
            Self::Timestamp | Self::Duration | Self::FieldMask | Self::Wrapper => true,
            Self::Any | Self::Struct | Self::Value | Self::ListValue => false,
        }
    }
}

/// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z in seconds since 1970.
const TIMESTAMP_SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
/// About 10,000 years (duration.proto).
const DURATION_SECONDS: i64 = 315_576_000_000;
const NANOS: i64 = 1_000_000_000;

/// Writes field `number`; a service's own idea of a well-known type is an error, not a panic.
pub(crate) fn put(message: &mut DynamicMessage, number: u32, value: Value) -> Result<(), String> {
    message
        .try_set_field_by_number(number, value)
        .map_err(|_| "the service's descriptor of this well-known type is malformed".to_owned())
}

/// Reads a timestamp as seconds and nanoseconds.
pub(crate) fn read_timestamp(text: &str) -> Result<(i64, i32), String> {
    let read = parse_timestamp(text).ok_or("expected an RFC 3339 timestamp such as 2006-01-02T15:04:05Z")?;
    match TIMESTAMP_SECONDS.contains(&read.0) {
        true => Ok(read),
        false => Err("timestamp out of range: the years are 0001 to 9999".to_owned()),
    }
}

/// Reads a duration as seconds and nanoseconds.
pub(crate) fn read_duration(text: &str) -> Result<(i64, i32), String> {
    let read = parse_duration(text).ok_or("expected a duration in seconds such as 1.5s")?;
    match read.0.abs() > DURATION_SECONDS {
        true => Err(format!("duration out of range: at most {DURATION_SECONDS} seconds either way")),
        false => Ok(read),
    }
}

/// Reads a field mask as its paths.
pub(crate) fn read_field_mask(text: &str) -> Result<Vec<String>, String> {
    let paths = text.split(',').filter(|_| !text.is_empty()).map(snake_case).collect::<Option<Vec<_>>>();
    paths.ok_or_else(|| "expected field paths in lowerCamelCase, separated by commas".to_owned())
}

/// Prints a timestamp; none if it has no JSON form.
pub(crate) fn timestamp(seconds: i64, nanos: i32) -> Option<String> {
    if !TIMESTAMP_SECONDS.contains(&seconds) || !(0..NANOS).contains(&i64::from(nanos)) {
        return None;
    }
    let (year, month, day) = date_of(seconds.div_euclid(86_400));
    let clock = seconds.rem_euclid(86_400);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{}Z", fraction(nanos.unsigned_abs())))
}

/// Prints a duration; none if it has no JSON form.
pub(crate) fn duration(seconds: i64, nanos: i32) -> Option<String> {
    let opposed = seconds.signum() * i64::from(nanos.signum()) < 0;
    if opposed || seconds.unsigned_abs() > DURATION_SECONDS.unsigned_abs() || i64::from(nanos).abs() >= NANOS {
        return None;
    }
    let sign = if seconds < 0 || nanos < 0 { "-" } else { "" };
    Some(format!("{sign}{}{}s", seconds.unsigned_abs(), fraction(nanos.unsigned_abs())))
}

/// Prints a field mask; none if a path would not come back as it was.
pub(crate) fn field_mask(paths: &[&str]) -> Option<String> {
    let paths = paths.iter().map(|it| camel_case(it)).collect::<Option<Vec<_>>>()?;
    Some(paths.join(","))
}

/// Prints no digits, or 3, 6 or 9 of them.
fn fraction(nanos: u32) -> String {
    match nanos {
        0 => String::new(),
        it if it % 1_000_000 == 0 => format!(".{:03}", it / 1_000_000),
        it if it % 1_000 == 0 => format!(".{:06}", it / 1_000),
        it => format!(".{it:09}"),
    }
}

/// Reads one to nine digits as nanoseconds.
fn parse_fraction(digits: &str) -> Option<i32> {
    let valid = (1..=9).contains(&digits.len()) && digits.bytes().all(|it| it.is_ascii_digit());
    valid.then(|| format!("{digits:0<9}").parse().ok()).flatten()
}

fn parse_timestamp(text: &str) -> Option<(i64, i32)> {
    let (date, rest) = (text.get(..10)?, text.get(10..)?.strip_prefix('T')?);
    let (clock, rest) = (rest.get(..8)?, rest.get(8..)?);
    let [year, month, day] = numbers(date, [4, 2, 2], '-')?;
    let [hour, minute, second] = numbers(clock, [2, 2, 2], ':')?;
    if !(1..=12).contains(&month)
        || !(1..=days_in(year, month)).contains(&day)
        || year < 1
        || hour > 23
        || minute > 59
        || second > 59
    {
        return None;
    }
    let zone_at = rest.find(['Z', '+', '-'])?;
    let (fraction, zone) = rest.split_at(zone_at);
    let nanos = if fraction.is_empty() { 0 } else { parse_fraction(fraction.strip_prefix('.')?)? };
    let offset = match zone.split_at(1) {
        ("Z", "") => 0,
        (sign, zone) => {
            let [hours, minutes] = numbers(zone, [2, 2], ':')?;
            if sign == "Z" || hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 3600 + minutes * 60) * if sign == "-" { -1 } else { 1 }
        }
    };
    Some((days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset, nanos))
}

fn parse_duration(text: &str) -> Option<(i64, i32)> {
    let text = text.strip_suffix('s')?;
    let (sign, text) = text.strip_prefix('-').map_or((1, text), |it| (-1, it));
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    if whole.is_empty() || !whole.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    let nanos = fraction.map_or(Some(0), parse_fraction)?;
    Some((sign * whole.parse::<i64>().ok()?, i32::try_from(sign).ok()? * nanos))
}

/// Reads fields of fixed widths with a separator between them.
fn numbers<const N: usize>(text: &str, widths: [usize; N], separator: char) -> Option<[i64; N]> {
    let mut found = [0; N];
    let mut parts = text.split(separator);
    for (slot, width) in found.iter_mut().zip(widths) {
        let part = parts.next()?;
        if part.len() != width || !part.bytes().all(|it| it.is_ascii_digit()) {
            return None;
        }
        *slot = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Counts days in the proleptic Gregorian calendar, years starting in March so that the leap day comes last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let since_march = (month + 9) % 12;
    let day_of_year = (153 * since_march + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

/// Returns year, month and day of a count of days; the inverse of `days_since_1970`.
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let since_march = (5 * day_of_year + 2) / 153;
    let month = (since_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * since_march + 2) / 5 + 1)
}

/// Turns a mask path from lowerCamelCase; none if it has an underscore, which has no JSON form.
fn snake_case(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len() + 4);
    for it in path.chars() {
        match it {
            '_' => return None,
            'A'..='Z' => out.extend(['_', it.to_ascii_lowercase()]),
            other => out.push(other),
        }
    }
    Some(out)
}

/// Turns a mask path to lowerCamelCase; none if `snake_case` would not bring it back.
fn camel_case(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(it) = chars.next() {
        match it {
            'A'..='Z' => return None,
            '_' => out.push(chars.next().filter(char::is_ascii_lowercase)?.to_ascii_uppercase()),
            other => out.push(other),
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn timestamps_as_rfc_3339_has_them_and_no_others() {
        assert_eq!(parse_timestamp("0001-01-01T00:00:00Z"), Some((-62_135_596_800, 0)));
        assert_eq!(parse_timestamp("9999-12-31T23:59:59.999999999Z"), Some((253_402_300_799, 999_999_999)));
        assert_eq!(parse_timestamp("1969-12-31T16:00:01-08:00"), Some((1, 0)));
        assert_eq!(parse_timestamp("2000-02-29T12:30:00.5+05:30"), Some((951_807_600, 500_000_000)));
        let wrong = [
            "0000-01-01T00:00:00Z",
            "0001-01-01T00:00:00",
            "0001-01-01T00:00:00z",
            "0001-01-01t00:00:00Z",
            "0001-01-01 00:00:00Z",
            "2001-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2001-13-01T00:00:00Z",
            "2001-00-01T00:00:00Z",
            "2001-04-31T00:00:00Z",
            "2001-01-01T24:00:00Z",
            "2001-01-01T00:00:60Z",
            "1970-01-01T00:00:00.1234567890Z",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T00:00:00+1:00",
            "1970-01-01T00:00:00+25:00",
            "1970-01-01T00:00:00Z ",
            "1970-01-01T00:00:00Z00:00",
            "1970-1-1T00:00:00Z",
            "+970-01-01T00:00:00Z",
            "197é-01-01T00:00:00Z",
            "",
            "yesterday",
        ];
        for text in wrong {
            assert_eq!(parse_timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_seconds_with_a_suffix() {
        assert_eq!(parse_duration("-315576000000.999999999s"), Some((-315_576_000_000, -999_999_999)));
        assert_eq!(parse_duration("1.5s"), Some((1, 500_000_000)));
        assert_eq!(parse_duration("-0.5s"), Some((0, -500_000_000)));
        for text in ["1", "s", "", "+1s", ".5s", "1.s", "1.1234567890s", "1 s", "1S", "1e3s", "--1s"] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn dates_come_back_from_their_day_count(days in -719_162_i64..=2_932_896) {
            let (year, month, day) = date_of(days);
            prop_assert!((1..=9999).contains(&year) && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day));
            prop_assert_eq!(days_since_1970(year, month, day), days);
        }

        #[test]
        fn mask_paths_come_back_from_camel_case(path in "[a-z]{1,4}(_[a-z]{1,4}){0,2}(\\.[a-z]{1,4}(_[a-z]{1,4}){0,2}){0,2}") {
            let camel = camel_case(&path).unwrap();
            prop_assert_eq!(snake_case(&camel).unwrap(), path);
        }
    }
}
