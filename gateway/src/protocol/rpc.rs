//! What gRPC-Web and Connect share: a method is called by its gRPC path, with protobuf or JSON, whatever frames the messages come in.
//!
//! Lives here: messages of either format, the order of steps of a call, what of its metadata crosses. Does not: content types, heads and endings, which
//! are each protocol's own (`grpc_web`, `connect`); bodies (`rpc::requests`, `rpc::answers`).
//! A method that takes one message is called when that message is there, so that too many or none is told before anything was called.

pub(crate) mod answers;
pub(crate) mod requests;
pub(crate) mod unread;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method as HttpMethod, Request, Version, header, request};
use tokio::sync::oneshot;
use weft_traffic::{Body, CallOptions, Error};
use weft_transcode::{Codec, Status, schema::Method};

pub(crate) use crate::protocol::codes::{
    CANCELLED, DEADLINE_EXCEEDED, INTERNAL, INVALID_ARGUMENT, UNAVAILABLE, UNIMPLEMENTED,
};
use crate::{
    edge::{
        authentication::Client,
        cache::{self, Shown},
        call::Call,
        guard,
        limits::{BY_ROUTE, Has, Limits, Most},
        policies::EdgePlan,
    },
    protocol::{
        Shard,
        frames::frame,
        own,
        replies::Replies,
        rest::{body::check_depth, metadata},
    },
    routes::{Rpc, Table},
};
use requests::{Intake, RequestMessages};

/// How messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Proto,
    Json,
}

/// Between messages as the client writes them and protobuf.
#[derive(Debug, Clone)]
pub(crate) struct Messages {
    pub(crate) codec: Codec,
    pub(crate) format: Format,
    /// None where the method's types are not known: then protobuf only.
    pub(crate) method: Option<Arc<Method>>,
    /// What policies say of size.
    pub(crate) limits: Option<Arc<Limits>>,
}

impl Messages {
    fn request(&self, message: Bytes) -> Result<Bytes, Status> {
        match (self.format, &self.method) {
            (Format::Proto, _) => Ok(message),
            (Format::Json, Some(method)) => {
                let read = check_depth(self.limits.as_deref(), &message);
                read.and_then(|()| self.codec.decode_json(method, &message)).map_err(|error| error.status())
            }
            (Format::Json, None) => Err(not_described()),
        }
    }

    pub(crate) fn reply(&self, message: Bytes) -> Result<Bytes, Status> {
        match (self.format, &self.method) {
            (Format::Proto, _) => Ok(message),
            (Format::Json, Some(method)) => self.codec.encode_json(method, &message).map_err(|error| error.status()),
            (Format::Json, None) => Err(not_described()),
        }
    }
}

fn not_described() -> Status {
    Status::new(UNIMPLEMENTED, "the method is not described here, so it has no JSON; send protobuf")
}

/// One matched call on its way.
pub(crate) struct Exchange<'a> {
    pub(crate) shard: &'a Shard,
    pub(crate) head: &'a request::Parts,
    pub(crate) call: &'a Call,
    pub(crate) rpc: &'a Rpc,
    pub(crate) timeout: Option<Duration>,
}

/// A call that upstream has begun to answer.
pub(crate) struct Answered {
    pub(crate) head: HeaderMap,
    pub(crate) replies: Replies,
    /// Tells of a client stream that turns out wrong.
    pub(crate) went_wrong: Option<oneshot::Receiver<Status>>,
}

impl Exchange<'_> {
    /// Calls the method with the messages of a body.
    pub(crate) async fn run(&self, body: Body, intake: Intake) -> Result<Answered, Status> {
        let plan = self.rpc.plan.as_ref();
        if plan.is_some_and(|plan| !plan.method().streaming().client()) {
            let message = requests::one(body, &intake, self.deadline()).await?;
            return self.send(Body::full(frame(&message))).await;
        }
        let (wrong, mut went_wrong) = oneshot::channel();
        let messages = Body::boxed(RequestMessages::new(body, intake, wrong));
        tokio::select! {
            biased; // a request that is wrong also breaks the call: the cause is the answer
            Ok(status) = &mut went_wrong => Err(status),
            answered = self.send(messages) => Ok(Answered { went_wrong: Some(went_wrong), ..answered? }),
        }
    }

    /// Calls the method with a body of gRPC frames.
    pub(crate) async fn send(&self, body: Body) -> Result<Answered, Status> {
        let mut request = Request::new(body);
        *request.method_mut() = HttpMethod::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.rpc.uri.clone();
        *request.headers_mut() = metadata::upstream(self.head);
        self.call.mark(request.headers_mut());
        self.call.goes_upstream();
        let options = CallOptions {
            received: self.call.received,
            timeout: self.timeout(),
            service: Some(self.rpc.service.clone()),
            instance: None,
        };
        if self.rpc.own {
            let (head, replies) = Replies::new(own::call(self.shard, request, self.deadline()).await);
            return Ok(Answered { head, replies, went_wrong: None });
        }
        match self.shard.outbound.call_with(request, options).await {
            Ok(response) => {
                let (head, replies) = Replies::new(response);
                Ok(Answered { head, replies, went_wrong: None })
            }
            Err(error) => {
                let told = self.call.unanswered(&error);
                let told = if matches!(error, Error::Deadline) { self.late() } else { told };
                Err(Status::new(error.grpc_code().number().into(), told))
            }
        }
    }

    fn late(&self) -> String {
        let has = Has { asked: self.timeout, usual: None };
        let late = Limits::late(limits(self.rpc), has, self.call.received.elapsed(), || self.call.noted());
        late.unwrap_or_else(|| BY_ROUTE.to_owned())
    }

    pub(crate) fn deadline(&self) -> Option<tokio::time::Instant> {
        self.timeout().map(|timeout| self.call.received + timeout)
    }

    fn timeout(&self) -> Option<Duration> {
        Limits::timeout(limits(self.rpc), self.timeout)
    }
}

