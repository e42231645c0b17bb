//! The gateway while the mesh changes under it: snapshots and descriptor sets are fed in-process, calls go over real sockets.

mod cache;
mod tokens;

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{sync::mpsc, task::JoinSet};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use weft_discovery::{BadDescriptors, DescriptorSet};
use weft_model::{
    Digest, GrpcService, Instance, InstanceId, Locality, ServiceInfo, ServiceName, ServiceSnapshot, Snapshot, Status,
    Version, Weight,
};
use weft_proto::descriptors;
use weft_runtime::{Env, listen::ListenAddr};
use weft_testkit::wait::until;

use super::*;
use crate::{
    Limits,
    routes::{keeper::Fetch, sets::LinkedSet},
};

impl parts::Updates for mpsc::Receiver<Arc<Snapshot>> {
    async fn next(&mut self) -> Option<Arc<Snapshot>> {
        self.recv().await
    }

    fn acted_upon(&self, _version: Version) {}
}

const SOON: Duration = Duration::from_secs(10);

/// A gateway fed by hand.
struct Mesh {
    addr: SocketAddr,
    context: Context,
    snapshots: mpsc::Sender<Arc<Snapshot>>,
    sets: Arc<Mutex<HashMap<Digest, DescriptorSet>>>,
    fetches: Arc<AtomicU64>,
    /// Fetching this set panics.
    poison: Arc<Mutex<Option<Digest>>>,
    now: Snapshot,
    shutdown: Shutdown,
    tasks: JoinSet<()>,
}

impl Mesh {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(change: impl FnOnce(&mut Gateway)) -> Self {
        let config = Config {
            listen: ListenAddr::loopback(0),
            source: Source::Registry("http://127.0.0.1:1".parse().unwrap()),
            credential: None,
            identity: None,
            workers: NonZeroUsize::new(2),
            transcoding: weft_transcode::Settings::default(),
            limits: Limits::default(),
            policies: Vec::new(),
            rules: Vec::new(),
            redis: None,
            cache_bytes: 64 << 20,
            proxies: crate::TrustedProxies::default(),
            tls: None,
            docs: crate::Docs::default(),
        };
        let context = Context::for_test("gateway", Env::default());
        let mut gateway = Gateway::listen(config, &context).unwrap();
        let (snapshots, fed) = mpsc::channel(4);
        let sets: Arc<Mutex<HashMap<Digest, DescriptorSet>>> = Arc::default();
        let fetches = Arc::new(AtomicU64::new(0));
        let poison: Arc<Mutex<Option<Digest>>> = Arc::default();
        let (known, counted, poisonous) = (Arc::clone(&sets), Arc::clone(&fetches), Arc::clone(&poison));
        let fetch: Fetch = Arc::new(move |_, digest| {
            counted.fetch_add(1, Ordering::SeqCst);
            let set = known.lock().unwrap().get(&digest).cloned();
            let poisonous = *poisonous.lock().unwrap() == Some(digest);
            Box::pin(async move {
                assert!(!poisonous, "on purpose");
                set.ok_or(BadDescriptors::Clash { name: "missing on purpose".into() })
            })
        });
        gateway.feed = Feed::Test { snapshots: fed, fetch };
        change(&mut gateway);
        let (addr, shutdown, mut tasks) = (gateway.local_addr(), Shutdown::new(), JoinSet::new());
        let run = gateway.run(shutdown.clone());
        tasks.spawn(async move { run.await.unwrap() });
        Self { addr, context, snapshots, sets, fetches, poison, now: Snapshot::default(), shutdown, tasks }
    }

    /// Makes a set known to whoever fetches it.
    fn publish(&self, set: &DescriptorSet) -> Digest {
        self.sets.lock().unwrap().insert(set.digest(), set.clone());
        set.digest()
    }

    /// Lists a service with these sets; an endpoint makes one instance that serves with the first set.
    async fn list(&mut self, name: &str, grpc: &str, digests: &[Digest], endpoint: Option<SocketAddr>) {
        let version = Version(self.now.version.0 + 1);
        let service: ServiceName = name.parse().unwrap();
        let grpc_services = vec![GrpcService { name: grpc.into(), methods: self.methods(grpc, digests) }];
        let info = Arc::new(ServiceInfo { grpc_services, descriptors: digests.to_vec(), ..ServiceInfo::default() });
        let mut snapshot =
            ServiceSnapshot { info: Arc::clone(&info), ..ServiceSnapshot::empty(service.clone(), version) };
        if let Some(address) = endpoint {
            let instance = instance(&service, address, digests.first().copied());
            snapshot.instances.insert(instance.id, Arc::new(instance));
        }
        self.now.version = version;
        self.now.directory.insert(service.clone(), info);
        self.now.services.insert(service, Arc::new(snapshot));
        self.feed().await;
    }

    /// What the first of these sets declares of a gRPC service, if it links.
    fn methods(&self, grpc: &str, digests: &[Digest]) -> Vec<weft_model::Method> {
        let set = digests.first().and_then(|it| self.sets.lock().unwrap().get(it).cloned());
        let info = set.and_then(|it| LinkedSet::link(&it).ok()).map(|it| it.info()).unwrap_or_default();
        info.grpc_services.into_iter().find(|it| it.name == grpc).map(|it| it.methods).unwrap_or_default()
    }

