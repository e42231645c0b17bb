//! ProtoJSON to messages, strict.
//!
//! Lives here: what each kind of field accepts. Does not: JSON syntax (`json`), scalars' text (`bind::text`), which
//! part of a request the JSON is (`codec`).
//! Source: the ProtoJSON specification; where it leaves a choice, the protobuf conformance suite: a name twice, two
//! members of a oneof and null in a list are errors; an unknown enum name is dropped when unknown members are ignored.

mod dynamic;

use std::collections::HashMap;

use prost::Message;
use prost_reflect::{DynamicMessage, ExtensionDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use crate::bind::{check_oneof, find_field, text};
use crate::codec::json::{Fault, Read, Reader, Shape};
use crate::codec::well_known::{self, WellKnown};
use crate::schema::builtin;
use crate::settings::{Settings, Unknown};

#[derive(Debug, Clone, Copy)]
pub(crate) struct Decoder<'s> {
    pub(crate) settings: &'s Settings,
}

/// How often a field may occur.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cardinality {
    One,
    List,
    Map,
}

impl Cardinality {
    fn of(is_list: bool, is_map: bool) -> Self {
        match (is_map, is_list) {
            (true, _) => Self::Map,
            (false, true) => Self::List,
            (false, false) => Self::One,
        }
    }
}

