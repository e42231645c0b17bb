//! `cargo xtask clients`: what clients in other languages need, made from `proto/` by each language's own tool, into `target/clients`.
//!
//! Lives here: one function a language; when tests need it made again. Does not: which version of a library is taken (`tools` for Python, else what
//! the language itself keeps in its folder of `clients/`: package-lock.json, go.mod, pom.xml).
//! Each folder is made anew, so that nothing of an older contract stays, and carries a mark of what it was made from.

use std::ffi::OsStr;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::env::Env;
use crate::run::{self, Limit};
use crate::{metadata, tools};

/// The files that clients speak by, with those they import.
const CONTRACT: [&str; 9] = [
    "google/api/annotations.proto",
    "google/api/http.proto",
    "shop/ring/v1/go.proto",
    "shop/ring/v1/java.proto",
    "shop/ring/v1/node.proto",
    "shop/ring/v1/python.proto",
    "shop/ring/v1/ring.proto",
    "shop/ring/v1/rust.proto",
    "shop/users/v1/users.proto",
];

/// Minutes for one step: some fetch what they stand on.
const STEP: u64 = 10;
/// What a folder was made from.
const MARK: &str = "made-from";

type Make = fn(&Env, &Path) -> Result<()>;
const LANGUAGES: [(&str, Make); 4] = [("python", python), ("node", node), ("go", go), ("java", java)];

/// What tests get to use.
pub(crate) struct ForTests {
    /// Where the folders are.
    pub(crate) directory: PathBuf,
    /// Why some are not there. The tests that want them skip.
    pub(crate) absent: Vec<String>,
}

/// Makes everything, and says where it is.
pub(crate) fn run(env: &Env) -> Result<()> {
    let out = directory(env)?;
    for (language, make) in LANGUAGES {
        let folder = out.join(language);
        anew(env, language, make, &folder, &mark(env, language, &folder)?)?;
        println!("{language}: {}", folder.display());
    }
    Ok(())
}

/// Makes what tests want and does not have yet, as far as this machine can.
pub(crate) fn for_tests(env: &Env) -> Result<ForTests> {
    let mut made = ForTests { directory: directory(env)?, absent: Vec::new() };
    for (language, make) in LANGUAGES {
        let folder = made.directory.join(language);
        let mark = mark(env, language, &folder)?;
        if fs::read_to_string(folder.join(MARK)).is_ok_and(|found| found == mark) {
            continue;
        }
        if let Err(error) = anew(env, language, make, &folder, &mark) {
            clear(&folder)?; // nobody shall take half of it for the whole
            made.absent.push(format!("{error:#}"));
        }
    }
    Ok(made)
}

fn directory(env: &Env) -> Result<PathBuf> {
    Ok(metadata::load(env)?.target_directory.join("clients"))
}

fn anew(env: &Env, language: &str, make: Make, folder: &Path, mark: &str) -> Result<()> {
    clear(folder)?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    make(env, folder).with_context(|| format!("clients in {language}"))?;
    fs::write(folder.join(MARK), mark).with_context(|| format!("cannot write into {}", folder.display()))
}

fn clear(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    Ok(())
}

/// The same as long as contract, programs, versions, place and the way they are made are: not fit for keeping secrets, only for noticing.
fn mark(env: &Env, language: &str, folder: &Path) -> Result<String> {
    let mut hash = DefaultHasher::new();
    (folder, include_str!("clients.rs"), include_str!("tools.rs")).hash(&mut hash);
    let contract = CONTRACT.map(|file| env.root().join("proto").join(file));
    for file in contract.into_iter().chain(files(&env.root().join("clients").join(language))?) {
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        (file, text).hash(&mut hash);
    }
    Ok(format!("{:016x}\n", hash.finish()))
}

/// All files below a folder, in order.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot look into {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Copies a language's programs.
fn copy(env: &Env, language: &str, folder: &Path) -> Result<()> {
    let from = env.root().join("clients").join(language);
    for file in files(&from)? {
        let to = folder.join(file.strip_prefix(&from)?);
        fs::create_dir_all(to.parent().context("it is in a folder")?)?;
        fs::copy(&file, to)?;
    }
    Ok(())
}

