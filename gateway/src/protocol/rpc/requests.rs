//! The request's side: a body of frames becomes gRPC messages.
//!
//! Lives here: reading one message, a client stream as it arrives, what is wrong with either. Does not: what the frames are called in a protocol.
//! Bounds: a message has at most the limit, compressed and not; at most one message and one chunk wait. Back-pressure: the body is pulled by whoever
//! writes it upstream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use weft_traffic::Body;
use weft_transcode::Status;

use super::{CANCELLED, DEADLINE_EXCEEDED, INTERNAL, INVALID_ARGUMENT, Messages, UNIMPLEMENTED};
use crate::{
    edge::limits::Most,
    protocol::{
        chain,
        compression::{DecompressError, Encoding},
        frames::{COMPRESSED, Deframer, FrameError, Message, frame},
    },
};

/// How the messages of a request are read.
#[derive(Debug, Clone)]
pub(crate) struct Intake {
    pub(crate) messages: Messages,
    /// What messages with the flag are compressed by.
    pub(crate) encoding: Option<Encoding>,
    /// Bytes of a message.
    pub(crate) limit: Most,
}

impl Intake {
    /// Returns the protobuf of a message as it came.
    fn open(&self, message: Message) -> Result<Bytes, Status> {
        let bytes = match (message.flags, self.encoding) {
            (0, _) => message.bytes,
            (COMPRESSED, Some(encoding)) => decompressed(encoding, message.bytes, &self.limit)?,
            (COMPRESSED, None) => {
                return Err(Status::new(INTERNAL, "a message is compressed although the head names no compression"));
            }
            (flags, _) => {
                return Err(Status::new(INVALID_ARGUMENT, format!("a message has unknown flags {flags:#04x}")));
            }
        };
        self.messages.request(bytes)
    }

    /// Returns the protobuf of a message that was not in a frame.
    pub(crate) fn bare(&self, bytes: Bytes) -> Result<Bytes, Status> {
        match self.encoding {
            Some(encoding) => self.messages.request(decompressed(encoding, bytes, &self.limit)?),
            None => self.messages.request(bytes),
        }
    }
}

/// Nothing is nothing, compressed or not.
fn decompressed(encoding: Encoding, bytes: Bytes, limit: &Most) -> Result<Bytes, Status> {
    if bytes.is_empty() {
        return Ok(bytes);
    }
    encoding.decompress(&bytes, limit.len()).map_err(|error| match error {
        DecompressError::TooLong(_) => limit.too_long("a message"),
        DecompressError::Malformed(_) => Status::new(INVALID_ARGUMENT, format!("the message is {}", chain(&error))),
    })
}

fn unframed(error: FrameError, limit: &Most) -> Status {
    match error {
        FrameError::TooLong { .. } => limit.too_long("a message"),
        FrameError::Truncated => Status::new(INVALID_ARGUMENT, format!("request: {error}")),
    }
}

/// A body that ended early; text that is no base64 is the client's mistake, anything else its leaving.
fn broke_off(error: &(dyn std::error::Error + 'static)) -> Status {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let code = if causes.any(|it| it.is::<base64::DecodeError>()) { INVALID_ARGUMENT } else { CANCELLED };
    Status::new(code, format!("the request body broke off: {}", chain(error)))
}

/// Reads a body that has to be exactly one message.
pub(crate) async fn one(body: Body, intake: &Intake, deadline: Option<Instant>) -> Result<Bytes, Status> {
    const PREFIX: usize = 5;
    let limit = &intake.limit;
    let unframed = |error| unframed(error, limit);
    let mut deframer = Deframer::new(limit.len());
    deframer.push(whole(body, limit, PREFIX, deadline).await?);
    let wrong = |count| Status::new(UNIMPLEMENTED, format!("the method takes one message; the request has {count}"));
    let Some(message) = deframer.next().map_err(unframed)? else {
        deframer.finish().map_err(unframed)?;
        return Err(wrong("none"));
    };
    match deframer.next().map_err(unframed)? {
        Some(_) => Err(wrong("more")),
        None => {
            deframer.finish().map_err(unframed)?;
            intake.open(message)
        }
    }
}

/// Reads a whole body of at most `most` bytes, and `beyond` that are not the message's.
pub(crate) async fn whole(
    mut body: Body,
    most: &Most,
    beyond: usize,
    deadline: Option<Instant>,
) -> Result<Bytes, Status> {
    let limit = most.len().saturating_add(beyond);
    if usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX) > limit {
        return Err(most.too_long("the request"));
    }
    let Some(first) = next_data(&mut body, deadline).await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(most.too_long("the request"));
    }
    let Some(second) = next_data(&mut body, deadline).await? else { return Ok(first) }; // nearly always: not copied
    let mut all = BytesMut::from(first.as_ref());
    let mut next = Some(second);
    while let Some(data) = next {
        if all.len() + data.len() > limit {
            return Err(most.too_long("the request"));
        }
        all.extend_from_slice(&data);
        next = next_data(&mut body, deadline).await?;
    }
    Ok(all.freeze())
}

