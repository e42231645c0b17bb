//! Base64 of a body that goes on and on: gRPC-Web's text.
//!
//! Lives here: decoding a body as it arrives, however it is cut and wherever padding stands; encoding a frame. Does not: frames.
//! Source: PROTOCOL-WEB.md, "base64-encoded": each chunk a client or server sends may be padded by itself.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use base64::{
    Engine,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
    prelude::BASE64_STANDARD,
};
use bytes::Bytes;
use http_body::Frame;
use weft_traffic::{Body, BodyError};

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns a frame as text.
pub(super) fn encoded(frame: &Bytes) -> Bytes {
    BASE64_STANDARD.encode(frame).into()
}

#[derive(Debug, thiserror::Error)]
pub(super) enum TextError {
    #[error("the body is no base64")]
    Malformed(#[from] base64::DecodeError),
    #[error(transparent)]
    Body(#[from] BodyError),
}

/// A body decoded while it arrives. Besides a chunk it holds at most three characters.
pub(super) struct Decoded {
    body: Body,
    held: Vec<u8>,
    ended: bool,
}

impl Decoded {
    pub(super) fn new(body: Body) -> Self {
        Self { body, held: Vec::new(), ended: false }
    }

    /// Takes a chunk; returns what is certain by now.
    fn feed(&mut self, chunk: &[u8]) -> Result<Vec<u8>, base64::DecodeError> {
        self.held.extend_from_slice(chunk);
        let certain = self.held.len() / 4 * 4;
        let decoded = decode(&self.held[..certain])?;
        self.held.drain(..certain);
        Ok(decoded)
    }

    /// Takes the end: the last group may lack its padding.
    fn finish(&mut self) -> Result<Vec<u8>, base64::DecodeError> {
        LENIENT.decode(std::mem::take(&mut self.held))
    }
}

/// Decodes whole groups of four; after each padded one a new text begins.
fn decode(text: &[u8]) -> Result<Vec<u8>, base64::DecodeError> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3);
    let mut rest = text;
    while !rest.is_empty() {
        let end = rest.chunks_exact(4).position(|group| group[3] == b'=').map_or(rest.len(), |at| (at + 1) * 4);
        LENIENT.decode_vec(&rest[..end], &mut decoded)?;
        rest = &rest[end..];
    }
    Ok(decoded)
}

impl http_body::Body for Decoded {
    type Data = Bytes;
    type Error = TextError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, TextError>>> {
        while !self.ended {
            let decoded = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.feed(&data),
                    Err(_) => continue, // trailers of a request carry nothing for us
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    self.ended = true;
                    self.finish()
                }
            };
            match decoded {
                Ok(decoded) if decoded.is_empty() => {}
                Ok(decoded) => return Poll::Ready(Some(Ok(Frame::data(decoded.into())))),
                Err(error) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(text: &[u8], cut: usize) -> Result<Vec<u8>, base64::DecodeError> {
        let mut reader = Decoded::new(Body::empty());
        let mut all = Vec::new();
        for chunk in text.chunks(cut) {
            all.extend(reader.feed(chunk)?);
        }
        all.extend(reader.finish()?);
        Ok(all)
    }

    #[test]
    fn padding_may_stand_wherever_a_chunk_ended_and_may_be_missing_at_the_end() {
        for cut in 1..20 {
            assert_eq!(decoded(b"YQ==YmM=ZGVm", cut).unwrap(), b"abcdef", "{cut}");
            assert_eq!(decoded(b"YWI", cut).unwrap(), b"ab", "{cut}");
        }
        for wrong in [&b"Y"[..], b"YQ=a", b"Y-==", b"YQ==Y", b"\r\n\r\n"] {
            assert!(decoded(wrong, 3).is_err(), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_and_no_bytes_are_fatal(
            frames in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..30), 0..6),
            noise in proptest::collection::vec(any::<u8>(), 0..60),
            cut in 1usize..30,
        ) {
            let text: Vec<u8> = frames.iter().flat_map(|it| encoded(&Bytes::copy_from_slice(it))).collect();
            prop_assert_eq!(decoded(&text, cut).unwrap(), frames.concat());
            drop(decoded(&noise, cut));
        }
    }
}
