//! Request and reply bodies.
//!
//! Lives here: which part of a message a body is, its media types, how streams are framed. Does not: message types (`schemas`).
//! A success is described as 200 and, the same, as any other 2xx: a service chooses it by `weft-http-status` when it answers, and no descriptor
//! tells beforehand which one.

use prost_reflect::FieldDescriptor;
use serde_json::{Map, Value, json};

use super::examples::Examples;
use super::responses::STREAM_ERROR;
use super::schemas::Scope;
use crate::plan::{Body, MethodPlan};
use crate::settings::{Settings, StreamFormat};
use crate::status::JSON;

const NDJSON: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";

/// Returns the request body, if there is one.
pub(super) fn request(plan: &MethodPlan, settings: &Settings, scope: &mut Scope<'_>) -> Option<Value> {
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
        return Some(json!({ "description": "Bytes of any type.", "content": { "*/*": {} } }));
    }
    let content = match plan.method().streaming().client() {
        false => json!({ JSON: { "schema": schema, "example": example } }),
        true => json!({
            JSON: { "schema": { "type": "array", "items": schema }, "example": [example] },
            NDJSON: { "schema": { "type": "string", "description": "One message a line." }, "x-weft-item": schema }
        }),
    };
    Some(json!({ "content": content }))
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
    scope: &mut Scope<'_>,
    responses: &mut Map<String, Value>,
) {
    let content = reply(plan, settings, scope);
    let streams = plan.method().streaming().server();
    let text = if streams { "The replies, while they come." } else { "The reply." };
    responses.insert("200".to_owned(), json!({ "description": text, "content": content }));
    let text = "The same, with a status that the service chose: 201 for something new, 202, 204 without a body.";
    responses.insert("2XX".to_owned(), json!({ "description": text, "content": content }));
}

fn reply(plan: &MethodPlan, settings: &Settings, scope: &mut Scope<'_>) -> Value {
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
fn alone(scope: &mut Scope<'_>, field: &FieldDescriptor) -> Value {
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
