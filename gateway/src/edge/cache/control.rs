//! `Cache-Control` and its relatives: what a request asks of a cache, and for how long an answer may be given again.
//!
//! Lives here: reading directives, freshness, what a shared cache may keep. Does not: keeping it (`cache::store`), whose answer it is (`cache`).
//! Source: RFC 9111, sections 3, 4.2, 5.2. Differs where it may: `no-cache` is not kept, since a gRPC service cannot be asked whether an answer still
//! holds; qualified forms (`private="set-cookie"`) count as the plain ones; statuses but 200, 203 and 204 want words of the service's own; an answer
//! that sets a cookie is never kept.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::edge::quotes;

/// What stands for a time too long to be written (RFC 9111, 1.2.2).
const EVER: Duration = Duration::from_secs(1 << 31);

/// What a request asks of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Wishes {
    /// Neither kept nor looked up.
    pub(super) no_store: bool,
    /// Not looked up.
    pub(super) no_cache: bool,
    /// Not from upstream.
    pub(super) only_if_cached: bool,
    max_age: Option<Duration>,
    min_fresh: Duration,
}

impl Wishes {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut wishes = Self::default();
        for value in headers.get_all(header::CACHE_CONTROL) {
            let Some(directives) = directives(value) else {
                wishes.no_store = true;
                continue;
            };
            for (name, value) in directives {
                match name.to_ascii_lowercase().as_str() {
                    "no-store" => wishes.no_store = true,
                    "no-cache" => wishes.no_cache = true,
                    "only-if-cached" => wishes.only_if_cached = true,
                    "max-age" => wishes.max_age = Some(least(wishes.max_age, seconds(value))),
                    "min-fresh" => wishes.min_fresh = wishes.min_fresh.max(seconds(value)),
                    _ => {} // max-stale allows what is not done here; others are not known
                }
            }
        }
        wishes
    }

    /// Whether an answer of this age, fresh for so long altogether, will do.
    pub(super) fn accept(&self, age: Duration, fresh: Duration) -> bool {
        let left = fresh.saturating_sub(age);
        self.max_age.is_none_or(|most| age <= most) && left >= self.min_fresh
    }
}

/// What decides whether an answer may be kept, beside its own words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// How long an answer is fresh that does not say so.
    pub(super) ttl: Duration,
    /// The call showed a credential, and its answer would be given to others.
    pub(super) credential: bool,
    pub(super) now: SystemTime,
}

impl Terms {
    /// For how long this answer may be given again; none: it may not be kept.
    pub(super) fn fresh_for(&self, status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
        let (mut shared_age, mut age, mut for_all) = (None, None, false);
        for value in headers.get_all(header::CACHE_CONTROL) {
            for (name, value) in directives(value)? {
                match name.to_ascii_lowercase().as_str() {
                    "no-store" | "no-cache" | "private" => return None,
                    "public" | "must-revalidate" => for_all = true,
                    "s-maxage" => shared_age = Some(least(shared_age, seconds(value))),
                    "max-age" => age = Some(least(age, seconds(value))),
                    _ => {}
                }
            }
        }
        let said = shared_age.or(age).or_else(|| self.until_expiry(headers));
        let by_default = matches!(status.as_u16(), 200 | 203 | 204);
        let fresh = match said {
            Some(said) if by_default || matches!(status.as_u16(), 404 | 410) => said,
            None if by_default => self.ttl,
            _ => return None,
        };
        let for_all = for_all || shared_age.is_some();
        let may = (for_all || !self.credential) && !headers.contains_key(header::SET_COOKIE) && vary(headers).is_some();
        (may && !fresh.is_zero()).then_some(fresh)
    }

    fn until_expiry(&self, headers: &HeaderMap) -> Option<Duration> {
        let expires = headers.get(header::EXPIRES)?;
        let moment = expires.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
        // What is no date has expired (RFC 9111, 5.3).
        Some(moment.and_then(|it| it.duration_since(self.now).ok()).unwrap_or_default())
    }
}

/// The request headers that an answer depends on, in lower case and order; none: on anything.
pub(super) fn vary(headers: &HeaderMap) -> Option<Vec<header::HeaderName>> {
    let mut names = Vec::new();
    for value in headers.get_all(header::VARY) {
        for name in value.to_str().ok()?.split(',').map(str::trim).filter(|it| !it.is_empty()) {
            names.push(header::HeaderName::try_from(name).ok().filter(|_| name != "*")?);
        }
    }
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    Some(names)
}

/// The directives of one line, the last first: names, and values without their quotes. None if it cannot be read, so that nobody knows what it forbids.
fn directives(value: &HeaderValue) -> Option<impl Iterator<Item = (&str, &str)>> {
    let text = value.to_str().ok().filter(|it| quotes::are_sound(it.as_bytes()))?;
    let items = quotes::parts(text.as_bytes(), b',').filter_map(|it| str::from_utf8(it).ok());
    Some(items.map(|item| {
        let (name, value) = item.split_once('=').unwrap_or((item, ""));
        (name.trim(), value.trim().trim_matches('"'))
    }))
}

/// A number of seconds; what is none is zero, and what is too much is [`EVER`].
fn seconds(text: &str) -> Duration {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Duration::ZERO;
    }
    text.parse().map_or(EVER, |it| Duration::from_secs(it).min(EVER))
}

/// Who says it twice means the stricter.
fn least(before: Option<Duration>, now: Duration) -> Duration {
    before.map_or(now, |it| it.min(now))
}

#[cfg(test)]
mod tests {
    use http::HeaderName;

