//! `google.api.field_behavior`: who sets a field, and whether it has to be there.
//!
//! Lives here: reading the option of a field, what JSON Schema has words for. Does not: enforcing it, which is the service's.
//! Source: google/api/field_behavior.proto (extension 1052 of FieldOptions). What is required is so in requests: a reply leaves out what is at its default.

use prost::Message;
use prost_reflect::{FieldDescriptor, MessageDescriptor};
use serde_json::{Value, json};

use super::schemas::Scope;
use crate::wire::{Payload, Reader};

const FIELD_BEHAVIOR: u32 = 1052;
const REQUIRED: u64 = 2;
const OUTPUT_ONLY: u64 = 3;
const INPUT_ONLY: u64 = 4;
const IMMUTABLE: u64 = 5;

/// Returns the values of the option.
fn behaviors(field: &FieldDescriptor) -> Vec<u64> {
    if field.field_descriptor_proto().options.is_none() {
        return Vec::new();
    }
    let options = field.options().encode_to_vec();
    let mut reader = Reader::new(&options);
    let mut found = Vec::new();
    while let Ok(Some(record)) = reader.record() {
        match record.payload {
            Payload::Varint(value) if record.number == FIELD_BEHAVIOR => found.push(value),
            // Packed; every value there is takes one byte.
            Payload::Len(values) if record.number == FIELD_BEHAVIOR => {
                found.extend(values.iter().map(|it| u64::from(*it)))
            }
            _ => {}
        }
    }
    found
}

/// Whether a request needs the field.
pub(super) fn is_required(field: &FieldDescriptor) -> bool {
    let behaviors = behaviors(field);
    behaviors.contains(&REQUIRED) && !behaviors.contains(&OUTPUT_ONLY)
}

/// Adds what holds for the field wherever its message is.
pub(super) fn annotate(schema: &mut Value, field: &FieldDescriptor) {
    let behaviors = behaviors(field);
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
