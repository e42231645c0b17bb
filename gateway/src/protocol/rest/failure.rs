//! How a REST call fails: a `google.rpc.Status` as JSON, whoever made it.
//!
//! Lives here: the kinds of failure and their answer. Does not: codes and their HTTP statuses (`weft-transcode`).

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use weft_traffic::Body;
use weft_transcode::{BindError, Status, etag, status};

use super::{metadata, set_content_type};
use crate::{protocol::Shard, routes::Found};

/// A call that has no reply to translate.
pub(in crate::protocol) enum Failure {
    /// The request cannot become a call, or not one of ours.
    Request(BindError),
    /// The same, and these are the methods the path has.
    Method {
        allow: Vec<String>,
        error: BindError,
    },
    Call(Box<Failed>),
}

/// A call that failed, upstream or on the way there, with upstream's metadata.
pub(in crate::protocol) struct Failed {
    pub(super) status: Status,
    pub(super) head: HeaderMap,
    pub(super) trailers: HeaderMap,
}

impl Failure {
    /// Whether it may be about a condition that the client set.
    pub(super) fn is_unmet(&self) -> bool {
        matches!(self, Self::Call(failed) if etag::is_precondition(&failed.status))
    }

    pub(in crate::protocol) fn into_status(self) -> Status {
        match self {
            Self::Request(error) | Self::Method { error, .. } => error.status(),
            Self::Call(failed) => failed.status,
        }
    }
}

impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::Request(error)
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Call(Box::new(Failed { status, head: HeaderMap::new(), trailers: HeaderMap::new() }))
    }
}

/// The answer that says so.
pub(in crate::protocol) fn failed(shard: &Shard, failure: Failure, found: Option<&Found>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let (http, status) = match &failure {
        Failure::Request(error) | Failure::Method { error, .. } => (error.http_status, error.status()),
        Failure::Call(failed) => (failed.status.http_status(), failed.status.clone()),
    };
    match failure {
        Failure::Request(_) => {}
        Failure::Method { allow, .. } => {
            if let Ok(allow) = HeaderValue::try_from(allow.join(", ")) {
                response.headers_mut().insert(header::ALLOW, allow);
            }
        }
        Failure::Call(failed) => metadata::downstream(&failed.head, &failed.trailers, response.headers_mut()),
    }
    *response.status_mut() = StatusCode::from_u16(http).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    set_content_type(response.headers_mut(), status::JSON);
    let codec = found.map_or(&shard.shared.codec, |it| it.codec(&shard.shared.codec));
    *response.body_mut() = Body::full(codec.encode_status(&status, found.map(|it| &*it.plan)));
    response
}
