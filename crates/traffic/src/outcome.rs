//! What an answer says about the endpoint that gave it.
//!
//! Lives here: which codes and HTTP statuses are failures, and what they cost in balancing. Does not: counting (`breaker`, `ewma`), retrying (`retry`).
//! Source: contracts/dataplane.md 2.1 (penalties) and Linkerd's classification of gRPC failures. An application's own refusals (NOT_FOUND …) are good answers.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::{
    Code,
    ewma::{MAX_PENALTY, PENALTY},
};

/// For the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It works.
    Good,
    /// It fails.
    Bad,
    /// Says nothing about its health: it is busy, or the caller left.
    Neutral,
}

/// One attempt's end, as its endpoint is judged by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) verdict: Verdict,
    /// Makes it unattractive for this long.
    pub(crate) penalty: Option<Duration>,
}

impl Outcome {
    pub(crate) const GOOD: Self = Self { verdict: Verdict::Good, penalty: None };
    /// The caller left before the end.
    pub(crate) const CANCELLED: Self = Self { verdict: Verdict::Neutral, penalty: None };
    /// The deadline passed: the time it took speaks for itself.
    pub(crate) const DEADLINE: Self = Self { verdict: Verdict::Bad, penalty: None };
    /// The stream or connection broke.
    pub(crate) const BROKEN: Self = Self { verdict: Verdict::Bad, penalty: Some(PENALTY) };

    /// Judges a `grpc-status`; `headers` are those it came with.
    pub(crate) fn of_code(code: Code, headers: &HeaderMap) -> Self {
        match code {
            Code::Unavailable => Self { verdict: Verdict::Bad, penalty: Some(penalty(headers)) },
            Code::ResourceExhausted => Self { verdict: Verdict::Neutral, penalty: Some(penalty(headers)) },
            Code::Unknown | Code::Internal | Code::DataLoss | Code::DeadlineExceeded => Self::DEADLINE,
            Code::Ok
            | Code::Cancelled
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated => Self::GOOD,
        }
    }

    /// Judges an answer without `grpc-status`.
    pub(crate) fn of_http(status: StatusCode, headers: &HeaderMap) -> Self {
        match status.as_u16() {
            429 => Self { verdict: Verdict::Neutral, penalty: Some(penalty(headers)) },
            500..=599 => Self { verdict: Verdict::Bad, penalty: Some(penalty(headers)) },
            _ => Self::GOOD,
        }
    }
}

/// What the endpoint asks for, else the usual.
fn penalty(headers: &HeaderMap) -> Duration {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let asked = number("grpc-retry-pushback-ms")
        .map(Duration::from_millis)
        .or_else(|| number("retry-after").map(Duration::from_secs));
    asked.map_or(PENALTY, |asked| asked.clamp(PENALTY, MAX_PENALTY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (http::HeaderName::from_static(k), http::HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn an_applications_refusal_is_a_good_answer_and_an_outage_is_not() {
        let none = HeaderMap::new();
        for code in Code::ALL {
            let bad = matches!(
                code,
                Code::Unavailable | Code::Unknown | Code::Internal | Code::DataLoss | Code::DeadlineExceeded
            );
            assert_eq!(Outcome::of_code(code, &none).verdict == Verdict::Bad, bad, "{code:?}");
        }
        assert_eq!(Outcome::of_code(Code::Unavailable, &none).penalty, Some(PENALTY));
        assert_eq!(Outcome::of_http(StatusCode::TOO_MANY_REQUESTS, &none).penalty, Some(PENALTY));
        assert_eq!(Outcome::of_http(StatusCode::NOT_FOUND, &none), Outcome::GOOD);
    }

    #[test]
    fn an_endpoint_may_ask_for_a_longer_rest_within_bounds() {
        let asks = |pairs| Outcome::of_code(Code::ResourceExhausted, &headers(pairs)).penalty.unwrap().as_secs();
        assert_eq!(asks(&[("grpc-retry-pushback-ms", "20000")]), 20);
        assert_eq!(asks(&[("retry-after", "9999")]), 300);
        assert_eq!(asks(&[("grpc-retry-pushback-ms", "-1")]), 5);
    }
}
