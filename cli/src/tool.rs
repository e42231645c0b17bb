//! The frame of commands that talk to a person: an error is one line on stderr, a signal ends them.
//!
//! Lives here: exit codes, the error's words. Does not: the frame of roles, which log (`weft-runtime`).

use std::{error::Error, io, process::ExitCode};

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
    eprintln!("weft: {}", in_words(error));
}

/// Says what was done and may not be what was meant.
pub(crate) fn warn(doubt: &str) {
    eprintln!("weft: warning: {doubt}");
}

/// An error and its causes in one line. Of a status only what was said, and what lies below a connection that was not had: its Display adds codes
/// and structures that mean nothing to a person.
fn in_words(error: &anyhow::Error) -> String {
    let mut words: Vec<String> = Vec::new();
    for cause in error.chain() {
        let boxed = || cause.downcast_ref::<Box<Status>>().map(|status| &**status);
        let Some(status) = cause.downcast_ref::<Status>().or_else(boxed) else {
            words.push(cause.to_string());
            continue;
        };
        let below = std::iter::successors(status.source(), |it| (*it).source()).last().map(ToString::to_string);
        let said = Some(status.message().to_owned()).filter(|it| !it.is_empty());
        words.extend(said.into_iter().chain(below));
        break;
    }
    words.dedup();
    words.join(": ")
}

#[cfg(test)]
mod tests {
    use weft_discovery::CallError;

    use super::*;

    #[test]
    fn a_status_among_the_causes_says_its_words_and_not_its_structure() {
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused");
        let status = Status::from_error(Box::new(refused()));
        let within = std::time::Duration::from_secs(5);
        let error = anyhow::Error::new(CallError::OutOfReach { within, source: Some(Box::new(status)) });
        let said = in_words(&error.context("no registry at https://127.0.0.1:1"));
        assert!(said.starts_with("no registry at https://127.0.0.1:1: no registry answers: "), "{said}");
        assert!(said.ends_with("connection refused") && !said.contains("source:"), "{said}");
        assert_eq!(in_words(&Status::not_found("no policy p").into()), "no policy p");
    }
}
