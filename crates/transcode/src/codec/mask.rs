//! The `update_mask` that a PATCH body implies.
//!
//! Lives here: finding the mask field and the paths of the members present. Does not: deciding whether to infer
//! (`codec`).
//! Source: grpc-gateway's "Patch feature": paths are proto names, sorted; they stop at lists, maps and well-known
//! types. An empty object is a path itself: it was sent, so it is meant.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::bind::find_field;
use crate::codec::json::{Read, Reader, Shape};
use crate::codec::well_known::WellKnown;

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
        match nested(&field) {
            Some(desc) if json.shape()? == Shape::Object => collect(json, &desc, &format!("{path}."), found)?,
            Some(_) | None => json.skip()?,
        }
        if found.len() == before {
            found.push(path);
        }
    }
    Ok(())
}

/// Returns the type of a field whose members are fields in turn.
fn nested(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(desc) if !field.is_list() && !field.is_map() && WellKnown::of(&desc).is_none() => Some(desc),
        _ => None,
    }
}
