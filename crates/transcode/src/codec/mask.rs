//! The `update_mask` that a PATCH body implies.
//!
//! Lives here: finding the mask field, the paths of the members present, writing them. Does not: deciding whether to infer
//! (`codec`), the paths of a form (`bind::form`).
//! Source: grpc-gateway's "Patch feature": paths are proto names, sorted; they stop at lists, maps and well-known
//! types, but for a Struct or a Value, whose members are steps like any other. An empty object is a path itself: it was
//! sent, so it is meant.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::bind::find_field;
use crate::codec::json::{Fault, Read, Reader, Shape};
use crate::codec::well_known::WellKnown;
use crate::wire;

/// Returns the field to infer: `update_mask`, or the only field mask of the request.
pub(crate) fn field(request: &MessageDescriptor) -> Option<FieldDescriptor> {
    let is_mask = |it: &FieldDescriptor| {
        !it.is_list() && it.kind().as_message().is_some_and(|it| WellKnown::of(it) == Some(WellKnown::FieldMask))
    };
    let named = request.get_field_by_name("update_mask").filter(is_mask);
    let only = || {
        let mut masks = request.fields().filter(is_mask);
        masks.next().filter(|_| masks.next().is_none())
    };
    named.or_else(only)
}

/// Key of `paths` in google.protobuf.FieldMask.
const PATHS: u8 = 0x0A;

/// Writes the field with these paths.
pub(crate) fn put(wire: &mut Vec<u8>, mask: &FieldDescriptor, paths: Vec<String>) {
    let open = wire::open_message(wire, mask.number(), mask.is_group());
    for path in paths {
        wire.push(PATHS);
        wire::put_bytes(wire, path.as_bytes());
    }
    wire::close_message(wire, open);
}

/// Returns the sorted paths of the members of an object, which was read before and found valid.
pub(crate) fn paths(json: &mut Reader<'_>, desc: &MessageDescriptor) -> Read<Vec<String>> {
    let mut found = Vec::new();
    collect(json, desc, "", &mut found)?;
    found.sort_unstable();
    Ok(found)
}

fn collect(json: &mut Reader<'_>, desc: &MessageDescriptor, prefix: &str, found: &mut Vec<String>) -> Read<()> {
    json.open_object()?;
    let mut first = true;
    while let Some((name, _)) = json.member(first)? {
        first = false;
        let Some(field) = find_field(desc, &name) else {
            json.skip()?;
            continue;
        };
        let path = format!("{prefix}{}", field.name());
        let before = found.len();
        match (nested(&field), json.shape()?) {
            (Some(Nested::Message(desc)), Shape::Object) => collect(json, &desc, &format!("{path}."), found)?,
            (Some(Nested::Dynamic), Shape::Object) => dynamic(json, &path, found, &mut DYNAMIC_BYTES.clone())?,
            (Some(_) | None, _) => json.skip()?,
        }
        if found.len() == before {
            found.push(path);
        }
    }
    Ok(())
}

/// Bytes of paths into one Struct. Its names are the client's, and each path repeats those above it.
const DYNAMIC_BYTES: usize = 64 * 1024;

/// Collects paths into an object of any JSON. A member whose name cannot be a step ends the path before it.
fn dynamic(json: &mut Reader<'_>, path: &str, found: &mut Vec<String>, left: &mut usize) -> Read<()> {
    json.open_object()?;
    let before = found.len();
    let mut steps = true;
    let mut first = true;
    while let Some((name, at)) = json.member(first)? {
        first = false;
        steps &= is_step(&name);
        let path = format!("{path}.{name}");
        let too_many = || Fault::new(at, "too many members to infer an update mask from: send one");
        *left = left.checked_sub(path.len()).ok_or_else(too_many)?;
        match json.shape()? {
            Shape::Object => dynamic(json, &path, found, left)?,
            _ => {
                json.skip()?;
                found.push(path);
            }
        }
    }
    if !steps || found.len() == before {
        found.truncate(before);
        found.push(path.to_owned());
    }
    Ok(())
}

/// Returns whether a path that has it as a step still reads as one path of those steps.
fn is_step(name: &str) -> bool {
    !name.is_empty() && !name.contains(['.', ',', '`'])
}

/// What has steps below it.
enum Nested {
    Message(MessageDescriptor),
    /// A Struct or a Value.
    Dynamic,
}

/// Returns what is below a field, if its members are steps of a path.
fn nested(field: &FieldDescriptor) -> Option<Nested> {
    let Kind::Message(desc) = field.kind() else { return None };
    match WellKnown::of(&desc) {
        _ if field.is_list() || field.is_map() => None,
        None => Some(Nested::Message(desc)),
        Some(WellKnown::Struct | WellKnown::Value) => Some(Nested::Dynamic),
        Some(_) => None,
    }
}
