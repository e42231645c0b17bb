//! Forms: `application/x-www-form-urlencoded` and `multipart/form-data` as the body of a REST call.
//!
//! Lives here: which bodies are forms, the parts of a multipart body, files that stream. Does not: what a field or a file is to the message
//! (`weft_transcode::bind::Form`), the parts' grammar (multer).
//! Bounds: a form that becomes one message has at most `max_request_bytes` in all; of an upload that streams, the fields before the file, and each chunk of it.
//! Of what neither a part nor a chunk of one has come yet, `HELD` and a chunk of the body are held: multer searches all of it again whenever more comes.
//! Back-pressure: a chunk of the body is taken when what is held has no more to give, a file that streams is pulled by whoever writes it upstream.
//! Source: RFC 7578; RFC 2046, 5.1.1, for the boundary.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::Response;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use multer::{Constraints, Error, Field, Multipart, SizeLimit};
use tokio::sync::oneshot;
use weft_traffic::{Body, BodyError};
use weft_transcode::{BindError, MethodPlan, bind::Form};

use super::{Exchange, Failure, body::Until, streams::Wrong};
use crate::{
    edge::limits::Most,
    protocol::{chain, frames::frame},
};

pub(super) const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";
/// Longest boundary (RFC 2046, 5.1.1).
const BOUNDARY: usize = 70;
/// Longest name of a part.
const NAME: usize = 256;
/// Most bytes before a boundary, or of the head of a part.
const HELD: u64 = 64 << 10;

/// A body that is a form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// Unless it is JSON: `curl -d` names this type whatever it sends.
    Urlencoded,
    Multipart {
        boundary: String,
    },
}

impl Kind {
    /// Tells by the content type; none for a body that is no form.
    pub(super) fn of(content_type: &str, plan: &MethodPlan) -> Result<Option<Self>, BindError> {
        let is = |wanted: &str| {
            let essence = content_type.split(';').next().unwrap_or_default();
            essence.trim().eq_ignore_ascii_case(wanted)
        };
        if is(MULTIPART) {
            let boundary = multer::parse_boundary(content_type).ok().filter(|it| (1..=BOUNDARY).contains(&it.len()));
            let wanted =
                || BindError::field("content-type", "multipart/form-data needs a boundary of 1 to 70 characters");
            return boundary.map(|boundary| Some(Self::Multipart { boundary })).ok_or_else(wanted);
        }
        let one_message = !plan.takes_raw_body() && !plan.method().streaming().client();
        Ok((one_message && is(URLENCODED)).then_some(Self::Urlencoded))
    }
}

/// Whether a body that calls itself a form is JSON: no form begins like this, since browsers escape these.
pub(super) fn is_json(body: &[u8]) -> bool {
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    first.is_none_or(|byte| matches!(byte, b'{' | b'[' | b'"'))
}

