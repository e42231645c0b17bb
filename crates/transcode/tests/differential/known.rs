//! Where the oracles differ from us, and why we stay as we are.
//!
//! Lives here: the table, and comparing. A difference that no row names fails the test.

use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};
use serde_json::Value as Json;

/// One known difference.
pub(crate) struct Known {
    /// Whose answer differs from ours.
    pub(crate) oracle: &'static str,
    pub(crate) side: Side,
    /// Part of the message with which the side that refuses says so.
    pub(crate) says: &'static str,
    /// What the ProtoJSON specification, its conformance suite or RFC 8259 has to say.
    #[expect(dead_code, reason = "for the reader")]
    pub(crate) why: &'static str,
}

/// Who refuses what the other accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    We,
    They,
}

const fn we(oracle: &'static str, says: &'static str, why: &'static str) -> Known {
    Known { oracle, side: Side::We, says, why }
}

const fn they(oracle: &'static str, says: &'static str, why: &'static str) -> Known {
    Known { oracle, side: Side::They, says, why }
}

const REFLECT: &str = "prost-reflect";
const PYTHON: &str = "json_format";

pub(crate) const KNOWN: &[Known] = &[
    we(REFLECT, "names a field for the second time", "conformance: FieldNameDuplicate is rejected"),
    we(REFLECT, "\"@type\" stands twice", "as above, for the member that names the type of an Any"),
    we(REFLECT, "unpaired surrogate", "RFC 8259, 8.2; serde_json passes over it in what nobody reads"),
    we(REFLECT, "this key stands in the object already", "RFC 8259, 4: names should be unique; a map has a key once"),
    we(REFLECT, "null is no value here", "conformance: RepeatedFieldMessageElementIsNull is rejected"),
    we(REFLECT, "already has", "conformance: OneofFieldDuplicate is rejected"),
    we(
        REFLECT,
        "expected an int",
        "ProtoJSON takes decimal integers as JSON writes them; Rust's parser takes `01` and `+1`",
    ),
    we(REFLECT, "expected a uint", "as above"),
    we(REFLECT, "out of range of a", "as above"),
    we(
        REFLECT,
        "expected a number",
        "ProtoJSON names NaN, Infinity and -Infinity; Rust's parser takes `inf`, `.5` and `+1`, too",
    ),
    we(REFLECT, "out of range", "conformance: FloatFieldTooLarge is rejected; Rust's parser makes it infinite"),
    we(REFLECT, "expected base64", "conformance: BytesFieldInvalidBase64Characters is rejected"),
    we(REFLECT, "expected an RFC 3339 timestamp", "conformance: TimestampJsonInputMissingT and its like are rejected"),
    we(REFLECT, "expected a duration", "ProtoJSON: seconds with at most nine fractional digits and the suffix s"),
    we(REFLECT, "expected field paths", "conformance: FieldMaskInvalidCharacter is rejected"),
    we(REFLECT, "has no JSON form", "conformance: TimestampProtoInputTooLarge and its like fail to print"),
    we(REFLECT, "unknown message type \".", "its pool knows `.a.B`, too; a type URL ends with a full name"),
    we(
        REFLECT,
        "nested deeper",
        "protobuf's own readers stop at a depth of 100; serde_json at 128, and in what it passes over never",
    ),
    they(REFLECT, "float value out of range", "the largest float, written with the digits that a float needs"),
    they(REFLECT, "unsupported type url ''", "conformance: AnyWithNoType is `{}`"),
    they(REFLECT, "expected '@type' field", "as above"),
    they(
        REFLECT,
        "unsupported type url",
        "what stands before the last slash is anybody's; prost-reflect knows one host",
    ),
    they(REFLECT, "' not found", "an Any of an unknown type stays bytes: the rest of the reply is worth having"),
    they(
        REFLECT,
        "error decoding",
        "an Any whose bytes are no message of its type stays bytes, as an error's detail must",
    ),
    they(REFLECT, "invalid type: floating point", "an enum's number in any of JSON's notations"),
    they(REFLECT, "invalid digit found in string", "conformance: Int32FieldQuotedExponentialValue is accepted"),
    they(REFLECT, "unexpected value in map", "Empty is a message like any other: what it does not have is ignored"),
    they(
        REFLECT,
        "expected 'value' field",
        "as above: an Any of Empty is `@type` alone; of types with a form of their own we want a value, too",
    ),
    we(PYTHON, "names a field for the second time", "one name as in JSON and one as in the proto file are one field"),
    we(PYTHON, "this key stands in the object already", "`1` and `01` are one key"),
    we(
        PYTHON,
        "expected an object, found",
        "Python walks over anything that has elements, and finds none to be a field",
    ),
    we(PYTHON, "expected base64", "Python drops what is no base64"),
    we(PYTHON, "expected an int", "Python reads `01`, `1_000` and the like"),
    we(PYTHON, "expected a uint", "as above"),
    we(PYTHON, "expected a number", "Python reads `inf`, `.5`, spaces, and true as 1.0"),
    we(
        PYTHON,
        "expected the name of an enum value",
        "Python takes false for 0 and true for 1; to ProtoJSON they are no enum",
    ),
    we(PYTHON, "out of range", "Python makes infinity of a quoted number that is too large"),
    we(PYTHON, "found 'N'", "RFC 8259 has no NaN; Python's reader takes it where nobody looks"),
    we(PYTHON, "unpaired surrogate", "RFC 8259, 8.2; Python looks at values of strings only"),
    we(PYTHON, "expected an RFC 3339 timestamp", "Python reads what strptime reads"),
    we(PYTHON, "expected a duration", "Python reads what int() reads"),
    we(PYTHON, "expected field paths", "Python takes a path as it is"),
    they(PYTHON, "Invalid enum value", "a number that a closed enum lacks; a server in another language may know it"),
    they(PYTHON, "null is not allowed to be used as an element", "null is NullValue's only value"),
    they(
        PYTHON,
        "object has no attribute 'null_value'",
        "null is no list to us; where its elements are google.protobuf.Values, Python takes the list for one of them",
    ),
    they(PYTHON, "duplicate key", "in what is ignored, where we look at the syntax only"),
    they(PYTHON, "Float value too", "above the largest float, and rounds to it"),
];

