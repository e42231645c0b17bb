//! What has to hold whatever the bytes are: nothing panics, prost-reflect agrees, and what is taken comes back as it was.
//!
//! Lives here: one function for each way in; a panic is a finding. Does not: where the bytes come from (`main`, `fuzz/`), where prost-reflect may
//! differ (`differential/known.rs`, `reflect.rs`).

#[path = "../differential/counts.rs"]
mod counts;
#[expect(dead_code, reason = "the differential tests use the rest of it")]
#[path = "../differential/known.rs"]
mod known;
#[path = "../differential/reflect.rs"]
mod reflect;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};
use serde_json::Value as Json;
use weft_transcode::bind::Form;
use weft_transcode::openapi::{self, About};
use weft_transcode::routes::PathVariables;
use weft_transcode::stream::MessageReader;
use weft_transcode::{Codec, Lookup, MethodPlan, RequestParts, RouteTable, Schema, Settings};

use known::{How, Side, is_known, payload, same_json, same_message};

const ORACLE: &str = "prost-reflect";

/// The schema of the conformance cases, ready to be called.
pub(crate) struct Subject {
    codec: Codec,
    table: RouteTable<()>,
    /// `Kinds` to `Kinds`: every kind of field, both ways.
    echo: Arc<MethodPlan>,
    /// A stream of messages.
    collect: Arc<MethodPlan>,
}

impl Subject {
    /// Takes the root of the repository.
    pub(crate) fn new(root: &Path) -> Self {
        let folders = [root.join("tests/conformance/transcoding/protos"), root.join("proto")];
        let mut compiler = protox::Compiler::new(folders).expect("the folders exist");
        compiler.include_imports(true).open_file("transcoding.proto").expect("the schema compiles");
        let schema = Schema::decode(&compiler.encode_file_descriptor_set()).expect("the schema links");
        let plan = |name: &str| {
            let mut plans = schema.plans().iter().filter(|it| !it.is_plain());
            Arc::clone(plans.find(|it| it.method().full_name() == name).expect("the schema has the method"))
        };
        Self {
            codec: Codec::default(),
            echo: plan("transcode.v1.Jsons.Echo"),
            collect: plan("transcode.v1.Streams.CollectIn"),
            table: RouteTable::builder().add(&schema, ()).build(),
        }
    }

    /// The method that `json` and `wire` are about.
    pub(crate) fn echo(&self) -> &Arc<MethodPlan> {
        &self.echo
    }

    /// A JSON body. One that is taken is a message, and what is printed of it comes back the same.
    pub(crate) fn json(&self, body: &[u8]) {
        let read = self.read(body);
        self.oracle_reads(body, &read);
        let Ok(wire) = read else { return };
        self.comes_back(&wire);
    }

    /// The bytes of a reply.
    pub(crate) fn wire(&self, reply: &[u8]) {
        let printed = self.print(reply);
        self.oracle_prints(reply, &printed);
        if printed.is_ok() {
            self.comes_back(reply);
        }
    }

    fn print(&self, wire: &[u8]) -> Result<Bytes, String> {
        self.codec.encode_reply(&self.echo, wire).map(|it| it.body).map_err(|error| error.to_string())
    }

    fn message(&self, wire: &[u8]) -> Result<DynamicMessage, String> {
        DynamicMessage::decode(self.echo.method().output().clone(), wire).map_err(|error| error.to_string())
    }

    /// Checks that prost-reflect reads the same from a body, or nothing as we do.
    fn oracle_reads(&self, body: &[u8], ours: &Result<Vec<u8>, String>) {
        let ours = match ours {
            Ok(wire) => Ok(written(self.echo.method().input(), wire)),
            Err(error) => Err(error),
        };
        let Ok(text) = str::from_utf8(body) else { return };
        if text.trim().is_empty() {
            return; // to HTTP that is a message without fields, to JSON it is nothing
        }
        let theirs = reflect::read(self.echo.method().input(), text);
        let agree = match (&ours, &theirs) {
            (Ok(ours), Ok(theirs)) => same_message(ours, theirs, How::Nearly),
            (Err(_), Err(_)) => true,
            (Err(error), Ok(_)) => is_known(ORACLE, Side::We, error),
            (Ok(_), Err(error)) => is_known(ORACLE, Side::They, error),
        };
        assert!(agree, "given {text}\nours {}\ntheirs {}", show(&ours), show(&theirs));
    }

