//! A WebSocket from its first message to its last: one call upstream.
//!
//! Lives here: messages both ways, how either side ends, what keeps a dead client from being waited for. Does not: frames (tungstenite), JSON (`weft_transcode`).
//! ```text
//! client                                           gateway
//! text: one JSON message (HttpBody: any bytes) --> one request message
//! an empty message: the client has said all    --> end of the request messages; WebSocket itself has no half-close
//! one reply message                            <-- text: JSON (HttpBody: binary)
//! {"error": status}, then close                <-- 4000 + gRPC code; 1009 too long; 1003 binary where JSON belongs; 1008 too many pings; 1001 the gateway leaves
//! close 1000                                   <-- the call succeeded
//! close, or silence                            --> the call is cancelled
//! ```
//! Bounds: a message has at most `max_request_bytes`; one message waits in each direction. Back-pressure: while upstream takes no message none is read from
//! the socket, while the client takes none none is read from upstream.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use http::request;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message, Utf8Bytes,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};
use weft_runtime::Shutdown;
use weft_traffic::{Body, BodySender};
use weft_transcode::{Codec, Status, stream::MessageReader};

use crate::{
    edge::{call::Call, limits::Most, metrics},
    protocol::{
        Shard,
        codes::{INTERNAL, INVALID_ARGUMENT, RESOURCE_EXHAUSTED, UNAVAILABLE},
        frames::frame,
        replies::{Next, Replies},
        rest::Exchange,
    },
    routes::Found,
};

/// A client is asked whether it lives this often, and taken for dead when it has said nothing at all for longer than two of them.
const PING_EVERY: Duration = Duration::from_secs(25);
const SILENCE: Duration = Duration::from_secs(60);
/// A client that takes nothing of a message for so long is dead, too.
const STALLED: Duration = Duration::from_secs(60);
/// Pings of the client within [`SILENCE`]; each costs an answer that waits if the client does not read.
const PINGS: u32 = 120;
/// How long the last words may take, and the client's answer to them.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long a session goes on once the gateway drains: less than calls in flight may (`gateway::LIMIT`), so that its client is told.
const LEAVING: Duration = Duration::from_secs(15);
/// Longest reason of a close frame (RFC 6455, 5.5).
const REASON: usize = 123;
const READ_BUFFER: usize = 8 << 10;

type Socket = WebSocketStream<TokioIo<Upgraded>>;
type Outward = SplitSink<Socket, Message>;
type Inward = SplitStream<Socket>;

/// A WebSocket that was granted.
pub(super) struct Session {
    pub(super) shard: Shard,
    pub(super) head: request::Parts,
    pub(super) found: Found,
    pub(super) call: Call,
}

/// How a session ends.
#[derive(Debug)]
enum End {
    /// The call ended; code 0 is success.
    Call(Status),
    /// The client did what it may not.
    Wrong(Status, CloseCode),
    /// The client closed, is gone, or is taken for dead.
    Left,
    /// The gateway drains.
    Leaving,
}

