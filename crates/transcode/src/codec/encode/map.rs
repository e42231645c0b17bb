//! Maps: entries by the order of their keys, and the last of those with the same key.
//!
//! Lives here: reading the entries, ordering and printing them. Does not: values (`encode`).

use std::ops::Range;

use super::{Encoder, Failure, Printed};
use crate::codec::print;
use crate::types::{Field, Kind};
use crate::wire::{self, Payload, Reader};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key<'w> {
    Bool(bool),
    Signed(i64),
    Unsigned(u64),
    Text(&'w str),
}

pub(super) struct Entry<'w> {
    key: Key<'w>,
    value: Value<'w>,
}

enum Value<'w> {
    Missing,
    One(Payload<'w>),
    /// A message in more than one part.
    Parts(Vec<u8>),
}

impl<'t> Encoder<'t> {
    /// Prints a map; returns whether it has no entries, and then prints nothing.
    pub(super) fn map(&mut self, entry: &'t (Field, Field), wire: &[u8], found: Range<usize>) -> Printed<bool> {
        let (key, value) = entry;
        let mut entries = Vec::with_capacity(found.len());
        for it in &self.found[found] {
            if let Payload::Len(bytes) = it.payload(wire) {
                entries.push(Entry::read(key, value, bytes)?);
            }
        }
        self.entries(entry, entries)
    }

    /// Prints the entries of a map, which may come in any order; returns whether there are none, and then prints nothing.
    pub(super) fn entries(&mut self, (_, value): &'t (Field, Field), mut entries: Vec<Entry<'_>>) -> Printed<bool> {
        if entries.is_empty() {
            return Ok(true);
        }
        if !entries.is_sorted_by(|one, next| one.key < next.key) {
            entries = ordered(entries);
        }
        self.out.push(b'{');
        for (at, entry) in entries.iter().enumerate() {
            if at > 0 {
                self.out.push(b',');
            }
            self.key(entry.key);
            match &entry.value {
                Value::Missing => self.missing(&value.kind)?,
                Value::One(payload) => drop(self.singular(&value.kind, *payload)?),
                Value::Parts(whole) => drop(self.singular(&value.kind, Payload::Len(whole))?),
            }
        }
        self.out.push(b'}');
        Ok(false)
    }

    /// Prints the value of an entry that has none: its default.
    fn missing(&mut self, kind: &'t Kind) -> Printed {
        match kind {
            Kind::Message(id) | Kind::Group(id) => self.nested(*id, &[]),
            kind => self.default(kind).map(drop),
        }
    }

    fn key(&mut self, key: Key<'_>) {
        let out = &mut self.out;
        match key {
            Key::Bool(false) => out.extend_from_slice(b"\"false\""),
            Key::Bool(true) => out.extend_from_slice(b"\"true\""),
            Key::Signed(value) => print::quoted_integer(out, value),
            Key::Unsigned(value) => print::quoted_integer(out, value),
            Key::Text(text) => print::string(out, text),
        }
        out.push(b':');
    }
}

/// Sorts entries and keeps the last of each key.
fn ordered(mut entries: Vec<Entry<'_>>) -> Vec<Entry<'_>> {
    entries.sort_by_key(|it| it.key);
    let mut kept: Vec<Entry<'_>> = Vec::with_capacity(entries.len());
    for entry in entries {
        match kept.last_mut().filter(|it| it.key == entry.key) {
            Some(last) => *last = entry,
            None => kept.push(entry),
        }
    }
    kept
}

impl<'w> Entry<'w> {
    pub(super) fn read(key_field: &Field, value_field: &Field, wire: &'w [u8]) -> Printed<Self> {
        let mut entry = Self { key: Key::of(&key_field.kind, None)?, value: Value::Missing };
        let mut reader = Reader::new(wire);
        while let Some(record) = reader.record()? {
            let field = match record.number {
                1 => key_field,
                2 => value_field,
                _ => continue,
            };
            if record.payload.wire_type() != field.kind.wire_type() {
                return Err(Failure::Malformed("invalid wire type"));
            }
            match record.number {
                1 => entry.key = Key::of(&key_field.kind, Some(record.payload))?,
                _ => entry.value = entry.value.then(&value_field.kind, record.payload)?,
            }
        }
        Ok(entry)
    }
}

impl<'w> Value<'w> {
    fn then(self, kind: &Kind, next: Payload<'w>) -> Printed<Self> {
        Ok(match (self, kind, next) {
            (Self::One(Payload::Len(first)), Kind::Message(_), Payload::Len(next)) => {
                Reader::new(first).check()?; // no record goes from one part into the next
                Reader::new(next).check()?;
                Self::Parts([first, next].concat())
            }
            (Self::Parts(mut parts), Kind::Message(_), Payload::Len(next)) => {
                Reader::new(next).check()?;
                parts.extend_from_slice(next);
                Self::Parts(parts)
            }
            (_, _, next) => Self::One(next),
        })
    }
}

impl<'w> Key<'w> {
    /// Reads a key; none stands for the default.
    fn of(kind: &Kind, payload: Option<Payload<'w>>) -> Printed<Self> {
        let number = match payload {
            Some(Payload::Varint(value) | Payload::Fixed64(value)) => value,
            Some(Payload::Fixed32(value)) => u64::from(value),
            Some(Payload::Len(bytes)) => {
                let text = std::str::from_utf8(bytes).map_err(|_| Failure::Malformed("a string is not UTF-8"))?;
                return Ok(Self::Text(text));
            }
            Some(Payload::Group(_)) | None => 0,
        };
        Ok(match kind {
            Kind::Bool => Self::Bool(number != 0),
            Kind::Int32 | Kind::Sfixed32 => Self::Signed(i64::from(number as i32)),
            Kind::Int64 | Kind::Sfixed64 => Self::Signed(number as i64),
            Kind::Sint32 => Self::Signed(i64::from(wire::unzigzag(u64::from(number as u32)) as i32)),
            Kind::Sint64 => Self::Signed(wire::unzigzag(number)),
            Kind::Uint32 => Self::Unsigned(u64::from(number as u32)),
            Kind::Uint64 | Kind::Fixed32 | Kind::Fixed64 => Self::Unsigned(number),
            _ => Self::Text(""),
        })
    }
}
