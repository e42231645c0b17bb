//! WebSocket over REST routes, by a real client: messages both ways, every end, who is let in, and what clients may not do to the gateway.
//!
//! Lives here: what a client sees on one gateway. Does not: a browser (`tests/e2e/docs.rs`), the head alone (unit tests of the crate).

use std::{net::SocketAddr, path::PathBuf, sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, StatusCode, header::SEC_WEBSOCKET_PROTOCOL};
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest, protocol::frame::coding::CloseCode},
};
use weft_testkit::{
    issuer::{Issuer, Key},
    outside,
    wait::until,
};

use crate::{
    lifecycle::in_flight,
    policies,
    support::{Running, send, start, start_with},
};

/// What Node before 22 wants to hear.
const WITH_WEBSOCKET: &str = "--experimental-websocket";
const SOON: Duration = Duration::from_secs(40);
const SERVER_STREAM: &str = "/weft.testkit.v1.Echo/ServerStream";
const CLIENT_STREAM: &str = "/weft.testkit.v1.Echo/ClientStream";
const BIDI: &str = "/weft.testkit.v1.Echo/Bidi";

type Socket = WebSocketStream<TcpStream>;

fn request(to: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Request<()> {
    let mut request = format!("ws://{to}{path}").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

async fn open(gateway: &Running, path: &str) -> Socket {
    open_with(gateway, path, &[]).await.0
}

/// Opens a WebSocket; returns the subprotocol that was granted, too.
async fn open_with(gateway: &Running, path: &str, headers: &[(&'static str, &str)]) -> (Socket, Option<String>) {
    let stream = TcpStream::connect(gateway.addr).await.unwrap();
    let opening = client_async(request(gateway.addr, path, headers), stream);
    let (socket, response) = timeout(SOON, opening).await.expect("an answer in time").unwrap();
    assert!(response.headers().contains_key("x-request-id"));
    (socket, response.headers().get(SEC_WEBSOCKET_PROTOCOL).map(|it| it.to_str().unwrap().to_owned()))
}

/// Asks for a WebSocket and is refused; returns the status and the body.
async fn refused(gateway: &Running, path: &str, headers: &[(&'static str, &str)]) -> (StatusCode, Value) {
    let stream = TcpStream::connect(gateway.addr).await.unwrap();
    match client_async(request(gateway.addr, path, headers), stream).await {
        Err(Error::Http(response)) => {
            // The client reads no more than came with the head, and one call more tells the rest.
            (
                response.status(),
                response.body().as_deref().and_then(|it| serde_json::from_slice(it).ok()).unwrap_or_default(),
            )
        }
        other => panic!("{path}: {other:?}"),
    }
}

async fn next(socket: &mut Socket) -> Message {
    timeout(SOON, socket.next()).await.expect("a message in time").expect("a message").unwrap()
}

async fn next_json(socket: &mut Socket) -> Value {
    match next(socket).await {
        Message::Text(text) => serde_json::from_str(&text).unwrap(),
        other => panic!("{other:?}"),
    }
}

/// Waits for the close frame; returns its code and reason.
async fn closed(socket: &mut Socket) -> (u16, String) {
    match next(socket).await {
        Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("{other:?}"),
    }
}

async fn say(socket: &mut Socket, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

#[tokio::test]
async fn both_sides_speak_in_turn_until_the_client_has_said_all() {
    let gateway = start().await;
    let mut socket = open(&gateway, BIDI).await;
    for word in ["one", "two", "three"] {
        say(&mut socket, &json!({ "text": word }).to_string()).await;
        assert_eq!(next_json(&mut socket).await["text"], word);
    }
    say(&mut socket, "").await;
    assert_eq!(closed(&mut socket).await, (1000, String::new()));
}

#[tokio::test]
async fn a_client_stream_is_answered_once_all_is_said() {
    let gateway = start().await;
    let mut socket = open(&gateway, CLIENT_STREAM).await;
    say(&mut socket, r#"{"text": "a"}"#).await;
    say(&mut socket, r#"{"text": "b"}"#).await;
    socket.send(Message::binary(Bytes::new())).await.unwrap(); // empty is empty
    assert_eq!(next_json(&mut socket).await["text"], "a,b");
    assert_eq!(closed(&mut socket).await.0, 1000);
}

#[tokio::test]
async fn a_server_stream_is_asked_by_the_first_message() {
    let gateway = start().await;
    let mut socket = open(&gateway, SERVER_STREAM).await;
    say(&mut socket, r#"{"text": "a", "count": 3}"#).await;
    for _ in 0..3 {
        assert_eq!(next_json(&mut socket).await["text"], "a");
    }
    assert_eq!(closed(&mut socket).await.0, 1000);
}

#[tokio::test]
async fn a_failure_is_said_in_the_stream_and_by_the_code_of_its_end() {
    let gateway = start_with(|config| config.limits.max_request_bytes = 1024).await;
    // What upstream says, after a reply; then what the client does wrong.
    let mut socket = open(&gateway, BIDI).await;
    say(&mut socket, r#"{"text": "fine"}"#).await;
    assert_eq!(next_json(&mut socket).await["text"], "fine");
    say(&mut socket, r#"{"text": "no", "failWith": 5}"#).await;
    let error = next_json(&mut socket).await;
    assert_eq!((&error["error"]["code"], &error["error"]["message"]), (&json!(5), &json!("asked to fail: no")));
    assert_eq!(closed(&mut socket).await, (4005, "asked to fail: no".to_owned()));

    let long = json!({ "text": "x".repeat(2000) }).to_string();
    let table = [
        (Message::text("{"), 3, 4003),
        (Message::text(r#"{"count": "x"}"#), 3, 4003),
        (Message::text(long), 8, 1009),
        (Message::binary(&b"\x0a\x01a"[..]), 3, 1003),
    ];
    for (wrong, code, close) in table {
        let mut socket = open(&gateway, BIDI).await;
        socket.send(wrong.clone()).await.unwrap();
        let error = next_json(&mut socket).await;
        assert_eq!(error["error"]["code"], code, "{wrong:?}: {error}");
        assert_eq!(closed(&mut socket).await.0, close, "{wrong:?}");
    }
    let mut socket = open(&gateway, BIDI).await;
    say(&mut socket, r#"{"count": "x"}"#).await;
    let violation = &next_json(&mut socket).await["error"]["details"][0]["fieldViolations"][0];
    assert_eq!(violation["field"], "count", "the field is named as in REST");

    let mut socket = open(&gateway, BIDI).await;
    say(&mut socket, r#"{"text": "slow", "delayMs": 60000}"#).await;
    for _ in 0..2 {
        say(&mut socket, "").await; // once more is as good as once
    }
    say(&mut socket, "{}").await;
    assert!(next_json(&mut socket).await["error"]["message"].as_str().unwrap().contains("empty one"));
    assert_eq!(closed(&mut socket).await.0, 4003);
    in_flight(&gateway, 0).await;
}

#[tokio::test]
async fn what_is_wrong_before_the_upgrade_is_answered_as_rest_answers_it() {
    let gateway = start().await;
    for (path, status) in [("/echo", 400), ("/nowhere", 404), ("/weft.testkit.v1.Echo/Bidi?no=1", 400)] {
        let (told, _) = refused(&gateway, path, &[]).await;
        assert_eq!(told.as_u16(), status, "{path}");
    }
    let asked = |version| {
        let (to, key) = (gateway.addr, "dGhlIHNhbXBsZSBub25jZQ==");
        async move {
            let headers = [
                ("connection", "keep-alive, Upgrade"),
                ("upgrade", "WebSocket"),
                ("sec-websocket-key", key),
                ("sec-websocket-version", version),
            ];
            send(to, "GET", BIDI, &headers, "").await
        }
    };
    let old = asked("8").await;
    assert_eq!((old.status.as_u16(), &old.headers["sec-websocket-version"]), (426, &"13".parse().unwrap()));
    assert_eq!(old.json()["details"][0]["fieldViolations"][0]["field"], "sec-websocket-version");
    let malformed = [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "13")];
    assert_eq!(send(gateway.addr, "GET", BIDI, &malformed, "").await.json()["code"], 3);
    // Who asks for something else, or by another method, is answered as if nothing were asked.
    let other = [("connection", "upgrade"), ("upgrade", "h2c"), ("content-type", "application/json")];
    assert_eq!(send(gateway.addr, "POST", "/echo", &other, r#"{"text": "a"}"#).await.json()["text"], "a");
    let posted = [("connection", "upgrade"), ("upgrade", "websocket"), ("content-type", "application/json")];
    assert_eq!(send(gateway.addr, "POST", "/echo", &posted, r#"{"text": "a"}"#).await.json()["text"], "a");
}

#[tokio::test]
async fn a_page_is_let_in_from_our_own_origin_and_where_a_policy_lets_it_call() {
    const FOREIGN: (&str, &str) = ("origin", "https://evil.example");
    let gateway = start().await;
    let own = format!("http://{}", gateway.addr);
    drop(open_with(&gateway, BIDI, &[("origin", &own)]).await);
    assert_eq!(refused(&gateway, BIDI, &[FOREIGN]).await.0, StatusCode::FORBIDDEN);
    assert_eq!(refused(&gateway, BIDI, &[("origin", "null")]).await.0, StatusCode::FORBIDDEN);

    let cookie = ("cookie", "session=1");
    for credentials in [false, true] {
        let policy = format!(
            "name: pages\nservice: gateway\ncors: {{ origins: ['https://app.example'], credentials: {credentials} }}\n"
        );
        let gateway = policies::start(&policy).await;
        let (mut socket, _) = open_with(&gateway, BIDI, &[("origin", "https://app.example"), cookie]).await;
        say(&mut socket, "{}").await;
        let heard = next_json(&mut socket).await["metadata"].clone();
        assert_eq!(heard.get("cookie").is_some(), credentials, "{heard}");
        assert!(heard.as_object().unwrap().keys().all(|it| !it.starts_with("sec-websocket")), "{heard}");
        assert_eq!(refused(&gateway, BIDI, &[FOREIGN]).await.0, StatusCode::FORBIDDEN);
    }
    let reading = "name: pages\nservice: gateway\ncors: { origins: ['https://app.example'], http_methods: [GET] }\n";
    let gateway = policies::start(reading).await;
    let told = refused(&gateway, BIDI, &[("origin", "https://app.example")]).await;
    assert_eq!(told.0, StatusCode::FORBIDDEN, "the route is a POST, which pages may not make");
}

#[tokio::test]
async fn the_edge_judges_the_upgrade_and_a_page_shows_its_token_as_a_subprotocol() {
    let key = Key::p256("one");
    let issuer = Issuer::start(&[&key]).await;
    let url = issuer.url();
    let gateway = policies::start(&format!(
        "name: callers\nservice: gateway\nauthentication:\n  jwt: [{{ issuer: '{url}', audiences: [shop] }}]\n---\n\
         name: few\nservice: gateway\nrate_limit:\n  rules: [{{ calls: 1, every: 1h, per: [client] }}]\n"
    ))
    .await;
    assert_eq!(refused(&gateway, BIDI, &[]).await.0, StatusCode::UNAUTHORIZED);
    let wall = weft_runtime::clock::wall().duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let claims = json!({"iss": url, "aud": "shop", "sub": "ada", "exp": wall.as_secs() + 600});
    let offered = format!("weft.v1, bearer.{}", key.sign(&claims));
    let offer = [("sec-websocket-protocol", offered.as_str())];
    let (mut socket, granted) = open_with(&gateway, BIDI, &offer).await;
    assert_eq!(granted.as_deref(), Some("weft.v1"), "the token is not repeated");
    say(&mut socket, r#"{"text": "a"}"#).await;
    let reply = next_json(&mut socket).await;
    assert_eq!((&reply["text"], reply["metadata"].get("authorization")), (&json!("a"), None));
    assert_eq!(refused(&gateway, BIDI, &offer).await.0, StatusCode::TOO_MANY_REQUESTS, "one an hour");
}

/// Node, if it has a WebSocket: since 20.10 and 21 by this flag, since 22 without.
async fn node_with_websocket() -> Option<PathBuf> {
    let node = outside::program("node")?;
    let mut command = tokio::process::Command::new(&node);
    command.args([WITH_WEBSOCKET, "-e", "new WebSocket('ws://127.0.0.1:1').onerror = () => {}"]).kill_on_drop(true);
    let output = timeout(SOON, command.output()).await.expect("it ends in time").expect("it starts");
    output.status.success().then_some(node)
}

#[tokio::test]
async fn a_client_of_another_make_hears_every_reply_and_the_end() {
    let test = "a_client_of_another_make_hears_every_reply_and_the_end";
    let Some(node) = outside::need_from_setup(node_with_websocket().await, test, "Node 20.10 or newer") else { return };
    let gateway = start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/websocket.mjs");
    let mut command = tokio::process::Command::new(node);
    command.args([WITH_WEBSOCKET, script]).arg(format!("ws://{}{BIDI}", gateway.addr)).kill_on_drop(true);
    let output = timeout(SOON, command.output()).await.expect("it ends in time").expect("it starts");
    let printed = String::from_utf8(output.stdout).unwrap();
    let sessions: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let [good, bad] = &sessions[..] else {
        panic!("{printed}{}", String::from_utf8_lossy(&output.stderr));
    };
    let texts: Vec<&str> = good["heard"].as_array().unwrap().iter().map(|it| it["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["a", "naïve 日本"], "{good}");
    let end = |it: &Value| (it["protocol"].clone(), it["code"].clone(), it["wasClean"].clone());
    assert_eq!(end(good), (json!("weft.v1"), json!(1000), json!(true)), "{good}");
    assert_eq!(end(bad), (json!("weft.v1"), json!(4003), json!(true)), "{bad}");
    let told = bad["heard"].as_array().unwrap().last().unwrap();
    assert_eq!(told["error"]["details"][0]["fieldViolations"][0]["field"], "text", "{bad}");
}

#[tokio::test]
async fn a_message_nested_deeper_than_a_policy_lets_it_be_ends_the_session() {
    let gateway = policies::start("name: flat\nservice: gateway\nlimits: { max_depth: 2 }\n").await;
    let mut socket = open(&gateway, BIDI).await;
    say(&mut socket, r#"{"text": "a", "what": [1]}"#).await;
    assert_eq!(next_json(&mut socket).await["text"], "a");
    say(&mut socket, r#"{"text": "b", "what": [{}]}"#).await;
    let told = next_json(&mut socket).await;
    assert_eq!(told["error"]["details"][0]["fieldViolations"][0]["field"], "what[0]", "{told}");
}

#[tokio::test]
async fn messages_are_printed_as_a_policy_says() {
    let gateway = policies::start(
        "name: names\nservice: gateway\ntranscoding: { json_output: { preserve_proto_names: true, emit_defaults: true } }\n",
    )
    .await;
    let mut socket = open(&gateway, BIDI).await;
    say(&mut socket, r#"{"text": "a"}"#).await;
    let reply = next_json(&mut socket).await;
    assert!(reply.get("deadline_ms").is_some() && reply.get("deadlineMs").is_none(), "{reply}");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_call_back_and_has_not_said_all() {
    let gateway = start().await;
    for close in [true, false] {
        let mut socket = open(&gateway, SERVER_STREAM).await;
        say(&mut socket, r#"{"count": 1000, "delayMs": 60000}"#).await;
        in_flight(&gateway, 1).await;
        if close {
            socket.close(None).await.unwrap();
            assert!(matches!(next(&mut socket).await, Message::Close(_)), "a close frame is answered");
        }
        drop(socket);
        in_flight(&gateway, 0).await;
    }
    let mut socket = open(&gateway, CLIENT_STREAM).await;
    say(&mut socket, r#"{"text": "half of it"}"#).await;
    in_flight(&gateway, 1).await;
    drop(socket);
    in_flight(&gateway, 0).await;
    assert_eq!(gateway.whole.load(Ordering::SeqCst), 0, "upstream does not take what came for all there is");
    let mut socket = open(&gateway, CLIENT_STREAM).await;
    say(&mut socket, "").await;
    next_json(&mut socket).await;
    assert_eq!(gateway.whole.load(Ordering::SeqCst), 1);
}

/// Messages of so many bytes, and so many of them that no buffer of a system holds all.
const LARGE: usize = 1 << 20;
const MANY: usize = 200;
/// Without any progress for so long, somebody waits.
const STILL: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_client_waits_for_an_upstream_that_takes_nothing() {
    let gateway = start().await;
    let mut socket = open(&gateway, BIDI).await;
    say(&mut socket, r#"{"delayMs": 120000}"#).await;
    let large = Message::text(json!({ "text": "x".repeat(LARGE) }).to_string());
    let mut taken = 0;
    while taken < MANY && timeout(STILL, socket.send(large.clone())).await.is_ok() {
        taken += 1;
    }
    assert!(taken < MANY, "the gateway took {taken} MiB that nobody wanted");
    drop(socket);
}

#[tokio::test]
async fn upstream_waits_for_a_client_that_takes_nothing() {
    let gateway = start().await;
    let mut socket = open(&gateway, SERVER_STREAM).await;
    say(&mut socket, &json!({ "count": MANY, "padding": LARGE }).to_string()).await;
    let made = || gateway.replies.load(Ordering::SeqCst);
    until("the first replies", SOON, || async { (made() > 0).then_some(()) }).await;
    let mut before = 0;
    while made() > before {
        before = made();
        tokio::time::sleep(STILL).await; // what is looked for is that nothing happens
    }
    assert!(before < MANY, "the gateway took {before} MiB for a client that reads nothing");
    assert_eq!(next_json(&mut socket).await["padding"].as_str().unwrap().len(), LARGE.div_ceil(3) * 4);
}

#[tokio::test]
async fn a_drain_tells_the_client_before_it_ends_the_session() {
    let gateway = start().await;
    let mut socket = open(&gateway, BIDI).await;
    gateway.shutdown.drain();
    say(&mut socket, r#"{"text": "still here"}"#).await;
    assert_eq!(next_json(&mut socket).await["text"], "still here");
    assert_eq!(next_json(&mut socket).await["error"]["code"], 14);
    assert_eq!(closed(&mut socket).await.0, u16::from(CloseCode::Away));
}

#[tokio::test]
async fn pings_are_answered_as_long_as_they_are_few() {
    let gateway = start().await;
    let mut socket = open(&gateway, BIDI).await;
    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    assert_eq!(next(&mut socket).await, Message::Pong(Bytes::from_static(b"there?")));
    for _ in 0..200 {
        if socket.send(Message::Ping(Bytes::new())).await.is_err() {
            break;
        }
    }
    loop {
        match next(&mut socket).await {
            Message::Pong(_) => {}
            Message::Text(text) => assert!(text.contains("pings"), "{text}"),
            Message::Close(frame) => break assert_eq!(u16::from(frame.unwrap().code), 1008),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_session_is_one_call_in_the_metrics() {
    let gateway = start().await;
    let mut socket = open(&gateway, BIDI).await;
    say(&mut socket, "").await;
    assert_eq!(closed(&mut socket).await.0, 1000);
    drop(socket);
    let counted = r#"method="POST",route="/weft.testkit.v1.Echo/Bidi",status="200"} 1"#;
    until("the call to be counted", SOON, || async {
        send(gateway.admin, "GET", "/metrics", &[], "").await.body.contains(counted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_their_connection_and_nothing_else() {
    const SEED: u64 = 20_261_130;
    let gateway = start().await;
    let mut random = StdRng::seed_from_u64(SEED);
    for round in 0..40 {
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        let head = format!(
            "GET {BIDI} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let mut bytes = head.into_bytes();
        let length = random.random_range(1..600);
        bytes.extend((0..length).map(|_| random.random::<u8>()));
        drop(stream.write_all(&bytes).await);
        drop(stream.shutdown().await);
        let mut told = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut told)).await;
        assert!(ended.is_ok(), "seed {SEED}, round {round}: the connection is still open");
        assert!(told.starts_with(b"HTTP/1.1 101"), "seed {SEED}, round {round}");
    }
    let mut socket = open(&gateway, BIDI).await;
    say(&mut socket, r#"{"text": "well"}"#).await;
    assert_eq!(next_json(&mut socket).await["text"], "well");
}
