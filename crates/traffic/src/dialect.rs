//! What a content type says of gRPC: whether a head is its, and in which form a caller reads that its call has failed.
//!
//! Lives here: telling both, and putting a failure into its form. Does not: which failure it is (`error`), answers of upstream (they pass through in the
//! form that upstream gave them).
//! Native gRPC and gRPC-Web take a trailers-only answer, and some clients take no other content type than the one they sent. Whoever speaks something
//! else, like Connect or plain HTTP/2, knows nothing of `grpc-status`, and would take its 200 for success: there the HTTP status says it, and the body why.

use http::{HeaderMap, HeaderValue, Response, header};

use crate::{Body, Code};

const GRPC: &[u8] = b"application/grpc";

/// Whether the head of a request or an answer is native gRPC's: `application/grpc`, alone or with `+format` or parameters. gRPC-Web is another protocol,
/// although its content types begin alike.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let rest = headers.get(header::CONTENT_TYPE).and_then(|named| named.as_bytes().strip_prefix(GRPC));
    rest.is_some_and(|rest| rest.first().is_none_or(|next| matches!(next, b'+' | b';' | b' ')))
}

/// The form of a call's failures. Cheap to make and to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dialect(Spoken);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Spoken {
    /// `application/grpc` as it is.
    Grpc,
    /// gRPC with a format or parameters, and its relatives: `application/grpc+json`, `application/grpc-web`.
    Named(HeaderValue),
    /// No gRPC.
    Http,
}

impl Dialect {
    /// The one of a request with these headers.
    pub fn of(headers: &HeaderMap) -> Self {
        Self(match headers.get(header::CONTENT_TYPE) {
            Some(named) if named.as_bytes() == GRPC => Spoken::Grpc,
            Some(named) if named.as_bytes().starts_with(GRPC) => Spoken::Named(named.clone()),
            Some(_) | None => Spoken::Http,
        })
    }

    /// Puts a trailers-only answer of native gRPC into this form; `message` is what it says.
    pub fn put(self, failure: Response<Body>, message: &str) -> Response<Body> {
        match self.0 {
            Spoken::Grpc => failure,
            Spoken::Named(named) => {
                let mut failure = failure;
                failure.headers_mut().insert(header::CONTENT_TYPE, named);
                failure
            }
            Spoken::Http => {
                let mut response = Response::new(Body::full(format!("{message}\n")));
                *response.status_mut() = Code::from_headers(failure.headers()).unwrap_or(Code::Unknown).http_status();
                let text = HeaderValue::from_static("text/plain; charset=utf-8");
                response.headers_mut().insert(header::CONTENT_TYPE, text);
                response
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::Error;

    fn head(content_type: Option<&'static str>) -> HeaderMap {
        HeaderMap::from_iter(content_type.map(|it| (header::CONTENT_TYPE, HeaderValue::from_static(it))))
    }

    fn told(content_type: Option<&'static str>) -> Response<Body> {
        let error = Error::UnknownService { name: "moon".into() };
        Dialect::of(&head(content_type)).put(error.to_response(), &error.message())
    }

    #[test]
    fn native_grpc_is_told_from_its_relatives() {
        for native in ["application/grpc", "application/grpc+proto", "application/grpc;v=1", "application/grpc ; v=1"] {
            assert!(is_grpc(&head(Some(native))), "{native}");
        }
        for other in ["application/grpc-web", "application/grpc-web+proto", "application/grpcurl", "application/json"] {
            assert!(!is_grpc(&head(Some(other))), "{other}");
        }
        assert!(!is_grpc(&head(None)));
    }

    #[test]
    fn grpc_and_its_relatives_get_trailers_only_in_their_own_content_type() {
        for named in ["application/grpc", "application/grpc+json", "application/grpc;v=1", "application/grpc-web+proto"]
        {
            let told = told(Some(named));
            assert_eq!((told.status().as_u16(), &told.headers()[header::CONTENT_TYPE]), (200, &named.parse().unwrap()));
            assert_eq!(Code::from_headers(told.headers()), Some(Code::Unavailable), "{named}");
        }
    }

    #[tokio::test]
    async fn others_get_an_http_status_and_words() {
        for named in [Some("application/json"), Some("application/connect+proto"), None] {
            let told = told(named);
            assert_eq!((told.status().as_u16(), Code::from_headers(told.headers())), (503, None), "{named:?}");
            assert_eq!(told.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8", "{named:?}");
            let body = told.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(body, "service moon is not known\n", "{named:?}");
        }
    }
}
