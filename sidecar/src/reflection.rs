//! The app's descriptors, asked of its own reflection on loopback.
//!
//! Lives here: the questions, and the way from v1 to v1alpha. Does not: what is done with the set (`lifecycle`), its digest
//! (`weft-discovery`).
//! Files stay raw bytes; they are decoded only to learn their names and what they import. v1 and v1alpha are the same bytes on another
//! path (grpc/reflection/v1/reflection.proto, v1alpha), so one client speaks both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message;
use prost_types::FileDescriptorProto;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest as Ask;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse as Answer;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};
use weft_discovery::{BadDescriptors, DescriptorSet};

const PATHS: [&str; 2] = [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];
/// Files of one app; more is a mistake or an attack.
const MAX_FILES: usize = 2_000;
const MAX_ANSWER: usize = 32 << 20;

/// Why an app's descriptors are not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The app has no reflection. Its methods are called without knowing them.
    #[error("the app does not offer gRPC reflection")]
    Unimplemented,
    /// It lists nothing but `grpc.*`.
    #[error("the app's reflection lists no service")]
    NoService,
    #[error("the app's reflection lacks {what}: {problem}")]
    Missing { what: String, problem: String },
    #[error("the app's reflection answers something else than asked for")]
    Confused,
    #[error("the app's reflection lists more than {MAX_FILES} files")]
    TooMany,
    #[error("the app's reflection failed: {}", .0.message())]
    Rpc(#[source] Box<Status>),
    #[error("the app's reflection took longer than {0:?}")]
    Slow(Duration),
    #[error(transparent)]
    Set(#[from] BadDescriptors),
}

impl Error {
    /// Whether this is how the app is, and not how it was just then.
    pub(crate) fn is_an_answer(&self) -> bool {
        match self {
            Self::Unimplemented | Self::NoService | Self::TooMany | Self::Set(_) => true,
            Self::Missing { .. } | Self::Confused | Self::Rpc(_) | Self::Slow(_) => false,
        }
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unimplemented => Self::Unimplemented,
            _ => Self::Rpc(Box::new(status)),
        }
    }
}

/// Returns every file that the app's services need.
pub(crate) async fn read(app: SocketAddr, within: Duration) -> Result<DescriptorSet, Error> {
    timeout(within, read_any(app)).await.unwrap_or(Err(Error::Slow(within)))
}

async fn read_any(app: SocketAddr) -> Result<DescriptorSet, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{app}")).expect("an address makes a URL");
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let [v1, v1alpha] = PATHS;
    match Session::open(channel.clone(), v1).await {
        Err(Error::Unimplemented) => Session::open(channel, v1alpha).await?.read().await,
        opened => match opened?.read().await {
            // Servers built on streams refuse a path only when the first answer is due.
            Err(Error::Unimplemented) => Session::open(channel, v1alpha).await?.read().await,
            read => read,
        },
    }
}

/// One reflection stream: question, answer, question.
struct Session {
    questions: mpsc::Sender<ServerReflectionRequest>,
    answers: Streaming<ServerReflectionResponse>,
    files: BTreeMap<String, Bytes>,
    imports: BTreeSet<String>,
}

impl Session {
    async fn open(channel: Channel, path: &'static str) -> Result<Self, Error> {
        let (questions, queue) = mpsc::channel(1);
        // Some servers send headers only with the first answer, so the first question must not wait for them.
        questions.try_send(question(Ask::ListServices(String::new()))).expect("the queue is new and empty");
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
        client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let request = Request::new(ReceiverStream::new(queue));
        let answers = client.streaming(request, PathAndQuery::from_static(path), ProstCodec::default()).await?;
        Ok(Self { questions, answers: answers.into_inner(), files: BTreeMap::new(), imports: BTreeSet::new() })
    }

    async fn read(mut self) -> Result<DescriptorSet, Error> {
        let Answer::ListServicesResponse(list) = self.answer("its list of services").await? else {
            return Err(Error::Confused);
        };
        let services: Vec<_> =
            list.service.into_iter().map(|service| service.name).filter(|name| !name.starts_with("grpc.")).collect();
        if services.is_empty() {
            return Err(Error::NoService);
        }
        for service in &services {
            self.fetch(Ask::FileContainingSymbol(service.clone()), service).await?;
        }
        while let Some(import) = self.imports.iter().find(|import| !self.files.contains_key(*import)).cloned() {
            match self.fetch(Ask::FileByFilename(import.clone()), &import).await {
                Err(Error::Missing { problem, .. }) => self.well_known(&import, problem)?,
                fetched => fetched?,
            }
            if !self.files.contains_key(&import) {
                return Err(Error::Confused);
            }
        }
        Ok(DescriptorSet::new(self.files.into_values())?.serving(services))
    }

