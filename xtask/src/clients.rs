//! `cargo xtask clients`: what clients in other languages need, made from `proto/` by each language's own tool, into `target/clients`.
//!
//! Lives here: one function a language. Does not: which version of a library is taken (`tools` for Python, `clients/node/package-lock.json` for Node).
//! Each folder is made anew, so that nothing of an older contract stays.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use anyhow::{Context, Result};

use crate::env::Env;
use crate::run::{self, Limit};
use crate::{metadata, tools};

/// The files that clients speak by, with those they import.
const CONTRACT: [&str; 8] = [
    "google/api/annotations.proto",
    "google/api/http.proto",
    "shop/ring/v1/go.proto",
    "shop/ring/v1/java.proto",
    "shop/ring/v1/node.proto",
    "shop/ring/v1/python.proto",
    "shop/ring/v1/ring.proto",
    "shop/users/v1/users.proto",
];

/// Minutes for one step.
const STEP: u64 = 10;

/// Makes everything, and says where it is.
pub(crate) fn run(env: &Env) -> Result<()> {
    let out = metadata::load(env)?.target_directory.join("clients");
    for (language, make) in [("python", python as fn(&Env, &Path) -> Result<()>), ("node", node)] {
        let folder = out.join(language);
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot clear {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        make(env, &folder).with_context(|| format!("clients in {language}"))?;
        println!("{language}: {}", folder.display());
    }
    Ok(())
}

/// Code by grpcio-tools, and `run`: Python with its libraries and that code.
fn python(env: &Env, folder: &Path) -> Result<()> {
    let interpreter = tools::python_with_grpc(env)?;
    let generated = folder.join("generated");
    fs::create_dir(&generated)?;
    let mut protoc = env.command(&interpreter);
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(env.root().join("proto"));
    for kind in ["--python_out", "--grpc_python_out", "--pyi_out"] {
        protoc.arg(format!("{kind}={}", generated.display()));
    }
    protoc.args(CONTRACT);
    run::succeed(protoc, Limit::minutes(STEP))?;
    let script = format!(
        "#!/bin/sh\n# Python as the clients want it; made by `cargo xtask clients`.\nPYTHONPATH='{}' PYTHONDONTWRITEBYTECODE=1 exec '{}' \"$@\"\n",
        generated.display(),
        interpreter.display()
    );
    let program = folder.join("run");
    fs::write(&program, script)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The programs with the files of the contract beside them, which proto-loader reads, and what TypeScript may know of them.
fn node(env: &Env, folder: &Path) -> Result<()> {
    let modules = tools::node_modules(env)?;
    for entry in fs::read_dir(env.root().join("clients/node"))? {
        let file = entry?.path();
        if file.is_file() {
            fs::copy(&file, folder.join(file.file_name().context("a file has a name")?))?;
        }
    }
    for file in CONTRACT {
        let to = folder.join("proto").join(file);
        fs::create_dir_all(to.parent().context("it is in a folder")?)?;
        fs::copy(env.root().join("proto").join(file), to)?;
    }
    symlink(&modules, folder.join("node_modules"))?;
    let mut types = env.command("node");
    types.arg(modules.join("@grpc/proto-loader/build/bin/proto-loader-gen-types.js")).current_dir(folder);
    types.args(CONTRACT.iter().filter(|file| file.starts_with("shop/"))); // first: what follows a list of folders is one of them
    types.args(["--longs=String", "--enums=String", "--defaults", "--oneofs", "--grpcLib=@grpc/grpc-js"]);
    types.args(["--outDir=types", "--includeDirs=proto"]);
    run::succeed(types, Limit::minutes(STEP))
}
