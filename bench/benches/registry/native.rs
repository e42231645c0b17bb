//! weft by its own protocols: a sidecar's registrations and keep-alive, and the watch of a sidecar or a gateway.
//!
//! Lives here: starting a registry, registering, watching, what the catalog says. Does not: what a real client does with it (`weft-discovery`).
//! Of an answer a reader decodes no more than whose instances it has: the generator shares the machine with what it measures.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context, ensure};
use http::uri::PathAndQuery;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{IntoRequest, IntoStreamingRequest, Streaming, client::Grpc, transport::Channel};
use tonic_prost::ProstCodec;
use weft_proto::weft::{
    discovery::v1::{ListRequest, WatchRequest},
    model::v1::{Instance, Status},
    registry::v1::{
        Beat, DeregisterRequest, KeepAliveRequest, KeepAliveResponse, RegisterAllRequest, RegisterRequest,
        deregistered, registered, registry_client::RegistryClient, verdict::Outcome,
    },
};
use weft_testkit::process::Process;

use crate::{
    connect,
    population::number_of,
    readers::{ALL, Reader, State},
    tally::{Change, FastMap},
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

/// What a bench reads of a WatchResponse or a ListResponse.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(uint64, tag = "1")]
    version: u64,
    #[prost(message, repeated, tag = "2")]
    services: Vec<Update>,
}

/// Of a ServiceUpdate.
#[derive(Clone, PartialEq, prost::Message)]
struct Update {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    base: u64,
    #[prost(message, optional, tag = "3")]
    full: Option<Instances>,
    #[prost(message, optional, tag = "4")]
    delta: Option<Delta>,
    #[prost(uint64, tag = "8")]
    version: u64,
}

/// Of a Full.
#[derive(Clone, PartialEq, prost::Message)]
struct Instances {
    #[prost(message, repeated, tag = "1")]
    instances: Vec<Id>,
}

/// Of a Delta.
#[derive(Clone, PartialEq, prost::Message)]
struct Delta {
    #[prost(message, repeated, tag = "1")]
    upserted: Vec<Id>,
    #[prost(message, repeated, tag = "2")]
    removed: Vec<Id>,
}

/// Of an Instance, or of a Removed.
#[derive(Clone, PartialEq, prost::Message)]
struct Id {
    #[prost(string, tag = "1")]
    id: String,
}

/// What the catalog itself says.
pub(crate) async fn catalog(registry: SocketAddr) -> anyhow::Result<State> {
    let mut client = Grpc::new(connect(registry).await?).max_decoding_message_size(usize::MAX);
    client.ready().await?;
    let (path, codec) = (path("List"), ProstCodec::<ListRequest, Answer>::default());
    let answer = client.unary(ListRequest::default().into_request(), path, codec).await?.into_inner();
    let mut known = Known::default();
    known.apply(answer.services)?;
    Ok(known.state)
}