async fn next_data(body: &mut Body, deadline: Option<Instant>) -> Result<Option<Bytes>, Status> {
    loop {
        let frame = match deadline {
            Some(deadline) => timeout_at(deadline, body.frame())
                .await
                .map_err(|_| Status::new(DEADLINE_EXCEEDED, "deadline exceeded while the request was read"))?,
            None => body.frame().await,
        };
        match frame {
            None => return Ok(None),
            Some(Err(error)) => return Err(broke_off(&error)),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The request was wrong; what is wrong went to the one who answers.
#[derive(Debug, thiserror::Error)]
#[error("the request body cannot become messages")]
pub(crate) struct Wrong;

/// The messages of a client stream, as gRPC has them.
pub(crate) struct RequestMessages {
    body: Body,
    deframer: Deframer,
    intake: Intake,
    wrong: Option<oneshot::Sender<Status>>,
}

impl RequestMessages {
    /// `wrong` is told what cannot become a message.
    pub(crate) fn new(body: Body, intake: Intake, wrong: oneshot::Sender<Status>) -> Self {
        Self { body, deframer: Deframer::new(intake.limit.len()), intake, wrong: Some(wrong) }
    }

    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let unframed = |error| unframed(error, &self.intake.limit);
        let Some(message) = self.deframer.next().map_err(unframed)? else { return Ok(None) };
        self.intake.open(message).map(|message| Some(frame(&message)))
    }
}

impl http_body::Body for RequestMessages {
    type Data = Bytes;
    type Error = Wrong;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Wrong>>> {
        loop {
            let taken = match self.next() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Err(status) => Err(status),
                Ok(None) => match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            self.deframer.push(data); // trailers of a request carry nothing for us
                        }
                        Ok(())
                    }
                    Some(Err(error)) => Err(broke_off(&error)),
                    None => match self.deframer.finish() {
                        Ok(()) => return Poll::Ready(None),
                        Err(error) => Err(unframed(error, &self.intake.limit)),
                    },
                },
            };
            if let Err(status) = taken {
                if let Some(wrong) = self.wrong.take() {
                    drop(wrong.send(status)); // nobody waits for it only when the answer was given up
                }
                return Poll::Ready(Some(Err(Wrong)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{codes::RESOURCE_EXHAUSTED, frames::frame_with, rpc::Format};
    use weft_transcode::Codec;

    fn intake(encoding: Option<Encoding>) -> Intake {
        let messages = Messages { codec: Codec::default(), format: Format::Proto, method: None, limits: None };
        Intake { messages, encoding, limit: Most::of_gateway(100) }
    }

    async fn read(encoding: Option<Encoding>, body: Vec<u8>) -> Result<Bytes, i32> {
        one(Body::full(body), &intake(encoding), None).await.map_err(|status| status.code)
    }

    #[tokio::test]
    async fn one_message_is_one_message() {
        assert_eq!(read(None, frame(b"a").to_vec()).await.unwrap(), "a");
        assert_eq!(read(None, vec![]).await, Err(UNIMPLEMENTED));
        assert_eq!(read(None, [frame(b"a"), frame(b"b")].concat()).await, Err(UNIMPLEMENTED));
        assert_eq!(read(None, frame(b"abc")[..7].to_vec()).await, Err(INVALID_ARGUMENT));
        assert_eq!(read(None, [&frame(b"a")[..], b"x"].concat()).await, Err(INVALID_ARGUMENT));
        assert_eq!(read(None, frame(&[0; 100]).to_vec()).await.unwrap().len(), 100);
        assert_eq!(read(None, frame(&[0; 101]).to_vec()).await, Err(RESOURCE_EXHAUSTED));
    }

    #[tokio::test]
    async fn a_body_in_pieces_may_be_as_long_as_a_whole_one() {
        for pieces in [vec![100], vec![50, 50], vec![1, 98, 1], vec![101], vec![50, 51], vec![60, 40, 1]] {
            let (mut sender, body) = Body::channel(8);
            for length in &pieces {
                sender.data(Bytes::from(vec![7; *length])).await.unwrap();
            }
            drop(sender);
            let read = whole(body, &Most::of_gateway(100), 0, None).await.map_err(|status| status.code);
            let expected =
                if pieces.iter().sum::<usize>() > 100 { Err(RESOURCE_EXHAUSTED) } else { Ok(vec![7; 100].into()) };
            assert_eq!(read, expected, "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn a_flag_is_believed_only_where_the_head_names_a_compression() {
        let gzip = Some(Encoding::Gzip);
        let small = frame_with(COMPRESSED, &Encoding::Gzip.compress(b"abc")).to_vec();
        assert_eq!(read(gzip, small.clone()).await.unwrap(), "abc");
        assert_eq!(read(None, small).await, Err(INTERNAL));
        assert_eq!(read(gzip, frame(b"abc").to_vec()).await.unwrap(), "abc", "not every message has to be compressed");
        assert_eq!(read(gzip, frame_with(COMPRESSED, b"").to_vec()).await.unwrap(), "");
        assert_eq!(read(gzip, frame_with(COMPRESSED, b"abc").to_vec()).await, Err(INVALID_ARGUMENT));
        let bomb = frame_with(COMPRESSED, &Encoding::Gzip.compress(&[0; 5000])).to_vec();
        assert_eq!(read(gzip, bomb).await, Err(RESOURCE_EXHAUSTED));
        assert_eq!(read(gzip, frame_with(2, b"{}").to_vec()).await, Err(INVALID_ARGUMENT));
    }

    #[tokio::test]
    async fn a_stream_that_turns_out_wrong_says_why_and_breaks() {
        let (wrong, went_wrong) = oneshot::channel();
        let body = Body::full([frame(b"a"), frame_with(4, b"b")].concat());
        let mut messages = RequestMessages::new(body, intake(None), wrong);
        assert_eq!(messages.frame().await.unwrap().unwrap().into_data().unwrap(), frame(b"a"));
        assert!(messages.frame().await.unwrap().is_err());
        assert_eq!(went_wrong.await.unwrap().code, INVALID_ARGUMENT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_does_not_come_is_waited_for_until_the_deadline() {
        let (_sender, body) = Body::channel(1);
        let deadline = Instant::now() + std::time::Duration::from_secs(1);
        assert_eq!(one(body, &intake(None), Some(deadline)).await.unwrap_err().code, DEADLINE_EXCEEDED);
    }
}
