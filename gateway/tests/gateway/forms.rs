//! Forms and uploads, as browsers and `curl` send them, against a backend that remembers the messages it got.
//!
//! Lives here: what reaches the backend and what is refused, on one gateway. Does not: what a name or a value may be (weft-transcode), any bytes at all (unit
//! tests of the crate).

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, channel::Channel};
use hyper::{body::Incoming, client::conn::http1, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use weft_gateway::Source;
use weft_testkit::wait::until;

use crate::support::{Answer, Running, framed, send, send_bytes, start, start_gateway, start_with};

const PROTO: &str = r#"
    syntax = "proto3";
    package forms.v1;
    import "google/api/annotations.proto";
    import "google/api/httpbody.proto";
    message Card { string name = 1; bytes photo = 2; repeated string tags = 3; Card boss = 4; bool member = 5; }
    message Upload { string name = 1; google.api.HttpBody file = 2; string note = 3; }
    message Done {}
    message Rename { Named named = 1; string id = 2; }
    message Named { string name = 1; string etag = 2; }
    service Forms {
      rpc Save(Card) returns (Done) { option (google.api.http) = { post: "/cards" body: "*" }; }
      rpc Put(Upload) returns (Done) { option (google.api.http) = { post: "/files/{name}" body: "file" }; }
      rpc Stream(stream Upload) returns (Done) { option (google.api.http) = { post: "/streams/{name}" body: "file" }; }
      rpc Change(Rename) returns (Named) { option (google.api.http) = { patch: "/named/{id}" body: "named" }; }
      rpc Many(stream Card) returns (Done) { option (google.api.http) = { post: "/many" body: "*" }; }
      rpc Rewrite(stream Named) returns (Done) { option (google.api.http) = { post: "/rewrite" body: "*" }; }
    }
"#;
const SOON: Duration = Duration::from_secs(20);

/// A backend and a gateway in front of it.
struct Forms {
    gateway: Running,
    pool: DescriptorPool,
    seen: Seen,
    _backend: JoinSet<()>,
}

/// What the backend got.
#[derive(Clone, Default)]
struct Seen {
    /// Request messages of all calls.
    messages: Arc<Mutex<Vec<Bytes>>>,
    /// Whether a call is not read after its first message.
    holds: Arc<AtomicBool>,
}

async fn forms() -> Forms {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("forms.proto"), PROTO).unwrap();
    let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    let mut compiler = protox::Compiler::new([dir.path(), protos.as_ref()]).unwrap();
    compiler.include_imports(true).open_files(["forms.proto"]).unwrap();
    let set = compiler.encode_file_descriptor_set(); // with the options that typed descriptors drop
    let pool = DescriptorPool::decode(&*set).unwrap();
    let seen = Seen::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = listener.local_addr().unwrap().to_string();
    let mut backend = JoinSet::new();
    let served = seen.clone();
    backend.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let seen = served.clone();
            let service = service_fn(move |request| serve(request, seen.clone()));
            connections.spawn(async move {
                drop(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    let gateway = start_gateway(upstream.clone(), |config| {
        config.source = Source::Static { descriptor_set: set.into(), upstream };
        config.limits.max_request_bytes = 64 << 10;
    })
    .await;
    Forms { gateway, pool, seen, _backend: backend }
}

type Answering = Response<StreamBody<futures_util::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>>;

async fn serve(request: Request<Incoming>, seen: Seen) -> Result<Answering, Infallible> {
    let path = request.uri().path().to_owned();
    let mut body = request.into_body();
    let mut held = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        held.extend_from_slice(&frame.into_data().unwrap_or_default());
        while held.len() >= 5 && held.len() >= 5 + u32::from_be_bytes(held[1..5].try_into().unwrap()) as usize {
            let length = u32::from_be_bytes(held[1..5].try_into().unwrap()) as usize;
            let message = held.split_to(5 + length).freeze().slice(5..);
            seen.messages.lock().unwrap().push(message);
            if seen.holds.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
        }
    }
    // The current tag is v"1: who names another is told ABORTED (AIP-154); who names none is believed.
    let last = seen.messages.lock().unwrap().last().cloned().unwrap_or_default();
    let stale = path.ends_with("/Change") && contains(&last, b"stale");
    let reply: &[u8] = if path.ends_with("/Change") { b"\x12\x03v\"1" } else { b"" };
    let code = HeaderValue::from_static(if stale { "10" } else { "0" });
    let trailers = Ok(Frame::trailers(HeaderMap::from_iter([("grpc-status".parse().unwrap(), code)])));
    let frames = if stale { vec![trailers] } else { vec![Ok(Frame::data(framed(0, reply).into())), trailers] };
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)));
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    Ok(response)
}

fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|it| it == wanted)
}

impl Forms {
    /// What the backend got since the last look, as JSON.
    fn got(&self, message: &str) -> Vec<Value> {
        let desc = self.pool.get_message_by_name(&format!("forms.v1.{message}")).unwrap();
        let got = std::mem::take(&mut *self.seen.messages.lock().unwrap());
        let print = |wire: Bytes| {
            let message = DynamicMessage::decode(desc.clone(), wire).unwrap();
            message.serialize_with_options(serde_json::value::Serializer, &SerializeOptions::new()).unwrap()
        };
        got.into_iter().map(print).collect()
    }

    async fn post(&self, path: &str, content_type: &str, body: impl Into<Bytes>) -> Answer {
        let headers = [("content-type", content_type)];
        let (status, headers, body) = send_bytes(self.gateway.addr, "POST", path, &headers, body.into()).await;
        Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
    }
}

const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data; boundary=\"a b\"";

/// A body of these parts: what stands behind `form-data; `, the content type, the data.
fn parts(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, content_type, data) in parts {
        body.extend_from_slice(format!("--a b\r\ncontent-disposition: form-data; {head}\r\n").as_bytes());
        if let Some(content_type) = content_type {
            body.extend_from_slice(format!("content-type: {content_type}\r\n").as_bytes());
        }
        body.extend_from_slice(&[b"\r\n", *data, b"\r\n"].concat());
    }
    body.extend_from_slice(b"--a b--\r\n");
    body
}

#[tokio::test]
async fn a_form_with_escapes_is_the_message_that_its_json_would_be() {
    let gateway = start().await;
    let form = [("content-type", "application/x-www-form-urlencoded; charset=utf-8")];
    let created =
        send(gateway.addr, "POST", "/api/users", &form, "name=Ada+L%C3%B6w&email=a%40example.org&sent=1").await;
    assert_eq!((created.status.as_u16(), &created.json()["name"]), (201, &json!("Ada Löw")), "{created:?}");
    let wrong = send(gateway.addr, "POST", "/echo", &form, "text=a&count=many").await;
    let violation = wrong.json()["details"][0]["fieldViolations"][0]["field"].clone();
    assert_eq!((wrong.status.as_u16(), violation), (400, json!("count")));
    let long = format!("text={}", "x".repeat(5 << 20));
    assert_eq!(send(gateway.addr, "POST", "/echo", &form, &long).await.status, 413);
}

#[tokio::test]
async fn parts_are_fields_and_files_are_bytes() {
    let forms = forms().await;
    let body = parts(&[
        ("name=\"name\"", None, "Ada".as_bytes()),
        ("name=\"tags\"", None, b"a"),
        ("name=\"tags\"", Some("text/plain; charset=utf-8"), b"b"),
        ("name=\"boss.member\"", None, b"true"),
        ("name=\"photo\"; filename=\"me.png\"", Some("image/png"), b"\xff\0\r\n--a"),
        ("name=\"boss.photo\"; filename=\"\"", Some("application/octet-stream"), b""),
    ]);
    let saved = forms.post("/cards", MULTIPART, body).await;
    assert_eq!(saved.status, 200, "{saved:?}");
    let expected = json!({"name": "Ada", "photo": "/wANCi0tYQ==", "tags": ["a", "b"], "boss": {"member": true}});
    assert_eq!(forms.got("Card"), [expected]);

    let too_long = parts(&[("name=\"photo\"; filename=\"f\"", None, &[0; 65 << 10])]);
    let table = [
        ("/cards", MULTIPART, too_long, 413),
        ("/cards", MULTIPART, b"--a b\r\n".to_vec(), 400),
        ("/cards", "multipart/form-data", b"".to_vec(), 400),
        ("/cards", MULTIPART, parts(&[("name=\"member\"", None, b"x")]), 400),
        ("/many", MULTIPART, parts(&[]), 415),
        ("/cards", "multipart/mixed; boundary=a", b"".to_vec(), 415),
    ];
    for (path, content_type, body, status) in table {
        let told = forms.post(path, content_type, body).await;
        assert_eq!(told.status.as_u16(), status, "{path} {content_type}: {told:?}");
        assert!(told.json()["code"].is_number(), "{told:?}");
    }
    assert_eq!(forms.got("Card"), [Value::Null; 0], "nothing of it was called");
}

