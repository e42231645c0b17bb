//! What a REST request says before it is a message: its body, read within bounds, and the headers about it.
//!
//! Lives here: size, time, depth, compression and kind of the body, the deadline that the client asks for. Does not: making a message of it (`weft-transcode`,
//! `rest::forms`), bodies that go upstream as they come (`rest::streams`).

use std::{borrow::Cow, time::Duration};

use bytes::{Bytes, BytesMut};
use http::header;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};
use weft_model::timeout;
use weft_traffic::{Body, caller_timeout};
use weft_transcode::{
    BindError, Codec, RequestParts, Status, status,
    stream::{Check, is_ndjson},
};

use super::{Exchange, Failure, forms};
use crate::{
    edge::limits::{Has, Limits, Most},
    protocol::{
        chain,
        codes::{DEADLINE_EXCEEDED, INVALID_ARGUMENT},
        compression::{DecompressError, Encoding},
    },
};

/// How many times what a body has sent so far room is made for, if it announces that much.
const ANNOUNCED: usize = 256;

impl Exchange<'_> {
    /// Reads the whole body, within the limit and the deadline.
    pub(super) async fn read(&self, mut body: Body, timeout: Option<Duration>) -> Result<Bytes, Failure> {
        let limit = self.most();
        let announced = http_body::Body::size_hint(&body).lower();
        if announced > limit.bytes {
            return Err(limit.too_large().into());
        }
        let until = self.until(timeout);
        let mut first = Bytes::new();
        let mut whole = BytesMut::new();
        while let Some(data) = next_data(&mut body, until).await? {
            if (first.len().max(whole.len()) + data.len()) as u64 > limit.bytes {
                return Err(limit.too_large().into());
            }
            match (first.is_empty(), whole.is_empty()) {
                (true, true) => first = data, // nearly always the only one: not copied
                (_, true) => {
                    // Room for all of it at once, but not on the word of a client that sends little.
                    let room = usize::try_from(announced).unwrap_or(0).min(ANNOUNCED * (first.len() + data.len()));
                    whole.reserve(room.max(first.len() + data.len()));
                    whole.extend_from_slice(&std::mem::take(&mut first));
                    whole.extend_from_slice(&data);
                }
                (_, false) => whole.extend_from_slice(&data),
            }
        }
        Ok(if whole.is_empty() { first } else { whole.freeze() })
    }

    /// Until when a body that is read whole is waited for.
    pub(super) fn until(&self, timeout: Option<Duration>) -> Until<'_> {
        let deadline = timeout.map(|timeout| self.call.received + timeout);
        Until { exchange: self, deadline, due: Limits::body_due(self.limits(), self.call.received) }
    }

    fn limits(&self) -> Option<&Limits> {
        self.found.edge.as_ref()?.limits_of_size.as_deref()
    }

    /// How many bytes the body may have, or a message of it.
    pub(in crate::protocol) fn most(&self) -> Most {
        Limits::most(self.limits(), self.shard.shared.limits.max_request_bytes, || self.call.noted())
    }

    /// How requests are read.
    pub(in crate::protocol) fn reader(&self) -> Cow<'_, Codec> {
        Limits::codec(self.limits(), self.printer(), || self.call.noted())
    }

    /// How replies are printed.
    pub(in crate::protocol) fn printer(&self) -> &Codec {
        self.found.codec(&self.shard.shared.codec)
    }

    pub(super) fn check_depth(&self, body: &[u8]) -> Result<(), BindError> {
        let plan = &self.found.plan;
        let json = plan.has_body() && !plan.takes_raw_body();
        check_depth(self.limits().filter(|_| json), body)
    }

    /// What each JSON message of a stream has to pass.
    pub(in crate::protocol) fn check_of_messages(&self) -> Check {
        match self.found.edge.as_ref().and_then(|edge| edge.limits_of_size.clone()) {
            Some(limits) => Check::new(move |message| check_depth(Some(&limits), message)),
            None => Check::default(),
        }
    }

    /// How the body is compressed. A compressed client stream is read whole before its first message goes upstream.
    pub(super) fn encoding(&self) -> Result<Option<Encoding>, BindError> {
        let named = self.head.headers.get(header::CONTENT_ENCODING).and_then(|name| name.to_str().ok());
        Encoding::named(named.unwrap_or_default()).map_err(|unknown| BindError {
            http_status: 415,
            code: INVALID_ARGUMENT,
            message: unknown.to_string(),
            violations: Vec::new(),
        })
    }

    pub(super) fn decompressed(&self, encoding: Encoding, body: &[u8]) -> Result<Bytes, BindError> {
        let limit = self.most();
        encoding.decompress(body, limit.len()).map_err(|error| match error {
            DecompressError::TooLong(_) => limit.too_large(),
            DecompressError::Malformed(_) => BindError::field("body", chain(&error)),
        })
    }

    /// The client's `grpc-timeout`; without one, the configured limit for calls that are not streams.
    pub(in crate::protocol) fn timeout(&self) -> Result<Option<Duration>, BindError> {
        let asked = caller_timeout(&self.head.headers).map_err(|_| {
            BindError::field(timeout::NAME, "expected one to eight digits and a unit of H, M, S, m, u or n")
        })?;
        Ok(Limits::timeout(self.limits(), self.has(asked).timeout()))
    }

    fn has(&self, asked: Option<Duration>) -> Has {
        let streaming = self.found.plan.method().streaming();
        let bounded = !streaming.client() && !streaming.server();
        Has { asked, usual: bounded.then_some(self.shard.shared.limits.default_timeout) }
    }

    /// What the client is told whose deadline has passed.
    pub(super) fn late(&self) -> Option<String> {
        let has = self.has(caller_timeout(&self.head.headers).ok().flatten());
        Limits::late(self.limits(), has, self.call.received.elapsed(), || self.call.noted())
    }

    /// Refuses bodies that say they are something else than is read here: a page of another origin may send those that browsers take for harmless, `text/plain`
    /// among them, without asking first. A body without a type is JSON. Returns what kind of form a body is.
    pub(super) fn check_content_type(&self) -> Result<Option<forms::Kind>, BindError> {
        let plan = &self.found.plan;
        let sent = self.head.headers.get(header::CONTENT_TYPE).filter(|it| plan.has_body() && !it.is_empty());
        let Some(sent) = sent else { return Ok(None) };
        let text = sent.to_str().unwrap_or_default();
        let form = forms::Kind::of(text, plan)?;
        if form.is_some() || plan.takes_raw_body() || is_json(text) {
            return Ok(form);
        }
        Err(BindError {
            http_status: 415,
            code: INVALID_ARGUMENT,
            message: format!(
                "content type {:?} is not served here; send application/json, or a form",
                String::from_utf8_lossy(sent.as_bytes())
            ),
            violations: Vec::new(),
        })
    }

    fn content_type(&self) -> Option<&str> {
        self.head.headers.get(header::CONTENT_TYPE)?.to_str().ok()
    }

    pub(in crate::protocol) fn parts(&self) -> RequestParts<'_> {
        RequestParts {
            http_method: self.head.method.as_str(),
            variables: &self.found.variables,
            query: self.head.uri.query(),
            content_type: self.content_type(),
        }
    }
}

