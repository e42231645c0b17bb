//! Path variables, query string and body of a request, and what is wrong with them.
//!
//! Lives here: decoding path and query to field values, the order in which sources win, the error a client sees, forms
//! (`form`). Does not: the JSON of the body (`codec`).
//! Invariants: a path variable beats the query and the body; a value of the wrong type is a 400 whatever else the
//! request holds.
//! Source: google/api/http.proto, "Rules for HTTP mapping"; differs: well-known types with a string form may be bound,
//! because clients expect it. Where it is silent: a parameter without `=` has an empty value (WHATWG URL); only one of a
//! repeated field may be there twice (grpc-gateway), so that nothing that a client sent is lost.

mod escape;
mod form;
pub(crate) mod text;

pub use form::Form;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, MessageDescriptor, Value};

use crate::plan::{Body, FieldPath, MethodPlan, dotted};
use crate::routes::PathVariables;
use crate::settings::{Settings, Unknown};
use crate::status::{Detail, Status};
use crate::wire;

/// The parts of an HTTP request that become a message, but for its body.
#[derive(Debug, Clone, Copy)]
pub struct RequestParts<'a> {
    /// HTTP method as sent, upper case.
    pub http_method: &'a str,
    /// What the template's variables matched.
    pub variables: &'a PathVariables,
    /// Query string, undecoded, without the question mark.
    pub query: Option<&'a str>,
    /// Value of `content-type`; only raw bodies and client streams look at it.
    pub content_type: Option<&'a str>,
}

/// A request that cannot become a message: the gateway's answer, before anything was called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BindError {
    /// HTTP status to answer with.
    pub http_status: u16,
    /// gRPC code in the body.
    pub code: i32,
    /// What is wrong, naming the field, the line and the column where known.
    pub message: String,
    /// The fields at fault.
    pub violations: Vec<FieldViolation>,
}

/// One `google.rpc.BadRequest.FieldViolation`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field in the request message, or the name of the query parameter or header.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl BindError {
    /// Returns a 400 with code INVALID_ARGUMENT about one field, parameter or header.
    pub fn field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        let message = format!("{field}: {description}");
        Self { violations: vec![FieldViolation { field, description }], ..Self::invalid(message) }
    }

    /// Returns the 404 for a path that no template matches.
    pub fn not_found(path: &str) -> Self {
        Self {
            http_status: 404,
            code: 5,
            message: format!("no method is bound to path {}", text::quoted(path)),
            violations: Vec::new(),
        }
    }

    /// Returns the 405 for a path that exists for other methods; the caller sets `Allow`.
    pub fn method_not_allowed(http_method: &str, allow: &[String]) -> Self {
        let message = format!("method {http_method} is not allowed here; allowed: {}", allow.join(", "));
        Self { http_status: 405, code: 12, message, violations: Vec::new() }
    }

    /// Returns the 413 for a body longer than `limit` bytes.
    pub fn too_large(limit: u64) -> Self {
        let message = format!("request body is larger than the limit of {limit} bytes");
        Self { http_status: 413, code: 8, message, violations: Vec::new() }
    }

    /// Returns a 400 with code INVALID_ARGUMENT that no field can be blamed for.
    pub(crate) fn invalid(message: String) -> Self {
        Self { http_status: 400, code: 3, message, violations: Vec::new() }
    }

    /// Returns the error as a status, with its violations as a `google.rpc.BadRequest` detail.
    pub fn status(&self) -> Status {
        let mut status = Status::new(self.code, self.message.clone());
        if !self.violations.is_empty() {
            let pairs = self.violations.iter();
            let field_violations =
                pairs.map(|it| RawViolation { field: it.field.clone(), description: it.description.clone() });
            let value = RawBadRequest { field_violations: field_violations.collect() }.encode_to_vec().into();
            status.details.push(Detail { type_url: "type.googleapis.com/google.rpc.BadRequest".to_owned(), value });
        }
        status
    }
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, Message)]
struct RawBadRequest {
    #[prost(message, repeated, tag = "1")]
    field_violations: Vec<RawViolation>,
}

#[derive(Clone, PartialEq, Message)]
struct RawViolation {
    #[prost(string, tag = "1")]
    field: String,
    #[prost(string, tag = "2")]
    description: String,
}

/// Values from path and query, checked and waiting for the message they go into.
#[derive(Debug)]
pub(crate) struct Bindings {
    path: Vec<(FieldPath, Value)>,
    query: Vec<(String, FieldPath, Value)>,
}

