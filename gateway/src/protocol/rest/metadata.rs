//! What crosses between HTTP headers and gRPC metadata.
//!
//! Lives here: both directions and the success status a backend may choose. Does not: deadlines (`rest`), trace and request id (`edge::call`).
//!
//! Request → metadata: every header but those about the connection or named by `connection`, the HTTP body, and those gRPC or the gateway writes itself
//! (`weft_transcode::metadata::is_forwarded`). `Grpc-Metadata-X` arrives as `x`. Added: `x-forwarded-for`, `-host`, `-proto` (`edge::forwarded`).
//! Metadata → response: names that mean something in HTTP as they are ([`HTTP_NAMES`]); any other `x` as `Grpc-Metadata-X`; of trailers too, where
//! they come before the body. Where they come after it, as of streams, they are trailers here ([`Trailing`]), but for those names: they speak of the
//! whole answer, and who reads it has read its head (RFC 9110, 6.5.1). `grpc-*` and `weft-*` stay inside.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version, header, request};
use weft_transcode::metadata::is_forwarded;

use crate::edge::{forwarded, names};

/// Response metadata that HTTP clients, caches and browsers understand.
static HTTP_NAMES: [HeaderName; 12] = [
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_LANGUAGE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::RETRY_AFTER,
    header::SET_COOKIE,
    header::VARY,
    header::WWW_AUTHENTICATE,
];

const HTTP_STATUS: &str = "weft-http-status";
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("weft-gateway/", env!("CARGO_PKG_VERSION")));

/// Returns the head of the gRPC call for a request in a protocol that is not gRPC's own, whose hop has ended.
pub(in crate::protocol) fn upstream(head: &request::Parts) -> HeaderMap {
    let mut metadata = HeaderMap::with_capacity(head.headers.len() + 8);
    for (name, value) in &head.headers {
        if let Some(inner) = names::unprefixed(name.as_str()) {
            if let Some(inner) = HeaderName::try_from(inner).ok().filter(|inner| is_forwarded(inner.as_str())) {
                metadata.append(inner, value.clone());
            }
        } else if is_forwarded(name.as_str()) {
            metadata.append(name, value.clone());
        }
    }
    metadata.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    metadata.insert(header::TE, HeaderValue::from_static("trailers"));
    metadata.insert(header::USER_AGENT, USER_AGENT);
    metadata.insert("grpc-accept-encoding", HeaderValue::from_static("identity"));
    forwarded::tell(head, &mut metadata);
    metadata
}

/// Ends the hop that a request came by: takes out what its `connection` names, before anything goes by these headers. What a policy writes later is not the
/// client's to name, and nobody sees a head that the service does not (RFC 9110, 7.6.1). What the gateway says of the call's way stays: it is not the client's;
/// and `te`, which the answer is made by.
pub(in crate::protocol) fn end_hop(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let named = headers.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|it| *it == b','));
    let named: Vec<_> = named.filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok()).collect();
    let stays = |name: &HeaderName| [header::HOST, header::TE].contains(name) || forwarded::is_about_the_way(name);
    for name in named.iter().filter(|name| !stays(name)) {
        headers.remove(name);
    }
    headers.remove(header::CONNECTION);
}

/// Writes what of a call's metadata the client sees.
pub(super) fn downstream(head: &HeaderMap, trailers: &HeaderMap, headers: &mut HeaderMap) {
    for (name, value) in head.iter().chain(trailers) {
        if HTTP_NAMES.contains(name) {
            headers.append(name, value.clone());
        } else if is_own(name)
            && let Ok(name) = names::prefixed(name.as_str())
        {
            headers.append(name, value.clone());
        }
    }
}

/// What a client can be told behind a body of the metadata that comes there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trailing {
    /// All of it.
    All,
    /// What the answer's head announces: over HTTP/1.1 hyper sends nothing else. Empty for a client that does not say that it takes trailers.
    Announced(Vec<HeaderName>),
}

impl Trailing {
    /// Returns what the client of this request can be told. What the service announces in its head, the answer announces, too.
    pub(super) fn of(request: &request::Parts, head: &HeaderMap, answer: &mut HeaderMap) -> Self {
        let takes = request.version >= Version::HTTP_2 || has_token(&request.headers, &header::TE, "trailers");
        let lists = head.get_all(header::TRAILER).iter().filter(|_| takes).filter_map(|it| it.to_str().ok());
        let names = lists.flat_map(|it| it.split(',')).filter_map(|it| it.trim().parse().ok());
        let names: Vec<HeaderName> = names.filter_map(|it: HeaderName| trailing_name(&it)).collect();
        if let Ok(list) = HeaderValue::try_from(names.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(", "))
            && !names.is_empty()
        {
            answer.insert(header::TRAILER, list);
        }
        if request.version >= Version::HTTP_2 { Self::All } else { Self::Announced(names) }
    }

    /// Returns the trailers of the body for those of the call; none if nothing of them can be told.
    pub(super) fn trailers(&self, trailers: &HeaderMap) -> Option<HeaderMap> {
        let mut told = HeaderMap::new();
        for (name, value) in trailers {
            let name = trailing_name(name).filter(|it| match self {
                Self::All => true,
                Self::Announced(names) => names.contains(it),
            });
            if let Some(name) = name {
                told.append(name, value.clone());
            }
        }
        (!told.is_empty()).then_some(told)
    }
}

/// The name by which metadata stands behind a body; none if it does not.
fn trailing_name(name: &HeaderName) -> Option<HeaderName> {
    let tells = is_own(name) && !HTTP_NAMES.contains(name);
    tells.then(|| names::prefixed(name.as_str()).ok()).flatten()
}

/// Whether a header that lists has this word, without its parameters.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|it| it.to_str().ok());
    lists
        .flat_map(|it| it.split(','))
        .any(|it| it.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(token))
}

