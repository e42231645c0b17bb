//! gRPC-Web: gRPC for clients that see no trailers, browsers above all, over HTTP/1.1 and HTTP/2; binary, or as base64 text.
//!
//! Lives here: content types, heads, the frame of trailers. Does not: base64 of streams (`grpc_web::text`), messages and calling (`rpc`), CORS.
//! Source: grpc/doc/PROTOCOL-WEB.md; differs: an answer without messages has its status in the body, too, where browsers see it whatever CORS allows.

mod text;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header, request};
use weft_traffic::{Body, Code, caller_timeout};
use weft_transcode::Status;

use crate::{
    edge::call::Call,
    protocol::{
        Shard,
        compression::{self, Encoding},
        frames::frame_with,
        rest::metadata::is_own,
        rpc::{
            self, Answered, Exchange, Format, INVALID_ARGUMENT, Messages, Refused, UNIMPLEMENTED,
            answers::{Answers, Ending},
            requests::Intake,
        },
    },
    routes::Rpc,
};
use bytes::Bytes;

const BINARY: &str = "application/grpc-web";
const TEXT: &str = "application/grpc-web-text";
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const ACCEPT_POST: HeaderName = HeaderName::from_static("accept-post");
const CONTENT_TYPES: &str = "application/grpc-web, application/grpc-web+proto, application/grpc-web+json, application/grpc-web-text, \
    application/grpc-web-text+proto, application/grpc-web-text+json";
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";
const GRPC_DETAILS: &str = "grpc-status-details-bin";

/// Flag of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;

/// Whether the content type is one of gRPC-Web's.
pub(crate) fn speaks(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(BINARY.as_bytes()))
}

/// How a client writes, and wants to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spoken {
    format: Format,
    suffix: &'static str,
    writes: Carriage,
    reads: Carriage,
}

/// How frames lie in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carriage {
    Binary,
    /// Base64.
    Text,
}

impl Spoken {
    fn of(headers: &HeaderMap) -> Option<Self> {
        let content_type = rpc::content_type(headers);
        let (writes, suffix) = match content_type.strip_prefix(TEXT) {
            Some(suffix) => (Carriage::Text, suffix),
            None => (Carriage::Binary, content_type.strip_prefix(BINARY)?),
        };
        let (format, suffix) = match suffix {
            "" => (Format::Proto, ""),
            "+proto" => (Format::Proto, "+proto"),
            "+json" => (Format::Json, "+json"),
            _ => return None,
        };
        let accept = rpc::text(headers, &header::ACCEPT);
        let reads = match () {
            () if accept.contains(TEXT) => Carriage::Text,
            () if accept.contains(BINARY) => Carriage::Binary,
            () => writes,
        };
        Some(Self { format, suffix, writes, reads })
    }

    fn content_type(self) -> HeaderValue {
        let base = if self.reads == Carriage::Text { TEXT } else { BINARY };
        rpc::value(&format!("{base}{}", self.suffix))
    }
}

/// Answers a gRPC-Web call.
pub(crate) async fn answer(shard: &Shard, request: Request<Body>, call: &mut Call) -> Response<Body> {
    let outcome = call.ends_by_outcome();
    let (mut head, body) = request.into_parts();
    let routed = enter(shard, &mut head, call).await;
    let Some(spoken) = Spoken::of(&head.headers) else {
        outcome.is(UNIMPLEMENTED);
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, ACCEPT_POST, CONTENT_TYPES);
    };
    if head.method != Method::POST {
        outcome.is(UNIMPLEMENTED);
        return refused(StatusCode::METHOD_NOT_ALLOWED, header::ALLOW, "POST");
    }
    let ending = Trailers { reads: spoken.reads };
    let mut response = match run(shard, &head, body, call, spoken, routed).await {
        Ok((answered, messages, encoding)) => {
            let mut headers = HeaderMap::new();
            rpc::own_metadata(&answered.head, &mut headers);
            if let Some(encoding) = encoding {
                headers.insert(ENCODING, HeaderValue::from_static(encoding.name()));
            }
            let mut response = Response::new(Answers::body(answered, messages, encoding, ending, outcome));
            *response.headers_mut() = headers;
            response
        }
        Err(Refused { status, headers }) => {
            let mut response = Response::new(Answers::failed(&status, &ending, &outcome));
            *response.headers_mut() = *headers;
            response
        }
    };
    response.headers_mut().insert(header::CONTENT_TYPE, spoken.content_type());
    response.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static(compression::NAMES));
    response
}

/// Finds the method and asks the edge.
async fn enter(shard: &Shard, head: &mut request::Parts, call: &mut Call) -> Result<Rpc, Refused> {
    let rpc = rpc::route(shard, head, call)?;
    if let Some(meters) = &rpc.meters {
        call.meter = meters.grpc_web().clone();
    }
    rpc::admit(&rpc, head, call).await?;
    Ok(rpc)
}

