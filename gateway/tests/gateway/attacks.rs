//! Clients that mean harm: the gateway's memory stays bounded, they get the right answer, and others are served meanwhile.
//!
//! Lives here: the attacks, and what each may cost. Does not: writing frames (`frames`), how long a silent client is suffered (unit tests of the listener).
//! Each attack sends or asks for many times more than `AT_MOST`; the figure that a test prints is the growth of this whole process, attackers included.

mod frames;

use std::time::Duration;

use http::StatusCode;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use weft_testkit::wait::until;

use crate::support::{Running, send, start};
use frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS, block, frame, indexed, post,
};

const SOON: Duration = Duration::from_secs(30);
/// What an attack may cost, in MiB. Other tests run beside it and are part of the figure.
const AT_MOST: u64 = 160;

/// Returns the resident memory of this process in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Checks that others are served, and what the attack has cost since `before`.
async fn others_are_served(gateway: &Running, before: u64, attack: &str) {
    for _ in 0..5 {
        let answer =
            timeout(SOON, send(gateway.addr, "POST", "/echo", &[], r#"{"text": "still here"}"#)).await.unwrap();
        assert_eq!((answer.status, answer.json()["text"].as_str()), (StatusCode::OK, Some("still here")));
    }
    let grown = resident().saturating_sub(before) / 1024;
    println!("{attack}: resident memory grew by {grown} MiB");
    assert!(grown < AT_MOST, "{attack}: resident memory grew by {grown} MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_never_end_hold_up_nobody() {
    let (gateway, before) = (start().await, resident());
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
    others_are_served(&gateway, before, "400 stalled requests").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_wait_at_their_source() {
    let (gateway, before) = (start().await, resident());
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
    others_are_served(&gateway, before, "16 answers of 6 GB unread").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_too_large_are_refused_in_both_versions() {
    let (gateway, before) = (start().await, resident());
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
    others_are_served(&gateway, before, "20 header bombs").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_goes_on_for_ever_costs_the_connection() {
    let (gateway, before) = (start().await, resident());
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
    others_are_served(&gateway, before, "CONTINUATION flood").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_reset_at_once_pile_up_nowhere() {
    let (gateway, before) = (start().await, resident());
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
        (gateway.in_flight.load(std::sync::atomic::Ordering::SeqCst) == 0).then_some(())
    })
    .await;
    others_are_served(&gateway, before, "40,000 calls reset").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_a_million_frames_is_a_body() {
    let (gateway, before) = (start().await, resident());
    for payload in [&b" "[..], b""] {
        let mut raw = Raw::connect(gateway.addr).await;
        raw.write(&frame(HEADERS, END_HEADERS, 1, &post("/echo")), SOON).await;
        let burst = frame(DATA, 0, 1, payload).repeat(1_000);
        let mut bursts = 0;
        while bursts < 1_000 && !raw.is_over() && raw.write(&burst, Duration::from_secs(5)).await {
            bursts += 1;
        }
        println!("{bursts} bursts of {} bytes, goodbye {:?}", payload.len(), raw.goodbye());
        others_are_served(&gateway, before, "tiny DATA frames").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_whose_answers_nobody_reads_are_not_kept() {
    let (gateway, before) = (start().await, resident());
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
        others_are_served(&gateway, before, "a flood that asks for answers").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deep_documents_and_huge_numbers_are_bad_requests() {
    let (gateway, before) = (start().await, resident());
    let deep = |levels: usize| format!(r#"{{"text": "deep", "other": {}{}}}"#, "[".repeat(levels), "]".repeat(levels));
    let digits = format!(r#"{{"count": {}}}"#, "9".repeat(1_000_000));
    let zeros = format!(r#"{{"count": 0.{}1}}"#, "0".repeat(1_000_000));
    let table = [
        (deep(25), StatusCode::OK),
        (deep(200), StatusCode::BAD_REQUEST),
        (deep(1_000_000), StatusCode::BAD_REQUEST),
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
    others_are_served(&gateway, before, "deep documents and huge numbers").await;
}
