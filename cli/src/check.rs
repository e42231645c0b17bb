//! `check`: whether the mesh is well.
//!
//! Lives here: flags, formats, exit code. Does not: any check, the text (`weft-check`).

use std::{
    io::{IsTerminal, stderr, stdout},
    path::Path,
    process::ExitCode,
};

use weft_check::{Look, NoTarget, Report};
use weft_runtime::{Env, Usage};

use crate::{
    output::{self, Format},
    tool,
};

/// Flags of `weft check`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    what: weft_check::Args,
    /// Format of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn check(args: CheckArgs) -> ExitCode {
    let mut well = false; // until it was found to be
    let verdict = &mut well;
    let ran = tool::run("check", move |context| async move { look(args, context.env(), verdict).await });
    if ran == ExitCode::SUCCESS && !well { ExitCode::FAILURE } else { ran }
}

/// Prints what was found, and says whether no check failed: also to a reader who has gone before the end.
async fn look(mut args: CheckArgs, env: &Env, well: &mut bool) -> anyhow::Result<()> {
    if let Some(id) = &args.what.explain {
        *well = true;
        return Ok(output::line(&explained(id.as_deref())?)?);
    }
    args.what.token_file = args.what.token_file.or_else(|| env.token_file());
    let dir = std::env::current_dir()?;
    let file = |path: &Path| weft_gateway::Config::check_file(path).map_err(|error| error.to_string());
    let report = Box::pin(weft_check::run(&args.what, &dir, file, progress)).await; // large, and everything around it would be
    progress("");
    let report = report.map_err(|error| match error {
        NoTarget::Config(error) => anyhow::Error::new(error),
        early @ NoTarget::Building => early.into(),
        other @ (NoTarget::Nothing | NoTarget::Address(_)) => Usage::new(other.to_string()).into(),
    })?;
    *well = report.ok;
    print(&report, args.output, env)
}

fn explained(id: Option<&str>) -> anyhow::Result<String> {
    let Some(id) = id else { return Ok(weft_check::page::page().trim_end().to_owned()) };
    let it = weft_check::ids::find(id);
    let it = it.ok_or_else(|| Usage::new(format!("there is no check {id}; `weft check --explain` lists them all")))?;
    Ok(weft_check::page::explain(it))
}

fn print(report: &Report, format: Format, env: &Env) -> anyhow::Result<()> {
    let colour = stdout().is_terminal() && env.get("NO_COLOR").is_none();
    let look = Look { wide: format == Format::Wide, colour, columns: output::columns() };
    output::print_text(format, report, || weft_check::render(report, look))
}

/// Says what is looked at, on a terminal, in one line that the next takes the place of.
fn progress(what: &str) {
    if stderr().is_terminal() {
        eprint!("\r{what}\x1b[K");
    }
}
