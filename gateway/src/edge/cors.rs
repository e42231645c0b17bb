//! CORS: what a browser is told before and after a page of another origin calls.
//!
//! Lives here: a policy compiled to header values, the answer to a preflight, the headers of every other answer. Does not: finding the policy
//! (`edge::policies`), answering (`protocol`).
//! An origin that may not call is not refused but told nothing, as the protocol has it: the browser keeps the answer from the page. Its preflight is
//! refused in words, for whoever looks for the cause. Source: the Fetch standard, "HTTP-CORS protocol".

use std::{collections::HashSet, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request};
use weft_model::{Cors as Policy, HttpMethod, Origin, PolicyName};

/// Request headers that the gateway's protocols use, and what a browser counts as safe anyway.
const REQUEST_HEADERS: [&str; 15] = [
    "accept",
    "accept-language",
    "authorization",
    "connect-protocol-version",
    "connect-timeout-ms",
    "content-language",
    "content-type",
    "grpc-timeout",
    "if-match",
    "if-none-match",
    "traceparent",
    "x-api-key",
    "x-grpc-web",
    "x-request-id",
    "x-user-agent",
];
/// Response headers of the gateway's protocols that a page would not see by itself.
const RESPONSE_HEADERS: &str = "etag, grpc-message, grpc-status, grpc-status-details-bin, link, location, retry-after, www-authenticate, x-request-id";

/// One policy, ready to answer.
#[derive(Debug)]
pub(crate) struct Cors {
    policy: PolicyName,
    origins: Box<[Origin]>,
    /// Any origin, and the answer does not depend on it.
    any: bool,
    http_methods: Box<[HttpMethod]>,
    /// None: any.
    headers: Option<HashSet<Arc<str>>>,
    expose: HeaderValue,
    credentials: bool,
    max_age: HeaderValue,
}

/// What the answer to a call says to a browser.
#[derive(Debug)]
pub(crate) struct Granted {
    cors: Arc<Cors>,
    /// None: nobody asked, or one that may not call.
    origin: Option<HeaderValue>,
}

/// What a preflight asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'h> {
    origin: &'h HeaderValue,
    /// The method that the call would have.
    pub(crate) method: &'h str,
}

impl<'h> Asked<'h> {
    /// Reads a preflight; none if the request is none.
    pub(crate) fn of(head: &'h request::Parts) -> Option<Self> {
        if head.method != Method::OPTIONS {
            return None;
        }
        let origin = head.headers.get(header::ORIGIN)?;
        let method = head.headers.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.to_str().ok()?;
        Some(Self { origin, method })
    }
}

impl Cors {
    pub(crate) fn new(policy: PolicyName, it: &Policy) -> Self {
        let any_header = it.headers.iter().any(|name| **name == *"*");
        let known = REQUEST_HEADERS.iter().map(|name| Arc::from(*name));
        let expose = it.expose.iter().fold(RESPONSE_HEADERS.to_owned(), |list, name| format!("{list}, {name}"));
        Self {
            policy,
            any: it.origins.contains(&Origin::Any) && !it.credentials,
            origins: it.origins.clone().into(),
            http_methods: it.http_methods.clone().into(),
            headers: (!any_header).then(|| known.chain(it.headers.iter().cloned()).collect()),
            expose: HeaderValue::try_from(expose).expect("names of headers and commas are valid in a header"),
            credentials: it.credentials,
            max_age: HeaderValue::from(it.max_age.as_secs()),
        }
    }

    /// Answers a preflight.
    ///
    /// # Errors
    /// Why the page may not call, for people.
    pub(crate) fn preflight(&self, headers: &HeaderMap, asked: Asked<'_>) -> Result<HeaderMap, String> {
        let may_not = |what: &str| Err(format!("policy {} does not let pages {what}", self.policy));
        if !self.knows(asked.origin) {
            return may_not(&format!("of {} call this", asked.origin.to_str().unwrap_or("an unreadable origin")));
        }
        if !self.http_methods.is_empty() && !self.http_methods.iter().any(|it| it.as_str() == asked.method) {
            return may_not(&format!("call with the method {}", asked.method));
        }
        let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS);
        if let Some(refused) = wanted.and_then(|wanted| self.unknown_header(wanted)) {
            return may_not(&format!("send the header {refused}"));
        }
        let mut answer = HeaderMap::with_capacity(6);
        self.write_origin(Some(asked.origin), &mut answer);
        let method = HeaderValue::from_str(asked.method).expect("it was a header's value");
        answer.insert(header::ACCESS_CONTROL_ALLOW_METHODS, method);
        if let Some(wanted) = wanted {
            answer.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
        }
        answer.insert(header::ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        let vary = "origin, access-control-request-method, access-control-request-headers";
        answer.insert(header::VARY, HeaderValue::from_static(vary));
        Ok(answer)
    }

    fn unknown_header(&self, wanted: &HeaderValue) -> Option<String> {
        let known = self.headers.as_ref()?;
        let Ok(wanted) = wanted.to_str() else { return Some("that is not readable".to_owned()) };
        let mut names = wanted.split(',').map(|it| it.trim().to_ascii_lowercase()).filter(|it| !it.is_empty());
        names.find(|name| !known.contains(name.as_str()))
    }

    /// What the answer to a call with these headers will say.
    pub(crate) fn grant(self: &Arc<Self>, headers: &HeaderMap) -> Granted {
        let origin = headers.get(header::ORIGIN).filter(|it| self.knows(it)).cloned();
        Granted { cors: Arc::clone(self), origin }
    }