pub(crate) fn is_known(oracle: &str, side: Side, message: &str) -> bool {
    KNOWN.iter().any(|it| it.oracle == oracle && it.side == side && message.contains(it.says))
}

/// Compares documents by what they mean: numbers by value, however they are written.
pub(crate) fn same_json(ours: &Json, theirs: &Json) -> bool {
    match (ours, theirs) {
        (Json::Number(ours), Json::Number(theirs)) => {
            ours.as_f64().zip(theirs.as_f64()).is_some_and(|(ours, theirs)| same_number(ours, theirs))
        }
        (Json::Array(ours), Json::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same_json(ours, theirs))
        }
        (Json::Object(ours), Json::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(name, ours)| theirs.get(name).is_some_and(|theirs| same_json(ours, theirs)))
        }
        _ => ours == theirs,
    }
}

/// Compares numbers as serde_json reads them, a few units of the last place off at times. A float may have other digits that mean the same float: those
/// of a double (prost-reflect), or never less than six (Python). That ours are exact, their coming back shows.
fn same_number(ours: f64, theirs: f64) -> bool {
    let float = theirs as f32;
    let is_float = near(f64::from(float), theirs) || (digits(ours) <= 9 && digits(theirs) <= 9 && theirs != 0.0);
    let same = near(ours, theirs) || (is_float && ours != 0.0 && ours as f32 == float);
    same && ours.is_sign_negative() == theirs.is_sign_negative()
}

/// Returns how many digits a number has, of the fifteen that serde_json gets right. More than nine are no float's.
fn digits(number: f64) -> usize {
    let text = format!("{number:.14e}");
    let digits = text.split('e').next().unwrap_or_default().trim_end_matches('0');
    digits.bytes().filter(u8::is_ascii_digit).count()
}

/// Returns whether numbers differ by what serde_json is off at most.
fn near(ours: f64, theirs: f64) -> bool {
    ours == theirs
        || ours.next_up() == theirs
        || ours.next_down() == theirs
        || (ours - theirs).abs() <= 1e-15 * ours.abs()
}

fn near_float(ours: f32, theirs: f32) -> bool {
    ours == theirs || ours.next_up() == theirs || ours.next_down() == theirs
}