impl Exchange<'_> {
    /// Returns the request message of a form with escapes.
    pub(super) fn urlencoded(&self, body: &[u8]) -> Result<Bytes, BindError> {
        let mut form = Form::new(&self.reader(), &self.found.plan)?;
        form.urlencoded(body)?;
        form.finish(self.parts())
    }

    /// Makes the call of a form in parts.
    pub(super) async fn multipart(
        &self,
        body: Body,
        boundary: String,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Failure> {
        let form = Form::new(&self.reader(), &self.found.plan)?;
        let limit = self.most();
        let streams = self.found.plan.method().streaming().client();
        let mut parts = Parts::new(body, boundary, limit, streams);
        let until = self.until(timeout);
        if !streams {
            let message = until.wait(self.one_message(form, &mut parts)).await??;
            let message = if self.found.plan.takes_if_match() { self.with_if_match(message)? } else { message };
            return self.call(Body::full(frame(&message)), timeout).await;
        }
        let until = Until { due: None, ..until }; // that is about bodies that are read whole
        match until.wait(self.first_message(form, &mut parts)).await?? {
            (message, None) => self.call(Body::full(frame(&message)), timeout).await,
            (message, Some(file)) => {
                let (wrong, went_wrong) = oneshot::channel();
                let file = file.rest(Arc::clone(&self.found.plan), parts, wrong);
                let first = stream::once(std::future::ready(Ok(Frame::data(frame(&message)))));
                self.call_with_stream(Body::boxed(StreamBody::new(first.chain(file))), went_wrong, timeout).await
            }
        }
    }

    async fn one_message(&self, mut form: Form, parts: &mut Parts) -> Result<Bytes, BindError> {
        while let Some(part) = parts.next().await? {
            match part {
                Part::Text { name, text } => form.text(&name, &text)?,
                Part::File { name, content_type, mut file } => {
                    let data = parts.whole(&mut file).await?;
                    if !data.is_empty() || !is_unchosen(&file) {
                        form.file(&name, content_type.as_deref(), &data)?;
                    }
                }
            }
        }
        form.finish(self.parts())
    }

    /// Reads on until the file begins, if there is one.
    async fn first_message(&self, mut form: Form, parts: &mut Parts) -> Result<(Bytes, Option<Upload>), BindError> {
        let mut length = 0;
        while let Some(part) = parts.next().await? {
            match part {
                Part::Text { name, text } => {
                    length += (name.len() + text.len()) as u64;
                    if length > parts.limit.bytes {
                        return Err(parts.limit.too_large());
                    }
                    form.text(&name, &text)?;
                }
                Part::File { content_type, mut file, .. } => {
                    let data = parts.chunk(&mut file).await?;
                    let first = form.begin_upload(self.parts(), content_type.as_deref(), &data.unwrap_or_default())?;
                    return Ok((first, Some(Upload(*file))));
                }
            }
        }
        Ok((form.finish(self.parts())?, None))
    }
}

/// The file of a stream of bytes, after its first chunk.
struct Upload(Field<'static>);

type Told = oneshot::Sender<BindError>;

impl Upload {
    /// Returns the further messages as upstream takes them; `wrong` is told what cannot become one.
    fn rest(
        self,
        plan: Arc<MethodPlan>,
        parts: Parts,
        wrong: Told,
    ) -> impl Stream<Item = Result<Frame<Bytes>, Wrong>> + Send + 'static {
        stream::unfold(Some((Some(self.0), parts, wrong)), move |state| {
            let plan = Arc::clone(&plan);
            async move {
                let (mut file, mut parts, wrong) = state?;
                match next_chunk(&mut file, &mut parts).await {
                    Ok(Some(data)) => {
                        let message = frame(&Form::go_on(&plan, &data));
                        Some((Ok(Frame::data(message)), Some((file, parts, wrong))))
                    }
                    Ok(None) => None,
                    Err(error) => {
                        drop(wrong.send(error)); // nobody waits for it only when the answer was given up
                        Some((Err(Wrong), None))
                    }
                }
            }
        })
    }
}

/// Reads on in the file; behind it nothing may come that belongs into a message.
async fn next_chunk(file: &mut Option<Field<'static>>, parts: &mut Parts) -> Result<Option<Bytes>, BindError> {
    if let Some(open) = file {
        if let Some(data) = parts.chunk(open).await? {
            return Ok(Some(data));
        }
        *file = None; // multer gives no next part while somebody has this one
    }
    match parts.multipart.next_field().await.map_err(|error| parts.wrong(&error))? {
        None => Ok(None),
        Some(late) => {
            let name = late.name().unwrap_or_default().to_owned();
            Err(BindError::field(name, "comes after the file; what streams ends with it, so put fields first"))
        }
    }
}

/// The parts of a body.
struct Parts {
    multipart: Multipart<'static>,
    limit: Most,
    held: Arc<Held>,
}

enum Part {
    Text { name: String, text: String },
    File { name: String, content_type: Option<String>, file: Box<Field<'static>> },
}

impl Parts {
    fn new(body: Body, boundary: String, limit: Most, endless: bool) -> Self {
        let held = Arc::new(Held::default());
        let whole = if endless { u64::MAX } else { limit.bytes };
        let constraints = Constraints::new().size_limit(SizeLimit::new().whole_stream(whole));
        let chunks = body.into_data_stream();
        let stream = Bounded { chunks, limit: limit.bytes.min(HELD), held: Arc::clone(&held) };
        Self { multipart: Multipart::with_constraints(stream, boundary, constraints), limit, held }
    }

