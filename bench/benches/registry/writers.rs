//! The processes that register: each has a connection of its own and its share of the instances.
//!
//! Lives here: registering, beating, replacing, with whatever is measured. Does not: how a registry is spoken to ([`Writer`]'s makers).
//! Each registers a tenth of its instances one by one, and, when all have, the others in messages of several. Then it beats every 5 s as a sidecar does, in
//! every mode.

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
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};
use weft_proto::weft::model::v1::Instance;

use crate::{
    population::Population,
    tally::{Asked, Change, Latencies},
};

const BEAT: Duration = Duration::from_secs(5);

/// How instances are registered.
pub(crate) trait Writer: Sized + Send + 'static {
    /// What is held of one that is registered.
    type Held: Send + Sync;

    fn open(to: SocketAddr) -> impl Future<Output = anyhow::Result<Self>> + Send;
    fn register(&mut self, instance: Instance) -> impl Future<Output = anyhow::Result<Self::Held>> + Send;
    /// Several in one message.
    fn register_all(
        &mut self,
        instances: Vec<Instance>,
    ) -> impl Future<Output = anyhow::Result<Vec<Self::Held>>> + Send;
    fn deregister(&mut self, held: &Self::Held) -> impl Future<Output = anyhow::Result<()>> + Send;
    /// One leaves and one comes, by one call.
    fn replace(
        &mut self,
        held: &Self::Held,
        successor: Instance,
    ) -> impl Future<Output = anyhow::Result<Self::Held>> + Send;
    /// Renews all of these.
    fn beat<'a>(
        &mut self,
        held: impl Iterator<Item = &'a Self::Held> + Send,
    ) -> impl Future<Output = anyhow::Result<()>> + Send
    where
        Self::Held: 'a;
    /// Waits for the answer to a beat. Cancel-safe.
    fn answered(&mut self) -> impl Future<Output = anyhow::Result<Beaten>> + Send;
}

/// What a beat came to.
#[derive(Debug)]
pub(crate) struct Beaten {
    pub(crate) renewed: u64,
    pub(crate) refused: u64,
}

/// What all writers do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Mode {
    /// Register, each its first tenth.
    OneByOne,
    /// Register the others.
    Together,
    /// Beat every 5 s.
    Calm,
    /// Send the next beats as soon as the last ones are answered.
    Beating,
    /// Replace an instance every so often, besides beating.
    Churning(Duration),
    /// Leave and end.
    Leaving,
}

/// How much a process asks for with one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Calls {
    /// Instances that register together.
    pub(crate) together: usize,
    /// Whether who leaves and who comes in its place are two calls.
    pub(crate) apart: bool,
}

/// What writers count.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Instances registered.
    pub(crate) registered: AtomicU64,
    /// Writers that have finished what they did before `Calm`.
    pub(crate) settled: AtomicU64,
    /// Beats that renewed.
    pub(crate) renewed: AtomicU64,
    /// Beats that did not.
    pub(crate) refused: AtomicU64,
    /// Time of a registration.
    pub(crate) register: Latencies,
    /// When changes were asked for.
    pub(crate) asked: Asked,
}

/// Starts `writers` that share the instances. Each ends with `Leaving`, or with an error.
pub(crate) fn start<W: Writer>(
    to: SocketAddr,
    population: Population,
    writers: usize,
    calls: Calls,
    counts: &Arc<Counts>,
    mode: &watch::Receiver<Mode>,
) -> JoinSet<anyhow::Result<()>> {
    let mut all = JoinSet::new();
    for first in 0..writers {
        let numbers = (first as u64..population.instances as u64).step_by(writers);
        let (counts, mut mode) = (counts.clone(), mode.clone());
        all.spawn(async move {
            let writer = W::open(to).await.context("opening a writer's connection")?;
            let mut it = Process { writer, population, calls, held: Vec::new(), counts, latencies: Vec::new() };
            it.fill(numbers.collect(), &mut mode).await.context("registering")?;
            it.run(mode).await
        });
    }
    all
}

/// Of a process's instances, how many it registers one by one.
pub(crate) fn one_by_one(instances: usize) -> usize {
    instances.div_ceil(10)
}

