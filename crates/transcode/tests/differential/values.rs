//! Random messages of a schema, and the many wire forms of one.
//!
//! Lives here: values at and around every type's edges; wire bytes reordered, repeated, unpacked, broken. Does not: JSON
//! (`mutate`).

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

use crate::dice::Dice;
use crate::schema::WELL_KNOWN;

/// Returns a message that both sides can print.
pub(crate) fn message(dice: &mut Dice, desc: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(desc.clone());
    let mut put = |number, value| message.set_field_by_number(number, value);
    match desc.full_name() {
        "google.protobuf.Timestamp" => {
            put(1, Value::I64(*dice.pick(&[-62_135_596_800, -1, 0, 1, 951_782_400, 1_700_000_000, 253_402_300_799])));
            put(2, Value::I32(*dice.pick(&[0, 1, 1_000, 500_000_000, 120_000, 999_999_999])));
        }
        "google.protobuf.Duration" => {
            let sign = *dice.pick(&[-1, 1]);
            put(1, Value::I64(i64::from(sign) * *dice.pick(&[0, 1, 60, 315_576_000_000])));
            put(2, Value::I32(sign * *dice.pick(&[0, 1, 1_000, 500_000_000, 120_000, 999_999_999])));
        }
        "google.protobuf.FieldMask" => {
            let paths =
                (0..dice.below(3)).map(|_| Value::String((*dice.pick(&["a", "some_field.b", "x.y_z"])).to_owned()));
            put(1, Value::List(paths.collect()));
        }
        "google.protobuf.Any" if dice.once_in(5) => {}
        "google.protobuf.Any" => {
            let name = match dice.below(3) {
                0 => *dice.pick(&WELL_KNOWN),
                1 => "gen.M1",
                _ => "gen.M2",
            };
            let inner = desc.parent_pool().get_message_by_name(name).expect("the schema has it");
            let inner = self::message(dice, &inner, depth + 2);
            put(1, Value::String(format!("type.googleapis.com/{name}")));
            put(2, Value::Bytes(inner.encode_to_vec().into()));
        }
        "google.protobuf.DoubleValue" => put(1, Value::F64(*dice.pick(&[0.0, -0.5, 1e300, f64::NAN, f64::INFINITY]))),
        "google.protobuf.FloatValue" => put(1, Value::F32(*dice.pick(&[0.0, -0.5, 3.25, f32::NEG_INFINITY]))),
        "google.protobuf.Value" => {
            let kind = if depth > 5 { dice.below(4) } else { dice.below(6) };
            let field = desc.get_field(kind as u32 + 1).expect("Value has six fields");
            let value = match kind {
                0 => Value::EnumNumber(0),
                1 => Value::F64(*dice.pick(&[0.0, -1.5, 1e300, 9_007_199_254_740_993.0])),
                _ => singular(dice, &field.kind(), depth + 1),
            };
            put(field.number(), value);
        }
        _ => {
            for field in desc.fields() {
                if dice.once_in(if depth > 3 { 6 } else { 2 }) {
                    message.set_field(&field, value(dice, &field, depth));
                }
            }
            for extension in desc.extensions().filter(|_| depth < 3) {
                let kind = extension.kind();
                match extension.is_list() {
                    true => message.set_extension(&extension, Value::List(vec![singular(dice, &kind, depth + 1)])),
                    false => message.set_extension(&extension, singular(dice, &kind, depth + 1)),
                }
            }
        }
    }
    message
}

fn value(dice: &mut Dice, field: &FieldDescriptor, depth: usize) -> Value {
    let kind = field.kind();
    match &kind {
        Kind::Message(entry) if field.is_map() => {
            let (key, value) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
            // One at most: a map has no order, and a seed has to give the same bytes each time. Two messages in one have more.
            let entries = (0..dice.below(2)).map(|_| (map_key(dice, &key), singular(dice, &value, depth + 1)));
            Value::Map(entries.collect())
        }
        _ if field.is_list() => Value::List((0..dice.below(5)).map(|_| singular(dice, &kind, depth + 1)).collect()),
        _ => singular(dice, &kind, depth + 1),
    }
}

fn map_key(dice: &mut Dice, kind: &Kind) -> MapKey {
    singular(dice, kind, 0).into_map_key().expect("a kind that keys have")
}

fn singular(dice: &mut Dice, kind: &Kind, depth: usize) -> Value {
    let random = dice.next();
    match kind {
        Kind::Double => Value::F64(match dice.below(3) {
            0 => f64::from_bits(random),
            1 => random as i32 as f64,
            _ => *dice.pick(&[
                0.0,
                1.0,
                -0.1,
                f64::MAX,
                f64::MIN_POSITIVE,
                5e-324,
                f64::NAN,
                f64::INFINITY,
                f64::NEG_INFINITY,
                1e16,
                1e21,
            ]),
        }),
        Kind::Float => Value::F32(match dice.below(3) {
            0 => f32::from_bits(random as u32),
            1 => random as i16 as f32,
            _ => *dice.pick(&[
                0.0,
                1.0,
                -0.1,
                f32::MAX,
                f32::MIN_POSITIVE,
                1e-45,
                f32::NAN,
                f32::INFINITY,
                f32::NEG_INFINITY,
                16_777_216.0,
            ]),
        }),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            Value::I32(*dice.pick(&[0, 1, -1, 127, 128, i32::MIN, i32::MAX, random as i32]))
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            Value::I64(*dice.pick(&[0, 1, -1, 1 << 53, (1 << 53) + 1, i64::MIN, i64::MAX, random as i64]))
        }
        Kind::Uint32 | Kind::Fixed32 => Value::U32(*dice.pick(&[0, 1, 128, u32::MAX, random as u32])),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(*dice.pick(&[0, 1, (1 << 53) + 1, u64::MAX, random])),
        Kind::Bool => Value::Bool(random.is_multiple_of(2)),
        Kind::String => Value::String(text(dice)),
        Kind::Bytes => Value::Bytes((0..dice.below(9)).map(|_| dice.next() as u8).collect::<Vec<_>>().into()),
        Kind::Enum(desc) => {
            let known: Vec<_> = desc.values().map(|it| it.number()).collect();
            let closed = desc.parent_file().syntax() == prost_reflect::Syntax::Proto2;
            let known = *dice.pick(&known);
            Value::EnumNumber(if closed || dice.below(8) > 0 { known } else { random as i32 })
        }
        Kind::Message(desc) => Value::Message(message(dice, desc, depth)),
    }
}

