//! What the tests start: the trampoline as a binary exposes it, and a parent that dies with children.
//!
//! Lives here: `trampoline …` and `parent …`. Does not: any check.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::process::ExitCode;

use weft_supervise::{Child, Event, Spawner, Spec, trampoline};

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_ref().and_then(|arg| arg.to_str()) {
        Some("trampoline") => {
            let error = trampoline::exec(args);
            eprintln!("trampoline: {error}");
            ExitCode::from(error.exit_code())
        }
        Some("parent") => parent(args.collect()),
        _ => ExitCode::from(2),
    }
}

/// Keeps the given command running through the trampoline, says its process id, and waits to be killed.
#[tokio::main(flavor = "current_thread")]
async fn parent(command: Vec<OsString>) -> ExitCode {
    let this = std::env::current_exe().expect("a running binary has a path");
    let spec =
        Spec::new("child", &command[0]).args(&command[1..]).trampoline([this.into_os_string(), "trampoline".into()]);
    let mut child = Child::new(spec, Spawner::new().expect("room for a thread"));
    while let Some(event) = child.next().await {
        if let Event::Started { pid } = event {
            println!("{pid}");
        }
    }
    ExitCode::SUCCESS
}
