//! Bodies that stream: an HTTP body that becomes request messages while it arrives, replies that become an HTTP body while they arrive.
//!
//! Lives here: pulling one side as the other asks for more, and what happens when one side fails. Does not: splitting or framing JSON
//! (`weft_transcode::stream`).
//! Back-pressure: both are pulled by whoever writes them out; at most the messages of one chunk wait. Dropping either takes the call back.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode};
use http_body::Frame;
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};
use weft_traffic::Body;
use weft_transcode::{
    BindError, MethodPlan, Status,
    stream::{ReplyStream, RequestStream},
};

use super::metadata::Trailing;
use crate::edge::limits::Most;
use crate::protocol::{
    chain,
    codes::INTERNAL,
    frames::frame,
    replies::{Next, Replies},
};

/// Silence after which an event stream says that it lives: proxies and balancers cut what is silent for a minute, some after 30 s (WHATWG
/// recommends about 15 s).
const QUIET: Duration = Duration::from_secs(15);

/// Bytes after which replies that are there already wait for the next frame of the body.
const TOGETHER: usize = 16 << 10;

/// The request was wrong; what is wrong went to the one who answers.
#[derive(Debug, thiserror::Error)]
#[error("the request body cannot become messages")]
pub(super) struct Wrong;

/// The request messages of a client stream.
pub(super) struct RequestMessages {
    body: Body,
    messages: RequestStream,
    limit: Most,
    /// Until the first message takes it; a stream without one fails, for nobody would look at the condition.
    tag: Option<Tag>,
    wrong: Option<oneshot::Sender<BindError>>,
    ready: VecDeque<Bytes>,
    ended: bool,
}

/// The version that the client wants to be the current one: the `If-Match` of a call whose messages have a field for it.
pub(super) struct Tag {
    pub(super) plan: Arc<MethodPlan>,
    pub(super) value: HeaderValue,
}

impl Tag {
    fn put(self, message: Bytes) -> Result<Bytes, BindError> {
        let put = self.plan.put_if_match(message, self.value.to_str().unwrap_or_default());
        put.map_err(|status| BindError {
            http_status: StatusCode::PRECONDITION_FAILED.as_u16(),
            code: status.code,
            message: status.message,
            violations: Vec::new(),
        })?
    }
}

impl RequestMessages {
    /// Reads messages of at most `limit` bytes off `body`; `wrong` is told what cannot become one.
    pub(super) fn new(
        body: Body,
        messages: RequestStream,
        limit: Most,
        tag: Option<Tag>,
        wrong: oneshot::Sender<BindError>,
    ) -> Self {
        Self { body, messages, limit, tag, wrong: Some(wrong), ready: VecDeque::new(), ended: false }
    }

    fn take(&mut self, data: &[u8]) -> Result<(), BindError> {
        let messages = self.messages.feed(data)?;
        self.make_ready(messages)?;
        if self.messages.buffered() as u64 > self.limit.bytes {
            return Err(self.limit.too_large());
        }
        Ok(())
    }

    fn make_ready(&mut self, messages: Vec<Bytes>) -> Result<(), BindError> {
        for message in messages {
            let message = match self.tag.take() {
                Some(tag) => tag.put(message)?,
                None => message,
            };
            self.ready.push_back(message);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BindError> {
        let last = self.messages.finish()?;
        self.make_ready(last)?;
        match self.tag.take() {
            Some(_) => {
                Err(BindError::field("if-match", "there is no message that it could be a condition of; send one"))
            }
            None => Ok(()),
        }
    }

    fn fail(&mut self, error: BindError) -> Poll<Option<Result<Frame<Bytes>, Wrong>>> {
        if let Some(wrong) = self.wrong.take() {
            drop(wrong.send(error)); // nobody waits for it only when the answer was given up
        }
        Poll::Ready(Some(Err(Wrong)))
    }
}

impl http_body::Body for RequestMessages {
    type Data = Bytes;
    type Error = Wrong;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Wrong>>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(frame(&message)))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let taken = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.take(&data),
                    Err(_) => Ok(()), // trailers of a request carry nothing for us
                },
                Some(Err(error)) => {
                    Err(BindError::field("body", format!("the request body broke off: {}", chain(&error))))
                }
                None => {
                    self.ended = true;
                    self.finish()
                }
            };
            if let Err(error) = taken {
                return self.fail(error);
            }
        }
    }
}

