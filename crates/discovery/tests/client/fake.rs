//! A registry that does only what the test says: every stream and call is handed to the test, which answers.
//!
//! Lives here: the server, killing it, waiting with a deadline. Does not: any rule of a registry.

use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;
use tonic::{Request, Response, Status, Streaming};
use weft_discovery::{Registries, RegistryUrls};
use weft_identity::{Callers, Identity};
use weft_proto::weft::discovery::v1::{self as discovery, discovery_server};
use weft_proto::weft::registry::v1::{self as registry, registry_server};
use weft_runtime::listen::ListenAddr;

/// Longest wait of a test for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Waits for what must come, naming it.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(LIMIT, future).await.unwrap_or_else(|_| panic!("waited {LIMIT:?} for {what}"))
}

type Streamed<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

/// A stream that a client opened: what it sends, and where the test answers.
pub(crate) struct Stream<In, Out> {
    requests: Streaming<In>,
    answers: mpsc::Sender<Result<Out, Status>>,
}

impl<In, Out> Stream<In, Out> {
    pub(crate) async fn request(&mut self) -> In {
        soon("a request", self.requests.message()).await.expect("the stream lives").expect("the stream goes on")
    }

    pub(crate) async fn answer(&self, answer: Out) {
        self.answers.send(Ok(answer)).await.map_err(drop).expect("the client listens");
    }

    /// Whether the client is still there; what it has sent and nobody has read is not asked for any more.
    pub(crate) async fn stays(&mut self) -> bool {
        timeout(Duration::from_millis(200), self.requests.message()).await.is_err()
    }

    /// Waits until the client has left.
    pub(crate) async fn left(mut self) {
        soon("the client to leave", async { while let Ok(Some(_)) = self.requests.message().await {} }).await;
    }
}

pub(crate) type Watching = Stream<discovery::WatchRequest, discovery::WatchResponse>;
pub(crate) type KeepingAlive = Stream<registry::KeepAliveRequest, registry::KeepAliveResponse>;

/// A call that waits for the test's answer.
pub(crate) struct Call<In, Out> {
    pub(crate) request: In,
    reply: oneshot::Sender<Result<Out, Status>>,
}

impl<In, Out> Call<In, Out> {
    pub(crate) fn answer(self, answer: Result<Out, Status>) {
        let _ = self.reply.send(answer); // a client that has given up does not fail the test here
    }
}

/// Everything clients ask, in queues by method.
#[derive(Clone)]
struct Asked {
    watches: mpsc::Sender<Watching>,
    keep_alives: mpsc::Sender<KeepingAlive>,
    registers: mpsc::Sender<Call<registry::RegisterRequest, registry::RegisterResponse>>,
    deregisters: mpsc::Sender<Call<registry::DeregisterRequest, registry::DeregisterResponse>>,
    drains: mpsc::Sender<Call<registry::DrainRequest, registry::DrainResponse>>,
    missing: mpsc::Sender<Call<registry::MissingDescriptorsRequest, registry::MissingDescriptorsResponse>>,
    puts: mpsc::Sender<Call<registry::PutDescriptorsRequest, registry::PutDescriptorsResponse>>,
    descriptors: mpsc::Sender<Call<discovery::DescriptorsRequest, discovery::DescriptorsResponse>>,
}

/// The registry as the test sees it.
pub(crate) struct Fake {
    pub(crate) at: SocketAddr,
    server: Option<Runtime>,
    pub(crate) watches: mpsc::Receiver<Watching>,
    pub(crate) keep_alives: mpsc::Receiver<KeepingAlive>,
    pub(crate) registers: mpsc::Receiver<Call<registry::RegisterRequest, registry::RegisterResponse>>,
    pub(crate) deregisters: mpsc::Receiver<Call<registry::DeregisterRequest, registry::DeregisterResponse>>,
    pub(crate) drains: mpsc::Receiver<Call<registry::DrainRequest, registry::DrainResponse>>,
    pub(crate) missing: mpsc::Receiver<Call<registry::MissingDescriptorsRequest, registry::MissingDescriptorsResponse>>,
    pub(crate) puts: mpsc::Receiver<Call<registry::PutDescriptorsRequest, registry::PutDescriptorsResponse>>,
    pub(crate) descriptors: mpsc::Receiver<Call<discovery::DescriptorsRequest, discovery::DescriptorsResponse>>,
}

