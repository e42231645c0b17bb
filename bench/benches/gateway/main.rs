//! What REST costs: processor time, throughput, latency and memory of weft's gateway, of itself without JSON, of Envoy's transcoder and of grpc-gateway.
//!
//! Lives here: the rounds and the tables. Does not: the peers (`peers`), the client (`load`), the messages (`messages`), the server behind (`app`),
//! the meaning of the figures (`bench/README.md`).
//! The rounds of the peers alternate, message by message, those at a fixed rate, too. Before anything counts, each peer's answer is read and has to say
//! what was sent.

mod app;
mod load;
mod messages;
mod peers;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Parser;
use weft_bench::{
    cpu,
    figures::{Figure, quantile},
};
use weft_testkit::memory;

use load::{Call, Client};
use messages::{Case, Schema};
use peers::Peer;

#[derive(Parser)]
struct Arguments {
    /// Rounds of each peer and message
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Calls of a round, in percent of the usual
    #[arg(long, default_value_t = 100)]
    percent: usize,
    /// Connections, each with one call in flight
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Rounds of each peer and message at a fixed rate, for latency
    #[arg(long, default_value_t = 5)]
    latency_rounds: u32,
    /// Seconds at a fixed rate, each peer and message; of all such rounds together
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Only messages whose name has this in it
    #[arg(long)]
    only: Option<String>,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// What one peer came to with one message.
#[derive(Default)]
struct Results {
    /// CPU µs a call.
    cost: Vec<f64>,
    /// Calls a second.
    rate: Vec<f64>,
    /// ms from when a call was due to its answer, at a fixed rate.
    p50: Vec<f64>,
    p99: Vec<f64>,
    /// MiB, after all of it.
    resident: f64,
}

struct Running {
    peer: Peer,
    connections: usize,
    call: Call,
    /// Of an answer.
    length: usize,
    results: Results,
}

impl Running {
    /// Connections are new for each round: a peer may close those that rest while the others have their turn.
    async fn client(&self) -> anyhow::Result<Client> {
        Client::connect(self.peer.at, self.connections).await
    }

    async fn round(&mut self, calls: usize) -> anyhow::Result<()> {
        let mut client = self.client().await?;
        let before = cpu::time(self.peer.process.pid())?;
        let took = client.flat_out(&self.call, calls, self.length).await?;
        let cost = cpu::time(self.peer.process.pid())?.saturating_sub(before);
        self.results.cost.push(cost.as_secs_f64() * 1e6 / calls as f64);
        self.results.rate.push(calls as f64 / took.as_secs_f64());
        Ok(())
    }

