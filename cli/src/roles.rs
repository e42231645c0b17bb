//! Entry points of the processes: each hands over to its room and leaves.
//!
//! Lives here: name, log format, which room. Does not: anything of a role.

use std::{ffi::OsString, path::Path, process::ExitCode};

use weft_runtime::{Process, run};

use crate::tool;

pub(crate) fn up(args: weft_up::Args, program: String) -> ExitCode {
    // It watches its own shutdown: the first signal is the beginning of an orderly stop.
    tool::run_to_the_end("up", |context| async move {
        gateways_file(args.file.as_deref())?;
        let file = |path: &Path| weft_gateway::Config::check_file(path).map_err(|error| error.to_string());
        weft_up::run(args, program, file, context).await
    })
}

/// What is wrong in the gateway's file is told before anything is built or started, and not by a gateway that then cannot start.
fn gateways_file(file: Option<&Path>) -> anyhow::Result<()> {
    let config = weft_up::Config::load(file, &std::env::current_dir()?)?;
    Ok(config.gateway.config.as_deref().map_or(Ok(()), weft_gateway::Config::check_file)?)
}

pub(crate) fn registry(args: weft_registry::Args) -> ExitCode {
    run(Process::new("registry").log(args.log_format).small_pages(), |context| async move {
        let config = weft_registry::Config::load(args)?;
        weft_registry::Registry::bind(config, &context).await?.run(context.shutdown()).await
    })
}

pub(crate) fn gateway(args: weft_gateway::Args) -> ExitCode {
    run(Process::new("gateway").log(args.log_format), |context| async move {
        let config = weft_gateway::Config::load(args)?;
        Ok(weft_gateway::Gateway::bind(config, &context).await?.run(context.shutdown()).await?)
    })
}

pub(crate) fn sidecar(args: weft_sidecar::Args) -> ExitCode {
    let traced_as = format!("{}-sidecar", args.service);
    run(Process::new("sidecar").log(args.log_format).service(traced_as), |context| async move {
        let config = weft_sidecar::Config::load(args)?;
        weft_sidecar::Sidecar::bind(config, &context)?.run(context.shutdown()).await
    })
}

/// `weft trampoline -- PARENT PROGRAM ARGS…`: not for people, and in no help text.
pub(crate) fn trampoline(args: impl Iterator<Item = OsString>) -> ExitCode {
    let mut args = args.peekable();
    args.next_if(|arg| arg == "--");
    let error = weft_supervise::trampoline::exec(args);
    let code = error.exit_code();
    tool::complain(&anyhow::Error::new(error));
    ExitCode::from(code)
}