    async fn fetch(&mut self, ask: Ask, what: &str) -> Result<(), Error> {
        // The stream's own answer tells better what went wrong than a closed queue.
        let _ = self.questions.send(question(ask)).await;
        let Answer::FileDescriptorResponse(files) = self.answer(what).await? else { return Err(Error::Confused) };
        files.file_descriptor_proto.into_iter().try_for_each(|file| self.take(file.into()))
    }

    async fn answer(&mut self, what: &str) -> Result<Answer, Error> {
        let message = self.answers.message().await?.ok_or_else(|| Status::unavailable("the app ended the stream"))?;
        match message.message_response {
            Some(Answer::ErrorResponse(error)) => {
                Err(Error::Missing { what: what.to_owned(), problem: error.error_message })
            }
            Some(answer) => Ok(answer),
            None => Err(Error::Confused),
        }
    }

    fn take(&mut self, bytes: Bytes) -> Result<(), Error> {
        let index = self.files.len();
        let file =
            FileDescriptorProto::decode(bytes.as_ref()).map_err(|source| BadDescriptors::File { index, source })?;
        self.imports.extend(file.dependency);
        self.files.insert(file.name.unwrap_or_default(), bytes);
        if self.files.len() > MAX_FILES { Err(Error::TooMany) } else { Ok(()) }
    }

    /// `google/protobuf/*` comes with every protobuf library, and some servers' reflection leaves it out.
    fn well_known(&mut self, name: &str, problem: String) -> Result<(), Error> {
        let pool = prost_reflect::DescriptorPool::global();
        let Some(file) = pool.get_file_by_name(name).filter(|_| name.starts_with("google/protobuf/")) else {
            return Err(Error::Missing { what: name.to_owned(), problem });
        };
        self.take(file.file_descriptor_proto().encode_to_vec().into())
    }
}

fn question(ask: Ask) -> ServerReflectionRequest {
    ServerReflectionRequest { host: String::new(), message_request: Some(ask) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::Server;
    use tonic::transport::server::Router;
    use tonic_reflection::server::Builder;

    const WITHIN: Duration = Duration::from_secs(20);

    async fn asked(server: Router) -> Result<DescriptorSet, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        read(app, WITHIN).await
    }

    fn offering(sets: &[&'static [u8]]) -> Builder<'static> {
        sets.iter().fold(Builder::configure(), |builder, set| builder.register_encoded_file_descriptor_set(set))
    }

    fn names(set: &DescriptorSet) -> Vec<String> {
        set.files().map(|file| FileDescriptorProto::decode(file.as_ref()).unwrap().name.unwrap()).collect()
    }

    #[tokio::test]
    async fn every_import_is_fetched_and_grpcs_own_services_are_not() {
        let sets = [weft_proto::descriptors::TESTKIT, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let set = asked(Server::builder().add_service(offering(&sets).build_v1().unwrap())).await.unwrap();
        assert_eq!(set.services(), ["weft.testkit.v1.Echo"]);
        for import in ["google/api/annotations.proto", "google/api/http.proto", "google/protobuf/descriptor.proto"] {
            assert!(names(&set).contains(&import.to_owned()), "{import} of {:?}", names(&set));
        }
    }

    #[tokio::test]
    async fn a_service_that_is_only_imported_is_not_said_to_be_served() {
        let offering = offering(&[weft_proto::descriptors::FOREIGN]).with_service_name("weft.testkit.v1.Foreign");
        let set = asked(Server::builder().add_service(offering.build_v1().unwrap())).await.unwrap();
        assert!(names(&set).contains(&"weft/testkit/v1/echo.proto".to_owned()), "{:?}", names(&set));
        assert_eq!(set.services(), ["weft.testkit.v1.Foreign"]);
    }

    #[tokio::test]
    async fn an_app_that_knows_only_v1alpha_is_asked_that_way() {
        let sets = [weft_proto::descriptors::SHOP_USERS];
        let set = asked(Server::builder().add_service(offering(&sets).build_v1alpha().unwrap())).await.unwrap();
        assert_eq!(set.services(), ["shop.users.v1.Users"]);
    }

    #[tokio::test]
    async fn an_app_without_reflection_or_without_services_is_told_apart() {
        let (_reporter, health) = tonic_health::server::health_reporter();
        let without = asked(Server::builder().add_service(health)).await;
        assert!(matches!(without, Err(Error::Unimplemented)), "{without:?}");
        let sets = [tonic_health::pb::FILE_DESCRIPTOR_SET];
        let nothing = asked(Server::builder().add_service(offering(&sets).build_v1().unwrap())).await;
        assert!(matches!(nothing, Err(Error::NoService)), "{nothing:?}");
    }
}
