//! `cargo xtask test`: fetches and makes what tests want, builds once, runs all tests with cargo, says how it went.
//!
//! Lives here: the order of these steps and the closing report. Does not: what is said to the tests (`protocol`), reading cargo's
//! lines (`tally`). Nothing is written inside the work tree but in the target directory.
//! Everything is built by one `cargo build` of the whole workspace with its tests, so that the tests, and the binaries they start,
//! stand on the same builds of the same dependencies; `cargo test` then has nothing left to build.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::env::Env;
use crate::protocol::{self, Skip};
use crate::run::{self, Hear, Limit};
use crate::tally::Tally;
use crate::{clients, metadata, tools};

/// Minutes after which tests that nobody watches are given up.
const LIMIT: u64 = 120;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only tests whose name contains one of these
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

/// How the tests went.
pub(crate) struct Report {
    tally: Tally,
    skips: Vec<Skip>,
    /// Why tools that tests use could not be had.
    absent: Vec<String>,
    /// Cargo's own end, which also knows of a test binary that died without a result line.
    cargo: Result<()>,
}

/// What a skip means.
#[derive(Clone, Copy)]
pub(crate) enum Skips {
    /// Listed at the end: a laptop need not have everything.
    Listed,
    /// Failures.
    Refused,
}

/// Runs the tests and prints the report. Fails if a test failed or none ran.
pub(crate) fn run(env: &Env, arguments: &Arguments) -> Result<()> {
    let report = execute(env, &arguments.names, Limit::minutes(LIMIT))?;
    let verdict = report.verdict(Skips::Listed);
    for line in report.lines() {
        println!("{line}");
    }
    println!("{}", report.closing());
    verdict
}

/// Names of the tests that put the gateway before stock judges contain this.
const CONFORMANCE: &str = "protocol_conformance";

/// Runs these and prints the report. Nothing may be skipped.
pub(crate) fn conformance(env: &Env) -> Result<()> {
    let report = execute(env, &[CONFORMANCE.to_owned()], Limit::minutes(LIMIT))?;
    report.lines().iter().for_each(|line| println!("{line}"));
    println!("{}", report.closing());
    report.verdict(Skips::Refused)
}

/// Builds and runs. An error means that it did not come to a result.
pub(crate) fn execute(env: &Env, names: &[String], limit: Limit) -> Result<Report> {
    execute_with(env, names, &[], limit)
}

/// The same, with `told` said to the tests, and what they print shown.
pub(crate) fn execute_with(
    env: &Env,
    names: &[String],
    told: &[(&'static str, String)],
    limit: Limit,
) -> Result<Report> {
    let tools = tools::for_tests(env);
    let clients = clients::for_tests(env)?;
    let binaries = build(env, limit)?;
    let skips = metadata::load(env)?.target_directory.join("weft-test-skips");
    fs::write(&skips, "").with_context(|| format!("cannot write {}", skips.display()))?;

    let mut cargo = env.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]).env("CARGO_TERM_COLOR", "never");
    if !names.is_empty() || !told.is_empty() {
        cargo.arg("--").args(names);
    }
    if !told.is_empty() {
        cargo.arg("--nocapture"); // a long run says where it is
    }
    cargo.envs(told.iter().map(|(name, value)| (*name, value)));
    cargo.envs(tools.variables).env(protocol::BIN, binaries).env(protocol::SKIPS, &skips);
    cargo.env(protocol::CLIENTS, clients.directory);
    let mut tally = Tally::default();
    let ended = run::lines(cargo, Hear::Both, limit, |line| {
        println!("{line}");
        tally.read(line);
    });
    tally.close();
    let cargo = ended.and_then(|status| {
        ensure!(status.success(), "cargo test ended with {status}");
        Ok(())
    });
    let skips = fs::read_to_string(&skips).with_context(|| format!("cannot read {}", skips.display()))?;
    let absent = [tools.absent, clients.absent].concat();
    Ok(Report { tally, skips: protocol::skips(&skips).into_iter().collect(), absent, cargo })
}

/// Builds the workspace with its tests. Returns the directory of the binaries.
fn build(env: &Env, limit: Limit) -> Result<PathBuf> {
    let mut cargo = env.cargo();
    cargo.args(["build", "--workspace", "--all-targets", "--message-format", "json-render-diagnostics"]);
    let mut directory = None;
    let status =
        run::lines(cargo, Hear::Output, limit, |line| directory = binary_directory(line).or(directory.take()))?;
    ensure!(status.success(), "the workspace does not build");
    directory.context("the workspace has no binary")
}

