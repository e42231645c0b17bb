//! Files of protobuf editions, told in proto2.
//!
//! Lives here: what `features` come to for each field, and saying it in proto2; which fields have implicit presence, which proto2 cannot say. Does
//! not: linking (`schema`).
//! The linker knows proto2 and proto3 only, and our users' protoc writes editions. A file is kept byte for byte but for its syntax; fields get labels,
//! types and `packed` behind what they have, where they win.
//! Source: protobuf.dev, "Feature Settings for Editions"; google/protobuf/descriptor.proto, `FeatureSet`. Not looked at, because the codec does the
//! same either way: enums' closedness (unknown numbers are kept), `utf8_validation` (all strings are UTF-8), `json_format`.

use std::collections::HashMap;

use prost::Message;

use super::{SchemaError, malformed, raw};
use crate::wire::{self, Malformed, Payload, Reader, Record, WireType};

/// The `syntax` of such a file.
const EDITIONS: &str = "editions";
/// `Edition.EDITION_2024`: later ones may have other defaults.
const NEWEST: i32 = 1001;

/// Fields whose being unset is their default, by message and number.
#[derive(Debug, Default)]
pub(crate) struct Implicit(HashMap<String, Vec<u32>>);

impl Implicit {
    /// Returns whether this is such a field, among those of editions.
    pub(crate) fn has(&self, message: &str, number: u32) -> bool {
        self.0.get(message).is_some_and(|it| it.contains(&number))
    }
}

/// Returns an encoded `google.protobuf.FileDescriptorProto` as proto2, if it is of an edition; none for a file of proto2 or proto3, which is what it is.
/// What a field of implicit presence is in proto2 is an optional one.
///
/// # Errors
/// `SchemaError` for bytes that are no such message, and for an edition newer than 2024.
pub fn in_proto2(file: &[u8]) -> Result<Option<Vec<u8>>, SchemaError> {
    let head = raw::File::decode(file).map_err(malformed)?;
    retold(&head, file, &mut Implicit::default())
}

/// As `in_proto2`, of a file whose head is known; adds to `implicit`.
pub(super) fn retold(head: &raw::File, file: &[u8], implicit: &mut Implicit) -> Result<Option<Vec<u8>>, SchemaError> {
    if head.syntax != EDITIONS {
        return Ok(None);
    }
    if head.edition > NEWEST {
        let reason = format!("edition {} is newer than {NEWEST} (2024), the newest known here", head.edition);
        return Err(SchemaError::Link { file: head.name.clone(), symbol: head.name.clone(), reason });
    }
    let features = head.options.as_ref().and_then(|it| it.features.as_ref());
    let mut teller = Teller { defaults: Resolved::default().with(features), implicit };
    let told = teller.file(file, &head.package).map_err(|error| match error {
        Fault::Wire(Malformed(reason)) => SchemaError::Malformed { reason: reason.to_owned() },
        Fault::Descriptor(error) => malformed(error),
    })?;
    Ok(Some(told))
}

/// Features with nothing left open; at first as of edition 2023, and 2024 as well.
#[derive(Debug, Clone, Copy)]
struct Resolved {
    presence: i32,
    packed: bool,
    delimited: bool,
}

const IMPLICIT: i32 = 2;
const LEGACY_REQUIRED: i32 = 3;

impl Default for Resolved {
    fn default() -> Self {
        Self { presence: 1, packed: true, delimited: false }
    }
}

impl Resolved {
    fn with(self, features: Option<&raw::Features>) -> Self {
        let Some(features) = features else { return self };
        Self {
            presence: features.field_presence.unwrap_or(self.presence),
            packed: features.repeated_field_encoding.map_or(self.packed, |it| it == 1),
            delimited: features.message_encoding.map_or(self.delimited, |it| it == 2),
        }
    }
}

enum Fault {
    Wire(Malformed),
    Descriptor(prost::DecodeError),
}

impl From<Malformed> for Fault {
    fn from(it: Malformed) -> Self {
        Self::Wire(it)
    }
}

impl From<prost::DecodeError> for Fault {
    fn from(it: prost::DecodeError) -> Self {
        Self::Descriptor(it)
    }
}

struct Teller<'i> {
    /// The file's.
    defaults: Resolved,
    implicit: &'i mut Implicit,
}

