//! ProtoJSON ⇄ wire for one method: the interface behind which the codec is replaced without its callers noticing.
//!
//! Lives here: `Codec` and what it takes and gives. Does not: routes, HTTP types, framing of streams (`stream`).
//! Source: the ProtoJSON specification and the protobuf conformance suite, strict. Today it stands on prost-reflect's
//! dynamic messages.

pub(crate) mod decode;
pub(crate) mod encode;
pub(crate) mod json;
mod mask;
pub(crate) mod well_known;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Value};

use crate::bind::{BindError, Bindings, RequestParts};
use crate::codec::decode::Decoder;
use crate::codec::encode::Encoder;
use crate::codec::json::{Position, Read, Reader, Shape};
use crate::plan::{Body, MethodPlan};
use crate::schema::builtin;
use crate::settings::{JsonOutput, Settings};
use crate::status::{Detail, JSON, Status};
use crate::stream::{ReplyStream, RequestStream};

/// Translates requests and replies under one set of settings. Cheap to clone.
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

impl EncodeError {
    /// Returns the error as a status: INTERNAL.
    pub fn status(&self) -> Status {
        Status::new(13, self.to_string())
    }
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
        let bindings = Bindings::read(plan, parts, &self.settings)?;
        let mut message = match plan.takes_raw_body() {
            true => raw_message(plan, parts.content_type, body.to_vec().into())?,
            false => self.json_message(plan, body, Position::START)?,
        };
        self.infer_mask(plan, parts, &bindings, body, &mut message)?;
        bindings.apply(&mut message)?;
        Ok(message.encode_to_vec().into())
    }

    /// Checks path and query before the body is read, so that a bad request is refused without waiting for it.
    ///
    /// # Errors
    /// As `decode_request`.
    pub fn check_head(&self, plan: &MethodPlan, parts: RequestParts<'_>) -> Result<(), BindError> {
        let bindings = Bindings::read(plan, parts, &self.settings)?;
        bindings.apply(&mut DynamicMessage::new(plan.method().input().clone()))
    }

    /// Returns the HTTP body for a reply message.
    ///
    /// # Errors
    /// `EncodeError` if the backend sent something that is not the method's reply type.
    pub fn encode_reply(&self, plan: &MethodPlan, wire: &[u8]) -> Result<Reply, EncodeError> {
        let method = plan.method();
        let message =
            DynamicMessage::decode(method.output().clone(), wire).map_err(|error| EncodeError::Malformed {
                method: method.full_name().to_owned(),
                message: method.output().full_name().to_owned(),
                reason: error.to_string(),
            })?;
        if plan.returns_raw_body() {
            return Ok(raw_reply(message, plan.response_body()));
        }
        let mut encoder = Encoder::new(self.settings.json_output);
        let printed = match plan.response_body() {
            None => encoder.message(&message),
            Some(field) => encoder.field_alone(&message, field),
        };
        printed.map_err(|flaw| EncodeError::Unprintable {
            method: method.full_name().to_owned(),
            reason: flaw.to_string(),
        })?;
        Ok(Reply { content_type: JSON.to_owned(), body: encoder.finish().into() })
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
        let pool = plan.map_or(builtin::pool(), |it| it.method().output().parent_pool());
        let output = self.settings.json_output;
        let mut json = Encoder::new(output);
        json.raw(&format!("{{\"code\":{}", status.code));
        if !status.message.is_empty() {
            json.raw(",\"message\":");
            json.string(&status.message);
        }
        for (at, detail) in status.details.iter().enumerate() {
            json.raw(if at == 0 { ",\"details\":[" } else { "," });
            json.append(&detail_json(output, detail, pool));
        }
        json.raw(if status.details.is_empty() { "}" } else { "]}" });
        json.finish().into()
    }

    /// Reads a JSON body that starts at `origin` of the HTTP body. A blank one leaves the message empty.
    pub(crate) fn json_message(
        &self,
        plan: &MethodPlan,
        body: &[u8],
        origin: Position,
    ) -> Result<DynamicMessage, BindError> {
        let read = || -> Read<DynamicMessage> {
            let decoder = Decoder { settings: &self.settings };
            let input = plan.method().input();
            let mut message = DynamicMessage::new(input.clone());
            if *plan.body() == Body::None {
                return Ok(message);
            }
            let mut json = Reader::new(body)?;
            if json.is_blank() {
                return Ok(message);
            }
            match plan.body() {
                Body::None => {}
                Body::Whole => message = decoder.message(&mut json, input)?,
                Body::Field(field) => {
                    if let Some(value) = decoder.field(&mut json, field).map_err(|it| it.within(field.json_name()))? {
                        message.set_field(field, value);
                    }
                }
            }
            json.end()?;
            Ok(message)
        };
        read().map_err(|fault| fault.into_error(body, origin))
    }

    /// Fills the update mask of a PATCH whose body is a field, unless the query brings one.
    fn infer_mask(
        &self,
        plan: &MethodPlan,
        parts: RequestParts<'_>,
        bindings: &Bindings,
        body: &[u8],
        message: &mut DynamicMessage,
    ) -> Result<(), BindError> {
        let Body::Field(field) = plan.body() else { return Ok(()) };
        let asked = self.settings.infer_update_mask && parts.http_method == "PATCH" && !plan.takes_raw_body();
        let (true, Some(desc)) = (asked && !field.is_list() && !field.is_map(), field.kind().as_message().cloned())
        else {
            return Ok(());
        };
        let Some(mask) = mask::field(plan.method().input()).filter(|it| !bindings.has_query_for(it)) else {
            return Ok(());
        };
        let paths = || -> Read<Option<Vec<String>>> {
            let mut json = Reader::new(body)?;
            if json.is_blank() || json.shape()? != Shape::Object {
                return Ok(None);
            }
            mask::paths(&mut json, &desc).map(Some)
        };
        let Some(paths) = paths().map_err(|fault| fault.into_error(body, Position::START))? else { return Ok(()) };
        if let Some(mask) = message.get_field_mut(&mask).as_message_mut() {
            let paths = Value::List(paths.into_iter().map(Value::String).collect());
            well_known::put(mask, 1, paths).map_err(BindError::invalid)?;
        }
        Ok(())
    }
}

