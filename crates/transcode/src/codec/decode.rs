//! ProtoJSON to wire bytes, strict, without a message in between.
//!
//! Lives here: what each kind of field accepts and how it is written. Does not: JSON syntax (`json`), scalars' text
//! (`scalar`), Any (`any`), Struct and Value (`dynamic`), which part of a request the JSON is (`codec`).
//! Source: the ProtoJSON specification; where it leaves a choice, the protobuf conformance suite: a name twice, two
//! members of a oneof and null in a list are errors; an unknown enum name is dropped when unknown members are ignored.
//! Fields are written in the order in which the client has them. What would be the default of a field without presence
//! is not written.

mod any;
mod dynamic;
mod scalar;
mod seen;

use crate::codec::json::{Fault, Read, Reader, Shape};
use crate::codec::well_known::{self, WellKnown};
use crate::settings::{Settings, Unknown};
use crate::types::{Cardinality, EnumType, Field, Kind, MessageType, TypeId, Types};
use crate::wire;
use scalar::Scalar;
use seen::{Key, Keys, Members};

#[derive(Debug)]
pub(crate) struct Decoder<'t> {
    settings: &'t Settings,
    types: &'t Types,
    out: Vec<u8>,
    /// Messages around the one at hand.
    depth: usize,
    /// Whether something of the JSON is not in `out`, since nothing of the schema has its name.
    dropped: bool,
}

/// What stands before a value, and whether a default is written at all.
#[derive(Debug, Clone, Copy)]
struct Slot<'k> {
    key: &'k [u8],
    keep_default: bool,
}

impl<'t> Decoder<'t> {
    /// Returns a decoder with room for what usually comes of so much JSON.
    pub(crate) fn new(settings: &'t Settings, types: &'t Types, json: usize) -> Self {
        Self::behind(0, settings, types, json)
    }

    /// As `new`, but what it writes begins behind so many bytes, which are zero.
    pub(crate) fn behind(room: usize, settings: &'t Settings, types: &'t Types, json: usize) -> Self {
        let mut out = Vec::with_capacity(room + json + 16);
        out.resize(room, 0);
        Self { settings, types, out, depth: 0, dropped: false }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }

    /// Returns whether a member or the name of an enum value was ignored so far.
    pub(crate) fn dropped(&self) -> bool {
        self.dropped
    }

    /// Reads a message of any type and writes its fields.
    pub(crate) fn message(&mut self, json: &mut Reader<'_>, id: TypeId) -> Read<()> {
        let ty = self.types.get(id);
        match ty.well_known {
            None => self.object(json, ty, None),
            Some(WellKnown::Any) => self.any(json),
            Some(WellKnown::Value) => dynamic::value(json, &mut self.out, self.depth),
            Some(WellKnown::Struct) => dynamic::structure(json, &mut self.out, self.depth),
            Some(WellKnown::ListValue) => dynamic::list(json, &mut self.out, self.depth),
            Some(kind) => self.scalar_message(json, ty, kind),
        }
    }

    /// Reads the value of a field; false if it leaves the field unset.
    #[inline]
    pub(crate) fn field(&mut self, json: &mut Reader<'_>, field: &'t Field) -> Read<bool> {
        // Most values are strings without an escape.
        if matches!(field.kind, Kind::String)
            && matches!(field.cardinality, Cardinality::One)
            && let Some(text) = json.plain_string()
        {
            if field.presence || !text.is_empty() {
                wire::put_raw_key(&mut self.out, &field.key);
                wire::put_bytes(&mut self.out, text);
            }
            return Ok(true);
        }
        self.any_field(json, field)
    }

    /// As `field`, apart, so that what is mostly done costs no more than it must.
    #[inline(never)]
    fn any_field(&mut self, json: &mut Reader<'_>, field: &'t Field) -> Read<bool> {
        let one = matches!(field.cardinality, Cardinality::One);
        let shape = json.shape()?;
        if shape == Shape::Null && !(one && self.takes_null(&field.kind)) {
            json.null()?;
            return Ok(false);
        }
        match &field.cardinality {
            Cardinality::One => {
                let slot = Slot { key: &field.key, keep_default: field.presence };
                self.single(json, shape, &field.kind, slot)
            }
            Cardinality::List { packed } => self.list(json, field, *packed).map(|()| true),
            Cardinality::Map(entry) => self.map(json, field, entry).map(|()| true),
        }
    }