impl Teller<'_> {
    fn file(&mut self, file: &[u8], package: &str) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::with_capacity(file.len() + file.len() / 8);
        let mut reader = Reader::new(file);
        while let Some(record) = reader.record()? {
            match (record.number, record.payload) {
                (4, Payload::Len(message)) => put(&mut out, 4, &self.message(message, package)?),
                (7, Payload::Len(extension)) => put(&mut out, 7, &self.field(extension, None)?),
                _ => copy(&mut out, record),
            }
        }
        put(&mut out, 12, b"proto2");
        Ok(out)
    }

    fn message(&mut self, message: &[u8], scope: &str) -> Result<Vec<u8>, Fault> {
        let own = raw::Scope::decode(message)?;
        if is_map_entry(&own) {
            return Ok(message.to_vec());
        }
        let name = if scope.is_empty() { own.name.clone() } else { format!("{scope}.{}", own.name) };
        let mut out = Vec::with_capacity(message.len() + message.len() / 8);
        let mut reader = Reader::new(message);
        while let Some(record) = reader.record()? {
            match (record.number, record.payload) {
                (2, Payload::Len(field)) => put(&mut out, 2, &self.field(field, Some((&name, &own)))?),
                (3, Payload::Len(nested)) => put(&mut out, 3, &self.message(nested, &name)?),
                (6, Payload::Len(extension)) => put(&mut out, 6, &self.field(extension, None)?),
                _ => copy(&mut out, record),
            }
        }
        Ok(out)
    }

    /// Retells a field of a message, or an extension.
    fn field(&mut self, field: &[u8], of: Option<(&str, &raw::Scope)>) -> Result<Vec<u8>, Fault> {
        const REQUIRED: i32 = 2;
        const REPEATED: i32 = 3;
        const STRING: i32 = 9;
        const GROUP: i32 = 10;
        const MESSAGE: i32 = 11;
        const BYTES: i32 = 12;
        let known = raw::Field::decode(field)?;
        let features = self.defaults.with(known.options.as_ref().and_then(|it| it.features.as_ref()));
        let mut out = field.to_vec();
        let is_message = [GROUP, MESSAGE].contains(&known.r#type);
        let is_map = of.is_some_and(|(name, scope)| {
            let entry = |it: &raw::Scope| is_map_entry(it) && known.type_name == format!(".{name}.{}", it.name);
            scope.nested_type.iter().any(entry)
        });
        if is_message && features.delimited && !is_map {
            put_number(&mut out, 5, GROUP);
        }
        match (known.label, of) {
            (REPEATED, _) if !is_message && ![STRING, BYTES].contains(&known.r#type) => {
                let mut packed = Vec::new();
                put_number(&mut packed, 2, i32::from(features.packed));
                put(&mut out, 8, &packed);
            }
            (REPEATED, _) | (_, None) => {}
            _ if features.presence == LEGACY_REQUIRED => put_number(&mut out, 4, REQUIRED),
            (_, Some((name, _))) if features.presence == IMPLICIT && !is_message && known.oneof_index.is_none() => {
                self.implicit.0.entry(name.to_owned()).or_default().extend(u32::try_from(known.number));
            }
            _ => {}
        }
        Ok(out)
    }
}

fn is_map_entry(scope: &raw::Scope) -> bool {
    scope.options.as_ref().is_some_and(|it| it.map_entry)
}

fn put(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    wire::put_key(out, number, WireType::Len);
    wire::put_bytes(out, bytes);
}

fn put_number(out: &mut Vec<u8>, number: u32, value: i32) {
    wire::put_key(out, number, WireType::Varint);
    wire::put_varint(out, u64::from(value.unsigned_abs()));
}

fn copy(out: &mut Vec<u8>, record: Record<'_>) {
    let start = out.len();
    wire::put_key(out, record.number, record.payload.wire_type());
    match record.payload {
        Payload::Varint(value) => wire::put_varint(out, value),
        Payload::Fixed64(value) => out.extend_from_slice(&value.to_le_bytes()),
        Payload::Fixed32(value) => out.extend_from_slice(&value.to_le_bytes()),
        Payload::Len(bytes) => wire::put_bytes(out, bytes),
        Payload::Group(bytes) => {
            let key = out[start..].to_vec();
            out.extend_from_slice(bytes);
            wire::put_end_group(out, &key);
        }
    }
}
