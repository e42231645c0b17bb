//! ProtoJSON ⇄ wire for one method: the interface behind which the codec is replaced without its callers noticing.
//!
//! Lives here: `Codec` and what it takes and gives. Does not: routes, HTTP types, framing of streams (`stream`).
//! Source: the ProtoJSON specification and the protobuf conformance suite, strict. No message is built on the way; only
//! values from path and query may need one (`bind`).

mod connect;
pub(crate) mod decode;
mod elements;
pub(crate) mod encode;
pub(crate) mod json;
pub(crate) mod mask;
mod print;
pub(crate) mod raw;
pub(crate) mod well_known;

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;

use crate::bind::{BindError, Bindings, RequestParts};
use crate::codec::decode::Decoder;
use crate::codec::encode::{Encoder, Failure};
use crate::codec::json::{Position, Read, Reader, Shape};
use crate::codec::mask::{Inferred, Paths};
use crate::plan::{Body, MethodPlan};
use crate::schema::builtin;
use crate::settings::Settings;
use crate::status::{Detail, JSON, Status};
use crate::stream::{ReplyStream, RequestStream};
use crate::types::Types;
use crate::wire::Malformed;
pub use elements::Elements;

/// Translates requests and replies under one set of settings. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Codec {
    settings: Arc<Settings>,
    elements: Elements,
}

/// A translated reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// `application/json`, or what the `google.api.HttpBody` says.
    pub content_type: Cow<'static, str>,
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

impl EncodeError {
    /// Returns the error as a status: INTERNAL.
    pub fn status(&self) -> Status {
        Status::new(13, self.to_string())
    }
}

impl Codec {
    /// Returns a codec with these settings.
    pub fn new(settings: Settings) -> Self {
        Self { settings: Arc::new(settings), elements: Elements::default() }
    }

    /// Returns the codec with another bound on members and elements of a document.
    #[must_use]
    pub fn bounded(self, elements: Elements) -> Self {
        Self { elements, ..self }
    }

    /// Returns a codec with other settings and the same bound.
    #[must_use]
    pub fn with(&self, settings: Settings) -> Self {
        Self { settings: Arc::new(settings), elements: self.elements.clone() }
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
        let bindings = Bindings::read(plan, parts, &self.settings)?;
        self.bound(plan, parts, bindings, body).map(Bytes::from)
    }

    /// The message of a body and of what path and query bind.
    fn bound(
        &self,
        plan: &MethodPlan,
        parts: RequestParts<'_>,
        bindings: Bindings,
        body: &[u8],
    ) -> Result<Vec<u8>, BindError> {
        let mut wire = match plan.takes_raw_body() {
            true => raw::message(plan, parts.content_type, body),
            false => self.json_message(plan, body, Position::START)?,
        };
        self.infer_mask(plan, parts, &bindings, body, &mut wire)?;
        bindings.apply(plan.method().input(), wire)
    }

    /// As `decode_request`, behind so many bytes that the caller fills: a frame's head need not be put before the message by moving it.
    ///
    /// # Errors
    /// As `decode_request`.
    pub fn decode_request_behind(
        &self,
        room: usize,
        plan: &MethodPlan,
        parts: RequestParts<'_>,
        body: &[u8],
    ) -> Result<Vec<u8>, BindError> {
        let bindings = Bindings::read(plan, parts, &self.settings)?;
        if bindings.is_empty() && !plan.takes_raw_body() && self.mask_to_infer(plan, parts, &bindings).is_none() {
            return self.json_message_behind(room, plan, body, Position::START);
        }
        let message = self.bound(plan, parts, bindings, body)?;
        let mut out = Vec::with_capacity(room + message.len());
        out.resize(room, 0);
        out.extend_from_slice(&message);
        Ok(out)
    }

