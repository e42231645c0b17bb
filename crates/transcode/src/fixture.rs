//! Schemas for this crate's unit tests, compiled from text.
//!
//! Lives here: `compile`, `schema` and the small API that most tests call. Does not: anything outside of tests.

use std::sync::{Arc, OnceLock};

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};
use protox::Compiler;
use protox::file::{File, FileResolver};

use crate::plan::MethodPlan;
use crate::schema::{Schema, builtin};

/// Proto files by name; google's come from the built-in descriptors.
struct Files<'f>(&'f [(&'f str, &'f str)]);

impl FileResolver for Files<'static> {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.iter().find(|(it, _)| *it == name) {
            Some((name, text)) => File::from_source(name, text),
            None => {
                let bytes = builtin::file(name).ok_or_else(|| protox::Error::file_not_found(name))?;
                File::decode_file_descriptor_proto(bytes.as_slice()).map_err(protox::Error::new)
            }
        }
    }
}

/// Returns an encoded descriptor set of the files; with imports, those of google included.
pub(crate) fn compile(files: &'static [(&'static str, &'static str)], with_imports: bool) -> Vec<u8> {
    let mut compiler = Compiler::with_file_resolver(Files(files));
    compiler.include_imports(with_imports).include_source_info(true);
    compiler.open_files(files.iter().map(|(name, _)| name)).expect("the test's protos compile");
    compiler.encode_file_descriptor_set()
}

pub(crate) fn schema(text: &'static str) -> Schema {
    let files: &'static [(&'static str, &'static str)] = Box::leak(Box::new([("test.proto", text)]));
    Schema::decode(&compile(files, true)).expect("the test's schema links")
}

/// The option by which authors say who sets a field; no descriptor of ours brings it.
pub(crate) const FIELD_BEHAVIOR: (&str, &str) = (
    "google/api/field_behavior.proto",
    r#"
    syntax = "proto3";
    package google.api;
    import "google/protobuf/descriptor.proto";
    enum FieldBehavior { FIELD_BEHAVIOR_UNSPECIFIED = 0; OPTIONAL = 1; REQUIRED = 2; OUTPUT_ONLY = 3; INPUT_ONLY = 4; IMMUTABLE = 5; }
    extend google.protobuf.FieldOptions { repeated FieldBehavior field_behavior = 1052 [packed = false]; }
    "#,
);

/// An API with every kind of field.
pub(crate) const KINDS: &str = r#"
    syntax = "proto3";
    package test.v1;
    import "google/api/annotations.proto";
    import "google/protobuf/any.proto";
    import "google/protobuf/duration.proto";
    import "google/protobuf/field_mask.proto";
    import "google/protobuf/struct.proto";
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";

    enum Color { COLOR_UNSPECIFIED = 0; COLOR_RED = 1; COLOR_BLUE = 7; COLOR_NEGATIVE = -1; }

    message Nested { string name = 1; int32 amount = 2; Nested child = 3; repeated string notes = 4; }

    message Kinds {
      int32 i32 = 1; int64 i64 = 2; uint32 u32 = 3; uint64 u64 = 4; sint32 s32 = 5; sint64 s64 = 6;
      fixed32 f32 = 7; fixed64 f64 = 8; sfixed32 sf32 = 9; sfixed64 sf64 = 10; float flt = 11; double dbl = 12;
      bool flag = 13; string text = 14; bytes data = 15; Color color = 16; Nested nested = 17;
      optional int32 opt_i32 = 18; optional string opt_text = 19;
      repeated int32 list_i32 = 20; repeated string list_text = 21; repeated Color list_color = 22; repeated Nested list_nested = 23;
      map<string, string> map_text = 24; map<int32, int32> map_i32 = 25; map<bool, Nested> map_nested = 26; map<string, Color> map_color = 27;
      oneof choice { string choice_text = 28; int32 choice_i32 = 29; }
      google.protobuf.DoubleValue w_dbl = 30; google.protobuf.Int64Value w_i64 = 31; google.protobuf.StringValue w_text = 32;
      google.protobuf.BoolValue w_flag = 33; google.protobuf.BytesValue w_data = 34;
      google.protobuf.Timestamp ts = 35; google.protobuf.Duration dur = 36; google.protobuf.FieldMask mask = 37;
      google.protobuf.Struct object = 38; google.protobuf.Value value = 39; google.protobuf.ListValue array = 40; google.protobuf.Any any = 41;
      string renamed = 42 [json_name = "otherName"];
      google.protobuf.NullValue null_value = 43;
      repeated google.protobuf.Value list_value = 44;
    }

    message UpdateRequest { Kinds kinds = 1; google.protobuf.FieldMask update_mask = 2; string id = 3; }

    service Api {
      rpc Echo(Kinds) returns (Kinds) { option (google.api.http) = { post: "/echo" body: "*" }; }
      rpc Get(Kinds) returns (Kinds) { option (google.api.http) = { get: "/get/{text}" additional_bindings { get: "/rest/{text=**}" } }; }
      rpc Update(UpdateRequest) returns (Kinds) {
        option (google.api.http) = { patch: "/kinds/{id}" body: "kinds" additional_bindings { post: "/deep/{kinds.nested.name}" body: "kinds" } };
      }
      rpc Alone(Kinds) returns (Kinds) {
        option (google.api.http) = { get: "/alone/nested" response_body: "nested" additional_bindings { get: "/alone/ts" response_body: "ts" }
                                     additional_bindings { get: "/alone/list" response_body: "list_text" } };
      }
      rpc Mix(Kinds) returns (Kinds) {
        option (google.api.http) = { post: "/number/{i32}" body: "*" additional_bindings { post: "/choice/{choice_text}" body: "*" }
                                     additional_bindings { post: "/when/{ts}" body: "*" } additional_bindings { post: "/within/{nested.child.name}" body: "*" } };
      }
      rpc Collect(stream Kinds) returns (stream Kinds) { option (google.api.http) = { post: "/collect/{text}" body: "nested" }; }
    }
