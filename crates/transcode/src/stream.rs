//! Streams over HTTP bodies: chunks in to request messages, reply messages out to a framed body.
//!
//! Lives here: splitting JSON arrays and NDJSON incrementally, framing as JSON array, NDJSON or SSE, raw bodies both ways. Does not: reading or
//! writing sockets, back-pressure. Memory held is one message.

use bytes::Bytes;

use crate::bind::BindError;
use crate::codec::EncodeError;
use crate::settings::StreamFormat;
use crate::status::Status;

/// Request messages of a client stream, as the body arrives.
#[derive(Debug)]
pub struct RequestStream {
    _buffer: Vec<u8>,
}

/// Reply messages of a server stream, framed.
#[derive(Debug)]
pub struct ReplyStream {
    _format: StreamFormat,
}

impl RequestStream {
    /// Takes a chunk of the body; returns the messages that it completes, encoded.
    ///
    /// # Errors
    /// `BindError` for what cannot be a message; the call should be cancelled and the error answered.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Bytes>, BindError> {
        let _ = chunk;
        todo!()
    }

    /// Takes the end of the body; returns the messages that were still due.
    ///
    /// # Errors
    /// `BindError` if the body ends in the middle.
    pub fn finish(&mut self) -> Result<Vec<Bytes>, BindError> {
        todo!()
    }

    /// Returns how many bytes of an unfinished message are held, for the caller's limit on message size.
    pub fn buffered(&self) -> usize {
        self._buffer.len()
    }
}

impl ReplyStream {
    /// Returns the content type of the answer; for raw bodies known only after the first message.
    pub fn content_type(&self) -> &str {
        todo!()
    }

    /// Returns the bytes to send for a reply message.
    ///
    /// # Errors
    /// `EncodeError`; pass it on through `fail`.
    pub fn message(&mut self, wire: &[u8]) -> Result<Bytes, EncodeError> {
        let _ = wire;
        todo!()
    }

    /// Returns the bytes that end the body after success.
    pub fn finish(&mut self) -> Bytes {
        todo!()
    }

    /// Returns whether any message was framed; if not, a failure is still a plain status answer.
    pub fn started(&self) -> bool {
        todo!()
    }

    /// Returns the bytes that report a failure in the stream, `{"error": status}`, and end the body.
    pub fn fail(&mut self, status: &Status) -> Bytes {
        let _ = status;
        todo!()
    }
}
