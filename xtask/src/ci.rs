//! `cargo xtask ci`: the gate. Stages in order, minutes of each, one verdict.
//!
//! Lives here: which stages there are and what each runs. Does not: their rules (`arrows`, `headers`, `deny.toml`, the lint tables).
//! What is cheap comes first. Clippy and the documentation share one check of all dependencies, the tests and their binaries one
//! build; a check cannot be reused for a build. A stage that fails does not stop the next: a run shows all that is wrong.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;

use crate::env::Env;
use crate::run::{self, Limit};
use crate::testing::{self, Report, Skips};
use crate::{arrows, headers, metadata, setup, tools};

/// Minutes that the whole gate may take; the aim is 45, cold, on two cores.
const LIMIT: u64 = 55;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only these stages
    #[arg(value_enum, value_name = "STAGE")]
    stages: Vec<Stage>,
}

/// A part of the gate, in the order of the run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Stage {
    /// Install what tests need from the system
    Setup,
    /// Formatting
    Fmt,
    /// What every file and manifest has to say
    Headers,
    /// Which room may stand on which
    Arrows,
    /// Lints, warnings as errors
    Clippy,
    /// Documentation, warnings as errors
    Doc,
    /// Licences, sources, banned and duplicate dependencies
    Deny,
    /// All tests, no skip allowed
    Test,
    /// The run left the work tree as it was
    Tree,
}

struct Gate {
    env: Env,
    limit: Limit,
    /// What git said of the work tree before the run.
    tree: String,
    /// How the tests went, once they have run.
    tests: Option<Report>,
}

struct Passage {
    stage: Stage,
    took: Duration,
    result: Result<()>,
}

/// Runs the gate and prints its table. Fails if a stage failed or the time was overrun.
pub(crate) fn run(env: Env, arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let tree = tree(&env)?;
    forget_own_builds(&env)?;
    let mut gate = Gate { env, limit: Limit::minutes(LIMIT), tree, tests: None };
    let chosen = |stage: &&Stage| arguments.stages.is_empty() || arguments.stages.contains(stage);
    let passages: Vec<Passage> = Stage::value_variants().iter().filter(chosen).map(|stage| gate.pass(*stage)).collect();
    let total = start.elapsed();

    for line in gate.tests.iter().flat_map(Report::lines).chain(table(&passages, total)) {
        println!("{line}");
    }
    if let Some(tests) = &gate.tests {
        println!("{}", tests.closing());
    }
    let failed = passages.iter().filter(|passage| passage.result.is_err()).map(|passage| name(passage.stage));
    let failed = failed.collect::<Vec<_>>().join(", ");
    ensure!(failed.is_empty(), "failed: {failed}");
    ensure!(total <= Duration::from_secs(60 * LIMIT), "the gate took longer than {LIMIT} minutes");
    Ok(())
}

impl Gate {
    fn pass(&mut self, stage: Stage) -> Passage {
        println!("\n== {}", name(stage));
        let start = Instant::now();
        let result = self.judge(stage);
        let took = start.elapsed();
        match &result {
            Ok(()) => println!("== {}: passed after {:.1} min", name(stage), minutes(took)),
            Err(error) => println!("== {}: FAILED after {:.1} min: {error:#}", name(stage), minutes(took)),
        }
        Passage { stage, took, result }
    }

    fn judge(&mut self, stage: Stage) -> Result<()> {
        let env = &self.env;
        match stage {
            Stage::Setup => setup::run(env),
            Stage::Fmt => self.cargo(&["fmt", "--all", "--check"]),
            Stage::Headers => none(headers::problems(&metadata::load(env)?, env.root())?),
            Stage::Arrows => none(arrows::problems(&metadata::load(env)?, env.root())),
            Stage::Clippy => self.cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            Stage::Doc => {
                let mut doc = env.cargo();
                doc.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings");
                run::succeed(doc, self.limit)
            }
            Stage::Deny => {
                let mut deny = env.command(tools::cargo_deny(env)?);
                deny.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
                run::succeed(deny, self.limit)
            }
            Stage::Test => {
                let report = testing::execute(env, &[], self.limit)?;
                let verdict = report.verdict(Skips::Refused);
                self.tests = Some(report);
                verdict
            }
            Stage::Tree => unchanged(env, &self.tree),
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Result<()> {
        let mut cargo = self.env.cargo();
        cargo.args(arguments);
        run::succeed(cargo, self.limit)
    }
}

/// Removes what an earlier run built of our own packages in the shared target directory. Cargo tells fresh from stale by file times,
/// and between two clones these say nothing: what another clone built could pass for ours. Third parties' builds are kept.
fn forget_own_builds(env: &Env) -> Result<()> {
    if env.shared_target().is_some_and(|target| target.exists()) {
        let mut clean = env.cargo();
        clean.args(["clean", "--quiet"]);
        for package in metadata::load(env)?.packages {
            clean.args(["--package", &package.name]);
        }
        run::succeed(clean, Limit::minutes(LIMIT))?;
    }
    Ok(())
}

fn none(problems: Vec<String>) -> Result<()> {
    for problem in &problems {
        println!("{problem}");
    }
    ensure!(problems.is_empty(), "{} problems", problems.len());
    Ok(())
}

/// Returns git's short status: tracked files that changed and files that are neither tracked nor ignored.
fn tree(env: &Env) -> Result<String> {
    let out = env.command("git").args(["status", "--porcelain"]).output().context("cannot run git")?;
    ensure!(out.status.success(), "git status failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// A laptop may have work in progress before the run; CI's clone may not, and if it has, then a file that cargo keeps (the lock) is
/// not committed as cargo wants it.
fn unchanged(env: &Env, before: &str) -> Result<()> {
    let after = tree(env)?;
    if env.in_ci() && !after.is_empty() {
        bail!("the clone is not as it was committed:\n{after}");
    }
    ensure!(after == before, "the run changed the work tree; before:\n{before}after:\n{after}");
    Ok(())
}

fn table(passages: &[Passage], total: Duration) -> Vec<String> {
    let mut lines = vec![String::new(), format!("{:<9}{:>8}", "stage", "minutes")];
    for Passage { stage, took, result } in passages {
        let mark = if result.is_ok() { "" } else { "  FAILED" };
        lines.push(format!("{:<9}{:>8.1}{mark}", name(*stage), minutes(*took)));
    }
    lines.push(format!("{:<9}{:>8.1}", "total", minutes(total)));
    lines
}

fn minutes(took: Duration) -> f64 {
    took.as_secs_f64() / 60.0
}

fn name(stage: Stage) -> String {
    stage.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_marks_what_failed_and_sums_up() {
        let passage = |stage, seconds, result| Passage { stage, took: Duration::from_secs(seconds), result };
        let passages =
            [passage(Stage::Fmt, 3, Ok(())), passage(Stage::Test, 1200, Err(anyhow::anyhow!("2 tests failed")))];
        let wanted = ["", "stage     minutes", "fmt           0.1", "test         20.0  FAILED", "total        20.1"];
        assert_eq!(table(&passages, Duration::from_secs(1203)), wanted);
    }

    #[test]
    fn one_problem_fails_a_stage() {
        assert!(none(vec![]).is_ok());
        assert_eq!(none(vec!["a".into(), "b".into()]).unwrap_err().to_string(), "2 problems");
    }
}