"#;

/// Returns the plan of `KINDS` with this template.
pub(crate) fn plan(template: &str) -> Arc<MethodPlan> {
    // One pool for all tests: messages of different pools are never equal.
    static SCHEMA: OnceLock<Schema> = OnceLock::new();
    let found = SCHEMA.get_or_init(|| schema(KINDS)).plans().iter().find(|it| it.template().to_string() == template);
    Arc::clone(found.expect("KINDS has the template"))
}

/// Returns the message `test.v1.Kinds` that prost-reflect's own JSON reads.
pub(crate) fn kinds(json: &str) -> DynamicMessage {
    let desc = plan("/echo").method().input().clone();
    let mut json = serde_json::Deserializer::from_str(json);
    DynamicMessage::deserialize(desc, &mut json).expect("the oracle reads it")
}

pub(crate) fn decode(desc: &MessageDescriptor, wire: &[u8]) -> DynamicMessage {
    DynamicMessage::decode(desc.clone(), wire).expect("the wire form of that type")
}

/// Returns a message as prost-reflect prints it, for comparison and for reading failures.
pub(crate) fn print(message: &DynamicMessage) -> serde_json::Value {
    serde_json::to_value(message).expect("the oracle prints it")
}

/// Compares messages field by field; `assert_eq` would tell a default that was set from one that was not, and print
/// whole descriptor pools.
#[track_caller]
pub(crate) fn assert_same(ours: &DynamicMessage, wanted: &DynamicMessage) {
    assert!(same_message(ours, wanted), "{} is not {}", print(ours), print(wanted));
}

fn same_message(ours: &DynamicMessage, wanted: &DynamicMessage) -> bool {
    ours.fields().count() == wanted.fields().count()
        && ours.fields().all(|(field, value)| wanted.has_field(&field) && same(value, &wanted.get_field(&field)))
}

fn same(ours: &Value, wanted: &Value) -> bool {
    match (ours, wanted) {
        (Value::Message(ours), Value::Message(wanted)) => same_message(ours, wanted),
        (Value::List(ours), Value::List(wanted)) => {
            ours.len() == wanted.len() && ours.iter().zip(wanted).all(|(ours, wanted)| same(ours, wanted))
        }
        (Value::Map(ours), Value::Map(wanted)) => {
            ours.len() == wanted.len()
                && ours.iter().all(|(key, ours)| wanted.get(key).is_some_and(|it| same(ours, it)))
        }
        _ => ours == wanted,
    }
}
