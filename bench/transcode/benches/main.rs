//! What the transcoder costs, beside prost-reflect and pbjson, and what routes cost to load and to find.
//!
//! Lives here: the rounds and the tables. Does not: the meaning of the figures (`bench/README.md`).
//! Every codec gets the same bytes and gives bytes: JSON text and protobuf wire. The rounds of all of them alternate, so
//! that what happens to the machine happens to all.

mod messages;
mod routes;

use std::hint::black_box;
use std::time::{Duration, Instant};

use clap::Parser;
use weft_bench::figures::Figure;

use messages::{Contender, Payload};

#[derive(Parser)]
struct Arguments {
    /// Rounds of each codec, message and direction
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// Milliseconds of a round
    #[arg(long, default_value_t = 10)]
    milliseconds: u64,
    /// Measure only messages whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// Measure only codecs whose name contains this
    #[arg(long)]
    codec: Option<String>,
    /// Leave out the routes
    #[arg(long)]
    no_routes: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let length = Duration::from_millis(arguments.milliseconds);
    let payloads = messages::payloads()?;
    let wanted = |it: &&Payload| arguments.only.as_ref().is_none_or(|only| it.name.contains(only.as_str()));
    println!(
        "µs of processor time a message, median (lowest–highest) of {} rounds; ns a byte of JSON",
        arguments.rounds
    );
    for payload in payloads.iter().filter(wanted) {
        println!("\n{}: {} bytes of JSON, {} on the wire", payload.name, payload.json.len(), payload.wire.len());
        measure(payload, &arguments, length);
    }
    if !arguments.no_routes {
        routes::measure(arguments.rounds, length)?;
    }
    Ok(())
}

fn measure(payload: &Payload, arguments: &Arguments, length: Duration) {
    let wanted = |it: &Contender| arguments.codec.as_ref().is_none_or(|codec| it.codec.contains(codec.as_str()));
    let contenders: Vec<Contender> = payload.contenders().into_iter().filter(wanted).collect();
    let mut rounds: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for _ in 0..arguments.rounds {
        for (contender, taken) in contenders.iter().zip(&mut rounds) {
            taken.push(time(length, &contender.work));
        }
    }
    for (contender, taken) in contenders.iter().zip(&rounds) {
        let Some(figure) = Figure::of(taken) else { continue };
        let per_byte = figure.median * 1e3 / payload.json.len() as f64;
        println!("  {:13} {:14} {figure}  {per_byte:.2}", contender.direction, contender.codec);
    }
}

/// Does some work over and over for so long; returns µs of processor time each: the machine may have other things to do.
pub(crate) fn time(length: Duration, work: &dyn Fn() -> usize) -> f64 {
    let mut batch = 1_u32;
    let mut done = 0_u32;
    let (start, before) = (Instant::now(), processor());
    while start.elapsed() < length {
        for _ in 0..batch {
            black_box(work());
        }
        done += batch;
        batch = (batch * 2).min(1_000);
    }
    (processor() - before).as_secs_f64() * 1e6 / f64::from(done)
}

/// Returns the processor time of this process so far.
pub(crate) fn processor() -> Duration {
    weft_bench::cpu::time(std::process::id()).expect("the kernel keeps an account of this process")
}
