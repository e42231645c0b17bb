//! Message types as JSON Schema.
//!
//! Lives here: what each kind of field looks like in ProtoJSON, the components that operations refer to, and what becomes of two types of one
//! name. Does not: parameters and bodies.
//! A scope is one descriptor pool in one way of printing: two services may each own a `common.v1.Money`, and a policy may have one of them printed by other
//! names. Where these differ, the later one is `common.v1.Money-2`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use prost_reflect::{DescriptorPool, EnumDescriptor, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};
use serde_json::{Map, Value, json};

use super::behavior;
use super::comments::Comments;
use crate::codec::well_known::WellKnown;
use crate::settings::JsonOutput;

const PREFIX: &str = "#/components/schemas/";
/// Members of a oneof that are worth telling apart by schema; more make it longer than the message.
const MOST_MEMBERS: usize = 12;

/// The types of one pool, printed in one way, as far as something refers to them.
pub(super) struct Scope {
    output: JsonOutput,
    pool: DescriptorPool,
    comments: Comments,
    known: HashSet<String>,
    due: Vec<Type>,
}

enum Type {
    Message(MessageDescriptor),
    Enum(EnumDescriptor),
}

impl Scope {
    pub(super) fn new(output: JsonOutput, pool: DescriptorPool) -> Self {
        Self { output, pool, comments: Comments::default(), known: HashSet::new(), due: Vec::new() }
    }

    /// Whether it is about a pool that is printed so.
    pub(super) fn is_of(&self, pool: &DescriptorPool, output: JsonOutput) -> bool {
        self.output == output && self.pool == *pool
    }

    pub(super) fn comments(&mut self) -> &mut Comments {
        &mut self.comments
    }

    /// Returns the name by which a member is printed.
    pub(super) fn name(&self, field: &FieldDescriptor) -> String {
        name(field, self.output)
    }

    /// Returns the schema of a field with what is said about it.
    pub(super) fn member(&mut self, field: &FieldDescriptor) -> Value {
        let mut schema = self.field(field);
        self.annotate(&mut schema, field);
        schema
    }

    /// Adds comment, deprecation and behavior of a field.
    pub(super) fn annotate(&mut self, schema: &mut Value, field: &FieldDescriptor) {
        if let Some(text) = self.comments.of(&field.parent_file(), field.path()) {
            schema["description"] = json!(text);
        }
        if is_deprecated(field) {
            schema["deprecated"] = json!(true);
        }
        behavior::annotate(schema, field);
    }

    /// Returns the schema of a field's value.
    pub(super) fn field(&mut self, field: &FieldDescriptor) -> Value {
        let kind = field.kind();
        if field.is_map() {
            let entry = kind.as_message().expect("a map is a list of entries");
            let value = self.kind(&entry.map_entry_value_field().kind());
            let mut schema = json!({ "type": "object", "additionalProperties": value });
            if let Some(names) = key_names(&entry.map_entry_key_field().kind()) {
                schema["propertyNames"] = names;
            }
            return schema;
        }
        match field.is_list() {
            true => json!({ "type": "array", "items": self.kind(&kind) }),
            false => self.kind(&kind),
        }
    }

