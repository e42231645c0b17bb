//! Limit policies: how large and how slow calls from outside may be.
//!
//! Lives here: what a policy says, bounds. Does not: measuring calls, refusing them (the gateway's `edge::limits`, `protocol`).

use std::time::Duration;

use super::Methods;
use crate::Invalid;

/// Longest body that may be allowed, as in the gateway's file.
const MOST_REQUEST_BYTES: u32 = 256 << 20;
/// What no connection lets in anyway.
const MOST_HEAD_BYTES: u32 = 32 << 10;
/// Levels beyond which the gateway reads no JSON.
const DEEPEST: u32 = 100;
/// As many members and elements as the longest body has room for.
const MOST_ELEMENTS: u32 = MOST_REQUEST_BYTES / 2;
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How large and how slow calls may be; what is left out is as the gateway has it for all calls.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Limits {
    /// Which methods of the service it is about.
    pub methods: Methods,
    /// Longest body of a request, and longest message of a stream, in bytes.
    pub max_request_bytes: Option<u32>,
    /// Names and values of a request's headers together, in bytes.
    pub max_header_bytes: Option<u32>,
    /// Path and query, in bytes.
    pub max_uri_bytes: Option<u32>,
    /// Objects and lists of a JSON body within each other.
    pub max_depth: Option<u32>,
    /// Members of objects and elements of lists of a JSON document, all together.
    pub max_elements: Option<u32>,
    /// How long a call may take.
    pub timeout: Option<Duration>,
    /// How long the body of a request may take to arrive.
    pub body_timeout: Option<Duration>,
}

impl Limits {
    /// Lets no call through, since none is as small: what stands in for a policy that cannot be read.
    pub fn closed() -> Self {
        Self { max_uri_bytes: Some(0), max_header_bytes: Some(0), ..Self::default() }
    }

    /// Accepts what limits something, in bounds.
    pub fn checked(self) -> Result<Self, Invalid> {
        let counts = [
            ("max_request_bytes", self.max_request_bytes, MOST_REQUEST_BYTES),
            ("max_header_bytes", self.max_header_bytes, MOST_HEAD_BYTES),
            ("max_uri_bytes", self.max_uri_bytes, MOST_HEAD_BYTES),
            ("max_depth", self.max_depth, DEEPEST),
            ("max_elements", self.max_elements, MOST_ELEMENTS),
        ];
        for (field, count, most) in counts {
            if count.is_some_and(|it| it == 0 || it > most) {
                return Err(Invalid::new(field, format!("is a number from 1 to {most}")));
            }
        }
        for (field, time) in [("timeout", self.timeout), ("body_timeout", self.body_timeout)] {
            if time.is_some_and(|it| it.is_zero() || it > LONGEST) {
                return Err(Invalid::new(field, "is a time above zero and up to a day"));
            }
        }
        if self == (Self { methods: self.methods.clone(), ..Self::default() }) {
            return Err(Invalid::new(
                "",
                "limits nothing; give one of max_request_bytes, max_header_bytes, max_uri_bytes, max_depth, max_elements, timeout, body_timeout",
            ));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_limits_something_within_what_the_gateway_bears() {
        let wrong = |it: Limits| it.checked().unwrap_err().field().to_owned();
        let it = Limits::default;
        assert!(Limits { max_depth: Some(100), ..it() }.checked().is_ok());
        assert_eq!(wrong(it()), "");
        assert_eq!(wrong(Limits { max_request_bytes: Some((256 << 20) + 1), ..it() }), "max_request_bytes");
        assert_eq!(wrong(Limits { max_header_bytes: Some(0), ..it() }), "max_header_bytes");
        assert_eq!(wrong(Limits { max_uri_bytes: Some(40_000), ..it() }), "max_uri_bytes");
        assert_eq!(wrong(Limits { max_depth: Some(101), ..it() }), "max_depth");
        assert_eq!(wrong(Limits { max_elements: Some(0), ..it() }), "max_elements");
        assert_eq!(wrong(Limits { max_elements: Some((128 << 20) + 1), ..it() }), "max_elements");
        assert_eq!(wrong(Limits { timeout: Some(Duration::ZERO), ..it() }), "timeout");
        assert_eq!(wrong(Limits { body_timeout: Some(Duration::from_secs(86_401)), ..it() }), "body_timeout");
        assert!(Limits::closed().checked().is_err(), "nobody can write what lets nothing through");
    }
}
