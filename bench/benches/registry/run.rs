//! A run against one server: its phases, in the order in which they are called, and the lines they print.
//!
//! Lives here: filling, beating, reading, churning, comparing. Does not: which server (`main`), a client's own work (the modules).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use weft_bench::cpu;
use weft_testkit::memory;

use crate::{
    Arguments,
    population::Population,
    readers::{Group, Reader, Stage, State},
    tally::Spread,
    writers::{self, Calls, Counts, Mode, Writer},
};

/// Longest a phase may take to get where it should.
const PATIENCE: Duration = Duration::from_secs(300);

/// One server, and all that works on it.
pub(crate) struct Run<'a> {
    arguments: &'a Arguments,
    at: SocketAddr,
    pid: u32,
    counts: Arc<Counts>,
    mode: watch::Sender<Mode>,
    stage: watch::Sender<Stage>,
    writers: JoinSet<anyhow::Result<()>>,
    groups: Vec<Group>,
}

impl<'a> Run<'a> {
    /// All instances register.
    pub(crate) async fn fill<W: Writer>(arguments: &'a Arguments, at: SocketAddr, pid: u32) -> anyhow::Result<Self> {
        let (counts, mode, stage) =
            (Arc::default(), watch::Sender::new(Mode::OneByOne), watch::Sender::new(Stage::Filling));
        let meter = Meter::start(pid)?;
        let (writers, together) = (arguments.streams, arguments.together);
        let calls = Calls { together, apart: arguments.apart };
        let tasks = writers::start::<W>(at, arguments.population(), writers, calls, &counts, &mode.subscribe());
        let mut run = Self { arguments, at, pid, counts, mode, stage, writers: tasks, groups: Vec::new() };
        let shares = (0..writers).map(|first| (first..arguments.instances).step_by(writers).len());
        let alone: usize = shares.map(writers::one_by_one).sum();
        run.registered("registrations, one a call", alone, alone, &meter).await?;
        let meter = Meter::start(pid)?;
        run.mode.send_replace(Mode::Together);
        let what = format!("registrations, {together} a call");
        run.registered(&what, arguments.instances, arguments.instances - alone, &meter).await?;
        run.mode.send_replace(Mode::Calm);
        memory_of(pid)?;
        Ok(run)
    }

    /// Waits until so many are registered, of which this phase had `count`, and says how fast that was.
    async fn registered(&mut self, what: &str, goal: usize, count: usize, meter: &Meter) -> anyhow::Result<()> {
        reach("registering", &self.counts.registered, goal, &mut self.writers).await?;
        let rate = count as f64 / meter.seconds();
        say(what, &format!("{rate:8.0} /s durable   {}", meter.cores()?));
        latencies("a call", self.counts.register.take());
        Ok(())
    }

    /// Beats go as fast as they are answered, one message in flight a writer.
    pub(crate) async fn beat(&self) -> anyhow::Result<()> {
        let (meter, before) = (Meter::start(self.pid)?, self.counts.renewed.load(Ordering::Relaxed));
        self.mode.send_replace(Mode::Beating);
        sleep(self.arguments.seconds()).await;
        let rate = (self.counts.renewed.load(Ordering::Relaxed) - before) as f64 / meter.seconds();
        say("renewals, one message in flight a stream", &format!("{rate:8.0} /s   {}", meter.cores()?));
        self.mode.send_replace(Mode::Calm);
        Ok(())
    }

    /// Readers get their first whole answer.
    pub(crate) async fn read<R: Reader>(
        &mut self,
        what: &'static str,
        watched: Vec<Vec<String>>,
    ) -> anyhow::Result<()> {
        let meter = Meter::start(self.pid)?;
        let mut group = Group::start::<R>(what, self.at, watched, &self.counts, &self.stage.subscribe());
        reach(what, &group.seen.ready, group.count, &mut group.tasks).await?;
        let line = format!("{:8.2} s    {}", meter.seconds(), meter.cores()?);
        say(&format!("{} {what} have their first answer after", group.count), &line);
        self.groups.push(group);
        Ok(())
    }

