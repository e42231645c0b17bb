//! gRPC message frames: a flag byte, a big-endian length, the message.
//!
//! Lives here: framing one message, taking messages off a body as it arrives. Does not: what the messages are, or the status after them.
//! Source: gRPC over HTTP/2, "Length-Prefixed-Message". Compressed messages are refused: we ask for `identity` only.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Flag and length.
const PREFIX: usize = 5;

/// Longest reply message we hold in memory to translate it; native gRPC passes through at any length.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// Why bytes are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("upstream sent a compressed message although none was asked for")]
    Compressed,
    #[error("upstream sent a message of {0} bytes; at most {MAX_MESSAGE} can be translated")]
    TooLong(usize),
    #[error("upstream ended in the middle of a message")]
    Truncated,
}

/// Returns the message with its prefix.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("request bodies are limited far below 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

/// Takes messages off chunks. A message that lies whole in one chunk is not copied.
#[derive(Debug, Default)]
pub(crate) struct Deframer {
    chunk: Bytes,
    partial: BytesMut,
}

impl Deframer {
    /// Takes the next chunk of the body; only after `next` returned none.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// Returns the next whole message.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.partial.is_empty()
            && let Some(length) = length(&self.chunk)?
            && self.chunk.len() >= PREFIX + length
        {
            self.chunk.advance(PREFIX);
            return Ok(Some(self.chunk.split_to(length)));
        }
        self.next_partial()
    }

    fn next_partial(&mut self) -> Result<Option<Bytes>, FrameError> {
        if self.partial.len() < PREFIX {
            self.take(PREFIX);
        }
        let Some(length) = length(&self.partial)? else { return Ok(None) };
        self.take(PREFIX + length);
        if self.partial.len() < PREFIX + length {
            return Ok(None);
        }
        let mut message = std::mem::take(&mut self.partial).freeze();
        message.advance(PREFIX);
        Ok(Some(message))
    }

    /// Moves bytes from the chunk until `wanted` are together.
    fn take(&mut self, wanted: usize) {
        let missing = wanted.saturating_sub(self.partial.len()).min(self.chunk.len());
        self.partial.extend_from_slice(&self.chunk.split_to(missing));
    }

    /// Takes the end of the body.
    pub(crate) fn finish(&self) -> Result<(), FrameError> {
        if self.partial.is_empty() && self.chunk.is_empty() { Ok(()) } else { Err(FrameError::Truncated) }
    }
}

fn length(bytes: &[u8]) -> Result<Option<usize>, FrameError> {
    let Some((&[flag, a, b, c, d], _)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
    if flag != 0 {
        return Err(FrameError::Compressed);
    }
    match u32::from_be_bytes([a, b, c, d]) as usize {
        length if length > MAX_MESSAGE => Err(FrameError::TooLong(length)),
        length => Ok(Some(length)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(chunks: &[&[u8]]) -> Result<Vec<Bytes>, FrameError> {
        let mut deframer = Deframer::default();
        let mut found = Vec::new();
        for chunk in chunks {
            deframer.push(Bytes::copy_from_slice(chunk));
            while let Some(message) = deframer.next()? {
                found.push(message);
            }
        }
        deframer.finish()?;
        Ok(found)
    }

    #[test]
    fn messages_come_out_however_the_body_is_cut() {
        let body = [frame(b"one"), frame(b""), frame(&[7; 300])].concat();
        let expected = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 300])];
        for size in 1..=body.len() {
            let chunks: Vec<_> = body.chunks(size).collect();
            assert_eq!(messages(&chunks).unwrap(), expected, "chunks of {size}");
        }
    }

    #[test]
    fn what_is_no_message_is_named() {
        assert_eq!(messages(&[&frame(b"one")[..6]]), Err(FrameError::Truncated));
        assert_eq!(messages(&[&[0, 0]]), Err(FrameError::Truncated));
        assert_eq!(messages(&[&[1, 0, 0, 0, 0]]), Err(FrameError::Compressed));
        assert_eq!(messages(&[&[0, 255, 0, 0, 0]]), Err(FrameError::TooLong(255 << 24)));
    }
}