/// Whether a body of this type is read as JSON: `curl -d` calls JSON a form, also where no form can be.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let of_another_protocol = ["application/grpc", "application/connect"].iter().any(|it| essence.starts_with(it));
    let named = [status::JSON, "text/json", forms::URLENCODED].contains(&&*essence) || essence.ends_with("+json");
    (named && !of_another_protocol) || is_ndjson(Some(&essence))
}

/// Refuses JSON that is nested deeper than a policy lets it be.
pub(in crate::protocol) fn check_depth(limits: Option<&Limits>, json: &[u8]) -> Result<(), BindError> {
    match limits.and_then(|limits| limits.too_deep(json)) {
        Some((path, most)) => Err(BindError::field(path, format!("nested deeper than {most} levels"))),
        None => Ok(()),
    }
}

/// The call's deadline, and when a body has to be there.
#[derive(Clone, Copy)]
pub(super) struct Until<'e> {
    pub(super) exchange: &'e Exchange<'e>,
    pub(super) deadline: Option<Instant>,
    pub(super) due: Option<Instant>,
}

impl Until<'_> {
    /// Waits for something of a body.
    pub(super) async fn wait<T>(self, work: impl Future<Output = T>) -> Result<T, Failure> {
        match [self.deadline, self.due].into_iter().flatten().min() {
            Some(until) => timeout_at(until, work).await.map_err(|_| self.passed()),
            None => Ok(work.await),
        }
    }

    fn passed(self) -> Failure {
        match self.due {
            Some(due) if self.deadline.is_none_or(|deadline| due < deadline) => {
                let late = self.exchange.limits().map(|it| it.body_late(&self.exchange.call.noted()));
                Failure::Request(BindError {
                    http_status: 408,
                    code: DEADLINE_EXCEEDED,
                    message: late.unwrap_or_default(),
                    violations: Vec::new(),
                })
            }
            _ => {
                let late = self.exchange.late().unwrap_or_else(|| "deadline exceeded".to_owned());
                Status::new(DEADLINE_EXCEEDED, format!("{late}; the request body is not all there")).into()
            }
        }
    }
}

async fn next_data(body: &mut Body, until: Until<'_>) -> Result<Option<Bytes>, Failure> {
    loop {
        match until.wait(body.frame()).await? {
            None => return Ok(None),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data()
                    && !data.is_empty()
                {
                    return Ok(Some(data));
                }
            }
            Some(Err(error)) => {
                return Err(BindError::field("body", format!("the request body broke off: {}", chain(&error))).into());
            }
        }
    }
}