    async fn latency(&mut self, rate: f64, span: Duration) -> anyhow::Result<()> {
        let took = self.client().await?.paced(&self.call, rate, span, self.length).await?;
        let ms = |share: f64| quantile(&took, share).map(|it| it.as_secs_f64() * 1e3).context("no call was due");
        self.results.p50.push(ms(0.5)?);
        self.results.p99.push(ms(0.99)?);
        self.results.resident = memory::resident(self.peer.process.pid())?.now;
        Ok(())
    }
}

/// Fails unless an answer says what was sent, however the peer shapes streams.
fn judge(schema: &Schema, peer: &Peer, case: &Case, answer: &[u8]) -> anyhow::Result<()> {
    let said = schema.decode(&case.wire)?;
    let messages: Vec<_> = if peer.speaks_json() {
        let values = serde_json::Deserializer::from_slice(answer)
            .into_iter::<serde_json::Value>()
            .collect::<Result<Vec<_>, _>>()?;
        let flat = values.into_iter().flat_map(|it| match it {
            serde_json::Value::Array(all) => all,
            one => vec![one],
        });
        let bare = flat.map(|mut it| it.get_mut("result").map(serde_json::Value::take).unwrap_or(it)); // grpc-gateway wraps those of streams
        bare.map(|it| schema.read(it.to_string().as_bytes())).collect::<Result<_, _>>()?
    } else {
        let (mut rest, mut messages) = (answer, Vec::new());
        while let [0, a, b, c, d, more @ ..] = rest {
            let (message, more) =
                more.split_at_checked(u32::from_be_bytes([*a, *b, *c, *d]) as usize).context("cut short")?;
            messages.push(schema.decode(message)?);
            rest = more;
        }
        ensure!(rest.starts_with(&[0x80]), "no trailers at the end");
        messages
    };
    let many = if case.method == "Echo" { 1 } else { 10_000 };
    ensure!(messages.len() == many, "{} messages instead of {many}", messages.len());
    match messages.iter().find(|it| **it != said) {
        Some(other) => anyhow::bail!("it says {}", difference(&said.to_string(), &other.to_string())),
        None => Ok(()),
    }
}

/// Where two texts part, with a little of both.
fn difference(one: &str, other: &str) -> String {
    let alike = one.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let some = |text: &str| text.chars().skip(alike.saturating_sub(20)).take(60).collect::<String>();
    format!("{:?} instead of {:?}", some(other), some(one))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Arguments { rounds, percent, connections, latency_rounds, seconds, only, bench: _ } = Arguments::parse();
    let least = [rounds, percent, connections].into_iter().min().unwrap_or_default();
    ensure!(least > 0 && latency_rounds > 0 && seconds > 0, "every number has to be at least 1");
    let span = Duration::from_secs(seconds) / latency_rounds;
    let schema = Schema::load()?;
    let dir = tempfile::tempdir()?;
    let set = dir.path().join("shapes.binpb");
    std::fs::write(&set, &schema.set)?;
    let upstream = app::start()?;

    let cases = schema.cases()?;
    let wanted = cases.iter().filter(|it| only.as_deref().is_none_or(|part| it.name.contains(part)));
    for case in wanted {
        // Anew for each message, so that memory is that message's own.
        let mut all = Vec::new();
        for peer in Peer::all(dir.path(), &set, upstream).await? {
            let call = peer.call(case);
            let answer = Client::connect(peer.at, 1).await?.once(&call).await;
            let answer =
                answer.with_context(|| format!("{}, whose last lines are:\n{}", peer.name, peer.process.log()))?;
            judge(&schema, &peer, case, &answer).with_context(|| format!("{}: {}", peer.name, case.name))?;
            all.push(Running { peer, connections, call, length: answer.len(), results: Results::default() });
        }
        let calls = (case.calls * percent).div_ceil(100);
        for running in &mut all {
            running.round(calls).await.context(running.peer.name)?;
            running.results = Results::default(); // that was to warm up
        }
        for round in 1..=rounds {
            for running in &mut all {
                running.round(calls).await.context(running.peer.name)?;
            }
            eprintln!("{}: round {round} of {rounds}", case.name);
        }
        for round in 1..=latency_rounds {
            for running in &mut all {
                running.latency(case.rate, span).await.context(running.peer.name)?;
            }
            eprintln!("{}: round {round} of {latency_rounds} at a fixed rate", case.name);
        }
        tell(case, calls, span, &all);
    }
    Ok(())
}

fn tell(case: &Case, calls: usize, span: Duration, all: &[Running]) {
    let figure = |rounds: &[f64]| Figure::of(rounds).expect("there was a round");
    let rounds = |of: fn(&Results) -> usize| all.first().map_or(0, |it| of(&it.results));
    println!(
        "\n{}: JSON {} bytes, wire {} bytes; {} rounds of {calls} calls, then {} of {:.1} s at {} calls/s",
        case.name,
        case.json.len(),
        case.wire.len(),
        rounds(|it| it.cost.len()),
        rounds(|it| it.p50.len()),
        span.as_secs_f64(),
        case.rate
    );
    println!(
        "{:<15} | {:>28} | {:>12} | {:>9} | {:>22} | {:>22} | {:>7}",
        "", "CPU µs a call", "weft is", "calls/s", "p50 ms at that rate", "p99 ms at that rate", "MiB"
    );
    let ours = all.iter().find(|it| it.peer.name == "weft").map_or(f64::NAN, |it| figure(&it.results.cost).median);
    for it in all {
        let Results { cost, rate, p50, p99, resident } = &it.results;
        let cost = figure(cost);
        println!(
            "{:<15} | {:>28} | {:>10.2} × | {:>9.0} | {:>22} | {:>22} | {:>7.1}",
            it.peer.name,
            cost.to_string(),
            ours / cost.median,
            figure(rate).median,
            figure(p50).to_string(),
            figure(p99).to_string(),
            resident
        );
    }
}