/// Compares messages by what they mean: fields that are set, and NaN with NaN.
pub(crate) fn same_message(ours: &DynamicMessage, theirs: &DynamicMessage, how: How) -> bool {
    if ours.descriptor().full_name() == "google.protobuf.Any"
        && let (Some(our), Some(their)) = (payload(ours), payload(theirs))
    {
        return ours.get_field_by_number(1) == theirs.get_field_by_number(1) && same_message(&our, &their, how);
    }
    if ours.descriptor().full_name() == "google.protobuf.Value" && ours.has_field_by_number(1) {
        return theirs.has_field_by_number(1); // any number of NullValue is null
    }
    if !how.is_exact() && ours.descriptor().full_name() == "google.protobuf.FieldMask" {
        // An empty path between two commas is one to us and none to the oracles; the specification has no word on it.
        let paths = |it: &DynamicMessage| {
            let all = it.get_field_by_number(1).and_then(|it| it.as_list().map(<[Value]>::to_vec)).unwrap_or_default();
            all.into_iter().filter(|it| it.as_str() != Some("")).collect::<Vec<_>>()
        };
        return paths(ours) == paths(theirs);
    }
    let counted = |message: &DynamicMessage| message.fields().filter(|(field, it)| how.counts_in(field, it)).count();
    let extended = |message: &DynamicMessage| message.extensions().filter(|(it, _)| how.counts(&it.kind())).count();
    let nulls = match how {
        How::Exactly | How::WithoutDefaults => 0,
        How::Nearly | How::WithoutEnums => {
            theirs.fields().filter(|(field, it)| is_list_of_null(field, it) && !ours.has_field(field)).count()
        }
    };
    counted(ours) + nulls == counted(theirs)
        && extended(ours) == extended(theirs)
        && ours
            .fields()
            .filter(|(field, value)| how.counts_in(field, value))
            .all(|(field, value)| theirs.has_field(&field) && same_value(value, &theirs.get_field(&field), how))
        && ours
            .extensions()
            .filter(|(it, _)| how.counts(&it.kind()))
            .all(|(it, value)| theirs.has_extension(&it) && same_value(value, &theirs.get_extension(&it), how))
}

/// To us null is no list, whatever its elements are, as for every repeated field; prost-reflect takes it for a list of one `google.protobuf.Value`.
fn is_list_of_null(field: &FieldDescriptor, value: &Value) -> bool {
    let null = |it: &Value| {
        it.as_message()
            .is_some_and(|it| it.descriptor().full_name() == "google.protobuf.Value" && it.has_field_by_number(1))
    };
    let is_null = match value {
        Value::List(items) => matches!(&items[..], [one] if null(one)),
        other => null(other), // what it makes of a list is not always one
    };
    field.is_list() && is_null
}

/// Returns what an Any holds, whose bytes may be in any order.
pub(crate) fn payload(any: &DynamicMessage) -> Option<DynamicMessage> {
    let (url, bytes) = (any.get_field_by_number(1)?, any.get_field_by_number(2)?);
    let desc = named_by(url.as_str()?, any.descriptor().parent_pool())?;
    DynamicMessage::decode(desc, &**bytes.as_bytes()?).ok()
}

/// Returns the type that a type URL names. A pool knows it by a name with a dot before it, too, which nothing else does.
pub(crate) fn named_by(url: &str, pool: &DescriptorPool) -> Option<MessageDescriptor> {
    let name = url.rsplit('/').next()?;
    pool.get_message_by_name(name).filter(|it| it.full_name() == name)
}

/// How messages are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    Exactly,
    /// Floats may differ in their last place: serde_json, on which prost-reflect stands, is off by a unit at times, and
    /// both oracles read a float as a double first.
    Nearly,
    /// A field at its default counts as unset: which fields of an edition have no presence, prost-reflect does not know.
    WithoutDefaults,
    /// Enums apart: Python takes a quoted number for an enum's number, to us it is a name that the enum lacks.
    WithoutEnums,
}

impl How {
    fn counts(self, kind: &Kind) -> bool {
        match kind {
            Kind::Enum(_) => self != Self::WithoutEnums,
            Kind::Message(entry) if entry.is_map_entry() => self.counts(&entry.map_entry_value_field().kind()),
            _ => true,
        }
    }

    fn counts_in(self, field: &FieldDescriptor, value: &Value) -> bool {
        let message = field.kind().as_message().is_some();
        let singular = !field.is_list() && !message && field.containing_oneof().is_none();
        let unset = self == Self::WithoutDefaults && singular && *value == field.default_value();
        self.counts(&field.kind()) && !unset
    }

    fn is_exact(self) -> bool {
        matches!(self, Self::Exactly | Self::WithoutDefaults)
    }
}

fn same_value(ours: &Value, theirs: &Value, how: How) -> bool {
    match (ours, theirs) {
        (Value::Message(ours), Value::Message(theirs)) => same_message(ours, theirs, how),
        (Value::List(ours), Value::List(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same_value(ours, theirs, how))
        }
        (Value::Map(ours), Value::Map(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(key, ours)| theirs.get(key).is_some_and(|theirs| same_value(ours, theirs, how)))
        }
        (Value::F64(ours), Value::F64(theirs)) if ours.is_nan() => theirs.is_nan(),
        (Value::F32(ours), Value::F32(theirs)) if ours.is_nan() => theirs.is_nan(),
        (Value::F64(ours), Value::F64(theirs)) if !how.is_exact() => near(*ours, *theirs),
        (Value::F32(ours), Value::F32(theirs)) if !how.is_exact() => near_float(*ours, *theirs),
        _ => ours == theirs,
    }
}
