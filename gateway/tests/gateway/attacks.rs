//! Clients that mean harm: the gateway's memory stays bounded, they get the right answer, and others are served meanwhile.
//!
//! Lives here: the attacks, and what each may cost. Does not: writing frames (`frames`), what unfolds (`bombs`), how long a client that sends no head is
//! suffered (unit tests of the listener).
//! Each attack meets a gateway process of its own, beside a steady load of others, and sends or asks for many times more than `AT_MOST`. A test prints one line
//! for each, which begins with `attack:` and has how far that process has grown at its largest, before a server in the test's.

mod bombs;
mod frames;

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::NamedTempFile;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use weft_testkit::{
    load::{Call, Outcome, Report, run_until},
    memory::resident,
    outside,
    process::Process,
    wait::until,
};

use crate::support::{Backend, backend, descriptor_set, framed, send, send_bytes, stands_still, unframed};
use frames::{
    CANCEL, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, HEADERS, NO_ERROR, PING,
    RST_STREAM, Raw, SETTINGS, block, frame, indexed, post,
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
    _files: [NamedTempFile; 2],
}

impl Attacked {
    /// Starts a gateway in front of users and echo. None if `weft` was not built.
    async fn start(test: &str) -> Option<Self> {
        Self::start_with(test, "").await
    }

    /// The same, with a file of configuration.
    async fn start_with(test: &str, config: &str) -> Option<Self> {
        let weft = outside::need_binaries(&["weft"], test)?.swap_remove(0);
        let backend = backend().await;
        let file = |content: &[u8]| {
            let mut file = NamedTempFile::new().unwrap();
            std::io::Write::write_all(&mut file, content).unwrap();
            file
        };
        let files = [file(&descriptor_set()[..]), file(config.as_bytes())];
        let mut process = gateway(&weft, files.each_ref().map(|it| it.path()), &backend.addr);
        let addr = process.address("http").await;
        let served = || async { (echo(addr).await == StatusCode::OK).then_some(()) };
        until("the gateway to serve", SOON, served).await;
        let before = resident(process.pid()).unwrap().now;
        Some(Self { addr, process, before, backend, _files: files })
    }

    /// Attacks beside others, again for as long as it was over too soon for them; `round` returns how the attacker was answered. Checks that the others are
    /// served, and what it has cost.
    async fn under(&self, attack: &str, round: impl AsyncFnMut(&Others) -> String) {
        self.under_within(AT_MOST, attack, round).await;
    }

    /// The same, for an attack whose cost has another bound, in MiB.
    async fn under_within(&self, at_most: f64, attack: &str, mut round: impl AsyncFnMut(&Others) -> String) {
        let others = Others::begin(self.addr).await;
        let status = loop {
            let status = round(&others).await;
            if others.beside() >= SOME {
                break status;
            }
        };
        let (all, beside) = others.end().await;
        // Also who comes anew.
        for _ in 0..5 {
            assert_eq!(echo(self.addr).await, StatusCode::OK);
        }
        let failed: Vec<_> = all.outcomes.iter().filter(|&it| !is_served(it)).collect();
        let (calls, meanwhile) = (all.outcomes.len(), beside.outcomes.len());
        let (p50, p99) = (beside.quantile(0.5), beside.quantile(0.99));
        let grown = resident(self.process.pid()).unwrap().peak - self.before;
        println!(
            "attack: {attack}; status: {status}; others: {calls} calls, {meanwhile} beside it, {} failed, p50 {p50:.1?}, p99 {p99:.1?}; grown: {grown:.0} MiB",
            failed.len()
        );
        assert!(failed.is_empty(), "{attack}: {:?}", &failed[..failed.len().min(5)]);
        assert!(meanwhile >= SOME / 2, "{attack}: {meanwhile} of {calls} calls beside it show nothing");
        assert!(grown < at_most, "{attack}: resident memory grew by {grown:.0} MiB");
    }
}