    /// A share of the instances is replaced each second; then all readers have to have the same as `catalog`, which is returned.
    pub(crate) async fn churn(
        mut self,
        catalog: impl AsyncFn(SocketAddr) -> anyhow::Result<State>,
    ) -> anyhow::Result<State> {
        memory_of(self.pid)?;
        self.stage.send_replace(Stage::Measuring);
        let meter = Meter::start(self.pid)?;
        let messages = |run: &Self| run.groups.iter().map(|it| it.seen.messages.load(Ordering::Relaxed)).sum::<u64>();
        let before = messages(&self);
        self.mode.send_replace(Mode::Churning(self.arguments.churn_every()));
        sleep(self.arguments.seconds()).await;
        let rate = (messages(&self) - before) as f64 / meter.seconds();
        let what = format!("churn of {} % a second", self.arguments.churn);
        say(&what, &format!("{rate:8.0} messages/s   {}", meter.cores()?));
        memory_of(self.pid)?;
        self.counts.settled.store(0, Ordering::Relaxed);
        self.mode.send_replace(Mode::Calm);
        reach("finishing what was begun", &self.counts.settled, self.arguments.streams, &mut self.writers).await?;
        let (catalog, settled) = (Arc::new(catalog(self.at).await?), Instant::now());
        self.stage.send_replace(Stage::Ending(catalog.clone()));
        let mut equal = 0;
        for group in std::mem::take(&mut self.groups) {
            equal += join(group.tasks).await?.len();
            latencies(&format!("change → acknowledged, {}", group.what), group.seen.latencies.take());
        }
        latencies("a registration under churn", self.counts.register.take());
        let late = settled.elapsed().as_secs_f64();
        say(
            "final states that equal the catalog's",
            &format!("{equal} of {equal}, the last {late:.2} s after the last change"),
        );
        // One that crosses the departure of its instance finds nobody.
        say("beats not renewed", &self.counts.refused.load(Ordering::Relaxed).to_string());
        self.mode.send_replace(Mode::Leaving);
        join(self.writers).await?;
        Ok(Arc::unwrap_or_clone(catalog))
    }
}

/// Prints one line of a run.
pub(crate) fn say(what: &str, line: &str) {
    println!("{what:<48} {line}");
}

/// Prints what a process has in memory.
pub(crate) fn memory_of(pid: u32) -> anyhow::Result<()> {
    let memory::Resident { now, peak } = memory::resident(pid)?;
    say("resident memory", &format!("{now:8.0} MiB, peak {peak:.0} MiB"));
    Ok(())
}

fn latencies(what: &str, spread: Option<Spread>) {
    match spread {
        Some(Spread { count, p50, p99, max }) => {
            say(what, &format!("p50 {p50:8.1} ms   p99 {p99:8.1} ms   max {max:8.1} ms   of {count}"));
        }
        None => say(what, "nothing was seen"),
    }
}

/// Processor time of the measured process and of this one, over a phase.
struct Meter {
    pid: u32,
    began: Instant,
    measured: Duration,
    own: Duration,
}

impl Meter {
    fn start(pid: u32) -> anyhow::Result<Self> {
        Ok(Self { pid, began: Instant::now(), measured: cpu::time(pid)?, own: cpu::time(std::process::id())? })
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// `… cores; the generator …`.
    fn cores(&self) -> anyhow::Result<String> {
        let wall = self.seconds();
        let of = |after: Duration, before: Duration| after.saturating_sub(before).as_secs_f64() / wall;
        let (measured, own) = (of(cpu::time(self.pid)?, self.measured), of(cpu::time(std::process::id())?, self.own));
        Ok(format!("{measured:.2} cores; the generator {own:.2}"))
    }
}

/// Waits until a count is reached; fails when a task of the phase ends early.
async fn reach<T: 'static>(
    what: &str,
    count: &AtomicU64,
    goal: usize,
    tasks: &mut JoinSet<anyhow::Result<T>>,
) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while count.load(Ordering::Relaxed) < goal as u64 {
        if let Some(ended) = tasks.try_join_next() {
            ended?.with_context(|| what.to_owned())?;
        }
        let done = count.load(Ordering::Relaxed);
        ensure!(Instant::now() < until, "{what}: {done} of {goal} after {} s", PATIENCE.as_secs());
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn join<T: 'static>(mut tasks: JoinSet<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let mut all = Vec::with_capacity(tasks.len());
    while let Some(ended) = tasks.join_next().await {
        all.push(ended??);
    }
    Ok(all)
}

impl Arguments {
    pub(crate) fn population(&self) -> Population {
        Population { services: self.services, instances: self.instances }
    }

    fn seconds(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    fn churn_every(&self) -> Duration {
        Duration::from_secs_f64(self.streams as f64 / (self.instances as f64 * self.churn / 100.0))
    }
}
