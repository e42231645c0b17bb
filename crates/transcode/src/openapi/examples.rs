//! Values to start from, made of nothing but types and names.
//!
//! Lives here: one value of each kind. Does not: meaning; a service may well refuse them.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::schemas::name;
use crate::codec::well_known::WellKnown;
use crate::settings::JsonOutput;

/// Messages within messages that are shown; one within itself is not.
const DEPTH: usize = 3;

/// Makes examples under one set of names.
pub(super) struct Examples {
    output: JsonOutput,
    within: Vec<String>,
}

impl Examples {
    pub(super) fn new(output: JsonOutput) -> Self {
        Self { output, within: Vec::new() }
    }

    /// Returns a value for a field.
    pub(super) fn field(&mut self, field: &FieldDescriptor) -> Value {
        let kind = field.kind();
        if field.is_map() {
            let entry = kind.as_message().expect("a map is a list of entries");
            let key = match entry.map_entry_key_field().kind() {
                Kind::Bool => "true",
                Kind::String => "key",
                _ => "1",
            };
            return json!({ key: self.value(&entry.map_entry_value_field()) });
        }
        match field.is_list() {
            true => json!([self.value(field)]),
            false => self.value(field),
        }
    }

    /// Returns a message, less the fields named.
    pub(super) fn message(&mut self, desc: &MessageDescriptor, without: &[FieldDescriptor]) -> Value {
        if let Some(kind) = WellKnown::of(desc) {
            return self.well_known(desc, kind);
        }
        let nested = self.within.len() >= DEPTH || self.within.iter().any(|it| it == desc.full_name());
        if nested {
            return json!({});
        }
        self.within.push(desc.full_name().to_owned());
        let mut members = Map::new();
        for field in desc.fields().filter(|it| !without.contains(it)) {
            // Of a oneof the first member.
            let first = field.containing_oneof().and_then(|it| it.fields().next()).is_none_or(|it| it == field);
            if first {
                members.insert(name(&field, self.output), self.field(&field));
            }
        }
        self.within.pop();
        Value::Object(members)
    }

    fn value(&mut self, field: &FieldDescriptor) -> Value {
        match field.kind() {
            Kind::String => json!(name(field, self.output)),
            Kind::Bytes => json!("aGVsbG8="),
            Kind::Bool => json!(true),
            Kind::Double | Kind::Float => json!(1.5),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64 => json!("1"),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 | Kind::Uint32 | Kind::Fixed32 => json!(1),
            Kind::Enum(desc) if desc.full_name() == "google.protobuf.NullValue" => Value::Null,
            Kind::Enum(desc) => {
                // Zero is nearly always the one that says nothing.
                let value = desc.values().find(|it| it.number() > 0).unwrap_or_else(|| desc.default_value());
                if self.output.enums_as_ints { json!(value.number()) } else { json!(value.name()) }
            }
            Kind::Message(desc) => self.message(&desc, &[]),
        }
    }

    fn well_known(&mut self, desc: &MessageDescriptor, kind: WellKnown) -> Value {
        match kind {
            WellKnown::Any => json!({ "@type": "type.googleapis.com/google.protobuf.Duration", "value": "1.5s" }),
            WellKnown::Timestamp => json!("2006-01-02T15:04:05Z"),
            WellKnown::Duration => json!("1.5s"),
            WellKnown::FieldMask => json!("name"),
            WellKnown::Struct => json!({ "key": "value" }),
            WellKnown::Value => json!("value"),
            WellKnown::ListValue => json!(["value"]),
            WellKnown::Wrapper => desc.get_field(1).map_or(Value::Null, |it| self.value(&it)),
        }
    }
}