impl Bindings {
    /// Reads path variables and query string.
    pub(crate) fn read(plan: &MethodPlan, parts: RequestParts<'_>, settings: &Settings) -> Result<Self, BindError> {
        let path = path_values(plan, parts.variables, settings)?;
        let query = parts.query.map_or(Ok(Vec::new()), |query| query_values(plan, query, settings))?;
        Ok(Self { path, query })
    }

    /// Returns whether path and query say nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.path.is_empty() && self.query.is_empty()
    }

    /// Adds the values to an encoded message, which holds the body or nothing.
    pub(crate) fn apply(self, desc: &MessageDescriptor, mut wire: Vec<u8>) -> Result<Vec<u8>, BindError> {
        if self.is_empty() {
            return Ok(wire);
        }
        // On the wire the last value wins, messages merge and lists go on. That is what is wanted, unless a value is
        // the default, which would not be written; a message, of which the body's parts would stay; or of a oneof,
        // whose members exclude each other.
        let appendable = |path: &FieldPath, value: &Value| {
            let leaf = path.last().expect("a field path is never empty");
            let default = !leaf.is_list() && *value == leaf.default_value();
            !default && value.as_message().is_none() && path.iter().all(|it| it.containing_oneof().is_none())
        };
        let append = self.path.iter().all(|(path, value)| appendable(path, value))
            && self.query.iter().all(|(_, path, value)| appendable(path, value));
        let mut message = match wire.is_empty() || append {
            true => DynamicMessage::new(desc.clone()),
            false => DynamicMessage::decode(desc.clone(), &*std::mem::take(&mut wire))
                .map_err(|_| BindError::invalid("request body: it cannot be read back".to_owned()))?,
        };
        self.fill(&mut message)?;
        wire.extend(message.encode_to_vec());
        Ok(wire)
    }

    fn fill(self, message: &mut DynamicMessage) -> Result<(), BindError> {
        for (name, path, value) in self.query {
            add(message, &path, value).map_err(|reason| BindError::field(name, reason))?;
        }
        for (path, value) in self.path {
            let (leaf, parents) = path.split_last().expect("a field path is never empty");
            descend(message, parents).set_field(leaf, value);
        }
        Ok(())
    }

    /// Returns whether the query named this field or something below it.
    pub(crate) fn has_query_for(&self, field: &FieldDescriptor) -> bool {
        self.query.iter().any(|(_, path, _)| path.first() == Some(field))
    }
}

fn path_values(
    plan: &MethodPlan,
    raw: &PathVariables,
    settings: &Settings,
) -> Result<Vec<(FieldPath, Value)>, BindError> {
    let template = plan.template();
    let variables = template.variables().iter().zip(plan.variables()).zip(&raw.0);
    variables
        .map(|((variable, path), raw)| {
            let fault =
                |reason: String| BindError::field(dotted(path), format!("path value {}: {reason}", text::quoted(raw)));
            let decoded = match template.is_multi_segment(variable) {
                false => escape::decode(raw),
                true => escape::decode_multi_segment(raw, settings.path_unescape),
            };
            let leaf = path.last().expect("a field path is never empty");
            let value = decoded.and_then(|it| text::value(&it, &leaf.kind(), settings)).map_err(fault)?;
            Ok((path.clone(), value))
        })
        .collect()
}

fn query_values(
    plan: &MethodPlan,
    query: &str,
    settings: &Settings,
) -> Result<Vec<(String, FieldPath, Value)>, BindError> {
    let mut values = Vec::new();
    for pair in query.split('&').filter(|it| !it.is_empty()) {
        let (name, raw) = pair.split_once('=').unwrap_or((pair, ""));
        let name = escape::decode_query(name, settings)
            .map_err(|reason| BindError::field(name, format!("parameter name: {reason}")))?;
        if settings.ignored_query_params.contains(&name) {
            continue;
        }
        let path = match resolve(plan.method().input(), &name) {
            Ok(path) if plan.variables().contains(&path) => continue,
            Ok(path) if !in_body(plan.body(), &path) => path,
            Err(Unresolved::Unbindable(reason)) => return Err(BindError::field(name, reason)),
            Ok(_) | Err(Unresolved::Unknown) if settings.unknown_query == Unknown::Ignore => continue,
            Ok(_) => return Err(BindError::field(name, "not a query parameter: the request body holds this field")),
            Err(Unresolved::Unknown) => {
                let message = plan.method().input().full_name();
                return Err(BindError::field(name, format!("unknown query parameter: {message} has no such field")));
            }
        };
        let leaf = path.last().expect("a resolved path is never empty");
        let value = escape::decode_query(raw, settings).and_then(|it| text::value(&it, &leaf.kind(), settings));
        let value =
            value.map_err(|reason| BindError::field(&name, format!("query value {}: {reason}", text::quoted(raw))))?;
        if !leaf.is_list() && values.iter().any(|(_, it, _)| *it == path) {
            return Err(BindError::field(name, "is there twice, and takes one value"));
        }
        values.push((name, path, value));
    }
    Ok(values)
}

