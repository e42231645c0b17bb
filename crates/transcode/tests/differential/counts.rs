//! What of a message's bytes counts: of a field that stands there twice, the last; of a oneof, the last member; of a map, the last entry of a key.
//!
//! Lives here: writing a message anew without what a later record replaces, payloads of Any too. Does not: what a value has to be; bytes of a field
//! are taken over as they are. For an oracle that looks at what does not count, too (`reflect`).
//! Source: protobuf.dev, "Encoding". Messages in parts are merged by putting one behind the other, each of which has to be a message by itself.

use std::collections::BTreeMap;

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use prost_reflect::{DynamicMessage, Kind, MapKey, MessageDescriptor};

use super::known::named_by;

/// Messages within messages.
const DEPTH: usize = 100;

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lapse {
    Malformed,
    /// An entry of a map behind a key of another wire type. prost reads it as if it had a length all the same; to us it is malformed, as every field
    /// of a wrong wire type is to both.
    MapWithoutLength,
}

impl From<prost::DecodeError> for Lapse {
    fn from(_: prost::DecodeError) -> Self {
        Self::Malformed
    }
}

/// Returns a message with the same meaning in which everything counts.
pub(crate) fn only(desc: &MessageDescriptor, wire: &[u8]) -> Result<Vec<u8>, Lapse> {
    within(desc, wire, DEPTH)
}

fn within(desc: &MessageDescriptor, wire: &[u8], depth: usize) -> Result<Vec<u8>, Lapse> {
    let depth = depth.checked_sub(1).ok_or(Lapse::Malformed)?;
    let mut out = Vec::new();
    let mut by_number = BTreeMap::<u32, Vec<Record<'_>>>::new();
    for record in without_replaced_members(desc, records(desc, wire)?) {
        by_number.entry(record.number).or_default().push(record);
    }
    if desc.full_name() == "google.protobuf.Any" {
        any(desc, &by_number, &mut out);
        return Ok(out);
    }
    for (number, records) in by_number {
        let field = Shape::of(desc, number);
        match field.as_ref().map(|it| (&it.kind, it)) {
            Some((Kind::Message(entry), field)) if field.is_map => {
                for entry in entries(entry, &records, depth)? {
                    put(&mut out, number, false, &entry);
                }
            }
            Some((Kind::Message(inner), field)) if field.is_list => {
                for record in &records {
                    put(&mut out, number, field.is_group, &within(inner, record.message(field)?, depth)?);
                }
            }
            Some((Kind::Message(inner), field)) => {
                let mut whole = Vec::new();
                for record in &records {
                    let part = record.message(field)?;
                    self::records(inner, part)?;
                    whole.extend_from_slice(part);
                }
                put(&mut out, number, field.is_group, &within(inner, &whole, depth)?);
            }
            Some((_, field)) if !field.is_list => out.extend(records.last().map_or(&[][..], |it| it.whole)),
            _ => records.iter().for_each(|it| out.extend_from_slice(it.whole)),
        }
    }
    Ok(out)
}

/// Writes an Any. Its value stays as it is if it is no message of a type that is known: the oracle then says what it has against it.
fn any(desc: &MessageDescriptor, by_number: &BTreeMap<u32, Vec<Record<'_>>>, out: &mut Vec<u8>) {
    let last = |number| by_number.get(&number).and_then(|records| records.last());
    let url = last(1).and_then(|it| str::from_utf8(it.payload).ok()).unwrap_or_default();
    let payload =
        named_by(url, desc.parent_pool()).zip(last(2)).and_then(|(ty, record)| only(&ty, record.payload).ok());
    out.extend(last(1).map_or(&[][..], |it| it.whole));
    match payload {
        Some(payload) => put(out, 2, false, &payload),
        None => out.extend(last(2).map_or(&[][..], |it| it.whole)),
    }
}