/// A call that does not become one of the mesh.
pub(crate) struct Refused {
    pub(crate) status: Status,
    /// What HTTP has headers for.
    pub(crate) headers: Box<HeaderMap>,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self { status, headers: Box::default() }
    }
}

/// Returns the method that a request calls; notes in the call whose it is.
pub(crate) fn route(shard: &Shard, head: &request::Parts, call: &mut Call) -> Result<Rpc, Status> {
    let path = head.uri.path();
    let table = shard.shared.table.load();
    if let Some(rpc) = shard.shared.own.rpc(path) {
        let cors = table.as_deref().and_then(Table::cors_of_unmatched);
        call.cors = cors.map(|it| it.grant(&head.headers));
        return Ok(rpc);
    }
    let table = table.as_deref().ok_or_else(|| Status::new(UNAVAILABLE, shard.shared.no_table()))?;
    let Some(rpc) = table.rpc(path) else {
        call.cors = table.cors_of_unmatched().map(|it| it.grant(&head.headers));
        return Err(Status::new(UNIMPLEMENTED, format!("no service of the mesh offers {path}")));
    };
    call.service = Some(rpc.service.clone());
    Ok(rpc)
}

/// Who calls, and by which credentials as far as the cache asks.
pub(crate) struct Admitted {
    pub(crate) client: Client,
    pub(crate) shown: Shown,
}

/// Lets a call pass the edge, as one by any protocol.
pub(crate) async fn admit(rpc: &Rpc, head: &mut request::Parts, call: &mut Call) -> Result<Admitted, Refused> {
    metadata::end_hop(&mut head.headers);
    let cached = rpc.edge.as_ref().is_some_and(|edge| edge.cache.is_some());
    let ask = |headers: &HeaderMap| if cached { cache::shown(headers) } else { None };
    let before = ask(&head.headers);
    match guard::admit(rpc.edge.as_ref(), &mut head.headers, call).await {
        Ok(client) => Ok(Admitted { client, shown: cache::both(before, ask(&head.headers)) }),
        Err(refusal) => {
            let mut headers = Box::<HeaderMap>::default();
            refusal.write(&mut headers);
            Err(Refused { status: Status::new(refusal.code.number().into(), refusal.message), headers })
        }
    }
}

/// Returns how many bytes a message of a request may have.
pub(crate) fn limit(shard: &Shard, rpc: &Rpc, call: &Call) -> Most {
    Limits::most(limits(rpc), shard.shared.limits.max_request_bytes, || call.noted())
}

/// Returns how a call's JSON is read and printed.
pub(crate) fn codec(shard: &Shard, rpc: &Rpc, call: &Call) -> Codec {
    let codec = EdgePlan::codec(rpc.edge.as_deref(), &shard.shared.codec);
    Limits::codec(limits(rpc), codec, || call.noted()).into_owned()
}

/// Returns what policies say of a call's size.
pub(crate) fn limits_of_size(rpc: &Rpc) -> Option<Arc<Limits>> {
    rpc.edge.as_ref()?.limits_of_size.clone()
}

fn limits(rpc: &Rpc) -> Option<&Limits> {
    rpc.edge.as_ref()?.limits_of_size.as_deref()
}

/// Returns the content type without parameters, in lower case.
pub(crate) fn content_type(headers: &HeaderMap) -> String {
    media_type(headers).to_ascii_lowercase()
}

/// Returns the content type without parameters, in the case that it was sent in.
pub(crate) fn media_type(headers: &HeaderMap) -> &str {
    text(headers, &header::CONTENT_TYPE).split(';').next().unwrap_or_default().trim()
}

/// Returns a header that lists, its lines taken together; none if it is absent.
pub(crate) fn list(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).peekable();
    values.peek()?;
    Some(values.collect::<Vec<_>>().join(","))
}

/// Returns a header's value as text; empty if it is absent or no text.
pub(crate) fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Copies what of a call's metadata is the backend's own.
pub(crate) fn own_metadata(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from.iter().filter(|(name, _)| metadata::is_own(name)) {
        to.append(name, value.clone());
    }
}

/// A header's value out of names we know.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}