struct Process<W: Writer> {
    writer: W,
    population: Population,
    calls: Calls,
    /// By number.
    held: Vec<(u64, W::Held)>,
    counts: Arc<Counts>,
    latencies: Vec<Duration>,
}

impl<W: Writer> Process<W> {
    async fn fill(&mut self, numbers: Vec<u64>, mode: &mut watch::Receiver<Mode>) -> anyhow::Result<()> {
        let (first, others) = numbers.split_at(one_by_one(numbers.len()));
        let mut beat_at = Instant::now() + BEAT;
        for number in first {
            let held = self.register(*number).await?;
            self.held.push((*number, held));
            self.counts.registered.fetch_add(1, Ordering::Relaxed);
            self.beat_if_due(&mut beat_at).await?;
        }
        self.tell();
        while *mode.borrow_and_update() == Mode::OneByOne {
            tokio::select! {
                changed = mode.changed() => changed?,
                answer = self.writer.answered() => {
                    answer?;
                }
                () = sleep_until(beat_at) => self.beat_if_due(&mut beat_at).await?,
            }
        }
        for several in others.chunks(self.calls.together.max(1)) {
            let instances = several.iter().map(|number| self.population.instance(*number)).collect();
            let began = Instant::now();
            let held = self.writer.register_all(instances).await?;
            self.latencies.push(began.elapsed());
            self.counts.registered.fetch_add(held.len() as u64, Ordering::Relaxed);
            self.held.extend(several.iter().copied().zip(held));
            self.beat_if_due(&mut beat_at).await?;
        }
        self.tell();
        Ok(())
    }

    async fn beat_if_due(&mut self, beat_at: &mut Instant) -> anyhow::Result<()> {
        if Instant::now() < *beat_at {
            return Ok(());
        }
        *beat_at += BEAT;
        self.beat().await
    }

    async fn register(&mut self, number: u64) -> anyhow::Result<W::Held> {
        let instance = self.population.instance(number);
        self.counts.asked.note(Change::Comes(number));
        let began = Instant::now();
        let held = self.writer.register(instance).await?;
        self.latencies.push(began.elapsed());
        Ok(held)
    }

    async fn replace(&mut self) -> anyhow::Result<()> {
        let index = rand::rng().random_range(0..self.held.len());
        let (number, ref held) = self.held[index];
        let next = self.population.successor(number);
        self.counts.asked.note(Change::Goes(number));
        if self.calls.apart {
            self.writer.deregister(held).await?;
            self.held[index] = (next, self.register(next).await?);
            return Ok(());
        }
        let instance = self.population.instance(next);
        self.counts.asked.note(Change::Comes(next));
        let began = Instant::now();
        self.held[index] = (next, self.writer.replace(held, instance).await?);
        self.latencies.push(began.elapsed());
        Ok(())
    }

    async fn beat(&mut self) -> anyhow::Result<()> {
        self.writer.beat(self.held.iter().map(|(_, held)| held)).await
    }

    fn tell(&mut self) {
        self.counts.register.extend(self.latencies.drain(..));
    }

    async fn run(mut self, mut mode: watch::Receiver<Mode>) -> anyhow::Result<()> {
        let mut now = *mode.borrow_and_update();
        let mut beat_at = Instant::now() + rand::rng().random_range(Duration::ZERO..BEAT);
        let mut churn_at = Instant::now();
        loop {
            tokio::select! {
                answer = self.writer.answered() => {
                    let Beaten { renewed, refused } = answer?;
                    self.counts.renewed.fetch_add(renewed, Ordering::Relaxed);
                    self.counts.refused.fetch_add(refused, Ordering::Relaxed);
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
                () = sleep_until(churn_at), if matches!(now, Mode::Churning(_)) => {
                    if let Mode::Churning(every) = now {
                        churn_at += every;
                    }
                    self.replace().await?;
                }
                changed = mode.changed() => {
                    changed?;
                    now = *mode.borrow_and_update();
                    match now {
                        Mode::Calm => {
                            self.tell();
                            self.counts.settled.fetch_add(1, Ordering::Relaxed);
                        }
                        Mode::OneByOne | Mode::Together => {}
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
