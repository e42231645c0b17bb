//! Streams over HTTP bodies: chunks in to request messages, reply messages out to a framed body.
//!
//! Lives here: framing replies as JSON array, NDJSON or SSE, raw bodies both ways, which framing a client asked for,
//! messages that stand apart (`apart`). Does not: reading or writing sockets, back-pressure, finding the documents in a body (`split`). Memory held is one
//! message.
//! Source: Envoy's array framing with errors in band; the WHATWG "Server-sent events" syntax. Event ids count messages from 1, so that a client
//! which comes back says by `Last-Event-ID` how many it has; the header reaches the service like any other.

mod apart;
mod split;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::bind::{BindError, Bindings};
use crate::codec::json::Position;
use crate::codec::{Codec, EncodeError, raw};
use crate::plan::MethodPlan;
use crate::settings::StreamFormat;
use crate::status::{JSON, Status};
pub use apart::MessageReader;
use split::{Document, Splitter};

/// Request messages of a client stream, as the body arrives.
#[derive(Debug)]
pub struct RequestStream {
    codec: Codec,
    plan: Arc<MethodPlan>,
    /// Path and query, until the first message takes them.
    bindings: Option<Bindings>,
    intake: Intake,
    check: Check,
}

/// What JSON of a stream has to pass before it is read, beside the codec's own bounds. By default that is nothing.
#[derive(Clone, Default)]
pub struct Check(Option<Arc<Judge>>);

type Judge = dyn Fn(&[u8]) -> Result<(), BindError> + Send + Sync;

impl Check {
    /// Returns a check that asks `judge` about each document.
    pub fn new(judge: impl Fn(&[u8]) -> Result<(), BindError> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(judge)))
    }

    fn pass(&self, document: &[u8]) -> Result<(), BindError> {
        self.0.as_ref().map_or(Ok(()), |judge| judge(document))
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.0.is_some()).finish()
    }
}

/// What a body is made of.
#[derive(Debug)]
enum Intake {
    /// Nothing: the message is path and query.
    Nothing,
    /// One message, complete at the end.
    Whole(Vec<u8>),
    /// Raw bytes; each chunk is a message.
    Raw { content_type: Option<String> },
    /// Raw bytes of a method that takes one message.
    RawWhole { content_type: Option<String>, held: Vec<u8> },
    /// JSON documents.
    Documents(Splitter),
}

impl RequestStream {
    pub(crate) fn new(codec: Codec, plan: Arc<MethodPlan>, bindings: Bindings, content_type: Option<&str>) -> Self {
        let many = plan.method().streaming().client();
        let owned = || content_type.map(str::to_owned);
        let intake = match (plan.has_body(), plan.takes_raw_body(), many) {
            (false, _, _) => Intake::Nothing,
            (true, true, true) => Intake::Raw { content_type: owned() },
            (true, true, false) => Intake::RawWhole { content_type: owned(), held: Vec::new() },
            (true, false, false) => Intake::Whole(Vec::new()),
            (true, false, true) if is_ndjson(content_type) => Intake::Documents(Splitter::lines()),
            (true, false, true) => Intake::Documents(Splitter::array()),
        };
        Self { codec, plan, bindings: Some(bindings), intake, check: Check::default() }
    }

    /// Returns the stream with a check of its JSON.
    #[must_use]
    pub fn checked(self, check: Check) -> Self {
        Self { check, ..self }
    }