/// A program of one line of shell, `run`.
fn script(folder: &Path, says: &str) -> Result<()> {
    let program = folder.join("run");
    fs::write(&program, format!("#!/bin/sh\n# Made by `cargo xtask clients`.\n{says}\n"))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// protoc, as grpcio-tools has it.
fn protoc(env: &Env) -> Result<(PathBuf, std::process::Command)> {
    let interpreter = tools::python_with_grpc(env)?;
    let mut protoc = env.command(&interpreter);
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(env.root().join("proto"));
    Ok((interpreter, protoc))
}

/// Code by grpcio-tools, and `run`: Python with its libraries and that code.
fn python(env: &Env, folder: &Path) -> Result<()> {
    let (interpreter, mut protoc) = protoc(env)?;
    let generated = folder.join("generated");
    fs::create_dir(&generated)?;
    for kind in ["--python_out", "--grpc_python_out", "--pyi_out"] {
        protoc.arg(format!("{kind}={}", generated.display()));
    }
    protoc.args(CONTRACT);
    run::succeed(protoc, Limit::minutes(STEP))?;
    let (code, python) = (generated.display(), interpreter.display());
    script(folder, &format!("PYTHONPATH='{code}' PYTHONDONTWRITEBYTECODE=1 exec '{python}' \"$@\""))
}

/// The programs with the files of the contract beside them, which proto-loader reads, and what TypeScript may know of them.
fn node(env: &Env, folder: &Path) -> Result<()> {
    let modules = tools::node_modules(env)?;
    copy(env, "node", folder)?;
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

/// The programs, built into `bin` from a copy that has the code made by the generators that `go.mod` names.
fn go(env: &Env, folder: &Path) -> Result<()> {
    tools::on_this_machine(env, "go", "version")?;
    copy(env, "go", folder)?;
    let build = |out: &str, what: &[&str]| {
        let mut go = env.command("go");
        go.current_dir(folder).args(["build", "-o", out]).args(what);
        run::succeed(go, Limit::minutes(STEP))
    };
    fs::create_dir(folder.join("tools"))?;
    build("tools/", &["tool"])?;
    let (_, mut protoc) = protoc(env)?;
    for generator in ["go", "go-grpc"] {
        let program = folder.join("tools").join(format!("protoc-gen-{generator}"));
        protoc.arg(format!("--plugin=protoc-gen-{generator}={}", program.display()));
        protoc.arg(format!("--{generator}_out={}", folder.display()));
        protoc.arg(format!("--{generator}_opt=module=weft-clients"));
        for file in CONTRACT {
            protoc.arg(format!("--{generator}_opt=M{file}={}", go_package(file)?));
        }
    }
    protoc.args(CONTRACT.iter().filter(|file| file.starts_with("shop/")));
    run::succeed(protoc, Limit::minutes(STEP))?;
    fs::create_dir(folder.join("bin"))?;
    build("bin/", &["./client", "./service"])
}

/// Where the code of a file is: Google's is in a module of theirs.
fn go_package(file: &str) -> Result<String> {
    if file.starts_with("google/api/") {
        return Ok("google.golang.org/genproto/googleapis/api/annotations".to_owned());
    }
    let package = Path::new(file).parent().and_then(Path::to_str).context("it is in a folder")?;
    Ok(format!("weft-clients/{package}"))
}

/// Classes with all they stand on, by Maven, and `run`: Java with these. Small programs start quicker with the simpler compiler and collector.
fn java(env: &Env, folder: &Path) -> Result<()> {
    tools::on_this_machine(env, "mvn", "--version")?;
    let mut maven = env.command("mvn");
    maven.current_dir(env.root().join("clients/java")).args(["-q", "-B", "-ntp", "package"]);
    let define = |name: &str, path: &Path| {
        [OsStr::new("-D"), OsStr::new(name), OsStr::new("="), path.as_os_str()].join(OsStr::new(""))
    };
    maven.arg(define("out", folder)).arg(define("proto", &env.root().join("proto")));
    run::succeed(maven, Limit::minutes(STEP))?;
    let here = folder.display();
    script(
        folder,
        &format!("exec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -cp '{here}/classes:{here}/lib/*' \"$@\""),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_again_when_the_contract_or_a_program_has_changed() {
        let home = std::env::temp_dir().join(format!("weft-xtask-clients-{}", std::process::id()));
        let env = Env::at(&home);
        let write = |file: &str, text: &str| {
            let file = env.root().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        let mark = || mark(&env, "go", Path::new("/out")).unwrap();
        CONTRACT.iter().for_each(|file| write(&format!("proto/{file}"), "syntax"));
        write("clients/go/ring/ring.go", "package ring");
        let first = mark();
        assert_eq!(mark(), first);
        write("clients/go/ring/ring.go", "package rung");
        let second = mark();
        assert_ne!(second, first);
        write("proto/shop/users/v1/users.proto", "other");
        assert_ne!(mark(), second);
        fs::remove_dir_all(home).unwrap();
    }
}