impl Decoder<'_> {
    /// Reads a message of any type.
    pub(crate) fn message(self, json: &mut Reader<'_>, desc: &MessageDescriptor) -> Read<DynamicMessage> {
        match WellKnown::of(desc) {
            None => self.object(json, desc, None),
            Some(WellKnown::Any) => self.any(json, desc),
            Some(WellKnown::Value) => dynamic::value(json, desc),
            Some(WellKnown::Struct) => dynamic::structure(json, desc),
            Some(WellKnown::ListValue) => dynamic::list(json, desc),
            Some(kind) => self.scalar_message(json, desc, kind),
        }
    }

    /// Reads the value of a field; none if it leaves the field unset.
    pub(crate) fn field(self, json: &mut Reader<'_>, field: &FieldDescriptor) -> Read<Option<Value>> {
        self.value(json, &field.kind(), Cardinality::of(field.is_list(), field.is_map()))
    }

    /// Reads an object as a message by its fields. `beside` is a member that belongs to no field: the `@type` of an
    /// Any.
    fn object(self, json: &mut Reader<'_>, desc: &MessageDescriptor, beside: Option<&str>) -> Read<DynamicMessage> {
        let mut message = DynamicMessage::new(desc.clone());
        let mut seen: Vec<u32> = Vec::new();
        expect(json, Shape::Object, "an object")?;
        json.open_object()?;
        let mut first = true;
        while let Some((name, at)) = json.member(first)? {
            first = false;
            let mut once = |number: u32| {
                if seen.contains(&number) {
                    return Err(Fault::new(at, format!("member {name:?} names a field for the second time")));
                }
                seen.push(number);
                Ok(())
            };
            if let Some(field) = find_field(desc, &name) {
                once(field.number())?;
                let value = self.field(json, &field);
                if let Some(value) = value.map_err(|it| it.within(field.json_name()))? {
                    check_oneof(&message, &field).map_err(|reason| Fault::new(at, reason).within(field.json_name()))?;
                    message.set_field(&field, value);
                }
            } else if let Some(extension) = extension(desc, &name) {
                once(extension.number())?;
                let cardinality = Cardinality::of(extension.is_list(), extension.is_map());
                if let Some(value) = self.value(json, &extension.kind(), cardinality).map_err(|it| it.within(&name))? {
                    message.set_extension(&extension, value);
                }
            } else if beside == Some(&name) {
                // Field numbers start at 1.
                once(0)?;
                json.skip()?;
            } else {
                self.unknown_member(json, desc, &name, at)?;
            }
        }
        Ok(message)
    }

    fn unknown_member(self, json: &mut Reader<'_>, desc: &MessageDescriptor, name: &str, at: usize) -> Read<()> {
        match self.settings.unknown_body {
            Unknown::Ignore => json.skip(),
            Unknown::Reject => {
                Err(Fault::new(at, format!("unknown member: {} has no such field", desc.full_name())).within(name))
            }
        }
    }

    /// Messages are read from here and not from `singular`, whose frame is large: a level of nesting should cost little stack.
    fn value(self, json: &mut Reader<'_>, kind: &Kind, cardinality: Cardinality) -> Read<Option<Value>> {
        if json.shape()? == Shape::Null && (cardinality != Cardinality::One || !takes_null(kind)) {
            json.null()?;
            return Ok(None);
        }
        match (cardinality, kind) {
            (Cardinality::One, Kind::Message(desc)) => Ok(Some(Value::Message(self.message(json, desc)?))),
            (Cardinality::One, _) => self.singular(json, kind),
            (Cardinality::List, _) => self.list(json, kind).map(Some),
            (Cardinality::Map, _) => self.map(json, kind).map(Some),
        }
    }

    fn list(self, json: &mut Reader<'_>, kind: &Kind) -> Read<Value> {
        expect(json, Shape::Array, "an array")?;
        json.open_array()?;
        let mut values = Vec::new();
        let mut index = 0;
        while json.element(index == 0)? {
            let element = self.element(json, kind).map_err(|it| it.within_element(index))?;
            values.extend(element);
            index += 1;
        }
        Ok(Value::List(values))
    }

    fn map(self, json: &mut Reader<'_>, entry: &Kind) -> Read<Value> {
        let at = json.at();
        let entry = entry.as_message().ok_or_else(|| Fault::new(at, "malformed map type"))?;
        let (key_kind, value_kind) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        expect(json, Shape::Object, "an object")?;
        json.open_object()?;
        let mut values = HashMap::new();
        let mut first = true;
        while let Some((name, at)) = json.member(first)? {
            first = false;
            let key = map_key(&name, &key_kind).map_err(|reason| Fault::new(at, reason).within_entry(&name))?;
            if values.contains_key(&key) {
                return Err(Fault::new(at, "this key stands in the object already").within_entry(&name));
            }
            if let Some(value) = self.element(json, &value_kind).map_err(|it| it.within_entry(&name))? {
                values.insert(key, value);
            }
        }
        Ok(Value::Map(values))
    }

    /// Reads a value of a list or a map, where null stands for nothing but itself.
    fn element(self, json: &mut Reader<'_>, kind: &Kind) -> Read<Option<Value>> {
        if json.shape()? == Shape::Null && !takes_null(kind) {
            return Err(Fault::new(json.at(), "null is no value here"));
        }
        match kind {
            Kind::Message(desc) => Ok(Some(Value::Message(self.message(json, desc)?))),
            _ => self.singular(json, kind),
        }
    }

    /// Reads one value that is no message; none for an enum name that is to be ignored.
    fn singular(self, json: &mut Reader<'_>, kind: &Kind) -> Read<Option<Value>> {
        let shape = json.shape()?;
        let at = json.at();
        let from_text = |text: &str| {
            let fault = |reason: String| Fault::new(at, format!("{reason}, found {}", text::quoted(text)));
            text::value(text, kind, self.settings).map_err(fault)
        };
        let value = match (kind, shape) {
            (Kind::Message(_), _) => return Err(Fault::new(at, "malformed wrapper type")),
            (Kind::Bool, Shape::Bool) => Value::Bool(json.bool()?),
            (Kind::Bool, _) => return Err(mismatch(at, "true or false", shape)),
            (Kind::String, Shape::String) => Value::String(json.string()?.into_owned()),
            (Kind::String, _) => return Err(mismatch(at, "a string", shape)),
            (Kind::Bytes, Shape::String) => from_text(&json.string()?)?,
            (Kind::Bytes, _) => return Err(mismatch(at, "base64 in a string", shape)),
            (Kind::Enum(_), _) => return self.enumerator(json, kind),
            (_, Shape::Number) => from_text(json.number()?)?,
            (_, Shape::String) => from_text(&json.string()?)?,
            (_, _) => return Err(mismatch(at, "a number", shape)),
        };
        Ok(Some(value))
    }

    fn enumerator(self, json: &mut Reader<'_>, kind: &Kind) -> Read<Option<Value>> {
        let shape = json.shape()?;
        let at = json.at();
        let desc = kind.as_enum().ok_or_else(|| Fault::new(at, "malformed enum type"))?;
        let number = match shape {
            Shape::Null if takes_null(kind) => {
                json.null()?;
                0
            }
            Shape::Number => {
                let number = json.number()?;
                text::integer(number, "the number of an enum value").map_err(|reason| Fault::new(at, reason))?
            }
            Shape::String => {
                let name = json.string()?;
                match text::enum_name(&name, desc, self.settings) {
                    Some(number) => number,
                    None if self.settings.unknown_body == Unknown::Ignore => return Ok(None),
                    None => {
                        return Err(Fault::new(
                            at,
                            format!("{} has no value {}", desc.full_name(), text::quoted(&name)),
                        ));
                    }
                }
            }
            Shape::Null | Shape::Bool | Shape::Array | Shape::Object => {
                return Err(mismatch(at, "the name of an enum value", shape));
            }
        };
        Ok(Some(Value::EnumNumber(number)))
    }

    /// Reads a type that a string or another scalar stands for.
    fn scalar_message(self, json: &mut Reader<'_>, desc: &MessageDescriptor, kind: WellKnown) -> Read<DynamicMessage> {
        let mut message = DynamicMessage::new(desc.clone());
        let at = json.at();
        let set = match kind {
            WellKnown::Timestamp => well_known::set_timestamp,
            WellKnown::Duration => well_known::set_duration,
            WellKnown::FieldMask => well_known::set_field_mask,
            WellKnown::Wrapper | WellKnown::Any | WellKnown::Struct | WellKnown::Value | WellKnown::ListValue => {
                let field = part(desc, 1).map_err(|reason| Fault::new(at, reason))?;
                if let Some(value) = self.singular(json, &field.kind())? {
                    well_known::put(&mut message, 1, value).map_err(|reason| Fault::new(at, reason))?;
                }
                return Ok(message);
            }
        };
        expect(json, Shape::String, "a string")?;
        let text = json.string()?;
        let fault = |reason: String| Fault::new(at, format!("{reason}, found {}", text::quoted(&text)));
        set(&mut message, &text).map_err(fault)?;
        Ok(message)
    }

    /// Reads a `google.protobuf.Any`; its `@type` may stand anywhere in the object.
    fn any(self, json: &mut Reader<'_>, any: &MessageDescriptor) -> Read<DynamicMessage> {
        let at = json.at();
        let Some((url, desc)) = any_type(json, any)? else { return Ok(DynamicMessage::new(any.clone())) };
        let payload = match WellKnown::of(&desc) {
            None => self.object(json, &desc, Some("@type"))?,
            Some(_) => self.any_value(json, &desc)?,
        };
        pack(any, url, &payload).map_err(|reason| Fault::new(at, reason))
    }

    /// Reads the `value` of an Any whose type has a JSON form of its own.
    fn any_value(self, json: &mut Reader<'_>, desc: &MessageDescriptor) -> Read<DynamicMessage> {
        let at = json.at();
        let mut payload = None;
        let mut types = 0;
        json.open_object()?;
        let mut first = true;
        while let Some((name, at)) = json.member(first)? {
            first = false;
            match &*name {
                "@type" if types == 0 => {
                    types += 1;
                    json.skip()?;
                }
                "value" if payload.is_none() => {
                    payload = Some(self.message(json, desc).map_err(|it| it.within("value"))?)
                }
                "@type" | "value" => return Err(Fault::new(at, format!("member {name:?} stands twice"))),
                _ => self.unknown_member(json, desc, &name, at)?,
            }
        }
        payload.ok_or_else(|| Fault::new(at, format!("an Any of {} needs a member \"value\"", desc.full_name())))
    }
}

