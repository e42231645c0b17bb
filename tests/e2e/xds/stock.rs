//! Stock gRPC clients as processes: the programs beside this file, each in its own language, told what to do line by line.
//!
//! Lives here: starting them with the file of `weft bootstrap`, and reading what they tell. Does not: what they should see (`xds`).

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Deserialize;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use weft_testkit::{mesh::Mesh, outside};

/// What a library is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lang {
    Python,
    Node,
    Go,
    Java,
}

impl Lang {
    /// As `weft bootstrap` has it.
    const fn name(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Node => "node",
            Self::Go => "go",
            Self::Java => "java",
        }
    }

    /// grpc-js-xds does not, and grpc-java ignores whom it shall believe.
    const fn speaks_tls_to_its_server(self) -> bool {
        matches!(self, Self::Python | Self::Go)
    }
}

/// Whether its library is there, or else says loudly that the test named skips.
pub(super) fn there(lang: Lang, test: &str) -> bool {
    match lang {
        Lang::Python => outside::need(outside::python(), test, "Python with grpcio-tools").is_some(),
        Lang::Node => outside::need(outside::node_modules(), test, "Node's grpc-js-xds").is_some(),
        Lang::Go => outside::need(outside::go(), test, "Go with grpc-go").is_some(),
        Lang::Java => outside::need(outside::java_client(), test, "Java with grpc-java").is_some(),
    }
}

/// What came of calls.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Told {
    /// By instance.
    pub(super) answered: BTreeMap<String, u64>,
    /// By status and its details.
    pub(super) failed: BTreeMap<String, u64>,
}

impl Told {
    pub(super) fn sum(&self) -> u64 {
        self.answered.values().sum::<u64>() + self.failed.values().sum::<u64>()
    }
}

/// A running client. It ends with this value.
pub(super) struct Client {
    pub(super) lang: Lang,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _process: Child,
    _files: TempDir,
}

/// How long a client may take for what it is told, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

impl Client {
    /// Starts a client of a target. With certificates it asks the registry by TLS if its library can, and calls by mutual TLS; else it asks the
    /// sidecar of the mesh's first instance, and calls in plaintext.
    pub(super) async fn start(lang: Lang, mesh: &mut Mesh, target: &str, certificates: Option<&Path>) -> Self {
        Self::start_in(lang, mesh, target, certificates, &[]).await
    }

    /// The same with further flags of `weft bootstrap`.
    pub(super) async fn start_in(
        lang: Lang,
        mesh: &mut Mesh,
        target: &str,
        certificates: Option<&Path>,
        flags: &[&str],
    ) -> Self {
        let server = match certificates {
            Some(_) if lang.speaks_tls_to_its_server() => format!("https://{}", mesh.registry_at()),
            Some(_) | None => {
                let sidecar = &mut mesh.members.first_mut().expect("the mesh has an instance").sidecar;
                format!("http://{}", sidecar.address("outbound").await)
            }
        };
        Self::start_with(lang, mesh, target, &server, certificates, flags).await
    }

    /// Starts a client that asks this server, and calls in plaintext.
    pub(super) async fn start_at(lang: Lang, mesh: &Mesh, target: &str, server: &str) -> Self {
        Self::start_with(lang, mesh, target, server, None, &[]).await
    }

    async fn start_with(
        lang: Lang,
        mesh: &Mesh,
        target: &str,
        server: &str,
        certificates: Option<&Path>,
        flags: &[&str],
    ) -> Self {
        let files = TempDir::new().expect("a temporary directory can be made");
        let bootstrap = bootstrap(lang, mesh, files.path(), server, certificates, flags).await;
        let mut command = program(lang, files.path()).await;
        command.arg(target);
        if lang == Lang::Node {
            command.arg(protos());
        }
        if certificates.is_some() {
            command.arg("--secure");
        }
        command.env("GRPC_XDS_BOOTSTRAP", bootstrap).kill_on_drop(true);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the client starts");
        let input = process.stdin.take().expect("it was piped");
        let output = BufReader::new(process.stdout.take().expect("it was piped")).lines();
        Self { lang, input, output, _process: process, _files: files }
    }

    /// Makes calls one after the other; options are those of the programs.
    pub(super) async fn calls(&mut self, count: usize, options: &str) -> Told {
        self.say(&format!("calls {count} {options}")).await
    }

    /// Calls on and on from now on.
    pub(super) async fn start_calls(&mut self) {
        self.say("start").await;
    }

    /// Tells what came of these calls so far.
    pub(super) async fn so_far(&mut self) -> Told {
        self.say("tell").await
    }

    /// Ends them, and tells what came of them.
    pub(super) async fn stop_calls(&mut self) -> Told {
        self.say("stop").await
    }