    async fn unlist(&mut self, name: &str) {
        let service: ServiceName = name.parse().unwrap();
        self.now.version = Version(self.now.version.0 + 1);
        self.now.directory.remove(&service);
        self.now.services.remove(&service);
        self.feed().await;
    }

    async fn feed(&self) {
        self.snapshots.send(Arc::new(self.now.clone())).await.unwrap();
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        get(self.addr, path).await
    }

    async fn answers(&self, path: &str, status: u16) {
        let what = format!("{path} to answer {status}");
        until(&what, SOON, || async { (self.get(path).await.0 == status).then_some(()) }).await;
    }
}

fn instance(service: &ServiceName, address: SocketAddr, descriptors: Option<Digest>) -> Instance {
    Instance {
        id: InstanceId::from_bytes([7; 16]),
        service: service.clone(),
        epoch: weft_model::Epoch(1),
        endpoint: Endpoint { address, transport: Transport::Plaintext, protocol: Protocol::H2 },
        status: Status::Serving,
        reason: String::new(),
        locality: Locality::default(),
        weight: Weight::ONE,
        metadata: Default::default(),
        descriptors,
        check: None,
    }
}

async fn get(to: SocketAddr, path: &str) -> (StatusCode, String) {
    let (mut sender, connection) = http1::handshake(TokioIo::new(TcpStream::connect(to).await.unwrap())).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let method = if path == "/echo" { "POST" } else { "GET" };
    let request =
        Request::builder().method(method).uri(path).header("host", "a").body(Full::<Bytes>::default()).unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    (head.status, String::from_utf8_lossy(&body.collect().await.unwrap().to_bytes()).into_owned())
}

fn echo_set() -> DescriptorSet {
    DescriptorSet::from_encoded_set(descriptors::TESTKIT).unwrap()
}

/// The echo set with its REST template moved to `/move` (and its file renamed alike): as long as before, so that no length changes.
fn moved_echo_set() -> DescriptorSet {
    let set = echo_set();
    let moved = set.files().map(|file| {
        let mut bytes = file.to_vec();
        while let Some(at) = bytes.windows(5).position(|window| window == b"/echo") {
            bytes[at..at + 5].copy_from_slice(b"/move");
        }
        Bytes::from(bytes)
    });
    DescriptorSet::new(moved.collect::<Vec<_>>()).unwrap()
}

fn broken_set() -> DescriptorSet {
    let file = prost_reflect::prost_types::FileDescriptorProto {
        name: Some("broken.proto".into()),
        dependency: vec!["absent.proto".into()],
        ..Default::default()
    };
    DescriptorSet::new([Bytes::from(file.encode_to_vec())]).unwrap()
}

async fn echo(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tasks.spawn(async move {
        weft_testkit::echo::serve(listener, "echo-1".into(), std::future::pending()).await.unwrap();
    });
    addr
}

const ECHO: &str = "weft.testkit.v1.Echo";