/// Returns the last entry of each key.
fn entries(entry: &MessageDescriptor, records: &[Record<'_>], depth: usize) -> Result<Vec<Vec<u8>>, Lapse> {
    let mut kept = BTreeMap::<MapKey, &[u8]>::new();
    for record in records {
        let parts = self::records(entry, record.payload)?;
        let key = parts.iter().rfind(|it| it.number == 1).map_or(&[][..], |it| it.whole);
        let key = DynamicMessage::decode(entry.clone(), key)?.get_field_by_number(1).map(|it| it.into_owned());
        kept.insert(key.and_then(|it| it.into_map_key()).ok_or(Lapse::Malformed)?, record.payload);
    }
    kept.into_values().map(|it| within(entry, it, depth)).collect()
}

/// Drops what a later member of the same oneof replaces.
fn without_replaced_members<'w>(desc: &MessageDescriptor, records: Vec<Record<'w>>) -> Vec<Record<'w>> {
    // From the end: a oneof's last member, and whether another one was met before it.
    let mut held = BTreeMap::<String, (u32, bool)>::new();
    let mut kept: Vec<_> = records
        .into_iter()
        .rev()
        .filter(|record| {
            let oneof = desc.get_field(record.number).and_then(|it| it.containing_oneof());
            let Some(oneof) = oneof else { return true };
            let (last, replaced) = held.entry(oneof.name().to_owned()).or_insert((record.number, false));
            *replaced |= *last != record.number;
            !*replaced
        })
        .collect();
    kept.reverse();
    kept
}

/// What a field or an extension is made of.
struct Shape {
    kind: Kind,
    is_list: bool,
    is_map: bool,
    is_group: bool,
}

impl Shape {
    fn of(desc: &MessageDescriptor, number: u32) -> Option<Self> {
        if let Some(it) = desc.get_field(number) {
            return Some(Self { kind: it.kind(), is_list: it.is_list(), is_map: it.is_map(), is_group: it.is_group() });
        }
        let it = desc.get_extension(number)?;
        Some(Self { kind: it.kind(), is_list: it.is_list(), is_map: it.is_map(), is_group: it.is_group() })
    }
}

/// A field on the wire.
struct Record<'w> {
    number: u32,
    wire_type: WireType,
    /// With its key.
    whole: &'w [u8],
    /// Without its key, its length, and the key that ends a group.
    payload: &'w [u8],
}

impl<'w> Record<'w> {
    fn message(&self, field: &Shape) -> Result<&'w [u8], Lapse> {
        let wanted = if field.is_group { WireType::StartGroup } else { WireType::LengthDelimited };
        if self.wire_type == wanted { Ok(self.payload) } else { Err(Lapse::Malformed) }
    }
}

fn records<'w>(desc: &MessageDescriptor, mut wire: &'w [u8]) -> Result<Vec<Record<'w>>, Lapse> {
    let mut records = Vec::new();
    while !wire.is_empty() {
        let start = wire;
        let (number, wire_type) = decode_key(&mut wire)?;
        if wire_type != WireType::LengthDelimited && desc.get_field(number).is_some_and(|it| it.is_map()) {
            return Err(Lapse::MapWithoutLength);
        }
        let payload = match wire_type {
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut wire)?).map_err(|_| Lapse::Malformed)?;
                let (payload, rest) = wire.split_at_checked(length).ok_or(Lapse::Malformed)?;
                wire = rest;
                payload
            }
            WireType::StartGroup => group(number, &mut wire)?,
            _ => {
                let before = wire;
                skip_field(wire_type, number, &mut wire, DecodeContext::default())?;
                &before[..before.len() - wire.len()]
            }
        };
        records.push(Record { number, wire_type, whole: &start[..start.len() - wire.len()], payload });
    }
    Ok(records)
}

fn group<'w>(number: u32, wire: &mut &'w [u8]) -> Result<&'w [u8], Lapse> {
    let start = *wire;
    loop {
        let length = start.len() - wire.len();
        let (inner, wire_type) = decode_key(wire)?;
        if wire_type == WireType::EndGroup {
            return if inner == number { Ok(&start[..length]) } else { Err(Lapse::Malformed) };
        }
        skip_field(wire_type, inner, wire, DecodeContext::default())?;
    }
}

fn put(out: &mut Vec<u8>, number: u32, is_group: bool, payload: &[u8]) {
    if is_group {
        encode_key(number, WireType::StartGroup, out);
        out.extend_from_slice(payload);
        encode_key(number, WireType::EndGroup, out);
    } else {
        encode_key(number, WireType::LengthDelimited, out);
        encode_varint(payload.len() as u64, out);
        out.extend_from_slice(payload);
    }
}
