//! Printing types with a JSON form of their own.
//!
//! Lives here: Any, Value, and where the parts of the others lie on the wire. Does not: the text of timestamps, durations
//! and field masks (`well_known`).

use super::{Encoder, Failure, Printed};
use crate::codec::print;
use crate::codec::well_known::{self, WellKnown};
use crate::schema::builtin;
use crate::types::{MessageType, TypeId, Types};
use crate::wire::{Malformed, Payload, Reader};

impl<'t> Encoder<'t> {
    pub(super) fn well_known(&mut self, ty: &'t MessageType, kind: WellKnown, wire: &[u8]) -> Printed {
        let text = match kind {
            WellKnown::Any => return self.any(wire),
            WellKnown::Value => return self.dynamic_value(ty, wire),
            WellKnown::Struct | WellKnown::ListValue | WellKnown::Wrapper => return self.field_alone(ty, wire, 1),
            WellKnown::Timestamp => {
                seconds_and_nanos(wire).map(|(seconds, nanos)| well_known::timestamp(seconds, nanos))?
            }
            WellKnown::Duration => {
                seconds_and_nanos(wire).map(|(seconds, nanos)| well_known::duration(seconds, nanos))?
            }
            WellKnown::FieldMask => {
                let paths = texts(wire)?;
                let mask = well_known::field_mask(&paths);
                let mask = mask.ok_or_else(|| Failure::flaw(format!("{}: a path has no JSON form", ty.name)))?;
                print::string(&mut self.out, &mask);
                return Ok(());
            }
        };
        let text = text.ok_or_else(|| Failure::flaw(format!("{}: out of range", ty.name)))?;
        self.out.push(b'"');
        self.raw(&text);
        self.out.push(b'"');
        Ok(())
    }

    fn dynamic_value(&mut self, ty: &'t MessageType, wire: &[u8]) -> Printed {
        let base = self.find(ty, wire)?;
        let end = self.found.len();
        if base == end {
            self.raw("null");
            return Ok(());
        }
        // Its six fields are one oneof: what was found is all of one field.
        match self.found[end - 1].payload(wire) {
            Payload::Fixed64(bits) if !f64::from_bits(bits).is_finite() => {
                return Err(Failure::flaw("a google.protobuf.Value cannot hold NaN or Infinity"));
            }
            _ => {}
        }
        let field = &ty.fields[self.found[end - 1].field as usize];
        self.value(field, wire, base..end)?;
        self.found.truncate(base);
        Ok(())
    }

    fn any(&mut self, wire: &[u8]) -> Printed {
        let (mut url, mut bytes): (&[u8], &[u8]) = (&[], &[]);
        let mut reader = Reader::new(wire);
        while let Some(record) = reader.record()? {
            match (record.number, record.payload) {
                (1, Payload::Len(payload)) => url = payload,
                (2, Payload::Len(payload)) => bytes = payload,
                (1 | 2, _) => return Err(Failure::Malformed("invalid wire type")),
                _ => {}
            }
        }
        let url = std::str::from_utf8(url).map_err(|_| Failure::Malformed("a string is not UTF-8"))?;
        if url.is_empty() && bytes.is_empty() {
            self.raw("{}");
            return Ok(());
        }
        self.any_parts(url, bytes)
    }

    /// Prints an Any from its parts; its type is looked up among the encoder's, then among the built-in ones.
    pub(crate) fn any_parts(&mut self, url: &str, bytes: &[u8]) -> Printed {
        let name = url.rsplit('/').next().unwrap_or(url);
        let own = self.types.id(name).map(|id| (self.types, id));
        let Some((types, id)) = own.or_else(|| builtin::types().id(name).map(|id| (builtin::types(), id))) else {
            self.raw_any(url, bytes);
            return Ok(());
        };
        let (start, base, depths) = (self.out.len(), self.found.len(), (self.depth, self.wire_depth));
        let around = std::mem::replace(&mut self.types, types);
        let printed = self.payload(url, types, id, bytes);
        self.types = around;
        if let Err(Failure::Malformed(_)) = printed
            && !self.in_order
        {
            self.out.truncate(start);
            self.found.truncate(base);
            (self.depth, self.wire_depth) = depths;
            self.raw_any(url, bytes);
            return Ok(());
        }
        printed
    }

    fn payload(&mut self, url: &str, types: &'t Types, id: TypeId, bytes: &[u8]) -> Printed {
        let wire_depth = std::mem::replace(&mut self.wire_depth, 0);
        self.enter()?;
        self.raw("{\"@type\":");
        print::string(&mut self.out, url);
        let ty = types.get(id);
        match ty.well_known {
            Some(_) => {
                self.raw(",\"value\":");
                self.wire_depth -= 1; // the payload is the outermost message of its bytes, and not within what was entered above
                self.nested(id, bytes)?;
                self.wire_depth += 1;
            }
            None => self.members(ty, bytes, false)?,
        }
        self.out.push(b'}');
        self.leave();
        self.wire_depth = wire_depth;
        Ok(())
    }

    /// Prints an Any whose type is unknown or whose value has no JSON form.
    pub(crate) fn raw_any(&mut self, url: &str, bytes: &[u8]) {
        self.raw("{\"@type\":");
        print::string(&mut self.out, url);
        self.raw(",\"value\":");
        print::base64(&mut self.out, bytes);
        self.out.push(b'}');
    }
}

/// Returns fields 1 and 2 of a timestamp or a duration.
fn seconds_and_nanos(wire: &[u8]) -> Result<(i64, i32), Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(wire);
    while let Some(record) = reader.record()? {
        match (record.number, record.payload) {
            (1, Payload::Varint(value)) => seconds = value as i64,
            (2, Payload::Varint(value)) => nanos = value as i32,
            (1 | 2, _) => return Err(Malformed("invalid wire type")),
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

/// Returns the strings of field 1.
fn texts(wire: &[u8]) -> Printed<Vec<&str>> {
    let mut texts = Vec::new();
    let mut reader = Reader::new(wire);
    while let Some(record) = reader.record()? {
        match (record.number, record.payload) {
            (1, Payload::Len(text)) => {
                texts.push(std::str::from_utf8(text).map_err(|_| Failure::Malformed("a string is not UTF-8"))?);
            }
            (1, _) => return Err(Failure::Malformed("invalid wire type")),
            _ => {}
        }
    }
    Ok(texts)
}