    /// Takes a chunk of the body; returns the messages that it completes, encoded.
    ///
    /// # Errors
    /// `BindError` for what cannot be a message; the call should be cancelled and the error answered. The stream is
    /// then of no more use.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Bytes>, BindError> {
        match &mut self.intake {
            Intake::Nothing => Ok(Vec::new()),
            Intake::Whole(held) | Intake::RawWhole { held, .. } => {
                held.extend_from_slice(chunk);
                Ok(Vec::new())
            }
            Intake::Raw { .. } if chunk.is_empty() => Ok(Vec::new()),
            Intake::Raw { content_type } => {
                let content_type = content_type.take();
                let message = raw::message(&self.plan, content_type.as_deref(), chunk);
                Ok(vec![self.bind(message)?])
            }
            Intake::Documents(splitter) => {
                let documents = splitter.feed(chunk)?;
                self.messages(documents)
            }
        }
    }

    /// Takes the end of the body; returns the messages that were still due.
    ///
    /// # Errors
    /// `BindError` if the body ends in the middle.
    pub fn finish(&mut self) -> Result<Vec<Bytes>, BindError> {
        let message = match &mut self.intake {
            Intake::Nothing => Vec::new(),
            Intake::Whole(held) => {
                self.check.pass(held)?;
                self.codec.json_message(&self.plan, held, Position::START)?
            }
            Intake::RawWhole { content_type, held } => raw::message(&self.plan, content_type.as_deref(), held),
            // An empty body is still a message, or path and query would be lost.
            Intake::Raw { content_type } if self.bindings.is_some() => {
                raw::message(&self.plan, content_type.as_deref(), &[])
            }
            Intake::Raw { .. } => return Ok(Vec::new()),
            Intake::Documents(splitter) => {
                let documents = splitter.finish()?;
                return self.messages(documents);
            }
        };
        Ok(vec![self.bind(message)?])
    }

    /// Returns how many bytes of an unfinished message are held, for the caller's limit on message size.
    pub fn buffered(&self) -> usize {
        match &self.intake {
            Intake::Nothing | Intake::Raw { .. } => 0,
            Intake::Whole(held) | Intake::RawWhole { held, .. } => held.len(),
            Intake::Documents(splitter) => splitter.buffered(),
        }
    }

    fn messages(&mut self, documents: Vec<Document>) -> Result<Vec<Bytes>, BindError> {
        let mut messages = Vec::with_capacity(documents.len());
        for document in documents {
            self.check.pass(&document.text)?;
            let message = self.codec.json_message(&self.plan, &document.text, document.origin)?;
            messages.push(self.bind(message)?);
        }
        Ok(messages)
    }

    /// Adds path and query to the first message; the others are the body's alone.
    fn bind(&mut self, message: Vec<u8>) -> Result<Bytes, BindError> {
        let message = match self.bindings.take() {
            Some(bindings) => bindings.apply(self.plan.method().input(), message)?,
            None => message,
        };
        Ok(message.into())
    }
}

/// Reply messages of a server stream, framed.
#[derive(Debug)]
pub struct ReplyStream {
    codec: Codec,
    plan: Arc<MethodPlan>,
    framing: Framing,
    content_type: Cow<'static, str>,
    started: bool,
    /// Messages so far: the id of the latest event.
    sent: u64,
}

/// How messages follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Json(StreamFormat),
    /// Bytes of `google.api.HttpBody`, nothing between them.
    Raw,
}

impl ReplyStream {
    pub(crate) fn new(codec: Codec, plan: Arc<MethodPlan>, accept: Option<&str>) -> Self {
        let format = accept.and_then(accepted).unwrap_or(codec.settings().stream_format);
        let framing = if plan.returns_raw_body() { Framing::Raw } else { Framing::Json(format) };
        let content_type = match framing {
            Framing::Json(StreamFormat::JsonArray) => JSON,
            Framing::Json(StreamFormat::Ndjson) => "application/x-ndjson",
            Framing::Json(StreamFormat::Sse) => "text/event-stream",
            Framing::Raw => "application/octet-stream",
        };
        Self { codec, plan, framing, content_type: Cow::Borrowed(content_type), started: false, sent: 0 }
    }

    /// Returns the content type of the answer; for raw bodies it is that of the first message, so ask after it.
    pub fn content_type(&self) -> &str {
        &self.content_type
    }

