//! Answers on their way into the cache and out of it: tags, ages, and the short form for who has the answer already.
//!
//! Lives here: `ETag`, `If-None-Match`, `Age`, `Cache-Status`. Does not: what is kept and for whom (`cache`), compression, which gives a tag of ours another
//! form with the bytes it changes (`protocol::compression::answers`).
//! Source: RFC 9110, 8.8.3, 13.1.2, 15.4.5; RFC 9111, 5.1; RFC 9211 for `Cache-Status`.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use ring::digest::{SHA256, digest};
use weft_traffic::Body;

use super::store::Kept;

const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What an answer without a body says of the one that the client has.
const OF_NOT_MODIFIED: [HeaderName; 6] = [
    header::CACHE_CONTROL,
    header::CONTENT_LOCATION,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::SET_COOKIE,
    header::VARY,
];

/// Marks an answer whose `ETag` was made here, of its bytes: who changes the bytes makes another one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OwnTag;

impl OwnTag {
    /// The tag of the same answer in a coding.
    pub(crate) fn coded(tag: &HeaderValue, coding: &str) -> Option<HeaderValue> {
        let inner = tag.to_str().ok()?.strip_suffix('"')?;
        HeaderValue::try_from(format!("{inner}-{coding}\"")).ok()
    }
}

/// Reads an answer whole, for keeping; gives it back if its body breaks off.
pub(super) async fn read(
    response: Response<Body>,
    since: Instant,
    fresh: Duration,
    vary: Box<[HeaderName]>,
    varied: Box<[u8]>,
) -> Result<Kept, Response<Body>> {
    let (mut head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(all) => Bytes::copy_from_slice(&all.to_bytes()), // whoever made it may have left room behind it, which nobody counts
        Err(error) => {
            let (sender, body) = Body::channel(1);
            sender.fail(error);
            return Err(Response::from_parts(head, body));
        }
    };
    let own_tag = head.status == StatusCode::OK && !head.headers.contains_key(header::ETAG);
    if own_tag {
        head.headers.insert(header::ETAG, tag(&body));
    }
    Ok(Kept { status: head.status, headers: head.headers, body, own_tag, since, fresh, vary, varied })
}

/// A strong tag of these bytes.
fn tag(body: &Bytes) -> HeaderValue {
    let hash = digest(&SHA256, body);
    let text = format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]));
    HeaderValue::try_from(text).expect("base64 is valid in a header")
}

/// Gives a kept answer again.
pub(super) fn give(kept: &Kept, asked: &HeaderMap, age: Duration, how: &str) -> Response<Body> {
    let left = kept.fresh.saturating_sub(age).as_secs();
    let mut response = form(kept, asked);
    response.headers_mut().insert(header::AGE, HeaderValue::from(age.as_secs()));
    say(&mut response, &format!("weft; {how}; ttl={left}"));
    response
}

/// Gives an answer that was fetched just now.
pub(super) fn give_new(kept: &Kept, asked: &HeaderMap, why: &str) -> Response<Body> {
    let mut response = form(kept, asked);
    say(&mut response, &format!("weft; fwd={why}; stored"));
    response
}

/// Gives an answer that is not kept.
pub(super) fn passed_on(mut response: Response<Body>, why: &str) -> Response<Body> {
    say(&mut response, &format!("weft; fwd={why}"));
    response
}

fn say(response: &mut Response<Body>, status: &str) {
    if let Ok(status) = HeaderValue::try_from(status) {
        response.headers_mut().insert(CACHE_STATUS, status);
    }
}

fn form(kept: &Kept, asked: &HeaderMap) -> Response<Body> {
    if kept.status == StatusCode::OK
        && let Some(tag) = kept.headers.get(header::ETAG)
        && let Some(known) = known(asked, tag, kept.own_tag)
    {
        return not_modified(kept, known);
    }
    let mut response = Response::new(Body::full(kept.body.clone()));
    *response.status_mut() = kept.status;
    response.headers_mut().clone_from(&kept.headers);
    if kept.own_tag {
        response.extensions_mut().insert(OwnTag);
    }
    response
}

