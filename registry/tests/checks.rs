//! Checks that the registry runs, against real servers on loopback.
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http_body_util::Empty;
use hyper::{body::Bytes, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};
use tonic::{Request, Response, Status as GrpcStatus};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server};
use weft_model::{
    Check, CheckKind, Endpoint, Epoch, Instance, InstanceId, LeaseTtl, Locality, Protocol, ServiceName, Status,
    Transport, Weight,
};
use weft_registry::{
    Config, Registry,
    catalog::{Catalog, Health, Word},
};
use weft_runtime::{Context, Env, listen::ListenAddr};

/// A registry with one instance under check, and the servers that are checked.
struct World {
    catalog: Catalog,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let anywhere = ListenAddr::loopback(0);
        let config = Config {
            listen: anywhere,
            http: anywhere,
            dns: anywhere,
            dns_ttl: Duration::ZERO,
            data: dir.path().to_owned(),
            identity: None,
        };
        let context = Context::for_test("registry", Env::default());
        let registry = Registry::bind(config, &context).await.unwrap();
        let catalog = registry.catalog();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { registry.run(context.shutdown()).await.unwrap() });
        Self { catalog, tasks, _dir: dir }
    }

    async fn register(&self, address: SocketAddr, kind: CheckKind) -> Epoch {
        let instance = Instance {
            id: id(),
            service: users(),
            epoch: Epoch(0),
            endpoint: Endpoint { address, transport: Transport::Plaintext, protocol: Protocol::H2 },
            status: Status::Serving,
            reason: String::new(),
            locality: Locality::default(),
            weight: Weight::ONE,
            metadata: Default::default(),
            descriptors: None,
            check: Some(Box::new(Check {
                kind,
                interval: Duration::from_millis(100),
                timeout: Duration::from_secs(10), // a server that is there answers, also on a machine that stands still for a moment
                unhealthy_after: 2,
                healthy_after: 2,
            })),
        };
        self.catalog.register(instance, LeaseTtl::DEFAULT).await.unwrap().epoch
    }

    fn status(&self) -> (Status, String) {
        let snapshot = self.catalog.snapshot();
        let it = &snapshot.services[&users()].instances[&id()];
        (it.status, it.reason.clone())
    }

    /// Waits for a status and returns its reason.
    async fn becomes(&self, wanted: Status) -> String {
        let mut follow = self.catalog.follow();
        let reached = tokio::time::timeout(Duration::from_secs(60), async {
            while self.status().0 != wanted {
                follow.next().await.expect("the catalog runs");
            }
        });
        reached.await.unwrap_or_else(|_| panic!("still {:?}, not {wanted}", self.status()));
        self.status().1
    }
}

fn users() -> ServiceName {
    "users".parse().unwrap()
}

fn id() -> InstanceId {
    InstanceId::from_bytes([5; 16])
}

async fn bind() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

#[tokio::test]
async fn a_tcp_check_follows_the_listener() {
    let world = World::new().await;
    let (listener, address) = bind().await;
    world.register(address, CheckKind::Tcp { address: None }).await;
    assert_eq!(world.status().0, Status::Starting, "its check decides, not its word");
    world.becomes(Status::Serving).await;
    drop(listener);
    let why = world.becomes(Status::NotServing).await;
    assert!(why.contains(&address.to_string()) && why.contains("2 in a row"), "{why}");
}

#[tokio::test]
async fn an_http_check_keeps_its_connection_and_reads_the_status() {
    let mut world = World::new().await;
    let (listener, address) = bind().await;
    let (connections, status) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU16::new(204)));
    let (count, answer) = (connections.clone(), status.clone());
    world.tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                assert_eq!(request.uri(), "/healthz?full=1");
                let status = answer.load(Ordering::SeqCst);
                async move { http::Response::builder().status(status).body(Empty::<Bytes>::new()) }
            });
            open.spawn(
                async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) },
            );
        }
    });
    let elsewhere = "127.0.0.1:9".parse().unwrap(); // the endpoint itself is not what is checked
    world.register(elsewhere, CheckKind::Http { path: "/healthz?full=1".into(), address: Some(address) }).await;
    world.becomes(Status::Serving).await;
    status.store(503, Ordering::SeqCst);
    assert!(world.becomes(Status::NotServing).await.contains("503"));
    status.store(200, Ordering::SeqCst);
    world.becomes(Status::Serving).await;
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_grpc_check_watches_and_hears_of_a_change_at_once() {
    let mut world = World::new().await;
    let (listener, address) = bind().await;
    let (health, service) = tonic_health::server::health_reporter();
    world.tasks.spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        drop(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await);
    });
    health.set_service_status("shop", tonic_health::ServingStatus::NotServing).await;
    world.register(address, CheckKind::Grpc { service: "shop".into(), address: None }).await;
    assert!(world.becomes(Status::NotServing).await.contains("NOT_SERVING"));
    health.set_service_status("shop", tonic_health::ServingStatus::Serving).await;
    world.becomes(Status::Serving).await;
}

/// A health server without Watch, which is well or not, and counts how often it was asked.
#[derive(Clone, Default)]
struct Polled {
    ill: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl health_server::Health for Polled {
    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, GrpcStatus>>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, GrpcStatus> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let ill = self.ill.load(Ordering::SeqCst);
        let status = if ill { ServingStatus::NotServing } else { ServingStatus::Serving };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, GrpcStatus> {
        Err(GrpcStatus::unimplemented("no watch here"))
    }
}

#[tokio::test]
async fn a_grpc_check_polls_where_watch_is_not_implemented() {
    let mut world = World::new().await;
    let (listener, address) = bind().await;
    let polled = Polled::default();
    let service = health_server::HealthServer::new(polled.clone());
    world.tasks.spawn(async move {
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        drop(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await);
    });
    world.register(address, CheckKind::Grpc { service: String::new(), address: None }).await;
    world.becomes(Status::Serving).await;
    polled.ill.store(true, Ordering::SeqCst); // which the registry must notice by asking again
    world.becomes(Status::NotServing).await;
    assert!(polled.asked.load(Ordering::SeqCst) >= 4, "two answers each way");
}

#[tokio::test]
async fn nobody_there_is_not_serving_until_somebody_comes() {
    let world = World::new().await;
    let address = ListenAddr::loopback(0).lasting().get(); // which nobody else is given meanwhile
    world.register(address, CheckKind::Grpc { service: String::new(), address: None }).await;
    world.becomes(Status::NotServing).await;
    let listener = TcpListener::bind(address).await.unwrap();
    let (_health, service) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::select! {
        _ = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming) => panic!("it ended"),
        _ = world.becomes(Status::Serving) => {}
    }
}

#[tokio::test]
async fn a_ttl_check_notices_silence_and_a_word_ends_it() {
    let world = World::new().await;
    let address = "127.0.0.1:9".parse().unwrap();
    let epoch = world.register(address, CheckKind::Ttl { ttl: Duration::from_secs(3) }).await;
    let word = |status| world.catalog.set_status(id(), Word::Owner(epoch), Health::new(status, ""));
    word(Status::Serving).await.unwrap();
    world.becomes(Status::Serving).await;
    assert!(world.becomes(Status::NotServing).await.contains("no word"));
    word(Status::Serving).await.unwrap();
    world.becomes(Status::Serving).await;
}
