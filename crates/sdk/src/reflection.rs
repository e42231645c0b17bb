//! grpc.reflection v1 and v1alpha from the raw bytes of a descriptor set.
//!
//! Lives here: reading a set, answering questions about it. Does not: parsing beyond names; a file leaves as it came.
//! Why not tonic-reflection's own server: it decodes the set into types that know no extensions and encodes it again, and every
//! `google.api.http` option is gone. Its messages are used, its server is not.
//! Simplifying assumption: the two versions are the same on the wire (they are), so v1alpha is answered by re-reading v1.
//! Source: grpc/reflection/v1/reflection.proto; like grpc-go, a file comes with those imports the stream has not carried yet.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto};
use tonic::server::NamedService;
use tonic::service::RoutesBuilder;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Question;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Answer;
use tonic_reflection::pb::{v1 as pb, v1alpha};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha::{
    ServerReflection as ServerReflectionAlpha, ServerReflectionServer as ServerReflectionAlphaServer,
};
use weft_runtime::Shutdown;

/// What is wrong with a descriptor set.
#[derive(Debug, thiserror::Error)]
pub enum BadDescriptors {
    /// The bytes are no encoded `google.protobuf.FileDescriptorSet`.
    #[error("not a file descriptor set")]
    Encoding(#[from] prost::DecodeError),
    /// A file imports another that the set lacks; it was made without its imports.
    #[error("{file} imports {import}, which is not in the set")]
    MissingImport {
        /// The file.
        file: String,
        /// What it imports.
        import: String,
    },
    /// A service was added that the set does not describe; callers could not learn of it.
    #[error("service {0} is not in the set")]
    Undescribed(String),
}

/// Serves `descriptors` by both versions until the shutdown begins.
pub(crate) fn add_to(routes: &mut RoutesBuilder, descriptors: Descriptors, shutdown: &Shutdown) {
    let reflection = Arc::new(Reflection { descriptors: Arc::new(descriptors), shutdown: shutdown.clone() });
    routes.add_service(ServerReflectionServer::from_arc(reflection.clone()));
    routes.add_service(ServerReflectionAlphaServer::from_arc(reflection));
}

/// A `FileDescriptorSet` whose files are left as they are.
#[derive(Clone, PartialEq, Message)]
struct RawSet {
    #[prost(bytes = "vec", repeated, tag = "1")]
    file: Vec<Vec<u8>>,
}

/// An index over the raw files of the process's services, health and reflection.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    files: Vec<File>,
    by_name: HashMap<String, usize>,
    by_symbol: HashMap<String, usize>,
    /// Extended message → field number → file of the extension.
    extensions: HashMap<String, BTreeMap<i32, usize>>,
    services: Vec<String>,
}

#[derive(Debug)]
struct File {
    bytes: Vec<u8>,
    imports: Vec<usize>,
}

impl Descriptors {
    /// Indexes `set` beside the sets of health and reflection. `services` are what the process serves of it.
    pub(crate) fn new(set: &[u8], services: &[&str]) -> Result<Self, BadDescriptors> {
        let mut index = Descriptors::default();
        for set in [set, tonic_health::pb::FILE_DESCRIPTOR_SET, pb::FILE_DESCRIPTOR_SET, v1alpha::FILE_DESCRIPTOR_SET] {
            index.read(set)?;
        }
        let ours = [
            HealthName::NAME,
            ServerReflectionServer::<Reflection>::NAME,
            ServerReflectionAlphaServer::<Reflection>::NAME,
        ];
        for name in services.iter().chain(&ours) {
            if !index.by_symbol.contains_key(*name) {
                return Err(BadDescriptors::Undescribed((*name).to_owned()));
            }
            index.services.push((*name).to_owned());
        }
        Ok(index)
    }

    /// A file that an earlier set brought is not taken again.
    fn read(&mut self, set: &[u8]) -> Result<(), BadDescriptors> {
        let mut read = Vec::new();
        for bytes in RawSet::decode(set)?.file {
            let file = FileDescriptorProto::decode(&*bytes)?;
            if self.by_name.contains_key(file.name()) {
                continue;
            }
            let at = self.files.len();
            self.by_name.insert(file.name().to_owned(), at);
            self.files.push(File { bytes, imports: Vec::new() });
            self.index(at, &file);
            read.push((at, file));
        }
        for (at, file) in read {
            for import in &file.dependency {
                let missing = || BadDescriptors::MissingImport { file: file.name().to_owned(), import: import.clone() };
                let import = *self.by_name.get(import).ok_or_else(missing)?;
                self.files[at].imports.push(import);
            }
        }
        Ok(())
    }

    fn index(&mut self, at: usize, file: &FileDescriptorProto) {
        let scope = file.package();
        file.message_type.iter().for_each(|it| self.index_message(at, scope, it));
        file.enum_type.iter().for_each(|it| self.index_enum(at, scope, it));
        file.extension.iter().for_each(|it| self.index_extension(at, scope, it));
        for service in &file.service {
            let name = self.symbol(at, scope, service.name());
            service.method.iter().for_each(|it| drop(self.symbol(at, &name, it.name())));
        }
    }

