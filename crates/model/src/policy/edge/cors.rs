//! CORS policies: which pages in browsers may call, with what, and what they may read.
//!
//! Lives here: origins, methods of HTTP, names of headers, bounds. Does not: the protocol with browsers (the gateway's `edge::cors`).
//! Source: the Fetch standard, "HTTP-CORS protocol"; RFC 6454 for what an origin is.
//! Invariant: who lets pages act with a user's cookies names the pages, since a wildcard there would let any page on the web act as the user.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use super::Methods;
use crate::Invalid;

/// Origins, methods and headers of one policy at most, each.
const MOST: usize = 64;
/// Longest text of an origin or a header's name.
const LONGEST: usize = 256;
/// Longest that a browser may remember an answer.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Which pages may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Which methods of the service it is about.
    pub methods: Methods,
    /// Whose pages may call.
    pub origins: Vec<Origin>,
    /// With which methods of HTTP; none: with any that the route has.
    pub http_methods: Vec<HttpMethod>,
    /// With which request headers beyond those that the gateway's protocols need, in lower case; `*` is any.
    pub headers: Vec<Arc<str>>,
    /// Which response headers they may read beyond those of the gateway's protocols, in lower case.
    pub expose: Vec<Arc<str>>,
    /// Whether they may call with the user's cookies.
    pub credentials: bool,
    /// How long a browser may remember the answer.
    pub max_age: Duration,
}

impl Cors {
    /// How long a browser remembers, unless the policy says.
    pub const DEFAULT_MAX_AGE: Duration = Duration::from_secs(600);

    /// Lets no page call: what stands in for a policy that cannot be read.
    pub fn closed() -> Self {
        Self {
            methods: Methods::default(),
            origins: Vec::new(),
            http_methods: Vec::new(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Self::DEFAULT_MAX_AGE,
        }
    }

    /// Accepts what names somebody, in bounds.
    pub fn checked(self) -> Result<Self, Invalid> {
        if self.origins.is_empty() {
            return Err(Invalid::new("origins", "names nobody; give origins like https://app.example.com, or \"*\""));
        }
        let lists = [
            ("origins", self.origins.len()),
            ("http_methods", self.http_methods.len()),
            ("headers", self.headers.len()),
            ("expose", self.expose.len()),
        ];
        for (field, count) in lists {
            if count > MOST {
                return Err(Invalid::new(field, format!("has {count} entries, at most {MOST} are allowed")));
            }
        }
        if self.credentials && self.origins.contains(&Origin::Any) {
            let cure = "\"*\" and credentials would let any page act as its user; name the origins";
            return Err(Invalid::new("origins", cure));
        }
        for (field, names) in [("headers", &self.headers), ("expose", &self.expose)] {
            for (index, name) in names.iter().enumerate() {
                header_name(name).map_err(|e| e.within(&format!("{field}[{index}]")))?;
            }
        }
        if self.max_age > MAX_AGE {
            return Err(Invalid::new("max_age", format!("{:?} is longer than a day", self.max_age)));
        }
        Ok(self)
    }
}

fn header_name(name: &str) -> Result<(), Invalid> {
    let token = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || name.len() > LONGEST || !name.bytes().all(token) {
        return Err(Invalid::new("", format!("{name:?} is no name of a header in lower case")));
    }
    Ok(())
}

/// Whose pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Anybody's.
    Any,
    /// Those of one origin, `scheme://host[:port]`.
    Exact(Arc<str>),
    /// Those of any host below another, `scheme://*.host[:port]`.
    Below {
        /// With `://`.
        scheme: Arc<str>,
        /// From the dot on.
        suffix: Arc<str>,
    },
}

impl Origin {
    /// Whether this is the origin that a browser names.
    pub fn is(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(text) => **text == *origin,
            Self::Below { scheme, suffix } => {
                let host = origin.strip_prefix(&**scheme).and_then(|it| it.strip_suffix(&**suffix));
                host.is_some_and(|it| !it.is_empty() && it.bytes().all(is_of_host))
            }
        }
    }
}

/// Of a host's name, dots included; brackets and colons of addresses are not.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.')
}