    /// Reads an object as a message by its fields. `beside` is a member that belongs to no field: the `@type` of an
    /// Any.
    fn object(&mut self, json: &mut Reader<'_>, ty: &'t MessageType, beside: Option<&str>) -> Read<()> {
        expect(json, Shape::Object, "an object")?;
        json.open_object()?;
        let mut members = Members::default();
        let mut beside_seen = false;
        let mut guess = 0;
        let mut first = true;
        while json.another_member(first)? {
            first = false;
            if let Some((index, field)) = ty.by_opening(json.rest(), guess) {
                let at = json.advance(field.opening().len());
                guess = index + 1;
                self.known_member(json, ty, &mut members, index, at)?;
                continue;
            }
            let (name, at) = json.name()?;
            if let Some(index) = ty.by_name(&name, guess) {
                guess = index + 1;
                self.known_member(json, ty, &mut members, index, at)?;
            } else if beside == Some(&*name) {
                if std::mem::replace(&mut beside_seen, true) {
                    return Err(twice(&name, at));
                }
                json.skip()?;
            } else {
                self.unknown_member(json, ty, &name, at)?;
            }
        }
        Ok(())
    }

    /// Reads the value of a member that is a field and begins `at` a place of the document.
    #[inline]
    fn known_member(
        &mut self,
        json: &mut Reader<'_>,
        ty: &'t MessageType,
        members: &mut Members,
        index: u32,
        at: usize,
    ) -> Read<()> {
        let field = &ty.fields[index as usize];
        if !members.see(index) {
            return Err(twice(&json.name_at(at), at));
        }
        if self.field(json, field).map_err(|it| it.within(&field.json_name))?
            && let Some(oneof) = field.oneof
            && let Some(other) = members.fill(oneof, index)
        {
            let (oneof, other) = (ty.oneof(oneof), &ty.fields[other as usize].json_name);
            let reason = format!("oneof {oneof} already has {other}");
            return Err(Fault::new(at, reason).within(&field.json_name));
        }
        Ok(())
    }

    fn unknown_member(&mut self, json: &mut Reader<'_>, ty: &MessageType, name: &str, at: usize) -> Read<()> {
        match self.settings.unknown_body {
            Unknown::Ignore => {
                self.dropped = true;
                json.skip().map_err(|it| it.within(name))
            }
            Unknown::Reject => {
                Err(Fault::new(at, format!("unknown member: {} has no such field", ty.name)).within(name))
            }
        }
    }

    fn list(&mut self, json: &mut Reader<'_>, field: &'t Field, packed: bool) -> Read<()> {
        expect(json, Shape::Array, "an array")?;
        json.open_array()?;
        let before = self.out.len();
        if packed {
            wire::put_raw_key(&mut self.out, &field.key);
        }
        let start = if packed { wire::open_length(&mut self.out) } else { before };
        let slot = Slot { key: if packed { &[] } else { &field.key }, keep_default: true };
        let mut index = 0;
        while json.element(index == 0)? {
            let plain = if packed { plain_number(json, &field.kind) } else { None };
            match plain {
                Some(scalar) => scalar.put(&mut self.out),
                None => drop(self.element(json, &field.kind, slot).map_err(|it| it.within_element(index))?),
            }
            index += 1;
        }
        match packed {
            true if self.out.len() == start => self.out.truncate(before),
            true => wire::close_length(&mut self.out, start),
            false => {}
        }
        Ok(())
    }

    fn map(&mut self, json: &mut Reader<'_>, field: &'t Field, entry: &'t (Field, Field)) -> Read<()> {
        let (key_field, value_field) = entry;
        let slot = Slot { key: &value_field.key, keep_default: true };
        expect(json, Shape::Object, "an object")?;
        json.open_object()?;
        let mut keys = Keys::default();
        let mut first = true;
        while let Some((name, at)) = json.member(first)? {
            first = false;
            let before = self.out.len();
            self.enter(json).map_err(|it| it.within_entry(&name))?; // an entry is a message to its reader
            wire::put_raw_key(&mut self.out, &field.key);
            let start = wire::open_length(&mut self.out);
            wire::put_raw_key(&mut self.out, &key_field.key);
            let key = match &key_field.kind {
                Kind::String => {
                    wire::put_bytes(&mut self.out, name.as_bytes());
                    Ok(Key::Text(name.clone()))
                }
                kind => scalar::map_key(&name, kind).map(|key| {
                    key.put(&mut self.out);
                    Key::Number(key.bits())
                }),
            };
            let key = key.map_err(|reason| Fault::new(at, reason).within_entry(&name))?;
            if !keys.insert(key) {
                return Err(Fault::new(at, "this key stands in the object already").within_entry(&name));
            }
            match self.element(json, &value_field.kind, slot).map_err(|it| it.within_entry(&name))? {
                true => wire::close_length(&mut self.out, start),
                false => self.out.truncate(before),
            }
            self.leave();
        }
        Ok(())
    }