    /// Whether a page of this origin may do without being asked for leave what a call with this method would do: open a WebSocket, for which browsers
    /// make no preflight.
    pub(crate) fn admits(&self, origin: &HeaderValue, method: &str) -> bool {
        let methods = &self.http_methods;
        self.knows(origin) && (methods.is_empty() || methods.iter().any(|it| it.as_str() == method))
    }

    /// Whether pages may call as whom their browser knows.
    pub(crate) fn credentials(&self) -> bool {
        self.credentials
    }

    fn knows(&self, origin: &HeaderValue) -> bool {
        origin.to_str().is_ok_and(|origin| self.origins.iter().any(|it| it.is(origin)))
    }

    fn write_origin(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        let Some(origin) = origin else { return };
        let named = if self.any { HeaderValue::from_static("*") } else { origin.clone() };
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, named);
        if self.credentials {
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

impl Granted {
    /// Writes into an answer's head.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        self.cors.write_origin(self.origin.as_ref(), headers);
        if self.origin.is_some() {
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, self.cors.expose.clone());
        }
        if !self.cors.any && !varies_by_origin(headers) {
            headers.append(header::VARY, HeaderValue::from_name(ORIGIN)); // what a cache keeps for one page must not go to another
        }
    }
}

const ORIGIN: HeaderName = header::ORIGIN;

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::VARY).iter().filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).any(|it| matches!(it.trim(), "*") || it.trim().eq_ignore_ascii_case("origin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(change: impl FnOnce(&mut Policy)) -> Arc<Cors> {
        let mut it = Policy { origins: vec!["https://a.example".parse().unwrap()], ..Policy::closed() };
        change(&mut it);
        Arc::new(Cors::new("pages".parse().unwrap(), &it.checked().unwrap()))
    }

    fn head(method: Method, headers: &[(&'static str, &'static str)]) -> request::Parts {
        let mut head = http::Request::new(()).into_parts().0;
        head.method = method;
        head.headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        head
    }

    fn preflight(cors: &Cors, headers: &[(&'static str, &'static str)]) -> Result<HeaderMap, String> {
        let head = head(Method::OPTIONS, headers);
        cors.preflight(&head.headers, Asked::of(&head).unwrap())
    }

    const ASK: [(&str, &str); 2] = [("origin", "https://a.example"), ("access-control-request-method", "PATCH")];

    #[test]
    fn only_a_preflight_is_one() {
        assert_eq!(Asked::of(&head(Method::OPTIONS, &ASK)).unwrap().method, "PATCH");
        assert!(Asked::of(&head(Method::GET, &ASK)).is_none());
        assert!(Asked::of(&head(Method::OPTIONS, &ASK[..1])).is_none());
        assert!(Asked::of(&head(Method::OPTIONS, &ASK[1..])).is_none());
    }

    #[test]
    fn a_preflight_is_told_what_it_asked_for_or_why_not() {
        let usual = cors(|_| {});
        let wanted = ("access-control-request-headers", "content-type,X-Request-Id");
        let told = preflight(&usual, &[ASK[0], ASK[1], wanted]).unwrap();
        assert_eq!(told["access-control-allow-origin"], "https://a.example");
        assert_eq!(told["access-control-allow-methods"], "PATCH");
        assert_eq!(told["access-control-allow-headers"], wanted.1);
        assert_eq!(told["access-control-max-age"], "600");
        assert!(
            told["vary"].to_str().unwrap().starts_with("origin")
                && !told.contains_key("access-control-allow-credentials")
        );

        let other = preflight(&usual, &[("origin", "https://b.example"), ASK[1]]).unwrap_err();
        assert!(other.contains("policy pages") && other.contains("https://b.example"), "{other}");
        let header = preflight(&usual, &[ASK[0], ASK[1], ("access-control-request-headers", "x-tenant")]).unwrap_err();
        assert!(header.contains("x-tenant"), "{header}");
        let only_get = cors(|it| it.http_methods = vec!["GET".parse().unwrap()]);
        assert!(preflight(&only_get, &ASK).unwrap_err().contains("PATCH"));

        let any_header = cors(|it| it.headers = vec!["*".into()]);
        assert!(preflight(&any_header, &[ASK[0], ASK[1], ("access-control-request-headers", "x-tenant")]).is_ok());
    }

    #[test]
    fn an_answer_names_the_origin_that_asked_and_no_other() {
        let told = |cors: &Arc<Cors>, origin: Option<&'static str>| {
            let asked: Vec<_> = origin.map(|it| ("origin", it)).into_iter().collect();
            let mut headers = HeaderMap::new();
            cors.grant(&head(Method::GET, &asked).headers).write(&mut headers);
            headers
        };
        let one = cors(|it| (it.credentials, it.expose) = (true, vec!["x-total".into()]));
        let headers = told(&one, Some("https://a.example"));
        assert_eq!(headers["access-control-allow-origin"], "https://a.example");
        assert_eq!(headers["access-control-allow-credentials"], "true");
        assert_eq!(headers["vary"], "origin");
        assert!(headers["access-control-expose-headers"].to_str().unwrap().ends_with(", x-request-id, x-total"));
        for nobody in [told(&one, Some("https://b.example")), told(&one, None)] {
            assert_eq!((nobody.len(), &nobody["vary"]), (1, &HeaderValue::from_static("origin")), "{nobody:?}");
        }
        let any = cors(|it| it.origins.push(Origin::Any));
        let headers = told(&any, Some("https://b.example"));
        assert!(headers["access-control-allow-origin"] == "*" && !headers.contains_key("vary"));
    }

    #[test]
    fn a_policy_that_could_not_be_read_lets_no_page_call() {
        let closed = Cors::new("later".parse().unwrap(), &Policy::closed());
        assert!(preflight(&closed, &ASK).is_err());
    }
}
