//! Compression over REST: requests as their `content-encoding` says, answers as `accept-encoding` asks.

use std::io::{Read, Write};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::{send, send_bytes, start, start_with};

const UNARY: &str = "/weft.testkit.v1.Echo/Unary";
const SERVER_STREAM: &str = "/weft.testkit.v1.Echo/ServerStream";
const CLIENT_STREAM: &str = "/weft.testkit.v1.Echo/ClientStream";
const JSON: (&str, &str) = ("content-type", "application/json");

fn gzip(bytes: &[u8]) -> Bytes {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap().into()
}

fn opened(mut reader: impl Read) -> Value {
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    serde_json::from_slice(&all).unwrap()
}

#[tokio::test]
async fn answers_are_compressed_as_the_client_accepts() {
    let gateway = start().await;
    let long = format!(r#"{{"text": "{}"}}"#, "a".repeat(5000));
    for accepted in ["gzip", "br", "zstd"] {
        let headers = [JSON, ("accept-encoding", accepted)];
        let (_, headers, body) = send_bytes(gateway.addr, "POST", UNARY, &headers, long.clone().into()).await;
        assert_eq!(
            (&headers["content-encoding"], headers["vary"].to_str().unwrap()),
            (&accepted.parse().unwrap(), "accept-encoding")
        );
        assert!(body.len() < 1000, "{accepted}: {}", body.len());
        assert_eq!(headers["content-length"], body.len().to_string());
        let answer = match accepted {
            "gzip" => opened(flate2::read::GzDecoder::new(&body[..])),
            "br" => opened(brotli::Decompressor::new(&body[..], 4096)),
            _ => opened(ruzstd::decoding::StreamingDecoder::new(&body[..]).unwrap()),
        };
        assert_eq!(answer["text"].as_str().unwrap().len(), 5000);
    }
    let plain = send(gateway.addr, "POST", UNARY, &[JSON], &long).await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let headers = [JSON, ("accept-encoding", "gzip")];
    let (_, headers, body) =
        send_bytes(gateway.addr, "POST", SERVER_STREAM, &headers, r#"{"text": "a", "count": 3}"#.into()).await;
    assert_eq!(headers["content-encoding"], "gzip");
    assert_eq!(opened(flate2::read::GzDecoder::new(&body[..])).as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn requests_are_read_as_their_encoding_says_and_never_larger_than_the_limit() {
    let gateway = start_with(|config| config.limits.max_request_bytes = 1000).await;
    let ask = async |path: &str, encoding: &str, body: Bytes| {
        let (status, _, body) =
            send_bytes(gateway.addr, "POST", path, &[JSON, ("content-encoding", encoding)], body).await;
        (status.as_u16(), serde_json::from_slice::<Value>(&body).unwrap())
    };
    let (status, answer) = ask(UNARY, "gzip", gzip(br#"{"text": "a"}"#)).await;
    assert_eq!((status, &answer["text"]), (200, &json!("a")));
    let (status, answer) = ask(CLIENT_STREAM, "gzip", gzip(br#"[{"text": "a"}, {"text": "b"}]"#)).await;
    assert_eq!((status, &answer["text"]), (200, &json!("a,b")), "{answer}");
    let bomb = gzip(format!(r#"{{"text": "{}"}}"#, "a".repeat(20_000)).as_bytes());
    assert!(bomb.len() < 1000);
    assert_eq!(ask(UNARY, "gzip", bomb).await.0, 413);
    assert_eq!(ask(UNARY, "gzip", Bytes::from_static(b"{}")).await.0, 400);
    let (status, answer) = ask(UNARY, "compress", Bytes::from_static(b"{}")).await;
    assert_eq!((status, &answer["code"]), (415, &json!(3)));
    assert_eq!(ask(UNARY, "identity", Bytes::from_static(b"{}")).await.0, 200);
}
