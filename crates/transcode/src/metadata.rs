//! The few HTTP headers whose meaning transcoding fixes.
//!
//! Lives here: the grammar of `grpc-timeout`, and which request headers a backend sees as metadata. Does not: reading
//! or writing headers.
//! Source: gRPC over HTTP/2, "Requests" (Timeout); RFC 9110, 7.6.1 (hop-by-hop fields).

use std::time::Duration;

use crate::bind::BindError;

/// Returns the duration that a `grpc-timeout` header asks for: one to eight digits and a unit of `H M S m u n`.
///
/// # Errors
/// 400 naming the header if it is anything else.
pub fn grpc_timeout(value: &[u8]) -> Result<Duration, BindError> {
    let read = || {
        let (unit, digits) = value.split_last()?;
        let valid = (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
        let count: u64 = std::str::from_utf8(digits).ok().filter(|_| valid)?.parse().ok()?;
        Some(match unit {
            b'H' => Duration::from_secs(count * 3600),
            b'M' => Duration::from_secs(count * 60),
            b'S' => Duration::from_secs(count),
            b'm' => Duration::from_millis(count),
            b'u' => Duration::from_micros(count),
            b'n' => Duration::from_nanos(count),
            _ => return None,
        })
    };
    read().ok_or_else(|| {
        BindError::field("grpc-timeout", "expected one to eight digits and a unit of H, M, S, m, u or n")
    })
}

/// Returns whether a request header (its name in lower case) reaches the backend as metadata.
///
/// Left out are connection-level fields, those that describe the HTTP body or make the HTTP request conditional, and
/// those that gRPC or the gateway writes itself (`grpc-*`, `te`, `user-agent`, `x-forwarded-*` …).
pub fn is_forwarded(name: &str) -> bool {
    const OURS: [&str; 21] = [
        "accept",
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "forwarded",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "via",
    ];
    !OURS.contains(&name) && ![":", "grpc-", "connect-", "x-forwarded-", "if-"].iter().any(|it| name.starts_with(it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_digits_and_a_unit() {
        let table: [(&str, Option<Duration>); 12] = [
            ("5S", Some(Duration::from_secs(5))),
            ("99999999H", Some(Duration::from_secs(359_999_996_400))),
            ("1M", Some(Duration::from_secs(60))),
            ("20m", Some(Duration::from_millis(20))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("123456789S", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("5s", None),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(grpc_timeout(text.as_bytes()).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn credentials_and_unknown_headers_are_forwarded_and_framing_is_not() {
        for name in ["authorization", "cookie", "x-request-id", "traceparent", "accept-language"] {
            assert!(is_forwarded(name), "{name}");
        }
        for name in ["host", "content-length", "transfer-encoding", "grpc-timeout", "te", ":path", "x-forwarded-for"] {
            assert!(!is_forwarded(name), "{name}");
        }
    }
}