fn gateway(weft: &Path, [set, config]: [&Path; 2], upstream: &str) -> Process {
    let (set, config) = (set.to_string_lossy(), config.to_string_lossy());
    let args = ["gateway", "--listen", "127.0.0.1:0", "--descriptor-set", &set, "--upstream", upstream];
    let args = args.into_iter().chain(["--config", &config, "--workers", "2", "--log-format", "json"]);
    Process::start("gateway", weft, weft, &args.map(str::to_owned).collect::<Vec<_>>(), &[]).expect("weft starts")
}

const ECHO: &str = r#"{"text": "still here"}"#;

async fn echo(gateway: SocketAddr) -> StatusCode {
    let answer = timeout(SOON, send(gateway, "POST", "/echo", &[], ECHO)).await.unwrap();
    assert!(answer.status != StatusCode::OK || answer.json()["text"] == "still here", "{answer:?}");
    answer.status
}

/// Callers who have no part in it, more than the gateway has data threads, and how many calls each begins in a second: few, since what a slow machine does not
/// get done beside an attack queues.
const LINES: usize = 4;
const RATE: u32 = 4;
/// How many calls others make before an attack, beside it and after it, at the least.
const SOME: usize = 16;

/// Callers who have no part in an attack, at a steady rate from before it until after it.
struct Others {
    gateway: SocketAddr,
    /// Calls that have begun, and how many of them before the attack.
    calls: Arc<AtomicUsize>,
    before: usize,
    attacked: Instant,
    enough: CancellationToken,
    lines: JoinSet<Report>,
}

impl Others {
    /// Returns once some have called.
    async fn begin(gateway: SocketAddr) -> Self {
        let (calls, enough) = (Arc::<AtomicUsize>::default(), CancellationToken::new());
        let mut lines = JoinSet::new();
        for _ in 0..LINES {
            let begun = Arc::clone(&calls);
            let call = move |_| {
                begun.fetch_add(1, SeqCst);
                Call { method: Method::POST, path: "/echo".to_owned(), body: Some(ECHO.to_owned()) }
            };
            lines.spawn(run_until(gateway, RATE, enough.clone().cancelled_owned(), call));
        }
        reach(&calls, SOME).await;
        let before = calls.load(SeqCst);
        Self { gateway, calls, before, attacked: Instant::now(), enough, lines }
    }

    /// How many calls have begun since the attack did.
    fn beside(&self) -> usize {
        self.calls.load(SeqCst) - self.before
    }

    /// Waits until some have called beside an attack that lasts for as long as it is let, and others who come anew, to any data thread, are answered.
    async fn call(&self) {
        reach(&self.calls, self.calls.load(SeqCst) + SOME).await;
        for _ in 0..8 {
            assert_eq!(echo(self.gateway).await, StatusCode::OK);
        }
    }

    /// Ends the load some calls after the attack. Returns all calls, and those that were under way beside the attack.
    async fn end(self) -> (Report, Report) {
        let Self { calls, attacked, enough, lines, .. } = self;
        let over = Instant::now();
        reach(&calls, calls.load(SeqCst) + SOME).await;
        enough.cancel();
        let all: Vec<Outcome> = lines.join_all().await.into_iter().flat_map(|it| it.outcomes).collect();
        let beside = all.iter().filter(|it| it.under_way(attacked, over)).cloned().collect();
        (Report { outcomes: all }, Report { outcomes: beside })
    }
}

async fn reach(calls: &AtomicUsize, wanted: usize) {
    until("others to call", SOON, || async { (calls.load(SeqCst) >= wanted).then_some(()) }).await;
}

fn is_served(outcome: &Outcome) -> bool {
    matches!(&outcome.answer, Ok((StatusCode::OK, body)) if body.contains("still here"))
}