    /// Returns the bytes to send for a reply message; of a raw body they are a part of `wire`.
    ///
    /// # Errors
    /// `EncodeError`; pass it on through `fail`.
    pub fn message(&mut self, wire: &Bytes) -> Result<Bytes, EncodeError> {
        let framed = match self.framing {
            Framing::Raw => {
                let reply = self.codec.encode_owned(&self.plan, wire)?;
                if !self.started {
                    self.content_type = reply.content_type;
                }
                reply.body
            }
            Framing::Json(format) => {
                let head = match format {
                    StreamFormat::Sse => Cow::Owned(format!("id: {}\ndata: ", self.sent + 1)),
                    StreamFormat::JsonArray | StreamFormat::Ndjson => Cow::Borrowed(self.before(format)),
                };
                self.codec.encode_between(&self.plan, head.as_bytes(), wire, after(format))?
            }
        };
        self.sent += 1;
        self.started = true;
        Ok(framed)
    }

    /// Returns the bytes that end the body after success.
    pub fn finish(&mut self) -> Bytes {
        Bytes::from_static(match self.framing {
            Framing::Json(StreamFormat::JsonArray) if self.started => b"]",
            Framing::Json(StreamFormat::JsonArray) => b"[]",
            Framing::Json(StreamFormat::Ndjson | StreamFormat::Sse) | Framing::Raw => b"",
        })
    }

    /// Returns whether any message was framed; if not, a failure is still a plain status answer.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Returns what may be sent while there is no message, so that nobody in between takes the stream for dead; none if the framing has nothing
    /// that says nothing.
    pub fn keep_alive(&self) -> Option<Bytes> {
        (self.framing == Framing::Json(StreamFormat::Sse)).then(|| Bytes::from_static(b":\n\n"))
    }

    /// Returns the bytes that report a failure in the stream, `{"error": status}`, and end the body. A raw body has no
    /// room for it: the bytes are empty, and the caller should break the connection off so that the client notices.
    pub fn fail(&mut self, status: &Status) -> Bytes {
        let Framing::Json(format) = self.framing else { return Bytes::new() };
        let status = self.codec.encode_status(status, Some(&self.plan));
        let before = match format {
            StreamFormat::Sse => "event: error\ndata: ",
            StreamFormat::JsonArray | StreamFormat::Ndjson => self.before(format),
        };
        self.started = true;
        let parts = [before.as_bytes(), b"{\"error\":", &status, b"}", after(format), &self.finish()];
        parts.concat().into()
    }

    /// What stands before a document, besides the fields of an event.
    fn before(&self, format: StreamFormat) -> &'static str {
        match format {
            StreamFormat::JsonArray if self.started => ",",
            StreamFormat::JsonArray => "[",
            StreamFormat::Ndjson | StreamFormat::Sse => "",
        }
    }
}

/// What stands after a document, which itself holds no line break.
fn after(format: StreamFormat) -> &'static [u8] {
    match format {
        StreamFormat::JsonArray => b"",
        StreamFormat::Ndjson => b"\n",
        StreamFormat::Sse => b"\n\n",
    }
}

/// Returns whether a body is JSON documents on lines of their own.
pub fn is_ndjson(content_type: Option<&str>) -> bool {
    let essence = content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(
        essence.as_str(),
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" | "application/x-jsonlines"
    )
}

/// Returns the framing that an `Accept` header asks for: the best of those we have by weight, then by order; none if it names none of them.
/// `application/json` beside a wildcard of no less weight is what clients send that take anything, so it asks for none.
fn accepted(accept: &str) -> Option<StreamFormat> {
    let mut best: Option<(f32, StreamFormat)> = None;
    let mut anything = 0.0_f32;
    for range in accept.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|it| it.strip_prefix("q=")).and_then(|it| it.parse().ok()).unwrap_or(1.0_f32);
        let format = match name.as_str() {
            "*/*" => {
                anything = weight;
                continue;
            }
            "application/json" => StreamFormat::JsonArray,
            "text/event-stream" => StreamFormat::Sse,
            other if is_ndjson(Some(other)) => StreamFormat::Ndjson,
            _ => continue,
        };
        if weight > best.map_or(0.0, |(weight, _)| weight) {
            best = Some((weight, format));
        }
    }
    best.filter(|(weight, format)| *format != StreamFormat::JsonArray || *weight > anything).map(|(_, format)| format)
}

#[cfg(test)]
mod tests;