async fn run(
    shard: &Shard,
    head: &request::Parts,
    body: Body,
    call: &Call,
    spoken: Spoken,
    routed: Result<Rpc, Refused>,
) -> Result<(Answered, Messages, Option<Encoding>), Refused> {
    let rpc = routed?;
    let timeout = caller_timeout(&head.headers).map_err(|error| Status::new(INVALID_ARGUMENT, error.to_string()))?;
    let encoding = Encoding::named(rpc::text(&head.headers, &ENCODING))
        .map_err(|unknown| Status::new(UNIMPLEMENTED, unknown.to_string()))?;
    let method = rpc.plan.as_ref().map(|plan| plan.method().clone());
    let limits = rpc::limits_of_size(&rpc);
    let codec = rpc::codec(shard, &rpc, call);
    let messages = Messages { codec, format: spoken.format, method, limits };
    let intake = Intake { messages: messages.clone(), encoding, limit: rpc::limit(shard, &rpc, call) };
    let body = match spoken.writes {
        Carriage::Binary => body,
        Carriage::Text => Body::boxed(text::Decoded::new(body)),
    };
    let exchange = Exchange { shard, head, call, rpc: &rpc, timeout };
    let answered = exchange.run(body, intake).await?;
    let replies = rpc::list(&head.headers, &ACCEPT_ENCODING).and_then(|accepted| Encoding::preferred(&accepted));
    Ok((answered, messages, replies))
}

/// An answer in HTTP's own words: the request is no gRPC-Web call.
fn refused(status: StatusCode, name: HeaderName, allowed: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert(name, HeaderValue::from_static(allowed));
    response
}

/// A call ends with its trailers in a frame.
struct Trailers {
    reads: Carriage,
}

impl Ending for Trailers {
    fn last(&self, status: &Status, trailers: &HeaderMap) -> Bytes {
        let mut block = Vec::new();
        let mut line = |name: &str, value: &[u8]| {
            block.extend_from_slice(name.as_bytes());
            block.extend_from_slice(b": ");
            block.extend_from_slice(value);
            block.extend_from_slice(b"\r\n");
        };
        let code = trailers.get(GRPC_STATUS).and_then(|code| code.to_str().ok()?.parse().ok());
        let upstreams = code == Some(status.code);
        if !upstreams {
            let mut own = HeaderMap::new();
            let code = u32::try_from(status.code).map_or(Code::Unknown, Code::from_number);
            code.write(&status.message, &mut own);
            own.iter().for_each(|(name, value)| line(name.as_str(), value.as_bytes()));
        }
        for (name, value) in trailers {
            let says_how = [GRPC_STATUS, GRPC_MESSAGE, GRPC_DETAILS].contains(&name.as_str());
            if (says_how && upstreams) || (!says_how && (is_own(name) || name.as_str().starts_with("grpc-"))) {
                line(name.as_str(), value.as_bytes());
            }
        }
        frame_with(TRAILERS, &block)
    }

    fn carried(&self, frame: Bytes) -> Bytes {
        match self.reads {
            Carriage::Binary => frame,
            Carriage::Text => text::encoded(&frame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spoken(pairs: &[(HeaderName, &'static str)]) -> Option<Spoken> {
        Spoken::of(&pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value))).collect())
    }

    #[test]
    fn the_content_type_says_how_a_client_writes_and_accept_how_it_reads() {
        let binary = |suffix, format| Spoken { format, suffix, writes: Carriage::Binary, reads: Carriage::Binary };
        let sent = |content_type| spoken(&[(header::CONTENT_TYPE, content_type)]);
        assert_eq!(sent("application/grpc-web"), Some(binary("", Format::Proto)));
        assert_eq!(sent("application/grpc-web+proto; charset=utf-8"), Some(binary("+proto", Format::Proto)));
        assert_eq!(sent("application/grpc-web+json"), Some(binary("+json", Format::Json)));
        assert_eq!(sent("application/grpc-web+thrift"), None);
        assert_eq!(sent("application/grpc-webby"), None);
        let text = sent("application/grpc-web-text").unwrap();
        assert_eq!((text.writes, text.reads), (Carriage::Text, Carriage::Text));
        assert_eq!(text.content_type(), "application/grpc-web-text");
        let mixed =
            [(header::CONTENT_TYPE, "application/grpc-web-text+proto"), (header::ACCEPT, "application/grpc-web+proto")];
        let mixed = spoken(&mixed).unwrap();
        assert_eq!((mixed.writes, mixed.reads), (Carriage::Text, Carriage::Binary));
        assert_eq!(mixed.content_type(), "application/grpc-web+proto");
    }

    fn last(status: &Status, trailers: &[(&'static str, &'static str)]) -> String {
        let trailers =
            trailers.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        let frame = Trailers { reads: Carriage::Binary }.last(status, &trailers.collect());
        assert_eq!((frame[0], u32::from_be_bytes(frame[1..5].try_into().unwrap()) as usize), (0x80, frame.len() - 5));
        String::from_utf8(frame[5..].to_vec()).unwrap()
    }

    #[test]
    fn trailers_are_upstreams_own_unless_the_call_failed_here() {
        let upstreams = [
            ("grpc-status", "5"),
            ("grpc-message", "no %C3%A4"),
            ("grpc-status-details-bin", "AA"),
            ("cost", "3"),
            ("content-type", "application/grpc"),
        ];
        let same = last(&Status::new(5, "no ä"), &upstreams);
        assert_eq!(same, "grpc-status: 5\r\ngrpc-message: no %C3%A4\r\ngrpc-status-details-bin: AA\r\ncost: 3\r\n");
        assert_eq!(
            last(&Status::new(13, "ä\n"), &upstreams),
            "grpc-status: 13\r\ngrpc-message: %C3%A4%0A\r\ncost: 3\r\n"
        );
        assert_eq!(last(&Status::new(0, ""), &[("grpc-status", "0")]), "grpc-status: 0\r\n");
    }
}
