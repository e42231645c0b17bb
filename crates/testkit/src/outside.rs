//! What tests take from outside: the workspace's binaries and stock tools, and how a test that lacks one says so.
//!
//! Lives here: the tests' only reading of `WEFT_TEST_*` and `PATH`; the protocol is described in `xtask/src/protocol.rs`. Does not: installing.

use std::{fs::OpenOptions, io::Write, path::PathBuf, process::Command, time::Duration};

#[expect(clippy::disallowed_methods, reason = "tests have no frame that reads the environment for them")]
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}

/// Returns a binary of the workspace: from `WEFT_TEST_BIN`, or beside the test's own target directory. None if it was not built.
pub fn binary(name: &str) -> Option<PathBuf> {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.to_path_buf());
    let path = variable("WEFT_TEST_BIN").or_else(beside)?.join(name);
    path.is_file().then_some(path)
}

/// Returns the folder of a language in what `cargo xtask clients` makes.
pub fn clients(language: &str) -> Option<PathBuf> {
    Some(variable("WEFT_TEST_CLIENTS")?.join(language)).filter(|folder| folder.is_dir())
}

/// Returns a Python interpreter that has grpcio, grpcio-tools, grpcio-reflection, grpcio-health-checking, prometheus_client and dnspython.
pub fn python() -> Option<PathBuf> {
    variable("WEFT_TEST_PYTHON")
}

/// Returns the directory of the packages that `clients/node` stands on: grpc-js, grpc-js-xds and proto-loader among them.
pub fn node_modules() -> Option<PathBuf> {
    Some(variable("WEFT_TEST_NODE")?.parent()?.join("node_modules"))
}

/// Returns the go program; its cache has what the clients of these tests are made of.
pub fn go() -> Option<PathBuf> {
    variable("WEFT_TEST_GO")
}

/// Returns the directory of the test client of grpc-java: `classes`, and `lib` with what it stands on.
pub fn java_client() -> Option<PathBuf> {
    variable("WEFT_TEST_JAVA_CLIENT")
}

/// Returns Envoy.
pub fn envoy() -> Option<PathBuf> {
    variable("WEFT_TEST_ENVOY")
}

/// Returns the grpc-gateway that measurements have as a peer.
pub fn grpc_gateway() -> Option<PathBuf> {
    variable("WEFT_TEST_GRPC_GATEWAY")
}

/// Returns the grpcurl program.
pub fn grpcurl() -> Option<PathBuf> {
    variable("WEFT_TEST_GRPCURL")
}

/// Returns the directory of connectrpc/conformance: `bin` with its judge and its own server, and `proto`.
pub fn connect_conformance() -> Option<PathBuf> {
    Some(variable("WEFT_TEST_CONNECT_CONFORMANCE")?.parent()?.parent()?.to_path_buf())
}

/// Returns the directory of grpc-go's interop programs: `bin` with `client` and `server`.
pub fn grpc_interop() -> Option<PathBuf> {
    Some(variable("WEFT_TEST_GRPC_INTEROP")?.parent()?.parent()?.to_path_buf())
}

/// Returns h2spec, which judges an HTTP/2 server.
pub fn h2spec() -> Option<PathBuf> {
    variable("WEFT_TEST_H2SPEC")
}

/// Returns the library that, preloaded, shifts a process's clock, where Debian installs it; or says loudly that the test named skips.
pub fn need_libfaketime(test: &str) -> Option<PathBuf> {
    let places = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = places.map(|place| place.path().join("faketime/libfaketime.so.1")).find(|path| path.is_file());
    need_from_setup(found, test, "libfaketime")
}

/// Returns Prometheus' promtool.
pub fn promtool() -> Option<PathBuf> {
    variable("WEFT_TEST_PROMTOOL")
}

/// Returns the kustomize program.
pub fn kustomize() -> Option<PathBuf> {
    variable("WEFT_TEST_KUSTOMIZE")
}

/// Returns a Python interpreter that has openapi-spec-validator and schemathesis.
pub fn openapi_python() -> Option<PathBuf> {
    variable("WEFT_TEST_OPENAPI")
}

/// Returns Chromium.
pub fn chromium() -> Option<PathBuf> {
    variable("WEFT_TEST_CHROMIUM")
}

/// Returns the kubernetes-validate program, which knows the schemas of Kubernetes.
pub fn kubernetes_validate() -> Option<PathBuf> {
    variable("WEFT_TEST_KUBERNETES_VALIDATE")
}

/// Returns a program of the system, from `PATH`.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = variable("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|program| program.is_file())
}

/// Returns the directory of PostgreSQL's programs, or says loudly that the test named skips.
pub fn postgres(test: &str) -> Option<PathBuf> {
    need_from_setup(variable("WEFT_TEST_POSTGRES"), test, "PostgreSQL")
}

/// Returns what a test needs from the system, or says loudly that the test named skips and returns none.
pub fn need_from_setup(found: Option<PathBuf>, test: &str, missing: &str) -> Option<PathBuf> {
    if found.is_none() {
        skip(test, missing, "cargo xtask setup");
    }
    found
}

/// Returns whether the test runs as root, or says loudly that the test named skips.
pub fn need_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip(test, "root", "sudo --preserve-env=PATH,HOME cargo xtask test");
    }
    root
}

/// Returns how long a test with a long form shall go on; none for its short form.
pub fn soak() -> Option<Duration> {
    let seconds = variable("WEFT_TEST_SOAK")?.to_string_lossy().parse().expect("WEFT_TEST_SOAK is a number of seconds");
    Some(Duration::from_secs(seconds))
}

/// Returns tcpdump, if it is there and may capture, or says loudly that the test named skips.
pub fn need_tcpdump(test: &str) -> Option<PathBuf> {
    // It opens the device before it looks at the count: without the right to, it fails.
    let works = |args: &[&str]| Command::new("tcpdump").args(args).output().is_ok_and(|out| out.status.success());
    let found = works(&["-i", "lo", "-y", "EN10MB", "-d", "tcp"]) && works(&["--version"]);
    if !found {
        skip(test, "tcpdump, and the right to capture", "cargo xtask setup, as root");
    }
    found.then(|| PathBuf::from("tcpdump"))
}

/// Returns what a test needs from outside, or says loudly that the test named skips and returns none.
pub fn need(found: Option<PathBuf>, test: &str, missing: &str) -> Option<PathBuf> {
    if found.is_none() {
        skip(test, missing, "cargo xtask test");
    }
    found
}

/// Returns all the binaries named, or says loudly that the test skips.
pub fn need_binaries(names: &[&str], test: &str) -> Option<Vec<PathBuf>> {
    names.iter().map(|name| need(binary(name), test, &format!("the binary `{name}`"))).collect()
}

fn skip(test: &str, missing: &str, command: &str) {
    eprintln!("SKIPPED {test}: needs {missing}; `{command}` adds it");
    let Some(file) = variable("WEFT_TEST_SKIPS") else { return };
    let line = format!("{test}\t{missing}\t{command}\n");
    let written =
        OpenOptions::new().create(true).append(true).open(file).and_then(|mut f| f.write_all(line.as_bytes()));
    written.expect("a skip must be seen: the file in WEFT_TEST_SKIPS can be written");
}
