//! What really goes over the wire between gateway and sidecar: a capture of the packets, read byte by byte. Inventory: security.
//!
//! Lives here: the capture and the little of pcap, TCP and TLS records that reading it takes. Does not: connections (`refusals`).
//! The gateway's own port is in the same capture: there the same text must be found, or the capture proves nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    time::Duration,
};

use http::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::json;
use weft_testkit::{
    http::send,
    mesh::{App, Mesh},
    outside,
    process::Process,
    wait,
};

use crate::ALONE;

const SOON: Duration = Duration::from_secs(30);

/// One direction of one connection: ports from and to.
type Flow = (u16, u16);

/// What one direction carried: whether its beginning was seen, and its bytes by sequence number.
#[derive(Default)]
struct Carried {
    start: Option<u32>,
    segments: BTreeMap<u32, Vec<u8>>,
}

/// Reads a capture of Ethernet frames with IPv4 and TCP (pcap, as tcpdump writes it on this machine).
fn flows(pcap: &[u8]) -> BTreeMap<Flow, Carried> {
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().unwrap());
    let short = |bytes: &[u8]| u16::from_be_bytes(bytes[..2].try_into().unwrap());
    assert_eq!((word(pcap), word(&pcap[20..])), (0xa1b2_c3d4, 1), "a little-endian capture of Ethernet");
    let (mut flows, mut rest): (BTreeMap<Flow, Carried>, _) = (BTreeMap::new(), &pcap[24..]);
    while rest.len() >= 16 {
        let (captured, length) = (word(&rest[8..]) as usize, word(&rest[12..]) as usize);
        assert_eq!(captured, length, "no frame is cut");
        let frame = &rest[16..16 + captured];
        rest = &rest[16 + captured..];
        assert_eq!((short(&frame[12..]), frame[14] >> 4, frame[23]), (0x0800, 4, 6), "IPv4 and TCP");
        let total = usize::from(short(&frame[16..]));
        let tcp = &frame[14 + usize::from(frame[14] & 15) * 4..14 + total];
        let (sequence, flags) = (u32::from_be_bytes(tcp[4..8].try_into().unwrap()), tcp[13]);
        let payload = &tcp[usize::from(tcp[12] >> 4) * 4..];
        let carried = flows.entry((short(tcp), short(&tcp[2..]))).or_default();
        if flags & 2 != 0 {
            carried.start = Some(sequence.wrapping_add(1)); // SYN
        }
        if !payload.is_empty() {
            carried.segments.insert(sequence, payload.to_vec());
        }
    }
    flows
}

impl Carried {
    /// Everything from the connection's first byte on, without gaps.
    fn bytes(&self, start: u32) -> Vec<u8> {
        let by_offset: BTreeMap<u32, &Vec<u8>> =
            self.segments.iter().map(|(sequence, bytes)| (sequence.wrapping_sub(start), bytes)).collect();
        let mut all = Vec::new();
        for (offset, bytes) in by_offset {
            let have = offset as usize;
            assert!(have <= all.len(), "a gap at byte {} of a connection", all.len());
            all.extend_from_slice(bytes.get(all.len() - have..).unwrap_or_default()); // sent again: the part that is new
        }
        all
    }