/// Returns type URL and type of the Any ahead, which is then still to be read. An empty object is read: an Any that holds nothing.
fn any_type(json: &mut Reader<'_>, any: &MessageDescriptor) -> Read<Option<(String, MessageDescriptor)>> {
    expect(json, Shape::Object, "an object")?;
    let at = json.at();
    let start = json.mark();
    let Some((url, url_at)) = type_url(json)? else {
        json.rewind(start);
        json.open_object()?;
        return match json.member(true)? {
            None => Ok(None),
            Some(_) => Err(Fault::new(at, "an Any needs a member \"@type\"")),
        };
    };
    json.rewind(start);
    let fault = |reason: String| Fault::new(url_at, reason).within("@type");
    let name = url.rsplit_once('/').map(|(_, name)| name).ok_or_else(|| fault("a type URL needs a '/'".to_owned()))?;
    let known = any.parent_pool().get_message_by_name(name).or_else(|| builtin::pool().get_message_by_name(name));
    let desc = known.ok_or_else(|| fault(format!("unknown message type {}", text::quoted(name))))?;
    Ok(Some((url, desc)))
}

fn pack(any: &MessageDescriptor, url: String, payload: &DynamicMessage) -> Result<DynamicMessage, String> {
    let mut message = DynamicMessage::new(any.clone());
    well_known::put(&mut message, 1, Value::String(url))?;
    well_known::put(&mut message, 2, Value::Bytes(payload.encode_to_vec().into()))?;
    Ok(message)
}

