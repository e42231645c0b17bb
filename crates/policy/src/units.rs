//! Units as policies write them: times, percents, statuses of gRPC; both ways.
//!
//! Lives here: the grammar. Does not: bounds (`weft-model`).

use std::time::Duration;

use weft_model::{Invalid, Part};

const TIMES: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

/// Names of gRPC's statuses, by code.
const STATUSES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

pub(crate) fn time(text: &str) -> Result<Duration, Invalid> {
    let wrong = || Invalid::new("", format!("{text:?} is no time, like 250ms, 2s, 5m or 1h"));
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let (_, unit) = TIMES.into_iter().find(|(unit, _)| *unit == &text[digits..]).ok_or_else(wrong)?;
    number.checked_mul(unit).map(Duration::from_millis).ok_or_else(wrong)
}

/// A moment, `2027-01-31T12:00:00Z`, as milliseconds since 1970; seconds are the finest.
pub(crate) fn moment(text: &str) -> Result<u64, Invalid> {
    let wrong = || Invalid::new("", format!("{text:?} is no moment in UTC, like 2027-01-31T12:00:00Z"));
    let parts: Vec<&str> = text.strip_suffix('Z').ok_or_else(wrong)?.split(['-', 'T', ':']).collect();
    let shape = text.len() == 20 && parts.iter().map(|it| it.len()).eq([4, 2, 2, 2, 2, 2]);
    let digits = parts.iter().all(|it| it.bytes().all(|b| b.is_ascii_digit()));
    if !shape || !digits {
        return Err(wrong());
    }
    let number = |at: usize| parts[at].parse::<u64>().map_err(|_| wrong());
    let (year, month, day) = (number(0)?, number(1)?, number(2)?);
    let (hour, minute, second) = (number(3)?, number(4)?, number(5)?);
    if year < 1970 || !(1..=12).contains(&month) || day == 0 || day > days_of(year, month) {
        return Err(wrong());
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err(wrong());
    }
    let years: u64 = (1970..year).map(|year| (1..=12).map(|month| days_of(year, month)).sum::<u64>()).sum();
    let days = years + (1..month).map(|month| days_of(year, month)).sum::<u64>() + day - 1;
    Ok((((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000)
}

fn days_of(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The second that begins before a moment, as text.
pub(crate) fn moment_text(millis: u64) -> String {
    let (seconds, mut days) = (millis / 1_000 % 86_400, millis / 86_400_000);
    let (mut year, mut month) = (1970, 1);
    while days >= days_of(year, month) {
        days -= days_of(year, month);
        (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    }
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
}

/// In the largest unit that it is a whole number of.
pub(crate) fn time_text(time: Duration) -> String {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let whole = TIMES.into_iter().rev().find(|(_, unit)| millis.is_multiple_of(*unit));
    let (unit, of) = whole.unwrap_or(("ms", 1));
    format!("{}{unit}", millis / of)
}

/// A percent with up to four decimals.
pub(crate) fn percent(text: &str) -> Result<Part, Invalid> {
    let wrong = || {
        Invalid::new(
            "",
            format!("{text:?} is no percent above 0 and up to 100, like 5 or 0.25, with at most four decimals"),
        )
    };
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |it: &str| it.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || whole.len() > 3 || decimals.len() > 4 || !digits(whole) || !digits(decimals) {
        return Err(wrong());
    }
    let number = |it: &str| it.parse::<u32>().map_err(|_| wrong());
    Part::of_a_million(number(whole)? * 10_000 + number(&format!("{decimals:0<4}"))?).map_err(|_| wrong())
}

pub(crate) fn percent_text(part: Part) -> String {
    let (whole, rest) = (part.millionths() / 10_000, part.millionths() % 10_000);
    if rest == 0 { whole.to_string() } else { format!("{whole}.{rest:04}").trim_end_matches('0').to_owned() }
}

/// The code of a status, by name or number.
pub(crate) fn status(text: &str) -> Result<u32, Invalid> {
    let named = text.to_ascii_lowercase().replace('_', "-");
    let code = STATUSES.iter().position(|it| *it == named).or_else(|| text.parse().ok());
    let code = code.filter(|it| (1..STATUSES.len()).contains(it)).and_then(|it| u32::try_from(it).ok());
    code.ok_or_else(|| Invalid::new("", format!("{text:?} is no status of an error, like unavailable")))
}

pub(crate) fn status_text(code: u32) -> &'static str {
    usize::try_from(code).ok().and_then(|it| STATUSES.get(it)).copied().unwrap_or("unknown")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_percents_and_statuses_come_back_as_they_went() {
        for text in ["250ms", "2s", "5m", "24h", "1500ms", "90s"] {
            assert_eq!(time_text(time(text).unwrap()), text);
        }
        for text in ["5", "0.25", "100", "0.0001", "33.3"] {
            assert_eq!(percent_text(percent(text).unwrap()), text);
        }
        for code in 1..17 {
            assert_eq!(status(status_text(code)), Ok(code));
            assert_eq!(status(&code.to_string()), Ok(code));
        }
        assert_eq!(status("RESOURCE_EXHAUSTED"), Ok(8));
    }

    #[test]
    fn moments_come_back_as_they_went() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-02-29T23:59:59Z", 1_709_251_199_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400_000),
        ] {
            assert_eq!(moment(text), Ok(millis));
            assert_eq!(moment_text(millis), text);
        }
        for wrong in [
            "",
            "2027-02-29T00:00:00Z",
            "2027-01-01T24:00:00Z",
            "2027-01-01 00:00:00Z",
            "2027-01-01T00:00:00",
            "2027-1-01T00:00:00Z",
            "2027-13-01T00:00:00Z",
            "+027-01-01T00:00:00Z",
        ] {
            assert!(moment(wrong).unwrap_err().problem().contains("like 2027-01-31T12:00:00Z"), "{wrong}");
        }
    }

    #[test]
    fn what_is_none_of_them_says_how_one_looks() {
        for wrong in ["", "5", "s", "1.5s", "1w", "99999999999999999999h"] {
            assert!(time(wrong).unwrap_err().problem().contains("like 250ms"), "{wrong}");
        }
        for wrong in ["", "0", "101", "-1", "1.23456", "a", ".5", "5%"] {
            assert!(percent(wrong).unwrap_err().problem().contains("like 5"), "{wrong}");
        }
        for wrong in ["", "0", "17", "ok", "gone"] {
            assert!(status(wrong).unwrap_err().problem().contains("like unavailable"), "{wrong}");
        }
    }
}
