//! Messages in frames: a byte of flags, a big-endian length, the message. gRPC, gRPC-Web and the streams of Connect have the same.
//!
//! Lives here: framing one message, taking messages off a body as it arrives. Does not: what flags and messages mean, or what comes after them.
//! Source: gRPC over HTTP/2, "Length-Prefixed-Message"; Connect, "Enveloped-Message".

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Flags and length.
pub(crate) const PREFIX: usize = 5;

/// Flag of a message that is compressed.
pub(crate) const COMPRESSED: u8 = 1;

/// Longest reply message we hold in memory to translate it; native gRPC passes through at any length.
pub(crate) const MAX_MESSAGE: usize = 64 << 20;

/// A message and the flags it came with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) flags: u8,
    pub(crate) bytes: Bytes,
}

/// Why bytes are no frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a message of {length} bytes; at most {limit} are taken")]
    TooLong { length: usize, limit: usize },
    #[error("the body ended in the middle of a message")]
    Truncated,
}

/// Returns the message with its prefix and no flags.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    frame_with(0, message)
}

/// Returns the message with its prefix.
pub(crate) fn frame_with(flags: u8, message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.put_u8(flags);
    framed.put_u32(u32::try_from(message.len()).expect("messages are limited far below 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

/// Returns as a frame without flags what begins with room for the prefix, of [`PREFIX`] bytes.
pub(crate) fn framed(mut behind: Vec<u8>) -> Bytes {
    let length = u32::try_from(behind.len() - PREFIX).expect("messages are limited far below 4 GiB");
    behind[0] = 0;
    behind[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    behind.into()
}

/// Takes messages off chunks. A message that lies whole in one chunk is not copied. Holds at most one message and one chunk.
#[derive(Debug)]
pub(crate) struct Deframer {
    limit: usize,
    chunk: Bytes,
    partial: BytesMut,
}

impl Deframer {
    /// Takes messages of at most `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, chunk: Bytes::new(), partial: BytesMut::new() }
    }

    /// Takes the next chunk of the body; only after `next` returned none.
    pub(crate) fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.chunk.is_empty());
        self.chunk = chunk;
    }

    /// Returns the next whole message.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, FrameError> {
        if self.partial.is_empty()
            && let Some((flags, length)) = self.prefix(&self.chunk)?
            && self.chunk.len() >= PREFIX + length
        {
            self.chunk.advance(PREFIX);
            return Ok(Some(Message { flags, bytes: self.chunk.split_to(length) }));
        }
        self.next_partial()
    }

    fn next_partial(&mut self) -> Result<Option<Message>, FrameError> {
        if self.partial.len() < PREFIX {
            self.take(PREFIX);
        }
        let Some((flags, length)) = self.prefix(&self.partial)? else { return Ok(None) };
        self.take(PREFIX + length);
        if self.partial.len() < PREFIX + length {
            return Ok(None);
        }
        let mut bytes = std::mem::take(&mut self.partial).freeze();
        bytes.advance(PREFIX);
        Ok(Some(Message { flags, bytes }))
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

    fn prefix(&self, bytes: &[u8]) -> Result<Option<(u8, usize)>, FrameError> {
        let Some((&[flags, a, b, c, d], _)) = bytes.split_first_chunk::<PREFIX>() else { return Ok(None) };
        match u32::from_be_bytes([a, b, c, d]) as usize {
            length if length > self.limit => Err(FrameError::TooLong { length, limit: self.limit }),
            length => Ok(Some((flags, length))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn messages<'c>(limit: usize, chunks: impl IntoIterator<Item = &'c [u8]>) -> Result<Vec<Message>, FrameError> {
        let mut deframer = Deframer::new(limit);
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
        let body = [frame(b"one"), frame_with(2, b""), frame(&[7; 300])].concat();
        let message = |flags, bytes: &'static [u8]| Message { flags, bytes: Bytes::from_static(bytes) };
        let expected = [message(0, b"one"), message(2, b""), message(0, &[7; 300])];
        for size in 1..=body.len() {
            assert_eq!(messages(300, body.chunks(size)).unwrap(), expected, "chunks of {size}");
        }
    }

    #[test]
    fn a_message_behind_its_room_is_framed_where_it_is() {
        for message in [&b""[..], b"one", &[7; 300]] {
            assert_eq!(framed([&[9; PREFIX], message].concat()), frame(message));
        }
    }

    #[test]
    fn what_is_no_message_is_named() {
        assert_eq!(messages(9, [&frame(b"one")[..6]]), Err(FrameError::Truncated));
        assert_eq!(messages(9, [&[0, 0][..]]), Err(FrameError::Truncated));
        assert_eq!(messages(9, [&frame(&[0; 10])[..]]), Err(FrameError::TooLong { length: 10, limit: 9 }));
    }

    proptest! {
        #[test]
        fn any_bytes_are_messages_or_an_error_and_what_was_read_is_what_was_written(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 1usize..50,
        ) {
            if let Ok(found) = messages(100, bytes.chunks(cut)) {
                let written: Vec<u8> = found.iter().flat_map(|it| frame_with(it.flags, &it.bytes)).collect();
                prop_assert_eq!(written, bytes);
            }
        }

        #[test]
        fn any_messages_survive_any_cut(
            sent in proptest::collection::vec((any::<u8>(), proptest::collection::vec(any::<u8>(), 0..40)), 0..8),
            cut in 1usize..50,
        ) {
            let body: Vec<u8> = sent.iter().flat_map(|(flags, it)| frame_with(*flags, it)).collect();
            let found = messages(40, body.chunks(cut)).unwrap();
            let found: Vec<_> = found.into_iter().map(|it| (it.flags, it.bytes.to_vec())).collect();
            prop_assert_eq!(found, sent);
        }
    }
}
