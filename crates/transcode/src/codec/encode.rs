//! Messages to ProtoJSON.
//!
//! Lives here: how each kind of field is printed. Does not: deciding which part of a reply is printed (`codec`).
//! Source: the ProtoJSON specification; differs: an Any of unknown type is printed as `{"@type", "value": base64}`,
//! because losing a whole reply for it helps nobody. Members come in the order of field numbers, map entries in the
//! order of keys.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage, Value};

use crate::codec::well_known::{self, WellKnown};
use crate::schema::builtin;
use crate::settings::JsonOutput;

/// Messages within messages that are printed. The wire decoder stops at 100, but each Any starts it afresh.
const DEPTH: usize = 200;

/// A value without a JSON form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Proto names from the message printed down to the value.
    path: String,
    reason: String,
}

pub(crate) type Printed = Result<(), Flaw>;

impl Flaw {
    fn new(reason: impl Into<String>) -> Self {
        Self { path: String::new(), reason: reason.into() }
    }

    fn within(mut self, name: &str) -> Self {
        self.path = if self.path.is_empty() { name.to_owned() } else { format!("{name}.{}", self.path) };
        self
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.reason),
            path => write!(f, "{path}: {}", self.reason),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Encoder {
    output: JsonOutput,
    out: Vec<u8>,
    depth: usize,
}

impl Encoder {
    pub(crate) fn new(output: JsonOutput) -> Self {
        Self { output, out: Vec::with_capacity(128), depth: 0 }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }

    pub(crate) fn raw(&mut self, json: &str) {
        self.append(json.as_bytes());
    }

    pub(crate) fn append(&mut self, json: &[u8]) {
        self.out.extend_from_slice(json);
    }

