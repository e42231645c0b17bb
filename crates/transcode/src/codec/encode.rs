//! Wire bytes to ProtoJSON, without a message in between.
//!
//! Lives here: how each kind of field is printed. Does not: deciding which part of a reply is printed (`codec`), types
//! with a JSON form of their own (`encode::special`), finding a message's fields in its bytes (`encode::index`), or not having to
//! (`encode::ordered`).
//! Source: the ProtoJSON specification; differs: an Any of unknown type is printed as `{"@type", "value": base64}`,
//! because losing a whole reply for it helps nobody. Members come in the order of field numbers, map entries in the
//! order of keys. What a wire form may do, a reply may do: fields in any order, singular ones more than once, lists packed
//! or not.

mod index;
mod map;
mod ordered;
mod scalar;
mod special;

use std::fmt;
use std::ops::Range;

use crate::codec::print;
use crate::settings::JsonOutput;
use crate::types::{Cardinality, Field, Kind, MessageType, TypeId, Types};
use crate::wire::{self, Malformed, Payload, WireType};
use index::Found;

/// Messages within messages that are printed; of them, [`wire::DEPTH`] in one piece of wire, and within one message: each Any starts afresh.
const DEPTH: usize = 200;

/// Why bytes were not printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// They are no message of the type.
    Malformed(&'static str),
    /// A value has no JSON form.
    Flaw(Flaw),
}

/// A value without a JSON form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// Proto names from the message printed down to the value.
    path: String,
    reason: String,
}

pub(crate) type Printed<T = ()> = Result<T, Failure>;

impl From<Malformed> for Failure {
    fn from(Malformed(reason): Malformed) -> Self {
        Self::Malformed(reason)
    }
}

impl Failure {
    fn flaw(reason: impl Into<String>) -> Self {
        Self::Flaw(Flaw { path: String::new(), reason: reason.into() })
    }

    fn within(self, name: &str) -> Self {
        match self {
            Self::Malformed(_) => self,
            Self::Flaw(Flaw { path, reason }) if path.is_empty() => Self::Flaw(Flaw { path: name.to_owned(), reason }),
            Self::Flaw(Flaw { path, reason }) => Self::Flaw(Flaw { path: format!("{name}.{path}"), reason }),
        }
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

/// Where a member was begun.
#[derive(Debug, Clone, Copy)]
struct Start {
    before: usize,
    was_first: bool,
    /// Behind its name.
    named: usize,
}

#[derive(Debug)]
pub(crate) struct Encoder<'t> {
    types: &'t Types,
    output: JsonOutput,
    out: Vec<u8>,
    /// A stack: the fields found in the message at hand lie above those of the messages around it.
    found: Vec<Found>,
    /// Whether records are taken to come in the order in which they are printed; if they do not, all is printed anew.
    in_order: bool,
    depth: usize,
    wire_depth: usize,
}

impl<'t> Encoder<'t> {
    /// Returns an encoder with room for what usually comes of so many bytes.
    pub(crate) fn new(types: &'t Types, output: JsonOutput, wire: usize) -> Self {
        let out = Vec::with_capacity(2 * wire + 128);
        Self { types, output, out, found: Vec::new(), in_order: false, depth: 0, wire_depth: 0 }
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }

    #[inline]
    pub(crate) fn raw(&mut self, json: &str) {
        self.append(json.as_bytes());
    }

    #[inline]
    pub(crate) fn append(&mut self, json: &[u8]) {
        self.out.extend_from_slice(json);
    }

    pub(crate) fn string(&mut self, text: &str) {
        print::string(&mut self.out, text);
    }

    /// Prints a message of any type that lies in no other.
    pub(crate) fn message(&mut self, id: TypeId, wire: &[u8]) -> Printed {
        let (start, depths) = (self.out.len(), (self.depth, self.wire_depth));
        self.in_order = true;
        let printed = self.nested(id, wire);
        self.in_order = false;
        if printed.is_ok() {
            return Ok(());
        }
        self.out.truncate(start);
        self.found.clear();
        (self.depth, self.wire_depth) = depths;
        self.nested(id, wire)
    }

