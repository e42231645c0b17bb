//! Descriptors that files import but sets often lack, and the types of error details.
//!
//! Lives here: google/api/{http,annotations,httpbody}.proto and google/rpc/{status,error_details}.proto as tables; the
//! well-known types come with prost-reflect. Does not: anything about a particular service.
//! Source: googleapis (google/api, google/rpc) and protobuf's include directory; comments and options that no code
//! reads are left out.

use std::sync::OnceLock;

use prost::Message;
use prost_reflect::DescriptorPool;
use prost_reflect::prost_types::descriptor_proto::ExtensionRange;
use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
use prost_reflect::prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorProto, MessageOptions};

use super::editions::Implicit;
use crate::types::Types;

/// Returns the pool of everything built in.
pub(crate) fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut pool = DescriptorPool::global();
        let files = [http(), annotations(), http_body(), status(), error_details()];
        pool.add_file_descriptor_protos(files).expect("the built-in descriptors link: tested below");
        pool
    })
}

/// Returns the types of the pool of everything built in.
pub(crate) fn types() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| Types::new(pool(), Implicit::default()))
}

/// Returns a built-in file, encoded.
pub(crate) fn file(name: &str) -> Option<Vec<u8>> {
    pool().get_file_by_name(name).map(|it| it.encode_to_vec())
}

/// Returns whether a type is one of descriptor.proto.
pub(super) fn is_descriptor(full_name: &str) -> bool {
    let file = pool().get_file_by_name("google/protobuf/descriptor.proto").expect("it is well-known");
    let of_message = pool().get_message_by_name(full_name).is_some_and(|it| it.parent_file() == file);
    of_message || pool().get_enum_by_name(full_name).is_some_and(|it| it.parent_file() == file)
}

/// Returns descriptor.proto with nothing but the messages that others extend, and these without fields.
pub(super) fn options_alone() -> &'static [u8] {
    const EXTENDED: [&str; 10] = [
        "FileOptions",
        "MessageOptions",
        "FieldOptions",
        "OneofOptions",
        "EnumOptions",
        "EnumValueOptions",
        "ServiceOptions",
        "MethodOptions",
        "ExtensionRangeOptions",
        "FeatureSet",
    ];
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let range = ExtensionRange { start: Some(1_000), end: Some(1 << 29), options: None };
        let message = |name: &&str| DescriptorProto {
            name: Some((*name).to_owned()),
            extension_range: vec![range.clone()],
            ..Default::default()
        };
        let file = FileDescriptorProto {
            name: Some("google/protobuf/descriptor.proto".to_owned()),
            package: Some("google.protobuf".to_owned()),
            message_type: EXTENDED.iter().map(message).collect(),
            syntax: Some("proto2".to_owned()),
            ..Default::default()
        };
        file.encode_to_vec()
    })
}