/// Returns the `@type` of the object ahead and where it stands; the reader is left anywhere.
fn type_url(json: &mut Reader<'_>) -> Read<Option<(String, usize)>> {
    json.open_object()?;
    let mut first = true;
    while let Some((name, _)) = json.member(first)? {
        first = false;
        if name == "@type" {
            expect(json, Shape::String, "a string").map_err(|it| it.within("@type"))?;
            let at = json.at();
            return Ok(Some((json.string()?.into_owned(), at)));
        }
        json.skip()?;
    }
    Ok(None)
}

/// Returns whether null is a value of this kind and not the lack of one.
fn takes_null(kind: &Kind) -> bool {
    match kind {
        Kind::Message(desc) => WellKnown::of(desc) == Some(WellKnown::Value),
        Kind::Enum(desc) => desc.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

fn extension(desc: &MessageDescriptor, name: &str) -> Option<ExtensionDescriptor> {
    if name.starts_with('[') { desc.get_extension_by_json_name(name) } else { None }
}

fn map_key(name: &str, kind: &Kind) -> Result<MapKey, String> {
    match kind {
        Kind::String => Ok(MapKey::String(name.to_owned())),
        Kind::Bool => match name {
            "true" => Ok(MapKey::Bool(true)),
            "false" => Ok(MapKey::Bool(false)),
            _ => Err("expected a key true or false".to_owned()),
        },
        number => text::number(name, number)?.into_map_key().ok_or_else(|| "malformed map type".to_owned()),
    }
}

fn part(desc: &MessageDescriptor, number: u32) -> Result<FieldDescriptor, String> {
    desc.get_field(number).ok_or_else(|| format!("the service's descriptor of {} is malformed", desc.full_name()))
}

fn expect(json: &mut Reader<'_>, wanted: Shape, expected: &str) -> Read<()> {
    match json.shape()? {
        shape if shape == wanted => Ok(()),
        shape => Err(mismatch(json.at(), expected, shape)),
    }
}

fn mismatch(at: usize, expected: &str, found: Shape) -> Fault {
    Fault::new(at, format!("expected {expected}, found {}", found.name()))
}

#[cfg(test)]
mod tests;