#[tokio::test]
async fn a_file_is_an_http_body_with_its_own_type() {
    let forms = forms().await;
    let file = ("name=\"upload\"; filename=\"a.txt\"", Some("text/csv"), &b"a;b"[..]);
    let put = forms.post("/files/x", MULTIPART, parts(&[("name=\"note\"", None, b"hi"), file])).await;
    assert_eq!(put.status, 200, "{put:?}");
    let expected = json!({"name": "x", "note": "hi", "file": {"contentType": "text/csv", "data": "YTti"}});
    assert_eq!(forms.got("Upload"), [expected]);
    let twice = forms.post("/files/x", MULTIPART, parts(&[file, file])).await;
    assert_eq!(twice.status, 400, "{twice:?}");
    let as_ever = forms.post("/files/x", "text/csv", "a;b").await;
    assert_eq!((as_ever.status.as_u16(), forms.got("Upload").len()), (200, 1));
}

/// More than the gateway may hold of a message, by far.
const CHUNK: usize = 32 << 10;
const CHUNKS: usize = 1000;

/// Begins an upload; returns where its body goes and the answer to come.
async fn upload(forms: &Forms) -> (http_body_util::channel::Sender<Bytes, std::io::Error>, JoinSet<u16>) {
    let stream = TcpStream::connect(forms.gateway.addr).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let (data, body) = Channel::new(1);
    let request = Request::post("/streams/big").header("host", "a").header("content-type", MULTIPART);
    let request = request.body(body).unwrap();
    let mut answer = JoinSet::new();
    answer.spawn(async move {
        let mut driver = JoinSet::new();
        driver.spawn(async move { drop(connection.await) });
        sender.send_request(request).await.map_or(0, |response| response.status().as_u16())
    });
    (data, answer)
}

const HEAD: &[u8] = b"--a b\r\ncontent-disposition: form-data; name=\"note\"\r\n\r\nhi\r\n\
    --a b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"f\"\r\ncontent-type: a/b\r\n\r\n";

#[tokio::test]
async fn a_file_streams_to_a_client_stream_without_being_held() {
    let forms = forms().await;
    let (mut data, mut answer) = upload(&forms).await;
    data.send_data(Bytes::from_static(HEAD)).await.unwrap();
    for _ in 0..CHUNKS {
        timeout(SOON, data.send_data(vec![b'x'; CHUNK].into())).await.expect("it flows").unwrap();
    }
    data.send_data(Bytes::from_static(b"\r\n--a b--\r\n")).await.unwrap();
    drop(data);
    assert_eq!(timeout(SOON, answer.join_next()).await.unwrap().unwrap().unwrap(), 200);
    let mut got = forms.got("Upload");
    let data =
        |message: &Value| message["file"]["data"].as_str().map_or(0, |it| it.trim_end_matches('=').len() * 3 / 4);
    assert_eq!(got.iter().map(data).sum::<usize>(), CHUNK * CHUNKS);
    let mut first = got.remove(0);
    first["file"]["data"] = Value::Null;
    assert_eq!(first, json!({"name": "big", "note": "hi", "file": {"contentType": "a/b", "data": null}}));
    assert!(got.len() > 10 && got.iter().all(|it| it["name"].is_null() && it["file"]["contentType"].is_null()));

    let late =
        [HEAD, b"x\r\n--a b\r\ncontent-disposition: form-data; name=\"note\"\r\n\r\nlate\r\n--a b--\r\n"].concat();
    let told = forms.post("/streams/x", MULTIPART, late).await;
    assert_eq!((told.status.as_u16(), told.json()["code"].clone()), (400, json!(3)), "{told:?}");
    let without = forms.post("/streams/x", MULTIPART, parts(&[("name=\"note\"", None, b"hi")])).await;
    assert_eq!(without.status, 200, "{without:?}");
    assert_eq!(forms.got("Upload").last().unwrap(), &json!({"name": "x", "note": "hi", "file": {}}));
}

