//! `google.api.field_behavior`: what authors say of who sets a field.
//!
//! Lives here: reading the option of a field. Does not: what follows from it (`openapi::behavior`, `codec::mask`).
//! Source: google/api/field_behavior.proto (extension 1052 of FieldOptions).

use prost::Message;
use prost_reflect::FieldDescriptor;

use crate::wire::{Payload, Reader};

const FIELD_BEHAVIOR: u32 = 1052;
pub(crate) const REQUIRED: u64 = 2;
pub(crate) const OUTPUT_ONLY: u64 = 3;
pub(crate) const INPUT_ONLY: u64 = 4;
pub(crate) const IMMUTABLE: u64 = 5;

/// Returns the values of the option.
pub(crate) fn of(field: &FieldDescriptor) -> Vec<u64> {
    if field.field_descriptor_proto().options.is_none() {
        return Vec::new();
    }
    let options = field.options().encode_to_vec();
    let mut reader = Reader::new(&options);
    let mut found = Vec::new();
    while let Ok(Some(record)) = reader.record() {
        match record.payload {
            Payload::Varint(value) if record.number == FIELD_BEHAVIOR => found.push(value),
            // Packed; every value there is takes one byte.
            Payload::Len(values) if record.number == FIELD_BEHAVIOR => {
                found.extend(values.iter().map(|it| u64::from(*it)))
            }
            _ => {}
        }
    }
    found
}
