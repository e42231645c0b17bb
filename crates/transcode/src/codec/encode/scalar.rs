//! Printing one value.
//!
//! Lives here: what each kind looks like in JSON. Does not: the digits (`print`), messages (`encode`).

use super::{Encoder, Failure, Printed};
use crate::codec::print;
use crate::types::{EnumType, Kind};
use crate::wire::{self, Payload};

impl Encoder<'_> {
    /// Prints one value, whose wire type is the kind's; returns whether it is the default.
    #[inline]
    pub(super) fn singular(&mut self, kind: &Kind, payload: Payload<'_>) -> Printed<bool> {
        let out = &mut self.out;
        match (kind, payload) {
            (Kind::String, Payload::Len(bytes)) => {
                print::utf8(out, bytes).map_err(|_| Failure::Malformed("a string is not UTF-8"))?;
                Ok(bytes.is_empty())
            }
            (Kind::Message(id) | Kind::Group(id), Payload::Len(wire) | Payload::Group(wire)) => {
                self.nested(*id, wire).map(|()| false)
            }
            (Kind::Bytes, Payload::Len(bytes)) => {
                print::base64(out, bytes);
                Ok(bytes.is_empty())
            }
            (Kind::Enum(ty), Payload::Varint(value)) => {
                self.enumerator(ty, value as i32);
                Ok(value as i32 == 0)
            }
            (_, payload) => Ok(self.number(kind, payload)),
        }
    }

    #[inline]
    fn number(&mut self, kind: &Kind, payload: Payload<'_>) -> bool {
        let out = &mut self.out;
        match (kind, payload) {
            (Kind::Bool, Payload::Varint(value)) => {
                out.extend_from_slice(if value == 0 { b"false" } else { b"true" });
                value == 0
            }
            (Kind::Double, Payload::Fixed64(bits)) => {
                print::double(out, f64::from_bits(bits));
                bits == 0
            }
            (Kind::Float, Payload::Fixed32(bits)) => {
                print::float(out, f32::from_bits(bits));
                bits == 0
            }
            (_, Payload::Varint(value)) => {
                match kind {
                    Kind::Int64 => print::quoted_integer(out, value as i64),
                    Kind::Uint64 => print::quoted_integer(out, value),
                    Kind::Sint64 => print::quoted_integer(out, wire::unzigzag(value)),
                    Kind::Sint32 => print::integer(out, wire::unzigzag(u64::from(value as u32)) as i32),
                    Kind::Uint32 => print::integer(out, value as u32),
                    _ => print::integer(out, value as i32),
                }
                match kind {
                    Kind::Int64 | Kind::Uint64 | Kind::Sint64 => value == 0,
                    _ => value as u32 == 0,
                }
            }
            (_, Payload::Fixed64(value)) => {
                match kind {
                    Kind::Sfixed64 => print::quoted_integer(out, value as i64),
                    _ => print::quoted_integer(out, value),
                }
                value == 0
            }
            (_, Payload::Fixed32(value)) => {
                match kind {
                    Kind::Sfixed32 => print::integer(out, value as i32),
                    _ => print::integer(out, value),
                }
                value == 0
            }
            (_, Payload::Len(_) | Payload::Group(_)) => true,
        }
    }

    fn enumerator(&mut self, ty: &EnumType, number: i32) {
        let name = if self.output.enums_as_ints { None } else { ty.name_of(number) };
        match name {
            _ if ty.is_null => self.raw("null"),
            Some(name) => {
                // A name is an identifier: there is nothing to escape.
                self.out.push(b'"');
                self.out.extend_from_slice(name.as_bytes());
                self.out.push(b'"');
            }
            None => print::integer(&mut self.out, number),
        }
    }
}
