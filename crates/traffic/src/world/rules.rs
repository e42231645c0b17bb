//! Route rules of a service, compiled: which of them a call meets, and where it goes by it.
//!
//! Lives here: matching, the share of a split. Does not: waiting for the service that a call is sent on to (`select`), trying again (`retry`).
//! Faults are left to clients of xDS: proxies carry, and do not break, what passes.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use rand::Rng;
use weft_model::{HeaderMatch, HeaderValue, PathPattern, Policy, PolicyKind, RetryRule, RouteRule, ServiceName, Split};

/// The rules of one service, in the order in which they are asked.
#[derive(Debug, PartialEq)]
pub(crate) struct Rules(Box<[Compiled]>);

#[derive(Debug, PartialEq)]
struct Compiled {
    /// Any of them; none: every path.
    paths: Box<[PathPattern]>,
    headers: Box<[HeaderMatch]>,
    targets: Box<[(ServiceName, u32)]>,
    total: u32,
    timeout: Option<Duration>,
    retry: Option<Arc<RetryRule>>,
}

/// What a rule says of a call.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Directed {
    /// Where it goes, if not to the service itself.
    pub(crate) to: Option<ServiceName>,
    /// How long it may take from the end of its headers.
    pub(crate) timeout: Option<Duration>,
    /// How often it is tried, if not as without a policy.
    pub(crate) retry: Option<Arc<RetryRule>>,
}

impl Rules {
    /// Compiles the route policies of a service; none if it has none.
    pub(crate) fn of(policies: &[Arc<Policy>]) -> Option<Arc<Self>> {
        let rules = policies.iter().filter_map(|it| match &it.kind {
            PolicyKind::Route(route) => Some(route.rules()),
            PolicyKind::Access(_)
            | PolicyKind::PlaintextUpstream(_)
            | PolicyKind::Upstream(_)
            | PolicyKind::Edge(_) => None,
        });
        let rules: Box<[Compiled]> = rules.flatten().map(Compiled::new).collect();
        (!rules.is_empty()).then(|| Arc::new(Self(rules)))
    }

    /// What the first rule says that the call meets.
    pub(crate) fn direct(&self, path: &str, headers: &HeaderMap, rng: &mut impl Rng) -> Option<Directed> {
        let rule = self.0.iter().find(|it| it.matches(path, headers))?;
        let (to, timeout, retry) = (rule.target(rng).cloned(), rule.timeout, rule.retry.clone());
        Some(Directed { to, timeout, retry })
    }
}

impl Compiled {
    fn new(it: &RouteRule) -> Self {
        let shares = it.to.iter().flat_map(Split::targets).filter(|it| it.weight > 0);
        let targets: Box<[_]> = shares.map(|it| (it.service.clone(), it.weight)).collect();
        Self {
            paths: it.matches.patterns().collect(),
            headers: it.matches.headers().into(),
            total: targets.iter().map(|(_, weight)| weight).sum(), // 16 of a million at most
            targets,
            timeout: it.timeout,
            retry: it.retry.clone().map(Arc::new),
        }
    }

    fn matches(&self, path: &str, headers: &HeaderMap) -> bool {
        (self.paths.is_empty() || self.paths.iter().any(|it| it.matches(path)))
            && self.headers.iter().all(|it| header_matches(it, headers))
    }

    fn target(&self, rng: &mut impl Rng) -> Option<&ServiceName> {
        if self.targets.len() <= 1 {
            return self.targets.first().map(|(service, _)| service);
        }
        let mut drawn = rng.random_range(0..self.total);
        let hit = self.targets.iter().find(|(_, weight)| match drawn.checked_sub(*weight) {
            Some(left) => {
                drawn = left;
                false
            }
            None => true,
        });
        hit.map(|(service, _)| service)
    }
}