fn text(dice: &mut Dice) -> String {
    const PIECES: [&str; 14] = [
        "",
        "a",
        "key",
        "naïve",
        "日本",
        "\u{1F600}",
        "\"",
        "\\",
        "/",
        "\n\t\r",
        "\u{0}\u{1f}",
        "\u{7f}",
        "\u{2028}</script>",
        "a longer run of plain text, so that blocks of eight are met",
    ];
    (0..dice.below(4)).map(|_| *dice.pick(&PIECES)).collect()
}

/// A field of a message on the wire: its key and, if it is one, its payload apart.
type Record = (u32, WireType, Vec<u8>);

/// Returns other bytes that a parser may meet: fields in any order, singular ones twice, lists unpacked, unknown fields.
pub(crate) fn scrambled(dice: &mut Dice, desc: &MessageDescriptor, wire: &[u8]) -> Vec<u8> {
    let Some(mut records) = records(wire) else { return wire.to_vec() };
    let mut out = Vec::new();
    for (number, wire_type, payload) in &mut records {
        let Some(field) = desc.get_field(*number) else { continue };
        if let (WireType::LengthDelimited, Kind::Message(inner)) = (*wire_type, field.kind()) {
            *payload = scrambled(dice, &inner, payload);
        }
    }
    if dice.once_in(2) {
        records = records.into_iter().flat_map(|it| unpacked(desc, it)).collect();
    }
    if dice.once_in(3) && !records.is_empty() {
        let twice = dice.pick(&records).clone();
        records.push(twice);
    }
    // Python's runtime drops an entry of a map with unknown fields.
    if dice.once_in(4) && !desc.is_map_entry() {
        records.push((987, *dice.pick(&[WireType::Varint]), vec![42]));
        records.push((988, WireType::LengthDelimited, b"unknown".to_vec()));
    }
    if dice.once_in(2) {
        shuffle(dice, &mut records);
    }
    for (number, wire_type, payload) in records {
        encode_key(number, wire_type, &mut out);
        if wire_type == WireType::LengthDelimited {
            encode_varint(payload.len() as u64, &mut out);
        }
        out.extend(payload);
    }
    out
}

pub(crate) fn shuffle<T>(dice: &mut Dice, items: &mut [T]) {
    for at in (1..items.len()).rev() {
        items.swap(at, dice.below(at + 1));
    }
}

/// Splits a packed list of varints into a record for each.
fn unpacked(desc: &MessageDescriptor, record: Record) -> Vec<Record> {
    let varints = desc.get_field(record.0).is_some_and(|it| {
        it.is_list()
            && matches!(
                it.kind(),
                Kind::Int32
                    | Kind::Int64
                    | Kind::Uint32
                    | Kind::Uint64
                    | Kind::Sint32
                    | Kind::Sint64
                    | Kind::Bool
                    | Kind::Enum(_)
            )
    });
    if !varints || record.1 != WireType::LengthDelimited {
        return vec![record];
    }
    let mut rest = record.2.as_slice();
    let mut split = Vec::new();
    while let Ok(value) = decode_varint(&mut rest) {
        let mut payload = Vec::new();
        encode_varint(value, &mut payload);
        split.push((record.0, WireType::Varint, payload));
    }
    split
}

/// Splits a message without groups.
fn records(mut wire: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !wire.is_empty() {
        let (number, wire_type) = decode_key(&mut wire).ok()?;
        let before = wire;
        let length = match wire_type {
            WireType::Varint => {
                decode_varint(&mut wire).ok()?;
                before.len() - wire.len()
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::LengthDelimited => {
                let length = usize::try_from(decode_varint(&mut wire).ok()?).ok()?;
                records.push((number, wire_type, wire.get(..length)?.to_vec()));
                wire = &wire[length..];
                continue;
            }
            WireType::StartGroup | WireType::EndGroup => return None,
        };
        records.push((number, wire_type, before.get(..length)?.to_vec()));
        wire = &before[length..];
    }
    Some(records)
}

/// Returns bytes that may be no message any more.
pub(crate) fn broken(dice: &mut Dice, wire: &[u8]) -> Vec<u8> {
    let mut wire = wire.to_vec();
    for _ in 0..1 + dice.below(2) {
        let at = dice.below(wire.len() + 1);
        match dice.below(4) {
            0 => wire.truncate(at),
            1 => wire.insert(at, dice.next() as u8),
            _ if at < wire.len() => wire[at] = dice.next() as u8,
            _ => wire.extend([0xFF, 0xFF]),
        }
    }
    wire
}