    fn index_message(&mut self, at: usize, scope: &str, message: &DescriptorProto) {
        let name = self.symbol(at, scope, message.name());
        message.field.iter().for_each(|it| drop(self.symbol(at, &name, it.name())));
        message.oneof_decl.iter().for_each(|it| drop(self.symbol(at, &name, it.name())));
        message.nested_type.iter().for_each(|it| self.index_message(at, &name, it));
        message.enum_type.iter().for_each(|it| self.index_enum(at, &name, it));
        message.extension.iter().for_each(|it| self.index_extension(at, &name, it));
    }

    /// The values of an enum are names beside it, not in it.
    fn index_enum(&mut self, at: usize, scope: &str, it: &EnumDescriptorProto) {
        self.symbol(at, scope, it.name());
        it.value.iter().for_each(|value| drop(self.symbol(at, scope, value.name())));
    }

    fn index_extension(&mut self, at: usize, scope: &str, field: &FieldDescriptorProto) {
        self.symbol(at, scope, field.name());
        let extended = field.extendee().trim_start_matches('.').to_owned();
        self.extensions.entry(extended).or_default().insert(field.number(), at);
    }

    fn symbol(&mut self, at: usize, scope: &str, name: &str) -> String {
        let full = if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") };
        self.by_symbol.insert(full.clone(), at);
        full
    }

    /// Answers one question of a stream that has carried the files `sent`, and adds to these.
    fn answer(&self, question: &Question, sent: &mut HashSet<usize>) -> Answer {
        let file = |at: Option<&usize>, sent: &mut _| match at {
            Some(at) => self.file_with_imports(*at, sent),
            None => not_found(question),
        };
        match question {
            Question::FileByFilename(name) => file(self.by_name.get(name), sent),
            Question::FileContainingSymbol(name) => file(self.by_symbol.get(name), sent),
            Question::FileContainingExtension(it) => {
                let numbers = self.extensions.get(&it.containing_type);
                file(numbers.and_then(|numbers| numbers.get(&it.extension_number)), sent)
            }
            Question::AllExtensionNumbersOfType(name) if self.by_symbol.contains_key(name) => {
                let numbers = self.extensions.get(name).into_iter().flat_map(BTreeMap::keys);
                Answer::AllExtensionNumbersResponse(pb::ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: numbers.copied().collect(),
                })
            }
            Question::AllExtensionNumbersOfType(_) => not_found(question),
            Question::ListServices(_) => {
                let service = self.services.iter().map(|name| pb::ServiceResponse { name: name.clone() }).collect();
                Answer::ListServicesResponse(pb::ListServiceResponse { service })
            }
        }
    }

    /// The file that was asked for comes first and always, what it needs only if the stream has not carried it yet.
    fn file_with_imports(&self, asked: usize, sent: &mut HashSet<usize>) -> Answer {
        sent.insert(asked);
        let mut order = vec![asked];
        let mut next = 0;
        while let Some(at) = order.get(next) {
            next += 1;
            for import in &self.files[*at].imports.clone() {
                if sent.insert(*import) {
                    order.push(*import);
                }
            }
        }
        let file_descriptor_proto = order.iter().map(|at| self.files[*at].bytes.clone()).collect();
        Answer::FileDescriptorResponse(pb::FileDescriptorResponse { file_descriptor_proto })
    }
}

type HealthName = tonic_health::pb::health_server::HealthServer<()>;

fn not_found(question: &Question) -> Answer {
    error(Code::NotFound, format!("not found: {question:?}"))
}

fn error(code: Code, error_message: String) -> Answer {
    Answer::ErrorResponse(pb::ErrorResponse { error_code: code.into(), error_message })
}

struct Reflection {
    descriptors: Arc<Descriptors>,
    shutdown: Shutdown,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Reflection {
    /// Ends with the caller's stream, or when the shutdown begins: nobody's question may hold the process.
    fn answers(
        &self,
        questions: impl Stream<Item = Result<pb::ServerReflectionRequest, Status>> + Send + 'static,
    ) -> Answers<pb::ServerReflectionResponse> {
        let (descriptors, shutdown) = (self.descriptors.clone(), self.shutdown.clone());
        let mut sent = HashSet::new();
        let answers = questions.map(move |request| {
            let request = request?;
            let answer = match &request.message_request {
                Some(question) => descriptors.answer(question, &mut sent),
                None => error(Code::InvalidArgument, "no question was asked".to_owned()),
            };
            Ok(pb::ServerReflectionResponse {
                valid_host: request.host.clone(),
                original_request: Some(request),
                message_response: Some(answer),
            })
        });
        answers.take_until(async move { shutdown.draining().await }).boxed()
    }
}

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<pb::ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<pb::ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        Ok(Response::new(self.answers(request.into_inner())))
    }
}

#[tonic::async_trait]
impl ServerReflectionAlpha for Reflection {
    type ServerReflectionInfoStream = Answers<v1alpha::ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<v1alpha::ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let questions = request.into_inner().map(|it| same_on_the_wire(&it?));
        Ok(Response::new(self.answers(questions).map(|it| same_on_the_wire(&it?)).boxed()))
    }
}

