//! Server reflection for the whole mesh, v1 and v1alpha, from the live descriptor sets.
//!
//! Lives here: answering one question of a reflection stream. Does not: linking descriptors (`routes::sets`), choosing who may ask.
//! Two services may each own a `common.proto`: within a stream, a file name means the file of the set that answered last, else the first owner's.
//! The two versions have the same wire format, so v1alpha is served by the v1 code under another path.
//! Source: grpc/reflection/v1/reflection.proto.

use std::{collections::HashSet, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use prost_reflect::{DescriptorPool, FileDescriptor};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::{
    v1::{
        ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
        ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
        server_reflection_server::{ServerReflection, ServerReflectionServer},
    },
    v1alpha,
};
use weft_discovery::DescriptorSet;

use crate::routes::{Table, keeper::Published, sets::LinkedSet};

/// `:path` of the v1 stream.
pub(crate) const V1: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// `:path` of the v1alpha stream.
pub(crate) const V1ALPHA: &str = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

/// The reflection service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Reflection {
    table: Published,
    own: Arc<[Arc<LinkedSet>]>,
}

impl Reflection {
    pub(crate) fn new(table: Published) -> Self {
        let own = [
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            v1alpha::FILE_DESCRIPTOR_SET,
        ];
        let link = |set: &[u8]| {
            let files = DescriptorSet::from_encoded_set(set).expect("tonic publishes readable descriptors");
            Arc::new(LinkedSet::link(&files).expect("tonic publishes descriptors that link"))
        };
        Self { table, own: own.into_iter().map(link).collect() }
    }

    /// Returns the service as tonic serves it.
    pub(crate) fn server(&self) -> ServerReflectionServer<Self> {
        ServerReflectionServer::new(self.clone())
    }

    fn start(&self) -> Conversation {
        Conversation { reflection: self.clone(), last: None, sent: HashSet::new() }
    }
}

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream = Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let mut conversation = self.start();
        let answers = request.into_inner().map(move |asked| Ok(conversation.answer(asked?)));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// One stream: remembers which set answered, and what was sent of it.
struct Conversation {
    reflection: Reflection,
    last: Option<Arc<LinkedSet>>,
    sent: HashSet<String>,
}

impl Conversation {
    fn answer(&mut self, asked: ServerReflectionRequest) -> ServerReflectionResponse {
        let table = self.reflection.table.load_full();
        let sets = self.sets(table.as_deref());
        let answer = match &asked.message_request {
            Some(MessageRequest::ListServices(_)) => Ok(self.list(table.as_deref())),
            Some(MessageRequest::FileByFilename(name)) => {
                self.file(&sets, &format!("file {name:?}"), |pool| pool.get_file_by_name(name))
            }
            Some(MessageRequest::FileContainingSymbol(symbol)) => {
                let owner = owner(table.as_deref(), symbol);
                let sets: Vec<_> = owner.into_iter().chain(sets).collect();
                self.file(&sets, &format!("symbol {symbol:?}"), |pool| file_of_symbol(pool, symbol))
            }
            Some(MessageRequest::FileContainingExtension(it)) => {
                let what = format!("extension {} of {:?}", it.extension_number, it.containing_type);
                self.file(&sets, &what, |pool| {
                    let number = u32::try_from(it.extension_number).ok()?;
                    Some(pool.get_message_by_name(&it.containing_type)?.get_extension(number)?.parent_file())
                })
            }
            Some(MessageRequest::AllExtensionNumbersOfType(name)) => extension_numbers(&sets, name),
            None => Err((Code::InvalidArgument, "message_request is not set".to_owned())),
        };
        let answer = answer.unwrap_or_else(|(code, error_message)| {
            MessageResponse::ErrorResponse(ErrorResponse { error_code: code.into(), error_message })
        });
        ServerReflectionResponse {
            valid_host: asked.host.clone(),
            original_request: Some(asked),
            message_response: Some(answer),
        }
    }

    /// All sets, the one that answered last first.
    fn sets(&self, table: Option<&Table>) -> Vec<Arc<LinkedSet>> {
        let live = table.into_iter().flat_map(Table::entries).filter_map(|entry| entry.set.clone());
        self.last.iter().cloned().chain(live).chain(self.reflection.own.iter().cloned()).collect()
    }

