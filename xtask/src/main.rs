//! `cargo xtask`: the project's only task runner. Tests, what they need from outside, and the gate that a laptop and CI both run.
//!
//! Lives here: the command line and its help. Does not: what a command does (one module each: `testing`, `setup`, `bench`, `ci`).
//! A newcomer waits for this crate to compile, so it stands on a handful of small dependencies and on nothing of ours.
#![forbid(unsafe_code)]

mod fuzz;
mod protocol;
mod soak;
mod tally;
mod testing;

mod arrows;
mod ci;
mod headers;

mod bench;
mod clients;
mod setup;
mod tools;

mod env;
mod metadata;
mod peers;
mod run;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::env::Env;

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "Runs weft's tests and its gate",
    max_term_width = 110,
    after_help = "\
First steps:
  cargo xtask test                 everything that can be tested on this machine; about five minutes the first time
  cargo xtask test drain           only tests whose name contains `drain`
  cargo xtask ci fmt arrows        two stages of the gate, in seconds
  cargo xtask bench sampling       what traces cost, in a release build
  cargo xtask ci                   the whole gate: what CI runs, nothing skipped

Downloaded tools live in ~/.cache/weft; deleting that folder costs only the time to fetch them again."
)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs the tests of the whole workspace with cargo alone, using what this machine has
    ///
    /// Fetches the stock gRPC peers that tests talk to (Python's grpcio in a virtual environment, grpcurl) into ~/.cache/weft, builds
    /// everything once, runs every test, and ends with the totals. A test that lacks something outside skips; each skip is listed
    /// at the end with the command that adds what was missing. No system package is touched: that is `setup`.
    Test(testing::Arguments),
    /// Installs what the tests need from Debian (through apt, as root); says so and does nothing where all is there
    Setup,
    /// Generates clients in other languages from proto/, each by the language's own tool; clients/README.md says what they are
    ///
    /// Into target/clients, with libraries fetched into ~/.cache/weft where they are not there yet.
    Clients,
    /// Measures, in release builds; bench/README.md says what
    ///
    /// Builds what is measured, then runs one measurement with the arguments after its name: `cargo xtask bench sampling --rounds 5`.
    Bench(bench::Arguments),
    /// The gate: checks, documentation, dependencies and all tests; nothing may be skipped
    ///
    /// Runs its stages in order, goes on after a failed one so that a run shows all that is wrong, prints the minutes of each, and
    /// fails if any failed or if the whole took longer than 55 minutes. With CI=true it builds in ~/.cache/weft/target, which runs
    /// share, unless CARGO_TARGET_DIR names another place.
    Ci(ci::Arguments),
    /// The gateway before the programs that judge its protocols: connectrpc/conformance and grpc-go's interop client
    ///
    /// Part of `test` too; here alone, and nothing may be skipped. What is left out of the suites is in tests/conformance/protocols, with the
    /// reason.
    Conformance,
    /// The tests that count failures over time, in full length: five minutes each unless told otherwise; then `fuzz`, for an hour
    Soak(soak::Arguments),
    /// Any bytes before the transcoder, guided by the code that they reach (libFuzzer): five minutes for each way in; needs a C++ compiler
    ///
    /// Builds in target/fuzz with instrumentation, which takes some minutes the first time. What was learnt is kept in target/fuzz/corpus, an input
    /// that breaks something in target/fuzz/found.
    Fuzz(fuzz::Arguments),
}

fn main() -> ExitCode {
    let task = Arguments::parse().command;
    let done = Env::read().and_then(|env| match task {
        Task::Test(arguments) => testing::run(&env, &arguments),
        Task::Setup => setup::run(&env),
        Task::Clients => clients::run(&env),
        Task::Bench(arguments) => bench::run(&env, &arguments),
        Task::Ci(arguments) => ci::run(env, &arguments),
        Task::Conformance => testing::conformance(&env),
        Task::Soak(arguments) => soak::run(&env, &arguments),
        Task::Fuzz(arguments) => fuzz::run(&env, &arguments),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