    /// Reads a value of a list or a map, where null stands for nothing but itself; false if it is to be ignored.
    #[inline]
    fn element(&mut self, json: &mut Reader<'_>, kind: &'t Kind, slot: Slot<'_>) -> Read<bool> {
        let shape = json.shape()?;
        if shape == Shape::Null && !self.takes_null(kind) {
            return Err(Fault::new(json.at(), "null is no value here"));
        }
        self.single(json, shape, kind, slot)
    }

    /// Reads one value. Messages are read from here and not from `singular`, whose frame is larger: a level of nesting
    /// should cost little stack.
    #[inline]
    fn single(&mut self, json: &mut Reader<'_>, shape: Shape, kind: &'t Kind, slot: Slot<'_>) -> Read<bool> {
        match kind {
            Kind::Message(id) => {
                wire::put_raw_key(&mut self.out, slot.key);
                let start = wire::open_length(&mut self.out);
                self.enter(json)?;
                self.message(json, *id)?;
                self.leave();
                wire::close_length(&mut self.out, start);
                Ok(true)
            }
            Kind::Group(id) => {
                wire::put_raw_key(&mut self.out, slot.key);
                self.enter(json)?;
                self.message(json, *id)?;
                self.leave();
                wire::put_end_group(&mut self.out, slot.key);
                Ok(true)
            }
            kind => self.singular(json, shape, kind, slot),
        }
    }

    #[inline]
    fn enter(&mut self, json: &mut Reader<'_>) -> Read<()> {
        self.depth = deeper(self.depth, json)?;
        Ok(())
    }

    #[inline]
    fn leave(&mut self) {
        self.depth -= 1;
    }

    /// Reads one value that is no message and starts as `shape`; false for an enum name that is to be ignored.
    fn singular(&mut self, json: &mut Reader<'_>, shape: Shape, kind: &Kind, slot: Slot<'_>) -> Read<bool> {
        let at = json.at();
        let scalar = match (kind, shape) {
            (Kind::Message(_) | Kind::Group(_), _) => return Err(Fault::new(at, "malformed wrapper type")),
            (Kind::String, Shape::String) => {
                let before = self.out.len();
                wire::put_raw_key(&mut self.out, slot.key);
                if !json.string_to_wire(&mut self.out)? {
                    match slot.keep_default {
                        true => self.out.push(0),
                        false => self.out.truncate(before),
                    }
                }
                return Ok(true);
            }
            (Kind::Bytes, Shape::String) => {
                let text = json.string()?;
                if slot.keep_default || !text.is_empty() {
                    wire::put_raw_key(&mut self.out, slot.key);
                    scalar::put_bytes(&mut self.out, &text).map_err(|reason| flawed(at, &reason, &text))?;
                }
                return Ok(true);
            }
            (Kind::Bool, Shape::Bool) => Scalar::Varint(u64::from(json.bool()?)),
            (Kind::Bool, _) => return Err(mismatch(at, "true or false", shape)),
            (Kind::String, _) => return Err(mismatch(at, "a string", shape)),
            (Kind::Bytes, _) => return Err(mismatch(at, "base64 in a string", shape)),
            (Kind::Enum(ty), _) => match self.enumerator(json, shape, ty)? {
                Some(number) => Scalar::Varint(i64::from(number) as u64),
                None => {
                    self.dropped = true;
                    return Ok(false);
                }
            },
            (_, Shape::Number) => self.number(json, kind)?,
            (_, Shape::String) => {
                let text = json.string()?;
                scalar::number(&text, kind).map_err(|reason| flawed(at, &reason, &text))?
            }
            (_, _) => return Err(mismatch(at, "a number", shape)),
        };
        if slot.keep_default || scalar.bits() != 0 {
            wire::put_raw_key(&mut self.out, slot.key);
            scalar.put(&mut self.out);
        }
        Ok(true)
    }

    fn number(&self, json: &mut Reader<'_>, kind: &Kind) -> Read<Scalar> {
        if let Some(scalar) = plain_number(json, kind) {
            return Ok(scalar);
        }
        let at = json.at();
        let text = json.number()?;
        scalar::json_number(text, kind).map_err(|reason| flawed(at, &reason, text))
    }