/// A message: its name, its fields, its nested messages.
struct Shape(&'static str, &'static [Field], &'static [Shape]);

/// A field: name, number, type. A type is a scalar's name, or `.full.Name`; `*` before it means repeated, `map` is
/// `map<string, string>`.
struct Field(&'static str, i32, &'static str);

fn http() -> FileDescriptorProto {
    const SHAPES: &[Shape] = &[
        Shape(
            "Http",
            &[Field("rules", 1, "*.google.api.HttpRule"), Field("fully_decode_reserved_expansion", 2, "bool")],
            &[],
        ),
        Shape(
            "HttpRule",
            &[
                Field("selector", 1, "string"),
                Field("get", 2, "string"),
                Field("put", 3, "string"),
                Field("post", 4, "string"),
                Field("delete", 5, "string"),
                Field("patch", 6, "string"),
                Field("custom", 8, ".google.api.CustomHttpPattern"),
                Field("body", 7, "string"),
                Field("response_body", 12, "string"),
                Field("additional_bindings", 11, "*.google.api.HttpRule"),
            ],
            &[],
        ),
        Shape("CustomHttpPattern", &[Field("kind", 1, "string"), Field("path", 2, "string")], &[]),
    ];
    build("google/api/http.proto", "google.api", &[], SHAPES)
}

fn annotations() -> FileDescriptorProto {
    let mut file = build(
        "google/api/annotations.proto",
        "google.api",
        &["google/api/http.proto", "google/protobuf/descriptor.proto"],
        &[],
    );
    let mut extension = field(&Field("http", 72_295_728, ".google.api.HttpRule"), "");
    extension.extendee = Some(".google.protobuf.MethodOptions".to_owned());
    file.extension.push(extension);
    file
}

fn http_body() -> FileDescriptorProto {
    const SHAPES: &[Shape] = &[Shape(
        "HttpBody",
        &[
            Field("content_type", 1, "string"),
            Field("data", 2, "bytes"),
            Field("extensions", 3, "*.google.protobuf.Any"),
        ],
        &[],
    )];
    build("google/api/httpbody.proto", "google.api", &["google/protobuf/any.proto"], SHAPES)
}

fn status() -> FileDescriptorProto {
    const SHAPES: &[Shape] = &[Shape(
        "Status",
        &[Field("code", 1, "int32"), Field("message", 2, "string"), Field("details", 3, "*.google.protobuf.Any")],
        &[],
    )];
    build("google/rpc/status.proto", "google.rpc", &["google/protobuf/any.proto"], SHAPES)
}

fn error_details() -> FileDescriptorProto {
    const SHAPES: &[Shape] = &[
        Shape(
            "ErrorInfo",
            &[Field("reason", 1, "string"), Field("domain", 2, "string"), Field("metadata", 3, "map")],
            &[],
        ),
        Shape("RetryInfo", &[Field("retry_delay", 1, ".google.protobuf.Duration")], &[]),
        Shape("DebugInfo", &[Field("stack_entries", 1, "*string"), Field("detail", 2, "string")], &[]),
        Shape(
            "QuotaFailure",
            &[Field("violations", 1, "*.google.rpc.QuotaFailure.Violation")],
            &[Shape(
                "Violation",
                &[
                    Field("subject", 1, "string"),
                    Field("description", 2, "string"),
                    Field("api_service", 3, "string"),
                    Field("quota_metric", 4, "string"),
                    Field("quota_id", 5, "string"),
                    Field("quota_dimensions", 6, "map"),
                    Field("quota_value", 7, "int64"),
                    Field("future_quota_value", 8, "int64"),
                ],
                &[],
            )],
        ),
        Shape(
            "PreconditionFailure",
            &[Field("violations", 1, "*.google.rpc.PreconditionFailure.Violation")],
            &[Shape(
                "Violation",
                &[Field("type", 1, "string"), Field("subject", 2, "string"), Field("description", 3, "string")],
                &[],
            )],
        ),
        Shape(
            "BadRequest",
            &[Field("field_violations", 1, "*.google.rpc.BadRequest.FieldViolation")],
            &[Shape(
                "FieldViolation",
                &[
                    Field("field", 1, "string"),
                    Field("description", 2, "string"),
                    Field("reason", 3, "string"),
                    Field("localized_message", 4, ".google.rpc.LocalizedMessage"),
                ],
                &[],
            )],
        ),
        Shape("RequestInfo", &[Field("request_id", 1, "string"), Field("serving_data", 2, "string")], &[]),
        Shape(
            "ResourceInfo",
            &[
                Field("resource_type", 1, "string"),
                Field("resource_name", 2, "string"),
                Field("owner", 3, "string"),
                Field("description", 4, "string"),
            ],
            &[],
        ),
        Shape(
            "Help",
            &[Field("links", 1, "*.google.rpc.Help.Link")],
            &[Shape("Link", &[Field("description", 1, "string"), Field("url", 2, "string")], &[])],
        ),
        Shape("LocalizedMessage", &[Field("locale", 1, "string"), Field("message", 2, "string")], &[]),
    ];
    build("google/rpc/error_details.proto", "google.rpc", &["google/protobuf/duration.proto"], SHAPES)
}

fn build(name: &str, package: &str, imports: &[&str], shapes: &[Shape]) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(name.to_owned()),
        package: Some(package.to_owned()),
        dependency: imports.iter().map(|it| (*it).to_owned()).collect(),
        message_type: shapes.iter().map(|it| message(it, &format!(".{package}"))).collect(),
        syntax: Some("proto3".to_owned()),
        ..Default::default()
    }
}

fn message(Shape(name, fields, nested): &Shape, scope: &str) -> DescriptorProto {
    let scope = format!("{scope}.{name}");
    let entries = fields.iter().filter(|it| it.2 == "map").map(|it| DescriptorProto {
        name: Some(entry_name(it.0)),
        field: vec![field(&Field("key", 1, "string"), &scope), field(&Field("value", 2, "string"), &scope)],
        options: Some(MessageOptions { map_entry: Some(true), ..Default::default() }),
        ..Default::default()
    });
    DescriptorProto {
        name: Some((*name).to_owned()),
        field: fields.iter().map(|it| field(it, &scope)).collect(),
        nested_type: entries.chain(nested.iter().map(|it| message(it, &scope))).collect(),
        ..Default::default()
    }
}

fn field(Field(name, number, kind): &Field, scope: &str) -> FieldDescriptorProto {
    let map = format!("*{scope}.{}", entry_name(name));
    let kind = if *kind == "map" { map.as_str() } else { kind };
    let (label, kind) = kind.strip_prefix('*').map_or((Label::Optional, kind), |rest| (Label::Repeated, rest));
    let scalar = match kind {
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        _ => Type::Message,
    };
    FieldDescriptorProto {
        name: Some((*name).to_owned()),
        number: Some(*number),
        label: Some(label.into()),
        r#type: Some(scalar.into()),
        type_name: (scalar == Type::Message).then(|| kind.to_owned()),
        ..Default::default()
    }
}

/// Returns the name protoc gives to a map field's entry message.
fn entry_name(field: &str) -> String {
    let words = field.split('_').map(|word| word[..1].to_ascii_uppercase() + &word[1..]);
    words.chain(["Entry".to_owned()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_descriptors_link() {
        let names = [
            "google.rpc.BadRequest.FieldViolation",
            "google.rpc.ErrorInfo.MetadataEntry",
            "google.api.HttpBody",
            "google.protobuf.Any",
        ];
        for name in names {
            assert!(pool().get_message_by_name(name).is_some(), "{name}");
        }
        assert!(pool().get_extension_by_name("google.api.http").is_some());
    }
}
