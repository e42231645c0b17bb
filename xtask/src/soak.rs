//! `cargo xtask soak`: the tests that count failures over time, in full length.
//!
//! Lives here: how long that is, and which tests have a long form unless told otherwise. Does not: running them (`testing`).
//! The code is the same as in `test`: a test asks weft-testkit how long to go on and in which rhythm.

use anyhow::Result;

use crate::env::Env;
use crate::protocol;
use crate::run::Limit;
use crate::testing::{self, Skips};

/// Names of the tests with a long form contain this.
const LONG: &str = "soak";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Run only tests whose name contains one of these [default: all that have a long form]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How long each goes on
    #[arg(long, value_name = "N", default_value_t = 300)]
    seconds: u32,
    /// Minutes after which the run is given up
    #[arg(long, value_name = "N", default_value_t = 240)]
    minutes: u64,
}

/// Runs them and prints the report. Nothing may be skipped.
pub(crate) fn run(env: &Env, arguments: &Arguments) -> Result<()> {
    let names = if arguments.names.is_empty() { vec![LONG.to_owned()] } else { arguments.names.clone() };
    let length = (protocol::SOAK, arguments.seconds.to_string());
    let report = testing::execute_with(env, &names, &[length], Limit::minutes(arguments.minutes))?;
    for line in report.lines() {
        println!("{line}");
    }
    println!("{}", report.closing());
    report.verdict(Skips::Refused)
}
