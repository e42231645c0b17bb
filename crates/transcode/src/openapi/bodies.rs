//! Request and reply bodies.
//!
//! Lives here: which part of a message a body is, its media types, how streams are framed. Does not: message types (`schemas`).
//! A success is described as 200 and, the same, as any other 2xx: a service chooses it by `weft-http-status` when it answers, and no descriptor
//! tells beforehand which one.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::behavior;
use super::examples::Examples;
use super::responses::{STREAM_ERROR, header, names_call};
use super::schemas::Scope;
use crate::bind::text::is_bindable;
use crate::codec::raw;
use crate::codec::well_known::WellKnown;
use crate::plan::{Body, MethodPlan};
use crate::settings::{Settings, StreamFormat};
use crate::status::JSON;

const NDJSON: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";
const URLENCODED: &str = "application/x-www-form-urlencoded";
const MULTIPART: &str = "multipart/form-data";
/// What a stream is at its path when the request asks to leave HTTP.
pub(super) const WEBSOCKET: &str = "GET with `Upgrade: websocket` at this path, subprotocol `weft.v1`: a text message is one JSON message (of an HttpBody, bytes in a \
    message of either kind), an empty one ends the request; a failure is `{\"error\": status}` and close code 4000 + gRPC code, success 1000.";

/// Returns the request body, if there is one.
pub(super) fn request(plan: &MethodPlan, settings: &Settings, scope: &mut Scope) -> Option<Value> {
    let input = plan.method().input();
    let bound = bound_in_body(plan);
    let (schema, example) = {
        let mut examples = Examples::new(settings.json_output);
        let example = match plan.body() {
            Body::None => return None,
            Body::Whole => examples.message(input, &bound),
            Body::Field(field) if bound.is_empty() => examples.field(field),
            Body::Field(field) => field.kind().as_message().map_or(Value::Null, |it| examples.message(it, &bound)),
        };
        let schema = match plan.body() {
            Body::None => return None,
            Body::Whole if bound.is_empty() => scope.message(input),
            Body::Whole => scope.object(input, &bound),
            Body::Field(field) => scope.member(field),
        };
        (schema, example)
    };
    if plan.takes_raw_body() {
        let text = "Bytes of any type; of `multipart/form-data` the bytes are those of its file, and its fields are those of the request.";
        let file =
            json!({ "type": "string", "contentMediaType": "application/octet-stream", "description": "The bytes." });
        let form = json!({ "schema": { "type": "object", "properties": { "file": file }, "required": ["file"] } });
        return Some(json!({ "description": text, "content": { "*/*": {}, MULTIPART: form } }));
    }
    let content = match plan.method().streaming().client() {
        false => {
            let mut content = json!({ JSON: { "schema": required(schema, plan, &bound, scope), "example": example } });
            add_forms(plan, &bound, scope, &mut content);
            content
        }
        true => json!({
            JSON: { "schema": { "type": "array", "items": schema }, "example": [example] },
            NDJSON: { "schema": { "type": "string", "description": "One message a line." }, "x-weft-item": schema }
        }),
    };
    Some(json!({ "content": content }))
}

/// The message that a body is, if its members are fields.
fn message_of(plan: &MethodPlan) -> Option<MessageDescriptor> {
    let desc = match plan.body() {
        Body::None => None,
        Body::Whole => Some(plan.method().input().clone()),
        Body::Field(field) if field.is_list() || field.is_map() => None,
        Body::Field(field) => field.kind().as_message().cloned(),
    };
    desc.filter(|it| WellKnown::of(it).is_none())
}

