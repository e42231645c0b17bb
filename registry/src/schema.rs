//! Descriptor sets: known by their digest, linked before they are accepted, read for what callers must know of each method.
//!
//! Lives here: linking, facts, the names a set declares. Does not: the digest rule (`weft-proto`), storing (`catalog`), whose a name is
//! (`catalog`, claims), what a template means (`weft-transcode`), transcoding (gateway).
//! Pure and synchronous; linking a large set takes milliseconds, so sources call it on a blocking thread.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message;
use prost_reflect::{MethodDescriptor, prost_types};
use prost_types::FileDescriptorProto;
use prost_types::method_options::IdempotencyLevel;
use weft_model::{Digest, GrpcService, Method};
use weft_proto::descriptors::{self, BadFiles, File};

/// Services that every server carries; nobody owns them.
const NEVER_CLAIMED: &str = "grpc.";

/// A set of files that link with each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DescriptorSet {
    /// Its name.
    pub(crate) digest: Digest,
    /// Encoded `google.protobuf.FileDescriptorProto` messages, each once, sorted by file name.
    pub(crate) files: Vec<Bytes>,
    /// Full names of the gRPC services that its carriers serve; empty if they did not say, which means all in it.
    pub(crate) served: BTreeSet<String>,
    /// The served gRPC services, without `grpc.*`.
    pub(crate) services: Vec<GrpcService>,
    /// The REST templates of their methods, as far as they can be served, sorted.
    pub(crate) templates: Vec<Template>,
    /// Rises with each set that the catalog stored: the higher, the newer. 0 before.
    pub(crate) age: u64,
}

/// A REST template of a method.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Template {
    /// The gRPC service whose method it is.
    pub(crate) service: String,
    /// Name of the method within it.
    pub(crate) method: String,
    /// The name it is claimed by, `GET /api/users/*`.
    pub(crate) claim: String,
}

impl DescriptorSet {
    /// Templates of the methods of one gRPC service.
    pub(crate) fn templates_of<'s>(&'s self, service: &'s str) -> impl Iterator<Item = &'s Template> {
        self.templates.iter().filter(move |template| template.service == service)
    }

    /// Every name the set declares.
    pub(crate) fn names(&self) -> BTreeSet<&str> {
        let services = self.services.iter().map(|service| service.name.as_str());
        services.chain(self.templates.iter().map(|template| template.claim.as_str())).collect()
    }
}

