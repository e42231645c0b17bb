//! Clients that mean harm: the gateway's memory stays bounded, they get the right answer, and others are served meanwhile.
//!
//! Lives here: the attacks, and what each may cost. Does not: writing frames (`frames`), what unfolds (`bombs`), how long a silent client is
//! suffered (unit tests of the listener).
//! Each attack meets a gateway process of its own and sends or asks for many times more than `AT_MOST`. The figure that a test prints is how far
//! that process has grown at its largest, before a server in the test's.

mod bombs;
mod frames;

use std::{net::SocketAddr, path::Path, time::Duration};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use weft_testkit::{memory::resident, outside, process::Process, wait::until};

use crate::support::{Backend, backend, descriptor_set, framed, send, send_bytes, unframed};
use frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS, block, frame, indexed, post,
};

const SOON: Duration = Duration::from_secs(30);
/// What an attack may cost, in MiB.
const AT_MOST: f64 = 96.0;

/// The gateway that is attacked.
struct Attacked {
    addr: SocketAddr,
    process: Process,
    /// Its resident memory before, in MiB.
    before: f64,
    backend: Backend,
    _set: NamedTempFile,
}

impl Attacked {
    /// Starts a gateway in front of users and echo. None if `weft` was not built.
    async fn start(test: &str) -> Option<Self> {
        let weft = outside::need_binaries(&["weft"], test)?.swap_remove(0);
        let backend = backend().await;
        let mut set = NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut set, &descriptor_set()).unwrap();
        let mut process = gateway(&weft, set.path(), &backend.addr);
        let addr = process.address("http").await;
        let served = || async { (echo(addr).await == StatusCode::OK).then_some(()) };
        until("the gateway to serve", SOON, served).await;
        let before = resident(process.pid()).unwrap().now;
        Some(Self { addr, process, before, backend, _set: set })
    }
}

fn gateway(weft: &Path, set: &Path, upstream: &str) -> Process {
    let set = set.to_string_lossy();
    let args = ["gateway", "--listen", "127.0.0.1:0", "--descriptor-set", &set, "--upstream", upstream];
    let args = args.into_iter().chain(["--workers", "2", "--log-format", "json"]).map(str::to_owned);
    Process::start("gateway", weft, weft, &args.collect::<Vec<_>>(), &[]).expect("weft starts")
}