    /// Prints a message of any type.
    fn nested(&mut self, id: TypeId, wire: &[u8]) -> Printed {
        self.enter()?;
        let ty = self.types.get(id);
        match ty.well_known {
            Some(kind) => self.well_known(ty, kind, wire)?,
            None => {
                self.out.push(b'{');
                self.members(ty, wire, true)?;
                self.out.push(b'}');
            }
        }
        self.leave();
        Ok(())
    }

    fn enter(&mut self) -> Printed {
        self.depth += 1;
        self.wire_depth += 1;
        match (self.depth, self.wire_depth) {
            (DEPTH.., _) => Err(Failure::flaw(format!("nested deeper than {DEPTH} messages"))),
            (_, depth) if depth > wire::DEPTH + 1 => Err(Failure::Malformed("recursion limit reached")),
            _ => Ok(()),
        }
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.wire_depth -= 1;
    }

    /// Prints the value of a field as if it were the document: what `response_body` asks for.
    pub(crate) fn field_alone(&mut self, ty: &'t MessageType, wire: &[u8], number: u32) -> Printed {
        let at = ty.index_of(number).ok_or(Failure::Malformed("malformed descriptor"))?;
        let field = &ty.fields[at as usize];
        let base = self.find(ty, wire)?;
        let start = base + self.found[base..].partition_point(|it| it.field < at);
        let end = base + self.found[base..].partition_point(|it| it.field <= at);
        let before = self.out.len();
        if start < end {
            self.value(field, wire, start..end)?;
        }
        if self.out.len() == before {
            self.unset(field)?;
        }
        self.found.truncate(base);
        Ok(())
    }

    /// Prints what stands for a field that is not there.
    fn unset(&mut self, field: &Field) -> Printed {
        use crate::codec::well_known::WellKnown;
        match (&field.cardinality, &field.kind) {
            (Cardinality::List { .. }, _) => self.raw("[]"),
            (Cardinality::Map(_), _) => self.raw("{}"),
            // A type whose JSON is an object or an array has an empty one; one that stands for a value has none.
            (Cardinality::One, Kind::Message(id) | Kind::Group(id)) => self.raw(match self.types.get(*id).well_known {
                None | Some(WellKnown::Any | WellKnown::Struct) => "{}",
                Some(WellKnown::ListValue) => "[]",
                Some(_) => "null",
            }),
            (Cardinality::One, kind) => drop(self.default(kind)?),
        }
        Ok(())
    }

    fn default(&mut self, kind: &Kind) -> Printed<bool> {
        let payload = match kind.wire_type() {
            WireType::Varint => Payload::Varint(match kind {
                Kind::Enum(ty) => i64::from(ty.default) as u64,
                _ => 0,
            }),
            WireType::Fixed64 => Payload::Fixed64(0),
            WireType::Fixed32 => Payload::Fixed32(0),
            WireType::Len => Payload::Len(&[]),
            WireType::Group => Payload::Group(&[]),
        };
        self.singular(kind, payload)
    }

    /// Prints the members of a message, the braces apart.
    fn members(&mut self, ty: &'t MessageType, wire: &[u8], mut first: bool) -> Printed {
        if self.in_order {
            return self.members_in_order(ty, wire, first);
        }
        let base = self.find(ty, wire)?;
        let end = self.found.len();
        let mut at = base;
        let mut printed = 0;
        while at < end {
            let index = self.found[at].field;
            let mut next = at + 1;
            while next < end && self.found[next].field == index {
                next += 1;
            }
            if self.output.emit_defaults {
                self.defaults(&ty.fields[printed..index as usize], &mut first)?;
                printed = index as usize + 1;
            }
            let field = &ty.fields[index as usize];
            self.member(field, wire, at..next, &mut first).map_err(|it| it.within(&field.name))?;
            at = next;
        }
        if self.output.emit_defaults {
            self.defaults(&ty.fields[printed..], &mut first)?;
        }
        self.found.truncate(base);
        Ok(())
    }

