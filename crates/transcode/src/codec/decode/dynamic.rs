//! `google.protobuf.Value`, `Struct` and `ListValue`: any JSON at all, as messages.
//!
//! Lives here: writing them. Does not: types with fields of their own (`decode`).
//! Source: google/protobuf/struct.proto, whose keys stand here as bytes.
//! One stack frame per level of nesting and a small one: this is where clients can nest deepest. `depth` is how many messages are around the one that is
//! written.

use super::seen::{Key, Keys};
use super::{deeper, expect};
use crate::bind::text;
use crate::codec::json::{Fault, Read, Reader, Shape};
use crate::wire;

const VALUE_NULL: [u8; 2] = [0x08, 0];
const VALUE_NUMBER: u8 = 0x11;
const VALUE_STRING: u8 = 0x1A;
const VALUE_BOOL: u8 = 0x20;
const VALUE_STRUCT: u8 = 0x2A;
const VALUE_LIST: u8 = 0x32;
const STRUCT_FIELDS: u8 = 0x0A;
const ENTRY_KEY: u8 = 0x0A;
const ENTRY_VALUE: u8 = 0x12;
const LIST_VALUES: u8 = 0x0A;

pub(super) fn value(json: &mut Reader<'_>, out: &mut Vec<u8>, depth: usize) -> Read<()> {
    match json.shape()? {
        Shape::Object => delimited(VALUE_STRUCT, json, out, depth, structure),
        Shape::Array => delimited(VALUE_LIST, json, out, depth, list),
        shape => scalar(json, out, shape),
    }
}

pub(super) fn structure(json: &mut Reader<'_>, out: &mut Vec<u8>, depth: usize) -> Read<()> {
    expect(json, Shape::Object, "an object")?;
    json.open_object()?;
    let mut keys = Keys::default();
    let mut first = true;
    while let Some((name, at)) = json.member(first)? {
        first = false;
        if !keys.insert(Key::Text(name.clone())) {
            return Err(Fault::new(at, "this key stands in the object already").within_entry(&name));
        }
        let entry = deeper(depth, json).map_err(|it| it.within_entry(&name))?;
        out.push(STRUCT_FIELDS);
        let start = wire::open_length(out);
        out.push(ENTRY_KEY);
        wire::put_bytes(out, name.as_bytes());
        delimited(ENTRY_VALUE, json, out, entry, value).map_err(|it| it.within_entry(&name))?;
        wire::close_length(out, start);
    }
    Ok(())
}

pub(super) fn list(json: &mut Reader<'_>, out: &mut Vec<u8>, depth: usize) -> Read<()> {
    expect(json, Shape::Array, "an array")?;
    json.open_array()?;
    let mut index = 0;
    while json.element(index == 0)? {
        delimited(LIST_VALUES, json, out, depth, value).map_err(|it| it.within_element(index))?;
        index += 1;
    }
    Ok(())
}

#[inline]
fn delimited(
    key: u8,
    json: &mut Reader<'_>,
    out: &mut Vec<u8>,
    depth: usize,
    write: fn(&mut Reader<'_>, &mut Vec<u8>, usize) -> Read<()>,
) -> Read<()> {
    let depth = deeper(depth, json)?;
    out.push(key);
    let start = wire::open_length(out);
    write(json, out, depth)?;
    wire::close_length(out, start);
    Ok(())
}

fn scalar(json: &mut Reader<'_>, out: &mut Vec<u8>, shape: Shape) -> Read<()> {
    match shape {
        Shape::Number => {
            let at = json.at();
            let number = text::float(json.number()?, str::parse::<f64>, f64::is_finite, f64::from);
            let number = number.map_err(|reason| Fault::new(at, reason))?;
            out.push(VALUE_NUMBER);
            out.extend_from_slice(&number.to_le_bytes());
        }
        Shape::String => {
            let text = json.string()?;
            out.push(VALUE_STRING);
            wire::put_bytes(out, text.as_bytes());
        }
        Shape::Bool => out.extend([VALUE_BOOL, u8::from(json.bool()?)]),
        Shape::Null | Shape::Array | Shape::Object => {
            json.null()?;
            out.extend(VALUE_NULL);
        }
    }
    Ok(())
}