async fn echo(gateway: SocketAddr) -> StatusCode {
    let answer = timeout(SOON, send(gateway, "POST", "/echo", &[], r#"{"text": "still here"}"#)).await.unwrap();
    assert!(answer.status != StatusCode::OK || answer.json()["text"] == "still here", "{answer:?}");
    answer.status
}

/// Checks that others are served, and what the attack has cost.
async fn others_are_served(gateway: &Attacked, attack: &str) {
    others_are_served_within(AT_MOST, gateway, attack).await;
}

/// The same, for an attack whose cost has another bound, in MiB.
async fn others_are_served_within(at_most: f64, gateway: &Attacked, attack: &str) {
    for _ in 0..5 {
        assert_eq!(echo(gateway.addr).await, StatusCode::OK);
    }
    let after = resident(gateway.process.pid()).unwrap();
    let grown = after.peak - gateway.before;
    println!("{attack}: from {:.0} MiB to {:.0} at most, {:.0} behind it", gateway.before, after.peak, after.now);
    assert!(grown < at_most, "{attack}: resident memory grew by {grown:.0} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_never_end_hold_up_nobody() {
    let Some(gateway) = Attacked::start("heads_and_bodies_that_never_end_hold_up_nobody").await else { return };
    let mut held = Vec::new();
    for at in 0..400 {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let start = match at % 4 {
            0 => "P".to_owned(),
            1 => "POST /echo HTTP/1.1\r\nhost: a\r\nx-".to_owned(),
            2 => "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 4000000\r\n\r\n{".to_owned(),
            _ => "POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n".to_owned(),
        };
        client.write_all(start.as_bytes()).await.unwrap();
        held.push(client);
    }
    others_are_served(&gateway, "400 stalled requests").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_wait_at_their_source() {
    let Some(gateway) = Attacked::start("answers_that_nobody_reads_wait_at_their_source").await else { return };
    // 100,000 answers of 64 KiB each, asked for by 16 clients: 100 GB, if anybody were to hold it.
    let body = r#"{"count": 100000, "padding": 65536}"#;
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let length = body.len();
        let head =
            format!("POST /weft.testkit.v1.Echo/ServerStream HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        // The stream has begun.
        client.read_exact(&mut [0; 1024]).await.unwrap();
        held.push(client);
    }
    others_are_served(&gateway, "16 answers of 6 GB unread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_too_large_are_refused_in_both_versions() {
    let Some(gateway) = Attacked::start("heads_too_large_are_refused_in_both_versions").await else { return };
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    let _ = client.write_all(format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n", "a".repeat(64 << 10)).as_bytes()).await;
    let mut answer = Vec::new();
    let _ = timeout(SOON, client.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{:?}", String::from_utf8_lossy(&answer));
    // HTTP/2: an entry of 4,000 bytes, named 15,000 times by a byte each: 60 MB of fields in one head.
    let mut raw = Raw::connect(gateway.addr).await;
    for stream in (1..40).step_by(2) {
        let bomb = [post("/echo"), indexed("x", &"a".repeat(3_900)), vec![0x80 | 62; 12_000]].concat();
        if !raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb), SOON).await {
            break;
        }
    }
    let refused = || async {
        (raw.is_over() || !raw.frames(HEADERS, 1).is_empty() || !raw.frames(RST_STREAM, 1).is_empty()).then_some(())
    };
    until("the bomb is refused", SOON, refused).await;
    if let Some(head) = raw.frames(HEADERS, 1).first() {
        // `:status` as a literal or by Huffman's code: never 200, which is static entry 8.
        assert_ne!(head.payload.first(), Some(&0x88), "the bomb was answered with 200");
    }
    others_are_served(&gateway, "20 header bombs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_goes_on_for_ever_costs_the_connection() {
    let Some(gateway) = Attacked::start("a_head_that_goes_on_for_ever_costs_the_connection").await else { return };
    let mut raw = Raw::connect(gateway.addr).await;
    raw.write(&frame(HEADERS, 0, 1, &post("/echo")), SOON).await;
    let more = frame(CONTINUATION, 0, 1, &block(&[("x", &"a".repeat(16_000))]));
    // 640 MB, unless it is cut off.
    let mut sent = 0;
    while sent < 40_000 && !raw.is_over() && raw.write(&more, SOON).await {
        sent += 1;
    }
    println!("cut off after {sent} CONTINUATION frames with code {:?}", raw.goodbye());
    assert!(sent < 40_000, "640 MB of head were taken");
    others_are_served(&gateway, "CONTINUATION flood").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_reset_at_once_pile_up_nowhere() {
    let Some(gateway) = Attacked::start("calls_that_are_reset_at_once_pile_up_nowhere").await else { return };
    let mut raw = Raw::connect(gateway.addr).await;
    let head = post("/echo");
    let mut sent = 0;
    for burst in 0..400_u32 {
        let mut frames = Vec::new();
        for at in 0..100 {
            let stream = (burst * 100 + at) * 2 + 1;
            frames.extend(frame(HEADERS, END_HEADERS, stream, &head));
            frames.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        }
        if raw.is_over() || !raw.write(&frames, SOON).await {
            break;
        }
        sent += 100;
    }
    println!("{sent} calls reset, goodbye {:?}", raw.goodbye());
    until("no call is left", SOON, || async {
        (gateway.backend.in_flight().load(std::sync::atomic::Ordering::SeqCst) == 0).then_some(())
    })
    .await;
    others_are_served(&gateway, "40,000 calls reset").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_a_million_frames_is_a_body() {
    let Some(gateway) = Attacked::start("a_body_in_a_million_frames_is_a_body").await else { return };
    for payload in [&b" "[..], b""] {
        let mut raw = Raw::connect(gateway.addr).await;
        raw.write(&frame(HEADERS, END_HEADERS, 1, &post("/echo")), SOON).await;
        let burst = frame(DATA, 0, 1, payload).repeat(1_000);
        let mut bursts = 0;
        while bursts < 1_000 && !raw.is_over() && raw.write(&burst, Duration::from_secs(5)).await {
            bursts += 1;
        }
        println!("{bursts} bursts of {} bytes, goodbye {:?}", payload.len(), raw.goodbye());
        others_are_served(&gateway, "tiny DATA frames").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_whose_answers_nobody_reads_are_not_kept() {
    let Some(gateway) = Attacked::start("pings_and_settings_whose_answers_nobody_reads_are_not_kept").await else {
        return;
    };
    for (kind, payload) in [(PING, &[0; 8][..]), (SETTINGS, &[0, 4, 0, 1, 0, 0])] {
        let mut raw = Raw::connect(gateway.addr).await;
        raw.stop_reading();
        let burst = frame(kind, 0, 0, payload).repeat(10_000);
        let mut bursts = 0;
        // Until the other side stops reading, too, which is the right thing to do.
        while bursts < 300 && raw.write(&burst, Duration::from_secs(2)).await {
            bursts += 1;
        }
        println!("{bursts} bursts of 10,000 frames of kind {kind} taken");
        others_are_served(&gateway, "a flood that asks for answers").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_and_large_documents_and_huge_numbers_are_bad_requests() {
    let Some(gateway) = Attacked::start("deep_and_large_documents_and_huge_numbers_are_bad_requests").await else {
        return;
    };
    let deep = |levels: usize| format!(r#"{{"text": "deep", "other": {}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let digits = format!(r#"{{"count": {}}}"#, "9".repeat(1_000_000));
    let much = |count: usize| format!(r#"{{"text": "much", "other": [{}0]}}"#, "0,".repeat(count - 1));
    let zeros = format!(r#"{{"count": 0.{}1}}"#, "0".repeat(1_000_000));
    let table = [
        (deep(25), StatusCode::OK),
        (deep(200), StatusCode::BAD_REQUEST),
        (deep(1_000_000), StatusCode::BAD_REQUEST),
        (much(999_998), StatusCode::OK),
        (much(999_999), StatusCode::BAD_REQUEST),
        (r#"{"count": 1e400000}"#.to_owned(), StatusCode::BAD_REQUEST),
        (r#"{"count": -1e400000}"#.to_owned(), StatusCode::BAD_REQUEST),
        (r#"{"count": 1e-400000}"#.to_owned(), StatusCode::BAD_REQUEST),
        (r#"{"count": 1e99999999999999999999}"#.to_owned(), StatusCode::BAD_REQUEST),
        (digits, StatusCode::BAD_REQUEST),
        (zeros, StatusCode::BAD_REQUEST),
    ];
    for (body, expected) in table {
        let answer = timeout(SOON, send(gateway.addr, "POST", "/echo", &[], &body)).await.unwrap();
        let shown = &body[..body.len().min(60)];
        assert_eq!(answer.status, expected, "{shown}: {}", &answer.body[..answer.body.len().min(300)]);
        assert!(answer.body.len() < 2_000, "the answer to {shown} repeats the question");
    }
    others_are_served(&gateway, "deep and large documents and huge numbers").await;
}

/// What says how it ended: the status of the answer, of HTTP or gRPC.
type Ending = fn(StatusCode, &[u8]) -> String;

fn by_http(status: StatusCode, _: &[u8]) -> String {
    status.as_u16().to_string()
}

/// The last frame has it, trailers or the end of a stream.
fn by_last_frame(_: StatusCode, body: &[u8]) -> String {
    let (_, last) = unframed(body).pop().expect("a last frame");
    String::from_utf8_lossy(&last).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_unfold_are_cut_off_at_the_limit() {
    let Some(gateway) = Attacked::start("bodies_that_unfold_are_cut_off_at_the_limit").await else { return };
    const UNARY: &str = "/weft.testkit.v1.Echo/Unary";
    const STREAM: &str = "/weft.testkit.v1.Echo/ClientStream";
    let framed: fn(&Bytes) -> Vec<u8> = |bomb| framed(1, bomb);
    let bare: fn(&Bytes) -> Vec<u8> = |bomb| bomb.to_vec();
    let faces: [(&str, &str, &str, &str, _, Ending, &str); 7] = [
        ("REST", "/echo", "application/json", "content-encoding", bare, by_http, "413"),
        ("REST stream", STREAM, "application/json", "content-encoding", bare, by_http, "413"),
        ("Connect", UNARY, "application/json", "content-encoding", bare, by_http, "429"),
        ("Connect, proto", UNARY, "application/proto", "content-encoding", bare, by_http, "429"),
        (
            "Connect stream",
            STREAM,
            "application/connect+json",
            "connect-content-encoding",
            framed,
            by_last_frame,
            "resource_exhausted",
        ),
        ("gRPC-Web", UNARY, "application/grpc-web+proto", "grpc-encoding", framed, by_last_frame, "grpc-status: 8"),
        (
            "gRPC-Web, JSON",
            STREAM,
            "application/grpc-web+json",
            "grpc-encoding",
            framed,
            by_last_frame,
            "grpc-status: 8",
        ),
    ];
    let mut calls = JoinSet::new();
    for (encoding, bomb) in bombs::all() {
        for (face, path, content_type, header, body, ending, expected) in faces {
            for _ in 0..2 {
                let (at, body) = (gateway.addr, Bytes::from(body(&bomb)));
                calls.spawn(async move {
                    let mut headers = vec![("content-type", content_type), (header, encoding)];
                    headers.extend(face.starts_with("Connect").then_some(("connect-protocol-version", "1")));
                    let answered = timeout(SOON, send_bytes(at, "POST", path, &headers, body)).await;
                    let (status, _, body) = answered.expect("an answer");
                    let ended = ending(status, &body);
                    assert!(ended.contains(expected), "{face}, {encoding}: {status} {ended}");
                });
            }
        }
        // A native call is carried as it is: what it unfolds to is between its two ends.
        let at = gateway.addr;
        calls.spawn(async move {
            let code = timeout(SOON, native(at, encoding, &bomb)).await.expect("an answer");
            assert_eq!(code, "12", "{encoding}: this server takes no such encoding");
        });
    }
    let count = calls.len();
    while let Some(call) = calls.join_next().await {
        call.unwrap();
    }
    // Each may have what it sent, up to 2 MiB, and what that may unfold to, 4.
    let at_most = 6.0 * count as f64;
    let attack = format!("{count} bodies that unfold to {} MiB, br to {}", bombs::MIB, bombs::BROTLI_MIB);
    others_are_served_within(at_most, &gateway, &attack).await;
}

/// Sends a compressed message as gRPC does; returns the code that came back.
async fn native(at: SocketAddr, encoding: &str, message: &[u8]) -> String {
    let stream = TcpStream::connect(at).await.unwrap();
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = http::Request::post("http://gateway.test/weft.testkit.v1.Echo/Unary")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", encoding)
        .body(Full::<Bytes>::from(framed(1, message)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let head = response.headers().get("grpc-status").cloned();
    let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
    let code = head.or_else(|| trailers.get("grpc-status").cloned()).expect("a status");
    code.to_str().unwrap().to_owned()
}