    /// Returns the schema of a singular value.
    pub(super) fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Double => float("double"),
            Kind::Float => float("float"),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
                json!({ "type": "integer", "format": "int32", "minimum": i32::MIN, "maximum": i32::MAX })
            }
            Kind::Uint32 | Kind::Fixed32 => {
                json!({ "type": "integer", "format": "uint32", "minimum": 0, "maximum": u32::MAX })
            }
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
                json!({ "type": "string", "format": "int64", "pattern": "^(0|-?[1-9][0-9]{0,18})$" })
            }
            Kind::Uint64 | Kind::Fixed64 => {
                json!({ "type": "string", "format": "uint64", "pattern": "^(0|[1-9][0-9]{0,19})$" })
            }
            Kind::Enum(desc) if desc.full_name() == "google.protobuf.NullValue" => json!({ "type": "null" }),
            Kind::Enum(desc) => self.refer(desc.full_name(), || Type::Enum(desc.clone())),
            Kind::Message(desc) => self.message(desc),
        }
    }

    /// Returns the schema of a message: a reference, or what it is by its own rule.
    pub(super) fn message(&mut self, desc: &MessageDescriptor) -> Value {
        match WellKnown::of(desc) {
            None if desc.full_name() == "google.protobuf.Empty" => json!({ "type": "object" }),
            None => self.refer(desc.full_name(), || Type::Message(desc.clone())),
            Some(WellKnown::Any) => json!({
                "type": "object",
                "properties": { "@type": { "type": "string", "description": "type.googleapis.com/package.Message" } },
                "additionalProperties": true
            }),
            Some(WellKnown::Timestamp) => json!({ "type": "string", "format": "date-time" }),
            Some(WellKnown::Duration) => json!({ "type": "string", "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$" }),
            Some(WellKnown::FieldMask) => json!({
                "type": "string",
                "pattern": r"^([a-z0-9.][A-Za-z0-9.]*(,[a-z0-9.][A-Za-z0-9.]*)*)?$",
                "description": "Paths of fields, separated by commas."
            }),
            Some(WellKnown::Struct) => json!({ "type": "object", "additionalProperties": true }),
            Some(WellKnown::Value) => json!({ "description": "Any JSON value." }),
            Some(WellKnown::ListValue) => json!({ "type": "array", "items": {} }),
            Some(WellKnown::Wrapper) => nullable(self.unwrapped(desc)),
        }
    }

    /// Returns the schema of what a wrapper wraps: as text it is never null.
    pub(super) fn text(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Message(desc) if WellKnown::of(desc) == Some(WellKnown::Wrapper) => self.unwrapped(desc),
            other => self.kind(other),
        }
    }

    fn unwrapped(&mut self, desc: &MessageDescriptor) -> Value {
        desc.get_field(1).map_or(json!({}), |it| self.kind(&it.kind()))
    }

    /// Returns the schema of a message as an object, less the fields named.
    pub(super) fn object(&mut self, desc: &MessageDescriptor, without: &[FieldDescriptor]) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        for field in desc.fields().filter(|it| !without.contains(it)) {
            let name = self.name(&field);
            if field.is_required() {
                required.push(json!(name));
            }
            properties.insert(name, self.member(&field));
        }
        let mut schema = json!({ "type": "object" });
        if let Some(text) = self.comments.of(&desc.parent_file(), desc.path()) {
            schema["description"] = json!(text);
        }
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            schema["required"] = Value::Array(required);
        }
        let choices: Vec<Value> = desc.oneofs().filter_map(|it| self.at_most_one(&it, without)).collect();
        if !choices.is_empty() {
            schema["allOf"] = Value::Array(choices);
        }
        if desc.descriptor_proto().options.as_ref().is_some_and(|it| it.deprecated()) {
            schema["deprecated"] = json!(true);
        }
        schema
    }

    /// A oneof: one of its members or none.
    fn at_most_one(&self, oneof: &prost_reflect::OneofDescriptor, without: &[FieldDescriptor]) -> Option<Value> {
        let members: Vec<String> = oneof.fields().filter(|it| !without.contains(it)).map(|it| self.name(&it)).collect();
        if oneof.is_synthetic() || !(2..=MOST_MEMBERS).contains(&members.len()) {
            return None;
        }
        let has = |name: &String| json!({ "required": [name] });
        let mut ways: Vec<Value> = members.iter().map(has).collect();
        ways.push(json!({ "not": { "anyOf": members.iter().map(has).collect::<Vec<_>>() } }));
        Some(json!({ "oneOf": ways }))
    }

    fn enumeration(&mut self, desc: &EnumDescriptor) -> Value {
        let file = desc.parent_file();
        let mut said = self.comments.of(&file, desc.path()).map(|it| vec![it]).unwrap_or_default();
        let mut values = Vec::new();
        let mut declared: Vec<_> = desc.values().collect();
        declared.sort_by_key(|it| it.path().last().copied()); // they come by number
        for value in declared {
            let shown = match self.output.enums_as_ints {
                true => json!(value.number()),
                false => json!(value.name()),
            };
            if let Some(text) = self.value_comment(&file, value.path()) {
                said.push(format!("- `{}`: {text}", value.name()));
            }
            if !values.contains(&shown) {
                values.push(shown); // two names of one number
            }
        }
        let kind = if self.output.enums_as_ints { "integer" } else { "string" };
        let mut schema = json!({ "type": kind, "enum": values });
        if !said.is_empty() {
            schema["description"] = json!(said.join("\n"));
        }
        schema
    }

    fn value_comment(&mut self, file: &FileDescriptor, path: &[i32]) -> Option<String> {
        self.comments.of(file, path).map(|it| it.replace('\n', " "))
    }

    fn refer(&mut self, name: &str, it: impl FnOnce() -> Type) -> Value {
        if self.known.insert(name.to_owned()) {
            self.due.push(it());
        }
        json!({ "$ref": format!("{PREFIX}{name}") })
    }

    /// Describes every type that something refers to.
    fn describe_all(mut self) -> BTreeMap<String, Value> {
        let mut described = BTreeMap::new();
        while let Some(it) = self.due.pop() {
            let (name, schema) = match it {
                Type::Message(desc) => (desc.full_name().to_owned(), self.object(&desc, &[])),
                Type::Enum(desc) => (desc.full_name().to_owned(), self.enumeration(&desc)),
            };
            described.insert(name, schema);
        }
        described
    }
}

