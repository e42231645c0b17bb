//! ProtoJSON ⇄ wire for one method: the interface behind which the codec is replaced without its callers noticing.
//!
//! Lives here: `Codec` and what it takes and gives. Does not: routes, HTTP types, framing of streams (`stream`).
//! Source: the ProtoJSON specification and the protobuf conformance suite, strict.

use std::sync::Arc;

use bytes::Bytes;

use crate::bind::{BindError, RequestParts};
use crate::plan::MethodPlan;
use crate::settings::{Settings, StreamFormat};
use crate::status::Status;
use crate::stream::{ReplyStream, RequestStream};

/// Translates requests and replies under one set of settings.
#[derive(Debug, Clone, Default)]
pub struct Codec {
    settings: Arc<Settings>,
}

/// A translated reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `application/json`, or what the `google.api.HttpBody` says.
    pub content_type: String,
    /// The HTTP body.
    pub body: Bytes,
}

/// A reply that cannot be printed: the backend broke its contract. Answer INTERNAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The bytes are not the reply type.
    #[error("reply of {method} is not a {message}: {reason}")]
    Malformed {
        /// Full name of the method.
        method: String,
        /// Full name of the reply type.
        message: String,
        /// What the decoder said.
        reason: String,
    },
    /// A value has no JSON form, for instance a timestamp of year 10000.
    #[error("reply of {method} has no JSON form: {reason}")]
    Unprintable {
        /// Full name of the method.
        method: String,
        /// Which value, and why.
        reason: String,
    },
}

impl Codec {
    /// Returns a codec with these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings) }
    }

    /// Returns the settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Returns the one request message of a unary or server-streaming method, encoded.
    ///
    /// # Errors
    /// `BindError`, which is the answer to the client.
    pub fn decode_request(&self, plan: &MethodPlan, parts: RequestParts<'_>, body: &[u8]) -> Result<Bytes, BindError> {
        let _ = (plan, parts, body);
        todo!()
    }

    /// Checks path and query before the body is read, so that a bad request is refused without waiting for it.
    ///
    /// # Errors
    /// As `decode_request`.
    pub fn check_head(&self, plan: &MethodPlan, parts: RequestParts<'_>) -> Result<(), BindError> {
        let _ = (plan, parts);
        todo!()
    }

    /// Returns the HTTP body for a reply message.
    ///
    /// # Errors
    /// `EncodeError` if the backend sent something that is not the method's reply type.
    pub fn encode_reply(&self, plan: &MethodPlan, wire: &[u8]) -> Result<Reply, EncodeError> {
        let _ = (plan, wire);
        todo!()
    }

    /// Returns a reader that turns the chunks of an HTTP body into the request messages of a client stream.
    ///
    /// # Errors
    /// `BindError` about path or query.
    pub fn request_stream(&self, plan: &Arc<MethodPlan>, parts: RequestParts<'_>) -> Result<RequestStream, BindError> {
        let _ = (plan, parts);
        todo!()
    }

    /// Returns a writer that frames the replies of a server stream. `accept` is the request's `Accept` header.
    pub fn reply_stream(&self, plan: &Arc<MethodPlan>, accept: Option<&str>) -> ReplyStream {
        let _ = (plan, accept, StreamFormat::JsonArray);
        todo!()
    }

    /// Returns a status as the JSON of `google.rpc.Status`. Details are looked up in the pool of `plan`'s service, then among the types of
    /// google/rpc/error_details.proto and the well-known types; one of unknown type is printed as `{"@type", "value": base64}`.
    pub fn encode_status(&self, status: &Status, plan: Option<&MethodPlan>) -> Bytes {
        let _ = (status, plan);
        todo!()
    }
}