    /// Checks path and query before the body is read, so that a bad request is refused without waiting for it.
    ///
    /// # Errors
    /// As `decode_request`.
    pub fn check_head(&self, plan: &MethodPlan, parts: RequestParts<'_>) -> Result<(), BindError> {
        let bindings = Bindings::read(plan, parts, &self.settings)?;
        bindings.apply(plan.method().input(), Vec::new()).map(drop)
    }

    /// Returns the HTTP body for a reply message.
    ///
    /// # Errors
    /// `EncodeError` if the backend sent something that is not the method's reply type.
    pub fn encode_reply(&self, plan: &MethodPlan, wire: &[u8]) -> Result<Reply, EncodeError> {
        self.encode_or_cut(plan, wire, Bytes::copy_from_slice)
    }

    /// As `encode_reply`; a raw body is not copied but a part of `wire`, which lives as long as it.
    ///
    /// # Errors
    /// As `encode_reply`.
    pub fn encode_owned(&self, plan: &MethodPlan, wire: &Bytes) -> Result<Reply, EncodeError> {
        self.encode_or_cut(plan, wire, |body| wire.slice_ref(body))
    }

    fn encode_or_cut(
        &self,
        plan: &MethodPlan,
        wire: &[u8],
        cut: impl FnOnce(&[u8]) -> Bytes,
    ) -> Result<Reply, EncodeError> {
        if plan.returns_raw_body() {
            let (content_type, body) = raw::reply(plan, wire).map_err(|Malformed(reason)| malformed(plan, reason))?;
            return Ok(Reply { content_type, body: cut(body) });
        }
        let body = self.encode_between(plan, b"", wire, b"")?;
        Ok(Reply { content_type: Cow::Borrowed(JSON), body })
    }

    /// Prints a reply that is no raw body, with something before and after it.
    pub(crate) fn encode_between(
        &self,
        plan: &MethodPlan,
        before: &[u8],
        wire: &[u8],
        after: &[u8],
    ) -> Result<Bytes, EncodeError> {
        let method = plan.method();
        let types = &*method.types;
        let mut encoder = Encoder::new(types, self.settings.json_output, wire.len());
        encoder.append(before);
        let printed = match plan.response_body() {
            None => encoder.message(method.output_type, wire),
            Some(field) => encoder.field_alone(types.get(method.output_type), wire, field.number()),
        };
        match printed {
            Ok(()) => {
                encoder.append(after);
                Ok(encoder.finish().into())
            }
            Err(Failure::Malformed(reason)) => Err(malformed(plan, reason)),
            Err(Failure::Flaw(flaw)) => {
                Err(EncodeError::Unprintable { method: method.full_name().to_owned(), reason: flaw.to_string() })
            }
        }
    }

    /// Returns a reader that turns the chunks of an HTTP body into the request messages of a client stream. Works for
    /// every method: one that takes a single message gets it at the end of the body.
    ///
    /// # Errors
    /// `BindError` about path or query.
    pub fn request_stream(&self, plan: &Arc<MethodPlan>, parts: RequestParts<'_>) -> Result<RequestStream, BindError> {
        let bindings = Bindings::read(plan, parts, &self.settings)?;
        Ok(RequestStream::new(self.clone(), Arc::clone(plan), bindings, parts.content_type))
    }

    /// Returns a writer that frames the replies of a server stream. `accept` is the request's `Accept` header.
    pub fn reply_stream(&self, plan: &Arc<MethodPlan>, accept: Option<&str>) -> ReplyStream {
        ReplyStream::new(self.clone(), Arc::clone(plan), accept)
    }

