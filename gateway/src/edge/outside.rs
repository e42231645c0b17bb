//! What outside of the mesh the edge rests on, and whether it is there: issuers of tokens, the Redis of shared limits, the descriptors of static mode.
//!
//! Lives here: one state for each, held by whoever follows it, and the page of them at `/outside` of the admin port, which `weft check` reads. Does not: following
//! any (`edge::issuers`, `edge::shared`, `gateway::fixed`).
//! What nobody follows any more is forgotten. Readiness does not hang on any of these: calls that need none of them go on.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::{Response, header, request::Parts};
use serde::Serialize;
use weft_runtime::admin::Page;

/// All of them. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outside {
    /// The lock is held to add one and to list them.
    all: Arc<Mutex<Vec<Weak<Inner>>>>,
}

/// One of them; it is listed until it is dropped.
#[derive(Debug)]
pub(crate) struct Part(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    name: Box<str>,
    /// The lock is held to write it, and to copy it.
    now: Mutex<State>,
}

/// What it is, as the page says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// An issuer of tokens.
    Issuer,
    /// The Redis that rate limits are counted in.
    Redis,
    /// The files that describe the upstream of static mode.
    Descriptors,
}

/// Whether it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "state", content = "problem")]
pub(crate) enum State {
    /// Not known yet.
    Unknown,
    /// It answered when it was asked last, or could be used.
    Well,
    /// It did not, for this reason; calls go on without it.
    Without(String),
    /// It did not, for this reason, and calls that need it fail.
    Failing(String),
}

#[derive(Serialize)]
struct Line<'a> {
    kind: Kind,
    name: &'a str,
    #[serde(flatten)]
    state: State,
}

impl Outside {
    /// Lists one more, whose state is not known yet.
    pub(crate) fn part(&self, kind: Kind, name: &str) -> Part {
        let part = Arc::new(Inner { kind, name: name.into(), now: Mutex::new(State::Unknown) });
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|it| it.strong_count() > 0);
        all.push(Arc::downgrade(&part));
        Part(part)
    }

    /// Answers `/outside`: a list in JSON.
    pub(crate) fn page(&self, request: &Parts) -> Option<Page> {
        (request.uri.path() == "/outside").then(|| {
            let mut page = Response::new(self.json().into());
            page.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            page
        })
    }

    fn json(&self) -> Vec<u8> {
        let all: Vec<_> = {
            let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        let lines: Vec<_> = all.iter().map(|it| it.line()).collect();
        serde_json::to_vec(&lines).expect("names, words and texts make JSON")
    }
}

impl Inner {
    fn line(&self) -> Line<'_> {
        let state = self.now.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Line { kind: self.kind, name: &self.name, state }
    }
}

impl Part {
    /// What was found out last.
    pub(crate) fn is(&self, state: State) {
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner) = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_followed_is_listed_with_its_state_and_its_problem() {
        let outside = Outside::default();
        let said = || String::from_utf8(outside.json()).unwrap();
        assert_eq!(said(), "[]");
        let (issuer, redis) = (outside.part(Kind::Issuer, "https://id"), outside.part(Kind::Redis, "redis://h:6379/0"));
        redis.is(State::Without("connection refused".to_owned()));
        let wanted = r#"[{"kind":"issuer","name":"https://id","state":"unknown"},{"kind":"redis","name":"redis://h:6379/0","state":"without","problem":"connection refused"}]"#;
        assert_eq!(said(), wanted);
        drop(redis);
        issuer.is(State::Well);
        assert_eq!(said(), r#"[{"kind":"issuer","name":"https://id","state":"well"}]"#);
    }

    #[test]
    fn the_page_has_a_path_of_its_own() {
        let request = |path: &str| http::Request::get(path).body(()).unwrap().into_parts().0;
        let outside = Outside::default();
        let page = outside.page(&request("/outside")).unwrap();
        assert_eq!(page.headers()[header::CONTENT_TYPE], "application/json");
        assert!(outside.page(&request("/elsewhere")).is_none());
    }
}