    async fn next(&mut self) -> Result<Option<Part>, BindError> {
        let next = self.multipart.next_field().await;
        let Some(mut field) = next.map_err(|error| self.wrong(&error))? else { return Ok(None) };
        self.held.some_given();
        let name = field.name().unwrap_or_default().to_owned();
        if name.len() > NAME {
            return Err(BindError::field("body", format!("a part's name is longer than {NAME} bytes")));
        }
        let content_type = field.content_type().map(ToString::to_string);
        let text = content_type.as_deref().is_none_or(|it| it.starts_with("text/plain"));
        if field.file_name().is_some() || !text {
            return Ok(Some(Part::File { name, content_type, file: Box::new(field) }));
        }
        let data = self.whole(&mut field).await?;
        match String::from_utf8(data.into()) {
            Ok(text) => Ok(Some(Part::Text { name, text })),
            Err(_) => Err(BindError::field(name, "a part that is neither a file nor UTF-8")),
        }
    }

    /// Reads a part whole, within the limit.
    async fn whole(&self, field: &mut Field<'static>) -> Result<Bytes, BindError> {
        let mut data = BytesMut::new();
        while let Some(chunk) = self.chunk(field).await? {
            if (data.len() + chunk.len()) as u64 > self.limit.bytes {
                return Err(self.limit.too_large());
            }
            data.extend_from_slice(&chunk);
        }
        Ok(data.freeze())
    }

    async fn chunk(&self, field: &mut Field<'static>) -> Result<Option<Bytes>, BindError> {
        let chunk = field.chunk().await.map_err(|error| self.wrong(&error))?;
        self.held.some_given();
        Ok(chunk)
    }

    fn wrong(&self, error: &Error) -> BindError {
        match error {
            Error::StreamSizeExceeded { .. } | Error::FieldSizeExceeded { .. } => self.limit.too_large(),
            Error::StreamReadFailed(error) if error.is::<TooMuchHeld>() => {
                BindError { http_status: 413, ..BindError::field("body", format!("not multipart/form-data: {error}")) }
            }
            Error::StreamReadFailed(error) => {
                BindError::field("body", format!("the request body broke off: {}", chain(&**error)))
            }
            error => BindError::field("body", format!("not multipart/form-data: {error}")),
        }
    }
}

/// A file input of a page that was left empty.
fn is_unchosen(file: &Field<'static>) -> bool {
    file.file_name() == Some("")
}

/// More came than may be held without a part or a chunk becoming of it.
#[derive(Debug, thiserror::Error)]
#[error("neither a boundary nor the end of a part's head within {0} bytes")]
struct TooMuchHeld(u64);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What was taken off the body and not given on.
#[derive(Debug, Default)]
struct Held {
    bytes: AtomicU64,
    /// Whether multer has to look at what it has before it gets more.
    pause: AtomicBool,
}

impl Held {
    /// A part or a chunk came of it, and the rest may have another one.
    fn some_given(&self) {
        self.bytes.store(0, Ordering::Relaxed);
        self.pause.store(true, Ordering::Relaxed);
    }
}

/// A body chunk by chunk: multer takes all that is ready before it gives anything on, so a pause that is none stands before each chunk.
struct Bounded<S> {
    chunks: S,
    limit: u64,
    held: Arc<Held>,
}

impl<S> Stream for Bounded<S>
where
    S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
{
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.held.pause.swap(false, Ordering::Relaxed) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(match ready!(self.chunks.poll_next_unpin(cx)) {
            None => None,
            Some(Err(error)) => Some(Err(error.into())),
            Some(Ok(data)) => {
                self.held.pause.store(true, Ordering::Relaxed);
                let length = data.len().max(1) as u64; // also a chunk of nothing makes multer search
                let before = self.held.bytes.fetch_add(length, Ordering::Relaxed);
                Some(if before > self.limit { Err(TooMuchHeld(self.limit).into()) } else { Ok(data) })
            }
        })
    }
}

#[cfg(test)]
mod tests;
