//! Deadlines: `grpc-timeout` in, what is left of it out, DEADLINE_EXCEEDED in between.
//!
//! Lives here: the header's grammar, the layer that bounds everything below it. Does not: the bound on an answer's body (`answer`, which gets the instant).
//! Counted from the end of HEADERS (contracts/dataplane.md, section 5, row 16: others start late, or forget to shrink it). None is added when absent.
//! Source: gRPC PROTOCOL-HTTP2.md, "Timeout": at most 8 digits and one of H M S m u n.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response};
use tokio::time::Instant;

use crate::{
    Error,
    answer::Answer,
    stage::{Called, Stage},
};

pub(crate) const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Largest number the grammar can carry.
const MAX_DIGITS: u128 = 99_999_999;

/// Bounds everything below by the caller's deadline.
pub(crate) struct Deadline<S> {
    inner: S,
}

impl<S> Deadline<S> {
    pub(crate) fn layer() -> impl tower::Layer<S, Service = Self> + use<S> {
        tower::layer::layer_fn(|inner| Self { inner })
    }
}

impl<S: Stage<Called>> Stage<Called> for Deadline<S> {
    async fn call(&self, mut call: Called) -> Result<Response<Answer>, Error> {
        let Some(deadline) = deadline(&call)? else { return self.inner.call(call).await };
        call.deadline = Some(deadline);
        match tokio::time::timeout_at(deadline, self.inner.call(call)).await {
            Ok(answered) => answered.map(|response| response.map(|answer| answer.until(deadline))),
            Err(_elapsed) => Err(Error::Deadline), // what was dropped has reset its stream and counted the failure
        }
    }
}

/// The sooner of the caller's and the route's. None if neither says.
fn deadline(call: &Called) -> Result<Option<Instant>, Error> {
    let asked = from_headers(&call.head.headers)?;
    let shorter = match (asked, call.options.timeout) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    // Far beyond what an Instant holds is as good as no deadline.
    Ok(shorter.and_then(|timeout| call.options.received.checked_add(timeout)))
}

fn from_headers(headers: &HeaderMap) -> Result<Option<Duration>, Error> {
    let Some(value) = headers.get(&GRPC_TIMEOUT) else { return Ok(None) };
    match parse(value.as_bytes()) {
        Some(timeout) => Ok(Some(timeout)),
        None => Err(Error::Timeout { value: String::from_utf8_lossy(value.as_bytes()).into_owned() }),
    }
}

fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0_u64, |n, digit| n * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Writes what is left, in the finest unit that fits, rounded down: a hop never adds time.
pub(crate) fn write(left: Duration, headers: &mut HeaderMap) {
    let units = [(1, 'n'), (1_000, 'u'), (1_000_000, 'm'), (1_000_000_000, 'S'), (60_000_000_000, 'M')];
    let nanos = left.as_nanos();
    let fits = units.into_iter().find(|(unit, _)| nanos / unit <= MAX_DIGITS);
    let (unit, letter) = fits.unwrap_or((3_600_000_000_000, 'H'));
    let text = format!("{}{letter}", (nanos / unit).min(MAX_DIGITS));
    headers.insert(GRPC_TIMEOUT, HeaderValue::try_from(text).expect("digits and a letter are valid in a header"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_anything_else_is_malformed() {
        for (text, wanted) in [
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("100m", Duration::from_millis(100)),
            ("5u", Duration::from_micros(5)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("0S", Duration::ZERO),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(wanted), "{text}");
        }
        for bad in ["", "S", "1", "123456789S", "1s", "-1S", "1.5S", " 1S", "1S "] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_written_is_read_again_and_never_longer(nanos: u64) {
            let left = Duration::from_nanos(nanos);
            let mut headers = HeaderMap::new();
            write(left, &mut headers);
            let read = from_headers(&headers).unwrap().unwrap();
            proptest::prop_assert!(read <= left);
            // Eight digits, and the next unit is a thousand times larger: at least 100,000 of a unit are left to round.
            proptest::prop_assert!(left - read <= left / 100_000 + Duration::from_nanos(1), "{left:?} became {read:?}");
        }
    }
}