    /// Checks that prost-reflect prints the same of some bytes, or nothing as we do.
    fn oracle_prints(&self, wire: &[u8], ours: &Result<Bytes, String>) {
        let desc = self.echo.method().output();
        let mut theirs = reflect::print(desc, wire);
        if ours.is_ok() && theirs.is_err() {
            theirs = reflect::print_what_counts(desc, wire);
        }
        let agree = match (ours, &theirs) {
            (Ok(ours), Ok(theirs)) => match serde_json::from_slice::<Json>(ours) {
                Ok(ours) => same_json(&ours, theirs),
                Err(error) => too_deep(error).is_ok(),
            },
            (Err(_), Err(_)) => true,
            (Err(error), Ok(_)) => is_known(ORACLE, Side::We, error) || reflect::takes_alone(desc, wire),
            (Ok(_), Err(error)) => is_known(ORACLE, Side::They, error),
        };
        let ours = ours.as_ref().map(|it| String::from_utf8_lossy(it));
        assert!(agree, "given {wire:02x?}\nours {}\ntheirs {}", show(&ours), show(&theirs));
    }

    fn read(&self, body: &[u8]) -> Result<Vec<u8>, String> {
        let variables = PathVariables::default();
        let wire = self.codec.decode_request(&self.echo, parts(&variables, None), body);
        let behind = self.codec.decode_request_behind(5, &self.echo, parts(&variables, None), body);
        assert_eq!(behind.as_ref().map(|it| it.split_at(5)), wire.as_ref().map(|it| (&[0; 5][..], &**it)));
        wire.map(|it| it.to_vec()).map_err(|error| error.message)
    }

    fn comes_back(&self, wire: &[u8]) {
        let Ok(printed) = self.print(wire) else { return };
        serde_json::from_slice::<Json>(&printed).map(drop).or_else(too_deep).expect("what is printed is JSON");
        // An Any with bytes that are no message of its type is printed as bytes, as one of an unknown type is; neither can be read.
        if printed.windows(7).any(|it| it == b"\"@type\"") && !self.oracle_agrees(wire, &printed) {
            return;
        }
        match self.read(&printed) {
            // Any number of NullValue is null, and null is 0, which without presence is not printed.
            Ok(_) if self.message(wire).is_ok_and(|it| has_odd_null(&it)) => {}
            Ok(again) => assert_eq!(self.print(&again).as_ref(), Ok(&printed), "it prints the same"),
            // Messages may be nested deeper than the JSON of a request.
            Err(reason) => assert!(reason.contains("nested deeper"), "{reason}: {printed:?}"),
        }
    }

    fn oracle_agrees(&self, wire: &[u8], printed: &[u8]) -> bool {
        let theirs = self.message(wire).ok().and_then(|it| serde_json::to_value(it).ok());
        theirs.is_some_and(|theirs| serde_json::from_slice::<Json>(printed).is_ok_and(|ours| ours == theirs))
    }

    /// `METHOD PATH?QUERY`, a line break and a body.
    pub(crate) fn request(&self, request: &[u8]) {
        let Ok(text) = std::str::from_utf8(request) else { return };
        let (head, body) = text.split_once('\n').unwrap_or((text, ""));
        let (method, target) = head.split_once(' ').unwrap_or(("GET", head));
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let Lookup::Found(found) = self.table.lookup(method, path) else { return };
        let parts = RequestParts { http_method: method, ..parts(&found.variables, query) };
        let head = self.codec.check_head(&found.plan, parts);
        let read = self.codec.decode_request(&found.plan, parts, body.as_bytes());
        assert!(head.is_ok() || read.is_err(), "what is wrong with the head is wrong with the request");
        if let Ok(mut form) = Form::new(&self.codec, &found.plan)
            && form.urlencoded(body.as_bytes()).is_ok()
        {
            drop(form.finish(parts));
        }
        if let Ok(wire) = read {
            written(found.plan.method().input(), &wire);
        }
    }