    use super::*;

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777) // Sun, 06 Nov 1994 08:49:37 GMT
    }

    fn kept(status: u16, ttl: u64, credential: bool, headers: &[(&'static str, &str)]) -> Option<u64> {
        let terms = Terms { ttl: Duration::from_secs(ttl), credential, now: now() };
        terms.fresh_for(StatusCode::from_u16(status).unwrap(), &map(headers)).map(|it| it.as_secs())
    }

    fn said(control: &str) -> Option<u64> {
        kept(200, 0, false, &[("cache-control", control)])
    }

    #[test]
    fn freshness_is_what_the_service_says_and_else_the_policy() {
        assert_eq!(said("max-age=60"), Some(60));
        assert_eq!(said("max-age=60, s-maxage=10"), Some(10));
        assert_eq!(said("MAX-AGE=\"60\""), Some(60));
        assert_eq!(said("max-age=60, max-age=5"), Some(5), "the stricter of two");
        assert_eq!(said("max-age=99999999999999999999"), Some(1 << 31));
        for stale in ["max-age=0", "max-age=-1", "max-age=soon", "max-age", "public", ""] {
            assert_eq!(said(stale), None, "{stale}");
        }
        assert_eq!(kept(200, 30, false, &[]), Some(30));
        assert_eq!(kept(200, 30, false, &[("cache-control", "max-age=0")]), None, "its word comes before the policy's");
        assert_eq!(kept(200, 30, false, &[("expires", "Sun, 06 Nov 1994 08:50:37 GMT")]), Some(60));
        assert_eq!(kept(200, 30, false, &[("expires", "0")]), None);
        assert_eq!(kept(200, 30, false, &[("expires", "Sun, 06 Nov 1994 08:49:30 GMT")]), None);
    }

    #[test]
    fn what_a_shared_cache_may_not_keep_is_not_kept() {
        for control in
            ["no-store", "private, max-age=60", "no-cache", "private=\"a, public\", max-age=60", "max-age=60,NO-STORE"]
        {
            assert_eq!(kept(200, 30, false, &[("cache-control", control)]), None, "{control}");
        }
        assert_eq!(kept(200, 30, false, &[("cache-control", "max-age=60"), ("cache-control", "no-store")]), None);
        assert_eq!(kept(200, 30, false, &[("cache-control", "\u{fc}")]), None, "what cannot be read may forbid it");
        assert_eq!(kept(200, 30, false, &[("set-cookie", "a=b")]), None);
        assert_eq!(kept(200, 30, false, &[("vary", "*")]), None);
        assert_eq!(kept(200, 30, false, &[("vary", "accept-language, *")]), None);
        assert_eq!(said("community=\"UCI, no-store\", max-age=7"), Some(7), "a comma in quotes separates nothing");
        assert_eq!(
            said("max-age=7, a=\"\\\", no-store, b=\""),
            Some(7),
            "nor does one after a quote that means itself"
        );
        assert_eq!(said("max-age=7, no-store, a=\\\"b\""), None, "a backslash outside of quotes means nothing");
        assert_eq!(said("max-age=7, a=\"b, no-store"), None, "a quote that is left open may hide anything");
    }

    #[test]
    fn other_statuses_are_kept_only_by_the_services_word() {
        let word = [("cache-control", "max-age=5")];
        let by_word = [200, 201, 203, 204, 206, 404, 410, 429, 500, 503].map(|it| kept(it, 30, false, &word).is_some());
        assert_eq!(by_word, [true, false, true, true, false, true, true, false, false, false]);
        let by_ttl = [200, 203, 204, 404, 410, 500].map(|it| kept(it, 30, false, &[]).is_some());
        assert_eq!(by_ttl, [true, true, true, false, false, false]);
    }

    #[test]
    fn with_a_credential_it_takes_a_word_that_others_may_have_it() {
        let to = |control| kept(200, 30, true, &[("cache-control", control)]);
        assert_eq!((to("max-age=60"), kept(200, 30, true, &[])), (None, None));
        assert_eq!((to("public"), to("s-maxage=9"), to("max-age=5, must-revalidate")), (Some(30), Some(9), Some(5)));
    }

    #[test]
    fn a_request_takes_only_what_is_young_and_lasts() {
        let accepts = |control: &str, age, fresh| {
            let wishes = Wishes::of(&map(&[("cache-control", control)]));
            wishes.accept(Duration::from_secs(age), Duration::from_secs(fresh))
        };
        assert!(accepts("", 59, 60) && accepts("max-age=10", 10, 60) && !accepts("max-age=10", 11, 60));
        assert!(accepts("min-fresh=10", 50, 60) && !accepts("min-fresh=10", 51, 60));
        assert!(!accepts("max-age=0", 1, 60) && !accepts("max-age=oops", 1, 60));
        let wishes = Wishes::of(&map(&[("cache-control", "No-Store, only-if-cached"), ("cache-control", "no-cache")]));
        assert!(wishes.no_store && wishes.no_cache && wishes.only_if_cached);
        let open = Wishes::of(&map(&[("cache-control", "a=\"b, no-store"), ("cache-control", "max-age=9")]));
        assert!(open.no_store && open.max_age.is_some(), "what cannot be read may forbid it");
        assert!(!accepts("min-fresh=20, min-fresh=10", 45, 60), "the stricter of two");
    }

    #[test]
    fn names_of_vary_are_told_once_and_in_order() {
        let names = vary(&map(&[("vary", "X-B, accept-language,"), ("vary", "x-b")])).unwrap();
        assert_eq!(names.iter().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept-language", "x-b"]);
        assert_eq!(vary(&HeaderMap::new()), Some(Vec::new()));
        assert_eq!(vary(&map(&[("vary", "a b")])), None);
    }
}
