//! The fields of a message in its wire bytes, in the order in which they are printed.
//!
//! Lives here: one shallow walk over a message's records, checking each one's wire type; sorting what came in another
//! order; the rule that the last member of a oneof wins. Does not: looking into nested messages.

use super::{Encoder, Failure, Printed};
use crate::types::{Cardinality, Field, Kind, MessageType};
use crate::wire::{Payload, Reader, WireType};

/// In place of a field: not to be printed.
const STALE: u32 = u32::MAX;

/// A record of the message at hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    /// Index of the field in its type.
    pub(super) field: u32,
    wire_type: WireType,
    /// The value, or start << 32 | end of the payload in the message's bytes.
    value: u64,
}

impl Found {
    #[inline]
    fn new(field: u32, payload: Payload<'_>, wire: &[u8]) -> Self {
        let range = |payload: &[u8]| {
            let start = payload.as_ptr().addr() - wire.as_ptr().addr();
            (start as u64) << 32 | (start + payload.len()) as u64
        };
        let value = match payload {
            Payload::Varint(value) | Payload::Fixed64(value) => value,
            Payload::Fixed32(value) => u64::from(value),
            Payload::Len(payload) | Payload::Group(payload) => range(payload),
        };
        Self { field, wire_type: payload.wire_type(), value }
    }

    #[inline]
    pub(super) fn payload(self, wire: &[u8]) -> Payload<'_> {
        let range = || &wire[(self.value >> 32) as usize..(self.value & 0xFFFF_FFFF) as usize];
        match self.wire_type {
            WireType::Varint => Payload::Varint(self.value),
            WireType::Fixed64 => Payload::Fixed64(self.value),
            WireType::Fixed32 => Payload::Fixed32(self.value as u32),
            WireType::Len => Payload::Len(range()),
            WireType::Group => Payload::Group(range()),
        }
    }
}

impl Encoder<'_> {
    /// Puts the records of a message's known fields on the stack, by field; returns where they begin. Who calls takes
    /// them off again.
    pub(super) fn find(&mut self, ty: &MessageType, wire: &[u8]) -> Printed<usize> {
        if u32::try_from(wire.len()).is_err() {
            return Err(Failure::Malformed("longer than 4 GiB"));
        }
        let base = self.found.len();
        let (mut last, mut sorted, mut in_oneofs) = (0, true, 0);
        let mut reader = Reader::new(wire);
        while let Some(record) = reader.record()? {
            // Unknown fields have no JSON form.
            let Some(at) = ty.index_of(record.number) else { continue };
            let field = &ty.fields[at as usize];
            if !fits(field, record.payload) {
                return Err(Failure::Malformed("invalid wire type"));
            }
            sorted &= last <= at;
            last = at;
            in_oneofs += usize::from(field.oneof.is_some());
            self.found.push(Found::new(at, record.payload, wire));
        }
        if in_oneofs > 1 {
            self.settle_oneofs(ty, base);
        }
        if !sorted {
            // Stable: of records of one field, the last wins or lists go on.
            self.found[base..].sort_by_key(|it| it.field);
        }
        Ok(base)
    }

    /// Drops what a later member of the same oneof has replaced.
    fn settle_oneofs(&mut self, ty: &MessageType, base: usize) {
        /// A oneof: its last member, and whether another member was met before it.
        struct Held {
            oneof: u32,
            field: u32,
            replaced: bool,
        }
        let mut held: Vec<Held> = Vec::new();
        for at in (base..self.found.len()).rev() {
            let field = self.found[at].field;
            let Some(oneof) = ty.fields[field as usize].oneof else { continue };
            match held.iter_mut().find(|it| it.oneof == oneof) {
                None => held.push(Held { oneof, field, replaced: false }),
                Some(it) if it.field == field && !it.replaced => {}
                Some(it) => {
                    it.replaced = true;
                    self.found[at].field = STALE;
                }
            }
        }
        self.found.retain(|it| it.field != STALE);
    }
}

/// Returns whether a field can come as this: as one value, or as a packed list of them.
#[inline]
fn fits(field: &Field, payload: Payload<'_>) -> bool {
    let (one, actual) = (field.kind.wire_type(), payload.wire_type());
    one == actual
        || (actual == WireType::Len
            && matches!(field.cardinality, Cardinality::List { .. })
            && !matches!(field.kind, Kind::Group(_)))
}
