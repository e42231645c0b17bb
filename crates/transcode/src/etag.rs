//! Entity tags: a field `etag` of a resource, and HTTP's words for it.
//!
//! Lives here: which field of request and reply it is, its form in a header. Does not: deciding whether a tag is the current one (the service's), headers.
//! A string field `etag` (AIP-154) of the reply is the answer's `ETag`. `If-Match` is the field `etag` of the message that the body is, or else of the
//! request. In a header a tag stands in quotes; what a quoted tag cannot hold, quotes among it, is escaped as in a URL, so that what comes back is what
//! was told. A field that has the quotes already, as AIP-154 asks for, is the header as it is. `"v1"` in a header may then be either; how the service wrote
//! the last tag that it told decides (`TagStyle`). Who guesses wrong is refused and reads again, never taken for another.
//! Source: RFC 9110, 8.8.3 and 13.1.1.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use percent_encoding::percent_decode_str;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use crate::bind::BindError;
use crate::plan::{Body, MethodPlan};
use crate::status::Status;
use crate::wire::{self, Payload, Reader, WireType};

const IF_MATCH: &str = "if-match";
const FAILED_PRECONDITION: i32 = 9;
const ABORTED: i32 = 10;

/// Where tags are in the messages of a binding; numbers of fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Etags {
    /// Of the request: the body's field, if it is in there, and whether that is a group; and the tag's.
    request: Option<(Option<(u32, bool)>, u32)>,
    reply: Option<u32>,
}

/// Whether a service has the quotes of its tags in their field, by the last reply with a tag; not so, until there is one.
#[derive(Debug, Default)]
pub(crate) struct TagStyle(AtomicBool);

impl TagStyle {
    fn is_quoted(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Written only when it changes: every reply with a tag comes by.
    fn learn(&self, quoted: bool) {
        if self.is_quoted() != quoted {
            self.0.store(quoted, Ordering::Relaxed);
        }
    }
}

impl Etags {
    pub(crate) fn of(input: &MessageDescriptor, output: &MessageDescriptor, body: &Body, whole_reply: bool) -> Self {
        let in_body = match body {
            Body::Field(field) if !field.is_list() => {
                let body = (field.number(), field.is_group());
                field.kind().as_message().and_then(tag).map(|tag| (Some(body), tag))
            }
            Body::None | Body::Whole | Body::Field(_) => None,
        };
        let request = in_body.or_else(|| tag(input).map(|tag| (None, tag)));
        Self { request, reply: tag(output).filter(|_| whole_reply) }
    }
}

fn tag(message: &MessageDescriptor) -> Option<u32> {
    let is_tag = |it: &FieldDescriptor| it.kind() == Kind::String && !it.is_list();
    message.get_field_by_name("etag").filter(is_tag).map(|it| it.number())
}

impl MethodPlan {
    /// Returns whether a request has a field for the tag that it wants to be the current one.
    pub fn takes_if_match(&self) -> bool {
        self.etags.request.is_some()
    }

    /// Returns whether a reply has a field that is its tag.
    pub fn returns_etag(&self) -> bool {
        self.etags.reply.is_some()
    }

    /// Returns the value of `ETag` for a reply; none if it has no tag.
    pub fn etag(&self, reply: &[u8]) -> Option<String> {
        let tag = last_text(reply, self.etags.reply?).filter(|it| !it.is_empty())?;
        let as_it_is = is_entity_tag(tag);
        self.method().tags.learn(as_it_is);
        Some(if as_it_is { tag.to_owned() } else { quoted(tag) })
    }

