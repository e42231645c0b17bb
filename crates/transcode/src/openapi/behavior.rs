//! `google.api.field_behavior`: who sets a field, and whether it has to be there.
//!
//! Lives here: what JSON Schema has words for. Does not: reading the option (`crate::behavior`), enforcing it, which is the service's.
//! What is required is so in requests: a reply leaves out what is at its default.

use prost_reflect::{FieldDescriptor, MessageDescriptor};
use serde_json::{Value, json};

use super::schemas::Scope;
use crate::behavior::{self, IMMUTABLE, INPUT_ONLY, OUTPUT_ONLY, REQUIRED};

/// Whether a request needs the field.
pub(super) fn is_required(field: &FieldDescriptor) -> bool {
    let behaviors = behavior::of(field);
    behaviors.contains(&REQUIRED) && !behaviors.contains(&OUTPUT_ONLY)
}

/// Adds what holds for the field wherever its message is.
pub(super) fn annotate(schema: &mut Value, field: &FieldDescriptor) {
    let behaviors = behavior::of(field);
    if behaviors.contains(&OUTPUT_ONLY) {
        schema["readOnly"] = json!(true);
    }
    if behaviors.contains(&INPUT_ONLY) {
        schema["writeOnly"] = json!(true);
    }
    if behaviors.contains(&IMMUTABLE) {
        const TEXT: &str = "Cannot be changed once it is set.";
        let said = schema["description"].as_str().map_or(TEXT.to_owned(), |said| format!("{said} {TEXT}"));
        schema["description"] = json!(said);
    }
}

/// Adds to the schema of a request's message what it needs; `bound` are fields that something else gives.
pub(super) fn require(schema: Value, desc: &MessageDescriptor, bound: &[FieldDescriptor], scope: &Scope) -> Value {
    let wanted = desc.fields().filter(|it| is_required(it) && !bound.contains(it));
    let names: Vec<String> = wanted.map(|it| scope.name(&it)).collect();
    if names.is_empty() {
        return schema;
    }
    json!({ "allOf": [schema, { "required": names }] })
}