fn not_modified(kept: &Kept, tag: HeaderValue) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    for name in OF_NOT_MODIFIED {
        for value in kept.headers.get_all(&name) {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    response.headers_mut().insert(header::ETAG, tag);
    response
}

/// The tag by which a client says that it has this answer already. Tags of ours are known in every coding.
fn known(asked: &HeaderMap, tag: &HeaderValue, own: bool) -> Option<HeaderValue> {
    let ours = opaque(tag.to_str().ok()?);
    let lists = asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|it| it.to_str().ok());
    let mut theirs = lists.flat_map(|it| it.split(',')).map(str::trim);
    let same = |it: &&str| {
        let it = opaque(it);
        let coded = || ["gzip", "br", "zstd"].iter().any(|coding| it == format!("{}-{coding}", ours));
        it == ours || (own && coded())
    };
    match theirs.find(|it| *it == "*" || same(it))? {
        "*" => Some(tag.clone()),
        found => HeaderValue::try_from(found).ok(),
    }
}

/// A tag without quotes and weakness: the weak comparison (RFC 9110, 8.8.3.2).
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn kept(headers: &[(&'static str, &'static str)]) -> Kept {
        let mut response = Response::new(Body::full("{}"));
        for (name, value) in headers {
            response.headers_mut().append(*name, HeaderValue::from_static(value));
        }
        read(response, Instant::now(), Duration::from_secs(60), Box::default(), Box::default()).await.unwrap()
    }

    fn asks(tag: &str) -> HeaderMap {
        HeaderMap::from_iter([(header::IF_NONE_MATCH, HeaderValue::try_from(tag).unwrap())])
    }

    #[tokio::test]
    async fn who_has_the_answer_is_told_so_in_short() {
        let it = kept(&[("content-type", "application/json"), ("cache-control", "max-age=60")]).await;
        let tag = it.headers[header::ETAG].to_str().unwrap().to_owned();
        let response = give(&it, &HeaderMap::new(), Duration::from_secs(7), "hit");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["age"], "7");
        assert_eq!(response.headers()["cache-status"], "weft; hit; ttl=53");
        assert!(response.extensions().get::<OwnTag>().is_some());
        let coded = OwnTag::coded(&it.headers[header::ETAG], "gzip").unwrap().to_str().unwrap().to_owned();
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), coded, "*".to_owned()] {
            let response = give(&it, &asks(&known), Duration::ZERO, "hit");
            assert_eq!(response.status(), 304, "{known}");
            assert!(response.headers().contains_key("etag") && response.headers()["cache-control"] == "max-age=60");
            assert!(!response.headers().contains_key("content-type"), "{response:?}");
            assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(0));
        }
        for other in ["\"other\"", "", "\"\""] {
            assert_eq!(give(&it, &asks(other), Duration::ZERO, "hit").status(), 200, "{other}");
        }
    }

    #[tokio::test]
    async fn a_tag_of_the_services_own_stays_as_it_is() {
        let it = kept(&[("etag", "\"v1\"")]).await;
        let response = give(&it, &HeaderMap::new(), Duration::ZERO, "hit");
        assert!(response.headers()["etag"] == "\"v1\"" && response.extensions().get::<OwnTag>().is_none());
        assert_eq!(give(&it, &asks("\"v1\""), Duration::ZERO, "hit").status(), 304);
        assert_eq!(give(&it, &asks("\"v1-gzip\""), Duration::ZERO, "hit").status(), 200, "only ours have codings");
    }

    #[tokio::test]
    async fn bodies_that_differ_have_tags_that_differ() {
        assert_eq!(tag(&Bytes::from_static(b"a")), tag(&Bytes::from_static(b"a")));
        assert_ne!(tag(&Bytes::from_static(b"a")), tag(&Bytes::from_static(b"b")));
    }
}