impl Session {
    /// Runs the session to its end. Dropped, it takes the call back and breaks the connection off.
    pub(super) async fn run(mut self: Box<Self>, reader: MessageReader, upgrade: OnUpgrade, shutdown: Shutdown) {
        let Ok(upgraded) = upgrade.await else { return }; // the client was gone before it was told
        let Self { shard, head, found, call } = &*self;
        let limit = Exchange { shard, head, found, call }.most();
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(limit.len()))
            .max_frame_size(Some(limit.len()));
        let socket = Socket::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let (mut outward, mut inward) = socket.split();
        let (sender, body) = Body::channel(1);
        let requests = Requests::new(&self.found, reader, sender, limit);
        let end = tokio::select! {
            biased; // a message that is wrong also breaks the call: the cause is the end
            end = requests.pass_on(&mut inward) => end,
            end = self.pass_back(body, &mut outward) => end,
            () = leaving(&shutdown) => End::Leaving,
        };
        self.call.status = end.status();
        drop(timeout(FAREWELL, self.part(end, outward, inward)).await); // who does not listen is not told
    }

    /// Calls, and passes the replies on.
    async fn pass_back(&self, body: Body, outward: &mut Outward) -> End {
        let Self { shard, head, found, call } = self;
        let exchange = Exchange { shard, head, found, call };
        let timeout = exchange.timeout().unwrap_or_default(); // read before, when it could be refused
        let mut calling = std::pin::pin!(exchange.call_streaming(body, timeout));
        let mut pings = interval_at(Instant::now() + PING_EVERY, PING_EVERY);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut replies = None;
        let mut only = None;
        loop {
            let next = tokio::select! {
                answered = calling.as_mut(), if replies.is_none() => match answered {
                    Ok((_, began)) => {
                        replies = Some(began);
                        continue;
                    }
                    Err(failure) => return End::Call(failure.into_status()),
                },
                next = next(&mut replies) => next,
                _ = pings.tick() => {
                    if !say(outward, Message::Ping(Bytes::new())).await {
                        return End::Left;
                    }
                    continue;
                }
            };
            let said = match (next, found.plan.method().streaming().server()) {
                (Next::Message(reply), true) => self.say_reply(outward, &reply).await,
                // The only one there is counts if the call succeeds.
                (Next::Message(reply), false) if only.is_none() => {
                    only = Some(reply);
                    continue;
                }
                (Next::Message(_), false) => Err(internal("upstream sent two messages in place of one")),
                (Next::End(status), false) if status.code == 0 => match &only {
                    Some(reply) => self.say_reply(outward, reply).await.and(Err(End::Call(status))),
                    None => Err(internal("upstream succeeded without a message")),
                },
                (Next::End(status), _) => Err(End::Call(status)),
            };
            if let Err(end) = said {
                return end;
            }
        }
    }

    fn codec(&self) -> &Codec {
        self.found.codec(&self.shard.shared.codec)
    }

    async fn say_reply(&self, outward: &mut Outward, reply: &Bytes) -> Result<(), End> {
        let plan = &self.found.plan;
        let encoded = self.codec().encode_owned(plan, reply).map_err(|error| End::Call(error.status()))?;
        let message = match plan.returns_raw_body() {
            true => Message::Binary(encoded.body),
            false => Message::Text(text(encoded.body)),
        };
        if say(outward, message).await { Ok(()) } else { Err(End::Left) }
    }

    /// Says how the session ended, and waits until the client has heard it.
    async fn part(&self, end: End, mut outward: Outward, mut inward: Inward) -> Result<(), Error> {
        let (status, code) = match end {
            End::Left => return outward.close().await, // answers a close frame
            End::Call(status) if status.code == 0 => (status, CloseCode::Normal),
            End::Call(status) => {
                let code = u16::try_from(status.code).ok().filter(|code| *code < 1000).unwrap_or_default();
                (status, CloseCode::from(4000 + code))
            }
            End::Wrong(status, code) => (status, code),
            End::Leaving => (Status::new(UNAVAILABLE, "the gateway is leaving; connect anew"), CloseCode::Away),
        };
        if status.code != 0 {
            let status = self.codec().encode_status(&status, Some(&self.found.plan));
            let error = [b"{\"error\":", &status[..], b"}"].concat();
            outward.send(Message::Text(text(error.into()))).await?;
        }
        let reason = shortened(&status.message).into();
        outward.send(Message::Close(Some(CloseFrame { code, reason }))).await?;
        while let Some(Ok(_)) = inward.next().await {} // until the client has closed as well
        Ok(())
    }
}

impl End {
    /// As the REST call would have ended.
    fn status(&self) -> metrics::Status {
        metrics::Status::Http(match self {
            Self::Call(status) | Self::Wrong(status, _) => status.http_status(),
            Self::Left => 499,
            Self::Leaving => 503,
        })
    }
}

/// The client's messages on their way upstream. Dropped before the client has said all, it breaks the request off.
struct Requests {
    reader: MessageReader,
    /// None once all is said, or upstream wants no more.
    upstream: Option<BodySender>,
    /// Whether all was said; what comes then is too much.
    said_all: bool,
    many: bool,
    raw: bool,
    limit: Most,
}

impl Requests {
    fn new(found: &Found, reader: MessageReader, upstream: BodySender, limit: Most) -> Self {
        let (many, raw) = (found.plan.method().streaming().client(), found.plan.takes_raw_body());
        Self { reader, upstream: Some(upstream), said_all: false, many, raw, limit }
    }

