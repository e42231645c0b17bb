//! `cargo xtask fuzz`: libFuzzer before the transcoder, guided by the code that an input reaches.
//!
//! Lives here: building `crates/transcode/fuzz` with instrumentation, the runs. Does not: what has to hold (`crates/transcode/tests/fuzz`, whose
//! own mutations are part of `test`), inputs to begin with (the fuzzer writes them).
//! The flags are LLVM's, by way of options that a stable compiler has; there is no sanitizer, and no unsafe code that would want one. All is built
//! apart in `target/fuzz`, and no part of `test` or `ci`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::env::Env;
use crate::metadata;
use crate::run::{self, Hear, Limit};

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
/// How often the fuzzer's progress is shown at most: at first it has a thousand lines a second.
const PULSE: Duration = Duration::from_secs(10);

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
    let limit = Limit::minutes(BUILD + arguments.seconds * targets.len() as u64 / 60);
    let Some(input) = &arguments.input else { return search(env, targets, arguments.seconds, limit) };
    let [target] = targets else { bail!("--input takes the one TARGET that it is for") };
    let input = input.canonicalize().with_context(|| format!("cannot find {}", input.display()))?;
    let place = build(env, limit)?;
    let mut fuzzer = env.command(binary(&place, target.name())?);
    fuzzer.arg(input);
    run::succeed(fuzzer, limit)
}

/// Looks for findings in every way in, so many seconds each.
pub(crate) fn everywhere(env: &Env, seconds: u64, limit: Limit) -> Result<()> {
    search(env, Target::value_variants(), seconds, limit)
}

fn search(env: &Env, targets: &[Target], seconds: u64, limit: Limit) -> Result<()> {
    let place = build(env, limit)?;
    let mut failures = Vec::new();
    for target in targets {
        match look(env, &place, *target, seconds, limit) {
            Ok(tried) => println!("fuzz {}: {tried} inputs tried, nothing found", target.name()),
            Err(error) => {
                eprintln!("fuzz {}: {error:#}", target.name());
                failures.push(format!("{}: {error:#}", target.name()));
            }
        }
    }
    ensure!(failures.is_empty(), "the fuzzer: {}", failures.join("; "));
    Ok(())
}

/// Builds the fuzzers. Returns the folder of all that is theirs.
fn build(env: &Env, limit: Limit) -> Result<PathBuf> {
    let place = metadata::load(env)?.target_directory.join("fuzz");
    let package = env.root().join("crates/transcode/fuzz");
    let (ours, theirs) = (env.root().join("Cargo.lock"), package.join("Cargo.lock"));
    fs::copy(&ours, &theirs).with_context(|| format!("cannot copy {} to {}", ours.display(), theirs.display()))?;
    let mut build = env.cargo();
    // With a machine named, the flags are not for build scripts and macros, even if it is this one.
    build.args(["build", "--release", "--target", "host-tuple", "--manifest-path"]).arg(package.join("Cargo.toml"));
    build.arg("--target-dir").arg(&place).env("RUSTFLAGS", FLAGS);
    run::succeed(build, limit)?;
    Ok(place)
}

/// Looks for inputs; returns how many it tried. What was learnt stays for the next run, what was found is kept.
fn look(env: &Env, place: &Path, target: Target, seconds: u64, limit: Limit) -> Result<u64> {
    let (corpus, found) = (place.join("corpus").join(target.name()), place.join("found"));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    let learnt = fs::read_dir(&corpus).with_context(|| format!("cannot read {}", corpus.display()))?.count();
    println!("fuzz {}: {seconds} seconds, {learnt} inputs learnt before in {}", target.name(), corpus.display());
    let mut fuzzer = env.command(binary(place, target.name())?);
    fuzzer.arg(format!("--seeds={}", corpus.display()));
    fuzzer.arg(format!("-artifact_prefix={}/{}-", found.display(), target.name()));
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-max_len={LONGEST}")).arg(format!("-timeout={SLOW}"));
    fuzzer.arg("-print_final_stats=1").arg(corpus);
    let mut heard = Heard::default();
    let status = run::lines(fuzzer, Hear::Both, limit, |line| {
        if heard.line(line, Instant::now()) {
            println!("{line}");
        }
    })?;
    heard.verdict(target, status.success())
}

/// What a run of libFuzzer said.
#[derive(Default)]
struct Heard {
    tried: u64,
    /// Where it wrote the inputs that it found.
    found: Vec<String>,
    /// When its progress was shown last.
    shown: Option<Instant>,
}

impl Heard {
    /// Takes a line; returns whether it is to be shown.
    fn line(&mut self, line: &str, now: Instant) -> bool {
        if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.found.push(path.trim().to_owned());
        }
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            self.tried = count.trim().parse().unwrap_or_default();
        }
        let progress = line.starts_with('#') || line.starts_with("\tNEW_FUNC");
        if progress && self.shown.is_some_and(|it| now.duration_since(it) < PULSE) {
            return false;
        }
        self.shown = if progress { Some(now) } else { self.shown };
        true
    }

    /// Returns how many inputs were tried, or the command that tries the bad one again.
    fn verdict(self, target: Target, success: bool) -> Result<u64> {
        let replays = self.found.iter().map(|it| format!("`cargo xtask fuzz {} --input {it}`", target.name()));
        let replays: Vec<_> = replays.collect();
        ensure!(replays.is_empty(), "a finding; {} tries it again", replays.join(" and "));
        ensure!(success, "it failed without a finding; what it printed says why");
        Ok(self.tried)
    }
}

/// Returns a fuzzer, which lies in a folder named after the machine.
fn binary(place: &Path, name: &str) -> Result<PathBuf> {
    let machines = fs::read_dir(place).with_context(|| format!("cannot read {}", place.display()))?;
    let built = machines.flatten().map(|machine| machine.path().join("release").join(name));
    built.into_iter().find(|path| path.is_file()).with_context(|| format!("cargo built no {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUND: &str = "artifact_prefix='/t/found/json-'; Test unit written to /t/found/json-crash-0af3";

    #[test]
    fn a_finding_is_told_with_the_command_that_tries_it_again() {
        let mut heard = Heard::default();
        assert!(heard.line(FOUND, Instant::now()));
        let told = heard.verdict(Target::Json, false).unwrap_err().to_string();
        assert_eq!(told, "a finding; `cargo xtask fuzz json --input /t/found/json-crash-0af3` tries it again");
    }

    #[test]
    fn a_run_that_ends_badly_is_no_good_run_whatever_it_says() {
        let mut heard = Heard::default();
        heard.line("stat::number_of_executed_units: 1234", Instant::now());
        assert_eq!(heard.verdict(Target::Wire, true).unwrap(), 1234);
        assert!(Heard::default().verdict(Target::Wire, false).is_err());
        let mut heard = Heard::default();
        heard.line(FOUND, Instant::now());
        assert!(heard.verdict(Target::Json, true).is_err());
    }

    #[test]
    fn progress_is_shown_now_and_then_and_all_else_at_once() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        let step = "#4096\tNEW    cov: 812 ft: 2901 corp: 300/9Kb lim: 43 exec/s: 4096 rss: 44Mb";
        assert!(heard.line("INFO: Seed: 3771", start));
        assert!(heard.line(step, start));
        assert!(!heard.line(step, start + PULSE / 2));
        assert!(heard.line("==7== ERROR: libFuzzer: deadly signal", start + PULSE / 2));
        assert!(heard.line(step, start + PULSE));
        assert!(!heard.line(step, start + PULSE));
        assert!(!heard.line("\tNEW_FUNC[1/2]: 0x560a75ed6f01", start + PULSE));
    }
}