    /// The body of a client stream. The first byte says in pieces of how many bytes it arrives, which changes nothing but what is told first of
    /// several mistakes.
    pub(crate) fn stream(&self, input: &[u8]) {
        let Some((size, body)) = input.split_first() else { return };
        let read = |size: usize, content_type: &str| -> Option<Vec<Vec<u8>>> {
            let variables = PathVariables::default();
            let parts = RequestParts { content_type: Some(content_type), ..parts(&variables, None) };
            let plan = Arc::clone(&self.collect);
            let mut stream = self.codec.request_stream(&plan, parts).ok()?;
            let mut messages = Vec::new();
            for chunk in body.chunks(size.max(1)) {
                messages.extend(stream.feed(chunk).ok()?);
            }
            messages.extend(stream.finish().ok()?);
            Some(messages.iter().map(|it| it.to_vec()).collect())
        };
        for content_type in ["application/json", "application/x-ndjson"] {
            assert_eq!(read(usize::from(*size), content_type), read(usize::MAX, content_type), "{content_type}");
        }
        let variables = PathVariables::default();
        if let Ok(mut reader) = MessageReader::new(&self.codec, &self.collect, parts(&variables, None)) {
            drop(reader.read(body));
        }
    }
}

/// A descriptor set, as any service may register one: it is refused, or everything can be made of it.
pub(crate) fn schema(set: &[u8]) {
    let Ok(schema) = Schema::decode(set) else { return };
    let table = RouteTable::builder().add(&schema, ()).build();
    let about = About { title: "t", version: "1", max_request_bytes: 1 };
    let settings = Settings::default();
    let document = openapi::document(about, &settings, table.plans().map(|(plan, ())| (plan, &settings)));
    drop(openapi::to_yaml(&document));
    let codec = Codec::default();
    for plan in schema.plans() {
        drop(codec.encode_reply(plan, b"\x0a\x02\x08\x01\x12\x01a\x18\x01"));
        let variables = PathVariables::default();
        if plan.is_plain() {
            drop(codec.decode_request(plan, parts(&variables, Some("a=1&b.c=2")), br#"{"a":{"b":[1,null]},"id":"x"}"#));
            drop(codec.decode_request(plan, parts(&variables, None), b"{}"));
        }
    }
}

/// Reads what we wrote.
fn written(desc: &MessageDescriptor, wire: &[u8]) -> DynamicMessage {
    DynamicMessage::decode(desc.clone(), wire).unwrap_or_else(|error| panic!("{error}: {wire:02x?}"))
}

/// Returns whether a field without presence is a NullValue other than 0.
fn has_odd_null(message: &DynamicMessage) -> bool {
    let odd = |field: &FieldDescriptor, value: &Value| match (field.kind(), value) {
        (Kind::Enum(ty), Value::EnumNumber(number)) => {
            *number != 0 && !field.supports_presence() && ty.full_name() == "google.protobuf.NullValue"
        }
        (_, Value::Message(inner)) => has_odd_null(inner),
        (_, Value::List(items)) => items.iter().filter_map(Value::as_message).any(has_odd_null),
        (_, Value::Map(entries)) => entries.values().filter_map(Value::as_message).any(has_odd_null),
        _ => false,
    };
    let held = (message.descriptor().full_name() == "google.protobuf.Any").then(|| payload(message)).flatten();
    held.is_some_and(|it| has_odd_null(&it)) || message.fields().any(|(field, value)| odd(&field, value))
}

fn show<T: std::fmt::Display, E: std::fmt::Display>(answer: &Result<T, E>) -> String {
    match answer {
        Ok(it) => it.to_string(),
        Err(error) => format!("refused: {error}"),
    }
}

fn parts<'a>(variables: &'a PathVariables, query: Option<&'a str>) -> RequestParts<'a> {
    RequestParts { http_method: "POST", variables, query, content_type: None }
}

/// serde_json has its own limit of depth; what is printed of a message may be beyond it.
fn too_deep(error: serde_json::Error) -> Result<(), serde_json::Error> {
    if error.to_string().contains("recursion limit") { Ok(()) } else { Err(error) }
}