/// Replies that are there at the same time, as one frame: each frame is a chunk, and a piece of a system call.
#[derive(Default)]
struct Together {
    /// Copied only once there is a second.
    first: Bytes,
    more: BytesMut,
}

impl Together {
    fn has_room(&self) -> bool {
        self.first.len() + self.more.len() < TOGETHER
    }

    fn push(&mut self, framed: Bytes) {
        match (self.first.is_empty(), self.more.is_empty()) {
            (true, true) => self.first = framed,
            (false, true) => {
                self.more.reserve(TOGETHER.max(self.first.len() + framed.len()));
                self.more.extend_from_slice(&std::mem::take(&mut self.first));
                self.more.extend_from_slice(&framed);
            }
            (_, false) => self.more.extend_from_slice(&framed),
        }
    }

    /// Nothing if nothing was there.
    fn finish(self) -> Option<Bytes> {
        let whole = if self.more.is_empty() { self.first } else { self.more.freeze() };
        (!whole.is_empty()).then_some(whole)
    }
}

/// The replies of a server stream as one HTTP body. A failure after the first message is its last element; metadata that the call ends with comes behind it.
pub(super) struct FramedReplies {
    framing: ReplyStream,
    first: Option<Bytes>,
    /// None once the body has ended: dropping it takes the call back.
    replies: Option<Replies>,
    trailing: Trailing,
    /// What comes behind the body, once the call has ended.
    trailers: Option<HeaderMap>,
    went_wrong: Option<oneshot::Receiver<BindError>>,
    /// A failure that the framing has no words for: the body breaks off, so that nobody takes what came for all.
    untold: Option<Status>,
    /// Runs out when nothing was sent for [`QUIET`]; none if the framing has nothing to say then.
    quiet: Option<Pin<Box<Sleep>>>,
}

impl FramedReplies {
    /// `first` was waited for, so that a call that fails before it is answered by its status; `went_wrong` tells of a client stream that turns out wrong.
    pub(super) fn new(
        framing: ReplyStream,
        trailing: Trailing,
        first: Next,
        replies: Replies,
        went_wrong: Option<oneshot::Receiver<BindError>>,
    ) -> Self {
        let went_wrong = went_wrong.filter(|it| !it.is_terminated()); // the client's stream may have ended well already
        let quiet = framing.keep_alive().map(|_| Box::pin(sleep(QUIET)));
        let mut it = Self {
            framing,
            first: None,
            replies: Some(replies),
            trailing,
            trailers: None,
            went_wrong,
            untold: None,
            quiet,
        };
        it.first = Some(it.next(first));
        it
    }

    pub(super) fn content_type(&self) -> &str {
        self.framing.content_type()
    }

    fn next(&mut self, next: Next) -> Bytes {
        match next {
            Next::Message(message) => match self.framing.message(&message) {
                Ok(framed) => framed,
                Err(error) => self.end(Some(Status::new(INTERNAL, error.to_string()))),
            },
            Next::End(status) => {
                self.trailers = self.replies.as_ref().and_then(|it| self.trailing.trailers(it.trailers()));
                self.end(Some(status).filter(|it| it.code != 0))
            }
        }
    }

    fn end(&mut self, failure: Option<Status>) -> Bytes {
        self.replies = None;
        let Some(status) = failure else { return self.framing.finish() };
        let told = self.framing.fail(&status);
        self.untold = told.is_empty().then_some(status);
        told
    }

    /// What comes behind the last byte.
    fn last(&mut self) -> Option<Result<Frame<Bytes>, BrokenOff>> {
        if let Some(status) = self.untold.take() {
            self.trailers = None;
            return Some(Err(BrokenOff(status)));
        }
        self.trailers.take().map(|it| Ok(Frame::trailers(it)))
    }

    fn is_over(&self) -> bool {
        self.first.is_none() && self.replies.is_none()
    }

