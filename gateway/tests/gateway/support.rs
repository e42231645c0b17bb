//! A gateway and its backends for one test.
//!
//! Lives here: starting them, one HTTP call, waiting until nothing flows, the users service in memory. Does not: assertions.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request as HttpRequest, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{
    Request, Response, Status,
    transport::{Channel, Server, server::TcpIncoming},
};
use tonic_types::{ErrorDetails, StatusExt};
use weft_gateway::{Config, Gateway, Limits, Source};
use weft_proto::{
    descriptors,
    shop::users::v1::{
        CreateUserRequest, DeleteUserRequest, GetUserRequest, ListUsersRequest, ListUsersResponse, UpdateUserRequest,
        User,
        users_server::{Users, UsersServer},
    },
    weft::testkit::v1::{
        EchoRequest, EchoResponse,
        echo_server::{Echo, EchoServer},
    },
};
use weft_runtime::{Context, Env, Shutdown, listen::ListenAddr};

/// A gateway with its backend; both end when it is dropped.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) gateway: JoinSet<Result<(), weft_gateway::Error>>,
    /// Calls to the backend whose handler has not returned or been dropped.
    pub(crate) in_flight: Arc<AtomicUsize>,
    /// Client streams that ended in good order.
    pub(crate) whole: Arc<AtomicUsize>,
    /// Replies of server streams.
    pub(crate) replies: Arc<AtomicUsize>,
    _backend: JoinSet<()>,
}

/// Starts a gateway in front of users and echo.
pub(crate) async fn start() -> Running {
    start_with(|_| {}).await
}

/// As [`start`], with a changed configuration.
pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Running {
    let Backend { addr, counts, server } = backend().await;
    let mut running = start_gateway(addr, change).await;
    running._backend = server;
    (running.in_flight, running.whole, running.replies) = (counts.in_flight, counts.whole, counts.replies);
    running
}

/// Users and echo; they end with this value.
pub(crate) struct Backend {
    pub(crate) addr: String,
    counts: Slow,
    server: JoinSet<()>,
}

impl Backend {
    /// Calls whose handler has not returned or been dropped.
    pub(crate) fn in_flight(&self) -> &Arc<AtomicUsize> {
        &self.counts.in_flight
    }

    /// Replies of server streams.
    pub(crate) fn replies(&self) -> &AtomicUsize {
        &self.counts.replies
    }
}

/// Starts users and echo.
pub(crate) async fn backend() -> Backend {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let slow = Slow { inner: weft_testkit::echo::Echo { instance: "echo-1".into() }, ..Slow::default() };
    let counts = slow.clone();
    let mut tasks = JoinSet::new();
    let server = Server::builder()
        .add_service(UsersServer::new(Memory::default()))
        .add_service(EchoServer::new(slow))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    tasks.spawn(async move { server.await.unwrap() });
    Backend { addr, counts, server: tasks }
}

/// The descriptors of users and echo.
pub(crate) fn descriptor_set() -> Bytes {
    [descriptors::SHOP_USERS, descriptors::TESTKIT].concat().into()
}

/// What a gateway has in front of an upstream that speaks for users and echo.
pub(crate) fn config(upstream: String) -> Config {
    Config {
        listen: ListenAddr::loopback(0),
        credential: None,
        source: Source::Static { descriptor_set: descriptor_set().into(), upstream },
        identity: None,
        workers: std::num::NonZeroUsize::new(2),
        transcoding: weft_transcode::Settings::default(),
        limits: Limits::default(),
        policies: Vec::new(),
        rules: Vec::new(),
        redis: None,
        cache_bytes: 64 << 20,
        proxies: weft_gateway::TrustedProxies::default(),
        tls: None,
        docs: weft_gateway::Docs::default(),
    }
}

/// Starts a gateway in front of any upstream that speaks for users and echo.
pub(crate) async fn start_gateway(upstream: String, change: impl FnOnce(&mut Config)) -> Running {
    let mut config = config(upstream);
    change(&mut config);
    let context = Context::for_test("gateway", Env::default());
    let gateway = Gateway::bind(config, &context).await.unwrap();
    let (addr, admin, shutdown) = (gateway.local_addr(), gateway.admin_addr(), Shutdown::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(gateway.run(shutdown.clone()));
    let (in_flight, whole, replies) = (Arc::default(), Arc::default(), Arc::default());
    Running { addr, admin, shutdown, gateway: tasks, in_flight, whole, replies, _backend: JoinSet::new() }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.abort();
    }
}

/// Opens a gRPC connection.
pub(crate) async fn channel(gateway: &Running) -> Channel {
    Channel::from_shared(format!("http://{}", gateway.addr)).unwrap().connect().await.unwrap()
}

/// An answer read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

/// Makes one call on a connection of its own.
pub(crate) async fn send(to: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let (status, headers, body) = send_bytes(to, method, path, headers, Bytes::from(body.to_owned())).await;
    Answer { status, headers, body: String::from_utf8_lossy(&body).into_owned() }
}

