//! `google.protobuf.Value`, `Struct` and `ListValue`: any JSON at all, as messages.
//!
//! Lives here: building them. Does not: types with fields of their own (`decode`).
//! Two functions and one stack frame each per level of nesting: this is where clients can nest deepest.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor, Value};

use super::{expect, part};
use crate::bind::text;
use crate::codec::json::{Fault, Read, Reader, Shape};
use crate::codec::well_known;

pub(super) fn value(json: &mut Reader<'_>, desc: &MessageDescriptor) -> Read<DynamicMessage> {
    let at = json.at();
    match json.shape()? {
        Shape::Object => {
            let inner = structure(json, &part_type(desc, 5, at)?)?;
            fill(desc, 5, Value::Message(inner), at)
        }
        Shape::Array => {
            let inner = list(json, &part_type(desc, 6, at)?)?;
            fill(desc, 6, Value::Message(inner), at)
        }
        shape => scalar(json, desc, shape, at),
    }
}

pub(super) fn structure(json: &mut Reader<'_>, desc: &MessageDescriptor) -> Read<DynamicMessage> {
    expect(json, Shape::Object, "an object")?;
    let at = json.at();
    let element = part_type(&part_type(desc, 1, at)?, 2, at)?;
    json.open_object()?;
    let mut values = HashMap::new();
    while let Some((name, at)) = json.member(values.is_empty())? {
        let name = name.into_owned();
        let value = value(json, &element).map_err(|it| it.within_entry(&name))?;
        let key = MapKey::String(name);
        if let Some(key) = values.get(&key).map(|_: &Value| &key) {
            return Err(twice(key, at));
        }
        values.insert(key, Value::Message(value));
    }
    fill(desc, 1, Value::Map(values), at)
}

pub(super) fn list(json: &mut Reader<'_>, desc: &MessageDescriptor) -> Read<DynamicMessage> {
    expect(json, Shape::Array, "an array")?;
    let at = json.at();
    let element = part_type(desc, 1, at)?;
    json.open_array()?;
    let mut values = Vec::new();
    while json.element(values.is_empty())? {
        let value = value(json, &element).map_err(|it| it.within_element(values.len()))?;
        values.push(Value::Message(value));
    }
    fill(desc, 1, Value::List(values), at)
}

fn scalar(json: &mut Reader<'_>, desc: &MessageDescriptor, shape: Shape, at: usize) -> Read<DynamicMessage> {
    let (number, value) = match shape {
        Shape::Number => {
            let number = text::number(json.number()?, &Kind::Double);
            (2, number.map_err(|reason| Fault::new(at, reason))?)
        }
        Shape::String => (3, Value::String(json.string()?.into_owned())),
        Shape::Bool => (4, Value::Bool(json.bool()?)),
        Shape::Null | Shape::Array | Shape::Object => {
            json.null()?;
            (1, Value::EnumNumber(0))
        }
    };
    fill(desc, number, value, at)
}

fn fill(desc: &MessageDescriptor, number: u32, value: Value, at: usize) -> Read<DynamicMessage> {
    let mut message = DynamicMessage::new(desc.clone());
    well_known::put(&mut message, number, value).map_err(|reason| Fault::new(at, reason))?;
    Ok(message)
}

/// Returns the message type of a field; of a map, of its entries.
fn part_type(desc: &MessageDescriptor, number: u32, at: usize) -> Read<MessageDescriptor> {
    let field = part(desc, number).map_err(|reason| Fault::new(at, reason))?;
    let malformed = || Fault::new(at, format!("the service's descriptor of {} is malformed", desc.full_name()));
    field.kind().as_message().cloned().ok_or_else(malformed)
}

fn twice(key: &MapKey, at: usize) -> Fault {
    let fault = Fault::new(at, "this key stands in the object already");
    match key {
        MapKey::String(key) => fault.within_entry(key),
        _ => fault,
    }
}