    /// Returns a status as the JSON of `google.rpc.Status`. Details are looked up in the pool of `plan`'s service, then
    /// among the types of google/rpc/error_details.proto and the well-known types; one of unknown type is printed as
    /// `{"@type", "value": base64}`.
    pub fn encode_status(&self, status: &Status, plan: Option<&MethodPlan>) -> Bytes {
        let types = plan.map_or(builtin::types(), |it| &*it.method().types);
        let mut json = Encoder::new(types, self.settings.json_output, status.message.len());
        json.raw(&format!("{{\"code\":{}", status.code));
        if !status.message.is_empty() {
            json.raw(",\"message\":");
            json.string(&status.message);
        }
        for (at, detail) in status.details.iter().enumerate() {
            json.raw(if at == 0 { ",\"details\":[" } else { "," });
            json.append(&self.detail_json(detail, types));
        }
        json.raw(if status.details.is_empty() { "}" } else { "]}" });
        json.finish().into()
    }

    /// Prints one detail of a status; whatever is wrong with it, the others and the status stand.
    fn detail_json(&self, detail: &Detail, types: &Types) -> Vec<u8> {
        let encoder = || Encoder::new(types, self.settings.json_output, detail.value.len());
        let mut json = encoder();
        if json.any_parts(&detail.type_url, &detail.value).is_err() {
            json = encoder();
            json.raw_any(&detail.type_url, &detail.value);
        }
        json.finish()
    }

    /// Reads a JSON body that starts at `origin` of the HTTP body and returns the message, encoded. Without a byte the
    /// message is empty.
    pub(crate) fn json_message(&self, plan: &MethodPlan, body: &[u8], origin: Position) -> Result<Vec<u8>, BindError> {
        self.json_message_behind(0, plan, body, origin)
    }

    fn json_message_behind(
        &self,
        room: usize,
        plan: &MethodPlan,
        body: &[u8],
        origin: Position,
    ) -> Result<Vec<u8>, BindError> {
        let method = plan.method();
        let read = || -> Read<Vec<u8>> {
            if *plan.body() == Body::None || body.is_empty() {
                return Ok(vec![0; room]);
            }
            let mut json = Reader::new(body, &self.elements)?;
            let mut decoder = Decoder::behind(room, &self.settings, &method.types, body.len());
            match plan.body() {
                Body::None => {}
                Body::Whole => decoder.message(&mut json, method.input_type)?,
                Body::Field(field) => {
                    let compiled = method.types.get(method.input_type).by_number(field.number());
                    let compiled = compiled.expect("the type was compiled from the field's own message");
                    decoder.field(&mut json, compiled).map_err(|it| it.within(field.json_name()))?;
                }
            }
            json.end()?;
            Ok(decoder.finish())
        };
        read().map_err(|fault| fault.into_error(body, origin))
    }

    /// Returns the update mask of a PATCH whose body is a field; none if the query brings a mask.
    pub(crate) fn mask_to_infer<'p>(
        &'p self,
        plan: &'p MethodPlan,
        parts: RequestParts<'_>,
        bindings: &Bindings,
    ) -> Option<Inferred<'p>> {
        if !self.settings.infer_update_mask || parts.http_method != "PATCH" || plan.takes_raw_body() {
            return None;
        }
        Inferred::of(plan, &self.settings).filter(|it| !bindings.has_query_for(it.field()))
    }

    /// Fills the update mask that a JSON body implies.
    fn infer_mask(
        &self,
        plan: &MethodPlan,
        parts: RequestParts<'_>,
        bindings: &Bindings,
        body: &[u8],
        wire: &mut Vec<u8>,
    ) -> Result<(), BindError> {
        let Some(mask) = self.mask_to_infer(plan, parts, bindings) else { return Ok(()) };
        let paths = || -> Read<Option<Paths>> {
            let mut json = Reader::new(body, &self.elements)?;
            if json.is_blank() || json.shape()? != Shape::Object {
                return Ok(None);
            }
            mask.paths(&mut json).map(Some)
        };
        let Some(paths) = paths().map_err(|fault| fault.into_error(body, Position::START))? else { return Ok(()) };
        mask.put(wire, paths)
    }
}

fn malformed(plan: &MethodPlan, reason: &str) -> EncodeError {
    let method = plan.method();
    EncodeError::Malformed {
        method: method.full_name().to_owned(),
        message: method.output().full_name().to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests;