    /// Passes messages on until the client leaves or does what it may not.
    async fn pass_on(mut self, inward: &mut Inward) -> End {
        match self.pass(inward).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn pass(&mut self, inward: &mut Inward) -> Result<Infallible, End> {
        if let Some(message) = self.reader.whole_head().map_err(|error| End::Call(error.status()))? {
            self.send(&message).await;
            self.end();
        }
        let (mut pings, mut since) = (0, Instant::now());
        loop {
            let message = timeout(SILENCE, inward.next()).await.map_err(|_| End::Left)?.ok_or(End::Left)?;
            match message.map_err(|error| self.unreadable(&error))? {
                Message::Text(text) => self.take(text.as_str().as_bytes()).await?,
                Message::Binary(bytes) if self.raw || bytes.is_empty() => self.take(&bytes).await?,
                Message::Binary(_) => {
                    let message = "binary messages are for bodies of type google.api.HttpBody; send JSON as text";
                    return Err(End::Wrong(Status::new(INVALID_ARGUMENT, message), CloseCode::Unsupported));
                }
                Message::Close(_) => return Err(End::Left),
                Message::Ping(_) => {
                    if since.elapsed() > SILENCE {
                        (pings, since) = (0, Instant::now());
                    }
                    pings += 1;
                    if pings > PINGS {
                        let message = format!("more than {PINGS} pings within {SILENCE:?}");
                        return Err(End::Wrong(Status::new(RESOURCE_EXHAUSTED, message), CloseCode::Policy));
                    }
                }
                Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn take(&mut self, document: &[u8]) -> Result<(), End> {
        if document.is_empty() {
            self.end();
            return Ok(());
        }
        if self.said_all {
            let message = if self.many {
                "a message after the empty one, which ends the stream"
            } else {
                "the method takes one message"
            };
            return Err(End::Call(Status::new(INVALID_ARGUMENT, message)));
        }
        let message = self.reader.read(document).map_err(|error| End::Call(error.status()))?;
        self.send(&message).await;
        if !self.many {
            self.end();
        }
        Ok(())
    }

    async fn send(&mut self, message: &[u8]) {
        let Some(upstream) = &mut self.upstream else { return };
        if upstream.data(frame(message)).await.is_err() {
            self.upstream = None; // it answers without the rest
        }
    }

    fn end(&mut self) {
        self.said_all = true;
        self.upstream = None;
    }

    fn unreadable(&self, error: &Error) -> End {
        match error {
            Error::Capacity(_) => End::Wrong(self.limit.too_long("a message"), CloseCode::Size),
            Error::Utf8(_) => {
                let message = "a text message is not UTF-8";
                End::Wrong(Status::new(INVALID_ARGUMENT, message), CloseCode::Invalid)
            }
            Error::Protocol(error) if *error != RESET => {
                End::Wrong(Status::new(INVALID_ARGUMENT, format!("no WebSocket: {error}")), CloseCode::Protocol)
            }
            _ => End::Left,
        }
    }
}

/// The connection ended without a close frame.
const RESET: tokio_tungstenite::tungstenite::error::ProtocolError =
    tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;

impl Drop for Requests {
    fn drop(&mut self) {
        if let Some(upstream) = self.upstream.take() {
            upstream.fail("the client left"); // to end it in good order would say that the client has said all
        }
    }
}

/// Waits for the next reply; for ever while there is no answer.
async fn next(replies: &mut Option<Replies>) -> Next {
    match replies {
        Some(replies) => replies.next().await,
        None => std::future::pending().await,
    }
}

async fn say(outward: &mut Outward, message: Message) -> bool {
    matches!(timeout(STALLED, outward.send(message)).await, Ok(Ok(())))
}

async fn leaving(shutdown: &Shutdown) {
    shutdown.draining().await;
    sleep(LEAVING).await;
}

fn internal(message: &str) -> End {
    End::Call(Status::new(INTERNAL, message))
}

/// What we print is JSON, which is text.
fn text(json: Bytes) -> Utf8Bytes {
    Utf8Bytes::try_from(json).unwrap_or_default()
}

/// As much of a message as a close frame holds.
fn shortened(message: &str) -> &str {
    &message[..message.floor_char_boundary(REASON)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_fits_into_a_close_frame_and_stays_text() {
        assert_eq!(shortened("short"), "short");
        let long = "ä".repeat(200);
        assert_eq!(shortened(&long), &long[..122]);
    }

    #[test]
    fn a_session_counts_as_the_rest_call_would() {
        let of = |end: End| end.status();
        assert_eq!(of(End::Call(Status::new(0, ""))), metrics::Status::Http(200));
        assert_eq!(of(End::Call(Status::new(5, ""))), metrics::Status::Http(404));
        assert_eq!(of(End::Left), metrics::Status::Http(499));
        assert_eq!(of(End::Leaving), metrics::Status::Http(503));
    }
}