    fn defaults(&mut self, fields: &'t [Field], first: &mut bool) -> Printed {
        for field in fields.iter().filter(|it| !it.presence && !it.is_extension) {
            self.name(field, first);
            self.unset(field)?;
        }
        Ok(())
    }

    #[inline]
    fn name(&mut self, field: &'t Field, first: &mut bool) {
        let printed = field.printed(self.output);
        self.out.extend_from_slice(if std::mem::take(first) { &printed[1..] } else { printed });
    }

    fn member(&mut self, field: &'t Field, wire: &[u8], found: Range<usize>, first: &mut bool) -> Printed {
        let start = self.begin(field, first);
        let default = self.value(field, wire, found)?;
        self.settle(field, start, default, first)
    }

    #[inline]
    fn begin(&mut self, field: &'t Field, first: &mut bool) -> Start {
        let (before, was_first) = (self.out.len(), *first);
        self.name(field, first);
        Start { before, was_first, named: self.out.len() }
    }

    /// Decides whether a member stays whose value was printed.
    #[inline]
    fn settle(&mut self, field: &'t Field, start: Start, default: bool, first: &mut bool) -> Printed {
        if default && !field.presence {
            match self.output.emit_defaults && !field.is_extension {
                true if self.out.len() == start.named => self.unset(field)?,
                true => {}
                false => {
                    self.out.truncate(start.before);
                    *first = start.was_first;
                }
            }
        }
        Ok(())
    }

    /// Prints the value of a field from all of its records; returns whether it is the default, of which a list without
    /// elements prints nothing.
    #[inline]
    fn value(&mut self, field: &'t Field, wire: &[u8], found: Range<usize>) -> Printed<bool> {
        match &field.cardinality {
            Cardinality::One => {
                let last = self.found[found.end - 1].payload(wire);
                match &field.kind {
                    Kind::Message(_) | Kind::Group(_) if found.len() > 1 => self.merged(&field.kind, wire, found),
                    kind => self.singular(kind, last),
                }
            }
            Cardinality::List { .. } => self.list(&field.kind, wire, found),
            Cardinality::Map(entry) => self.map(entry, wire, found),
        }
    }

    /// Prints a message that came in parts: one after the other, they are the whole. No record goes from one into the next.
    #[cold]
    fn merged(&mut self, kind: &Kind, wire: &[u8], found: Range<usize>) -> Printed<bool> {
        let mut whole = Vec::new();
        for it in &self.found[found] {
            match it.payload(wire) {
                Payload::Len(part) | Payload::Group(part) => {
                    wire::Reader::new(part).check()?;
                    whole.extend_from_slice(part);
                }
                Payload::Varint(_) | Payload::Fixed64(_) | Payload::Fixed32(_) => {}
            }
        }
        self.singular(kind, Payload::Len(&whole))
    }

    fn list(&mut self, kind: &Kind, wire: &[u8], found: Range<usize>) -> Printed<bool> {
        let one = kind.wire_type();
        let mut empty = true;
        for at in found {
            match self.found[at].payload(wire) {
                Payload::Len(packed) if one != WireType::Len => self.packed(kind, packed, &mut empty)?,
                value => self.element(kind, value, &mut empty)?,
            }
        }
        if !empty {
            self.out.push(b']');
        }
        Ok(empty)
    }

    fn packed(&mut self, kind: &Kind, packed: &[u8], empty: &mut bool) -> Printed {
        let mut values = wire::Reader::new(packed);
        while let Some(value) = values.packed(kind.wire_type())? {
            self.element(kind, value, empty)?;
        }
        Ok(())
    }

    #[inline]
    fn element(&mut self, kind: &Kind, value: Payload<'_>, empty: &mut bool) -> Printed {
        self.out.push(if std::mem::take(empty) { b'[' } else { b',' });
        self.singular(kind, value).map(drop)
    }
}

#[cfg(test)]
mod tests;