    /// Writes the value of `If-Match` into an encoded request; `*` says nothing that the service would not find out by itself.
    ///
    /// # Errors
    /// A status to be answered with 412 for a tag that can never match; `BindError`, as `Ok(Err(_))`, for what is no tag, or not the one in the body.
    pub fn put_if_match(&self, request: Bytes, value: &str) -> Result<Result<Bytes, BindError>, Status> {
        let Some((body, field)) = self.etags.request else { return Ok(Ok(request)) };
        let value = value.trim();
        if value == "*" {
            return Ok(Ok(request));
        }
        if value.starts_with("W/") {
            return Err(Status::new(FAILED_PRECONDITION, "if-match: a weak tag never matches (RFC 9110, 13.1.1)"));
        }
        let as_it_is = is_entity_tag(value).then_some(Cow::Borrowed(value));
        let said = match body {
            None => last_text(&request, field),
            Some((body, _)) => fields(&request, body).filter_map(|inner| last_text(inner, field)).last(),
        };
        let tag = match (said.filter(|it| !it.is_empty()), unquoted(value)) {
            (Some(said), tag) if as_it_is.as_deref() == Some(said) || tag.as_deref() == Some(said) => {
                Cow::Borrowed(said)
            }
            (Some(_), Some(_)) => {
                return Ok(Err(BindError::field(IF_MATCH, "is not the tag that the request has in its field etag")));
            }
            (None, tag) => match as_it_is.filter(|_| self.method().tags.is_quoted()).or(tag) {
                Some(tag) => tag,
                None => return Ok(Err(BindError::field(IF_MATCH, "expected one tag in quotes, or *"))),
            },
            (Some(_), None) => return Ok(Err(BindError::field(IF_MATCH, "expected one tag in quotes, or *"))),
        };
        let mut wire = Vec::with_capacity(request.len() + tag.len() + 16);
        wire.extend_from_slice(&request);
        let within = body.map(|(body, is_group)| wire::open_message(&mut wire, body, is_group));
        wire::put_key(&mut wire, field, WireType::Len);
        wire::put_bytes(&mut wire, tag.as_bytes());
        if let Some(open) = within {
            wire::close_message(&mut wire, open);
        }
        Ok(Ok(wire.into()))
    }
}

/// Whether a call with `If-Match` failed because the tag is not the current one, which HTTP says by 412.
pub fn is_precondition(status: &Status) -> bool {
    matches!(status.code, FAILED_PRECONDITION | ABORTED)
}

fn fields(wire: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    let mut reader = Reader::new(wire);
    let records = std::iter::from_fn(move || reader.record().ok().flatten());
    records.filter_map(move |record| match record.payload {
        Payload::Len(bytes) | Payload::Group(bytes) if record.number == number => Some(bytes),
        _ => None,
    })
}

fn last_text(wire: &[u8], number: u32) -> Option<&str> {
    fields(wire, number).last().and_then(|bytes| std::str::from_utf8(bytes).ok())
}

/// Whether a byte may stand in a tag as it is: RFC 9110 has it as `etagc`, of which `%` is our escape.
fn is_plain(byte: u8) -> bool {
    matches!(byte, 0x21 | 0x23..=0x7E) && byte != b'%'
}

/// Whether a text is a strong tag as headers have it, quotes and all.
fn is_entity_tag(text: &str) -> bool {
    let inner = text.strip_prefix('"').and_then(|it| it.strip_suffix('"')).unwrap_or_default();
    !inner.is_empty() && inner.bytes().all(|byte| is_plain(byte) || byte == b'%')
}

fn quoted(tag: &str) -> String {
    let mut out = String::with_capacity(tag.len() + 2);
    out.push('"');
    for byte in tag.bytes() {
        match is_plain(byte) {
            true => out.push(char::from(byte)),
            false => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out.push('"');
    out
}

fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    let plain = inner.bytes().all(|byte| is_plain(byte) || byte == b'%');
    (plain && !inner.is_empty()).then(|| percent_decode_str(inner).decode_utf8().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::fixture::{decode, print, schema};

    const TAGGED: &str = r#"
        syntax = "proto3";
        package test.v1;
        import "google/api/annotations.proto";
        message Thing { string name = 1; string etag = 2; }
        message Update { Thing thing = 1; string id = 2; }
        message Delete { string id = 1; string etag = 2; }
        message Other { int32 etag = 1; Thing thing = 2; }
        service Things {
          rpc Up(Update) returns (Thing) { option (google.api.http) = { patch: "/things/{id}" body: "thing" }; }
          rpc Del(Delete) returns (Other) { option (google.api.http) = { delete: "/things/{id}" }; }
          rpc Odd(Other) returns (Thing) { option (google.api.http) = { post: "/odd" body: "*" response_body: "name" }; }
        }
    "#;

    fn plans() -> [Arc<MethodPlan>; 3] {
        static SCHEMA: std::sync::OnceLock<crate::Schema> = std::sync::OnceLock::new();
        let plans = SCHEMA.get_or_init(|| schema(TAGGED)).plans();
        ["Up", "Del", "Odd"].map(|name| {
            let found = plans.iter().find(|it| it.method().name() == name && !it.is_plain());
            Arc::clone(found.expect("TAGGED has the method"))
        })
    }

    fn put(plan: &MethodPlan, request: &[u8], value: &str) -> String {
        let wire = plan.put_if_match(Bytes::copy_from_slice(request), value).unwrap().unwrap();
        print(&decode(plan.method().input(), &wire)).to_string()
    }

    #[test]
    fn a_tag_is_a_string_field_of_that_name() {
        let [update, delete, odd] = plans();
        assert!(update.takes_if_match() && update.returns_etag());
        assert!(delete.takes_if_match() && !delete.returns_etag());
        assert!(!odd.takes_if_match() && !odd.returns_etag(), "a number is no tag, and a name alone has none");
        assert_eq!(update.etag(b"\x12\x01a\x12\x02b\"").as_deref(), Some("\"b%22\""));
        assert_eq!((update.etag(b"\x0a\x01a"), update.etag(b"\x12\0"), update.etag(b"\xff")), (None, None, None));
    }

    #[test]
    fn if_match_goes_where_the_resource_has_its_tag() {
        let [update, delete, odd] = plans();
        assert_eq!(put(&update, b"\x0a\x03\x0a\x01n", "\"v%221\""), r#"{"thing":{"name":"n","etag":"v\"1"}}"#);
        assert_eq!(put(&update, b"\x0a\x03\x12\x01v", " \"v\" "), r#"{"thing":{"etag":"v"}}"#);
        assert_eq!(put(&delete, b"\x0a\x011", "\"v\""), r#"{"id":"1","etag":"v"}"#);
        assert_eq!(put(&delete, b"\x0a\x011", "*"), r#"{"id":"1"}"#);
        assert_eq!(put(&odd, b"", "anything"), "{}");
    }

    #[test]
    fn what_cannot_match_is_said_to_be_so() {
        let [update, delete, _] = plans();
        assert_eq!(delete.put_if_match(Bytes::new(), "W/\"v\"").unwrap_err().code, 9);
        for wrong in ["v", "\"v", "\"a\", \"b\"", "", "\"", "\"\"", "\"a b\"", "\"%ff\""] {
            let error = delete.put_if_match(Bytes::new(), wrong).unwrap().unwrap_err();
            assert_eq!(error.violations[0].field, "if-match", "{wrong}");
        }
        let other = update.put_if_match(Bytes::from_static(b"\x0a\x03\x12\x01v"), "\"w\"").unwrap();
        assert!(other.unwrap_err().message.contains("field etag"));
    }

    #[test]
    fn a_tag_that_has_its_quotes_already_is_the_header_as_it_is() {
        let schema = schema(TAGGED);
        let plan = |name: &str| schema.plans().iter().find(|it| it.method().name() == name && !it.is_plain()).unwrap();
        let (update, delete) = (plan("Up"), plan("Del"));
        let aip_154 = b"\x12\x04\"v1\"";
        let wanted = |tag: &str| serde_json::json!({"id": "1", "etag": tag}).to_string();
        assert_eq!(put(delete, b"\x0a\x011", "\"v1\""), wanted("v1"), "nothing is known of the service yet");
        assert_eq!(update.etag(aip_154).as_deref(), Some("\"v1\""));
        assert_eq!(put(delete, b"\x0a\x011", "\"v1\""), wanted("\"v1\""), "what one method told another takes");
        assert_eq!(put(delete, b"\x0a\x011", " \"a%20b\" "), wanted("\"a%20b\""), "nothing was escaped");
        assert_eq!(update.etag(b"\x12\x02v1").as_deref(), Some("\"v1\""));
        assert_eq!(put(delete, b"\x0a\x011", "\"v1\""), wanted("v1"), "the service has changed its mind");
        // What the body says is known without any of that.
        assert_eq!(put(update, b"\x0a\x06\x12\x04\"v1\"", "\"v1\""), r#"{"thing":{"etag":"\"v1\""}}"#);
        update.etag(aip_154);
        assert_eq!(put(update, b"\x0a\x04\x12\x02v1", "\"v1\""), r#"{"thing":{"etag":"v1"}}"#);
        let other = update.put_if_match(Bytes::from_static(b"\x0a\x06\x12\x04\"v1\""), "\"v2\"").unwrap();
        assert!(other.unwrap_err().message.contains("field etag"));
        // What only looks like one is escaped, so that no header breaks.
        for (tag, header) in
            [("\"a\"b\"", "\"%22a%22b%22\""), ("\"a\r\n\"", "\"%22a%0D%0A%22\""), ("\"\"", "\"%22%22\"")]
        {
            let reply = [b"\x12", &[u8::try_from(tag.len()).unwrap()][..], tag.as_bytes()].concat();
            assert_eq!(update.etag(&reply).as_deref(), Some(header));
            assert_eq!(put(delete, b"\x0a\x011", header), wanted(tag));
        }
    }

    proptest! {
        #[test]
        fn what_comes_back_is_what_was_told(tag in "\\PC{1,20}") {
            let header = quoted(&tag);
            prop_assert!(header.bytes().all(|it| it == b'"' || it == b'%' || is_plain(it)));
            prop_assert_eq!(unquoted(&header), Some(Cow::Borrowed(tag.as_str())));
        }

        #[test]
        fn any_header_and_any_reply_are_read(value in "[ -~]{0,20}", reply in proptest::collection::vec(any::<u8>(), 0..40)) {
            let [update, delete, _] = plans();
            let _ = delete.put_if_match(Bytes::new(), &value);
            let _ = update.put_if_match(reply.clone().into(), &value);
            let _ = update.etag(&reply);
        }
    }
}
