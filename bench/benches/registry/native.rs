//! weft by its own protocols: a sidecar's registrations and keep-alive, and the watch of a sidecar or a gateway.
//!
//! Lives here: starting a registry, registering, watching, what the catalog says. Does not: what a real client does with it (`weft-discovery`).

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, ensure};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use weft_proto::weft::{
    discovery::v1::{
        ListRequest, ServiceUpdate, WatchRequest, WatchResponse, discovery_client::DiscoveryClient,
        service_update::Body,
    },
    model::v1::{Instance, Status},
    registry::v1::{
        Beat, DeregisterRequest, KeepAliveRequest, KeepAliveResponse, RegisterRequest, registry_client::RegistryClient,
        verdict::Outcome,
    },
};
use weft_testkit::process::Process;

use crate::{
    connect,
    population::number_of,
    readers::{ALL, Reader, State},
    tally::Change,
    writers::{Beaten, Writer},
};

/// Starts a registry with its store below `dir`, and returns its gRPC address.
pub(crate) async fn start(weft: &Path, dir: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let data = dir.join("registry");
    let args = ["registry", "--insecure", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-format", "json"];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.extend(["--data".to_owned(), data.to_string_lossy().into_owned()]);
    let mut process = Process::start("registry", weft, weft, &args, &[("RUST_LOG", "warn".to_owned())])?;
    let grpc = process.address("grpc").await;
    Ok((process, grpc))
}

/// What the catalog itself says.
pub(crate) async fn catalog(registry: SocketAddr) -> anyhow::Result<State> {
    let mut client = DiscoveryClient::new(connect(registry).await?).max_decoding_message_size(usize::MAX);
    let answer = client.list(ListRequest::default()).await?.into_inner();
    let mut state = State::new();
    apply(&mut state, answer.services)?;
    Ok(state)
}

/// A process with its leases.
#[derive(Debug)]
pub(crate) struct Registrant {
    client: RegistryClient<Channel>,
    beats: mpsc::Sender<KeepAliveRequest>,
    verdicts: Streaming<KeepAliveResponse>,
}

/// A lease.
#[derive(Debug)]
pub(crate) struct Lease {
    id: String,
    epoch: u64,
}

impl Writer for Registrant {
    type Held = Lease;

    async fn open(to: SocketAddr) -> anyhow::Result<Self> {
        let mut client = RegistryClient::new(connect(to).await?);
        let (beats, outgoing) = mpsc::channel(2);
        beats.send(KeepAliveRequest::default()).await?; // opens the stream
        let verdicts = client.keep_alive(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { client, beats, verdicts })
    }

    async fn register(&mut self, instance: Instance) -> anyhow::Result<Lease> {
        let id = instance.id.clone();
        let answer = self.client.register(RegisterRequest { instance: Some(instance), ttl_ms: 0 }).await?;
        let epoch = answer.into_inner().lease.context("a lease")?.epoch;
        Ok(Lease { id, epoch })
    }

    async fn deregister(&mut self, held: &Lease) -> anyhow::Result<()> {
        self.client.deregister(DeregisterRequest { id: held.id.clone(), epoch: held.epoch }).await?;
        Ok(())
    }

    async fn beat<'a>(&mut self, held: impl Iterator<Item = &'a Lease> + Send) -> anyhow::Result<()> {
        let beat = |held: &Lease| Beat {
            id: held.id.clone(),
            epoch: held.epoch,
            status: Status::Serving.into(),
            reason: String::new(),
        };
        let beats = held.map(beat).collect();
        self.beats.send(KeepAliveRequest { beats }).await.context("the registry ended a keep-alive stream")
    }

    async fn answered(&mut self) -> anyhow::Result<Beaten> {
        let answer = self.verdicts.message().await?.context("the registry ended a keep-alive stream")?;
        let renewed = answer.verdicts.iter().filter(|it| it.outcome() == Outcome::Renewed).count() as u64;
        Ok(Beaten { renewed, refused: answer.verdicts.len() as u64 - renewed })
    }
}

/// A watch.
#[derive(Debug)]
pub(crate) struct Watch {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    services: Vec<String>,
    version: u64,
    /// Everything was told.
    complete: bool,
    state: State,
}

impl Reader for Watch {
    async fn open(to: SocketAddr, name: String, services: Vec<String>) -> anyhow::Result<Self> {
        let mut client = DiscoveryClient::new(connect(to).await?).max_decoding_message_size(usize::MAX);
        let (requests, outgoing) = mpsc::channel(16);
        let first = WatchRequest { watcher: name, subscribe: services.clone(), ..WatchRequest::default() };
        requests.send(first).await?;
        let answers = client.watch(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { requests, answers, services, version: 0, complete: false, state: State::new() })
    }

    async fn next(&mut self) -> anyhow::Result<Vec<Change>> {
        let message = self.answers.message().await?.context("the registry ended a watch")?;
        self.version = message.version;
        self.complete |= message.complete;
        apply(&mut self.state, message.services)
    }

    async fn acknowledge(&mut self) -> anyhow::Result<()> {
        self.requests.send(WatchRequest { ack: self.version, ..WatchRequest::default() }).await?;
        Ok(())
    }

    fn is_ready(&self) -> bool {
        self.complete || self.services.iter().all(|it| it != ALL && self.state.contains_key(it))
    }

    fn state(self) -> State {
        self.state
    }
}

/// Applies updates; returns the changes in their deltas.
fn apply(state: &mut State, services: Vec<ServiceUpdate>) -> anyhow::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for ServiceUpdate { name, body, .. } in services {
        match body.context("an update has a body")? {
            Body::Full(full) => {
                let numbers = full.instances.iter().map(|it| number_of(&it.id)).collect::<anyhow::Result<_>>()?;
                state.insert(name, numbers);
            }
            Body::Delta(delta) => {
                let known = state.get_mut(&name).with_context(|| format!("a delta before the set of {name}"))?;
                for removed in &delta.removed {
                    let number = number_of(&removed.id)?;
                    ensure!(known.remove(&number), "{name}: {} was removed but never sent", removed.id);
                    changes.push(Change::Goes(number));
                }
                for instance in &delta.upserted {
                    let number = number_of(&instance.id)?;
                    if known.insert(number) {
                        changes.push(Change::Comes(number));
                    }
                }
            }
        }
    }
    Ok(changes)
}