impl FromStr for Origin {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let wrong = |why: &str| {
            let cure = "write https://app.example.com, https://*.example.com, or * for anybody";
            Err(Invalid::new("", format!("{text:?} {why}; {cure}")))
        };
        if text == "*" {
            return Ok(Self::Any);
        }
        let Some((scheme, host)) = text.split_once("://") else { return wrong("is no origin") };
        if text.len() > LONGEST {
            return wrong("is longer than 256 bytes");
        }
        if scheme.is_empty() || !scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'+') {
            return wrong("does not begin with a scheme in lower case");
        }
        let (below, rest) = match host.strip_prefix('*') {
            Some(rest) => (true, rest),
            None => (false, host),
        };
        if below && !rest.starts_with('.') {
            return wrong("has a * that is not the whole first part of the host");
        }
        let (name, port) = match rest.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (rest, None),
        };
        let bracketed = name.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        let good = match bracketed {
            Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok() && !below,
            None => name.trim_start_matches('.').bytes().next().is_some() && name.bytes().all(is_of_host),
        };
        if !good {
            return wrong("has no host in lower case, or more than a host");
        }
        match (scheme, port) {
            ("https", Some("443")) | ("http", Some("80")) => {
                return wrong("names the port that browsers leave out");
            }
            (_, Some(port)) if port.parse::<u16>().is_err() => return wrong("has a port that is none"),
            _ => {}
        }
        Ok(match below {
            true => Self::Below { scheme: format!("{scheme}://").into(), suffix: rest.into() },
            false => Self::Exact(text.into()),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(text) => f.write_str(text),
            Self::Below { scheme, suffix } => write!(f, "{scheme}*{suffix}"),
        }
    }
}

/// A method of HTTP, in capitals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpMethod(Arc<str>);

impl HttpMethod {
    /// The method as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HttpMethod {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            Ok(Self(text.into()))
        } else {
            Err(Invalid::new("", format!("{text:?} is no method of HTTP, like GET or PATCH")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_one_many_or_any() {
        let is = |pattern: &str, origin: &str| pattern.parse::<Origin>().unwrap().is(origin);
        assert!(is("*", "https://a.example") && is("*", "null"));
        assert!(is("https://a.example", "https://a.example") && !is("https://a.example", "http://a.example"));
        assert!(is("http://[::1]:3000", "http://[::1]:3000"));
        let below = "https://*.a.example:8443";
        assert!(is(below, "https://x.a.example:8443") && is(below, "https://x.y.a.example:8443"));
        for other in
            ["https://a.example:8443", "https://.a.example:8443", "https://x.a.example", "http://x.a.example:8443"]
        {
            assert!(!is(below, other), "{other}");
        }
        assert!(!is("https://*.a.example", "https://evil.example/.a.example"));
        assert!(!is("https://*.a.example", "https://user@x.a.example"));
        for text in ["*", "https://a.example", below, "http://localhost:3000"] {
            assert_eq!(text.parse::<Origin>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_no_browser_says_is_refused() {
        for bad in [
            "a.example",
            "https://",
            "https://*",
            "https://*a.example",
            "https://a.*.example",
            "https://a.example/",
            "https://a.example:443",
            "http://a.example:80",
            "https://A.example",
            "HTTPS://a.example",
            "https://a.example:x",
            "https://[::1",
            "https://u@a.example",
            "",
        ] {
            assert!(bad.parse::<Origin>().unwrap_err().problem().contains("write https://"), "{bad}");
        }
        assert!("get".parse::<HttpMethod>().is_err() && "GET".parse::<HttpMethod>().is_ok());
    }

    #[test]
    fn a_policy_says_whose_pages_and_never_anybodys_with_cookies() {
        let of = |origins: &[&str]| Cors {
            origins: origins.iter().map(|it| it.parse().unwrap()).collect(),
            ..Cors::closed()
        };
        assert_eq!(Cors::closed().checked().unwrap_err().field(), "origins");
        assert!(of(&["*"]).checked().is_ok());
        assert_eq!(Cors { credentials: true, ..of(&["*"]) }.checked().unwrap_err().field(), "origins");
        assert!(Cors { credentials: true, ..of(&["https://a.example"]) }.checked().is_ok());
        let upper = Cors { headers: vec!["x-a".into(), "X-B".into()], ..of(&["*"]) };
        assert_eq!(upper.checked().unwrap_err().field(), "headers[1]");
        let long = Cors { max_age: Duration::from_secs(86_401), ..of(&["*"]) };
        assert_eq!(long.checked().unwrap_err().field(), "max_age");
    }
}
