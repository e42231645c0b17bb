//! grpc.reflection v1 and v1alpha: one conversation for each stream.
//!
//! Lives here: answering questions, what a stream has carried already. Does not: finding files (`descriptors`), which sets there are ([`Sets`]).
//! Why not tonic-reflection's own server: it has one set for ever, knows no extensions, sends a file without its imports, and answers from free
//! tasks that hold the graceful end for as long as a caller keeps its stream.
//! Two sets may each own a `common.proto`: within a stream, the set that answered last is asked first.
//! Simplifying assumption: the two versions are the same on the wire (they are), so v1alpha is answered by re-reading v1.
//! Source: grpc/reflection/v1/reflection.proto; like grpc-go, a file comes with those imports the stream has not carried yet.

use std::collections::{BTreeSet, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Question;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Answer;
use tonic_reflection::pb::v1::server_reflection_server::{ServerReflection, ServerReflectionServer};
use tonic_reflection::pb::v1alpha::server_reflection_server::{
    ServerReflection as ServerReflectionAlpha, ServerReflectionServer as ServerReflectionAlphaServer,
};
use tonic_reflection::pb::{v1 as pb, v1alpha};

use crate::descriptors::{BadDescriptors, COMMON, Descriptors};

/// The descriptor sets that a server answers from. Asked for each question, so that the sets may change.
pub trait Sets: Send + Sync + 'static {
    /// The gRPC services that are offered, besides health and reflection.
    fn services(&self) -> Vec<String>;

    /// The sets in the order in which they are asked.
    fn sets(&self) -> Vec<Arc<Descriptors>>;

    /// The set that is asked for a symbol before all others.
    fn owner(&self, _symbol: &str) -> Option<Arc<Descriptors>> {
        None
    }
}

/// One set that stays.
struct One {
    services: Vec<String>,
    set: Arc<Descriptors>,
}

impl Sets for One {
    fn services(&self) -> Vec<String> {
        self.services.clone()
    }

    fn sets(&self) -> Vec<Arc<Descriptors>> {
        vec![Arc::clone(&self.set)]
    }
}

/// The reflection of a server. Cheap to clone.
#[derive(Clone)]
pub struct Reflection {
    sets: Arc<dyn Sets>,
    common: Arc<Descriptors>,
    leaving: CancellationToken,
}

impl Reflection {
    /// Reflects `services`, described by the encoded `FileDescriptorSet`s, beside health and reflection, until `leaving`.
    ///
    /// # Errors
    /// Sets that are none, lack an import or do not describe a service.
    pub fn new(sets: &[&[u8]], services: &[&str], leaving: CancellationToken) -> Result<Self, BadDescriptors> {
        let set = Descriptors::of_sets(sets)?;
        let services: Vec<_> = services.iter().map(|name| (*name).to_owned()).collect();
        if let Some(undescribed) = services.iter().find(|name| set.by_symbol(name).is_none()) {
            return Err(BadDescriptors::Undescribed(undescribed.clone()));
        }
        Ok(Self::of(One { services, set: Arc::new(set) }, leaving))
    }

    /// Reflects what `sets` offers, beside health and reflection, until `leaving`.
    pub fn of(sets: impl Sets, leaving: CancellationToken) -> Self {
        Self { sets: Arc::new(sets), common: Arc::new(Descriptors::common()), leaving }
    }

    /// Returns version 1 as tonic serves it.
    pub fn v1(&self) -> ServerReflectionServer<Self> {
        ServerReflectionServer::new(self.clone())
    }

    /// Returns version 1alpha as tonic serves it.
    pub fn v1alpha(&self) -> ServerReflectionAlphaServer<Self> {
        ServerReflectionAlphaServer::new(self.clone())
    }

    /// Ends with the caller's stream, or when the server leaves.
    fn answers(
        &self,
        questions: impl Stream<Item = Result<pb::ServerReflectionRequest, Status>> + Send + 'static,
    ) -> Answers<pb::ServerReflectionResponse> {
        let mut conversation = Conversation::new(self);
        let answers = questions.map(move |request| {
            let request = request?;
            Ok(pb::ServerReflectionResponse {
                valid_host: request.host.clone(),
                message_response: Some(conversation.answer(request.message_request.as_ref())),
                original_request: Some(request),
            })
        });
        answers.take_until(self.leaving.clone().cancelled_owned()).boxed()
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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

/// One stream: remembers which set answered, and which of its files were sent.
struct Conversation {
    reflection: Reflection,
    last: Option<Arc<Descriptors>>,
    sent: HashSet<usize>,
}

impl Conversation {
    fn new(reflection: &Reflection) -> Self {
        Self { reflection: reflection.clone(), last: None, sent: HashSet::new() }
    }

    fn answer(&mut self, question: Option<&Question>) -> Answer {
        let Some(question) = question else {
            return error(Code::InvalidArgument, "no question was asked".to_owned());
        };
        let answer = match question {
            Question::ListServices(_) => Some(self.list()),
            Question::FileByFilename(name) => self.file(None, |set| set.by_name(name)),
            Question::FileContainingSymbol(name) => {
                self.file(self.reflection.sets.owner(name), |set| set.by_symbol(name))
            }
            Question::FileContainingExtension(it) => {
                self.file(None, |set| set.by_extension(&it.containing_type, it.extension_number))
            }
            Question::AllExtensionNumbersOfType(name) => self.extension_numbers(name),
        };
        answer.unwrap_or_else(|| error(Code::NotFound, format!("not found: {question:?}")))
    }

    /// Each name once, although two sets may describe it.
    fn list(&self) -> Answer {
        let common = COMMON.map(str::to_owned);
        let names: BTreeSet<String> = self.reflection.sets.services().into_iter().chain(common).collect();
        let service = names.into_iter().map(|name| pb::ServiceResponse { name }).collect();
        Answer::ListServicesResponse(pb::ListServiceResponse { service })
    }

    fn sets(&self) -> impl Iterator<Item = Arc<Descriptors>> + use<> {
        self.reflection.sets.sets().into_iter().chain([Arc::clone(&self.reflection.common)])
    }

    /// Answers with the first file found, `owner` and the set that answered last being asked before all others.
    fn file(
        &mut self,
        owner: Option<Arc<Descriptors>>,
        find: impl Fn(&Descriptors) -> Option<usize>,
    ) -> Option<Answer> {
        let asked = owner.into_iter().chain(self.last.clone()).chain(self.sets());
        let (at, set) = asked.into_iter().find_map(|set| Some((find(&set)?, set)))?;
        if self.last.as_ref().is_none_or(|last| !Arc::ptr_eq(last, &set)) {
            self.sent.clear();
            self.last = Some(Arc::clone(&set));
        }
        let file_descriptor_proto = set.with_imports(at, &mut self.sent);
        Some(Answer::FileDescriptorResponse(pb::FileDescriptorResponse { file_descriptor_proto }))
    }

    fn extension_numbers(&self, message: &str) -> Option<Answer> {
        let sets: Vec<_> = self.sets().collect();
        let known: Vec<_> = sets.iter().filter_map(|set| set.extension_numbers(message)).collect();
        let numbers: BTreeSet<i32> = (!known.is_empty()).then(|| known.into_iter().flatten().collect())?;
        Some(Answer::AllExtensionNumbersResponse(pb::ExtensionNumberResponse {
            base_type_name: message.to_owned(),
            extension_number: numbers.into_iter().collect(),
        }))
    }
}

fn error(code: Code, error_message: String) -> Answer {
    Answer::ErrorResponse(pb::ErrorResponse { error_code: code.into(), error_message })
}

#[cfg(test)]
mod tests;