/// Whether metadata is the backend's own word, not that of gRPC, HTTP/2 or the mesh.
pub(in crate::protocol) fn is_own(name: &HeaderName) -> bool {
    static OF_HTTP: [HeaderName; 4] = [header::CONTENT_TYPE, header::DATE, header::SERVER, header::TRAILER];
    let text = name.as_str();
    !OF_HTTP.contains(name) && !text.starts_with("grpc-") && !text.starts_with("weft-") && is_forwarded(text)
}

/// The status of a success: what the backend asks for, 200 to 299, else 200.
pub(super) fn success_status(head: &HeaderMap, trailers: &HeaderMap) -> StatusCode {
    let asked = head.get(HTTP_STATUS).or_else(|| trailers.get(HTTP_STATUS));
    let asked = asked.and_then(|value| StatusCode::from_bytes(value.as_bytes()).ok());
    asked.filter(StatusCode::is_success).unwrap_or(StatusCode::OK)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;

    use super::*;
    use crate::TrustedProxies;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        HeaderMap::from_iter(
            pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
        )
    }

    fn sent_upstream(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut head = Request::new(()).into_parts().0;
        head.headers = map(pairs);
        Arc::<TrustedProxies>::default().see("10.0.0.9:4000".parse().unwrap()).settle(&mut head.headers);
        end_hop(&mut head.headers);
        upstream(&head)
    }

    #[test]
    fn a_backend_sees_what_the_client_says_and_not_how_it_was_carried() {
        let metadata = sent_upstream(&[
            ("authorization", "Bearer x"),
            ("grpc-metadata-tenant", "acme"),
            ("grpc-metadata-connection", "close"),
            ("x-custom", "1"),
            ("connection", "keep-alive, X-Hop, x-forwarded-for, Host"),
            ("x-hop", "1"),
            ("content-length", "7"),
            ("host", "api.example"),
            ("x-forwarded-for", "1.2.3.4"),
        ]);
        assert_eq!(metadata["authorization"], "Bearer x");
        assert_eq!(metadata["tenant"], "acme");
        assert_eq!(metadata["x-custom"], "1");
        assert_eq!(metadata["x-forwarded-for"], "10.0.0.9", "a caller's own word does not count");
        assert_eq!(metadata["x-forwarded-host"], "api.example");
        assert_eq!(metadata["te"], "trailers");
        assert_eq!(metadata["content-type"], "application/grpc");
        for absent in ["connection", "x-hop", "content-length", "host", "grpc-metadata-tenant"] {
            assert!(!metadata.contains_key(absent), "{absent}");
        }
    }

    #[test]
    fn a_client_sees_metadata_by_its_http_name_or_with_a_prefix() {
        let head = map(&[
            ("content-type", "application/grpc"),
            ("etag", "\"1\""),
            ("shard", "7"),
            ("weft-http-status", "201"),
        ]);
        let trailers = map(&[("grpc-status", "0"), ("cost", "3")]);
        let mut headers = HeaderMap::new();
        downstream(&head, &trailers, &mut headers);
        let expected = map(&[("etag", "\"1\""), ("grpc-metadata-shard", "7"), ("grpc-metadata-cost", "3")]);
        assert_eq!(headers, expected);
    }

    #[test]
    fn behind_a_body_stands_what_the_protocol_lets_stand_there() {
        let trailers =
            map(&[("grpc-status", "0"), ("weft-x", "1"), ("cost", "3"), ("shard", "7"), ("set-cookie", "a=b")]);
        let told = |version, te: &[&'static str], announced: &'static str| {
            let mut request = Request::new(()).into_parts().0;
            (request.version, request.headers) =
                (version, te.iter().map(|it| (header::TE, it.parse().unwrap())).collect());
            let (head, mut answer) = (map(&[("trailer", announced)]), HeaderMap::new());
            let told = Trailing::of(&request, &head, &mut answer).trailers(&trailers);
            let mut names: Vec<_> = told.unwrap_or_default().keys().map(|it| it.to_string()).collect();
            names.sort_unstable();
            (names.join(" "), answer.get(header::TRAILER).map(|it| it.to_str().unwrap().to_owned()))
        };
        let said = |names: &str| Some(names.to_owned());
        let both = "grpc-metadata-cost grpc-metadata-shard".to_owned();
        assert_eq!(told(Version::HTTP_2, &[], ""), (both.clone(), None));
        let announced = "cost, Grpc-Status, set-cookie, Shard, later";
        let list = said("grpc-metadata-cost, grpc-metadata-shard, grpc-metadata-later");
        assert_eq!(told(Version::HTTP_2, &[], announced), (both.clone(), list.clone()));
        for te in [&["trailers"][..], &["gzip;q=0.5, Trailers"], &["gzip", "trailers"]] {
            assert_eq!(told(Version::HTTP_11, te, announced), (both.clone(), list.clone()), "{te:?}");
        }
        assert_eq!(
            told(Version::HTTP_11, &["trailers"], "cost"),
            ("grpc-metadata-cost".into(), said("grpc-metadata-cost"))
        );
        assert_eq!(told(Version::HTTP_11, &["trailers"], ""), (String::new(), None));
        assert_eq!(told(Version::HTTP_11, &["gzip"], "cost"), (String::new(), None), "it does not take any");
    }

    #[test]
    fn only_a_success_may_be_another_success() {
        let asked = |value| success_status(&HeaderMap::new(), &map(&[("weft-http-status", value)])).as_u16();
        assert_eq!([asked("201"), asked("204"), asked("404"), asked("x")], [201, 204, 200, 200]);
        assert_eq!(success_status(&map(&[("weft-http-status", "202")]), &HeaderMap::new()), 202);
    }
}
