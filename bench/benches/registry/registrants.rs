//! The processes that register: each has one connection, one keep-alive stream, and the instances of its slots.
//!
//! Lives here: registering, beating, replacing. Does not: watching.
//! Each registers its slots one after the other, then beats every 5 s as a sidecar does, in every mode.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use rand::Rng;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};
use uuid::Uuid;
use weft_proto::weft::{
    model::v1::Status,
    registry::v1::{
        Beat, DeregisterRequest, KeepAliveRequest, KeepAliveResponse, RegisterRequest, registry_client::RegistryClient,
        verdict::Outcome,
    },
};

use crate::{
    connect,
    population::Population,
    tally::{Departures, Latencies},
};

const BEAT: Duration = Duration::from_secs(5);

/// What all registrants do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// Beat every 5 s.
    Calm,
    /// Send the next beats as soon as the last ones are answered.
    Beating,
    /// Replace an instance every so often, besides beating.
    Churning(Duration),
    /// Leave the streams and end.
    Leaving,
}

/// What registrants count.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Instances registered.
    pub(crate) registered: AtomicU64,
    /// Beats answered with RENEWED.
    pub(crate) renewed: AtomicU64,
    /// Beats answered otherwise.
    pub(crate) refused: AtomicU64,
    /// Time of a registration.
    pub(crate) register: Latencies,
    /// When instances were asked to leave.
    pub(crate) departures: Departures,
}

struct Held {
    slot: usize,
    generation: usize,
    id: String,
    epoch: u64,
}

struct Registrant {
    population: Population,
    client: RegistryClient<Channel>,
    beats: mpsc::Sender<KeepAliveRequest>,
    verdicts: Streaming<KeepAliveResponse>,
    held: Vec<Held>,
    counts: Arc<Counts>,
    latencies: Vec<u64>,
}

/// Starts `streams` registrants that share the slots. Each ends with `Leaving`, or with an error.
pub(crate) fn start(
    registry: SocketAddr,
    population: Population,
    streams: usize,
    counts: &Arc<Counts>,
    mode: &watch::Receiver<Mode>,
) -> JoinSet<anyhow::Result<()>> {
    let mut all = JoinSet::new();
    for number in 0..streams {
        let slots = (number..population.instances).step_by(streams).collect();
        let (counts, mode) = (counts.clone(), mode.clone());
        all.spawn(async move {
            let mut it = Registrant::open(registry, population, counts).await.context("opening a keep-alive stream")?;
            it.register_all(slots).await.context("registering")?;
            it.run(mode).await
        });
    }
    all
}

impl Registrant {
    async fn open(registry: SocketAddr, population: Population, counts: Arc<Counts>) -> anyhow::Result<Self> {
        let mut client = RegistryClient::new(connect(registry).await?);
        let (beats, outgoing) = mpsc::channel(2);
        beats.send(KeepAliveRequest::default()).await?; // opens the stream
        let verdicts = client.keep_alive(ReceiverStream::new(outgoing)).await?.into_inner();
        Ok(Self { population, client, beats, verdicts, held: Vec::new(), counts, latencies: Vec::new() })
    }

    async fn register_all(&mut self, slots: Vec<usize>) -> anyhow::Result<()> {
        let mut beat_at = Instant::now() + BEAT;
        for slot in slots {
            let held = self.register(slot, 0).await?;
            self.held.push(held);
            self.counts.registered.fetch_add(1, Ordering::Relaxed);
            if Instant::now() >= beat_at {
                beat_at += BEAT;
                self.beat().await?;
            }
        }
        self.counts.register.extend(self.latencies.drain(..));
        Ok(())
    }

    async fn register(&mut self, slot: usize, generation: usize) -> anyhow::Result<Held> {
        let instance = self.population.instance(slot, generation);
        let id = instance.id.clone();
        let began = Instant::now();
        let answer = self.client.register(RegisterRequest { instance: Some(instance), ttl_ms: 0 }).await?;
        self.latencies.push(u64::try_from(began.elapsed().as_nanos())?);
        let epoch = answer.into_inner().lease.context("a lease")?.epoch;
        Ok(Held { slot, generation, id, epoch })
    }

    async fn replace(&mut self) -> anyhow::Result<()> {
        let index = rand::rng().random_range(0..self.held.len());
        let Held { slot, generation, ref id, epoch } = self.held[index];
        self.counts.departures.note(Uuid::parse_str(id)?.as_u128(), self.population.now());
        self.client.deregister(DeregisterRequest { id: id.clone(), epoch }).await?;
        self.held[index] = self.register(slot, generation + 1).await?;
        Ok(())
    }

    async fn beat(&mut self) -> anyhow::Result<()> {
        let beat = |held: &Held| Beat {
            id: held.id.clone(),
            epoch: held.epoch,
            status: Status::Serving.into(),
            reason: String::new(),
        };
        let beats = self.held.iter().map(beat).collect();
        self.beats.send(KeepAliveRequest { beats }).await.context("the registry ended a keep-alive stream")
    }

    async fn run(mut self, mut mode: watch::Receiver<Mode>) -> anyhow::Result<()> {
        let mut now = *mode.borrow_and_update();
        let mut beat_at = Instant::now() + rand::rng().random_range(Duration::ZERO..BEAT);
        let mut churn_at = Instant::now();
        loop {
            let churning = matches!(now, Mode::Churning(_));
            tokio::select! {
                answer = self.verdicts.message() => {
                    let answer = answer?.context("the registry ended a keep-alive stream")?;
                    let renewed = answer.verdicts.iter().filter(|it| it.outcome() == Outcome::Renewed).count() as u64;
                    self.counts.renewed.fetch_add(renewed, Ordering::Relaxed);
                    self.counts.refused.fetch_add(answer.verdicts.len() as u64 - renewed, Ordering::Relaxed);
                    if now == Mode::Beating {
                        self.beat().await?;
                    }
                }
                () = sleep_until(beat_at) => {
                    beat_at += BEAT;
                    if now != Mode::Beating {
                        self.beat().await?;
                    }
                }
                () = sleep_until(churn_at), if churning => {
                    if let Mode::Churning(every) = now {
                        churn_at += every;
                    }
                    self.replace().await?;
                }
                changed = mode.changed() => {
                    changed?;
                    now = *mode.borrow_and_update();
                    match now {
                        Mode::Calm => self.counts.register.extend(self.latencies.drain(..)),
                        Mode::Beating => self.beat().await?,
                        Mode::Churning(every) => {
                            churn_at = Instant::now() + rand::rng().random_range(Duration::ZERO..every);
                        }
                        Mode::Leaving => return Ok(()),
                    }
                }
            }
        }
    }
}
