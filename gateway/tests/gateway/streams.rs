//! Streams over REST: framings, what arrives while it is made, and failures in the middle.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, channel::Channel};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    server::conn::http2::Builder,
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use crate::support::{Running, framed, send, start, start_gateway, start_with};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];
const SERVER_STREAM: &str = "/weft.testkit.v1.Echo/ServerStream";
const CLIENT_STREAM: &str = "/weft.testkit.v1.Echo/ClientStream";
const BIDI: &str = "/weft.testkit.v1.Echo/Bidi";

/// Sends a request and returns the answer's head with its body still open. The connection lives as long as the set.
async fn open<B>(gateway: &Running, path: &str, accept: &str, body: B) -> (Response<Incoming>, JoinSet<()>)
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send>
        + Send
        + Unpin
        + 'static,
{
    let stream = TcpStream::connect(gateway.addr).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(async move { drop(connection.await) });
    let request = Request::post(path).header("host", "a").header("accept", accept).body(body).unwrap();
    let response = timeout(Duration::from_secs(10), sender.send_request(request)).await.unwrap().unwrap();
    (response, driver)
}

async fn next_text(body: &mut Incoming) -> String {
    let frame =
        timeout(Duration::from_secs(10), body.frame()).await.expect("a message in time").expect("a message").unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn replies_are_framed_as_the_client_accepts() {
    let gateway = start().await;
    let ask = |accept: &'static str| {
        let headers = [("content-type", "application/json"), ("accept", accept)];
        let to = gateway.addr;
        async move { send(to, "POST", SERVER_STREAM, &headers, r#"{"text": "a", "count": 2}"#).await }
    };
    let array = ask("*/*").await;
    assert_eq!((array.status.as_u16(), &array.headers["content-type"]), (200, &"application/json".parse().unwrap()));
    assert_eq!(array.json().as_array().unwrap().len(), 2);
    let lines = ask("application/x-ndjson").await;
    assert_eq!(lines.headers["content-type"], "application/x-ndjson");
    let values: Vec<Value> = lines.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((values.len(), &values[1]["text"]), (2, &json!("a")));
    let events = ask("text/event-stream").await;
    assert_eq!(events.headers["content-type"], "text/event-stream");
    assert_eq!(events.body.matches("data: {").count(), 2, "{}", events.body);
    assert!(events.body.starts_with("id: 1\n") && events.body.contains("\n\nid: 2\n"), "{}", events.body);
}

#[tokio::test]
async fn a_reply_arrives_before_the_next_is_made() {
    let gateway = start().await;
    let body = Full::new(Bytes::from_static(br#"{"text": "a", "count": 2, "delayMs": 300}"#));
    let (response, _driver) = open(&gateway, SERVER_STREAM, "application/x-ndjson", body).await;
    let mut body = response.into_body();
    assert_eq!(next_text(&mut body).await.matches('\n').count(), 1);
    assert_eq!(next_text(&mut body).await.matches('\n').count(), 1);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn a_failure_before_the_first_message_is_a_plain_status() {
    let gateway = start().await;
    let failing = send(gateway.addr, "POST", SERVER_STREAM, &JSON, r#"{"count": 1, "failWith": 5}"#).await;
    assert_eq!((failing.status.as_u16(), failing.json()["code"].clone()), (404, json!(5)));
}

#[tokio::test]
async fn a_client_stream_is_an_array_or_lines() {
    let gateway = start().await;
    let array = send(gateway.addr, "POST", CLIENT_STREAM, &JSON, r#"[{"text": "a"}, {"text": "b"}]"#).await;
    assert_eq!((array.status.as_u16(), array.json()["text"].clone()), (200, json!("a,b")), "{array:?}");
    let headers = [("content-type", "application/x-ndjson")];
    let lines = send(gateway.addr, "POST", CLIENT_STREAM, &headers, "{\"text\": \"a\"}\n{\"text\": \"b\"}\n").await;
    assert_eq!(lines.json()["text"], "a,b");
}

#[tokio::test]
async fn a_client_stream_that_turns_out_wrong_is_400_or_413() {
    let gateway = start_with(|config| config.limits.max_request_bytes = 128).await;
    for wrong in [r#"[{"text": "a"},"#, r#"[{"text": "a"}, 7]"#, r#"{"text": "a"}"#] {
        let answer = send(gateway.addr, "POST", CLIENT_STREAM, &JSON, wrong).await;
        assert_eq!((answer.status.as_u16(), answer.json()["code"].clone()), (400, json!(3)), "{wrong}: {answer:?}");
    }
    let long = format!(r#"[{{"text": "{}"}}]"#, "x".repeat(100_000));
    let answer = send(gateway.addr, "POST", CLIENT_STREAM, &JSON, &long).await;
    assert_eq!(answer.status, 413, "{answer:?}");
}

#[tokio::test]
async fn a_bidirectional_call_goes_on_after_the_client_has_said_everything() {
    let gateway = start().await;
    let body = r#"[{"text": "a", "delayMs": 200}, {"text": "b", "delayMs": 100}]"#;
    let answer = send(gateway.addr, "POST", BIDI, &JSON, body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let texts: Vec<_> = answer.json().as_array().unwrap().iter().map(|it| it["text"].clone()).collect();
    assert_eq!(texts, ["a", "b"]);
}

#[tokio::test]
async fn both_sides_of_a_bidirectional_call_stream_at_once() {
    let gateway = start().await;
    let (mut sender, body) = Channel::<Bytes, std::io::Error>::new(1);
    sender.send_data(Bytes::from_static(b"[{\"text\": \"one\"}")).await.unwrap();
    let (response, _driver) = open(&gateway, BIDI, "application/x-ndjson", body).await;
    let mut body = response.into_body();
    assert!(next_text(&mut body).await.contains("one"));
    sender.send_data(Bytes::from_static(b", {\"text\": \"two\"}")).await.unwrap();
    assert!(next_text(&mut body).await.contains("two"));
    sender.send_data(Bytes::from_static(b", 7]")).await.unwrap();
    let error: Value = serde_json::from_str(&next_text(&mut body).await).unwrap();
    assert_eq!(error["error"]["code"], 3, "{error}");
    assert!(body.frame().await.is_none());
}

/// An upstream whose streams are one message and metadata behind it, one name of which it announces.
async fn with_trailers() -> (Running, JoinSet<()>) {
    async fn serve(
        _: Request<Incoming>,
    ) -> Result<Response<impl http_body::Body<Data = Bytes, Error = Infallible>>, Infallible> {
        let trailers = [("grpc-status", "0"), ("total", "3"), ("shard", "7")];
        let trailers = trailers.map(|(name, it)| (HeaderName::from_static(name), HeaderValue::from_static(it)));
        let message = Frame::data(Bytes::from(framed(0, b"\x0a\x01a")));
        let frames = [Ok(message), Ok(Frame::trailers(HeaderMap::from_iter(trailers)))];
        let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
        response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
        response.headers_mut().insert("trailer", HeaderValue::from_static("total"));
        Ok(response)
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let mut backend = JoinSet::new();
    backend.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let serving = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(serve));
            connections.spawn(async move { drop(serving.await) });
        }
    });
    (start_gateway(upstream, |_| {}).await, backend)
}

/// Asks for the stream; returns its head, its bytes and what comes behind them.
async fn whole(gateway: &Running, http2: bool, headers: &[(&str, &str)]) -> (HeaderMap, Bytes, HeaderMap) {
    let stream = TokioIo::new(TcpStream::connect(gateway.addr).await.unwrap());
    let mut request = Request::post(format!("http://{}{SERVER_STREAM}", gateway.addr)).header("host", "a");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from_static(b"{}"))).unwrap();
    let mut driver = JoinSet::new();
    let response = if http2 {
        let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        driver.spawn(async move { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    } else {
        let (mut sender, connection) = http1::handshake(stream).await.unwrap();
        driver.spawn(async move { drop(connection.await) });
        sender.send_request(request).await.unwrap()
    };
    let (head, body) = response.into_parts();
    let body = timeout(Duration::from_secs(10), body.collect()).await.expect("an end").unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (head.headers, body.to_bytes(), trailers)
}

#[tokio::test]
async fn metadata_behind_a_stream_is_trailers_where_the_protocol_has_room() {
    let (gateway, _backend) = with_trailers().await;
    let names = |trailers: &HeaderMap| {
        let mut names: Vec<_> = trailers.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        names.join(" ")
    };
    let gzip = ("accept-encoding", "gzip");
    for coding in [None, Some(gzip)] {
        let headers: Vec<_> = coding.into_iter().collect();
        let (head, body, trailers) = whole(&gateway, true, &headers).await;
        assert_eq!(head["trailer"], "grpc-metadata-total", "as the service has announced");
        assert_eq!(names(&trailers), "grpc-metadata-shard grpc-metadata-total", "{coding:?}");
        assert_eq!(trailers["grpc-metadata-total"], "3");
        assert_eq!(head.contains_key("content-encoding"), coding.is_some());
        assert!(coding.is_some() || *body == br#"[{"text":"a"}]"#[..], "{body:?}");

        let te = [&headers[..], &[("te", "trailers"), ("connection", "te")]].concat();
        let (head, _, trailers) = whole(&gateway, false, &te).await;
        assert_eq!(
            (head["trailer"].to_str().unwrap(), names(&trailers).as_str()),
            ("grpc-metadata-total", "grpc-metadata-total")
        );
        let (head, _, trailers) = whole(&gateway, false, &headers).await;
        assert_eq!((head.get("trailer"), trailers.len()), (None, 0), "a client that does not say that it takes them");
    }
}