/// How a connection of HTTP/2 was ended, if it was.
fn told(raw: &Raw) -> String {
    raw.goodbye().map_or_else(|| "no GOAWAY".to_owned(), |code| format!("GOAWAY with code {code}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_bodies_that_never_end_hold_up_nobody() {
    let test = "heads_and_bodies_that_never_end_hold_up_nobody";
    let patient = "[[policies]]\nname = \"patient\"\nservice = \"upstream\"\nlimits = { body_timeout = \"5s\" }\n";
    let Some(gateway) = Attacked::start_with(test, patient).await else { return };
    gateway
        .under("400 stalled requests", async |others: &Others| {
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
            others.call().await;
            for (at, client) in held.iter_mut().enumerate().filter(|(at, _)| at % 4 >= 2) {
                let mut answer = Vec::new();
                timeout(SOON, client.read_to_end(&mut answer)).await.expect("an end").unwrap();
                let answer = String::from_utf8_lossy(&answer);
                assert!(answer.starts_with("HTTP/1.1 408 ") && answer.contains("policy patient"), "{at}: {answer}");
            }
            "408 for the bodies, the heads are waited for".to_owned()
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_wait_at_their_source() {
    let Some(gateway) = Attacked::start("answers_that_nobody_reads_wait_at_their_source").await else { return };
    let attack = "16 answers of 6 GB unread";
    gateway.under(attack, async |others: &Others| unread(&gateway, 16, others).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_leave_room_on_the_connections_that_they_share() {
    let test = "answers_that_nobody_reads_leave_room_on_the_connections_that_they_share";
    let Some(gateway) = Attacked::start(test).await else { return };
    // On each data thread more than a connection upstream would have room for, if its window were not as wide as those of all its streams together. Each may hold
    // its stream's, 1 MiB, and what is on its way out.
    let attack = "64 answers of 6 GB unread";
    gateway.under_within(64.0 * 4.0, attack, async |others: &Others| unread(&gateway, 64, others).await).await;
}

/// So many clients ask for 100,000 answers of 64 KiB each, 6 GB if anybody were to hold it, and read no more than that they begin.
async fn unread(gateway: &Attacked, clients: usize, others: &Others) -> String {
    let body = r#"{"count": 100000, "padding": 65536}"#;
    let mut held = Vec::new();
    for _ in 0..clients {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let length = body.len();
        let head =
            format!("POST /weft.testkit.v1.Echo/ServerStream HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
        client.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut start = [0; 1024];
        let begun = timeout(SOON, client.read_exact(&mut start)).await;
        begun.unwrap_or_else(|_| panic!("behind {} that nobody reads the next does not begin", held.len())).unwrap();
        assert!(start.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&start));
        held.push(client);
    }
    let sent = stands_still(gateway.backend.replies()).await;
    others.call().await;
    format!("200, {sent} replies left their source")
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_too_large_are_refused_in_both_versions() {
    let Some(gateway) = Attacked::start("heads_too_large_are_refused_in_both_versions").await else { return };
    gateway
        .under("a head of 64 KiB", async |_: &Others| {
            let mut client = TcpStream::connect(gateway.addr).await.unwrap();
            let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n", "a".repeat(64 << 10));
            let _ = client.write_all(head.as_bytes()).await; // it may be cut off before all is written
            let mut answer = Vec::new();
            let _ = timeout(SOON, client.read_to_end(&mut answer)).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 431 "), "{:?}", String::from_utf8_lossy(&answer));
            "431".to_owned()
        })
        .await;
    // HTTP/2: an entry of 4,000 bytes, named 15,000 times by a byte each: 60 MB of fields in one head.
    let bomb = [post("/echo"), indexed("x", &"a".repeat(3_900)), vec![0x80 | 62; 12_000]].concat();
    gateway
        .under("20 header bombs", async |_: &Others| {
            let mut raw = Raw::connect(gateway.addr).await;
            for stream in (1..40).step_by(2) {
                if !raw.write(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &bomb), SOON).await {
                    break;
                }
            }
            let refused = || async {
                (raw.is_over() || !raw.frames(HEADERS, 1).is_empty() || !raw.frames(RST_STREAM, 1).is_empty())
                    .then_some(())
            };
            until("the bomb is refused", SOON, refused).await;
            if let Some(head) = raw.frames(HEADERS, 1).first() {
                // `:status` as a literal or by Huffman's code: never 200, which is static entry 8.
                assert_ne!(head.payload.first(), Some(&0x88), "the bomb was answered with 200");
            }
            format!("refused, {}", told(&raw))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_goes_on_for_ever_costs_the_connection() {
    let Some(gateway) = Attacked::start("a_head_that_goes_on_for_ever_costs_the_connection").await else { return };
    let more = frame(CONTINUATION, 0, 1, &block(&[("x", &"a".repeat(16_000))]));
    gateway
        .under("CONTINUATION flood", async |_: &Others| {
            let mut raw = Raw::connect(gateway.addr).await;
            raw.write(&frame(HEADERS, 0, 1, &post("/echo")), SOON).await;
            // 640 MB, unless it is cut off.
            let mut sent = 0;
            while sent < 40_000 && !raw.is_over() && raw.write(&more, SOON).await {
                sent += 1;
            }
            assert!(sent < 40_000, "640 MB of head were taken");
            until("the connection to be ended", SOON, || async { raw.is_over().then_some(()) }).await;
            let code = raw.goodbye();
            assert!(matches!(code, Some(COMPRESSION_ERROR | ENHANCE_YOUR_CALM)), "{code:?}");
            format!("{} after {sent} frames", told(&raw))
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_reset_at_once_pile_up_nowhere() {
    let Some(gateway) = Attacked::start("calls_that_are_reset_at_once_pile_up_nowhere").await else { return };
    let head = post("/echo");
    gateway
        .under("40,000 calls reset, a hundred at a time", async |_: &Others| {
            let (mut reset, mut ended) = (0, 0);
            while reset < 40_000 {
                let mut raw = Raw::connect(gateway.addr).await;
                let mut stream = 1;
                while reset < 40_000 && !raw.is_over() && raw.write(&resets(&mut stream, 100, &head), SOON).await {
                    reset += 100;
                }
                // It may go on for ever at a rate that the gateway keeps up with: it is ended when its calls outnumber what it may have at once.
                if reset < 40_000 || raw.is_over() {
                    until("the connection to be ended", SOON, || async { raw.is_over().then_some(()) }).await;
                    assert!(matches!(raw.goodbye(), Some(NO_ERROR | ENHANCE_YOUR_CALM)), "{}", told(&raw));
                    ended += 1;
                }
            }
            format!("{ended} connections ended")
        })
        .await;
    // Too many for the gateway to have begun with any: 1,024 may wait, the streams that a connection may have at once.
    let least = [0x83_u8, 0x86, 0x84]; // POST http /
    gateway
        .under("2,000 calls reset in one piece", async |_: &Others| {
            let mut raw = Raw::connect(gateway.addr).await;
            raw.write(&resets(&mut 1, 2_000, &least), SOON).await;
            is_told_to_calm_down(&raw).await;
            told(&raw)
        })
        .await;
    until("no call is left", SOON, || async { (gateway.backend.in_flight().load(SeqCst) == 0).then_some(()) }).await;
}

/// So many calls, each followed by its reset; every second one is whole, so that it could go upstream. `stream` is the first, and then the one after the last.
fn resets(stream: &mut u32, count: usize, head: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    for at in 0..count {
        let whole = if at % 2 == 0 { END_STREAM } else { 0 };
        frames.extend(frame(HEADERS, END_HEADERS | whole, *stream, head));
        frames.extend(frame(RST_STREAM, 0, *stream, &CANCEL.to_be_bytes()));
        *stream += 2;
    }
    frames
}

/// Checks that a connection ends, and says why.
async fn is_told_to_calm_down(raw: &Raw) {
    until("the connection to be ended", SOON, || async { raw.is_over().then_some(()) }).await;
    assert_eq!(raw.goodbye(), Some(ENHANCE_YOUR_CALM));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_in_a_million_frames_is_a_body() {
    let Some(gateway) = Attacked::start("a_body_in_a_million_frames_is_a_body").await else { return };
    for payload in [&b" "[..], b""] {
        let attack = format!("a million frames of {} bytes of a body", payload.len());
        let burst = frame(DATA, 0, 1, payload).repeat(1_000);
        gateway
            .under(&attack, async |_: &Others| {
                let mut raw = Raw::connect(gateway.addr).await;
                raw.write(&frame(HEADERS, END_HEADERS, 1, &post("/echo")), SOON).await;
                let mut bursts = 0;
                while bursts < 1_000 && !raw.is_over() && raw.write(&burst, Duration::from_secs(5)).await {
                    bursts += 1;
                }
                format!("{} after {bursts} thousand", told(&raw))
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_and_settings_whose_answers_nobody_reads_are_not_kept() {
    let Some(gateway) = Attacked::start("pings_and_settings_whose_answers_nobody_reads_are_not_kept").await else {
        return;
    };
    for (kind, name, payload) in [(PING, "PING", &[0; 8][..]), (SETTINGS, "SETTINGS", &[0, 4, 0, 1, 0, 0])] {
        let burst = frame(kind, 0, 0, payload).repeat(10_000);
        gateway
            .under(&format!("a flood of {name} whose answers nobody reads"), async |_: &Others| {
                let mut raw = Raw::connect(gateway.addr).await;
                raw.stop_reading();
                let mut bursts = 0;
                // Until the other side stops reading, too, which is the right thing to do.
                while bursts < 300 && raw.write(&burst, Duration::from_secs(2)).await {
                    bursts += 1;
                }
                format!("{bursts} times 10,000 taken of 300")
            })
            .await;
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
    let documents = [
        (deep(25), StatusCode::OK),
        (deep(200), StatusCode::BAD_REQUEST),
        (deep(1_000_000), StatusCode::BAD_REQUEST),
        (much(999_998), StatusCode::OK),
        (much(999_999), StatusCode::BAD_REQUEST),
    ];
    let numbers = [
        (r#"{"count": 1e400000}"#.to_owned(), StatusCode::BAD_REQUEST),
        (r#"{"count": -1e400000}"#.to_owned(), StatusCode::BAD_REQUEST),
        (r#"{"count": 1e-400000}"#.to_owned(), StatusCode::BAD_REQUEST),
        (r#"{"count": 1e99999999999999999999}"#.to_owned(), StatusCode::BAD_REQUEST),
        (digits, StatusCode::BAD_REQUEST),
        (zeros, StatusCode::BAD_REQUEST),
    ];
    for (attack, table) in [("deep and large JSON", &documents[..]), ("huge numbers", &numbers[..])] {
        gateway
            .under(attack, async |_: &Others| {
                for (body, expected) in table {
                    let answer = timeout(SOON, send(gateway.addr, "POST", "/echo", &[], body)).await.unwrap();
                    let shown = &body[..body.len().min(60)];
                    assert_eq!(answer.status, *expected, "{shown}: {}", &answer.body[..answer.body.len().min(300)]);
                    assert!(answer.body.len() < 2_000, "the answer to {shown} repeats the question");
                }
                "400 for all that is beyond".to_owned()
            })
            .await;
    }
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
    let bombs = bombs::all();
    let count = bombs.len() * (2 * faces.len() + 1);
    // Each may have what it sent, up to 2 MiB, and what that may unfold to, 4.
    let at_most = 6.0 * count as f64;
    let attack = format!("{count} bodies that unfold to {} MiB, br to {}", bombs::MIB, bombs::BROTLI_MIB);
    gateway
        .under_within(at_most, &attack, async |_: &Others| {
            let mut calls = JoinSet::new();
            for (encoding, bomb) in &bombs {
                let encoding = *encoding;
                for (face, path, content_type, header, body, ending, expected) in faces {
                    for _ in 0..2 {
                        let (at, body) = (gateway.addr, Bytes::from(body(bomb)));
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
                let (at, bomb) = (gateway.addr, bomb.clone());
                calls.spawn(async move {
                    let code = timeout(SOON, native(at, encoding, &bomb)).await.expect("an answer");
                    assert_eq!(code, "12", "{encoding}: this server takes no such encoding");
                });
            }
            while let Some(call) = calls.join_next().await {
                call.unwrap();
            }
            "413, or RESOURCE_EXHAUSTED as the protocol says it".to_owned()
        })
        .await;
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