#[tokio::test]
async fn a_file_waits_for_an_upstream_that_takes_nothing_and_leaves_with_its_client() {
    let forms = forms().await;
    forms.seen.holds.store(true, Ordering::SeqCst);
    let (mut data, answer) = upload(&forms).await;
    data.send_data(Bytes::from_static(HEAD)).await.unwrap();
    let mut taken = 0;
    // Far above what the buffers of two connections hold.
    while taken < 20 * CHUNKS
        && timeout(Duration::from_secs(3), data.send_data(vec![b'x'; CHUNK].into())).await.is_ok_and(|it| it.is_ok())
    {
        taken += 1;
    }
    assert!(taken < 20 * CHUNKS, "the gateway took {taken} chunks that nobody wanted");
    assert_eq!(forms.got("Upload").len(), 1);
    drop((data, answer));
    forms.seen.holds.store(false, Ordering::SeqCst);
    until("another call to go through", SOON, || async {
        (forms.post("/files/x", "text/csv", "a").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn if_match_is_the_tag_that_the_service_compares_and_412_that_it_is_another() {
    let forms = forms().await;
    let change = async |tag: &[(&str, &str)], body: &str| {
        let headers = [&[("content-type", "application/json")][..], tag].concat();
        send(forms.gateway.addr, "PATCH", "/named/7", &headers, body).await
    };
    let changed = change(&[], r#"{"name": "a"}"#).await;
    assert_eq!((changed.status.as_u16(), &changed.headers["etag"]), (200, &"\"v%221\"".parse().unwrap()));
    let tag = changed.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(change(&[("if-match", &tag)], r#"{"name": "b"}"#).await.status, 200);
    let got = forms.got("Rename");
    let expected = json!({"named": {"name": "b", "etag": "v\"1"}, "id": "7"});
    assert_eq!((got[0]["named"].get("etag"), &got[1]), (None, &expected));

    let stale = change(&[("if-match", "\"stale\"")], "{}").await;
    assert_eq!((stale.status.as_u16(), stale.json()["code"].clone()), (412, json!(10)));
    let in_body = change(&[], r#"{"etag": "stale"}"#).await;
    assert_eq!(in_body.status, 409, "without the header it is what the code says");
    assert_eq!(change(&[("if-match", "W/\"v\"")], "{}").await.status, 412);
    assert_eq!(change(&[("if-match", "*")], "{}").await.status, 200);
    for (tag, body) in [("v", "{}"), ("\"v\"", r#"{"etag": "w"}"#), ("\"a\", \"b\"", "{}")] {
        let told = change(&[("if-match", tag)], body).await;
        assert_eq!(told.status, 400, "{tag}: {told:?}");
        assert_eq!(told.json()["details"][0]["fieldViolations"][0]["field"], "if-match");
    }
}

#[tokio::test]
async fn if_match_is_a_condition_of_a_stream_in_its_first_message() {
    let forms = forms().await;
    let rewrite = async |tag: &str| {
        let headers = [("content-type", "application/x-ndjson"), ("if-match", tag)];
        send(forms.gateway.addr, "POST", "/rewrite", &headers, "{\"name\": \"a\"}\n{\"name\": \"b\"}\n").await
    };
    assert_eq!(rewrite("\"v\"").await.status, 200);
    assert_eq!(forms.got("Named"), [json!({"name": "a", "etag": "v"}), json!({"name": "b"})]);
    let weak = rewrite("W/\"v\"").await;
    assert_eq!((weak.status.as_u16(), weak.json()["code"].clone()), (412, json!(9)), "{weak:?}");
    assert_eq!(rewrite("v").await.status, 400);
    for (content_type, nothing) in [("application/x-ndjson", ""), ("application/json", "[]")] {
        let headers = [("content-type", content_type), ("if-match", "\"v\"")];
        let told = send(forms.gateway.addr, "POST", "/rewrite", &headers, nothing).await;
        assert_eq!(told.status, 400, "no message has the condition: {told:?}");
        assert_eq!(told.json()["details"][0]["fieldViolations"][0]["field"], "if-match");
    }
}

#[tokio::test]
async fn if_match_is_a_condition_of_a_form_too() {
    let forms = forms().await;
    let change = async |tag: &str, content_type: &str, body: Vec<u8>| {
        let headers = [("content-type", content_type), ("if-match", tag)];
        send_bytes(forms.gateway.addr, "PATCH", "/named/7", &headers, body.into()).await.0.as_u16()
    };
    let in_parts = || parts(&[("name=\"name\"", None, b"b")]);
    for (content_type, body) in [(MULTIPART, in_parts()), (URLENCODED, b"name=b".to_vec())] {
        assert_eq!(change("\"v%221\"", content_type, body.clone()).await, 200);
        let expected = json!({"named": {"name": "b", "etag": "v\"1"}, "id": "7"});
        assert_eq!(forms.got("Rename"), [expected], "{content_type}");
        assert_eq!(change("\"stale\"", content_type, body.clone()).await, 412, "{content_type}");
        assert_eq!(change("v", content_type, body).await, 400, "{content_type}");
        forms.got("Rename");
    }
}

#[tokio::test]
async fn a_patch_by_a_form_leaves_what_it_does_not_name() {
    let gateway = start_with(|config| config.transcoding.infer_update_mask = true).await;
    let json = [("content-type", "application/json")];
    let user = send(gateway.addr, "POST", "/api/users", &json, r#"{"name": "Ada", "email": "a@example.org"}"#).await;
    let path = format!("/api/users/{}", user.json()["id"].as_str().unwrap());
    let patch = async |content_type: &str, body: Vec<u8>| {
        let headers = [("content-type", content_type)];
        let (status, _, body) = send_bytes(gateway.addr, "PATCH", &path, &headers, body.into()).await;
        (status.as_u16(), serde_json::from_slice::<Value>(&body).unwrap()["name"].clone())
    };
    assert_eq!(patch(MULTIPART, parts(&[("name=\"email\"", None, b"b")])).await, (200, json!("Ada")));
    assert_eq!(patch(URLENCODED, b"email=b".to_vec()).await, (200, json!("Ada")));
    assert_eq!(patch(MULTIPART, parts(&[("name=\"name\"", None, b"Eva")])).await, (200, json!("Eva")));
    assert_eq!(patch(URLENCODED, b"email=b&name=".to_vec()).await, (200, Value::Null), "empty: cleared");
}

#[tokio::test]
async fn the_fields_before_a_file_that_streams_are_bounded_together() {
    let forms = forms().await;
    let note = [b'x'; 8 << 10];
    let names: Vec<String> = (0..9).map(|at| format!("name=\"unknown{at}\"")).collect();
    let notes = |count| {
        let fields: Vec<_> = names.iter().take(count).map(|name| (&**name, None, &note[..])).collect();
        parts(&fields)
    };
    assert_eq!(forms.post("/streams/x", MULTIPART, notes(7)).await.status, 200);
    let told = forms.post("/streams/x", MULTIPART, notes(9)).await;
    assert_eq!((told.status.as_u16(), told.json()["code"].clone()), (413, json!(8)), "{told:?}");
    assert_eq!(forms.got("Upload").len(), 1, "nothing of it was called");
}

#[tokio::test]
async fn a_form_that_does_not_come_is_late_as_any_body_is() {
    let gateway = crate::policies::start("{name: quick, service: upstream, limits: {body_timeout: 200ms}}").await;
    for content_type in [MULTIPART, URLENCODED] {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-type: {content_type}\r\ncontent-length: 100\r\n\r\n--a b\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(SOON, client.read_to_end(&mut answer)).await.expect("the gateway answers and closes").unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("took too long"), "{content_type}: {answer}");
    }
}