    fn enumerator(&self, json: &mut Reader<'_>, shape: Shape, ty: &EnumType) -> Read<Option<i32>> {
        let at = json.at();
        match shape {
            Shape::Null if ty.is_null => json.null().map(|()| Some(0)),
            Shape::Number => scalar::integer(json.number()?, "the number of an enum value")
                .map(Some)
                .map_err(|reason| Fault::new(at, reason)),
            Shape::String => {
                let name = json.string()?;
                match ty.number_of(&name, self.settings.case_insensitive_enums) {
                    None if self.settings.unknown_body == Unknown::Reject => {
                        let reason = format!("{} has no value {}", ty.name, crate::bind::text::quoted(&name));
                        Err(Fault::new(at, reason))
                    }
                    found => Ok(found),
                }
            }
            Shape::Null | Shape::Bool | Shape::Array | Shape::Object => {
                Err(mismatch(at, "the name of an enum value", shape))
            }
        }
    }

    /// Reads a type that a string or another scalar stands for.
    fn scalar_message(&mut self, json: &mut Reader<'_>, ty: &'t MessageType, kind: WellKnown) -> Read<()> {
        let at = json.at();
        if !matches!(kind, WellKnown::Timestamp | WellKnown::Duration | WellKnown::FieldMask) {
            let malformed = || Fault::new(at, format!("the service's descriptor of {} is malformed", ty.name));
            let field = ty.by_number(1).ok_or_else(malformed)?;
            let slot = Slot { key: &field.key, keep_default: field.presence };
            let shape = json.shape()?;
            return self.singular(json, shape, &field.kind, slot).map(drop);
        }
        expect(json, Shape::String, "a string")?;
        let text = json.string()?;
        let written = match kind {
            WellKnown::Timestamp => well_known::read_timestamp(&text).map(|it| scalar::put_seconds(&mut self.out, it)),
            WellKnown::Duration => well_known::read_duration(&text).map(|it| scalar::put_seconds(&mut self.out, it)),
            _ => well_known::read_field_mask(&text).map(|paths| scalar::put_texts(&mut self.out, &paths)),
        };
        written.map_err(|reason| flawed(at, &reason, &text))
    }

    /// Returns whether null is a value of this kind and not the lack of one.
    #[inline]
    fn takes_null(&self, kind: &Kind) -> bool {
        match kind {
            Kind::Message(id) | Kind::Group(id) => self.types.get(*id).well_known == Some(WellKnown::Value),
            Kind::Enum(ty) => ty.is_null,
            _ => false,
        }
    }
}

/// Takes a number that is written as nearly all are. None if anything else stands here, or the kind does not hold it; then nothing is taken.
#[inline]
fn plain_number(json: &mut Reader<'_>, kind: &Kind) -> Option<Scalar> {
    let start = json.mark();
    let Some(value) = json.plain_integer() else {
        let fraction = if matches!(kind, Kind::Double) { json.plain_fraction() } else { None };
        return fraction.map(|value| Scalar::Fixed64(value.to_bits()));
    };
    let scalar = scalar::plain(value, kind);
    if scalar.is_none() {
        json.rewind(start);
    }
    scalar
}

#[inline]
fn expect(json: &mut Reader<'_>, wanted: Shape, expected: &str) -> Read<()> {
    match json.shape()? {
        shape if shape == wanted => Ok(()),
        shape => Err(mismatch(json.at(), expected, shape)),
    }
}

/// Returns how deep a message lies in one that lies so deep; a fault if its reader would not follow.
#[inline]
fn deeper(depth: usize, json: &mut Reader<'_>) -> Read<usize> {
    if depth < wire::DEPTH { Ok(depth + 1) } else { Err(too_deep(json.at())) }
}

#[cold]
fn too_deep(at: usize) -> Fault {
    let limit = wire::DEPTH;
    let reason = format!(
        "nested deeper than {limit} messages, of which an array in a google.protobuf.Value is two and an object three,"
    );
    Fault::new(at, reason)
}

#[cold]
fn twice(name: &str, at: usize) -> Fault {
    Fault::new(at, format!("member {name:?} names a field for the second time"))
}

#[cold]
fn mismatch(at: usize, expected: &str, found: Shape) -> Fault {
    Fault::new(at, format!("expected {expected}, found {}", found.name()))
}

#[cold]
fn flawed(at: usize, reason: &str, text: &str) -> Fault {
    Fault::new(at, format!("{reason}, found {}", crate::bind::text::quoted(text)))
}

#[cfg(test)]
mod tests;
