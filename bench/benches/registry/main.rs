//! What a registry carries: many instances, keep-alive streams and watchers, under churn; beside it etcd with the same changes.
//!
//! Lives here: the phases and the table. Does not: the meaning of the figures (`bench/README.md`), a phase's own work (the modules).
//! The registry is a process of its own with its store on disk, every registration durable. The generator is this process, with a connection
//! for each registrant and watcher; both share the machine, so its processor time is printed beside the registry's.

mod etcd;
mod native;
mod population;
mod registrants;
mod tally;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Parser;
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tonic::transport::{Channel, Endpoint};
use weft_bench::cpu;
use weft_testkit::{memory, outside, process::Process};

use crate::{
    native::{Seen, Stage, State},
    population::Population,
    registrants::{Counts, Mode},
    tally::Spread,
};

/// Longest a phase may take to get where it should.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Parser, Debug, Clone)]
struct Arguments {
    /// Instances
    #[arg(long, default_value_t = 100_000)]
    instances: usize,
    /// Services that the instances belong to
    #[arg(long, default_value_t = 1_000)]
    services: usize,
    /// Keep-alive streams, each with its share of the instances
    #[arg(long, default_value_t = 1_000)]
    streams: usize,
    /// Watchers of `--watched` services each
    #[arg(long, default_value_t = 950)]
    watchers: usize,
    /// Services of a watcher, chosen by Zipf's law
    #[arg(long, default_value_t = 20)]
    watched: usize,
    /// Watchers of all services
    #[arg(long, default_value_t = 50)]
    all: usize,
    /// Share of the instances replaced each second, in %
    #[arg(long, default_value_t = 1.0)]
    churn: f64,
    /// Seconds of churn, and of beats sent as fast as they are answered
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// etcd's program, to run beside
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    fn churn_every(&self) -> Duration {
        Duration::from_secs_f64(self.streams as f64 / (self.instances as f64 * self.churn / 100.0))
    }

    fn watched(&self, population: &Population) -> Vec<Vec<String>> {
        (0..self.watchers).map(|number| population.watched(number, self.watched)).collect()
    }
}

