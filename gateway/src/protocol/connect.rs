//! Connect: unary calls as plain HTTP with protobuf or JSON, reads also by GET, streams in envelopes.
//!
//! Lives here: telling Connect from REST, content types, heads, the steps common to both shapes. Does not: unary calls (`connect::unary`), streams
//! (`connect::stream`), messages and calling (`rpc`), JSON (`weft_transcode`).
//! A JSON call by its gRPC path that does not say `connect-protocol-version` is REST, whose answers are the same but for errors.
//! Source: connectrpc.com/docs/protocol.

mod query;
mod stream;
mod unary;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request};
use weft_traffic::Body;
use weft_transcode::{Status, schema::Idempotency, status::JSON};

use crate::{
    edge::call::{Call, Outcome},
    protocol::{
        Shard,
        codes::UNKNOWN,
        compression::{Encoding, UnknownEncoding},
        own,
        rpc::{self, Exchange, Format, INVALID_ARGUMENT, Messages, UNIMPLEMENTED, requests::Intake},
    },
    routes::{Rpc, Table},
};

const VERSION: HeaderName = HeaderName::from_static("connect-protocol-version");
const TIMEOUT: HeaderName = HeaderName::from_static("connect-timeout-ms");
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const STREAM: &str = "application/connect+";

/// Whether a request is Connect's, and not REST's.
pub(crate) fn speaks<B>(request: &Request<B>, table: Option<&Table>) -> bool {
    let headers = request.headers();
    // What the gateway answers itself has no REST, but browsers ask about it as about everything.
    if headers.contains_key(VERSION) || (own::is_own(request.uri().path()) && request.method() != Method::OPTIONS) {
        return true;
    }
    let media_type = rpc::media_type(headers);
    if media_type.get(..STREAM.len()).is_some_and(|start| start.eq_ignore_ascii_case(STREAM)) {
        return true;
    }
    // Neither says Connect by itself: an upload may be protobuf, and a query may have any names.
    let looks = media_type.eq_ignore_ascii_case("application/proto")
        || (request.method() == Method::GET && request.uri().query().is_some_and(query::is_call));
    looks && table.is_some_and(|table| table.has_method(request.uri().path()))
}

/// The shape of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// One message each way, bare.
    Unary,
    /// The same, its message in the query.
    Get,
    /// Messages in envelopes.
    Stream,
}

/// A request that cannot be the call of a method: an answer in HTTP's own words, and an error for who reads it.
struct Refused {
    http: StatusCode,
    status: Status,
    headers: HeaderMap,
}

impl Refused {
    fn media_type(streams: bool, sent: &str) -> Self {
        let taken = match streams {
            true => "application/connect+proto, application/connect+json",
            false => "application/proto, application/json",
        };
        Self {
            http: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            status: Status::new(UNKNOWN, format!("content type {sent:?} is not served here; send one of {taken}")),
            headers: HeaderMap::from_iter([(ACCEPT_POST, HeaderValue::from_static(taken))]),
        }
    }

    fn method(allow: &'static str) -> Self {
        Self {
            http: StatusCode::METHOD_NOT_ALLOWED,
            status: Status::new(UNKNOWN, format!("the method is called by {allow} only")),
            headers: HeaderMap::from_iter([(header::ALLOW, HeaderValue::from_static(allow))]),
        }
    }

