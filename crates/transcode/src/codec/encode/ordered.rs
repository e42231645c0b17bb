//! Messages whose records come in the order in which they are printed, as nearly all do: printed while they are read.
//!
//! Lives here: one walk without a list of what was found. Does not: messages in any other order; whatever this walk meets that needs a second
//! look (a field out of order or twice, a second member of a oneof, anything wrong) ends it, and the document is printed anew by `find`.
//! So errors say nothing here, and every message is printed at most twice.

use super::map::Entry;
use super::{Encoder, Failure, Printed};
use crate::types::{Cardinality, Field, MessageType};
use crate::wire::{Payload, Reader, Record, WireType};

const ENDED: Failure = Failure::Malformed("not in order");

/// Members of oneofs are told apart by a bit each.
const ONEOFS: u32 = u64::BITS;

impl<'t> Encoder<'t> {
    /// Prints the members of a message, the braces apart.
    pub(super) fn members_in_order(&mut self, ty: &'t MessageType, wire: &[u8], mut first: bool) -> Printed {
        let mut reader = Reader::new(wire);
        let (mut next, mut filled) = (0, 0_u64);
        let mut ahead = reader.record()?;
        while let Some(record) = ahead {
            let Some(index) = ty.index_of(record.number) else {
                ahead = reader.record()?; // unknown fields have no JSON form
                continue;
            };
            let field = &ty.fields[index as usize];
            if index < next {
                return Err(ENDED);
            }
            if let Some(oneof) = field.oneof {
                if oneof >= ONEOFS || filled & 1 << oneof != 0 {
                    return Err(ENDED);
                }
                filled |= 1 << oneof;
            }
            if self.output.emit_defaults {
                self.defaults(&ty.fields[next as usize..index as usize], &mut first)?;
            }
            next = index + 1;
            let start = self.begin(field, &mut first);
            let default = match &field.cardinality {
                Cardinality::One if record.payload.wire_type() == field.kind.wire_type() => {
                    ahead = reader.record()?;
                    self.singular(&field.kind, record.payload)?
                }
                Cardinality::One => return Err(ENDED),
                Cardinality::List { .. } => self.list_in_order(field, record, &mut reader, &mut ahead)?,
                Cardinality::Map(entry) => {
                    let mut entries = Vec::new();
                    ahead = Some(record);
                    while let Some(record) = ahead.filter(|it| it.number == field.number) {
                        let Payload::Len(bytes) = record.payload else { return Err(ENDED) };
                        entries.push(Entry::read(&entry.0, &entry.1, bytes)?);
                        ahead = reader.record()?;
                    }
                    self.entries(entry, entries)?
                }
            };
            self.settle(field, start, default, &mut first)?;
        }
        if self.output.emit_defaults {
            self.defaults(&ty.fields[next as usize..], &mut first)?;
        }
        Ok(())
    }

    /// Prints a list from its first record on; leaves the record behind it in `ahead`. Returns whether it is empty.
    fn list_in_order<'w>(
        &mut self,
        field: &'t Field,
        first: Record<'w>,
        reader: &mut Reader<'w>,
        ahead: &mut Option<Record<'w>>,
    ) -> Printed<bool> {
        let (kind, one) = (&field.kind, field.kind.wire_type());
        let mut empty = true;
        *ahead = Some(first);
        while let Some(record) = ahead.filter(|it| it.number == field.number) {
            match record.payload {
                value if value.wire_type() == one => self.element(kind, value, &mut empty)?,
                Payload::Len(packed) if one != WireType::Group => self.packed(kind, packed, &mut empty)?,
                _ => return Err(ENDED),
            }
            *ahead = reader.record()?;
        }
        if !empty {
            self.out.push(b']');
        }
        Ok(empty)
    }
}