/// As [`send`], with bodies of any bytes.
pub(crate) async fn send_bytes(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> (StatusCode, HeaderMap, Bytes) {
    let stream = TcpStream::connect(to).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let mut request = HttpRequest::builder().method(method).uri(path).header("host", "gateway.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = sender.send_request(request.body(Full::new(body)).unwrap()).await.unwrap();
    let (head, body) = response.into_parts();
    (head.status, head.headers, body.collect().await.unwrap().to_bytes())
}

/// Waits until a count that has begun to rise stands still for a second; returns what it has come to.
pub(crate) async fn stands_still(count: &AtomicUsize) -> usize {
    let stands = async {
        loop {
            let before = count.load(Ordering::SeqCst);
            sleep(Duration::from_secs(1)).await;
            if before > 0 && count.load(Ordering::SeqCst) == before {
                return before;
            }
        }
    };
    timeout(Duration::from_secs(60), stands).await.expect("it stands still")
}

/// A message in a frame.
pub(crate) fn framed(flags: u8, message: &[u8]) -> Vec<u8> {
    [&[flags], &u32::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

/// The messages of a body, with their flags.
pub(crate) fn unframed(mut body: &[u8]) -> Vec<(u8, Bytes)> {
    let mut messages = Vec::new();
    while let Some((prefix, rest)) = body.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        messages.push((prefix[0], Bytes::copy_from_slice(&rest[..length])));
        body = &rest[length..];
    }
    assert!(body.is_empty(), "{body:?}");
    messages
}

/// Echo that counts the calls it is working on, and what became of streams.
#[derive(Clone, Default)]
struct Slow {
    inner: weft_testkit::echo::Echo,
    in_flight: Arc<AtomicUsize>,
    whole: Arc<AtomicUsize>,
    replies: Arc<AtomicUsize>,
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn enter(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tonic::async_trait]
impl Echo for Slow {
    async fn unary(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let _counted = Counted::enter(&self.in_flight);
        self.inner.unary(request).await
    }

    type ServerStreamStream = <weft_testkit::echo::Echo as Echo>::ServerStreamStream;

    async fn server_stream(&self, request: Request<EchoRequest>) -> Result<Response<Self::ServerStreamStream>, Status> {
        let counted = Counted::enter(&self.in_flight);
        let stream = self.inner.server_stream(request).await?.into_inner();
        let replies = self.replies.clone();
        let stream = tokio_stream::StreamExt::map(stream, move |item| {
            let _held = &counted;
            replies.fetch_add(1, Ordering::SeqCst);
            item
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn client_stream(
        &self,
        request: Request<tonic::Streaming<EchoRequest>>,
    ) -> Result<Response<EchoResponse>, Status> {
        let _counted = Counted::enter(&self.in_flight);
        let answer = self.inner.client_stream(request).await;
        self.whole.fetch_add(answer.is_ok().into(), Ordering::SeqCst);
        answer
    }

    type BidiStream = <weft_testkit::echo::Echo as Echo>::BidiStream;

    async fn bidi(
        &self,
        request: Request<tonic::Streaming<EchoRequest>>,
    ) -> Result<Response<Self::BidiStream>, Status> {
        self.inner.bidi(request).await
    }
}

/// Users in memory, with the statuses of the real service.
#[derive(Default)]
struct Memory {
    users: Mutex<BTreeMap<String, User>>,
}

#[tonic::async_trait]
impl Users for Memory {
    async fn create_user(&self, request: Request<CreateUserRequest>) -> Result<Response<User>, Status> {
        let CreateUserRequest { name, email } = request.into_inner();
        if name.is_empty() {
            let details = ErrorDetails::with_bad_request_violation("name", "is empty");
            return Err(Status::with_error_details(tonic::Code::InvalidArgument, "name is empty", details));
        }
        let mut users = self.users.lock().unwrap();
        if users.values().any(|user| user.email == email) {
            return Err(Status::already_exists(format!("another user has {email}")));
        }
        let id = (users.len() + 1).to_string();
        let user = User { id: id.clone(), name, email, ..User::default() };
        users.insert(id, user.clone());
        let mut response = Response::new(user);
        response.metadata_mut().insert("weft-http-status", "201".parse().unwrap());
        Ok(response)
    }

    async fn get_user(&self, request: Request<GetUserRequest>) -> Result<Response<User>, Status> {
        let id = request.into_inner().id;
        let found = self.users.lock().unwrap().get(&id).cloned();
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("no user {id:?}")))
    }

    async fn list_users(&self, request: Request<ListUsersRequest>) -> Result<Response<ListUsersResponse>, Status> {
        let size = usize::try_from(request.into_inner().page_size).unwrap();
        let users = self.users.lock().unwrap().values().take(size).cloned().collect();
        Ok(Response::new(ListUsersResponse { users, next_page_token: String::new() }))
    }

    async fn update_user(&self, request: Request<UpdateUserRequest>) -> Result<Response<User>, Status> {
        let UpdateUserRequest { user, update_mask } = request.into_inner();
        let (user, paths) = (user.unwrap_or_default(), update_mask.unwrap_or_default().paths);
        let mut users = self.users.lock().unwrap();
        let kept = users.get_mut(&user.id).ok_or_else(|| Status::not_found("no such user"))?;
        if paths.is_empty() || paths.iter().any(|path| path == "name") {
            kept.name = user.name;
        }
        Ok(Response::new(kept.clone()))
    }

    async fn delete_user(&self, request: Request<DeleteUserRequest>) -> Result<Response<()>, Status> {
        let id = request.into_inner().id;
        let gone = self.users.lock().unwrap().remove(&id);
        gone.map(|_| Response::new(())).ok_or_else(|| Status::not_found(format!("no user {id:?}")))
    }
}
