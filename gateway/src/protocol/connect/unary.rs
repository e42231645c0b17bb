//! Connect's unary calls: a bare message each way, errors as JSON with a status of HTTP.
//!
//! Lives here: reading the message, the answer with its metadata. Does not: which requests are unary calls (`connect`).
//! Source: the Connect protocol, "Unary-Request", "Unary-Response".

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use weft_traffic::Body;
use weft_transcode::{Status, schema::Method, status::JSON};

use super::{Exchange, encoding, intake, query, reply_encoding};
use crate::{
    edge::{
        cache::{By, Unanswered},
        call::Outcome,
    },
    protocol::{
        Shard,
        compression::Encoding,
        frames::frame,
        replies::Next,
        rest::metadata::is_own,
        rpc::{self, Admitted, DEADLINE_EXCEEDED, Format, INTERNAL, Messages, answers::WORTH_COMPRESSING, requests},
    },
};

/// A failure, with the metadata that upstream sent with it.
struct Failed {
    status: Status,
    metadata: Metadata,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Self { status, metadata: Metadata::default() }
    }
}

/// Metadata from before and after the message.
#[derive(Default)]
struct Metadata {
    head: HeaderMap,
    trailers: HeaderMap,
}

impl Metadata {
    /// Trailers become headers of another name: there is nothing after the body.
    fn write(&self, headers: &mut HeaderMap) {
        rpc::own_metadata(&self.head, headers);
        for (name, value) in self.trailers.iter().filter(|(name, _)| is_own(name)) {
            if let Ok(name) = HeaderName::try_from(format!("trailer-{name}")) {
                headers.append(name, value.clone());
            }
        }
    }
}

/// Answers a unary call whose message is in the query, from what is kept if that is allowed.
pub(super) async fn answer_to_get(
    exchange: Exchange<'_>,
    messages: Messages,
    outcome: Outcome,
    admitted: Admitted,
) -> Response<Body> {
    let Exchange { shard, head, call, rpc, .. } = exchange;
    let (cache, plan) = (rpc.edge.as_ref().and_then(|edge| edge.cache.as_ref()), rpc.plan.as_ref());
    let caller = (&admitted.client, admitted.shown);
    let asked = cache.zip(plan).and_then(|(cache, plan)| cache.asked(head, plan, call, caller, By::Method));
    let Some(asked) = asked else { return answer(exchange, None, messages, outcome).await };
    let deadline = exchange.deadline();
    let fetch = answer(exchange, None, messages.clone(), outcome.clone());
    match Box::pin(asked.answer(deadline, fetch)).await {
        Ok(response) => {
            let failed = response.status().is_client_error() || response.status().is_server_error();
            if !failed {
                outcome.is(0); // an error is not kept: who fetched it has said which
            }
            response
        }
        Err(unanswered @ (Unanswered::Late | Unanswered::NotKept)) => {
            outcome.is(DEADLINE_EXCEEDED);
            let status = Status::new(DEADLINE_EXCEEDED, unanswered.to_string());
            error(shard, &status.into(), messages.method.as_deref())
        }
    }
}

/// Answers a unary call. Without a body its message is in the query.
pub(super) async fn answer(
    exchange: Exchange<'_>,
    body: Option<Body>,
    messages: Messages,
    outcome: Outcome,
) -> Response<Body> {
    match run(&exchange, body, &messages).await {
        Ok(response) => {
            outcome.is(0);
            response
        }
        Err(failed) => {
            outcome.is(failed.status.code);
            let method = messages.method.as_deref();
            error(exchange.shard, &failed, method)
        }
    }
}

async fn run(exchange: &Exchange<'_>, body: Option<Body>, messages: &Messages) -> Result<Response<Body>, Failed> {
    let headers = &exchange.head.headers;
    let (bytes, used) = match body {
        None => query::message(exchange.head.uri.query().unwrap_or_default())?,
        Some(body) => {
            let used = encoding(headers, &header::CONTENT_ENCODING)?;
            (
                requests::whole(body, &rpc::limit(exchange.shard, exchange.rpc, exchange.call), 0, exchange.deadline())
                    .await?,
                used,
            )
        }
    };
    let message = intake(exchange, messages, used).bare(bytes)?;
    let mut answered = exchange.send(Body::full(frame(&message))).await?;
    let reply = match answered.replies.next().await {
        Next::Message(message) => Ok(message),
        Next::End(status) if status.code == 0 => Err(Status::new(INTERNAL, "upstream succeeded without a message")),
        Next::End(status) => Err(status),
    };
    let status = match (&reply, answered.replies.next().await) {
        (Err(status), _) => status.clone(),
        (Ok(_), Next::End(status)) => status,
        (Ok(_), Next::Message(_)) => Status::new(INTERNAL, "upstream sent two messages in place of one"),
    };
    let metadata = Metadata { head: answered.head, trailers: answered.replies.trailers().clone() };
    match reply {
        Ok(reply) if status.code == 0 => {
            let reply = messages.reply(reply)?;
            let encoding = reply_encoding(headers, &header::ACCEPT_ENCODING, used);
            Ok(success(reply, messages.format, encoding, &metadata))
        }
        _ => Err(Failed { status, metadata }),
    }
}

fn success(reply: Bytes, format: Format, encoding: Option<Encoding>, metadata: &Metadata) -> Response<Body> {
    let worth = reply.len() >= WORTH_COMPRESSING;
    let encoding = encoding.filter(|_| worth);
    let body = encoding.map_or_else(|| reply.clone(), |encoding| encoding.compress(&reply));
    let mut response = Response::new(Body::full(body));
    let headers = response.headers_mut();
    metadata.write(headers);
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(match format {
            Format::Proto => "application/proto",
            Format::Json => JSON,
        }),
    );
    if worth {
        headers.append(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    if let Some(encoding) = encoding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    }
    response
}

fn error(shard: &Shard, failed: &Failed, method: Option<&Method>) -> Response<Body> {
    let mut response = Response::new(Body::full(shard.shared.codec.encode_connect_error(&failed.status, method)));
    *response.status_mut() =
        StatusCode::from_u16(failed.status.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    failed.metadata.write(response.headers_mut());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}
