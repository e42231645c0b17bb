//! JSON as Connect has it: whole messages without a binding, errors, and the end of a stream.
//!
//! Lives here: a message of a method's own types both ways, Connect's `Error` and `EndStreamResponse`. Does not: HTTP bindings (`codec`),
//! `google.rpc.Status` (`codec`), framing.
//! Source: the Connect protocol, "Error and EndStreamResponse"; the names of the codes are its table "Error Codes".

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use bytes::Bytes;

use crate::bind::BindError;
use crate::codec::decode::Decoder;
use crate::codec::encode::{Encoder, Failure};
use crate::codec::json::{Position, Read, Reader};
use crate::codec::{Codec, EncodeError};
use crate::schema::{Method, builtin};
use crate::settings::JsonOutput;
use crate::status::{Detail, Status};
use crate::types::{TypeId, Types};

/// Codes by number, as Connect writes them.
const CODES: [&str; 17] = [
    "ok",
    "canceled",
    "unknown",
    "invalid_argument",
    "deadline_exceeded",
    "not_found",
    "already_exists",
    "permission_denied",
    "resource_exhausted",
    "failed_precondition",
    "aborted",
    "out_of_range",
    "unimplemented",
    "internal",
    "unavailable",
    "data_loss",
    "unauthenticated",
];

impl Codec {
    /// Returns a request message of `method`, encoded, from a JSON document that is nothing but the message.
    ///
    /// # Errors
    /// `BindError` with line, column and field of what is wrong.
    pub fn decode_json(&self, method: &Method, document: &[u8]) -> Result<Bytes, BindError> {
        let read = || -> Read<Vec<u8>> {
            let mut json = Reader::new(document, &self.elements)?;
            let mut decoder = Decoder::new(self.settings(), &method.types, document.len());
            decoder.message(&mut json, method.input_type)?;
            json.end()?;
            Ok(decoder.finish())
        };
        read().map(Bytes::from).map_err(|fault| fault.into_error(document, Position::START))
    }

    /// Returns a reply message of `method` as JSON that is nothing but the message, also for a `google.api.HttpBody`.
    ///
    /// # Errors
    /// As `encode_reply`.
    pub fn encode_json(&self, method: &Method, wire: &[u8]) -> Result<Bytes, EncodeError> {
        let mut json = Encoder::new(&method.types, self.settings().json_output, wire.len());
        match json.message(method.output_type, wire) {
            Ok(()) => Ok(json.finish().into()),
            Err(Failure::Malformed(reason)) => Err(EncodeError::Malformed {
                method: method.full_name().to_owned(),
                message: method.output().full_name().to_owned(),
                reason: reason.to_owned(),
            }),
            Err(Failure::Flaw(flaw)) => {
                Err(EncodeError::Unprintable { method: method.full_name().to_owned(), reason: flaw.to_string() })
            }
        }
    }

    /// Returns a status as Connect's `Error`. Details of a type that `method`'s service or google/rpc/error_details.proto
    /// declares come with a readable `debug`.
    pub fn encode_connect_error(&self, status: &Status, method: Option<&Method>) -> Bytes {
        let output = self.settings().json_output;
        let types = method.map_or(builtin::types(), |it| &*it.types);
        let mut json = Encoder::new(types, output, status.message.len());
        error(&mut json, output, status, types);
        json.finish().into()
    }

    /// Returns Connect's `EndStreamResponse`: how a stream ended, with code 0 for success, and its trailing metadata. Values
    /// of one name need not stand together.
    pub fn encode_connect_end<'m>(
        &self,
        status: &Status,
        metadata: impl IntoIterator<Item = (&'m str, Vec<String>)>,
        method: Option<&Method>,
    ) -> Bytes {
        let output = self.settings().json_output;
        let types = method.map_or(builtin::types(), |it| &*it.types);
        let mut json = Encoder::new(types, output, status.message.len());
        json.raw("{");
        if status.code != 0 {
            json.raw("\"error\":");
            error(&mut json, output, status, types);
        }
        let mut empty = true;
        for (name, values) in metadata {
            json.raw(match (empty, status.code) {
                (true, 0) => "\"metadata\":{",
                (true, _) => ",\"metadata\":{",
                (false, _) => ",",
            });
            empty = false;
            json.string(name);
            json.raw(":[");
            for (at, value) in values.iter().enumerate() {
                json.raw(if at == 0 { "" } else { "," });
                json.string(value);
            }
            json.raw("]");
        }
        json.raw(if empty { "}" } else { "}}" });
        json.finish().into()
    }
}

fn error(json: &mut Encoder<'_>, output: JsonOutput, status: &Status, types: &Types) {
    // Connect has no code of one's own; what is none of the table is unknown. A failure never says `ok`.
    let code = usize::try_from(status.code).ok().filter(|code| *code != 0).and_then(|code| CODES.get(code));
    json.raw(&format!("{{\"code\":\"{}\"", code.unwrap_or(&CODES[2])));
    if !status.message.is_empty() {
        json.raw(",\"message\":");
        json.string(&status.message);
    }
    for (at, it) in status.details.iter().enumerate() {
        json.raw(if at == 0 { ",\"details\":[" } else { "," });
        detail(json, output, it, types);
    }
    json.raw(if status.details.is_empty() { "}" } else { "]}" });
}

