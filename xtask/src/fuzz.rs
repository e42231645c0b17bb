//! `cargo xtask fuzz`: libFuzzer before the transcoder, guided by the code that an input reaches.
//!
//! Lives here: building `crates/transcode/fuzz` with instrumentation, the runs. Does not: what has to hold (`crates/transcode/tests/fuzz`, whose
//! own mutations are part of `test`), inputs to begin with (the fuzzer writes them).
//! The flags are LLVM's, by way of options that a stable compiler has; there is no sanitizer, and no unsafe code that would want one. All is built
//! apart in `target/fuzz`, and no part of `test` or `ci`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;

use crate::env::Env;
use crate::metadata;
use crate::run::{self, Limit};

/// Counters at every edge, a table of where they are, and the operands of comparisons.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg=fuzzing";
/// Minutes for the build, beyond the runs.
const BUILD: u64 = 60;
/// Bytes of the longest input that is tried: of what longer ones reach, only lengths of three bytes and more are left out.
const LONGEST: u32 = 4096;
/// Seconds after which an input counts as a finding: each should take far less than a millisecond.
const SLOW: u32 = 20;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only these ways in [default: all, one after the other]
    #[arg(value_enum, value_name = "TARGET")]
    targets: Vec<Target>,
    /// How long each goes on
    #[arg(long, value_name = "N", default_value_t = 300)]
    seconds: u64,
    /// Try this input again and look for no other; takes one TARGET
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

/// A way into the transcoder.
#[derive(Clone, Copy, ValueEnum)]
enum Target {
    /// The JSON of requests, beside prost-reflect
    Json,
    /// The bytes of replies, beside prost-reflect
    Wire,
    /// Method, path, query and body
    Request,
    /// Bodies of client streams, in pieces
    Stream,
    /// Descriptor sets, as services register them
    Descriptors,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Json => "json",
            Target::Wire => "wire",
            Target::Request => "request",
            Target::Stream => "stream",
            Target::Descriptors => "descriptors",
        }
    }
}

/// Builds and runs; goes on to the next target after a finding, and fails at the end.
pub(crate) fn run(env: &Env, arguments: &Arguments) -> Result<()> {
    let targets = if arguments.targets.is_empty() { Target::value_variants() } else { &arguments.targets };
    ensure!(arguments.input.is_none() || arguments.targets.len() == 1, "--input takes the one TARGET that it is for");
    let place = metadata::load(env)?.target_directory.join("fuzz");
    let limit = Limit::minutes(BUILD + arguments.seconds * targets.len() as u64 / 60);
    build(env, &place, limit)?;
    let mut found = Vec::new();
    for target in targets {
        let binary = binary(&place, target.name())?;
        let ended = match &arguments.input {
            Some(input) => {
                let input = input.canonicalize().with_context(|| format!("cannot find {}", input.display()))?;
                let mut fuzzer = env.command(binary);
                fuzzer.arg(input);
                run::succeed(fuzzer, limit)
            }
            None => look(env, &place, &binary, *target, arguments.seconds, limit),
        };
        if let Err(error) = ended {
            eprintln!("{error:#}");
            found.push(target.name());
        }
    }
    ensure!(
        found.is_empty(),
        "findings: {}; the inputs are in {}, and `cargo xtask fuzz TARGET --input FILE` tries one again",
        found.join(", "),
        place.join("found").display()
    );
    Ok(())
}

fn build(env: &Env, place: &Path, limit: Limit) -> Result<()> {
    let package = env.root().join("crates/transcode/fuzz");
    let (ours, theirs) = (env.root().join("Cargo.lock"), package.join("Cargo.lock"));
    fs::copy(&ours, &theirs).with_context(|| format!("cannot copy {} to {}", ours.display(), theirs.display()))?;
    let mut build = env.cargo();
    // With a machine named, the flags are not for build scripts and macros, even if it is this one.
    build.args(["build", "--release", "--target", "host-tuple", "--manifest-path"]).arg(package.join("Cargo.toml"));
    build.arg("--target-dir").arg(place).env("RUSTFLAGS", FLAGS);
    run::succeed(build, limit)
}

/// Looks for inputs. What was learnt stays for the next run, what was found is kept.
fn look(env: &Env, place: &Path, binary: &Path, target: Target, seconds: u64, limit: Limit) -> Result<()> {
    let (corpus, found) = (place.join("corpus").join(target.name()), place.join("found"));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let mut fuzzer = env.command(binary);
    fuzzer.arg(format!("--seeds={}", corpus.display()));
    fuzzer.arg(format!("-artifact_prefix={}/{}-", found.display(), target.name()));
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST}")).arg(format!("-timeout={SLOW}"));
    fuzzer.arg("-print_final_stats=1").arg(corpus);
    run::succeed(fuzzer, limit)
}

/// Returns a fuzzer, which lies in a folder named after the machine.
fn binary(place: &Path, name: &str) -> Result<PathBuf> {
    let machines = fs::read_dir(place).with_context(|| format!("cannot read {}", place.display()))?;
    let built = machines.flatten().map(|machine| machine.path().join("release").join(name));
    built.into_iter().find(|path| path.is_file()).with_context(|| format!("cargo built no {name}"))
}
