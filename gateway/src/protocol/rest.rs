//! REST: one HTTP request becomes one gRPC call, its answer becomes one HTTP answer.
//!
//! Lives here: the order of steps. Does not: templates, binding and JSON (`weft-transcode`), what a request says of its body (`rest::body`), how calls
//! fail (`rest::failure`), which headers cross (`rest::metadata`), bodies that stream (`rest::streams`), choosing an endpoint (`weft-traffic`).

pub(super) mod body;
mod failure;
mod forms;
pub(super) mod metadata;
mod streams;

pub(super) use failure::{Failure, failed};

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request};
use tokio::sync::oneshot;
use weft_traffic::{Body, CallOptions, Error};
use weft_transcode::{BindError, Status, status};

use crate::{
    edge::{
        cache::{By, Unanswered, both, shown},
        call::Call,
        cors::Asked,
        guard,
        limits::BY_ROUTE,
    },
    protocol::{
        Shard,
        codes::{DEADLINE_EXCEEDED, INTERNAL, PERMISSION_DENIED, UNAVAILABLE},
        frames::{PREFIX, frame, framed},
        replies::{Next, Replies},
    },
    routes::{Found, Rest, Table},
};
use failure::Failed;
use metadata::Trailing;
use streams::{FramedReplies, RequestMessages, Tag};

/// Answers a REST request.
pub(crate) async fn answer(shard: &Shard, request: Request<Body>, call: &mut Call) -> Response<Body> {
    let (mut head, body) = request.into_parts();
    if let Some(answer) = preflight(shard, &head, call) {
        return answer;
    }
    let found = match route(shard, &head) {
        Ok(found) => found,
        Err(failure) => {
            let table = shard.shared.table.load();
            let cors = table.as_deref().and_then(Table::cors_of_unmatched);
            call.cors = cors.map(|it| it.grant(&head.headers));
            return without_body_for_head(&head.method, failed(shard, failure, None));
        }
    };
    call.meter = found.meter.clone();
    call.service = Some(found.service.clone());
    metadata::end_hop(&mut head.headers);
    let edge = found.edge.as_deref();
    let cache = edge.and_then(|edge| edge.cache.as_ref()).map(|cache| (cache, shown(&head.headers)));
    let client = match guard::admit(found.edge.as_ref(), &mut head.headers, call).await {
        Ok(client) => client,
        Err(refusal) => {
            let status = Status::new(refusal.code.number().into(), refusal.message.as_str());
            let mut response = failed(shard, status.into(), Some(&found));
            *response.status_mut() = refusal.http().unwrap_or(response.status());
            refusal.write(response.headers_mut());
            return without_body_for_head(&head.method, response);
        }
    };
    let streaming = found.plan.method().streaming();
    let unary = !streaming.client() && !streaming.server();
    let writes = if unary || head.method.is_safe() { call.take_writes() } else { None }; // a stream writes until it ends
    let by = if found.plan.is_plain() { By::Method } else { By::Path };
    let writing = writes.as_ref().filter(|_| !head.method.is_safe()).map(|it| it.begin(&head, by));
    let exchange = Exchange { shard, head: &head, found: &found, call };
    // Who has yet to send a body could keep those waiting who want the same.
    let whole = http_body::Body::is_end_stream(&body);
    let cached = cache.filter(|_| whole).and_then(|(cache, before)| {
        let shown = both(before, shown(&head.headers)); // a rule may have made a credential of another header
        cache.asked(&head, &found.plan, call, (&client, shown), By::Path)
    });
    let mut response = match cached {
        None => exchange.answer(body).await,
        Some(asked) => {
            let deadline = exchange.timeout().ok().flatten().map(|timeout| call.received + timeout);
            match Box::pin(asked.answer(deadline, exchange.answer(body))).await {
                Ok(response) => response,
                Err(error @ (Unanswered::Late | Unanswered::NotKept)) => {
                    failed(shard, Status::new(DEADLINE_EXCEEDED, error.to_string()).into(), Some(&found))
                }
            }
        }
    };
    if let Some(writing) = writing {
        writing.answered(response.status());
    }
    let cut_off = [StatusCode::PAYLOAD_TOO_LARGE, StatusCode::REQUEST_TIMEOUT].contains(&response.status());
    if cut_off && head.version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close")); // its body was not read to the end
    }
    without_body_for_head(&head.method, response)
}