    fn contains(&self, text: &str) -> bool {
        // A text may lie across two segments: those of one connection are looked at together, gaps and all.
        let all: Vec<u8> = self.segments.values().flatten().copied().collect();
        all.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

/// Checks that bytes are TLS records from the first one on, and returns how many there are: 20 change cipher spec, 21 alert, 22 handshake,
/// 23 application data; version 3.1 or 3.3; at most 2^14 + 256 bytes (RFC 8446, 5.1 and 5.2). The last one may be cut by the end of the capture.
fn tls_records(bytes: &[u8]) -> usize {
    assert_eq!(bytes.first(), Some(&22), "a connection begins with a handshake record, not {:?}", bytes.get(..16));
    let (mut rest, mut records) = (bytes, 0);
    while rest.len() >= 5 {
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        let known = (20..=23).contains(&rest[0]) && rest[1] == 3 && matches!(rest[2], 1 | 3) && length <= 16_640;
        assert!(known, "not a TLS record after {records}: {:?}", &rest[..rest.len().min(16)]);
        rest = rest.get(5 + length..).unwrap_or_default();
        records += 1;
    }
    records
}

#[tokio::test]
async fn between_gateway_and_sidecar_there_is_tls_and_nothing_else() {
    let _shared = ALONE.read().await;
    let test = "between_gateway_and_sidecar_there_is_tls_and_nothing_else";
    let Some(tcpdump) = outside::need_tcpdump(test) else { return };
    let Some(mut mesh) = Mesh::start(test, &[App::Users]).await else { return };
    let inbound = mesh.members[0].sidecar.address("inbound").await.port();
    let front = mesh.gateway_at().port();

    let file = mesh.dir().join("wire.pcap");
    let mut command = Command::new(tcpdump);
    command.args(["-i", "lo", "--immediate-mode", "-U", "-Z", "root", "-s", "0", "-B", "16384", "-w"]).arg(&file);
    command.arg(format!("tcp port {inbound} or tcp port {front}"));
    let mut capture = Process::spawn("tcpdump", command).unwrap();
    wait::until("tcpdump to listen", SOON, || async { capture.said("listening on lo").then_some(()) }).await;

    // A gateway that starts now: its connections to the sidecar are in the capture from their first byte on.
    let mut command = Command::new(mesh.weft());
    command.args(["gateway", "--listen", "127.0.0.1:0", "--log-format", "json", "--token-file"]);
    let mut gateway = Process::spawn("gateway", {
        command.arg(mesh.token_file("gateway"));
        command
    })
    .unwrap();
    let second = gateway.address("http").await;
    let marker = format!("marker-{}-in-plain-sight", std::process::id());
    for (n, at) in [second, mesh.gateway_at()].into_iter().enumerate() {
        let body = json!({"name": marker, "email": format!("{marker}-{n}@example.com")}).to_string();
        let create = || async {
            let answer = send(at, Method::POST, "/api/users", &body).await.ok()?;
            matches!(answer.status, StatusCode::CREATED).then_some(())
        };
        wait::until("the call to be answered", SOON, create).await;
    }
    // What was sent last has reached the file: the capture is complete.
    wait::until("the capture to hold both calls", SOON, || async {
        let bytes = std::fs::read(&file).ok()?;
        let seen = |n: usize| {
            let email = format!("{marker}-{n}@example.com");
            bytes.windows(email.len()).any(|window| window == email.as_bytes())
        };
        seen(1).then_some(())
    })
    .await;
    capture.signal(Signal::INT);
    capture.end(SOON).await;
    assert!(capture.said("0 packets dropped by kernel"), "{}", capture.log());

    let flows = flows(&std::fs::read(&file).unwrap());
    let of = |port: u16| flows.iter().filter(move |((from, to), _)| *from == port || *to == port);
    assert!(of(front).any(|(_, carried)| carried.contains(&marker)), "the capture shows what is plaintext");
    assert!(
        of(inbound).all(|(_, carried)| !carried.contains(&marker)),
        "the text was sent to the sidecar in plaintext"
    );
    let mut directions = BTreeSet::new();
    for ((from, to), carried) in of(inbound) {
        let Some(start) = carried.start else { continue }; // older than the capture
        if !carried.segments.is_empty() {
            let records = tls_records(&carried.bytes(start));
            println!("{from} → {to}: {records} TLS records");
            directions.insert(*to == inbound);
        }
    }
    assert_eq!(directions.len(), 2, "a whole connection was captured, both ways: {:?}", flows.keys());
}

#[test]
fn what_is_no_tls_is_seen() {
    assert_eq!(tls_records(&[22, 3, 1, 0, 1, 0, 23, 3, 3, 0, 2, 0, 0, 23, 3, 3, 1]), 2);
    for other in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[22, 3, 1, 0, 1, 0, 80, 82, 73, 32, 42], &[]] {
        assert!(std::panic::catch_unwind(|| tls_records(other)).is_err(), "{other:?}");
    }
}