    async fn say(&mut self, line: &str) -> Told {
        self.input.write_all(format!("{}\n", line.trim()).as_bytes()).await.expect("the client listens");
        let answer = tokio::time::timeout(PATIENCE, self.output.next_line()).await;
        let answer = answer.unwrap_or_else(|_| panic!("{:?} did not answer {line:?}", self.lang));
        let answer = answer.expect("the client writes text").unwrap_or_else(|| panic!("{:?} ended", self.lang));
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{:?} said {answer}: {error}", self.lang))
    }
}

/// A running server. It ends with this value.
pub(super) struct Server {
    _process: Child,
    _files: TempDir,
}

impl Server {
    /// Starts a server of a service, and waits until it asks the registry; one of Go says when it was told to take connections.
    pub(super) async fn start(
        lang: Lang,
        mesh: &Mesh,
        service: &str,
        certificates: &Path,
        at: SocketAddr,
        name: &str,
    ) -> Self {
        let files = TempDir::new().expect("a temporary directory can be made");
        let (registry, service) = (format!("https://{}", mesh.registry_at()), ["--service", service]);
        let bootstrap = bootstrap(lang, mesh, files.path(), &registry, Some(certificates), &service).await;
        let mut command = match lang {
            Lang::Python => python("server.py", files.path()).await,
            Lang::Go => {
                let mut command = program(Lang::Go, files.path()).await;
                command.arg("serve");
                command
            }
            Lang::Node | Lang::Java => panic!("{lang:?} has no server here"),
        };
        command.args([&at.to_string(), name]).env("GRPC_XDS_BOOTSTRAP", bootstrap).kill_on_drop(true);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the server starts");
        let mut said = BufReader::new(process.stdout.take().expect("it was piped")).lines();
        let serves = async {
            while let Some(line) = said.next_line().await.expect("the server writes text") {
                if line.contains("\"serving\":true") {
                    return;
                }
            }
            panic!("the server ended");
        };
        tokio::time::timeout(PATIENCE, serves).await.expect("the server is told to serve");
        Self { _process: process, _files: files }
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/xds")
}

fn protos() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto")
}

/// Runs a tool to its end, which must be good; returns what it says.
pub(super) async fn succeed(command: &mut Command) -> String {
    let done = command.kill_on_drop(true).output().await.expect("the tool starts");
    let (stdout, stderr) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{command:?} failed: {stdout}{stderr}");
    stdout.into_owned()
}

/// Writes the file by which a client finds the mesh, as a person would.
async fn bootstrap(
    lang: Lang,
    mesh: &Mesh,
    dir: &Path,
    server: &str,
    certificates: Option<&Path>,
    more: &[&str],
) -> PathBuf {
    let out = dir.join("bootstrap.json");
    let mut command = Command::new(mesh.weft());
    command.args(["bootstrap", "--lang", lang.name(), "--server", server, "--out"]).arg(&out).args(more);
    if let Some(certificates) = certificates {
        command.arg("--identity").arg(certificates);
    }
    succeed(&mut command).await;
    out
}

/// Makes an identity for a service and its files, as a person would. Returns their directory, which ends with the mesh.
pub(super) async fn identity(mesh: &Mesh, service: &str) -> PathBuf {
    let (token, dir) = (mesh.token_for(service).await, mesh.dir().join(format!("{service}-certificates")));
    let mut command = Command::new(mesh.weft());
    command.args(["identity", "--once", "--token-file"]).arg(token).arg("--out").arg(&dir);
    succeed(&mut command).await;
    dir
}

async fn program(lang: Lang, files: &Path) -> Command {
    match lang {
        Lang::Python => python("client.py", files).await,
        Lang::Node => {
            let mut command = Command::new("node");
            command.arg(here().join("client.js")).env("NODE_PATH", outside::node_modules().expect("asked for before"));
            command
        }
        Lang::Go => {
            let program = files.join("client");
            let mut build = Command::new(outside::go().expect("asked for before"));
            build.args(["build", "-o"]).arg(&program).arg(".").current_dir(here().join("go"));
            succeed(build.env("GOFLAGS", "-mod=readonly").env("GOPROXY", "off")).await;
            Command::new(program)
        }
        Lang::Java => {
            let home = outside::java_client().expect("asked for before");
            let classes = format!("{0}/classes:{0}/lib/*", home.display());
            let mut command = Command::new("java");
            command.args(["-cp", &classes, "Client"]);
            command
        }
    }
}

/// A program of Python, with stubs of its own.
async fn python(script: &str, files: &Path) -> Command {
    let python = outside::python().expect("asked for before");
    let mut generate = Command::new(&python);
    let out = files.to_string_lossy().into_owned();
    generate.args(["-m", "grpc_tools.protoc", "-I"]).arg(protos());
    generate.arg(format!("--python_out={out}")).arg(format!("--grpc_python_out={out}"));
    let protos = ["google/api/http.proto", "google/api/annotations.proto", "weft/testkit/v1/echo.proto"];
    succeed(generate.args(protos)).await;
    let mut command = Command::new(python);
    command.arg(here().join(script)).env("PYTHONPATH", out).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
