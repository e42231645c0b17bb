//! Forms: `application/x-www-form-urlencoded` and `multipart/form-data` as the body of a REST call.
//!
//! Lives here: which bodies are forms, the parts of a multipart body, files that stream. Does not: what a field or a file is to the message
//! (`weft_transcode::bind::Form`), the parts' grammar (multer).
//! Bounds: a form that becomes one message has at most `max_request_bytes` in all; of an upload that streams, each field and what is held between two chunks
//! of the file. Back-pressure: a file that streams is pulled by whoever writes it upstream.
//! Source: RFC 7578; RFC 2046, 5.1.1, for the boundary.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
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
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use weft_traffic::{Body, BodyError};
use weft_transcode::{BindError, MethodPlan, Status, bind::Form};

use super::{Exchange, Failure, streams::Wrong};
use crate::protocol::{chain, codes::DEADLINE_EXCEEDED, frames::frame};

const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";
/// Longest boundary (RFC 2046, 5.1.1).
const BOUNDARY: usize = 70;
/// Longest name of a part.
const NAME: usize = 256;

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
        let mut form = Form::new(&self.shard.shared.codec, &self.found.plan)?;
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
        let form = Form::new(&self.shard.shared.codec, &self.found.plan)?;
        let limit = self.most();
        let streams = self.found.plan.method().streaming().client();
        let mut parts = Parts::new(body, boundary, limit, streams);
        let deadline = timeout.map(|timeout| self.call.received + timeout);
        if !streams {
            let message = by(deadline, self.one_message(form, &mut parts)).await??;
            return self.call(Body::full(frame(&message)), timeout).await;
        }
        match by(deadline, self.first_message(form, &mut parts)).await?? {
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
        while let Some(part) = parts.next().await? {
            match part {
                Part::Text { name, text } => form.text(&name, &text)?,
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
    limit: u64,
    /// Bytes taken off the body and not given on.
    held: Arc<AtomicU64>,
}

enum Part {
    Text { name: String, text: String },
    File { name: String, content_type: Option<String>, file: Box<Field<'static>> },
}

impl Parts {
    fn new(body: Body, boundary: String, limit: u64, endless: bool) -> Self {
        let held = Arc::new(AtomicU64::new(0));
        let whole = if endless { u64::MAX } else { limit };
        let constraints = Constraints::new().size_limit(SizeLimit::new().whole_stream(whole));
        let chunks = body.into_data_stream();
        let stream = Bounded { chunks, paused: false, limit, held: Arc::clone(&held) };
        Self { multipart: Multipart::with_constraints(stream, boundary, constraints), limit, held }
    }

    async fn next(&mut self) -> Result<Option<Part>, BindError> {
        let next = self.multipart.next_field().await;
        let Some(mut field) = next.map_err(|error| self.wrong(&error))? else { return Ok(None) };
        self.held.store(0, Ordering::Relaxed);
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
            if (data.len() + chunk.len()) as u64 > self.limit {
                return Err(BindError::too_large(self.limit));
            }
            data.extend_from_slice(&chunk);
        }
        Ok(data.freeze())
    }

    async fn chunk(&self, field: &mut Field<'static>) -> Result<Option<Bytes>, BindError> {
        let chunk = field.chunk().await.map_err(|error| self.wrong(&error))?;
        self.held.store(0, Ordering::Relaxed);
        Ok(chunk)
    }

    fn wrong(&self, error: &Error) -> BindError {
        match error {
            Error::StreamSizeExceeded { .. } | Error::FieldSizeExceeded { .. } => BindError::too_large(self.limit),
            Error::StreamReadFailed(error) if error.is::<TooMuchHeld>() => BindError::too_large(self.limit),
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
#[error("more than the limit between two parts")]
struct TooMuchHeld;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body chunk by chunk: multer takes all that is ready before it gives anything on, so each chunk is followed by a pause that is none.
struct Bounded<S> {
    chunks: S,
    paused: bool,
    limit: u64,
    held: Arc<AtomicU64>,
}

impl<S> Stream for Bounded<S>
where
    S: Stream<Item = Result<Bytes, BodyError>> + Unpin,
{
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.paused) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(match ready!(self.chunks.poll_next_unpin(cx)) {
            None => None,
            Some(Err(error)) => Some(Err(error.into())),
            Some(Ok(data)) => {
                self.paused = true;
                let before = self.held.fetch_add(data.len() as u64, Ordering::Relaxed);
                Some(if before > self.limit { Err(TooMuchHeld.into()) } else { Ok(data) })
            }
        })
    }
}

/// Waits within the deadline.
async fn by<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, Failure> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => timeout_at(deadline, work)
            .await
            .map_err(|_| Status::new(DEADLINE_EXCEEDED, "deadline exceeded while the request body was read").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BOUNDARY: &str = "XX";

    async fn parts(body: Bytes, limit: u64, endless: bool) -> Result<Vec<(String, Bytes)>, BindError> {
        let mut parts = Parts::new(Body::full(body), BOUNDARY.to_owned(), limit, endless);
        let mut found = Vec::new();
        while let Some(part) = parts.next().await? {
            found.push(match part {
                Part::Text { name, text } => (name, Bytes::from(text)),
                Part::File { name, mut file, .. } => {
                    let data = parts.whole(&mut file).await?;
                    (name, data)
                }
            });
        }
        Ok(found)
    }

    fn read(body: Bytes, limit: u64, endless: bool) -> Result<Vec<(String, Bytes)>, BindError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(parts(body, limit, endless))
    }

    fn part(name: &str, more: &str, data: &[u8]) -> Vec<u8> {
        let head = format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"{more}\r\n\r\n");
        [head.as_bytes(), data, b"\r\n"].concat()
    }

    #[test]
    fn json_that_calls_itself_a_form_is_told_from_one() {
        assert!(is_json(b"{}") && is_json(b" \n[1]") && is_json(b"\"x\"") && is_json(b""));
        assert!(!is_json(b"a=1") && !is_json(b"%7B=1") && !is_json(b"7"));
    }

    #[test]
    fn what_is_too_much_is_413_and_what_is_no_form_400() {
        let whole = [part("a", "", b"x"), part("f", "; filename=\"f\"", &[0xff; 300]), b"--XX--\r\n".to_vec()].concat();
        let found = read(whole.clone().into(), 1000, false).unwrap();
        assert_eq!((found[0].1.as_ref(), found[1].1.len()), (&b"x"[..], 300));
        assert_eq!(read(whole.into(), 200, false).unwrap_err().http_status, 413);
        let long_name = [part(&"n".repeat(300), "", b"x"), b"--XX--".to_vec()].concat();
        for wrong in [Bytes::from_static(b"nothing"), part("a", "", b"x").into(), Bytes::new(), long_name.into()] {
            assert_eq!(read(wrong.clone(), 1000, false).unwrap_err().http_status, 400, "{wrong:?}");
        }
        let not_text = [part("a", "", b"\xff"), b"--XX--".to_vec()].concat();
        assert_eq!(read(not_text.into(), 1000, false).unwrap_err().violations[0].field, "a");
    }

    #[tokio::test]
    async fn nothing_is_held_without_end_where_no_part_comes_of_it() {
        let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(&[b'x'; 1000]))));
        let body = Body::boxed(StreamBody::new(endless.take(1_000_000)));
        let mut parts = Parts::new(body, BOUNDARY.to_owned(), 10_000, true);
        let Err(error) = parts.next().await else { panic!("there is no part") };
        assert_eq!(error.http_status, 413);
    }

    proptest! {
        #[test]
        fn any_bytes_are_parts_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..200), more in "[ -~\r\n]{0,80}") {
            let _ = read(body.clone().into(), 1000, true);
            let framed = [format!("--XX\r\n{more}\r\n\r\n").as_bytes(), &body, b"\r\n--XX--"].concat();
            let _ = read(framed.into(), 1000, false);
        }

        #[test]
        fn any_parts_arrive_as_they_were_sent(
            sent in proptest::collection::vec(("[a-z.]{1,20}", proptest::collection::vec(any::<u8>(), 0..60)), 0..6)
        ) {
            // A boundary that stands in the data is the sender's mistake.
            prop_assume!(sent.iter().all(|(_, data)| !data.windows(4).any(|it| it == b"--XX")));
            let mut body: Vec<u8> = sent.iter().flat_map(|(name, data)| part(name, "; filename=\"f\"", data)).collect();
            body.extend_from_slice(b"--XX--\r\n");
            let found = read(body.into(), 10_000, false).unwrap();
            let sent: Vec<_> = sent.into_iter().map(|(name, data)| (name, Bytes::from(data))).collect();
            prop_assert_eq!(found, sent);
        }
    }
}