#[tokio::test]
async fn routes_follow_the_mesh_and_no_call_is_lost_to_it() {
    let mut mesh = Mesh::start().await;
    let (status, body) = mesh.get("/echo").await;
    assert_eq!(status, 503, "before the first table: {body}");
    mesh.feed().await;
    mesh.answers("/echo", 404).await;

    let backend = echo(&mut mesh.tasks).await;
    let first = mesh.publish(&echo_set());
    mesh.list("echo", ECHO, &[first], Some(backend)).await;
    mesh.answers("/echo", 200).await;

    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load = JoinSet::new();
    for _ in 0..4 {
        let (stop, calls, to) = (stop.clone(), calls.clone(), mesh.addr);
        load.spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let (status, body) = get(to, "/echo").await;
                assert_eq!(status, 200, "{body}");
                calls.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    let users = mesh.publish(&DescriptorSet::from_encoded_set(descriptors::SHOP_USERS).unwrap());
    for round in 0..10 {
        mesh.list("users", "shop.users.v1.Users", &[users], None).await;
        mesh.list("echo", ECHO, &[first], Some(backend)).await;
        mesh.unlist("users").await;
        let wanted = calls.load(Ordering::SeqCst) + 5;
        until(&format!("calls in round {round}"), SOON, || async {
            (calls.load(Ordering::SeqCst) >= wanted).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::SeqCst);
    load.join_all().await;

    let moved = mesh.publish(&moved_echo_set());
    mesh.list("echo", ECHO, &[moved, first], Some(backend)).await;
    mesh.answers("/echo", 404).await;
    mesh.answers("/move", 405).await;
    mesh.unlist("echo").await;
    mesh.answers("/move", 404).await;
}

#[tokio::test]
async fn a_rolling_restart_that_goes_back_and_forth_fetches_each_set_once() {
    let mut mesh = Mesh::start().await;
    let backend = echo(&mut mesh.tasks).await;
    let (first, moved) = (mesh.publish(&echo_set()), mesh.publish(&moved_echo_set()));
    for _ in 0..3 {
        mesh.list("echo", ECHO, &[first, moved], Some(backend)).await;
        mesh.answers("/echo", 200).await;
        mesh.list("echo", ECHO, &[moved, first], Some(backend)).await;
        mesh.answers("/move", 405).await;
    }
    assert_eq!(mesh.fetches.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_set_that_does_not_link_is_refused_and_the_old_routes_stay() {
    let mut mesh = Mesh::start().await;
    let backend = echo(&mut mesh.tasks).await;
    let (good, bad) = (mesh.publish(&echo_set()), mesh.publish(&broken_set()));
    mesh.list("echo", ECHO, &[good], Some(backend)).await;
    mesh.answers("/echo", 200).await;
    mesh.list("echo", ECHO, &[bad, good], Some(backend)).await;
    until("the refusal", SOON, || async {
        mesh.context.metrics().encode().contains("weft_gateway_descriptor_sets_refused_total 1").then_some(())
    })
    .await;
    assert_eq!(mesh.get("/echo").await.0, 200);
}

#[tokio::test]
async fn a_fetch_that_panics_does_not_keep_later_sets_away() {
    let mut mesh = Mesh::start().await;
    let backend = echo(&mut mesh.tasks).await;
    let (poisonous, good) = (mesh.publish(&moved_echo_set()), mesh.publish(&echo_set()));
    *mesh.poison.lock().unwrap() = Some(poisonous);
    mesh.list("echo", ECHO, &[poisonous], Some(backend)).await;
    until("the fetch", SOON, || async { (mesh.fetches.load(Ordering::SeqCst) == 1).then_some(()) }).await;
    mesh.list("echo", ECHO, &[good, poisonous], Some(backend)).await;
    mesh.answers("/echo", 200).await;
}

#[tokio::test]
async fn a_service_without_instances_keeps_its_routes_and_is_not_serving() {
    let mut mesh = Mesh::start().await;
    let backend = echo(&mut mesh.tasks).await;
    let digest = mesh.publish(&echo_set());
    mesh.list("echo", ECHO, &[digest], Some(backend)).await;
    mesh.answers("/echo", 200).await;
    let channel =
        tonic::transport::Channel::from_shared(format!("http://{}", mesh.addr)).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    let mut watching = health.watch(HealthCheckRequest { service: ECHO.into() }).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status(), ServingStatus::Serving);

    mesh.list("echo", ECHO, &[], None).await;
    let told = timeout(SOON, watching.message()).await.expect("a watch is told at once").unwrap().unwrap();
    assert_eq!(told.status(), ServingStatus::NotServing);
    let (status, body) = mesh.get("/echo").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("echo"), "the cause names the service: {body}");
    assert_eq!(mesh.get("/nowhere").await.0, 404);
    mesh.shutdown.drain();
}

#[tokio::test]
async fn two_services_may_each_own_a_file_of_the_same_name() {
    use prost_reflect::prost_types::{
        DescriptorProto, FileDescriptorProto, MethodDescriptorProto, ServiceDescriptorProto,
    };
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };

    let set = |package: &str| {
        let common = FileDescriptorProto {
            name: Some("common.proto".into()),
            package: Some(package.into()),
            message_type: vec![DescriptorProto { name: Some("It".into()), ..Default::default() }],
            ..Default::default()
        };
        let it = Some(format!(".{package}.It"));
        let method = MethodDescriptorProto {
            name: Some("Do".into()),
            input_type: it.clone(),
            output_type: it,
            ..Default::default()
        };
        let service = FileDescriptorProto {
            name: Some(format!("{package}.proto")),
            package: Some(package.into()),
            dependency: vec!["common.proto".into()],
            service: vec![ServiceDescriptorProto {
                name: Some("S".into()),
                method: vec![method],
                ..Default::default()
            }],
            ..Default::default()
        };
        DescriptorSet::new([common, service].map(|file| Bytes::from(file.encode_to_vec()))).unwrap()
    };
    let mut mesh = Mesh::start().await;
    for package in ["a", "b"] {
        let digest = mesh.publish(&set(package));
        mesh.list(package, &format!("{package}.S"), &[digest], None).await;
    }
    mesh.answers("/b.S/Do", 405).await;
    let channel =
        tonic::transport::Channel::from_shared(format!("http://{}", mesh.addr)).unwrap().connect().await.unwrap();
    let mut reflection = ServerReflectionClient::new(channel);
    for package in ["a", "b"] {
        let asked = [
            MessageRequest::FileContainingSymbol(format!("{package}.S")),
            MessageRequest::FileByFilename("common.proto".into()),
        ];
        let asked = asked.map(|it| ServerReflectionRequest { host: String::new(), message_request: Some(it) });
        let mut answers = reflection.server_reflection_info(tokio_stream::iter(asked)).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        let common = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::FileDescriptorResponse(files) = common else { panic!("{common:?}") };
        let file = FileDescriptorProto::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
        assert_eq!(file.package(), package);
    }
}
