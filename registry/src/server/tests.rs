//! The registry over real gRPC on in-memory connections, with a paused clock: time passes only when everybody waits, so bounds are exact.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{
    sync::{Mutex, mpsc},
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_types::StatusExt;
use weft_proto::weft::{
    discovery::v1::{
        self as discovery, DescriptorsRequest, ListRequest, WatchRequest, WatchResponse,
        discovery_client::DiscoveryClient, removed::Reason, service_update::Body,
    },
    model::v1::{Check, Endpoint, Instance, Status as Health, Transport, transport},
    policy::v1::policies_client::PoliciesClient,
    registry::v1::{
        self as registry, Beat, DeregisterRequest, DrainRequest, KeepAliveRequest, KeepAliveResponse, Lease,
        MissingDescriptorsRequest, PutDescriptorsRequest, RegisterRequest, SetStatusRequest,
        registry_client::RegistryClient, verdict::Outcome,
    },
};
use weft_runtime::Metrics;

use super::*;
use crate::{
    checks::Checks,
    views::xds::{Maker, Mesh},
};

/// A registry without sockets or disk, and a client of it.
struct World {
    registry: RegistryClient<Channel>,
    discovery: DiscoveryClient<Channel>,
    policies: PoliciesClient<Channel>,
    channel: Channel,
    catalog: Catalog,
    watches: Watches,
    metrics: Metrics,
    shutdown: Shutdown,
    _parts: JoinSet<()>,
    _connections: Arc<Mutex<JoinSet<()>>>,
}

const MS: Duration = Duration::from_millis(1);
const WARM: Duration = Duration::from_secs(21);

impl World {
    async fn new() -> Self {
        Self::with(Mesh::Open, crate::views::xds::testing::MAKER).await
    }

    /// A registry of a mesh with identities that tells what a registry tells.
    async fn real() -> Self {
        Self::with(Mesh::Secured, Maker::REAL).await
    }

    async fn with(mesh: Mesh, maker: Maker) -> Self {
        let (metrics, shutdown) = (Metrics::default(), Shutdown::new());
        let (catalog, task) = Catalog::in_memory(&metrics);
        let watches = Watches::new(&catalog, &metrics);
        let checks = Checks::new(&catalog, &metrics);
        let xds = Xds::with_maker(&catalog, mesh, watches.pace(), &metrics, maker);
        let drains = Drains::new(&watches, &xds, &metrics);
        let rooms = Rooms { catalog: &catalog, watches: &watches, xds: &xds, drains, heard: checks.heard() };
        let server = Server::new(rooms, None, &shutdown).unwrap();
        let mut parts = JoinSet::new();
        parts.spawn(task.run(CancellationToken::new()));
        parts.spawn(watches.clone().run(catalog.follow()));
        parts.spawn(xds.run(catalog.follow()));
        parts.spawn(checks.run());
        let connections = Arc::new(Mutex::new(JoinSet::new()));
        let (routes, until, all) = (server.routes.clone(), shutdown.clone(), connections.clone());
        let connector = tower::service_fn(move |_: http::Uri| {
            let (routes, until, all) = (routes.clone(), until.clone(), all.clone());
            async move {
                let (client, server) = tokio::io::duplex(64 << 10);
                all.lock().await.spawn(serve(server, None, Load::default(), routes, until));
                Ok::<_, std::io::Error>(TokioIo::new(client))
            }
        });
        let endpoint = tonic::transport::Endpoint::from_static("http://registry");
        let channel = endpoint.connect_with_connector(connector).await.unwrap();
        Self {
            registry: RegistryClient::new(channel.clone()),
            discovery: DiscoveryClient::new(channel.clone()),
            policies: PoliciesClient::new(channel.clone()),
            channel,
            catalog,
            watches,
            metrics,
            shutdown,
            _parts: parts,
            _connections: connections,
        }
    }

    async fn register(&mut self, instance: Instance) -> Result<Lease, Status> {
        let request = RegisterRequest { instance: Some(instance), ttl_ms: 0 };
        Ok(self.registry.register(request).await?.into_inner().lease.unwrap())
    }

    async fn users(&mut self, n: u16) -> Lease {
        self.register(users(n)).await.unwrap()
    }

    async fn list(&mut self) -> BTreeMap<String, Vec<Instance>> {
        let answer = self.discovery.list(ListRequest::default()).await.unwrap().into_inner();
        let services = answer.services.into_iter().map(|service| match service.body {
            Some(Body::Full(full)) => (service.name, full.instances),
            other => panic!("a list is full: {other:?}"),
        });
        services.collect()
    }

    async fn ids(&mut self, service: &str) -> Vec<String> {
        self.list().await.remove(service).unwrap_or_default().into_iter().map(|i| i.id).collect()
    }

    async fn status_of(&mut self, id: &str) -> Health {
        let all = self.list().await;
        all.values().flatten().find(|i| i.id == id).unwrap_or_else(|| panic!("{id} is not listed")).status()
    }

    async fn keep_alive(&mut self) -> KeepAlive {
        let (beats, requests) = mpsc::channel(4);
        let verdicts = self.registry.keep_alive(ReceiverStream::new(requests)).await.unwrap().into_inner();
        KeepAlive { beats, verdicts }
    }

