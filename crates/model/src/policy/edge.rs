//! Edge policies: what gateways do with the calls of strangers before these become calls of the mesh.
//!
//! Lives here: the kinds, and which calls a policy is about. Does not: what a kind says (`cors`, …), enforcing any of it (the gateway's `edge`).
//! A policy of an edge kind belongs to a service, like every policy. Those of the service `gateway` speak of the gateway as a whole: they hold for each
//! service that has none of that kind of its own for the method that is called. Rate limits add up instead, and a key of the gateway's counts everywhere.

mod api_key;
mod authentication;
mod cache;
mod cors;
mod headers;
mod http;
mod limits;
mod names;
mod rate_limit;
mod transcoding;

pub use api_key::{ApiKey, KeyDigest};
pub use authentication::{Authentication, ClaimMatch, ClaimRule, ClaimToMetadata, Jwt, KeySource};
pub use cache::Cache;
pub use cors::{Cors, HttpMethod, Origin};
pub use headers::{HeaderChange, HeaderRule, Headers};
pub use http::{FieldName, HttpBinding, HttpKind, HttpRule, HttpRules, Selector};
pub use limits::Limits;
pub use rate_limit::{LimitRule, Per, RateLimit};
pub use transcoding::{JsonOutput, StreamFormat, Transcoding};

use super::{MethodPattern, few};
use crate::Invalid;

/// Name of the service whose edge policies speak of gateways as a whole.
pub const GATEWAY: &str = "gateway";

/// What gateways do with calls from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edge {
    /// Which pages in browsers may call.
    Cors(Cors),
    /// Who calls, and whether they may.
    Authentication(Authentication),
    /// How many calls of whom.
    RateLimit(RateLimit),
    /// A key that counts where authentication takes keys.
    ApiKey(ApiKey),
    /// Which answers are kept and given again.
    Cache(Cache),
    /// How large and how slow calls may be.
    Limits(Limits),
    /// What of headers goes on, and under which names.
    Headers(Headers),
    /// How methods are called by REST.
    Http(HttpRules),
    /// How JSON is read and printed.
    Transcoding(Transcoding),
}

impl Edge {
    /// Its kind, as documents name it.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Cors(_) => "cors",
            Self::Authentication(_) => "authentication",
            Self::RateLimit(_) => "rate_limit",
            Self::ApiKey(_) => "api_key",
            Self::Cache(_) => "cache",
            Self::Limits(_) => "limits",
            Self::Headers(_) => "headers",
            Self::Http(_) => "http",
            Self::Transcoding(_) => "transcoding",
        }
    }

    /// The key that it is; none: it says what calls meet.
    pub const fn api_key(&self) -> Option<&ApiKey> {
        match self {
            Self::ApiKey(key) => Some(key),
            Self::Cors(_)
            | Self::Authentication(_)
            | Self::RateLimit(_)
            | Self::Cache(_)
            | Self::Limits(_)
            | Self::Headers(_)
            | Self::Http(_)
            | Self::Transcoding(_) => None,
        }
    }

    /// The rules that it is; none: it says what calls meet.
    pub const fn http(&self) -> Option<&HttpRules> {
        match self {
            Self::Http(rules) => Some(rules),
            Self::Cors(_)
            | Self::Authentication(_)
            | Self::RateLimit(_)
            | Self::ApiKey(_)
            | Self::Cache(_)
            | Self::Limits(_)
            | Self::Headers(_)
            | Self::Transcoding(_) => None,
        }
    }
}

/// Which methods an edge policy is about; none named: every one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Methods(Vec<MethodPattern>);

impl Methods {
    /// Accepts at most 256.
    pub fn new(methods: Vec<MethodPattern>) -> Result<Self, Invalid> {
        few("methods", methods.len())?;
        Ok(Self(methods))
    }

    /// The patterns.
    pub fn patterns(&self) -> &[MethodPattern] {
        &self.0
    }

    /// Whether the method of this path, `/pkg.Service/Method`, is one of them.
    pub fn include(&self, grpc_path: &str) -> bool {
        let Some((service, method)) = grpc_path.strip_prefix('/').and_then(|it| it.split_once('/')) else {
            return self.0.is_empty();
        };
        let hit = |it: &MethodPattern| it.grpc_service() == service && it.method().is_none_or(|it| it == method);
        self.0.is_empty() || self.0.iter().any(hit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_those_named_or_all() {
        let methods = |texts: &[&str]| Methods::new(texts.iter().map(|it| it.parse().unwrap()).collect()).unwrap();
        assert!(Methods::default().include("/a.B/C") && Methods::default().include("nonsense"));
        let some = methods(&["a.B/C", "a.D/*"]);
        assert!(some.include("/a.B/C") && some.include("/a.D/X"));
        for other in ["/a.B/D", "/a.B/", "/a/C", "a.B/C", ""] {
            assert!(!some.include(other), "{other}");
        }
    }
}