fn path(method: &str) -> PathAndQuery {
    let path = format!("/weft.discovery.v1.Discovery/{method}");
    path.parse().expect("a method's name is a path")
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

impl Lease {
    fn parting(&self) -> DeregisterRequest {
        DeregisterRequest { id: self.id.clone(), epoch: self.epoch }
    }
}

impl Registrant {
    async fn exchange(&mut self, leave: &[&Lease], come: Vec<Instance>) -> anyhow::Result<Vec<Lease>> {
        let (leaving, coming) = (leave.len(), come.len());
        let request = |it| RegisterRequest { instance: Some(it), ttl_ms: 0 };
        let request = RegisterAllRequest {
            requests: come.into_iter().map(request).collect(),
            leaving: leave.iter().map(|it| it.parting()).collect(),
        };
        let answer = self.client.register_all(request).await?.into_inner();
        let (registered, deregistered) = (answer.registered, answer.deregistered);
        ensure!((deregistered.len(), registered.len()) == (leaving, coming), "an answer for each");
        for it in deregistered {
            if let deregistered::Outcome::Refused(status) = it.outcome.context("an outcome")? {
                anyhow::bail!("refused: {}", status.message);
            }
        }
        let lease = |it: registered::Outcome| match it {
            registered::Outcome::Lease(it) => Ok(Lease { id: it.instance_id, epoch: it.epoch }),
            registered::Outcome::Refused(status) => anyhow::bail!("refused: {}", status.message),
        };
        registered.into_iter().map(|it| lease(it.outcome.context("an outcome")?)).collect()
    }
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

    async fn register_all(&mut self, instances: Vec<Instance>) -> anyhow::Result<Vec<Lease>> {
        self.exchange(&[], instances).await
    }

    async fn deregister(&mut self, held: &Lease) -> anyhow::Result<()> {
        self.client.deregister(held.parting()).await?;
        Ok(())
    }

    async fn replace(&mut self, held: &Lease, successor: Instance) -> anyhow::Result<Lease> {
        self.exchange(&[held], vec![successor]).await?.pop().context("one answer for one instance")
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
    answers: Streaming<Answer>,
    services: Vec<String>,
    version: u64,
    known: Known,
}

impl Reader for Watch {
    async fn open(to: SocketAddr, name: String, services: Vec<String>) -> anyhow::Result<Self> {
        let mut client = Grpc::new(connect(to).await?).max_decoding_message_size(usize::MAX);
        client.ready().await?;
        let (requests, outgoing) = mpsc::channel(16);
        let first = WatchRequest { watcher: name, subscribe: services.clone(), ..WatchRequest::default() };
        requests.send(first).await?;
        let (outgoing, codec) = (ReceiverStream::new(outgoing), ProstCodec::<WatchRequest, Answer>::default());
        let answers = client.streaming(outgoing.into_streaming_request(), path("Watch"), codec).await?.into_inner();
        Ok(Self { requests, answers, services, version: 0, known: Known::default() })
    }

    async fn next(&mut self) -> anyhow::Result<Vec<Change>> {
        let message = self.answers.message().await?.context("the registry ended a watch")?;
        self.version = message.version;
        self.known.apply(message.services)
    }

    async fn acknowledge(&mut self) -> anyhow::Result<()> {
        self.requests.send(WatchRequest { ack: self.version, ..WatchRequest::default() }).await?;
        Ok(())
    }

    fn is_ready(&self) -> bool {
        // While an answer goes on, its messages have the version of the one before.
        let whole = self.services == [ALL] && self.version > 0;
        whole || self.services.iter().all(|it| it != ALL && self.known.state.contains_key(it))
    }

    fn state(&self) -> &State {
        &self.known.state
    }
}

/// What a reader was told.
#[derive(Debug, Default)]
struct Known {
    state: State,
    /// By service, its version as it was said last.
    carried: FastMap<String, u64>,
}

impl Known {
    /// Applies updates; returns the changes in their deltas.
    fn apply(&mut self, services: Vec<Update>) -> anyhow::Result<Vec<Change>> {
        let mut changes = Vec::new();
        for Update { name, base, full, delta, version } in services {
            match (full, delta) {
                (Some(full), None) => {
                    let numbers = full.instances.iter().map(|it| number_of(&it.id)).collect::<anyhow::Result<_>>()?;
                    self.state.insert(name.clone(), numbers);
                }
                (None, Some(delta)) => {
                    let known =
                        self.state.get_mut(&name).with_context(|| format!("a delta before the set of {name}"))?;
                    ensure!(self.carried.get(&name) == Some(&base), "{name}: a delta on {base}, which was not sent");
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
                (Some(_), Some(_)) | (None, None) => anyhow::bail!("{name}: an update is one of full and delta"),
            }
            match self.carried.get_mut(&name) {
                Some(carried) => *carried = version,
                None => drop(self.carried.insert(name, version)),
            }
        }
        Ok(changes)
    }
}