fn detail(json: &mut Encoder<'_>, output: JsonOutput, detail: &Detail, types: &Types) {
    let name = detail.type_url.rsplit('/').next().unwrap_or_default();
    json.raw("{\"type\":");
    json.string(name);
    json.raw(",\"value\":\"");
    json.raw(&BASE64_STANDARD_NO_PAD.encode(&detail.value));
    json.raw("\"");
    let known = [types, builtin::types()].into_iter().find_map(|types| Some((types, types.id(name)?)));
    if let Some(readable) = known.and_then(|(types, id)| readable(output, types, id, detail)) {
        json.raw(",\"debug\":");
        json.append(&readable);
    }
    json.raw("}");
}

/// For people only: whatever has no JSON form stays out.
fn readable(output: JsonOutput, types: &Types, id: TypeId, detail: &Detail) -> Option<Vec<u8>> {
    let mut json = Encoder::new(types, output, detail.value.len());
    json.message(id, &detail.value).ok()?;
    Some(json.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn parsed(document: &[u8]) -> Value {
        serde_json::from_slice(document).unwrap()
    }

    #[test]
    fn an_error_has_a_name_for_its_code_and_details_that_people_can_read() {
        let codec = Codec::default();
        let mut status = Status::new(5, "no \"x\"");
        // google.rpc.ErrorInfo { reason: "gone" }
        let value = Bytes::from_static(b"\x0a\x04gone");
        status.details.push(Detail { type_url: "type.googleapis.com/google.rpc.ErrorInfo".to_owned(), value });
        let value = Bytes::from_static(&[1, 2, 255]);
        status.details.push(Detail { type_url: "type.googleapis.com/no.Such".to_owned(), value });
        let expected = json!({"code": "not_found", "message": "no \"x\"", "details": [
            {"type": "google.rpc.ErrorInfo", "value": "CgRnb25l", "debug": {"reason": "gone"}},
            {"type": "no.Such", "value": "AQL/"},
        ]});
        assert_eq!(parsed(&codec.encode_connect_error(&status, None)), expected);
    }

    #[test]
    fn every_code_has_its_name_and_no_failure_is_ok() {
        let codec = Codec::default();
        let code = |number| parsed(&codec.encode_connect_error(&Status::new(number, ""), None))["code"].clone();
        assert_eq!([code(1), code(4), code(16)], ["canceled", "deadline_exceeded", "unauthenticated"]);
        assert_eq!([code(0), code(17), code(-1)], ["unknown", "unknown", "unknown"]);
    }

    #[test]
    fn a_stream_ends_with_its_error_and_its_metadata_if_it_has_any() {
        let codec = Codec::default();
        let end = |status: Status, metadata: Vec<(&str, Vec<String>)>| {
            parsed(&codec.encode_connect_end(&status, metadata, None))
        };
        assert_eq!(end(Status::new(0, ""), vec![]), json!({}));
        assert_eq!(end(Status::new(14, ""), vec![]), json!({"error": {"code": "unavailable"}}));
        let metadata = || vec![("a", vec!["1".to_owned(), "2".to_owned()]), ("b", vec!["\"".to_owned()])];
        assert_eq!(end(Status::new(0, ""), metadata()), json!({"metadata": {"a": ["1", "2"], "b": ["\""]}}));
        let both = end(Status::new(2, "x"), metadata());
        assert_eq!((&both["error"]["message"], &both["metadata"]["a"][1]), (&json!("x"), &json!("2")));
    }

    #[test]
    fn a_message_is_the_whole_document_both_ways() {
        let codec = Codec::default();
        let schema = crate::fixture::schema(
            r#"syntax = "proto3";
            package test.v1;
            import "google/api/httpbody.proto";
            service Files { rpc Echo(google.api.HttpBody) returns (google.api.HttpBody); }"#,
        );
        let plan = schema.plans().iter().find(|it| it.is_plain()).unwrap();
        let method = plan.method();
        assert!(codec.decode_json(method, b"{}").unwrap().is_empty());
        let document = br#"{"contentType":"text/plain","data":"aGk="}"#;
        let wire = codec.decode_json(method, document).unwrap();
        assert_eq!(codec.encode_json(method, &wire).unwrap(), &document[..], "a raw body is a message like any other");
        for wrong in [&b""[..], b"{} {}", b"[]", b"7"] {
            assert_eq!(codec.decode_json(method, wrong).unwrap_err().code, 3, "{wrong:?}");
        }
        assert_eq!(codec.encode_json(method, b"").unwrap(), "{}");
        assert!(codec.encode_json(method, &[0xff]).is_err());
    }
}