    /// The next reply, framed, or what ends the body; nothing after it.
    fn poll_framed(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if self.replies.is_none() {
            return Poll::Ready(None);
        }
        if let Some(error) = self.poll_went_wrong(cx) {
            return Poll::Ready(Some(self.end(Some(error.status()))));
        }
        let Some(replies) = &mut self.replies else { return Poll::Ready(None) };
        let next = ready!(replies.poll_next(cx));
        Poll::Ready(Some(self.next(next)))
    }

    /// Waits until it is time to say that the stream lives.
    fn poll_quiet(&mut self, cx: &mut Context<'_>) -> Poll<Bytes> {
        let Some(quiet) = &mut self.quiet else { return Poll::Pending };
        ready!(quiet.as_mut().poll(cx));
        Poll::Ready(self.framing.keep_alive().unwrap_or_default())
    }

    /// Whether the client's own stream turned out wrong; asked first, because that also breaks the call.
    fn poll_went_wrong(&mut self, cx: &mut Context<'_>) -> Option<BindError> {
        match Pin::new(self.went_wrong.as_mut()?).poll(cx) {
            Poll::Pending => None,
            Poll::Ready(told) => {
                self.went_wrong = None; // an error means that the stream ended well
                told.ok()
            }
        }
    }
}

/// A stream of raw bytes failed after its head had left.
#[derive(Debug, thiserror::Error)]
#[error("the call failed with code {} in the middle of its answer", .0.code)]
pub(super) struct BrokenOff(Status);

impl http_body::Body for FramedReplies {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let mut together = Together::default();
        while together.has_room()
            && let Poll::Ready(Some(framed)) = self.poll_framed(cx)
        {
            together.push(framed);
        }
        let framed = match together.finish() {
            Some(framed) => framed,
            None if self.is_over() => return Poll::Ready(self.last()),
            None => ready!(self.poll_quiet(cx)),
        };
        if let Some(quiet) = &mut self.quiet {
            quiet.as_mut().reset(Instant::now() + QUIET);
        }
        Poll::Ready(Some(Ok(Frame::data(framed))))
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use http_body_util::{BodyExt, Channel};
    use weft_transcode::{Codec, MethodPlan, Schema, Settings};

    use super::*;

    const FILES: &str = r#"
        syntax = "proto3";
        package files.v1;
        import "google/api/annotations.proto";
        import "google/api/httpbody.proto";
        service Files {
          rpc Read(google.api.HttpBody) returns (stream google.api.HttpBody) {
            option (google.api.http) = { get: "/file" };
          }
        }
    "#;

    fn watch() -> Arc<MethodPlan> {
        let schema = Schema::decode(weft_proto::descriptors::TESTKIT).unwrap();
        let found = schema.plans().iter().find(|it| it.method().name() == "ServerStream").cloned();
        found.expect("echo has a server stream")
    }

    /// A stream of replies to a client that accepts this, and the sender of what upstream says after the first of them.
    fn framed(accept: &str) -> (FramedReplies, http_body_util::channel::Sender<Bytes, Infallible>) {
        let (sender, body) = Channel::<Bytes, Infallible>::new(1);
        let answer = http::Response::builder().header("content-type", "application/grpc");
        let (_, replies) = Replies::new(answer.body(Body::boxed(body)).unwrap());
        let framing = Codec::new(Settings::default()).reply_stream(&watch(), Some(accept));
        let first = Next::Message(Bytes::from_static(b"\x0a\x01a"));
        (FramedReplies::new(framing, Trailing::All, first, replies, None), sender)
    }

