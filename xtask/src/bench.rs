//! `cargo xtask bench`: one measurement of `bench/`, of the program as images ship it.
//!
//! Lives here: building what is measured, starting the measurement. Does not: measuring (`bench/benches`).

use anyhow::Result;

use crate::env::Env;
use crate::metadata;
use crate::peers;
use crate::protocol;
use crate::run::{self, Limit};

/// Minutes for the builds and for the measurement; the builds take half an hour on two cores.
const MINUTES: u64 = 120;
/// What images ship is what is measured; who only calls it is built with cargo's own `bench` profile.
const PROFILE: &str = "dist";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    /// Arguments of the measurement; `--help` shows them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum What {
    /// What traces cost at a ratio of 0, 1 and 100 %
    Sampling,
    /// What a registry carries, beside etcd
    Registry,
    /// What JSON ⇄ protobuf costs, beside prost-reflect and pbjson, and what routes cost
    Transcode,
    /// What REST costs, beside Envoy and grpc-gateway
    Gateway,
}

impl What {
    fn bench(self) -> &'static str {
        match self {
            What::Sampling => "sampling",
            What::Registry => "registry",
            What::Transcode => "transcode",
            What::Gateway => "gateway",
        }
    }

    /// Returns the package that the measurement is in, if it needs no `weft`.
    fn alone(self) -> Option<&'static str> {
        match self {
            What::Sampling | What::Registry | What::Gateway => None,
            What::Transcode => Some("weft-bench-transcode"),
        }
    }
}

pub(crate) fn run(env: &Env, arguments: &Arguments) -> Result<()> {
    let limit = Limit::minutes(MINUTES);
    if let Some(package) = arguments.what.alone() {
        let mut bench = env.cargo();
        bench.args(["bench", "--profile", PROFILE, "-p", package, "--bench", arguments.what.bench(), "--"]);
        bench.args(&arguments.arguments);
        return run::succeed(bench, limit);
    }
    let peers = match arguments.what {
        What::Gateway => peers::of_the_gateway(env)?,
        What::Sampling | What::Registry | What::Transcode => Vec::new(),
    };
    let mut build = env.cargo();
    build.args(["build", "--profile", PROFILE, "--bin", "weft"]);
    run::succeed(build, limit)?;
    let mut bench = env.cargo();
    bench.args(["bench", "--bench", arguments.what.bench(), "--"]);
    bench.args(&arguments.arguments);
    bench.env(protocol::BIN, metadata::load(env)?.target_directory.join(PROFILE));
    bench.envs(peers);
    run::succeed(bench, limit)
}
