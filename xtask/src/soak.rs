//! `cargo xtask soak`: the tests that count failures over time, in full length, and then the fuzzers.
//!
//! Lives here: how long that is, and which tests have a long form unless told otherwise. Does not: running them (`testing`, `fuzz`).
//! The code is the same as in `test`: a test asks weft-testkit how long to go on and in which rhythm.

use anyhow::{Result, ensure};

use crate::env::Env;
use crate::fuzz;
use crate::protocol;
use crate::run::Limit;
use crate::testing::{self, Skips};

/// Names of the tests with a long form contain this.
const LONG: &str = "soak";

/// Seconds of each way in before the fuzzers: an hour for all five.
const FUZZ: u64 = 720;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only tests whose name contains one of these [default: all that have a long form]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How long each goes on
    #[arg(long, value_name = "N", default_value_t = 300)]
    seconds: u32,
    /// How long `cargo xtask fuzz` looks at each way in after the tests; 0 leaves it out [default: 720, and with NAMEs 0]
    #[arg(long, value_name = "N")]
    fuzz_seconds: Option<u64>,
    /// Minutes after which the run is given up
    #[arg(long, value_name = "N", default_value_t = 240)]
    minutes: u64,
}

impl Arguments {
    fn fuzz_seconds(&self) -> u64 {
        self.fuzz_seconds.unwrap_or(if self.names.is_empty() { FUZZ } else { 0 })
    }
}

/// Runs both, whatever the tests come to, and prints the report. Nothing may be skipped.
pub(crate) fn run(env: &Env, arguments: &Arguments) -> Result<()> {
    let limit = Limit::minutes(arguments.minutes);
    let tests = tests(env, arguments, limit);
    let fuzzers = match arguments.fuzz_seconds() {
        0 => Ok(()),
        seconds => fuzz::everywhere(env, seconds, limit),
    };
    let failures: Vec<_> = [tests, fuzzers].into_iter().filter_map(Result::err).map(|it| format!("{it:#}")).collect();
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn tests(env: &Env, arguments: &Arguments, limit: Limit) -> Result<()> {
    let names = if arguments.names.is_empty() { vec![LONG.to_owned()] } else { arguments.names.clone() };
    let length = (protocol::SOAK, arguments.seconds.to_string());
    let report = testing::execute_with(env, &names, &[length], limit)?;
    for line in report.lines() {
        println!("{line}");
    }
    println!("{}", report.closing());
    report.verdict(Skips::Refused)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    #[test]
    fn the_fuzzers_are_part_of_a_whole_soak_and_of_another_by_wish() {
        let seconds = |line: &[&str]| Line::parse_from([&["soak"], line].concat()).arguments.fuzz_seconds();
        assert_eq!(seconds(&[]), FUZZ);
        assert_eq!(seconds(&["drain"]), 0);
        assert_eq!(seconds(&["drain", "--fuzz-seconds", "60"]), 60);
        assert_eq!(seconds(&["--fuzz-seconds", "0"]), 0);
    }
}