    async fn text(body: &mut FramedReplies) -> String {
        let frame = body.frame().await.expect("it goes on").unwrap();
        String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_event_stream_says_that_it_lives() {
        let (mut body, mut sender) = framed("text/event-stream");
        let began = Instant::now();
        assert_eq!(text(&mut body).await, "id: 1\ndata: {\"text\":\"a\"}\n\n");
        assert_eq!(text(&mut body).await, ":\n\n");
        assert_eq!(text(&mut body).await, ":\n\n");
        assert_eq!(began.elapsed().as_secs(), 30, "the clock stands still but for this");
        sender.send_data(frame(b"\x0a\x01b")).await.unwrap();
        assert_eq!(text(&mut body).await, "id: 2\ndata: {\"text\":\"b\"}\n\n");
    }

    #[tokio::test]
    async fn what_is_there_together_leaves_together() {
        let (mut body, mut sender) = framed("application/x-ndjson");
        sender.send_data([frame(b"\x0a\x01b"), frame(b"\x0a\x01c")].concat().into()).await.unwrap();
        assert_eq!(text(&mut body).await, "{\"text\":\"a\"}\n{\"text\":\"b\"}\n{\"text\":\"c\"}\n");
        let large = frame(&[b"\x0a\xa0\x8d\x06", &[b'x'; 100_000][..]].concat());
        sender.send_data(large).await.unwrap();
        assert_eq!(text(&mut body).await.len(), 100_012, "waits for nothing");
        let trailers = http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), "13".parse().unwrap())]);
        sender.send_trailers(trailers).await.unwrap();
        assert_eq!(text(&mut body).await, "{\"error\":{\"code\":13}}\n");
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn metadata_that_ends_the_call_comes_behind_the_body_once() {
        for (status, ending) in [("0", None), ("13", Some("{\"error\":{\"code\":13}}\n"))] {
            let (mut body, mut sender) = framed("application/x-ndjson");
            assert_eq!(text(&mut body).await, "{\"text\":\"a\"}\n");
            let trailers = [("grpc-status", status), ("cost", "3")];
            let trailers = trailers.map(|(name, it)| (name.parse().unwrap(), it.parse().unwrap()));
            sender.send_trailers(trailers.into_iter().collect()).await.unwrap();
            if let Some(ending) = ending {
                assert_eq!(text(&mut body).await, ending);
            }
            let trailers = body.frame().await.expect("trailers").unwrap().into_trailers().unwrap();
            assert_eq!((trailers.len(), &trailers["grpc-metadata-cost"]), (1, &"3".parse().unwrap()));
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn raw_bytes_break_off_where_the_call_fails() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("files.proto"), FILES).unwrap();
        let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
        let mut compiler = protox::Compiler::new([dir.path(), protos.as_ref()]).unwrap();
        compiler.include_imports(true).open_files(["files.proto"]).unwrap();
        let schema = Schema::decode(&compiler.encode_file_descriptor_set()).unwrap();
        let plan = schema.plans().iter().find(|it| it.returns_raw_body()).cloned().unwrap();
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        let answer = http::Response::builder().header("content-type", "application/grpc");
        let (_, replies) = Replies::new(answer.body(Body::boxed(body)).unwrap());
        let framing = Codec::new(Settings::default()).reply_stream(&plan, None);
        let first = Next::Message(Bytes::from_static(b"\x12\x01a"));
        let mut body = FramedReplies::new(framing, Trailing::All, first, replies, None);
        assert_eq!(text(&mut body).await, "a");
        let trailers =
            [("grpc-status", "13"), ("cost", "3")].map(|(name, it)| (name.parse().unwrap(), it.parse().unwrap()));
        sender.send_trailers(trailers.into_iter().collect()).await.unwrap();
        assert!(body.frame().await.expect("it is no end").is_err());
        assert!(body.frame().await.is_none(), "nothing makes an end of what broke off");

        // Also where the first message is none.
        let framing = Codec::new(Settings::default()).reply_stream(&plan, None);
        let answer = http::Response::builder().header("content-type", "application/grpc");
        let (_, replies) = Replies::new(answer.body(Body::empty()).unwrap());
        let first = Next::Message(Bytes::from_static(b"\xff"));
        let mut body = FramedReplies::new(framing, Trailing::All, first, replies, None);
        assert!(body.frame().await.expect("it is no end").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn other_framings_have_nothing_to_say_meanwhile() {
        let (mut body, _sender) = framed("application/x-ndjson");
        assert_eq!(text(&mut body).await, "{\"text\":\"a\"}\n");
        let hour = tokio::time::timeout(Duration::from_secs(3600), body.frame()).await;
        assert!(hour.is_err(), "{hour:?}");
    }
}
