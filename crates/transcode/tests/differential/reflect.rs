//! prost-reflect as an oracle: what it reads, and what it prints, put right where it prints something else than ProtoJSON says.
//!
//! Lives here: asking it; each of its odd ways in what both sides accept. Does not: who refuses what the other accepts (`known`).
//! What is put right is found by the schema and by the value that was decoded, so that nothing else in the same document goes by.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost_reflect::{DeserializeOptions, DynamicMessage, MapKey, MessageDescriptor, ReflectMessage, Value};
use serde_json::{Value as Json, json};

use super::counts::{self, Lapse};
use super::known::payload;

pub(crate) fn read(desc: &MessageDescriptor, json: &str) -> Result<DynamicMessage, String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let read = DynamicMessage::deserialize_with_options(desc.clone(), &mut reader, &options);
    read.and_then(|it| reader.end().map(|()| it)).map_err(|error| error.to_string())
}

pub(crate) fn print(desc: &MessageDescriptor, wire: &[u8]) -> Result<Json, String> {
    let message = DynamicMessage::decode(desc.clone(), wire).map_err(|error| error.to_string())?;
    let mut json = serde_json::to_value(&message).map_err(|error| error.to_string())?;
    put_right(&message, &mut json);
    Ok(json)
}

/// Prints what of a reply counts. prost-reflect refuses a reply for what a later record replaces, too: a string that is no text, a message that is
/// cut off. We look at what counts.
pub(crate) fn print_what_counts(desc: &MessageDescriptor, wire: &[u8]) -> Result<Json, String> {
    let wire = counts::only(desc, wire).map_err(|lapse| format!("{lapse:?}"))?;
    print(desc, &wire)
}

/// Returns whether prost-reflect takes for a message what is none: one with an entry of a map that has no length.
pub(crate) fn takes_alone(desc: &MessageDescriptor, wire: &[u8]) -> bool {
    counts::only(desc, wire) == Err(Lapse::MapWithoutLength)
}

fn put_right(message: &DynamicMessage, json: &mut Json) {
    match message.descriptor().full_name() {
        "google.protobuf.Any" => any(message, json),
        // It prints null; ProtoJSON has a name for each.
        "google.protobuf.DoubleValue" | "google.protobuf.FloatValue" => {
            let number = message.get_field_by_number(1).and_then(|it| it.as_f64().or(it.as_f32().map(f64::from)));
            match number {
                Some(it) if it.is_nan() => *json = "NaN".into(),
                Some(f64::INFINITY) => *json = "Infinity".into(),
                Some(f64::NEG_INFINITY) => *json = "-Infinity".into(),
                // Its sign goes where it stands for the default, as below.
                Some(it) if it == 0.0 && it.is_sign_negative() => *json = (-0.0).into(),
                _ => {}
            }
        }
        // Between paths it prints a comma only when there is text before it.
        "google.protobuf.FieldMask" => {
            let paths = message.get_field_by_number(1);
            let paths = paths.iter().filter_map(|it| it.as_list()).flatten().filter_map(Value::as_str);
            let (count, empty) = (paths.clone().count(), paths.take_while(|it| it.is_empty()).count());
            if let Json::String(text) = json {
                text.insert_str(0, &",".repeat(empty.min(count.saturating_sub(1))));
            }
        }
        _ => members(message, json),
    }
}

fn any(message: &DynamicMessage, json: &mut Json) {
    let text = message.get_field_by_number(1).and_then(|it| it.as_str().map(str::to_owned)).unwrap_or_default();
    let bytes = message.get_field_by_number(2).and_then(|it| it.as_bytes().cloned()).unwrap_or_default();
    let raw = json!({ "@type": text, "value": BASE64_STANDARD.encode(&bytes) });
    let Some(payload) = payload(message) else {
        // It printed a payload all the same: of a type with a dot before its name, which is to us one that nobody knows.
        *json = raw;
        return;
    };
    match payload.descriptor().full_name() {
        // It reads such an entry of a map; to us the payload is none of its type, and printed as bytes.
        _ if takes_alone(&payload.descriptor(), &bytes) => *json = raw,
        "google.protobuf.Any"
        | "google.protobuf.DoubleValue"
        | "google.protobuf.FloatValue"
        | "google.protobuf.FieldMask" => put_right(&payload, &mut json["value"]),
        // It prints a `value`; the specification has no form of its own for Empty, and neither protobuf's C++ nor Python does so.
        "google.protobuf.Empty" => *json = json!({ "@type": text }),
        _ => members(&payload, json),
    }
}

fn members(message: &DynamicMessage, json: &mut Json) {
    // It takes -0.0 for the default of a field without presence; to protobuf only what has no bit set is.
    for field in message.descriptor().fields().filter(|it| !it.supports_presence()) {
        let number = message.get_field(&field);
        let number = number.as_f64().or(number.as_f32().map(f64::from));
        if let (Some(true), Some(json)) = (number.map(|it| it == 0.0 && it.is_sign_negative()), json.as_object_mut()) {
            json.insert(field.json_name().to_owned(), (-0.0).into());
        }
    }
    let fields = message.fields().map(|(field, value)| (field.json_name().to_owned(), value));
    let extensions = message.extensions().map(|(extension, value)| (extension.json_name().to_owned(), value));
    for (name, value) in fields.chain(extensions) {
        match (value, json.get_mut(&name)) {
            (Value::Message(inner), Some(json)) => put_right(inner, json),
            (Value::List(items), Some(Json::Array(printed))) => {
                for (item, json) in items.iter().zip(printed) {
                    item.as_message().into_iter().for_each(|it| put_right(it, json));
                }
            }
            (Value::Map(entries), Some(json)) => {
                for (key, value) in entries {
                    if let (Some(inner), Some(json)) = (value.as_message(), json.get_mut(name_of(key))) {
                        put_right(inner, json);
                    }
                }
            }
            _ => {}
        }
    }
}

fn name_of(key: &MapKey) -> String {
    match key {
        MapKey::Bool(it) => it.to_string(),
        MapKey::I32(it) => it.to_string(),
        MapKey::I64(it) => it.to_string(),
        MapKey::U32(it) => it.to_string(),
        MapKey::U64(it) => it.to_string(),
        MapKey::String(it) => it.clone(),
    }
}
