//! What traces cost: processor time of a gateway and of a sidecar's inbound for one call, when none, 1 % and all of the calls are sampled.
//!
//! Lives here: the three chains (load → gateway → sidecar → echo app), the rounds, the table. Does not: the meaning of the figures
//! (`bench/README.md`).
//! The rounds of the three ratios alternate, so that what happens to the machine happens to all of them. Each chain is warmed up, and read
//! once the spans of a round are exported: exporting is part of the cost. The receiver runs in this process, whose time does not count.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use clap::Parser;
use http::Method;
use tokio::{net::TcpListener, task::JoinSet, time::sleep};
use tonic::transport::Channel;
use weft_bench::{cpu, figures::Figure};
use weft_proto::{
    descriptors,
    weft::testkit::v1::{EchoRequest, echo_client::EchoClient},
};
use weft_testkit::{collector::Collector, echo, http::send, mesh::channel, outside, process::Process};

/// Spans leave every half second; this is how long a chain may need to be idle again.
const FLUSH: Duration = Duration::from_millis(1_200);

#[derive(Parser)]
struct Arguments {
    /// Rounds of each ratio
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Calls of a round
    #[arg(long, default_value_t = 10_000)]
    calls: usize,
    /// Calls in flight
    #[arg(long, default_value_t = 16)]
    in_flight: usize,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// A gateway and a sidecar at one ratio.
struct Chain {
    ratio: &'static str,
    gateway: Process,
    gateway_at: SocketAddr,
    sidecar: Process,
    per_call: [Vec<f64>; 2],
    rates: Vec<f64>,
}

impl Chain {
    async fn start(weft: &Path, dir: &Path, app: SocketAddr, collector: &Collector, ratio: &'static str) -> Self {
        let env = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint()),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()),
            ("OTEL_TRACES_SAMPLER_ARG", ratio.to_owned()),
            ("RUST_LOG", "warn".to_owned()), // no access log: it costs more than what is measured
        ];
        let any = "127.0.0.1:0";
        let start = |name: &str, args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            Process::start(name, weft, weft, &args, &env).expect("weft starts")
        };
        let (app, services) = (app.to_string(), dir.join("services.toml"));
        let services = services.to_string_lossy();
        let mut sidecar = start(
            "sidecar",
            &[
                "sidecar",
                "--service",
                "echo",
                "--app",
                &app,
                "--services",
                &services,
                "--inbound",
                any,
                "--outbound",
                any,
                "--log-format",
                "json",
            ],
        );
        let inbound = sidecar.address("inbound").await.to_string();
        let set = dir.join("echo.binpb");
        let set = set.to_string_lossy();
        let mut gateway = start(
            "gateway",
            &[
                "gateway",
                "--listen",
                any,
                "--descriptor-set",
                &set,
                "--upstream",
                &inbound,
                "--workers",
                "1",
                "--log-format",
                "json",
            ],
        );
        let gateway_at = gateway.address("http").await;
        Self { ratio, gateway, gateway_at, sidecar, per_call: Default::default(), rates: Vec::new() }
    }

    fn cpu(&self) -> [Duration; 2] {
        [&self.gateway, &self.sidecar].map(|process| cpu::time(process.pid()).expect("the process runs"))
    }

    async fn round(&mut self, calls: usize, in_flight: usize) -> anyhow::Result<()> {
        let before = self.cpu();
        let began = Instant::now();
        load(self.gateway_at, calls, in_flight).await?;
        self.rates.push(calls as f64 / began.elapsed().as_secs_f64());
        sleep(FLUSH).await;
        for ((after, before), rounds) in self.cpu().into_iter().zip(before).zip(&mut self.per_call) {
            rounds.push((after - before).as_secs_f64() * 1e6 / calls as f64);
        }
        Ok(())
    }

    /// Spans recorded and dropped by both, as they say themselves.
    async fn spans(&mut self) -> anyhow::Result<(u64, u64)> {
        let (mut recorded, mut dropped) = (0, 0);
        for (process, role) in [(&mut self.gateway, "gateway"), (&mut self.sidecar, "sidecar")] {
            let admin = process.address("admin").await;
            let text = send(admin, Method::GET, "/metrics", "").await?.body;
            let of = |prefix: &str| -> u64 {
                let values = text.lines().filter(|line| line.starts_with(prefix));
                values.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
            };
            recorded += of(&format!("weft_{role}_spans_total "));
            dropped += of(&format!("weft_{role}_spans_dropped_total"));
        }
        Ok((recorded, dropped))
    }
}

/// Sends unary calls, each sender its next one when the last is answered.
async fn load(target: SocketAddr, calls: usize, in_flight: usize) -> anyhow::Result<()> {
    let connections: Vec<Channel> = (0..4).map(|_| channel(target)).collect();
    let mut senders = JoinSet::new();
    for sender in 0..in_flight {
        let mut client = EchoClient::new(connections[sender % connections.len()].clone());
        let share = calls / in_flight + usize::from(sender < calls % in_flight);
        senders.spawn(async move {
            for _ in 0..share {
                client.unary(EchoRequest { text: "hello".to_owned(), ..EchoRequest::default() }).await?;
            }
            Ok::<_, tonic::Status>(())
        });
    }
    while let Some(ended) = senders.join_next().await {
        ended??;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { rounds, calls, in_flight, bench: _ } = Arguments::parse();
    let weft = outside::binary("weft").ok_or_else(|| anyhow::anyhow!("start me with `cargo xtask bench sampling`"))?;
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("services.toml"), "")?;
    std::fs::write(dir.path().join("echo.binpb"), descriptors::TESTKIT)?;
    let collector = Collector::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let app = listener.local_addr()?;
    let mut serving = JoinSet::new();
    serving.spawn(echo::serve(listener, "echo".to_owned(), std::future::pending()));

    let mut chains = Vec::new();
    for ratio in ["0", "0.01", "1"] {
        chains.push(Chain::start(&weft, dir.path(), app, &collector, ratio).await);
    }
    for chain in &mut chains {
        load(chain.gateway_at, calls, in_flight).await?;
    }
    sleep(FLUSH).await;
    let mut received = collector.take().len();
    for round in 1..=rounds {
        for chain in &mut chains {
            chain.round(calls, in_flight).await?;
            received += collector.take().len();
        }
        eprintln!("round {round} of {rounds}");
    }

    println!(
        "CPU µs for a unary gRPC call, median (lowest–highest) of {rounds} rounds of {calls} calls, {in_flight} in flight"
    );
    println!(
        "{:>8} | {:<22} | {:<22} | {:>8} | {:>8} | {:>7}",
        "sampled", "gateway", "sidecar inbound", "calls/s", "spans", "dropped"
    );
    for chain in &mut chains {
        let (recorded, dropped) = chain.spans().await?;
        let [gateway, sidecar] = [&chain.per_call[0], &chain.per_call[1]].map(|rounds| Figure::of(rounds));
        let (gateway, sidecar) =
            gateway.zip(sidecar).ok_or_else(|| anyhow::anyhow!("--rounds has to be at least 1"))?;
        let rate = Figure::of(&chain.rates).map_or(0.0, |rate| rate.median);
        let percent = chain.ratio.parse::<f64>()? * 100.0;
        println!("{percent:>6} % | {gateway:<22} | {sidecar:<22} | {rate:>8.0} | {recorded:>8} | {dropped:>7}");
    }
    println!("received: {received} spans");
    Ok(())
}