    /// Prints a message of any type.
    pub(crate) fn message(&mut self, message: &DynamicMessage) -> Printed {
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Flaw::new(format!("nested deeper than {DEPTH} messages")));
        }
        match WellKnown::of(&message.descriptor()) {
            Some(kind) => self.well_known(message, kind)?,
            None => {
                self.raw("{");
                self.members(message, true)?;
                self.raw("}");
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Prints the value of a field as if it were the document: what `response_body` asks for.
    pub(crate) fn field_alone(&mut self, message: &DynamicMessage, field: &FieldDescriptor) -> Printed {
        let unset = field.supports_presence() && !message.has_field(field);
        match field.kind() {
            // A type whose JSON is an object or an array has an empty one; one that stands for a value has none.
            Kind::Message(desc) if unset => match WellKnown::of(&desc) {
                None | Some(WellKnown::Any | WellKnown::Struct) => self.raw("{}"),
                Some(WellKnown::ListValue) => self.raw("[]"),
                Some(_) => self.raw("null"),
            },
            kind => self.value(&message.get_field(field), &kind)?,
        }
        Ok(())
    }

    fn members(&mut self, message: &DynamicMessage, mut first: bool) -> Printed {
        let desc = message.descriptor();
        for field in desc.fields() {
            let set = message.has_field(&field);
            if set || (self.output.emit_defaults && !field.supports_presence()) {
                let name = if self.output.preserve_proto_names { field.name() } else { field.json_name() };
                self.name(name, &mut first);
                self.value(&message.get_field(&field), &field.kind()).map_err(|it| it.within(field.name()))?;
            }
        }
        for (extension, value) in message.extensions() {
            self.name(extension.json_name(), &mut first);
            self.value(value, &extension.kind()).map_err(|it| it.within(extension.json_name()))?;
        }
        Ok(())
    }

    fn name(&mut self, name: &str, first: &mut bool) {
        if !std::mem::take(first) {
            self.raw(",");
        }
        self.string(name);
        self.raw(":");
    }

    fn value(&mut self, value: &Value, kind: &Kind) -> Printed {
        match value {
            Value::Bool(it) => self.raw(if *it { "true" } else { "false" }),
            Value::I32(it) => self.raw(&it.to_string()),
            Value::U32(it) => self.raw(&it.to_string()),
            Value::I64(it) => self.raw(&format!("\"{it}\"")),
            Value::U64(it) => self.raw(&format!("\"{it}\"")),
            Value::F32(it) => self.float(f64::from(*it), format!("{it:?}")),
            Value::F64(it) => self.float(*it, format!("{it:?}")),
            Value::String(it) => self.string(it),
            Value::Bytes(it) => self.string(&BASE64_STANDARD.encode(it)),
            Value::EnumNumber(it) => self.enumerator(*it, kind),
            Value::Message(it) => self.message(it)?,
            Value::List(values) => {
                self.raw("[");
                for (at, value) in values.iter().enumerate() {
                    self.raw(if at == 0 { "" } else { "," });
                    self.value(value, kind)?;
                }
                self.raw("]");
            }
            Value::Map(entries) => {
                let value_kind =
                    kind.as_message().filter(|it| it.is_map_entry()).map(|it| it.map_entry_value_field().kind());
                let value_kind = value_kind.ok_or_else(|| Flaw::new("malformed map type"))?;
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_unstable_by_key(|(key, _)| *key);
                self.raw("{");
                let mut first = true;
                for (key, value) in entries {
                    self.name(&key_text(key), &mut first);
                    self.value(value, &value_kind)?;
                }
                self.raw("}");
            }
        }
        Ok(())
    }

    fn enumerator(&mut self, number: i32, kind: &Kind) {
        match kind.as_enum() {
            Some(desc) if desc.full_name() == "google.protobuf.NullValue" => self.raw("null"),
            Some(desc) if !self.output.enums_as_ints => match desc.get_value(number) {
                Some(value) => self.string(value.name()),
                None => self.raw(&number.to_string()),
            },
            Some(_) | None => self.raw(&number.to_string()),
        }
    }

    /// Prints a float; `shortest` is its shortest decimal form that reads back the same.
    fn float(&mut self, value: f64, shortest: String) {
        match value {
            _ if value.is_nan() => self.raw("\"NaN\""),
            f64::INFINITY => self.raw("\"Infinity\""),
            f64::NEG_INFINITY => self.raw("\"-Infinity\""),
            _ => self.raw(shortest.strip_suffix(".0").unwrap_or(&shortest)),
        }
    }

    pub(crate) fn string(&mut self, text: &str) {
        // Writing a string to a vector has no way to fail.
        let _ = serde_json::to_writer(&mut self.out, text);
    }

    fn well_known(&mut self, message: &DynamicMessage, kind: WellKnown) -> Printed {
        let flaw = |reason: &str| Flaw::new(format!("{}: {reason}", message.descriptor().full_name()));
        match kind {
            WellKnown::Any => return self.any(message),
            WellKnown::Value => return self.dynamic_value(message),
            WellKnown::Timestamp => self.string(&well_known::timestamp(message).ok_or_else(|| flaw("out of range"))?),
            WellKnown::Duration => self.string(&well_known::duration(message).ok_or_else(|| flaw("out of range"))?),
            WellKnown::FieldMask => {
                self.string(&well_known::field_mask(message).ok_or_else(|| flaw("a path has no JSON form"))?)
            }
            WellKnown::Struct | WellKnown::ListValue | WellKnown::Wrapper => {
                let field = message.descriptor().get_field(1).ok_or_else(|| flaw("malformed descriptor"))?;
                self.value(&message.get_field(&field), &field.kind())?;
            }
        }
        Ok(())
    }

    fn dynamic_value(&mut self, message: &DynamicMessage) -> Printed {
        match message.fields().next() {
            Some((_, Value::F64(it))) if !it.is_finite() => {
                Err(Flaw::new("a google.protobuf.Value cannot hold NaN or Infinity"))
            }
            Some((field, value)) => self.value(value, &field.kind()),
            None => {
                self.raw("null");
                Ok(())
            }
        }
    }

    fn any(&mut self, message: &DynamicMessage) -> Printed {
        let field = |number| message.get_field_by_number(number);
        let url = field(1).and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default();
        let bytes = field(2).and_then(|it| it.as_bytes().cloned()).unwrap_or_default();
        if url.is_empty() && bytes.is_empty() {
            self.raw("{}");
            return Ok(());
        }
        self.any_parts(&url, &bytes, message.descriptor().parent_pool())
    }

    /// Prints an Any from its parts; its type is looked up in `pool`, then among the built-in ones.
    pub(crate) fn any_parts(&mut self, url: &str, bytes: &[u8], pool: &prost_reflect::DescriptorPool) -> Printed {
        let name = url.rsplit('/').next().unwrap_or(url);
        let desc = pool.get_message_by_name(name).or_else(|| builtin::pool().get_message_by_name(name));
        let Some(payload) = desc.and_then(|it: MessageDescriptor| DynamicMessage::decode(it, bytes).ok()) else {
            self.raw_any(url, bytes);
            return Ok(());
        };
        self.depth += 1;
        if self.depth > DEPTH {
            return Err(Flaw::new(format!("nested deeper than {DEPTH} messages")));
        }
        self.raw("{\"@type\":");
        self.string(url);
        match WellKnown::of(&payload.descriptor()) {
            Some(_) => {
                self.raw(",\"value\":");
                self.message(&payload)?;
            }
            None => self.members(&payload, false)?,
        }
        self.raw("}");
        self.depth -= 1;
        Ok(())
    }

    /// Prints an Any whose type is unknown or whose value has no JSON form.
    pub(crate) fn raw_any(&mut self, url: &str, bytes: &[u8]) {
        self.raw("{\"@type\":");
        self.string(url);
        self.raw(",\"value\":");
        self.string(&BASE64_STANDARD.encode(bytes));
        self.raw("}");
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(it) => it.to_string(),
        MapKey::I32(it) => it.to_string(),
        MapKey::I64(it) => it.to_string(),
        MapKey::U32(it) => it.to_string(),
        MapKey::U64(it) => it.to_string(),
        MapKey::String(it) => it.clone(),
    }
}

#[cfg(test)]
mod tests;
