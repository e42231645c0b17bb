//! Connect's streams: messages in envelopes both ways, the last of an answer its end.
//!
//! Lives here: heads and the last envelope. Does not: envelopes and messages (`rpc`).
//! Source: the Connect protocol, "Streaming-Request", "Streaming-Response", "Error and EndStreamResponse".

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use weft_traffic::Body;
use weft_transcode::{Codec, Status, schema::Method};

use super::{Exchange, encoding, intake, reply_encoding};
use crate::{
    edge::call::Outcome,
    protocol::{
        compression,
        frames::frame_with,
        rest::metadata::is_own,
        rpc::{
            self, Format, Messages,
            answers::{Answers, Ending},
        },
    },
};

const ENCODING: HeaderName = HeaderName::from_static("connect-content-encoding");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("connect-accept-encoding");

/// Flag of the envelope that ends an answer.
const END: u8 = 2;

/// Answers a call of a stream: always 200, what went wrong is in the last envelope.
pub(super) async fn answer(exchange: Exchange<'_>, body: Body, messages: Messages, outcome: Outcome) -> Response<Body> {
    match run(&exchange, body, &messages, &outcome).await {
        Ok(response) => response,
        Err(status) => failed(&messages, &status, HeaderMap::new(), &outcome),
    }
}

/// Returns the answer of a call that failed before upstream answered.
pub(super) fn failed(messages: &Messages, status: &Status, headers: HeaderMap, outcome: &Outcome) -> Response<Body> {
    let mut response = Response::new(Answers::failed(status, &EndOfStream::of(messages), outcome));
    *response.headers_mut() = headers;
    head(messages.format, response.headers_mut());
    response
}

fn head(format: Format, headers: &mut HeaderMap) {
    let content_type = match format {
        Format::Proto => "application/connect+proto",
        Format::Json => "application/connect+json",
    };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(compression::NAMES));
}

async fn run(
    exchange: &Exchange<'_>,
    body: Body,
    messages: &Messages,
    outcome: &Outcome,
) -> Result<Response<Body>, Status> {
    let request = &exchange.head.headers;
    let used = encoding(request, &ENCODING)?;
    let answered = exchange.run(body, intake(exchange, messages, used)).await?;
    let encoding = reply_encoding(request, &ACCEPT_ENCODING, used);
    let mut headers = HeaderMap::new();
    rpc::own_metadata(&answered.head, &mut headers);
    if let Some(encoding) = encoding {
        headers.insert(ENCODING, HeaderValue::from_static(encoding.name()));
    }
    head(messages.format, &mut headers);
    let ending = EndOfStream::of(messages);
    let mut response = Response::new(Answers::body(answered, messages.clone(), encoding, ending, outcome.clone()));
    *response.headers_mut() = headers;
    Ok(response)
}

/// A stream ends with its error, if it has one, and its trailers, as JSON.
struct EndOfStream {
    codec: Codec,
    method: Option<Arc<Method>>,
}

impl EndOfStream {
    fn of(messages: &Messages) -> Self {
        Self { codec: messages.codec.clone(), method: messages.method.clone() }
    }
}

impl Ending for EndOfStream {
    fn last(&self, status: &Status, trailers: &HeaderMap) -> Bytes {
        let own = trailers.keys().filter(|name| is_own(name)).map(|name| {
            let values =
                trailers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
            (name.as_str(), values.collect())
        });
        frame_with(END, &self.codec.encode_connect_end(status, own, self.method.as_deref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_envelope_says_how_it_ended_and_what_came_after() {
        let ending = EndOfStream { codec: Codec::default(), method: None };
        let trailers = [("grpc-status", "0"), ("cost", "3"), ("cost", "4"), ("weft-http-status", "201")];
        let trailers: HeaderMap = trailers
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let last = ending.last(&Status::new(0, ""), &trailers);
        assert_eq!((last[0], &last[5..]), (2, &br#"{"metadata":{"cost":["3","4"]}}"#[..]));
        let last = ending.last(&Status::new(8, "full"), &HeaderMap::new());
        assert_eq!(&last[5..], br#"{"error":{"code":"resource_exhausted","message":"full"}}"#);
    }
}