/// Answers a browser that asks whether a page may call; none if nobody asks, or no policy has an answer.
fn preflight(shard: &Shard, head: &request::Parts, call: &mut Call) -> Option<Response<Body>> {
    let asked = Asked::of(head)?;
    let table = shard.shared.table.load();
    let table = table.as_deref()?;
    let found = table.rest(asked.method, head.uri.path());
    let cors = match &found {
        Rest::Found(found) => found.edge.as_ref()?.cors.as_ref()?,
        Rest::MethodNotAllowed(_) | Rest::NotFound => table.cors_of_unmatched()?,
    };
    call.meter = shard.shared.meters.preflights();
    Some(match cors.preflight(&head.headers, asked) {
        Ok(headers) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            *response.headers_mut() = headers;
            response
        }
        Err(message) => failed(shard, Status::new(PERMISSION_DENIED, message).into(), None),
    })
}

fn route(shard: &Shard, head: &request::Parts) -> Result<Found, Failure> {
    let table = shard.shared.table.load();
    let table = table.as_deref().ok_or_else(|| Status::new(UNAVAILABLE, shard.shared.no_table()))?;
    one_host(head)?;
    let (method, path) = (head.method.as_str(), head.uri.path());
    let found = match table.rest(method, path) {
        // What GET is answered, up to its body (RFC 9110, 9.3.2).
        Rest::MethodNotAllowed(allow) if head.method == Method::HEAD && allow.iter().any(|it| it == "GET") => {
            table.rest("GET", path)
        }
        found => found,
    };
    match found {
        Rest::Found(found) => Ok(found),
        Rest::MethodNotAllowed(allow) => {
            let error = BindError::method_not_allowed(method, &allow);
            Err(Failure::Method { allow, error })
        }
        Rest::NotFound => Err(BindError::not_found(path).into()),
    }
}

/// An HTTP/1.1 request names its host, once (RFC 9112, 3.2): whoever stands between might read another of two.
pub(super) fn one_host(head: &request::Parts) -> Result<(), BindError> {
    match (head.version, head.headers.get_all(header::HOST).iter().count()) {
        (Version::HTTP_11, 0) => Err(BindError::field("host", "an HTTP/1.1 request needs this header")),
        (Version::HTTP_11, 2..) => Err(BindError::field("host", "is there more than once")),
        _ => Ok(()),
    }
}

/// One matched request on its way.
pub(super) struct Exchange<'a> {
    pub(super) shard: &'a Shard,
    pub(super) head: &'a request::Parts,
    pub(super) found: &'a Found,
    pub(super) call: &'a Call,
}