impl Fake {
    /// At a port that nobody else is given while it is killed.
    pub(crate) async fn start() -> Self {
        Self::start_at(ListenAddr::loopback(0).lasting().get()).await
    }

    pub(crate) async fn start_at(at: SocketAddr) -> Self {
        Self::begin(at, None).await
    }

    /// By TLS, for callers that `identity` lets in.
    pub(crate) async fn start_as(identity: &Identity) -> Self {
        Self::begin("127.0.0.1:0".parse().unwrap(), Some(identity.clone())).await
    }

    async fn begin(at: SocketAddr, identity: Option<Identity>) -> Self {
        let (watches, got_watches) = mpsc::channel(8);
        let (keep_alives, got_keep_alives) = mpsc::channel(8);
        let (registers, got_registers) = mpsc::channel(8);
        let (deregisters, got_deregisters) = mpsc::channel(8);
        let (drains, got_drains) = mpsc::channel(8);
        let (missing, got_missing) = mpsc::channel(8);
        let (puts, got_puts) = mpsc::channel(8);
        let (descriptors, got_descriptors) = mpsc::channel(8);
        let asked = Asked { watches, keep_alives, registers, deregisters, drains, missing, puts, descriptors };
        // A runtime of its own: ending it ends every connection at once, as a killed process would.
        let server = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (bound, addr) = oneshot::channel();
        server.spawn(async move {
            let listener = loop {
                // The one killed before may need a moment to give the port back.
                match TcpListener::bind(at).await {
                    Ok(listener) => break listener,
                    Err(_) => tokio::task::yield_now().await,
                }
            };
            bound.send(listener.local_addr().unwrap()).unwrap();
            let services = Routes::new(registry_server::RegistryServer::new(asked.clone()))
                .add_service(discovery_server::DiscoveryServer::new(asked))
                .prepare();
            serve(listener, identity, services).await;
        });
        Self {
            at: soon("the port", addr).await.unwrap(),
            server: Some(server),
            watches: got_watches,
            keep_alives: got_keep_alives,
            registers: got_registers,
            deregisters: got_deregisters,
            drains: got_drains,
            missing: got_missing,
            puts: got_puts,
            descriptors: got_descriptors,
        }
    }

    pub(crate) fn registries(&self) -> Registries {
        registries(&[self.at])
    }

    /// The way to it by TLS.
    pub(crate) fn secured(&self, identity: &Identity) -> Registries {
        Registries::secured(&format!("https://{}", self.at).parse::<RegistryUrls>().unwrap(), identity)
    }

    /// Ends the server as `kill -9` would and returns where it was.
    pub(crate) fn kill(self) -> SocketAddr {
        self.at
    }

    pub(crate) async fn watch(&mut self) -> Watching {
        soon("a watch", self.watches.recv()).await.expect("the server lives")
    }

    pub(crate) async fn keep_alive(&mut self) -> KeepingAlive {
        soon("a keep-alive stream", self.keep_alives.recv()).await.expect("the server lives")
    }

    pub(crate) async fn register(&mut self) -> Call<registry::RegisterRequest, registry::RegisterResponse> {
        soon("a registration", self.registers.recv()).await.expect("the server lives")
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

pub(crate) fn registries(all: &[SocketAddr]) -> Registries {
    let urls = all.iter().map(|at| format!("http://{at}")).collect::<Vec<_>>().join(",");
    Registries::new(&urls.parse::<RegistryUrls>().unwrap())
}

async fn serve(listener: TcpListener, identity: Option<Identity>, services: Routes) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (identity, service) = (identity.clone(), TowerToHyperService::new(services.clone()));
        connections.spawn(async move {
            let http = http2::Builder::new(TokioExecutor::new());
            match identity {
                None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                Some(identity) => {
                    let acceptor = TlsAcceptor::from(identity.server_config(Callers::MustShow));
                    let Ok(tls) = acceptor.accept(stream).await else { return };
                    drop(http.serve_connection(TokioIo::new(tls), service).await);
                }
            }
        });
    }
}

