//! The registry as a whole, over its sockets: what a restart leaves, how it leaves, what it tells of itself.
#![expect(clippy::unwrap_used, reason = "a test may; clippy knows it only of functions marked as tests")]

use std::{net::SocketAddr, path::Path, time::Duration};

use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use weft_proto::weft::{
    discovery::v1::{WatchRequest, WatchResponse, discovery_client::DiscoveryClient, service_update::Body},
    model::v1::{Endpoint, Instance, Status, Transport, transport},
    registry::v1::{RegisterRequest, registry_client::RegistryClient},
};
use weft_registry::{Config, Registry};
use weft_runtime::{Context, Env, Shutdown, listen::ListenAddr};

const SOON: Duration = Duration::from_secs(20);

struct Running {
    grpc: SocketAddr,
    http: SocketAddr,
    shutdown: Shutdown,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Running {
    async fn start(data: &Path) -> Self {
        let anywhere = ListenAddr::loopback(0);
        let config = Config {
            listen: anywhere,
            http: anywhere,
            dns: anywhere,
            dns_ttl: Duration::ZERO,
            data: data.to_owned(),
            identity: None,
        };
        let context = Context::for_test("registry", Env::default());
        let registry = Registry::bind(config, &context).await.unwrap();
        let (grpc, http, shutdown) = (registry.grpc_addr().unwrap(), registry.http_addr().unwrap(), context.shutdown());
        let mut tasks = JoinSet::new();
        tasks.spawn(registry.run(shutdown.clone()));
        Self { grpc, http, shutdown, tasks }
    }

    async fn channel(&self) -> Channel {
        Channel::from_shared(format!("http://{}", self.grpc)).unwrap().connect().await.unwrap()
    }

    async fn register(&self, n: u16) -> u64 {
        let plaintext = transport::Kind::Plaintext(transport::Plaintext {});
        let instance = Instance {
            id: format!("0197a1b2-0000-7000-8000-00000000{n:04x}"),
            service: "users".into(),
            endpoint: Some(Endpoint {
                address: format!("127.0.0.1:{}", 10_000 + n),
                transport: Some(Transport { kind: Some(plaintext) }),
                ..Default::default()
            }),
            status: Status::Serving.into(),
            ..Default::default()
        };
        let mut client = RegistryClient::new(self.channel().await);
        let request = RegisterRequest { instance: Some(instance), ttl_ms: 0 };
        client.register(request).await.unwrap().into_inner().lease.unwrap().epoch
    }

    async fn watch(&self) -> Streaming<WatchResponse> {
        let (requests, stream) = tokio::sync::mpsc::channel(1);
        let first = WatchRequest { watcher: "test".into(), subscribe: vec!["*".into()], ..Default::default() };
        requests.send(first).await.unwrap();
        let mut client = DiscoveryClient::new(self.channel().await);
        client.watch(ReceiverStream::new(stream)).await.unwrap().into_inner()
    }

    async fn leave(mut self) {
        self.shutdown.drain();
        let ended = tokio::time::timeout(SOON, self.tasks.join_next()).await.expect("it leaves");
        ended.unwrap().unwrap().unwrap();
    }
}

fn endpoints(answer: &WatchResponse) -> Vec<(String, String, u64)> {
    let [users] = answer.services.as_slice() else { panic!("{answer:?}") };
    let Some(Body::Full(full)) = &users.body else { panic!("{users:?}") };
    full.instances.iter().map(|i| (i.id.clone(), i.endpoint.clone().unwrap().address, i.epoch)).collect()
}

#[tokio::test]
async fn the_first_watch_message_after_a_restart_has_everything() {
    let dir = tempfile::tempdir().unwrap();
    let first = Running::start(dir.path()).await;
    for n in 1..=3 {
        first.register(n).await;
    }
    // What is durable is told a moment later.
    let all = async {
        loop {
            let told = first.watch().await.message().await.unwrap().unwrap();
            if endpoints(&told).len() == 3 {
                return told;
            }
        }
    };
    let before = tokio::time::timeout(std::time::Duration::from_secs(10), all).await.unwrap();
    first.leave().await;
    let second = Running::start(dir.path()).await;
    let after = second.watch().await.message().await.unwrap().unwrap();
    assert_eq!(endpoints(&after), endpoints(&before));
    assert!(after.version > before.version);
    second.leave().await;
}

#[tokio::test]
async fn it_leaves_with_open_streams_and_tells_them() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Running::start(dir.path()).await;
    let mut watch = registry.watch().await;
    watch.message().await.unwrap();
    registry.leave().await;
    assert_eq!(watch.message().await.unwrap_err().code(), tonic::Code::Unavailable);
}

#[tokio::test]
async fn it_reflects_itself_and_tells_its_health() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let dir = tempfile::tempdir().unwrap();
    let registry = Running::start(dir.path()).await;
    let mut reflection = ServerReflectionClient::new(registry.channel().await);
    let request = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let mut names: Vec<_> = list.service.into_iter().map(|s| s.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
            "weft.discovery.v1.Discovery",
            "weft.policy.v1.Policies",
            "weft.registry.v1.Registry"
        ]
    );
    let mut health = tonic_health::pb::health_client::HealthClient::new(registry.channel().await);
    for service in ["", "weft.registry.v1.Registry", "weft.discovery.v1.Discovery"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1, "{service}");
    }
    let mut watching = health.watch(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watching.message().await.unwrap().unwrap().status, 1);
    registry.leave().await;
    assert_eq!(watching.message().await.unwrap().unwrap().status, 2, "a watcher is told");
    assert!(watching.message().await.unwrap().is_none(), "and let go, so that the drain need not cut it off");
}

#[tokio::test]
async fn http_tells_health_and_metrics() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let dir = tempfile::tempdir().unwrap();
    let registry = Running::start(dir.path()).await;
    registry.register(1).await;
    let http = registry.http;
    let get = async |path: &str| {
        let mut stream = tokio::net::TcpStream::connect(http).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    };
    assert!(get("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = get("/metrics").await;
    assert!(metrics.contains("weft_registry_registrations_total 1"), "{metrics}");
    registry.leave().await;
}