fn in_body(body: &Body, path: &[FieldDescriptor]) -> bool {
    match body {
        Body::None => false,
        Body::Whole => true,
        Body::Field(field) => path.first() == Some(field),
    }
}

/// Why a query parameter's name leads to no field that a string can fill.
enum Unresolved {
    /// Some part of it names nothing.
    Unknown,
    /// It names something, but not that.
    Unbindable(String),
}

fn resolve(message: &MessageDescriptor, name: &str) -> Result<FieldPath, Unresolved> {
    let mut path = FieldPath::new();
    let mut scope = Some(message.clone());
    for part in name.split('.') {
        let Some(message) = scope else { return Err(Unresolved::Unknown) };
        if path.len() == wire::DEPTH {
            let reason = format!("names more than {} fields, each within the one before it", wire::DEPTH);
            return Err(Unresolved::Unbindable(reason)); // the last may be a message as well
        }
        if path.last().is_some_and(FieldDescriptor::is_map) {
            return Err(Unresolved::Unbindable(
                "goes through a map, which a query cannot address; send a body".to_owned(),
            ));
        }
        if path.last().is_some_and(FieldDescriptor::is_list) {
            return Err(Unresolved::Unbindable(
                "goes through a repeated field, which a query cannot address".to_owned(),
            ));
        }
        let field =
            find_field(&message, part).ok_or_else(|| entry_of(&message, part).unwrap_or(Unresolved::Unknown))?;
        scope = field.kind().as_message().cloned();
        path.push(field);
    }
    let leaf = path.last().ok_or(Unresolved::Unknown)?;
    if leaf.is_map() {
        return Err(Unresolved::Unbindable("is a map, which a query cannot address; send a body".to_owned()));
    }
    if !text::is_bindable(&leaf.kind()) {
        return Err(Unresolved::Unbindable("is a message; name one of its fields".to_owned()));
    }
    Ok(path)
}

/// Tells `map[key]`, as grpc-gateway's clients write an entry, from what nothing is called.
fn entry_of(message: &MessageDescriptor, part: &str) -> Option<Unresolved> {
    let (name, _) = part.split_once('[')?;
    let field = find_field(message, name).filter(FieldDescriptor::is_map)?;
    let reason = format!("is an entry of {}, a map, which a query cannot address; send a body", field.json_name());
    Some(Unresolved::Unbindable(reason))
}

/// Finds a field by JSON name or by proto name.
pub(crate) fn find_field(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_json_name(name).or_else(|| message.get_field_by_name(name))
}

fn descend<'m>(message: &'m mut DynamicMessage, parents: &[FieldDescriptor]) -> &'m mut DynamicMessage {
    parents.iter().fold(message, |message, field| {
        message
            .get_field_mut(field)
            .as_message_mut()
            .expect("a path goes through singular messages only: checked when it was resolved")
    })
}

fn add(message: &mut DynamicMessage, path: &[FieldDescriptor], value: Value) -> Result<(), String> {
    let (leaf, parents) = path.split_last().expect("a field path is never empty");
    let mut message = message;
    for parent in parents {
        check_oneof(message, parent)?;
        message = descend(message, std::slice::from_ref(parent));
    }
    check_oneof(message, leaf)?;
    match leaf.is_list() {
        true => message.get_field_mut(leaf).as_list_mut().expect("a repeated field holds a list").push(value),
        false => message.set_field(leaf, value),
    }
    Ok(())
}

/// Refuses a second member of a oneof.
fn check_oneof(message: &DynamicMessage, field: &FieldDescriptor) -> Result<(), String> {
    let Some(oneof) = field.containing_oneof() else { return Ok(()) };
    match oneof.fields().find(|it| it != field && message.has_field(it)) {
        Some(other) => Err(format!("oneof {} already has {}", oneof.name(), other.json_name())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