/// Returns the request message of a raw body.
pub(crate) fn raw_message(
    plan: &MethodPlan,
    content_type: Option<&str>,
    data: Bytes,
) -> Result<DynamicMessage, BindError> {
    let mut message = DynamicMessage::new(plan.method().input().clone());
    let fill = |body: &mut DynamicMessage| {
        well_known::put(body, 1, Value::String(content_type.unwrap_or_default().to_owned()))?;
        well_known::put(body, 2, Value::Bytes(data))
    };
    let filled = match plan.body() {
        Body::None => Ok(()),
        Body::Whole => fill(&mut message),
        Body::Field(field) => message.get_field_mut(field).as_message_mut().map_or(Ok(()), fill),
    };
    filled.map_err(BindError::invalid)?;
    Ok(message)
}

fn raw_reply(mut message: DynamicMessage, field: Option<&FieldDescriptor>) -> Reply {
    let inner = field.and_then(|it| message.take_field(it));
    let body = match (field, &inner) {
        (None, _) => Some(&message),
        (Some(_), inner) => inner.as_ref().and_then(Value::as_message),
    };
    let part = |number| body.and_then(|it| it.get_field_by_number(number));
    let content_type = part(1).and_then(|it| it.as_str().map(str::to_owned)).filter(|it| !it.is_empty());
    Reply {
        // RFC 9110, 8.3: what a receiver may assume without one.
        content_type: content_type.unwrap_or_else(|| "application/octet-stream".to_owned()),
        body: part(2).and_then(|it| it.as_bytes().cloned()).unwrap_or_default(),
    }
}

/// Prints one detail of a status; whatever is wrong with it, the others and the status stand.
fn detail_json(output: JsonOutput, detail: &Detail, pool: &DescriptorPool) -> Vec<u8> {
    let mut json = Encoder::new(output);
    if json.any_parts(&detail.type_url, &detail.value, pool).is_err() {
        json = Encoder::new(output);
        json.raw_any(&detail.type_url, &detail.value);
    }
    json.finish()
}

#[cfg(test)]
mod tests;