    async fn watch(&mut self, name: &str, topics: &[&str]) -> Watch {
        let (requests, stream) = mpsc::channel(4);
        let subscribe = topics.iter().map(|t| t.to_string()).collect();
        requests.send(WatchRequest { watcher: name.into(), subscribe, ..Default::default() }).await.unwrap();
        let answers = self.discovery.watch(ReceiverStream::new(stream)).await.unwrap().into_inner();
        Watch { requests, answers }
    }

    async fn drain(&mut self, lease: &Lease, at_most_ms: u32) -> (registry::DrainResponse, Duration) {
        let began = Instant::now();
        let request = DrainRequest { id: lease.instance_id.clone(), epoch: lease.epoch, at_most_ms };
        let answer = self.registry.drain(request).await.unwrap().into_inner();
        (answer, began.elapsed())
    }

    async fn deregister(&mut self, id: &str, epoch: u64) -> Result<u64, Status> {
        let answer = self.registry.deregister(DeregisterRequest { id: id.into(), epoch }).await?;
        Ok(answer.into_inner().version)
    }

    async fn set_status(&mut self, id: &str, epoch: u64, status: Health) -> Result<u64, Status> {
        let request = SetStatusRequest { id: id.into(), epoch, status: status.into(), reason: "test".into() };
        Ok(self.registry.set_status(request).await?.into_inner().version)
    }
}

struct KeepAlive {
    beats: mpsc::Sender<KeepAliveRequest>,
    verdicts: Streaming<KeepAliveResponse>,
}

impl KeepAlive {
    async fn beat(&mut self, leases: &[&Lease], status: Health) -> Vec<Outcome> {
        let beat = |lease: &&Lease| Beat {
            id: lease.instance_id.clone(),
            epoch: lease.epoch,
            status: status.into(),
            reason: String::new(),
        };
        self.beats.send(KeepAliveRequest { beats: leases.iter().map(beat).collect() }).await.unwrap();
        let answer = self.verdicts.message().await.unwrap().unwrap();
        assert!(answer.verdicts.iter().zip(leases).all(|(v, l)| v.id == l.instance_id), "verdicts in order of beats");
        answer.verdicts.iter().map(|v| v.outcome()).collect()
    }

    /// Lets time pass with a beat every 5 s.
    async fn beat_for(&mut self, time: Duration, leases: &[&Lease]) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            assert!(self.beat(leases, Health::Serving).await.iter().all(|o| *o == Outcome::Renewed));
            sleep((until - Instant::now()).min(Duration::from_secs(5))).await;
        }
    }
}

struct Watch {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watch {
    async fn next(&mut self) -> WatchResponse {
        self.answers.message().await.unwrap().expect("the watch goes on")
    }

    async fn next_of(&mut self, service: &str) -> discovery::ServiceUpdate {
        let mut answer = self.next().await;
        assert_eq!(answer.services.len(), 1, "{answer:?}");
        let update = answer.services.remove(0);
        assert_eq!(update.name, service);
        update
    }

    async fn send(&self, request: WatchRequest) {
        self.requests.send(request).await.unwrap();
    }

    async fn ack(&self, version: u64) {
        self.send(WatchRequest { ack: version, ..Default::default() }).await;
    }

    /// Nothing comes for a long while.
    async fn is_quiet(&mut self) -> bool {
        tokio::time::timeout(Duration::from_secs(3), self.answers.message()).await.is_err()
    }
}

fn id(n: u16) -> String {
    format!("0197a1b2-0000-7000-8000-00000000{n:04x}")
}

fn instance(service: &str, n: u16) -> Instance {
    let plaintext = transport::Kind::Plaintext(transport::Plaintext {});
    Instance {
        id: id(n),
        service: service.into(),
        endpoint: Some(Endpoint {
            address: format!("127.0.0.1:{}", 10_000 + n),
            transport: Some(Transport { kind: Some(plaintext) }),
            ..Default::default()
        }),
        status: Health::Serving.into(),
        ..Default::default()
    }
}

fn users(n: u16) -> Instance {
    instance("users", n)
}

fn full(update: &discovery::ServiceUpdate) -> Vec<&str> {
    match &update.body {
        Some(Body::Full(full)) => full.instances.iter().map(|i| i.id.as_str()).collect(),
        other => panic!("not full: {other:?}"),
    }
}

type Upserted<'a> = Vec<(&'a str, Health)>;
type Gone<'a> = Vec<(&'a str, Reason)>;

fn delta(update: &discovery::ServiceUpdate) -> (Upserted<'_>, Gone<'_>) {
    match &update.body {
        Some(Body::Delta(delta)) => (
            delta.upserted.iter().map(|i| (i.id.as_str(), i.status())).collect(),
            delta.removed.iter().map(|r| (r.id.as_str(), r.why())).collect(),
        ),
        other => panic!("no delta: {other:?}"),
    }
}

mod drains;
mod fields;
mod leases;
mod policies;
mod schemas;
mod told;
mod watches;
mod xds;
