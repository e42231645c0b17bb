//! Just enough of descriptor.proto and google/api/http.proto to read what typed descriptors drop.
//!
//! Lives here: message types decoded from the raw bytes of a descriptor set. Does not: linking, or judging what was
//! read.
//! Source: google/protobuf/descriptor.proto; google/api/annotations.proto (extension 72295728) and
//! google/api/http.proto. Fields not named are skipped.

/// `google.protobuf.FileDescriptorSet`, its files left encoded.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FileSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) file: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct File {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) package: String,
    #[prost(string, repeated, tag = "3")]
    pub(super) dependency: Vec<String>,
    #[prost(message, repeated, tag = "6")]
    pub(super) service: Vec<Service>,
    #[prost(message, optional, tag = "8")]
    pub(super) options: Option<FileOptions>,
    #[prost(string, tag = "12")]
    pub(super) syntax: String,
    #[prost(int32, tag = "14")]
    pub(super) edition: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FileOptions {
    #[prost(message, optional, tag = "50")]
    pub(super) features: Option<Features>,
}

/// `google.protobuf.FeatureSet`, as far as it says something of the wire or of JSON that is not the same to us either way.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Features {
    #[prost(int32, optional, tag = "1")]
    pub(super) field_presence: Option<i32>,
    #[prost(int32, optional, tag = "3")]
    pub(super) repeated_field_encoding: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    pub(super) message_encoding: Option<i32>,
}

/// `google.protobuf.DescriptorProto`, as far as features need it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Scope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) nested_type: Vec<Scope>,
    #[prost(message, optional, tag = "7")]
    pub(super) options: Option<ScopeOptions>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ScopeOptions {
    #[prost(bool, tag = "7")]
    pub(super) map_entry: bool,
}

/// `google.protobuf.FieldDescriptorProto`, as far as features need it.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Field {
    #[prost(int32, tag = "3")]
    pub(super) number: i32,
    #[prost(int32, tag = "4")]
    pub(super) label: i32,
    #[prost(int32, tag = "5")]
    pub(super) r#type: i32,
    #[prost(string, tag = "6")]
    pub(super) type_name: String,
    #[prost(string, tag = "2")]
    pub(super) extendee: String,
    #[prost(int32, optional, tag = "9")]
    pub(super) oneof_index: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub(super) options: Option<FieldOptions>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FieldOptions {
    #[prost(message, optional, tag = "21")]
    pub(super) features: Option<Features>,
}

/// `google.protobuf.FileDescriptorProto` as to the types that it names, other than those that it extends.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Uses {
    #[prost(int32, repeated, packed = "false", tag = "10")]
    pub(super) public_dependency: Vec<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(super) message_type: Vec<UsesInMessage>,
    #[prost(message, repeated, tag = "6")]
    pub(super) service: Vec<UsesInService>,
    #[prost(message, repeated, tag = "7")]
    pub(super) extension: Vec<Typed>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct UsesInMessage {
    #[prost(message, repeated, tag = "2")]
    field: Vec<Typed>,
    #[prost(message, repeated, tag = "3")]
    nested_type: Vec<UsesInMessage>,
    #[prost(message, repeated, tag = "6")]
    extension: Vec<Typed>,
}

impl UsesInMessage {
    /// Returns whether a type that a field has is one of these.
    pub(super) fn any_type(&self, wanted: &impl Fn(&str) -> bool) -> bool {
        self.field.iter().chain(&self.extension).any(|it| wanted(&it.type_name))
            || self.nested_type.iter().any(|it| it.any_type(wanted))
    }
}

/// A field.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Typed {
    #[prost(string, tag = "6")]
    pub(super) type_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct UsesInService {
    #[prost(message, repeated, tag = "2")]
    pub(super) method: Vec<UsesInMethod>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct UsesInMethod {
    #[prost(string, tag = "2")]
    pub(super) input_type: String,
    #[prost(string, tag = "3")]
    pub(super) output_type: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Service {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) method: Vec<Method>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Method {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, optional, tag = "4")]
    pub(super) options: Option<MethodOptions>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MethodOptions {
    #[prost(int32, tag = "34")]
    pub(super) idempotency_level: i32,
    #[prost(message, optional, tag = "72295728")]
    pub(super) http: Option<HttpRule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct HttpRule {
    #[prost(string, optional, tag = "2")]
    pub(super) get: Option<String>,
    #[prost(string, optional, tag = "3")]
    pub(super) put: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) post: Option<String>,
    #[prost(string, optional, tag = "5")]
    pub(super) delete: Option<String>,
    #[prost(string, optional, tag = "6")]
    pub(super) patch: Option<String>,
    #[prost(message, optional, tag = "8")]
    pub(super) custom: Option<CustomPattern>,
    #[prost(string, tag = "7")]
    pub(super) body: String,
    #[prost(string, tag = "12")]
    pub(super) response_body: String,
    #[prost(message, repeated, tag = "11")]
    pub(super) additional_bindings: Vec<HttpRule>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CustomPattern {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) path: String,
}

impl HttpRule {
    /// Returns the HTTP method and the template, if the rule names them.
    pub(super) fn pattern(&self) -> Option<(String, &str)> {
        let fixed = [
            ("GET", &self.get),
            ("PUT", &self.put),
            ("POST", &self.post),
            ("DELETE", &self.delete),
            ("PATCH", &self.patch),
        ];
        let found = fixed.iter().find_map(|(method, path)| path.as_deref().map(|path| ((*method).to_owned(), path)));
        found.or_else(|| self.custom.as_ref().map(|it| (it.kind.to_ascii_uppercase(), it.path.as_str())))
    }
}
