//! Peers of measurements: programs that weft is held against, built or fetched when a measurement wants them.
//!
//! Lives here: what is made for the purpose, a grpc-gateway with the schema of the bench. Does not: programs as their makers ship them (`tools`).

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::env::Env;
use crate::run::{self, Limit};
use crate::{metadata, protocol, tools};

/// Minutes for one step: the first fetches what it stands on.
const STEP: u64 = 10;
/// The schema that gateways are measured with.
const SCHEMA: &str = "weft/bench/v1/shapes.proto";
/// Where Go has what the annotations of REST come to.
const ANNOTATIONS: &str = "google.golang.org/genproto/googleapis/api/annotations";

/// Makes the gateway's peers; returns the variables that say where they are.
pub(crate) fn of_the_gateway(env: &Env) -> Result<Vec<(&'static str, PathBuf)>> {
    let envoy = tools::envoy_program(env)?;
    let gateway = grpc_gateway(env).context("grpc-gateway")?;
    Ok(vec![(protocol::ENVOY, envoy), (protocol::GRPC_GATEWAY, gateway)])
}

/// Builds a copy of `bench/peers/grpc-gateway` that has the code made by the generators that its `go.mod` names.
fn grpc_gateway(env: &Env) -> Result<PathBuf> {
    tools::on_this_machine(env, "go", "version")?;
    let (from, folder) =
        (env.root().join("bench/peers/grpc-gateway"), metadata::load(env)?.target_directory.join("peers/grpc-gateway"));
    let generators = folder.join("generators");
    fs::create_dir_all(&generators).with_context(|| format!("cannot make {}", generators.display()))?;
    for file in ["go.mod", "go.sum", "main.go"] {
        fs::copy(from.join(file), folder.join(file)).with_context(|| format!("cannot copy {file}"))?;
    }
    let build = |arguments: &[&OsStr]| {
        let mut go = env.command("go");
        go.current_dir(&folder).args(["build", "-o"]).args(arguments);
        run::succeed(go, Limit::minutes(STEP))
    };
    build(&[generators.join("").as_os_str(), OsStr::new("tool")])?;
    let mut protoc: Command = env.command(tools::python_with_grpc(env)?);
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(env.root().join("proto"));
    protoc.arg("-I").arg(env.root().join("bench/proto"));
    for generator in ["go", "go-grpc", "grpc-gateway"] {
        let program = generators.join(format!("protoc-gen-{generator}"));
        protoc.arg(format!("--plugin=protoc-gen-{generator}={}", program.display()));
        protoc.arg(format!("--{generator}_out={}", folder.display()));
        protoc.arg(format!("--{generator}_opt=module=weft-bench/grpc-gateway"));
        protoc.arg(format!("--{generator}_opt=M{SCHEMA}=weft-bench/grpc-gateway/shapes"));
        for file in ["http", "annotations"] {
            protoc.arg(format!("--{generator}_opt=Mgoogle/api/{file}.proto={ANNOTATIONS}"));
        }
    }
    protoc.arg(SCHEMA);
    run::succeed(protoc, Limit::minutes(STEP))?;
    let program = folder.join("grpc-gateway");
    build(&[program.as_os_str(), OsStr::new(".")])?;
    Ok(program)
}