/// The types of all scopes under names of their own.
#[derive(Default)]
pub(super) struct Components {
    schemas: BTreeMap<String, Value>,
}

/// Which types of a scope go by another name than their own.
pub(super) struct Renamed(BTreeMap<String, String>);

impl Components {
    /// Adds a schema that is no message's.
    pub(super) fn add_fixed(&mut self, name: &str, schema: Value) {
        self.schemas.insert(name.to_owned(), schema);
    }

    /// Adds the types of a scope. One that is there already and the same is not added again; one that differs gets another name, and so
    /// does each that refers to it.
    pub(super) fn add(&mut self, scope: Scope) -> Renamed {
        let described = scope.describe_all();
        let differs = |(name, schema): &(&String, &Value)| self.schemas.get(*name).is_some_and(|it| !same(it, schema));
        let mut other: BTreeSet<String> = described.iter().filter(differs).map(|(name, _)| name.clone()).collect();
        loop {
            let more: Vec<String> = described
                .iter()
                .filter(|(name, schema)| !other.contains(*name) && refers_to(schema, &other))
                .map(|(name, _)| name.clone())
                .collect();
            if more.is_empty() {
                break;
            }
            other.extend(more);
        }
        let renamed = Renamed(other.iter().map(|name| (name.clone(), self.free(name))).collect());
        for (name, mut schema) in described {
            renamed.apply(&mut schema);
            let name = renamed.0.get(&name).unwrap_or(&name);
            self.schemas.entry(name.clone()).or_insert(schema);
        }
        renamed
    }

    pub(super) fn finish(self) -> Value {
        Value::Object(self.schemas.into_iter().collect())
    }

    fn free(&self, name: &str) -> String {
        let mut names = (2..).map(|at| format!("{name}-{at}"));
        names.find(|it| !self.schemas.contains_key(it)).expect("there is always a further number")
    }
}

impl Renamed {
    /// Corrects references.
    pub(super) fn apply(&self, value: &mut Value) {
        if self.0.is_empty() {
            return;
        }
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    match member {
                        Value::String(text) if name == "$ref" => {
                            if let Some(new) = text.strip_prefix(PREFIX).and_then(|it| self.0.get(it)) {
                                *text = format!("{PREFIX}{new}");
                            }
                        }
                        other => self.apply(other),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|it| self.apply(it)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
}

/// Whether two schemas mean the same: one set may carry comments and another none.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let plain = |it: &Map<String, Value>| it.iter().filter(|it| !is_prose(it)).count();
            plain(one) == plain(other)
                && one.iter().filter(|it| !is_prose(it)).all(|(name, it)| other.get(name).is_some_and(|o| same(it, o)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (one, other) => one == other,
    }
}

/// A description, not a property of that name, which would be an object.
fn is_prose((name, value): &(&String, &Value)) -> bool {
    *name == "description" && value.is_string()
}

fn refers_to(value: &Value, names: &BTreeSet<String>) -> bool {
    match value {
        Value::Object(members) => members.iter().any(|(name, it)| match it {
            Value::String(text) if name == "$ref" => text.strip_prefix(PREFIX).is_some_and(|it| names.contains(it)),
            other => refers_to(other, names),
        }),
        Value::Array(items) => items.iter().any(|it| refers_to(it, names)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

/// Returns the name by which a member is printed.
pub(super) fn name(field: &FieldDescriptor, output: JsonOutput) -> String {
    if output.preserve_proto_names { field.name() } else { field.json_name() }.to_owned()
}

pub(super) fn is_deprecated(field: &FieldDescriptor) -> bool {
    field.field_descriptor_proto().options.as_ref().is_some_and(|it| it.deprecated())
}

/// A number, or one of the three that JSON has no number for.
fn float(format: &str) -> Value {
    let mut number = json!({ "type": "number", "format": format });
    if format == "float" {
        number["minimum"] = json!(f64::from(f32::MIN));
        number["maximum"] = json!(f64::from(f32::MAX));
    }
    json!({ "anyOf": [number, { "type": "string", "enum": ["NaN", "Infinity", "-Infinity"] }] })
}

fn nullable(mut schema: Value) -> Value {
    if let Some(kind) = schema["type"].as_str().map(str::to_owned) {
        schema["type"] = json!([kind, "null"]);
    } else if let Some(ways) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        ways.push(json!({ "type": "null" }));
    }
    schema
}

/// What the names of a map's members are, where that is not any string.
fn key_names(kind: &Kind) -> Option<Value> {
    Some(match kind {
        Kind::Bool => json!({ "enum": ["true", "false"] }),
        Kind::Uint32 | Kind::Fixed32 | Kind::Uint64 | Kind::Fixed64 => json!({ "pattern": "^(0|[1-9][0-9]*)$" }),
        Kind::String => return None,
        _ => json!({ "pattern": "^(0|-?[1-9][0-9]*)$" }),
    })
}