/// Several values of one header are one, with commas between them, as gRPC sees them.
fn header_matches(wanted: &HeaderMatch, headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(wanted.name()).iter().map(|it| it.as_bytes());
    let Some(first) = values.next() else { return *wanted.value() == HeaderValue::Present(false) };
    let rest: Vec<&[u8]> = values.collect();
    let joined;
    let value = if rest.is_empty() {
        first
    } else {
        joined = [&[first], rest.as_slice()].concat().join(&b","[..]);
        &joined
    };
    match wanted.value() {
        HeaderValue::Exact(text) => value == text.as_bytes(),
        HeaderValue::Prefix(text) => value.starts_with(text.as_bytes()),
        HeaderValue::Suffix(text) => value.ends_with(text.as_bytes()),
        HeaderValue::Present(flag) => *flag,
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use weft_model::{CallMatch, Route, Target, Version};

    use super::*;

    fn rules(rules: Vec<RouteRule>) -> Arc<Rules> {
        let kind = PolicyKind::Route(Route::new(rules).unwrap());
        let (name, service) = ("p".parse().unwrap(), "users".parse().unwrap());
        Rules::of(&[Arc::new(Policy { name, service, version: Version(1), kind })]).unwrap()
    }

    fn rule(name: &str, matches: CallMatch, shares: &[(&str, u32)]) -> RouteRule {
        let target = |(service, weight): &(&str, u32)| Target { service: service.parse().unwrap(), weight: *weight };
        let to = (!shares.is_empty()).then(|| Split::new(shares.iter().map(target).collect()).unwrap());
        let timeout = Some(Duration::from_secs(1));
        RouteRule { name: name.parse().unwrap(), matches, to, timeout, retry: None, fault: None }
    }

    fn goes(rules: &Rules, path: &str, headers: &[(&'static str, &'static str)]) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let directed = rules.direct(path, &map, &mut StdRng::seed_from_u64(1))?;
        Some(directed.to.map_or_else(|| "itself".to_owned(), |it| it.to_string()))
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let header = |value| HeaderMatch::new("x-canary", value).unwrap();
        let matching = |methods: &[&str], paths: &[&str], headers: Vec<HeaderMatch>| {
            let methods = methods.iter().map(|it| it.parse().unwrap()).collect();
            CallMatch::new(methods, paths.iter().map(|it| it.parse().unwrap()).collect(), headers).unwrap()
        };
        let rules = rules(vec![
            rule(
                "a",
                matching(&["u.Users/Get"], &["/u.Admin/*"], vec![header(HeaderValue::Exact("a,b".into()))]),
                &[("one", 1)],
            ),
            rule("b", matching(&["u.Users/*"], &[], vec![header(HeaderValue::Present(false))]), &[("two", 1)]),
            rule("c", matching(&[], &[], vec![header(HeaderValue::Prefix("y".into()))]), &[("three", 1)]),
            rule("d", matching(&[], &[], vec![header(HeaderValue::Suffix("z".into()))]), &[]),
        ]);
        let both = [("x-canary", "a"), ("x-canary", "b")];
        assert_eq!(goes(&rules, "/u.Users/Get", &both).as_deref(), Some("one"));
        assert_eq!(goes(&rules, "/u.Admin/Stop", &both).as_deref(), Some("one"));
        assert_eq!(goes(&rules, "/u.Users/Put", &both), None);
        assert_eq!(goes(&rules, "/u.Users/Put", &[]).as_deref(), Some("two"));
        assert_eq!(goes(&rules, "/v.Other/Get", &[]), None);
        assert_eq!(goes(&rules, "/v.Other/Get", &[("x-canary", "yes")]).as_deref(), Some("three"));
        assert_eq!(goes(&rules, "/v.Other/Get", &[("x-canary", "z")]).as_deref(), Some("itself"));
    }

    #[test]
    fn a_split_gives_each_its_share() {
        let rules = rules(vec![rule("s", CallMatch::default(), &[("users", 90), ("canary", 10), ("never", 0)])]);
        let mut rng = StdRng::seed_from_u64(7);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..10_000 {
            let to = rules.direct("/a.B/C", &HeaderMap::new(), &mut rng).unwrap().to.unwrap();
            *counts.entry(to.to_string()).or_insert(0) += 1;
        }
        assert_eq!(counts.keys().collect::<Vec<_>>(), ["canary", "users"]);
        assert!((900..1_100).contains(&counts["canary"]), "{counts:?}");
    }
}