    fn list(&self, table: Option<&Table>) -> MessageResponse {
        let live = table.into_iter().flat_map(Table::entries).flat_map(|entry| &entry.info.grpc_services);
        let own = self.reflection.own.iter().flat_map(|set| set.schema().services());
        let mut names: Vec<String> = live.map(|service| service.name.clone()).chain(own).collect();
        names.sort_unstable();
        let service = names.into_iter().map(|name| ServiceResponse { name }).collect();
        MessageResponse::ListServicesResponse(ListServiceResponse { service })
    }

    /// Answers with the first file found, and those it imports that this stream has not seen yet.
    fn file(
        &mut self,
        sets: &[Arc<LinkedSet>],
        what: &str,
        find: impl Fn(&DescriptorPool) -> Option<FileDescriptor>,
    ) -> Result<MessageResponse, (Code, String)> {
        let found = sets.iter().find_map(|set| Some((set, find(set.pool())?)));
        let (set, file) = found.ok_or_else(|| (Code::NotFound, format!("no service of the mesh has {what}")))?;
        if self.last.as_ref().is_none_or(|last| last.digest() != set.digest()) {
            self.sent.clear();
            self.last = Some(Arc::clone(set));
        }
        self.sent.insert(file.name().to_owned());
        let mut names = vec![file.name().to_owned()];
        collect_unsent(&file, &mut self.sent, &mut names);
        let files = names.iter().filter_map(|name| Some(set.file(name)?.to_vec())).collect();
        Ok(MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto: files }))
    }
}

fn collect_unsent(file: &FileDescriptor, sent: &mut HashSet<String>, names: &mut Vec<String>) {
    for import in file.dependencies() {
        if sent.insert(import.name().to_owned()) {
            names.push(import.name().to_owned());
            collect_unsent(&import, sent, names);
        }
    }
}

/// The set of the service that owns a gRPC service, or the one a method's name starts with.
fn owner(table: Option<&Table>, symbol: &str) -> Option<Arc<LinkedSet>> {
    let owns = |name: &str| symbol.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    let mut entries = table?.entries().iter();
    let entry = entries.find(|entry| entry.info.grpc_services.iter().any(|service| owns(&service.name)))?;
    entry.set.clone()
}

/// The file that declares a service, message, enum, extension, method, field, oneof or enum value.
fn file_of_symbol(pool: &DescriptorPool, symbol: &str) -> Option<FileDescriptor> {
    if let Some(it) = pool.get_service_by_name(symbol) {
        return Some(it.parent_file());
    }
    if let Some(it) = pool.get_message_by_name(symbol) {
        return Some(it.parent_file());
    }
    if let Some(it) = pool.get_enum_by_name(symbol) {
        return Some(it.parent_file());
    }
    if let Some(it) = pool.get_extension_by_name(symbol) {
        return Some(it.parent_file());
    }
    let (parent, name) = symbol.rsplit_once('.')?;
    if let Some(it) = pool.get_service_by_name(parent) {
        return it.methods().any(|method| method.name() == name).then(|| it.parent_file());
    }
    if let Some(it) = pool.get_message_by_name(parent) {
        let known = it.get_field_by_name(name).is_some() || it.oneofs().any(|oneof| oneof.name() == name);
        return known.then(|| it.parent_file());
    }
    // The full name of an enum value is in the scope of its enum's parent; clients ask for both forms.
    if let Some(it) = pool.get_enum_by_name(parent) {
        return it.get_value_by_name(name).map(|_| it.parent_file());
    }
    let beside =
        pool.all_enums().filter(|it| it.full_name().rsplit_once('.').is_some_and(|(scope, _)| scope == parent));
    beside.into_iter().find(|it| it.get_value_by_name(name).is_some()).map(|it| it.parent_file())
}

fn extension_numbers(sets: &[Arc<LinkedSet>], name: &str) -> Result<MessageResponse, (Code, String)> {
    let mut known = false;
    let mut numbers = std::collections::BTreeSet::new();
    for message in sets.iter().filter_map(|set| set.pool().get_message_by_name(name)) {
        known = true;
        numbers.extend(message.extensions().filter_map(|it| i32::try_from(it.number()).ok()));
    }
    if !known {
        return Err((Code::NotFound, format!("no service of the mesh has message {name:?}")));
    }
    Ok(MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
        base_type_name: name.to_owned(),
        extension_number: numbers.into_iter().collect(),
    }))
}