async fn open<In, Out: Send + 'static>(
    requests: Request<Streaming<In>>,
    to: &mpsc::Sender<Stream<In, Out>>,
) -> Result<Response<Streamed<Out>>, Status> {
    let (answers, stream) = mpsc::channel(8);
    to.send(Stream { requests: requests.into_inner(), answers }).await.map_err(|_| Status::unavailable("over"))?;
    Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
}

async fn ask<In, Out>(request: Request<In>, to: &mpsc::Sender<Call<In, Out>>) -> Result<Response<Out>, Status> {
    let (reply, answer) = oneshot::channel();
    let call = Call { request: request.into_inner(), reply };
    to.send(call).await.map_err(|_| Status::unavailable("over"))?;
    answer.await.map_err(|_| Status::unavailable("the test did not answer"))?.map(Response::new)
}

#[tonic::async_trait]
impl discovery_server::Discovery for Asked {
    type WatchStream = Streamed<discovery::WatchResponse>;
    type ClientsStream = Streamed<discovery::Client>;

    async fn clients(&self, _: Request<discovery::ClientsRequest>) -> Result<Response<Self::ClientsStream>, Status> {
        Err(Status::unimplemented("nobody asks for it here"))
    }

    async fn watch(
        &self,
        request: Request<Streaming<discovery::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        open(request, &self.watches).await
    }

    async fn list(&self, _: Request<discovery::ListRequest>) -> Result<Response<discovery::ListResponse>, Status> {
        Err(Status::unimplemented("no client of ours lists"))
    }

    async fn claims(
        &self,
        _: Request<discovery::ClaimsRequest>,
    ) -> Result<Response<discovery::ClaimsResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it here"))
    }

    async fn descriptors(
        &self,
        request: Request<discovery::DescriptorsRequest>,
    ) -> Result<Response<discovery::DescriptorsResponse>, Status> {
        ask(request, &self.descriptors).await
    }
}

#[tonic::async_trait]
impl registry_server::Registry for Asked {
    type KeepAliveStream = Streamed<registry::KeepAliveResponse>;

    async fn register(
        &self,
        request: Request<registry::RegisterRequest>,
    ) -> Result<Response<registry::RegisterResponse>, Status> {
        ask(request, &self.registers).await
    }

    async fn register_all(
        &self,
        _: Request<registry::RegisterAllRequest>,
    ) -> Result<Response<registry::RegisterAllResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it here"))
    }

    async fn keep_alive(
        &self,
        request: Request<Streaming<registry::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        open(request, &self.keep_alives).await
    }

    async fn deregister(
        &self,
        request: Request<registry::DeregisterRequest>,
    ) -> Result<Response<registry::DeregisterResponse>, Status> {
        ask(request, &self.deregisters).await
    }

    async fn set_status(
        &self,
        _: Request<registry::SetStatusRequest>,
    ) -> Result<Response<registry::SetStatusResponse>, Status> {
        Err(Status::unimplemented("no client of ours sets a status by hand"))
    }

    async fn drain(
        &self,
        request: Request<registry::DrainRequest>,
    ) -> Result<Response<registry::DrainResponse>, Status> {
        ask(request, &self.drains).await
    }

    async fn missing_descriptors(
        &self,
        request: Request<registry::MissingDescriptorsRequest>,
    ) -> Result<Response<registry::MissingDescriptorsResponse>, Status> {
        ask(request, &self.missing).await
    }

    async fn move_claim(
        &self,
        _: Request<registry::MoveClaimRequest>,
    ) -> Result<Response<registry::MoveClaimResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it here"))
    }

    async fn release_claim(
        &self,
        _: Request<registry::ReleaseClaimRequest>,
    ) -> Result<Response<registry::ReleaseClaimResponse>, Status> {
        Err(Status::unimplemented("nobody asks for it here"))
    }

    async fn put_descriptors(
        &self,
        request: Request<registry::PutDescriptorsRequest>,
    ) -> Result<Response<registry::PutDescriptorsResponse>, Status> {
        ask(request, &self.puts).await
    }
}
