//! HTTP/2 by hand: a client that may write any frame at all, and notes what comes back.
//!
//! Lives here: frames and uncompressed header blocks. Does not: flow control or any other manners.
//! Source: RFC 9113, 4.1, 6 and 7; RFC 7541, 6.2.2 (literals without indexing, no Huffman coding).

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::timeout,
};

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const NO_ERROR: u32 = 0;
pub(super) const CANCEL: u32 = 8;
pub(super) const COMPRESSION_ERROR: u32 = 9;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A frame that came back.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

/// A connection without manners.
pub(super) struct Raw {
    write: OwnedWriteHalf,
    seen: Arc<Mutex<Seen>>,
    reader: JoinSet<()>,
}

#[derive(Default)]
struct Seen {
    /// The last so many: a flood is answered by a flood.
    frames: Vec<Frame>,
    ended: bool,
}

const KEPT: usize = 10_000;

impl Raw {
    /// Connects, says hello and reads what comes.
    pub(super) async fn connect(to: SocketAddr) -> Self {
        let (read, mut write) = TcpStream::connect(to).await.unwrap().into_split();
        write.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).await.unwrap();
        let seen = Arc::<Mutex<Seen>>::default();
        let mut reader = JoinSet::new();
        reader.spawn(note(read, seen.clone()));
        Self { write, seen, reader }
    }

    /// Stops reading, so that answers pile up at the other side.
    pub(super) fn stop_reading(&mut self) {
        self.reader.abort_all();
    }

    /// Writes frames; false if the other side takes no more, within `limit` or for good.
    pub(super) async fn write(&mut self, frames: &[u8], limit: Duration) -> bool {
        matches!(timeout(limit, self.write.write_all(frames)).await, Ok(Ok(())))
    }

    /// Returns whether the other side has said goodbye or hung up.
    pub(super) fn is_over(&self) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.ended || seen.frames.iter().any(|it| it.kind == GOAWAY)
    }

    /// Returns the error code of the last GOAWAY.
    pub(super) fn goodbye(&self) -> Option<u32> {
        let seen = self.seen.lock().unwrap();
        let last = seen.frames.iter().rfind(|it| it.kind == GOAWAY)?;
        Some(u32::from_be_bytes(last.payload.get(4..8)?.try_into().ok()?))
    }

    /// Returns the frames of a kind on a stream.
    pub(super) fn frames(&self, kind: u8, stream: u32) -> Vec<Frame> {
        let seen = self.seen.lock().unwrap();
        seen.frames.iter().filter(|it| it.kind == kind && it.stream == stream).cloned().collect()
    }
}

async fn note(mut read: OwnedReadHalf, seen: Arc<Mutex<Seen>>) {
    let mut head = [0; 9];
    while read.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7FFF_FFFF;
        let frames = &mut seen.lock().unwrap().frames;
        if frames.len() == KEPT {
            frames.remove(0);
        }
        frames.push(Frame { kind: head[3], stream, payload });
    }
    seen.lock().unwrap().ended = true;
}

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns a header block of literals.
pub(super) fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        text(&mut block, name);
        text(&mut block, value);
    }
    block
}

/// Returns a literal that also enters the dynamic table, whose newest entry is number 62.
pub(super) fn indexed(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0x40];
    text(&mut block, name);
    text(&mut block, value);
    block
}

/// Writes a string with its length: an integer with a prefix of seven bits.
fn text(block: &mut Vec<u8>, text: &str) {
    match text.len() {
        short @ 0..127 => block.push(u8::try_from(short).unwrap()),
        long => {
            block.push(127);
            let mut rest = long - 127;
            while rest >= 128 {
                block.push(u8::try_from(rest % 128).unwrap() | 128);
                rest /= 128;
            }
            block.push(u8::try_from(rest).unwrap());
        }
    }
    block.extend_from_slice(text.as_bytes());
}

/// Returns the head of a call with a JSON body.
pub(super) fn post(path: &str) -> Vec<u8> {
    block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "gateway.test"),
        ("content-type", "application/json"),
    ])
}