    /// A unary call that failed before it began.
    fn failed(status: Status, headers: HeaderMap) -> Self {
        let http = StatusCode::from_u16(status.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { http, status, headers }
    }

    fn unknown_path(status: Status) -> Self {
        // What clients of any protocol take for "no such method" (the protocol's table "HTTP to Error Code").
        let http = if status.code == UNIMPLEMENTED { StatusCode::NOT_FOUND } else { StatusCode::SERVICE_UNAVAILABLE };
        Self { http, status, headers: HeaderMap::new() }
    }
}

/// Answers a Connect call.
pub(crate) async fn answer(shard: &Shard, request: Request<Body>, call: &mut Call) -> Response<Body> {
    let outcome = call.ends_by_outcome();
    let (mut head, body) = request.into_parts();
    let Matched { rpc, shape, format, admitted } = match matched(shard, &mut head, call).await {
        Ok(matched) => matched,
        Err(refused) => return refusal(shard, refused, &outcome),
    };
    let method = rpc.plan.as_ref().map(|plan| plan.method().clone());
    let limits = rpc::limits_of_size(&rpc);
    let codec = rpc::codec(shard, &rpc, call);
    let messages = Messages { codec, format, method, limits };
    let (admitted, timeout) = match admitted.and_then(|it| Ok((it, timeout(&head.headers)?))) {
        Ok(both) => both,
        Err(rpc::Refused { status, headers }) => {
            return match shape {
                Shape::Stream => stream::failed(&messages, &status, *headers, &outcome),
                Shape::Unary | Shape::Get => refusal(shard, Refused::failed(status, *headers), &outcome),
            };
        }
    };
    let exchange = Exchange { shard, head: &head, call, rpc: &rpc, timeout };
    match shape {
        Shape::Stream => stream::answer(exchange, body, messages, outcome).await,
        Shape::Unary => unary::answer(exchange, Some(body), messages, outcome).await,
        Shape::Get => unary::answer_to_get(exchange, messages, outcome, admitted).await,
    }
}

/// A request that is the call of a method.
struct Matched {
    rpc: Rpc,
    shape: Shape,
    format: Format,
    /// What the edge said, to be told in the shape of the call.
    admitted: Result<rpc::Admitted, rpc::Refused>,
}

async fn matched(shard: &Shard, head: &mut request::Parts, call: &mut Call) -> Result<Matched, Refused> {
    let rpc = rpc::route(shard, head, call).map_err(Refused::unknown_path)?;
    let admitted = rpc::admit(&rpc, head, call).await;
    let Some(plan) = &rpc.plan else {
        let what = format!("no method at {} is described here", head.uri.path());
        return Err(Refused::unknown_path(Status::new(UNIMPLEMENTED, what)));
    };
    if let Some(meters) = &rpc.meters {
        call.meter = meters.connect().clone();
    }
    let streaming = plan.method().streaming();
    let streams = streaming.client() || streaming.server();
    let reads = !streams && plan.method().idempotency() == Idempotency::NoSideEffects;
    let (shape, format) = match head.method {
        Method::GET if reads => {
            let format = query::format(head.uri.query().unwrap_or_default());
            (Shape::Get, format.map_err(|named| Refused::media_type(false, &named))?)
        }
        Method::POST => {
            let sent = rpc::content_type(&head.headers);
            let (shape, subtype) = match sent.strip_prefix(STREAM) {
                Some(subtype) => (Shape::Stream, subtype),
                None => (Shape::Unary, sent.strip_prefix("application/").unwrap_or_default()),
            };
            let format = match subtype {
                "proto" => Some(Format::Proto),
                "json" => Some(Format::Json),
                _ => None,
            };
            let format = format.filter(|_| streams == (shape == Shape::Stream));
            (shape, format.ok_or_else(|| Refused::media_type(streams, &sent))?)
        }
        _ if reads => return Err(Refused::method("GET, POST")),
        _ => return Err(Refused::method("POST")),
    };
    Ok(Matched {
        rpc,
        shape,
        format,
        admitted: admitted.and_then(|it| version(&head.headers).map(|()| it).map_err(Into::into)),
    })
}

fn version(headers: &HeaderMap) -> Result<(), Status> {
    match headers.get(VERSION) {
        Some(version) if version != "1" => {
            Err(Status::new(INVALID_ARGUMENT, format!("{VERSION}: only version 1 is spoken here")))
        }
        _ => Ok(()),
    }
}

/// Reads `connect-timeout-ms`: up to ten digits.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT) else { return Ok(None) };
    let digits = value.as_bytes();
    let millis = match (1..=10).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) {
        true => value.to_str().ok().and_then(|digits| digits.parse().ok()),
        false => None,
    };
    match millis {
        Some(millis) => Ok(Some(Duration::from_millis(millis))),
        None => Err(Status::new(INVALID_ARGUMENT, format!("{TIMEOUT}: expected milliseconds in one to ten digits"))),
    }
}

/// Reads the name of a compression out of a header.
fn encoding(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Encoding>, Status> {
    Encoding::named(rpc::text(headers, name)).map_err(unknown_encoding)
}

fn unknown_encoding(unknown: UnknownEncoding) -> Status {
    Status::new(UNIMPLEMENTED, unknown.to_string())
}

/// Returns what replies may be compressed by: the client's choice, or what it used itself.
fn reply_encoding(headers: &HeaderMap, name: &HeaderName, sent: Option<Encoding>) -> Option<Encoding> {
    match rpc::list(headers, name) {
        Some(accepted) => Encoding::preferred(&accepted),
        None => sent,
    }
}

fn intake(exchange: &Exchange<'_>, messages: &Messages, encoding: Option<Encoding>) -> Intake {
    Intake { messages: messages.clone(), encoding, limit: rpc::limit(exchange.shard, exchange.rpc, exchange.call) }
}

fn refusal(shard: &Shard, refused: Refused, outcome: &Outcome) -> Response<Body> {
    let Refused { http, status, headers } = refused;
    outcome.is(status.code);
    let mut response = Response::new(Body::full(shard.shared.codec.encode_connect_error(&status, None)));
    *response.status_mut() = http;
    *response.headers_mut() = headers;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_milliseconds_in_at_most_ten_digits() {
        let read = |value: &'static str| timeout(&HeaderMap::from_iter([(TIMEOUT, HeaderValue::from_static(value))]));
        assert_eq!(read("250").unwrap(), Some(Duration::from_millis(250)));
        assert_eq!(read("9999999999").unwrap(), Some(Duration::from_millis(9_999_999_999)));
        assert_eq!(timeout(&HeaderMap::new()).unwrap(), None);
        for wrong in ["", "-1", "+1", "1.5", "1s", "12345678901"] {
            assert_eq!(read(wrong).unwrap_err().code, INVALID_ARGUMENT, "{wrong:?}");
        }
    }

    #[test]
    fn what_says_connect_is_connect_and_what_only_looks_like_it_needs_a_method() {
        let speaks = |method: &str, uri: &str, headers: &[(&str, &str)]| {
            let mut request = Request::builder().method(method).uri(uri);
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            speaks(&request.body(()).unwrap(), None)
        };
        assert!(speaks("POST", "/a.B/C", &[("connect-protocol-version", "1"), ("content-type", "application/json")]));
        assert!(speaks("POST", "/a.B/C", &[("content-type", "application/connect+json")]));
        assert!(!speaks("POST", "/a.B/C", &[("content-type", "application/json")]));
        assert!(speaks("POST", "/grpc.health.v1.Health/Check", &[("content-type", "application/json")]));
        assert!(
            !speaks("OPTIONS", "/grpc.health.v1.Health/Check", &[("origin", "https://app.example")]),
            "a preflight"
        );
        assert!(!speaks("POST", "/upload", &[("content-type", "application/proto")]));
        assert!(!speaks("GET", "/v1/things?connect=v1", &[]));
    }
}