impl Exchange<'_> {
    async fn answer(&self, body: Body) -> Response<Body> {
        match self.run(body).await {
            Ok(response) => response,
            Err(failure) => {
                let unmet = failure.is_unmet() && self.head.headers.contains_key(header::IF_MATCH);
                let mut response = failed(self.shard, failure, Some(self.found));
                if unmet {
                    *response.status_mut() = StatusCode::PRECONDITION_FAILED;
                }
                response
            }
        }
    }

    async fn run(&self, body: Body) -> Result<Response<Body>, Failure> {
        let plan = &self.found.plan;
        let codec = self.reader();
        codec.check_head(plan, self.parts())?;
        let form = self.check_content_type()?;
        let encoding = self.encoding()?;
        let timeout = self.timeout()?;
        let streams = plan.method().streaming().client();
        if let (Some(forms::Kind::Multipart { boundary }), None) = (&form, encoding) {
            return Box::pin(self.multipart(body, boundary.clone(), timeout)).await;
        }
        if streams && encoding.is_none() {
            return self.stream_requests(body, timeout).await;
        }
        let body = self.read(body, timeout).await?;
        let body = match encoding {
            Some(encoding) if !body.is_empty() => self.decompressed(encoding, &body)?,
            _ => body,
        };
        let framed = match form {
            Some(forms::Kind::Multipart { boundary }) => {
                return Box::pin(self.multipart(Body::full(body), boundary, timeout)).await;
            }
            _ if streams => return self.stream_requests(Body::full(body), timeout).await,
            Some(forms::Kind::Urlencoded) if !forms::is_json(&body) => {
                frame(&self.with_if_match(self.urlencoded(&body)?)?)
            }
            _ => {
                self.check_depth(&body)?;
                match plan.takes_if_match() {
                    true => frame(&self.with_if_match(codec.decode_request(plan, self.parts(), &body)?)?),
                    false => framed(codec.decode_request_behind(PREFIX, plan, self.parts(), &body)?),
                }
            }
        };
        drop(body); // nobody reads it again, and upstream may take its time
        self.call(Body::full(framed), timeout).await
    }

    /// Writes into the message what the client wants to be the current version.
    fn with_if_match(&self, message: Bytes) -> Result<Bytes, Failure> {
        let Some(value) = self.head.headers.get(header::IF_MATCH) else { return Ok(message) };
        let message = self.found.plan.put_if_match(message, value.to_str().unwrap_or_default())?;
        Ok(message?)
    }

    /// A client stream: messages go upstream as the body arrives; one that is wrong takes the call back.
    async fn stream_requests(&self, body: Body, timeout: Option<Duration>) -> Result<Response<Body>, Failure> {
        let plan = &self.found.plan;
        let messages = self.reader().request_stream(plan, self.parts())?.checked(self.check_of_messages());
        let (wrong, went_wrong) = oneshot::channel();
        let tag = self.head.headers.get(header::IF_MATCH).filter(|_| plan.takes_if_match());
        let tag = tag.map(|tag| Tag { plan: Arc::clone(plan), value: tag.clone() });
        let messages = Body::boxed(RequestMessages::new(body, messages, self.most(), tag, wrong));
        self.call_with_stream(messages, went_wrong, timeout).await
    }

    /// Calls with messages that may turn out wrong.
    async fn call_with_stream(
        &self,
        messages: Body,
        mut went_wrong: oneshot::Receiver<BindError>,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Failure> {
        tokio::select! {
            biased; // a request that is wrong also breaks the call: the cause is the answer
            Ok(error) = &mut went_wrong => Err(Failure::Request(error)),
            answered = self.call_streaming(messages, timeout) => {
                let (head, replies) = answered?;
                self.reply(head, replies, Some(went_wrong)).await
            }
        }
    }

    async fn call(&self, body: Body, timeout: Option<Duration>) -> Result<Response<Body>, Failure> {
        let (head, replies) = self.call_streaming(body, timeout).await?;
        self.reply(head, replies, None).await
    }

    /// Makes the call; returns its metadata and replies.
    pub(super) async fn call_streaming(
        &self,
        body: Body,
        timeout: Option<Duration>,
    ) -> Result<(HeaderMap, Replies), Failure> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = self.found.uri.clone();
        *request.headers_mut() = metadata::upstream(self.head);
        self.call.mark(request.headers_mut());
        self.call.goes_upstream();
        let options = CallOptions {
            received: self.call.received,
            timeout,
            service: Some(self.found.service.clone()),
            instance: None,
        };
        match self.shard.outbound.call_with(request, options).await {
            Ok(response) => Ok(Replies::new(response)),
            Err(error) => {
                let status = Status::new(error.grpc_code().number().into(), self.call.unanswered(&error));
                let by_route = |status: Status| match error {
                    Error::Deadline => Status { message: BY_ROUTE.to_owned(), ..status },
                    _ => status,
                };
                Err(self.with_limit(status).unwrap_or_else(by_route).into())
            }
        }
    }

    /// Names the limit to a client whose deadline has passed, whichever hop says so first: all have the same deadline.
    fn with_limit(&self, status: Status) -> Result<Status, Status> {
        if status.code != DEADLINE_EXCEEDED {
            return Err(status);
        }
        match self.late() {
            Some(message) => Ok(Status { message, ..status }),
            None => Err(status),
        }
    }

    async fn reply(
        &self,
        head: HeaderMap,
        mut replies: Replies,
        went_wrong: Option<oneshot::Receiver<BindError>>,
    ) -> Result<Response<Body>, Failure> {
        match (replies.next().await, self.found.plan.method().streaming().server()) {
            (Next::End(status), _) if status.code != 0 => {
                let status = self.with_limit(status).unwrap_or_else(|status| status);
                Err(Failure::Call(Box::new(Failed { status, head, trailers: replies.trailers().clone() })))
            }
            (first, true) => Ok(self.stream_replies(head, first, replies, went_wrong)),
            (Next::Message(message), false) => self.one_reply(head, &message, replies).await,
            (Next::End(_), false) => Err(Status::new(INTERNAL, "upstream succeeded without a message").into()),
        }
    }

    async fn one_reply(
        &self,
        head: HeaderMap,
        message: &Bytes,
        mut replies: Replies,
    ) -> Result<Response<Body>, Failure> {
        let status = match replies.next().await {
            Next::End(status) => status,
            Next::Message(_) => Status::new(INTERNAL, "upstream sent two messages in place of one"),
        };
        if status.code != 0 {
            return Err(Failure::Call(Box::new(Failed { status, head, trailers: replies.trailers().clone() })));
        }
        let encoded = self.printer().encode_owned(&self.found.plan, message);
        let reply = encoded.map_err(|error| Status::new(INTERNAL, error.to_string()))?;
        let mut response = Response::new(Body::full(reply.body));
        *response.status_mut() = metadata::success_status(&head, replies.trailers());
        metadata::downstream(&head, replies.trailers(), response.headers_mut());
        set_content_type(response.headers_mut(), &reply.content_type);
        self.set_etag(message, response.headers_mut());
        if response.status() == StatusCode::NO_CONTENT {
            *response.body_mut() = Body::empty();
            response.headers_mut().remove(header::CONTENT_TYPE);
        }
        Ok(response)
    }

    /// Names the version of the reply, unless the service's metadata did.
    fn set_etag(&self, message: &[u8], headers: &mut HeaderMap) {
        let plan = &self.found.plan;
        if plan.returns_etag()
            && !headers.contains_key(header::ETAG)
            && let Some(tag) = plan.etag(message).and_then(|tag| HeaderValue::try_from(tag).ok())
        {
            headers.insert(header::ETAG, tag);
        }
    }

    fn stream_replies(
        &self,
        head: HeaderMap,
        first: Next,
        replies: Replies,
        went_wrong: Option<oneshot::Receiver<BindError>>,
    ) -> Response<Body> {
        let accept = self.head.headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
        let framing = self.printer().reply_stream(&self.found.plan, accept);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = metadata::success_status(&head, &HeaderMap::new());
        metadata::downstream(&head, &HeaderMap::new(), response.headers_mut());
        let trailing = Trailing::of(self.head, &head, response.headers_mut());
        let framed = FramedReplies::new(framing, trailing, first, replies, went_wrong);
        set_content_type(response.headers_mut(), framed.content_type());
        response.map(|_| Body::boxed(framed))
    }
}

fn set_content_type(headers: &mut HeaderMap, content_type: &str) {
    let value = match content_type {
        status::JSON => HeaderValue::from_static(status::JSON),
        // An HttpBody may name anything, also what no header can hold.
        named => HeaderValue::try_from(named).unwrap_or(HeaderValue::from_static("application/octet-stream")),
    };
    headers.insert(header::CONTENT_TYPE, value);
}

/// An answer to HEAD has the length of its body, and no body (RFC 9110, 9.3.2).
pub(crate) fn without_body_for_head(method: &Method, mut response: Response<Body>) -> Response<Body> {
    if *method == Method::HEAD {
        if let Some(length) = http_body::Body::size_hint(response.body()).exact() {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.body_mut() = Body::empty();
    }
    response
}
