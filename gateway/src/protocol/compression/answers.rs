//! Compression of REST answers, as `accept-encoding` asks.
//!
//! Lives here: which answers are worth it, whole bodies, bodies that stream. Does not: the encodings (`compression`), RPC messages (`rpc`).
//! A stream is flushed with each frame, so that a message arrives when it is made. An answer with a strong ETag is sent as it is: that tag names its very
//! bytes (RFC 9110, 8.8.1), and a client may send it back to change what it names. Where the tag is ours (`edge::cache`) each coding has one of its own.

use std::{
    io::{self, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use weft_traffic::{Body, BodyError};

use crate::edge::cache::OwnTag;

use super::{BR_QUALITY, BR_WINDOW, Encoding, GZIP_LEVEL};

/// Bodies from here on are compressed: what is shorter fits one packet as it is.
const WORTH: u64 = 1024;

/// Returns the answer as a client that accepts `accepted` may have it.
pub(crate) async fn answer(accepted: Option<&str>, mut response: Response<Body>) -> Response<Body> {
    let length = response.body().size_hint().exact();
    if !is_compressible(response.headers()) || length.is_some_and(|length| length < WORTH) {
        return response;
    }
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    match accepted.filter(|_| may_be(&response)) {
        None => response,
        Some(accepted) if length.is_some() => whole(accepted, response).await,
        Some(accepted) => stream(accepted, response),
    }
}

/// Text of any kind; pictures, archives and unknown bytes are compressed already, or may be.
fn is_compressible(headers: &HeaderMap) -> bool {
    let Some(content_type) = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    essence.starts_with("text/")
        || essence.ends_with("json")
        || essence.ends_with("xml")
        || ["application/javascript", "application/yaml", "application/openapi+yaml"].contains(&essence)
}

fn may_be(response: &Response<Body>) -> bool {
    let (status, headers) = (response.status(), response.headers());
    let own = response.extensions().get::<OwnTag>().is_some();
    let names_bytes = !own && headers.get(header::ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/"));
    let as_it_is = headers
        .get_all(header::CACHE_CONTROL)
        .iter()
        .any(|it| it.as_bytes().windows(12).any(|it| it == b"no-transform"));
    let partial = [StatusCode::NO_CONTENT, StatusCode::PARTIAL_CONTENT, StatusCode::NOT_MODIFIED].contains(&status);
    !partial && !names_bytes && !as_it_is && !headers.contains_key(header::CONTENT_ENCODING)
}

async fn whole(accepted: &str, response: Response<Body>) -> Response<Body> {
    let Some(encoding) = Encoding::preferred(accepted) else { return response };
    let (mut head, body) = response.into_parts();
    let body = match body.collect().await {
        Ok(all) => Body::full(encoding.compress(&all.to_bytes())),
        Err(error) => {
            let (sender, body) = Body::channel(1);
            sender.fail(error);
            body
        }
    };
    if head.extensions.get::<OwnTag>().is_some()
        && let Some(tag) = head.headers.get(header::ETAG).and_then(|tag| OwnTag::coded(tag, encoding.name()))
    {
        head.headers.insert(header::ETAG, tag);
    }
    encoded(&mut head.headers, encoding);
    Response::from_parts(head, body)
}

fn stream(accepted: &str, response: Response<Body>) -> Response<Body> {
    // zstd as we have it ends a frame to flush, which not every client reads on after.
    let streams: Vec<_> = accepted.split(',').filter(|it| !it.trim_start().starts_with("zstd")).collect();
    let encoder = match Encoding::preferred(&streams.join(",")) {
        Some(Encoding::Gzip) => Encoder::gzip(),
        Some(Encoding::Br) => Encoder::br(),
        Some(Encoding::Zstd) | None => return response,
    };
    let (mut head, body) = response.into_parts();
    encoded(&mut head.headers, encoder.encoding());
    Response::from_parts(head, Body::boxed(Compressed { body, encoder: Some(encoder), trailers: None }))
}

fn encoded(headers: &mut HeaderMap, encoding: Encoding) {
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
}

/// A body that is compressed while it is made.
struct Compressed {
    body: Body,
    /// None once the body has ended.
    encoder: Option<Encoder>,
    /// What comes behind it.
    trailers: Option<HeaderMap>,
}

/// A compressor that hands out what it has so far.
enum Encoder {
    Gzip(Box<flate2::write::GzEncoder<Vec<u8>>>),
    Br(Box<brotli::CompressorWriter<Vec<u8>>>),
}

impl Encoder {
    fn gzip() -> Self {
        Self::Gzip(Box::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(GZIP_LEVEL))))
    }

    fn br() -> Self {
        Self::Br(Box::new(brotli::CompressorWriter::new(Vec::new(), 4096, BR_QUALITY, BR_WINDOW)))
    }

    fn encoding(&self) -> Encoding {
        match self {
            Self::Gzip(_) => Encoding::Gzip,
            Self::Br(_) => Encoding::Br,
        }
    }

    /// Takes a frame; returns bytes that a reader can make all of it of.
    fn feed(&mut self, data: &[u8]) -> io::Result<Bytes> {
        match self {
            Self::Gzip(out) => {
                out.write_all(data)?;
                out.flush()?;
                Ok(std::mem::take(out.get_mut()).into())
            }
            Self::Br(out) => {
                out.write_all(data)?;
                out.flush()?;
                Ok(std::mem::take(out.get_mut()).into())
            }
        }
    }

    fn finish(self) -> io::Result<Bytes> {
        match self {
            Self::Gzip(out) => out.finish().map(Bytes::from),
            Self::Br(out) => Ok(out.into_inner().into()),
        }
    }
}

impl Compressed {
    fn finish(&mut self) -> io::Result<Bytes> {
        self.encoder.take().map_or_else(|| Ok(Bytes::new()), Encoder::finish)
    }
}

impl http_body::Body for Compressed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if self.encoder.is_none() {
                return Poll::Ready(self.trailers.take().map(|it| Ok(Frame::trailers(it))));
            }
            let made = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match (frame.into_data(), &mut self.encoder) {
                    (Ok(data), Some(encoder)) => encoder.feed(&data),
                    (Ok(_), None) => continue,
                    (Err(frame), _) => {
                        self.trailers = frame.into_trailers().ok();
                        self.finish()
                    }
                },
                Some(Err(error)) => {
                    self.encoder = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => self.finish(),
            };
            let made = made.expect("writing to memory does not fail");
            if !made.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(made))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.encoder.is_none() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(content_type: &'static str, headers: &[(&'static str, &'static str)], body: Body) -> Response<Body> {
        let mut response = Response::new(body);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        for (name, value) in headers {
            response.headers_mut().insert(*name, HeaderValue::from_static(value));
        }
        response
    }

    async fn encoding(accepted: Option<&str>, response: Response<Body>) -> Option<String> {
        let answer = answer(accepted, response).await;
        answer.headers().get(header::CONTENT_ENCODING).map(|it| it.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn long_text_is_compressed_and_what_may_not_be_is_not() {
        let long = || Body::full(vec![b'a'; 5000]);
        let json = |headers| made("application/json", headers, long());
        assert_eq!(encoding(Some("zstd, gzip"), json(&[])).await.as_deref(), Some("zstd"));
        assert_eq!(
            encoding(Some("gzip;q=0.1"), made("text/html; charset=utf-8", &[], long())).await.as_deref(),
            Some("gzip")
        );
        assert_eq!(encoding(None, json(&[])).await, None);
        assert_eq!(encoding(Some("gzip"), made("image/png", &[], long())).await, None);
        assert_eq!(encoding(Some("gzip"), made("application/json", &[], Body::full("{}"))).await, None);
        assert_eq!(encoding(Some("gzip"), json(&[("etag", "\"1\"")])).await, None);
        assert_eq!(encoding(Some("gzip"), json(&[("etag", "W/\"1\"")])).await.as_deref(), Some("gzip"));
        assert_eq!(encoding(Some("gzip"), json(&[("cache-control", "public, no-transform")])).await, None);
        assert_eq!(encoding(Some("gzip"), json(&[("content-encoding", "br")])).await.as_deref(), Some("br"));
        let vary = answer(None, json(&[])).await;
        assert_eq!(vary.headers()[header::VARY], "accept-encoding", "a cache must know, whoever asked first");
    }

    #[tokio::test]
    async fn each_frame_of_a_stream_can_be_read_when_it_arrives() {
        for accepted in ["zstd, gzip", "br"] {
            let (mut sender, body) = Body::channel(1);
            let answer = answer(Some(accepted), made("text/event-stream", &[], body)).await;
            let mut body = answer.into_body();
            let mut read = Vec::new();
            for text in ["data: 1\n\n", "data: 2\n\n"] {
                sender.data(Bytes::from_static(text.as_bytes())).await.unwrap();
                read.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
                let so_far = so_far(accepted, &read);
                assert!(so_far.ends_with(text), "{so_far:?}");
            }
            sender.trailers(HeaderMap::from_iter([(header::TE, HeaderValue::from_static("1"))])).await.unwrap();
            read.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
            assert!(body.frame().await.unwrap().unwrap().is_trailers(), "they come behind the last byte");
            assert!(body.frame().await.is_none());
            let encoding = Encoding::preferred(accepted.trim_start_matches("zstd, ")).unwrap();
            assert_eq!(encoding.decompress(&read, 100).unwrap(), "data: 1\n\ndata: 2\n\n");
        }
    }

    /// What a reader has of a body that is not over.
    fn so_far(accepted: &str, bytes: &[u8]) -> String {
        use std::io::Read;
        let mut text = Vec::new();
        let cut = match accepted {
            "br" => brotli::Decompressor::new(bytes, 4096).read_to_end(&mut text),
            _ => flate2::read::GzDecoder::new(bytes).read_to_end(&mut text),
        };
        assert!(cut.is_err(), "it is not over");
        String::from_utf8(text).unwrap()
    }
}