/// Adds the body as a form: the fields that a text or a file can be. Those of messages within are read, too, and not listed.
fn add_forms(plan: &MethodPlan, bound: &[FieldDescriptor], scope: &mut Scope, content: &mut Value) {
    let Some(desc) = message_of(plan) else { return };
    let is_file = |field: &FieldDescriptor| match field.kind() {
        Kind::Bytes => true,
        Kind::Message(desc) => desc.full_name() == raw::HTTP_BODY,
        _ => false,
    };
    let (mut texts, mut parts) = (Map::new(), Map::new());
    for field in desc.fields().filter(|it| !it.is_map() && !bound.contains(it)) {
        let kind = field.kind();
        let name = scope.name(&field);
        let many = |one: Value| if field.is_list() { json!({ "type": "array", "items": one }) } else { one };
        if is_bindable(&kind) {
            let mut schema = many(scope.text(&kind));
            scope.annotate(&mut schema, &field);
            texts.insert(name.clone(), schema.clone());
            parts.insert(name.clone(), schema);
        }
        if is_file(&field) {
            let mut schema = many(json!({ "type": "string", "contentMediaType": "application/octet-stream" }));
            scope.annotate(&mut schema, &field);
            parts.insert(name, schema);
        }
    }
    let as_form = |properties: Map<String, Value>, scope: &Scope| {
        let names = properties.clone();
        let wanted = desc.fields().filter(behavior::is_required).map(|it| scope.name(&it));
        let wanted: Vec<String> = wanted.filter(|it| names.contains_key(it)).collect();
        let mut schema = json!({ "type": "object", "properties": properties });
        if !wanted.is_empty() {
            schema["required"] = json!(wanted);
        }
        json!({ "schema": schema })
    };
    if !texts.is_empty() {
        content[URLENCODED] = as_form(texts, scope);
    }
    if !parts.is_empty() {
        content[MULTIPART] = as_form(parts, scope);
    }
}

/// Adds what the message needs that the body is.
fn required(schema: Value, plan: &MethodPlan, bound: &[FieldDescriptor], scope: &Scope) -> Value {
    match message_of(plan) {
        Some(desc) => behavior::require(schema, &desc, bound, scope),
        None => schema,
    }
}

/// Fields at the top of the body whose values the path gives: what a body says of them does not count.
fn bound_in_body(plan: &MethodPlan) -> Vec<FieldDescriptor> {
    let variables = plan.variables().iter();
    variables
        .filter_map(|path| match (plan.body(), path.as_slice()) {
            (Body::Whole, [field]) => Some(field.clone()),
            (Body::Field(body), [first, field]) if first == body => Some(field.clone()),
            _ => None,
        })
        .collect()
}

/// Adds what a success looks like.
pub(super) fn add_success(
    plan: &MethodPlan,
    settings: &Settings,
    scope: &mut Scope,
    responses: &mut Map<String, Value>,
) {
    let content = reply(plan, settings, scope);
    let streams = plan.method().streaming().server();
    let text = if streams { "The replies, while they come." } else { "The reply." };
    let mut headers = json!({});
    if plan.returns_etag() && !streams {
        headers["ETag"] = header("The `etag` of the reply, in quotes: what `If-Match` may name.");
    }
    let mut success = json!({ "description": text, "headers": names_call(headers), "content": content });
    responses.insert("200".to_owned(), success.clone());
    success["description"] =
        json!("The same, with a status that the service chose: 201 for something new, 202, 204 without a body.");
    responses.insert("2XX".to_owned(), success);
}

fn reply(plan: &MethodPlan, settings: &Settings, scope: &mut Scope) -> Value {
    if plan.returns_raw_body() {
        return json!({ "*/*": {} });
    }
    let one = match plan.response_body() {
        None => scope.message(plan.method().output()),
        Some(field) => alone(scope, field),
    };
    if !plan.method().streaming().server() {
        return json!({ JSON: { "schema": one } });
    }
    let item = json!({ "anyOf": [one, { "$ref": format!("#/components/schemas/{STREAM_ERROR}") }] });
    let array = (JSON, json!({ "schema": { "type": "array", "items": item } }));
    let lines = (NDJSON, text("One message a line.", &item));
    let events = (
        EVENTS,
        text(
            "One message an event, as its data; ids count from 1; `event: error` is the last of a stream that fails.",
            &item,
        ),
    );
    let ordered = match settings.stream_format {
        StreamFormat::JsonArray => [array, lines, events],
        StreamFormat::Ndjson => [lines, array, events],
        StreamFormat::Sse => [events, array, lines],
    };
    Value::Object(ordered.into_iter().map(|(name, media)| (name.to_owned(), media)).collect())
}

/// A field as the whole document: where its type has no empty form, unset is null.
fn alone(scope: &mut Scope, field: &FieldDescriptor) -> Value {
    let schema = scope.member(field);
    let no_empty_form = ["format", "pattern"].iter().any(|it| schema.get(it).is_some());
    match field.supports_presence() && no_empty_form && field.kind().as_message().is_some() {
        true => json!({ "anyOf": [schema, { "type": "null" }] }),
        false => schema,
    }
}

fn text(description: &str, item: &Value) -> Value {
    json!({ "schema": { "type": "string", "description": description }, "x-weft-item": item })
}