/// Connects; a connection for itself alone.
async fn connect(to: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    endpoint.connect_timeout(Duration::from_secs(30)).connect().await.with_context(|| format!("connecting to {to}"))
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

    /// `… cores, generator … cores`.
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
    tasks: &mut [&mut JoinSet<anyhow::Result<T>>],
) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while count.load(Ordering::Relaxed) < goal as u64 {
        for set in tasks.iter_mut() {
            if let Some(ended) = set.try_join_next() {
                ended?.with_context(|| what.to_owned())?;
            }
        }
        let done = count.load(Ordering::Relaxed);
        ensure!(Instant::now() < until, "{what}: {done} of {goal} after {} s", PATIENCE.as_secs());
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

fn line(what: &str, spread: Option<Spread>) {
    match spread {
        Some(Spread { count, p50, p99, max }) => {
            println!("{what:<44} p50 {p50:8.1} ms   p99 {p99:8.1} ms   max {max:8.1} ms   of {count}");
        }
        None => println!("{what:<44} nothing was seen"),
    }
}

async fn registry(weft: &Path, dir: &Path) -> anyhow::Result<(Process, SocketAddr)> {
    let data = dir.join("registry");
    let args = ["registry", "--insecure", "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-format", "json"];
    let mut args: Vec<String> = args.map(str::to_owned).to_vec();
    args.extend(["--data".to_owned(), data.to_string_lossy().into_owned()]);
    let mut process = Process::start("registry", weft, weft, &args, &[("RUST_LOG", "warn".to_owned())])?;
    let grpc = process.address("grpc").await;
    Ok((process, grpc))
}

async fn weft(arguments: &Arguments, dir: &Path) -> anyhow::Result<()> {
    let weft = outside::binary("weft").context("start me with `cargo xtask bench registry`")?;
    let population = Population { services: arguments.services, instances: arguments.instances, began: Instant::now() };
    let (mut process, at) = registry(&weft, dir).await?;
    let pid = process.pid();
    println!("weft registry, redb");

    let counts = Arc::new(Counts::default());
    let (mode, modes) = watch::channel(Mode::Calm);
    let meter = Meter::start(pid)?;
    let mut registrants = registrants::start(at, population, arguments.streams, &counts, &modes);
    reach("registering", &counts.registered, arguments.instances, &mut [&mut registrants]).await?;
    let rate = arguments.instances as f64 / meter.seconds();
    println!("{:<44} {rate:8.0} /s durable   {}", "registrations", meter.cores()?);
    line("a registration", counts.register.take());

    let meter = Meter::start(pid)?;
    let before = counts.renewed.load(Ordering::Relaxed);
    mode.send_replace(Mode::Beating);
    sleep(Duration::from_secs(arguments.seconds)).await;
    let renewed = counts.renewed.load(Ordering::Relaxed) - before;
    println!(
        "{:<44} {:8.0} /s   {}",
        "renewals, one message in flight a stream",
        renewed as f64 / meter.seconds(),
        meter.cores()?
    );
    mode.send_replace(Mode::Calm);

    let (stage, stages) = watch::channel(Stage::Filling);
    let (some, all) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
    let meter = Meter::start(pid)?;
    let mut of_some = native::start(at, population, arguments.watched(&population), &some, &counts, &stages);
    reach("filling watchers", &some.ready, arguments.watchers, &mut [&mut of_some]).await?;
    println!("{:<44} {:8.2} s    {}", "watchers have their first answer after", meter.seconds(), meter.cores()?);
    let meter = Meter::start(pid)?;
    let mut of_all = native::start(at, population, vec![vec!["*".to_owned()]; arguments.all], &all, &counts, &stages);
    reach("filling watchers of all", &all.ready, arguments.all, &mut [&mut of_all]).await?;
    println!("{:<44} {:8.2} s    {}", "watchers of all after", meter.seconds(), meter.cores()?);
    print_memory(pid)?;

    stage.send_replace(Stage::Measuring);
    let meter = Meter::start(pid)?;
    let messages = || some.messages.load(Ordering::Relaxed) + all.messages.load(Ordering::Relaxed);
    let before = messages();
    mode.send_replace(Mode::Churning(arguments.churn_every()));
    sleep(Duration::from_secs(arguments.seconds)).await;
    let rate = (messages() - before) as f64 / meter.seconds();
    println!("{:<44} {rate:8.0} messages/s   {}", format!("churn of {} % a second", arguments.churn), meter.cores()?);
    print_memory(pid)?;
    mode.send_replace(Mode::Calm);
    sleep(Duration::from_secs(1)).await;
    stage.send_replace(Stage::Ending);
    let states = join(of_some).await?.into_iter().chain(join(of_all).await?).collect::<Vec<_>>();
    line("change → acknowledged, watchers", some.latencies.take());
    line("change → acknowledged, watchers of all", all.latencies.take());
    line("a registration under churn", counts.register.take());
    let catalog = native::catalog(at).await?;
    compare(&catalog, &states)?;
    println!("{:<44} {} of {} equal the catalog's", "final states", states.len(), states.len());
    println!("{:<44} {}", "beats not renewed", counts.refused.load(Ordering::Relaxed));
    drop(states);
    mode.send_replace(Mode::Leaving);
    join(registrants).await?;

    process.kill();
    let began = Instant::now();
    let (process, at) = registry(&weft, dir).await?;
    let back = native::catalog(at).await?;
    let count: usize = back.values().map(|it| it.len()).sum();
    println!(
        "{:<44} {:8.2} s    all {count} instances listed",
        "cold start after kill -9",
        began.elapsed().as_secs_f64()
    );
    print_memory(process.pid())?;
    ensure!(back == catalog, "the catalog after kill -9 differs from the one before");
    Ok(())
}

fn print_memory(pid: u32) -> anyhow::Result<()> {
    let memory::Resident { now, peak } = memory::resident(pid)?;
    println!("{:<44} {now:8.0} MiB, peak {peak:.0} MiB", "resident memory");
    Ok(())
}

fn compare(catalog: &State, states: &[(Vec<String>, State)]) -> anyhow::Result<()> {
    for (services, state) in states {
        if services == &["*"] {
            ensure!(state == catalog, "a watcher of all differs from the catalog");
            continue;
        }
        for service in services {
            ensure!(state.get(service) == catalog.get(service), "a watcher of {service} differs from the catalog");
        }
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

async fn beside(arguments: &Arguments, program: &Path, dir: &Path) -> anyhow::Result<()> {
    let population = Population { services: arguments.services, instances: arguments.instances, began: Instant::now() };
    let (process, at) = etcd::start(program, dir).await?;
    let pid = process.pid();
    println!("\netcd, one member");
    let counts = Arc::new(Counts::default());
    let (mode, modes) = watch::channel(Mode::Calm);
    let meter = Meter::start(pid)?;
    let mut writers = etcd::writers(at, population, arguments.streams, &counts, &modes);
    reach("writing keys", &counts.registered, arguments.instances, &mut [&mut writers]).await?;
    let rate = arguments.instances as f64 / meter.seconds();
    println!("{:<44} {rate:8.0} /s durable   {}", "puts", meter.cores()?);
    line("a put", counts.register.take());

    let (stage, stages) = watch::channel(Stage::Filling);
    let (some, all) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
    let meter = Meter::start(pid)?;
    let mut of_some = etcd::watchers(at, population, arguments.watched(&population), &some, &counts, &stages);
    let everything = vec![vec!["*".to_owned()]; arguments.all];
    let mut of_all = etcd::watchers(at, population, everything, &all, &counts, &stages);
    reach("creating watches", &some.ready, arguments.watchers, &mut [&mut of_some, &mut of_all]).await?;
    reach("creating watches of all", &all.ready, arguments.all, &mut [&mut of_some, &mut of_all]).await?;
    println!(
        "{:<44} {:8.2} s    {}",
        "watches created, without a first answer, after",
        meter.seconds(),
        meter.cores()?
    );
    print_memory(pid)?;

    stage.send_replace(Stage::Measuring);
    let meter = Meter::start(pid)?;
    let messages = || some.messages.load(Ordering::Relaxed) + all.messages.load(Ordering::Relaxed);
    let before = messages();
    mode.send_replace(Mode::Churning(arguments.churn_every()));
    sleep(Duration::from_secs(arguments.seconds)).await;
    let rate = (messages() - before) as f64 / meter.seconds();
    println!("{:<44} {rate:8.0} messages/s   {}", format!("churn of {} % a second", arguments.churn), meter.cores()?);
    print_memory(pid)?;
    mode.send_replace(Mode::Leaving);
    join(writers).await?;
    sleep(Duration::from_secs(1)).await;
    stage.send_replace(Stage::Ending);
    join(of_some).await?;
    join(of_all).await?;
    line("change → received, watchers", some.latencies.take());
    line("change → received, watchers of all", all.latencies.take());
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    ensure!(
        arguments.streams > 0
            && arguments.services > 0
            && arguments.instances >= arguments.streams.max(arguments.services),
        "--instances has to be at least --streams and --services, and these at least 1"
    );
    println!(
        "{} instances of {} services over {} keep-alive streams; {} watchers of {} services, {} of all",
        arguments.instances,
        arguments.services,
        arguments.streams,
        arguments.watchers,
        arguments.watched,
        arguments.all
    );
    let dir = tempfile::tempdir_in(".").context("a directory on disk for the stores")?;
    weft(&arguments, dir.path()).await?;
    if let Some(program) = &arguments.etcd {
        beside(&arguments, program, dir.path()).await?;
    }
    Ok(())
}
