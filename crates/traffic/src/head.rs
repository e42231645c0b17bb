//! The head of a request on its way upstream: what is dropped, what is set, and the copy an attempt can be made of again.
//!
//! Lives here: hop-by-hop hygiene, URI, the kept copy. Does not: deciding to send again (`retry`).
//! The copy is a flat list out of a per-thread store, not a map: two reference counts a header, no hashing, no allocation once warm.
//! Source: RFC 9110, 7.6.1 (connection options); RFC 9113, 8.2.2 (`te: trailers` only) and 8.3.1.

use std::{cell::RefCell, time::Duration};

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri,
    header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE},
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{deadline, trace::TRACEPARENT};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PREVIOUS_ATTEMPTS: HeaderName = HeaderName::from_static("grpc-previous-rpc-attempts");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// About the hop, beside what `connection` names; `te` is a case of its own.
static OF_THE_HOP: [HeaderName; 6] = [CONNECTION, TRANSFER_ENCODING, UPGRADE, HOST, KEEP_ALIVE, PROXY_CONNECTION];

/// Removes what belongs to the hop the request came by.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // One pass over what is there; nearly always there is nothing to remove, or only `te: trailers`, which gRPC wants.
    let mut found = false;
    let mut te = None;
    for (name, value) in headers.iter() {
        found |= OF_THE_HOP.contains(name);
        if *name == TE {
            te = Some(value.as_bytes() == b"trailers");
        }
    }
    if te == Some(false) {
        let trailers = headers.get_all(TE).iter().any(|v| v.to_str().is_ok_and(|v| v.contains("trailers")));
        headers.remove(TE);
        if trailers {
            headers.insert(TE, HeaderValue::from_static("trailers"));
        }
    }
    if !found {
        return;
    }
    let options: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|option| option.trim().parse().ok())
        .filter(|name| *name != TE)
        .collect();
    for name in options.iter().chain(&OF_THE_HOP) {
        headers.remove(name);
    }
}

/// Keeps values out of HPACK's table that no other call will have: there they would push out those that all calls share, and h2 looks through all values that
/// the table has of a name before it adds one. "Sensitive" is how `http` says it; the header arrives like any other (RFC 7541, 6.2.3).
pub(crate) fn leave_unindexed(headers: &mut HeaderMap) {
    for name in [&TRACEPARENT, &REQUEST_ID] {
        if let Some(value) = headers.get_mut(name) {
            value.set_sensitive(true);
        }
    }
}

/// The authority a caller meant: of the URI, else of `host`.
pub(crate) fn authority(parts: &Parts) -> Option<Authority> {
    if let Some(authority) = parts.uri.authority() {
        return Some(authority.clone());
    }
    parts.headers.get(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok())
}

/// Where an attempt's request goes, besides its headers.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) method: Method,
    pub(crate) authority: Authority,
    pub(crate) path: PathAndQuery,
}

impl Target {
    /// Builds a request. h2 wants scheme and authority in the URI.
    pub(crate) fn request<B>(&self, headers: HeaderMap, body: B) -> Request<B> {
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.authority.clone());
        uri.path_and_query = Some(self.path.clone());
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path make a URI");
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = headers;
        request
    }
}

/// Sets what differs between attempts: time left and attempts before (gRFC A6).
pub(crate) fn stamp(headers: &mut HeaderMap, left: Option<Duration>, previous: u32) {
    if let Some(left) = left {
        deadline::write(left, headers);
    }
    if previous > 0 {
        headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(previous));
    }
}

type Entries = Vec<(HeaderName, HeaderValue)>;

thread_local! {
    /// Emptied lists, so that a warm thread keeps heads without allocating. Bounded by `STORE`.
    static STORE: RefCell<Vec<Entries>> = const { RefCell::new(Vec::new()) };
}

const STORED: usize = 128;

/// A copy of a head's headers.
#[derive(Debug)]
pub(crate) struct Kept(Entries);

impl Kept {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut entries = STORE.with_borrow_mut(Vec::pop).unwrap_or_default();
        entries.extend(headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        Self(entries)
    }

    pub(crate) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.0.len() + 1);
        for (name, value) in &self.0 {
            headers.append(name.clone(), value.clone());
        }
        headers
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut entries = std::mem::take(&mut self.0);
        entries.clear();
        // The store is gone when a thread ends with a call in hand; then the list goes the usual way.
        let _ = STORE.try_with(|store| {
            let mut store = store.borrow_mut();
            if store.len() < STORED {
                store.push(entries);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn what_belongs_to_the_hop_is_removed_and_te_trailers_stays() {
        let mut map = headers(&[
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("upgrade", "h2c"),
            ("transfer-encoding", "chunked"),
            ("host", "users"),
            ("te", "trailers"),
            ("x-end-to-end", "1"),
            ("grpc-timeout", "1S"),
        ]);
        strip_hop_by_hop(&mut map);
        let left: std::collections::BTreeSet<_> = map.keys().map(HeaderName::as_str).collect();
        assert_eq!(left.into_iter().collect::<Vec<_>>(), ["grpc-timeout", "te", "x-end-to-end"]);
    }

    #[test]
    fn what_no_other_call_has_is_left_out_of_the_table_in_copies_too() {
        let mut map = headers(&[("traceparent", "00-1"), ("x-request-id", "1"), ("x-tenant", "acme")]);
        leave_unindexed(&mut map);
        stamp(&mut map, Some(Duration::from_secs(1)), 0);
        let copy = Kept::of(&map).headers();
        for map in [map, copy] {
            let left_out = |name: &str| map[name].is_sensitive();
            assert!(left_out("traceparent") && left_out("x-request-id") && left_out("grpc-timeout"));
            assert!(!left_out("x-tenant"));
        }
    }

    #[test]
    fn te_keeps_nothing_but_trailers() {
        let te = |value| {
            let mut map = headers(&[("te", value)]);
            strip_hop_by_hop(&mut map);
            map.get(TE).map(|v| v.to_str().unwrap().to_owned())
        };
        assert_eq!(te("trailers").as_deref(), Some("trailers"));
        assert_eq!(te("gzip, trailers").as_deref(), Some("trailers"));
        assert_eq!(te("gzip"), None);
    }

    #[test]
    fn a_kept_head_is_the_same_head_with_repeated_names() {
        let map = headers(&[("a", "1"), ("a", "2"), ("b", "3")]);
        for _ in 0..3 {
            let kept = Kept::of(&map);
            assert_eq!(kept.headers(), map);
        }
    }

    #[test]
    fn an_attempt_says_what_is_left_and_how_many_were_before() {
        let mut map = headers(&[("grpc-timeout", "1S")]);
        stamp(&mut map, Some(Duration::from_millis(700)), 2);
        assert_eq!(
            (&map["grpc-timeout"], &map["grpc-previous-rpc-attempts"]),
            (&"700000u".parse().unwrap(), &"2".parse().unwrap())
        );
        let mut first = headers(&[]);
        stamp(&mut first, None, 0);
        assert!(first.is_empty(), "no deadline is added, no attempt is claimed");
    }
}
