//! The frame of commands that talk to a person: an error is one line on stderr, a signal ends them.
//!
//! Lives here: exit codes, the error's words. Does not: the frame of roles, which log (`weft-runtime`).

use std::{io, process::ExitCode};

use tonic::Status;
use weft_discovery::{CredentialError, IdentityError};
use weft_policy::FileError;
use weft_runtime::{Context, LogFormat, Process, Usage};
use weft_up::ConfigError;

/// Runs a command that a signal ends at once: it owns nothing that would have to be put in order. What was cut off was not done, and so has failed.
pub(crate) fn run<F>(name: &'static str, main: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    run_or(name, main, || Err(anyhow::anyhow!("interrupted before it was done")))
}

/// The same for a command that goes on until somebody ends it: that is how it is done.
pub(crate) fn run_until_told<F>(name: &'static str, main: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    run_or(name, main, || Ok(()))
}

fn run_or<F>(
    name: &'static str,
    main: impl FnOnce(Context) -> F,
    interrupted: impl FnOnce() -> anyhow::Result<()>,
) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    run_to_the_end(name, |context| {
        let shutdown = context.shutdown();
        let main = main(context);
        async move {
            tokio::select! {
                result = main => result,
                () = shutdown.draining() => interrupted(),
            }
        }
    })
}

/// Runs a command that listens to its own shutdown.
pub(crate) fn run_to_the_end<F>(name: &'static str, main: impl FnOnce(Context) -> F) -> ExitCode
where
    F: Future<Output = anyhow::Result<()>>,
{
    let mut code = ExitCode::SUCCESS;
    let process = Process::new(name).log(LogFormat::Text).log_filter("warn");
    let framed = weft_runtime::run(process, |context| async {
        if let Err(error) = main(context).await {
            code = report(&error);
        }
        Ok(())
    });
    if framed == ExitCode::SUCCESS { code } else { framed }
}

fn report(error: &anyhow::Error) -> ExitCode {
    if error.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS; // `weft logs | head`: the reader has what it wanted
    }
    complain(error);
    let invalid = |status: &Status| status.code() == tonic::Code::InvalidArgument;
    let wrong = error.downcast_ref::<Usage>().is_some()
        || error.downcast_ref::<CredentialError>().is_some()
        || matches!(error.downcast_ref(), Some(IdentityError::Refused(status)) if invalid(status))
        || matches!(error.downcast_ref(), Some(ConfigError::Invalid { .. }))
        || error.downcast_ref::<FileError>().is_some()
        || error.downcast_ref::<Status>().is_some_and(invalid);
    ExitCode::from(if wrong { 2 } else { 1 })
}

/// Says what went wrong, with its causes.
pub(crate) fn complain(error: &anyhow::Error) {
    match error.downcast_ref::<Status>() {
        Some(status) => eprintln!("weft: {}", status.message()), // its Display adds codes that mean nothing to a person
        None => eprintln!("weft: {error:#}"),
    }
}