/// Why a set is refused; the old one of the service stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SchemaError {
    /// Nothing in it.
    #[error("the set has no files")]
    Empty,
    /// One of the messages is no file descriptor, or two of one name differ.
    #[error(transparent)]
    Files(#[from] BadFiles),
    /// A file is missing, a name is unknown or two clash; the text names file and symbol.
    #[error("the set does not link: {}{_0}", _0.file().map(|file| format!("{file}: ")).unwrap_or_default())]
    Link(#[from] prost_reflect::DescriptorError),
    /// It is said to serve what is not in it.
    #[error("the set does not declare {name}, which is said to be served")]
    Undeclared {
        /// Full name of the service.
        name: String,
    },
    /// It links, and yet no gateway could route it.
    #[error("the set cannot be routed: {0}")]
    Route(#[from] weft_transcode::SchemaError),
}

/// Checks that the files link, and reads the services they declare, as far as they are served: what files merely import is somebody else's.
pub(crate) fn link(files: Vec<Bytes>, served: BTreeSet<String>) -> Result<DescriptorSet, SchemaError> {
    if files.is_empty() {
        return Err(SchemaError::Empty);
    }
    let named = descriptors::by_name(files)?;
    let linkable = named.values().map(linkable).collect::<Result<Vec<_>, _>>()?;
    let pool = weft_transcode::schema::linked(|pool| pool.add_file_descriptor_protos(linkable))??;
    if let Some(name) = served.iter().find(|name| pool.get_service_by_name(name).is_none()) {
        return Err(SchemaError::Undeclared { name: name.clone() });
    }
    let offered = |name: &str| !name.starts_with(NEVER_CLAIMED) && (served.is_empty() || served.contains(name));
    let mut services: Vec<GrpcService> = pool
        .services()
        .filter(|s| offered(s.full_name()))
        .map(|s| GrpcService { name: s.full_name().to_owned(), methods: s.methods().map(|m| method(&m)).collect() })
        .collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    let digest = descriptors::digest(&named, &served);
    let files: Vec<Bytes> = named.into_values().map(|file| file.bytes).collect();
    let templates = templates(&files, offered)?;
    Ok(DescriptorSet { digest, files, served, services, templates, age: 0 })
}

/// Returns a file as the linker knows it: in proto2, if it is of an edition.
fn linkable(file: &File) -> Result<FileDescriptorProto, SchemaError> {
    let retold = weft_transcode::schema::in_proto2(&file.bytes)?;
    let Some(retold) = retold else { return Ok(file.typed.clone()) };
    let malformed = |error: prost::DecodeError| weft_transcode::SchemaError::Malformed { reason: error.to_string() };
    Ok(FileDescriptorProto::decode(&*retold).map_err(malformed)?)
}

/// A template that no gateway can serve claims nothing: the gateway says what is wrong with it.
fn templates(files: &[Bytes], offered: impl Fn(&str) -> bool) -> Result<Vec<Template>, SchemaError> {
    let schema = weft_transcode::Schema::from_files(files)?;
    let bound = schema.plans().iter().filter(|plan| !plan.is_plain());
    let bound = bound.filter(|plan| offered(plan.method().service()));
    let mut templates: Vec<Template> = bound
        .map(|plan| Template {
            service: plan.method().service().to_owned(),
            method: plan.method().name().to_owned(),
            claim: plan.claim(),
        })
        .collect();
    templates.sort();
    templates.dedup();
    Ok(templates)
}

fn method(it: &MethodDescriptor) -> Method {
    let level = it.method_descriptor_proto().options.as_ref().map(|o| o.idempotency_level());
    Method {
        name: it.name().to_owned(),
        client_streaming: it.is_client_streaming(),
        server_streaming: it.is_server_streaming(),
        idempotent: matches!(level, Some(IdempotencyLevel::NoSideEffects | IdempotencyLevel::Idempotent)),
        missing_in: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;

    fn link(files: Vec<Bytes>) -> Result<DescriptorSet, SchemaError> {
        super::link(files, BTreeSet::new())
    }

    fn users() -> Vec<Bytes> {
        files(weft_proto::descriptors::SHOP_USERS)
    }

    fn files(set: &[u8]) -> Vec<Bytes> {
        let pool = DescriptorPool::decode(set).unwrap();
        pool.files().map(|f| f.encode_to_vec().into()).collect()
    }

    #[test]
    fn the_order_of_upload_does_not_change_the_digest() {
        let (mut forth, back) = (users(), users().into_iter().rev().collect());
        let linked = link(forth.clone()).unwrap();
        assert_eq!(linked.digest, link(back).unwrap().digest);
        assert_eq!(linked.digest, link([users(), users()].concat()).unwrap().digest, "a file given twice counts once");
        forth.pop();
        assert!(link(forth).map(|s| s.digest != linked.digest).unwrap_or(true));
    }

    #[test]
    fn methods_say_whether_they_may_be_repeated() {
        let set = link(users()).unwrap();
        let [users] = set.services.as_slice() else { panic!("one service: {:?}", set.services) };
        assert_eq!(users.name, "shop.users.v1.Users");
        let idempotent = |name: &str| users.methods.iter().find(|m| m.name == name).unwrap().idempotent;
        assert!(idempotent("GetUser") && !idempotent("CreateUser"));
    }

    #[test]
    fn templates_are_named_by_the_paths_they_match() {
        let set = link(users()).unwrap();
        let claims: Vec<_> = set.templates.iter().map(|it| format!("{} {}", it.method, it.claim)).collect();
        assert_eq!(
            claims,
            [
                "CreateUser POST /api/users",
                "DeleteUser DELETE /api/users/*",
                "GetUser GET /api/users/*",
                "ListUsers GET /api/users",
                "UpdateUser PATCH /api/users/*",
            ]
        );
        assert!(set.names().contains("shop.users.v1.Users") && set.names().contains("GET /api/users/*"));
    }

    #[test]
    fn streaming_kinds_are_told_apart() {
        let set = link(files(weft_proto::descriptors::TESTKIT)).unwrap();
        let kinds: Vec<_> =
            set.services[0].methods.iter().map(|m| (m.name.as_str(), m.client_streaming, m.server_streaming)).collect();
        assert_eq!(
            kinds,
            [
                ("Unary", false, false),
                ("ServerStream", false, true),
                ("ClientStream", true, false),
                ("Bidi", true, true)
            ]
        );
    }

    #[test]
    fn a_set_that_does_not_link_names_file_and_symbol() {
        let file = prost_types::FileDescriptorProto {
            name: Some("broken.proto".into()),
            syntax: Some("proto3".into()),
            message_type: vec![prost_types::DescriptorProto {
                name: Some("Holder".into()),
                field: vec![prost_types::FieldDescriptorProto {
                    name: Some("lost".into()),
                    number: Some(1),
                    label: Some(1),
                    r#type: Some(11),
                    type_name: Some(".nowhere.Missing".into()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let error = link(vec![file.encode_to_vec().into()]).unwrap_err().to_string();
        assert!(error.contains("broken.proto") && error.contains("nowhere.Missing"), "{error}");
        assert!(matches!(link(vec![]), Err(SchemaError::Empty)));
        assert!(matches!(
            link(vec![Bytes::from_static(b"\xff")]),
            Err(SchemaError::Files(BadFiles::Garbled { index: 0, .. }))
        ));
    }

    #[test]
    fn a_file_of_an_edition_links() {
        let mut set = files(weft_proto::descriptors::TESTKIT);
        let mut file = set.pop().unwrap().to_vec();
        let linked = |file: &[u8]| link([&set[..], &[Bytes::copy_from_slice(file)]].concat());
        // syntax, edition: the later of two counts.
        file.extend_from_slice(b"\x62\x08editions\x70\xe8\x07");
        assert_eq!(linked(&file).unwrap().services.len(), 1);
        file.extend_from_slice(b"\x70\xea\x07");
        let error = linked(&file).unwrap_err().to_string();
        assert!(error.contains("edition 1002 is newer than 1001"), "{error}");
    }

    #[test]
    fn health_and_reflection_belong_to_nobody() {
        let set = link(files(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)).unwrap();
        assert_eq!(set.services, []);
    }
}