fn same_on_the_wire<A: Message, B: Message + Default>(message: &A) -> Result<B, Status> {
    B::decode(&*message.encode_to_vec()).map_err(|error| Status::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USERS: &[u8] = weft_proto::descriptors::SHOP_USERS;

    fn users() -> Descriptors {
        Descriptors::new(USERS, &["shop.users.v1.Users"]).unwrap()
    }

    fn files(answer: Answer) -> Vec<FileDescriptorProto> {
        match answer {
            Answer::FileDescriptorResponse(it) => {
                it.file_descriptor_proto.iter().map(|bytes| FileDescriptorProto::decode(&**bytes).unwrap()).collect()
            }
            other => panic!("expected files, got {other:?}"),
        }
    }

    fn names(answer: Answer) -> Vec<String> {
        files(answer).iter().map(|file| file.name().to_owned()).collect()
    }

    fn symbol(name: &str) -> Question {
        Question::FileContainingSymbol(name.to_owned())
    }

    #[test]
    fn every_kind_of_symbol_leads_to_its_file() {
        let index = users();
        for name in [
            "shop.users.v1.Users",
            "shop.users.v1.Users.GetUser",
            "shop.users.v1.User",
            "shop.users.v1.User.email",
            "google.api.http",
            "google.protobuf.FieldDescriptorProto.TYPE_DOUBLE",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        ] {
            files(index.answer(&symbol(name), &mut HashSet::new()));
        }
        let unknown = index.answer(&symbol("shop.users.v1.Nobody"), &mut HashSet::new());
        assert!(matches!(unknown, Answer::ErrorResponse(it) if it.error_code == Code::NotFound as i32));
    }

    #[test]
    fn a_file_comes_with_its_imports_and_a_stream_carries_each_once() {
        let (index, mut sent) = (users(), HashSet::new());
        let first = names(index.answer(&symbol("shop.users.v1.Users"), &mut sent));
        assert_eq!(first[0], "shop/users/v1/users.proto");
        for import in ["google/api/annotations.proto", "google/api/http.proto", "google/protobuf/descriptor.proto"] {
            assert!(first.iter().any(|name| name == import), "{import} is not in {first:?}");
        }
        let again = names(index.answer(&symbol("shop.users.v1.User"), &mut sent));
        assert_eq!(again, ["shop/users/v1/users.proto"]);
    }

    #[test]
    fn custom_options_arrive() {
        let index = users();
        let Answer::FileDescriptorResponse(it) = index.answer(&symbol("shop.users.v1.Users"), &mut HashSet::new())
        else {
            panic!("expected files");
        };
        let mut pool = prost_reflect::DescriptorPool::new();
        let set = RawSet { file: it.file_descriptor_proto }.encode_to_vec();
        pool.decode_file_descriptor_set(&*set).unwrap();
        let http = pool.get_extension_by_name("google.api.http").unwrap();
        let users = pool.get_service_by_name("shop.users.v1.Users").unwrap();
        assert!(users.methods().all(|method| method.options().has_extension(&http)));
    }

    #[test]
    fn extensions_are_found_by_what_they_extend() {
        let (index, extended) = (users(), "google.protobuf.MethodOptions".to_owned());
        let all = index.answer(&Question::AllExtensionNumbersOfType(extended.clone()), &mut HashSet::new());
        assert!(matches!(all, Answer::AllExtensionNumbersResponse(it) if it.extension_number == [72_295_728]));
        let one = pb::ExtensionRequest { containing_type: extended, extension_number: 72_295_728 };
        let file = names(index.answer(&Question::FileContainingExtension(one), &mut HashSet::new()));
        assert_eq!(file[0], "google/api/annotations.proto");
    }

    #[test]
    fn exactly_what_is_served_is_listed() {
        let Answer::ListServicesResponse(list) =
            users().answer(&Question::ListServices(String::new()), &mut HashSet::new())
        else {
            panic!("expected a list");
        };
        let names: Vec<_> = list.service.iter().map(|it| it.name.as_str()).collect();
        let ours = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        assert_eq!(names, [&["shop.users.v1.Users"][..], &ours].concat());
    }

    #[test]
    fn a_set_that_does_not_fit_is_refused() {
        assert!(matches!(Descriptors::new(b"no set", &[]), Err(BadDescriptors::Encoding(_))));
        let missing = Descriptors::new(USERS, &["shop.posts.v1.Posts"]);
        assert!(matches!(missing, Err(BadDescriptors::Undescribed(name)) if name == "shop.posts.v1.Posts"));
        let mut set = RawSet::decode(USERS).unwrap();
        set.file.retain(|bytes| FileDescriptorProto::decode(&**bytes).unwrap().name() == "shop/users/v1/users.proto");
        assert!(matches!(Descriptors::new(&set.encode_to_vec(), &[]), Err(BadDescriptors::MissingImport { .. })));
    }
}
