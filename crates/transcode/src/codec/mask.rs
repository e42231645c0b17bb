//! The `update_mask` that a PATCH body implies.
//!
//! Lives here: finding the mask field, the paths of the members present, which of them may not be in it, writing them. Does not: deciding whether to
//! infer (`codec`), the paths of a form (`bind::form`).
//! Source: grpc-gateway's "Patch feature": paths are proto names, sorted; they stop at lists, maps and well-known
//! types, but for a Struct or a Value, whose members are steps like any other. An empty object is a path itself: it was
//! sent, so it is meant.
//! Invariant: a path means that the message holds all that the client said of it. A field of whose value something was ignored has none, or the service
//! would clear what the client wanted to set; nor has one that only the service sets.

use prost_reflect::{FieldDescriptor, MessageDescriptor};

use crate::bind::BindError;
use crate::codec::decode::Decoder;
use crate::codec::json::{Fault, Read, Reader, Shape};
use crate::codec::well_known::WellKnown;
use crate::plan::{Body, MethodPlan};
use crate::settings::Settings;
use crate::types::{Cardinality, Field, Kind as Compiled, MessageType, TypeId, Types};
use crate::wire;

/// A mask that a request leaves to be inferred.
pub(crate) struct Inferred<'p> {
    /// The mask.
    field: FieldDescriptor,
    /// The field that the body is.
    body: &'p FieldDescriptor,
    root: TypeId,
    types: &'p Types,
    settings: &'p Settings,
}

/// Paths of a body's members.
#[derive(Debug)]
pub(crate) struct Paths {
    pub(crate) paths: Vec<String>,
    /// Whether the body names anything, be it nothing that can be changed.
    pub(crate) named: bool,
}

impl<'p> Inferred<'p> {
    /// Returns the mask of a binding whose body is one message of the request, if it has one.
    pub(crate) fn of(plan: &'p MethodPlan, settings: &'p Settings) -> Option<Self> {
        let Body::Field(body) = plan.body() else { return None };
        let method = plan.method();
        let field = field(method.input())?;
        let root = method.types.get(method.input_type).by_number(body.number())?;
        let (Compiled::Message(root) | Compiled::Group(root), Cardinality::One) = (&root.kind, &root.cardinality)
        else {
            return None;
        };
        Some(Self { field, body, root: *root, types: &method.types, settings })
    }

    pub(crate) fn field(&self) -> &FieldDescriptor {
        &self.field
    }

    /// Returns the paths of the members of an object, which was read before and found valid.
    pub(crate) fn paths(&self, json: &mut Reader<'_>) -> Read<Paths> {
        let mut paths = Vec::new();
        let named = self.collect(json, self.types.get(self.root), "", &mut paths)?;
        Ok(Paths { paths, named })
    }

    /// Writes the mask.
    ///
    /// # Errors
    /// `BindError` if the body names things, and none that can be changed: to many services a mask without a path means all.
    pub(crate) fn put(&self, wire: &mut Vec<u8>, Paths { mut paths, named }: Paths) -> Result<(), BindError> {
        paths.sort_unstable();
        paths.dedup();
        if paths.is_empty() && named {
            let reason =
                "names no field that can be changed, with a value that it has: there is no update mask to infer";
            return Err(BindError::field(self.body.json_name(), reason));
        }
        let open = wire::open_message(wire, self.field.number(), self.field.is_group());
        for path in paths {
            wire.push(PATHS);
            wire::put_bytes(wire, path.as_bytes());
        }
        wire::close_message(wire, open);
        Ok(())
    }

    /// Collects the paths of an object's members; returns whether it has any member.
    fn collect(&self, json: &mut Reader<'_>, ty: &MessageType, prefix: &str, found: &mut Vec<String>) -> Read<bool> {
        json.open_object()?;
        let mut first = true;
        while let Some((name, _)) = json.member(first)? {
            first = false;
            let field = ty.by_name(&name, 0).map(|at| &ty.fields[at as usize]);
            let Some(field) = field.filter(|it| !it.is_extension && !it.output_only) else {
                json.skip()?;
                continue;
            };
            let path = format!("{prefix}{}", field.name);
            match (self.nested(field), json.shape()?) {
                (Some(Nested::Message(ty)), Shape::Object) => {
                    if !self.collect(json, ty, &format!("{path}."), found)? {
                        found.push(path);
                    }
                }
                (Some(Nested::Dynamic), Shape::Object) => dynamic(json, &path, found, &mut DYNAMIC_BYTES.clone())?,
                (Some(_) | None, _) => {
                    if self.is_taken_whole(json, field)? {
                        found.push(path);
                    }
                }
            }
        }
        Ok(!first)
    }

    /// Reads over the value of a field and returns whether all of it is in the message.
    fn is_taken_whole(&self, json: &mut Reader<'_>, field: &Field) -> Read<bool> {
        let named = |kind: &Compiled| matches!(kind, Compiled::Enum(_) | Compiled::Message(_) | Compiled::Group(_));
        let has_names = match &field.cardinality {
            Cardinality::Map(entry) => named(&entry.1.kind),
            Cardinality::One | Cardinality::List { .. } => named(&field.kind),
        };
        if !has_names {
            return json.skip().map(|()| true);
        }
        let mut again = Decoder::new(self.settings, self.types, 0);
        again.field(json, field)?;
        Ok(!again.dropped())
    }

    /// Returns what is below a field, if its members are steps of a path.
    fn nested(&self, field: &Field) -> Option<Nested<'p>> {
        let (Compiled::Message(id) | Compiled::Group(id), Cardinality::One) = (&field.kind, &field.cardinality) else {
            return None;
        };
        let ty = self.types.get(*id);
        match ty.well_known {
            None => Some(Nested::Message(ty)),
            Some(WellKnown::Struct | WellKnown::Value) => Some(Nested::Dynamic),
            Some(_) => None,
        }
    }
}

/// Returns the field to infer: `update_mask`, or the only field mask of the request.
fn field(request: &MessageDescriptor) -> Option<FieldDescriptor> {
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
enum Nested<'t> {
    Message(&'t MessageType),
    /// A Struct or a Value.
    Dynamic,
}
