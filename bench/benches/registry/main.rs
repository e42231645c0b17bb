//! What a registry carries: many instances, keep-alive streams and readers, under churn; beside it etcd with the same changes.
//!
//! Lives here: the arguments, and what is done with which server. Does not: the meaning of the figures (`bench/README.md`), phases and lines (`run`), a
//! client's own work (the modules).
//! The server is a process of its own with its store on disk, every registration durable. The generator is this process, with a connection
//! for each writer and reader; both share the machine, so its processor time is printed beside the server's.

mod ads;
mod etcd;
mod histogram;
mod native;
mod population;
mod readers;
mod run;
mod tally;
mod writers;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::Parser;
use tonic::transport::{Channel, Endpoint};
use weft_testkit::outside;

use crate::{
    histogram::Histogram,
    readers::ALL,
    run::{Run, memory_of, say},
};

/// What the registry counts of its ADS streams: from a change of the catalog to a client's word that it acts on it.
const CHANGE_TO_ACK: &str = "weft_registry_xds_change_to_ack_seconds";

/// As the registry has it: who measures shares two cores with what is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    /// Instances that a process registers in one message; the first tenth of its own it registers one by one
    #[arg(long, default_value_t = 100)]
    together: usize,
    /// Watchers of `--watched` services each
    #[arg(long, default_value_t = 950)]
    watchers: usize,
    /// ADS streams of `--watched` services each
    #[arg(long, default_value_t = 200)]
    ads: usize,
    /// Services of a watcher or an ADS stream, chosen by Zipf's law
    #[arg(long, default_value_t = 20)]
    watched: usize,
    /// Watchers of all services
    #[arg(long, default_value_t = 50)]
    all: usize,
    /// Share of the instances replaced each second, in %
    #[arg(long, default_value_t = 1.0)]
    churn: f64,
    /// Replace an instance by two calls instead of one: it leaves, then its successor comes
    #[arg(long)]
    apart: bool,
    /// Seconds of churn, and of beats sent as fast as they are answered
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// etcd's program, to run beside [default: the one in PATH]
    #[arg(long)]
    etcd: Option<PathBuf>,
    /// Nothing beside
    #[arg(long, conflicts_with = "etcd")]
    alone: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

impl Arguments {
    /// What `count` readers look at; others from another `first` on.
    fn some(&self, first: usize, count: usize) -> Vec<Vec<String>> {
        (first..first + count).map(|number| self.population().watched(number, self.watched)).collect()
    }

    fn everything(&self) -> Vec<Vec<String>> {
        vec![vec![ALL.to_owned()]; self.all]
    }
}

/// Connects; a connection for itself alone.
async fn connect(to: SocketAddr) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{to}"))?;
    endpoint.connect_timeout(Duration::from_secs(30)).connect().await.with_context(|| format!("connecting to {to}"))
}

async fn weft(arguments: &Arguments, dir: &Path) -> anyhow::Result<()> {
    let weft = outside::binary("weft").context("start me with `cargo xtask bench registry`")?;
    println!("weft registry, redb");
    let (mut process, at) = native::start(&weft, dir).await?;
    let mut run = Run::fill::<native::Registrant>(arguments, at, process.pid()).await?;
    run.beat().await?;
    run.read::<native::Watch>("watchers", arguments.some(0, arguments.watchers)).await?;
    run.read::<native::Watch>("watchers of all", arguments.everything()).await?;
    run.read::<ads::Stream>("ADS streams", arguments.some(arguments.watchers, arguments.ads)).await?;
    let admin = process.address("admin").await;
    let before = Histogram::read(admin, CHANGE_TO_ACK).await?;
    let catalog = run.churn(native::catalog).await?;
    let counted = Histogram::read(admin, CHANGE_TO_ACK).await?.since(&before);
    say("change → ADS acknowledged, by the registry", &counted.to_string());

    process.kill();
    let began = Instant::now();
    let (process, at) = native::start(&weft, dir).await?;
    let listening = began.elapsed().as_secs_f64();
    let back = native::catalog(at).await?;
    let count: usize = back.values().map(|it| it.len()).sum();
    let whole = began.elapsed().as_secs_f64();
    say("cold start after kill -9", &format!("{listening:8.2} s    all {count} instances listed after {whole:.2} s"));
    memory_of(process.pid())?;
    ensure!(back == catalog, "the catalog after kill -9 differs from the one before");
    Ok(())
}

async fn beside(arguments: &Arguments, program: &Path, dir: &Path) -> anyhow::Result<()> {
    println!("\netcd, one member");
    let (process, at) = etcd::start(program, dir).await?;
    let mut run = Run::fill::<etcd::Keys>(arguments, at, process.pid()).await?;
    run.read::<etcd::Watch>("watchers", arguments.some(0, arguments.watchers)).await?;
    run.read::<etcd::Watch>("watchers of all", arguments.everything()).await?;
    run.churn(etcd::catalog).await?;
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
        "{} instances of {} services over {} keep-alive streams; {} watchers and {} ADS streams of {} services, {} watchers of all",
        arguments.instances,
        arguments.services,
        arguments.streams,
        arguments.watchers,
        arguments.ads,
        arguments.watched,
        arguments.all
    );
    let dir = tempfile::tempdir_in(".").context("a directory on disk for the stores")?;
    weft(&arguments, dir.path()).await?;
    if arguments.alone {
        return Ok(());
    }
    match arguments.etcd.clone().or_else(|| outside::program("etcd")) {
        Some(program) => beside(&arguments, &program, dir.path()).await,
        None => anyhow::bail!("no etcd to run beside: `cargo xtask setup` adds it, `--alone` does without"),
    }
}
