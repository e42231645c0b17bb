//! `google.api.HttpBody`: bodies that are no JSON.
//!
//! Lives here: putting bytes into one, a copy, and finding them in one. Does not: deciding that a body is raw (`MethodPlan`).
//! Source: google/api/httpbody.proto, whose keys stand here as bytes.

use std::borrow::Cow;

use crate::plan::{Body, MethodPlan};
use crate::wire::{self, Malformed, Payload, Reader};

/// Full name of the type.
pub(crate) const HTTP_BODY: &str = "google.api.HttpBody";
const CONTENT_TYPE: u8 = 0x0A;
const DATA: u8 = 0x12;

/// Returns the request message of a raw body.
pub(crate) fn message(plan: &MethodPlan, content_type: Option<&str>, data: &[u8]) -> Vec<u8> {
    let content_type = content_type.unwrap_or_default().as_bytes();
    let mut out = Vec::with_capacity(data.len() + content_type.len() + 64);
    let fill = |out: &mut Vec<u8>| {
        for (key, part) in [(CONTENT_TYPE, content_type), (DATA, data)].into_iter().filter(|it| !it.1.is_empty()) {
            out.push(key);
            wire::put_bytes(out, part);
        }
    };
    match plan.body() {
        Body::None => {}
        Body::Whole => fill(&mut out),
        Body::Field(field) if field.is_group() => {
            let open = wire::open_message(&mut out, field.number(), true);
            fill(&mut out);
            wire::close_message(&mut out, open);
        }
        Body::Field(field) => {
            wire::put_key(&mut out, field.number(), wire::WireType::Len);
            // Exactly what `fill` writes: keys, lengths, parts.
            let length = [content_type, data].into_iter().filter(|it| !it.is_empty());
            let length = length.map(|it| 1 + wire::varint_length(it.len() as u64) + it.len()).sum::<usize>();
            wire::put_varint(&mut out, length as u64);
            fill(&mut out);
        }
    }
    out
}

/// Writes the fields of one.
pub(crate) fn put(out: &mut Vec<u8>, content_type: Option<&str>, data: &[u8]) {
    for (key, part) in [(CONTENT_TYPE, content_type.unwrap_or_default().as_bytes()), (DATA, data)] {
        if !part.is_empty() {
            out.push(key);
            wire::put_bytes(out, part);
        }
    }
}

/// Returns the content type and the bytes of a reply, or of the field of it that `response_body` names.
pub(crate) fn reply<'w>(plan: &MethodPlan, wire: &'w [u8]) -> Result<(Cow<'static, str>, &'w [u8]), Malformed> {
    let inner = match plan.response_body() {
        None => vec![wire],
        Some(field) => all(wire, field.number(), field.is_group())?,
    };
    let (mut content_type, mut data): (&[u8], &[u8]) = (&[], &[]);
    for part in inner {
        content_type = all(part, 1, false)?.last().copied().unwrap_or(content_type);
        data = all(part, 2, false)?.last().copied().unwrap_or(data);
    }
    let content_type = std::str::from_utf8(content_type).map_err(|_| Malformed("a string is not UTF-8"))?;
    // RFC 9110, 8.3: what a receiver may assume without one.
    let content_type = match content_type {
        "" => Cow::Borrowed("application/octet-stream"),
        named => Cow::Owned(named.to_owned()),
    };
    Ok((content_type, data))
}

/// Returns every occurrence of a field that is bytes of some kind, or a group.
fn all(wire: &[u8], number: u32, is_group: bool) -> Result<Vec<&[u8]>, Malformed> {
    let mut found = Vec::new();
    let mut reader = Reader::new(wire);
    while let Some(record) = reader.record()? {
        match record.payload {
            Payload::Len(bytes) if record.number == number && !is_group => found.push(bytes),
            Payload::Group(bytes) if record.number == number && is_group => found.push(bytes),
            _ if record.number == number => return Err(Malformed("invalid wire type")),
            _ => {}
        }
    }
    Ok(found)
}