#[derive(Deserialize)]
struct Message {
    target: Option<MessageTarget>,
    profile: Option<MessageProfile>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct MessageProfile {
    test: bool,
}

/// Reads one of cargo's JSON messages: the directory, if it tells of a finished binary that is not a test.
fn binary_directory(message: &str) -> Option<PathBuf> {
    let message: Message = serde_json::from_str(message).ok()?;
    let binary = message.target?.kind.iter().any(|kind| kind == "bin") && !message.profile?.test;
    binary.then_some(message.executable?).as_deref().and_then(Path::parent).map(Path::to_owned)
}

impl Report {
    /// Returns what a reader looks for after a long run: failures by name, and each skip with its cure.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![String::new()];
        if !self.tally.failures.is_empty() {
            lines.push("failed:".into());
            lines.extend(self.tally.failures.iter().map(|it| format!("  {it}")));
        }
        let mut reason = None;
        for Skip { missing, command, test } in &self.skips {
            if reason.replace((missing, command)) != Some((missing, command)) {
                lines.push(format!("skipped for want of {missing}; `{command}` adds it:"));
            }
            lines.push(format!("  {test}"));
        }
        if !self.skips.is_empty() {
            lines.extend(self.absent.iter().map(|why| format!("could not be had: {why}")));
        }
        if self.tally.ignored > 0 {
            lines.push(format!("left out by cargo (`ignore`): {}", self.tally.ignored));
        }
        lines
    }

    /// Returns the last line. A skipping test returns early, which cargo takes for a pass; here it counts once, as a skip.
    pub(crate) fn closing(&self) -> String {
        let mut tests: Vec<_> = self.skips.iter().map(|skip| &skip.test).collect();
        tests.sort();
        tests.dedup();
        let skipped = tests.len() as u64;
        let passed = self.tally.passed.saturating_sub(skipped);
        let counted = format!("{passed} passed, {} failed", self.tally.failed);
        if skipped == 0 { counted } else { format!("{counted}, {skipped} skipped") }
    }

    /// Returns whether the run is good. The tests themselves come before cargo's own word on them.
    pub(crate) fn verdict(&self, skips: Skips) -> Result<()> {
        ensure!(self.tally.failed == 0, "failed: {}", self.tally.failures.join(", "));
        if let Err(error) = &self.cargo {
            bail!("{error:#}");
        }
        ensure!(self.tally.any(), "no test ran");
        match skips {
            Skips::Listed => Ok(()),
            Skips::Refused => {
                let left_out = self.skips.len() as u64 + self.tally.ignored;
                ensure!(left_out == 0, "{left_out} skips: here every test has to do its work");
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(tally: &str, skips: &str) -> Report {
        let mut read = Tally::default();
        tally.lines().for_each(|line| read.read(line));
        Report { tally: read, skips: protocol::skips(skips).into_iter().collect(), absent: vec![], cargo: Ok(()) }
    }

    fn verdict(report: &Report, skips: Skips) -> Option<String> {
        report.verdict(skips).err().map(|error| error.to_string())
    }

    #[test]
    fn a_skip_is_no_pass_and_is_listed_once_with_its_cure() {
        let mut report =
            report("test result: ok. 5 passed; 0 failed; 0 ignored", "a\tgrpcurl\tx\nb\tgrpcurl\tx\na\tpython\ty\n");
        report.absent.push("grpcurl: no go".into());
        assert_eq!(report.closing(), "3 passed, 0 failed, 2 skipped");
        let wanted = [
            "",
            "skipped for want of grpcurl; `x` adds it:",
            "  a",
            "  b",
            "skipped for want of python; `y` adds it:",
            "  a",
            "could not be had: grpcurl: no go",
        ];
        assert_eq!(report.lines(), wanted);
        assert_eq!(verdict(&report, Skips::Listed), None);
        assert_eq!(verdict(&report, Skips::Refused).as_deref(), Some("3 skips: here every test has to do its work"));
    }

    #[test]
    fn what_cargo_leaves_out_is_a_skip_too() {
        let report = report("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured", "");
        assert_eq!(report.closing(), "5 passed, 0 failed");
        assert_eq!(verdict(&report, Skips::Listed), None);
        assert!(verdict(&report, Skips::Refused).is_some());
    }

    #[test]
    fn a_run_without_tests_fails_and_so_does_one_that_cargo_calls_failed() {
        assert!(verdict(&report("", ""), Skips::Listed).is_some_and(|it| it == "no test ran"));
        let mut died = report("test result: ok. 5 passed; 0 failed", "");
        died.cargo = Err(anyhow::anyhow!("cargo test ended with signal 6"));
        assert_eq!(verdict(&died, Skips::Listed).as_deref(), Some("cargo test ended with signal 6"));
    }

    #[test]
    fn the_binaries_directory_is_read_from_a_binary_and_not_from_its_tests() {
        let message = |kind, test, executable| {
            let line = format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"]}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            );
            binary_directory(&line)
        };
        assert_eq!(message("bin", false, r#""/t/debug/weft""#), Some(PathBuf::from("/t/debug")));
        assert_eq!(message("bin", true, r#""/t/debug/deps/weft-1f""#), None);
        assert_eq!(message("lib", false, "null"), None);
        assert_eq!(binary_directory(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(binary_directory("not JSON"), None);
    }
}
