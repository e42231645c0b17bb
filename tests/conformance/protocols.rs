//! Conformance: Connect, gRPC-Web and gRPC on the gateway's one port, as the programs that judge them see it, in the clear, by TLS, and by TLS with
//! certificates of clients.
//!
//! Lives here: connectrpc/conformance in server mode against the gateway, and grpc-go's interop client through it; what is left out is in
//! `protocols/config.yaml` and `protocols/excluded.txt`, with the reason. Does not: REST (`gateway_transcoding.rs`), installing (`xtask`).
//! Behind the gateway is a plain gRPC app of each suite; the gateway knows it by its descriptors, as any other.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    collections::BTreeSet,
    convert::Infallible,
    fs,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};
use weft_gateway::{ClientFiles, Config, Gateway, Limits, Source, TlsFiles};
use weft_runtime::{Context, Env, Shutdown, listen::ListenAddr};
use weft_testkit::{outside, wait::until};

/// Longest message that connectconformance expects a server to take.
const RECEIVE_LIMIT: u32 = 200 * 1024;
/// Fewer passed cases mean that a protocol, a version of HTTP, a codec, a compression or TLS was not judged, or that the judge gave up half-way: cases that
/// could not be run are no failures to it. Of the configuration connectconformance 1.0.7 makes 7,288, of which 3,714 are in the clear.
const CASES: usize = 7_000;
/// Time a judge may take; the whole of it takes about a minute.
const LIMIT: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(60);

/// `connectrpc.conformance.v1.ServerCompatRequest`.
#[derive(Clone, PartialEq, Message)]
struct ServerRequest {
    #[prost(int32, tag = "1")]
    protocol: i32,
    #[prost(int32, tag = "2")]
    http_version: i32,
    #[prost(bool, tag = "4")]
    use_tls: bool,
    /// Whose clients count, as PEM; empty: they show no certificate.
    #[prost(bytes = "vec", tag = "5")]
    client_tls_cert: Vec<u8>,
    #[prost(uint32, tag = "6")]
    message_receive_limit: u32,
    /// What the server may show.
    #[prost(message, optional, tag = "7")]
    server_creds: Option<Pair>,
}

/// `connectrpc.conformance.v1.TLSCreds`: a chain and its key, as PEM.
#[derive(Clone, PartialEq, Message)]
struct Pair {
    #[prost(bytes = "vec", tag = "1")]
    cert: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

/// `connectrpc.conformance.v1.ServerCompatResponse`.
#[derive(Clone, PartialEq, Message)]
struct ServerResponse {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(uint32, tag = "2")]
    port: u32,
    /// What clients are to believe, as PEM; empty: no TLS.
    #[prost(bytes = "vec", tag = "3")]
    pem_cert: Vec<u8>,
}

/// A message as the suite's programs exchange them: its length in four bytes, then itself.
fn delimited(message: &impl Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).expect("it is short");
    [&length.to_be_bytes()[..], &message.encode_to_vec()].concat()
}

/// Reads one of these.
async fn read<T: Message + Default>(from: &mut (impl AsyncRead + Unpin)) -> T {
    let whole = async {
        let mut message = vec![0; from.read_u32().await.unwrap() as usize];
        from.read_exact(&mut message).await.unwrap();
        T::decode(message.as_slice()).unwrap()
    };
    timeout(SOON, whole).await.expect("the suite's programs speak in time")
}

/// What the judge starts where it wants a server: it carries what it is told to the port given, and back what is said there, until it is killed.
const RELAY: &str = "exec 3<>\"/dev/tcp/127.0.0.1/$0\" && cat >&3 && exec cat <&3";

#[tokio::test]
async fn protocol_conformance_of_connect_grpc_web_and_grpc() {
    let test = "protocol_conformance_of_connect_grpc_web_and_grpc";
    let Some(suite) = outside::need(outside::connect_conformance(), test, "connectconformance") else { return };
    let (_app, upstream) = conformance_app(&suite).await;
    let mut servers = Servers::before(upstream, descriptors(&suite).into()).await;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/protocols");
    let mut judge = Command::new(suite.join("bin/connectconformance"));
    judge.args(["--mode", "server", "--conf"]).arg(folder.join("config.yaml"));
    judge.arg(format!("--known-flaky=@{}", folder.join("excluded.txt").display()));
    judge.args(["--", "bash", "-c", RELAY]).arg(servers.port().to_string());
    let said = tokio::select! {
        said = run(judge) => said,
        never = servers.run() => match never {},
    };
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    let lines = || out.lines().chain(err.lines());
    let total = lines().find(|line| line.starts_with("Total cases"));
    println!("{}", total.unwrap_or("no total"));
    assert!(said.status.success(), "{out}\n{err}");
    let passed = lines().find_map(|line| line.split_once(" passed, ")?.0.parse::<usize>().ok());
    assert!(passed.is_some_and(|it| it >= CASES), "{passed:?} of {CASES} cases passed: {out}\n{err}");
    let ways: BTreeSet<_> =
        servers.gateways.iter().map(|(way, _)| (way.use_tls, !way.client_tls_cert.is_empty())).collect();
    let wanted = [(false, false), (true, false), (true, true)];
    assert_eq!(ways, wanted.into(), "in the clear, by TLS, by TLS with certificates of clients");
    servers.end().await;
}

/// The gateways that the judge asks for, one for each way to enter: a port serves every protocol and both versions of HTTP.
struct Servers {
    relays: TcpListener,
    upstream: SocketAddr,
    descriptor_set: Bytes,
    files: TempDir,
    gateways: Vec<(ServerRequest, Running)>,
    /// The relays of servers that the judge may still need: one that ends is a server that has died.
    held: Vec<TcpStream>,
}

impl Servers {
    async fn before(upstream: SocketAddr, descriptor_set: Bytes) -> Self {
        let relays = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let files = tempfile::tempdir().unwrap();
        Self { relays, upstream, descriptor_set, files, gateways: Vec::new(), held: Vec::new() }
    }

    /// Where relays find them.
    fn port(&self) -> u16 {
        self.relays.local_addr().unwrap().port()
    }

    /// Answers relays until it is dropped.
    async fn run(&mut self) -> Infallible {
        loop {
            let (mut relay, _) = self.relays.accept().await.unwrap();
            let request: ServerRequest = read(&mut relay).await;
            assert_eq!(request.message_receive_limit, RECEIVE_LIMIT, "the app behind all of them was told so");
            let pem_cert = request.server_creds.clone().map(|it| it.cert).unwrap_or_default();
            let at = self.gateway(request).await;
            let answer = ServerResponse { host: at.ip().to_string(), port: at.port().into(), pem_cert };
            relay.write_all(&delimited(&answer)).await.unwrap();
            self.held.push(relay);
        }
    }

    /// A gateway that is entered as asked.
    async fn gateway(&mut self, asked: ServerRequest) -> SocketAddr {
        let way = ServerRequest { protocol: 0, http_version: 0, ..asked };
        if let Some((_, there)) = self.gateways.iter().find(|(it, _)| *it == way) {
            return there.addr;
        }
        let folder = self.files.path().join(self.gateways.len().to_string());
        fs::create_dir(&folder).unwrap();
        let tls = way.use_tls.then(|| {
            let pair = way.server_creds.as_ref().expect("the judge makes them");
            tls_files(&folder, pair, &way.client_tls_cert)
        });
        let gateway = Running::start(self.upstream, self.descriptor_set.clone(), tls).await;
        let at = gateway.addr;
        self.gateways.push((way, gateway));
        at
    }

    async fn end(self) {
        for (_, gateway) in self.gateways {
            gateway.end().await;
        }
    }
}

/// `[tls]` of these files, which are written; without authorities clients are not asked for certificates, with them each has to show one.
fn tls_files(folder: &Path, pair: &Pair, authorities: &[u8]) -> TlsFiles {
    let file = |name: &str, content: &[u8]| {
        let path = folder.join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let certificates = vec![(file("server.pem", &pair.cert), file("server.key", &pair.key))];
    let clients = (!authorities.is_empty()).then(|| ClientFiles {
        authorities: file("clients.pem", authorities),
        revocations: None,
        required: true,
    });
    TlsFiles { certificates, clients, plaintext: false }
}

/// The cases of grpc/doc/interop-test-descriptions.md that do not need Google's cloud. Without pick_first_unary and those on ORCA: grpc-go's own client and
/// server fail them with nothing between them. The former wants to be told by which server it was answered, and that server says no name.
const INTEROP: [&str; 16] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "rpc_soak",
    "channel_soak",
];

/// How long the last two go on: large calls, four at a time, on one connection and on one each. None may fail; how long each takes says nothing here.
const SOAK: [&str; 4] = [
    "--soak_iterations=100",
    "--soak_num_threads=4",
    "--soak_per_iteration_max_acceptable_latency_ms=60000",
    "--soak_overall_timeout_seconds=300",
];

#[tokio::test]
async fn protocol_conformance_of_grpc_interop() {
    let test = "protocol_conformance_of_grpc_interop";
    let Some(interop) = outside::need(outside::grpc_interop(), test, "grpc-go's interop programs") else { return };
    let port = ListenAddr::loopback(0).lasting().get().port(); // nobody else is given it before the server takes it
    let mut app = Command::new(interop.join("bin/server"));
    app.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let _app = app.spawn().unwrap();
    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    until("the interop server", SOON, || async move { TcpStream::connect(upstream).await.ok() }).await;
    let files = tempfile::tempdir().unwrap();
    let shown = self_signed(Ipv4Addr::LOCALHOST);
    let tls = tls_files(files.path(), &shown, &[]);
    let believed = format!("--ca_file={}", tls.certificates[0].0.display());
    let by_tls = vec!["--use_tls".to_owned(), "--use_test_ca".to_owned(), believed];
    for (way, tls, flags) in [("in the clear", None, Vec::new()), ("by TLS", Some(tls), by_tls)] {
        let gateway = Running::start(upstream, weft_proto::descriptors::TESTKIT.into(), tls).await;
        let mut failed = Vec::new();
        for case in INTEROP {
            let mut client = Command::new(interop.join("bin/client"));
            client.arg(format!("--server_host={}", gateway.addr.ip()));
            client.arg(format!("--server_port={}", gateway.addr.port()));
            client.arg(format!("--test_case={case}")).args(SOAK).args(&flags);
            let said = run(client).await;
            if !said.status.success() {
                failed.push(format!("{case}: {}", String::from_utf8_lossy(&said.stderr)));
            }
        }
        println!("interop cases {way}: {} of {}", INTEROP.len() - failed.len(), INTEROP.len());
        assert!(failed.is_empty(), "{way}: {}", failed.join("\n"));
        gateway.end().await;
    }
}

/// A certificate of this address that whoever is to believe it has to be given.
fn self_signed(address: Ipv4Addr) -> Pair {
    let made = rcgen::generate_simple_self_signed([address.to_string()]).unwrap();
    let pem = |what: &str, der: &[u8]| {
        format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", STANDARD.encode(der)).into_bytes()
    };
    Pair { cert: pem("CERTIFICATE", made.cert.der()), key: pem("PRIVATE KEY", &made.signing_key.serialize_der()) }
}

async fn run(mut command: Command) -> Output {
    command.stdin(Stdio::null()).kill_on_drop(true);
    timeout(LIMIT, command.output()).await.expect("it ends in time").expect("it starts")
}

/// Starts the suite's own gRPC app; returns it with its address.
async fn conformance_app(suite: &Path) -> (Child, SocketAddr) {
    let mut app = Command::new(suite.join("bin/referenceserver"));
    app.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let mut app = app.spawn().unwrap();
    let grpc_over_http_2 = ServerRequest {
        protocol: 2,
        http_version: 2,
        message_receive_limit: RECEIVE_LIMIT,
        ..ServerRequest::default()
    };
    app.stdin.take().unwrap().write_all(&delimited(&grpc_over_http_2)).await.unwrap();
    let mut answers = app.stdout.take().unwrap();
    let ServerResponse { host, port, .. } = read(&mut answers).await;
    (app, SocketAddr::new(host.parse().unwrap(), u16::try_from(port).unwrap()))
}

/// The suite's protos, compiled.
fn descriptors(suite: &Path) -> Vec<u8> {
    let include: PathBuf = suite.join("proto");
    let mut compiler = protox::Compiler::new([include]).unwrap();
    compiler.include_imports(true).open_file("connectrpc/conformance/v1/service.proto").unwrap();
    compiler.encode_file_descriptor_set()
}

/// The gateway in this process.
struct Running {
    addr: SocketAddr,
    shutdown: Shutdown,
    tasks: JoinSet<Result<(), weft_gateway::Error>>,
}

impl Running {
    async fn start(upstream: SocketAddr, descriptor_set: Bytes, tls: Option<TlsFiles>) -> Self {
        let config = Config {
            listen: ListenAddr::loopback(0),
            source: Source::Static { descriptor_set: descriptor_set.into(), upstream: upstream.to_string() },
            credential: None,
            identity: None,
            workers: NonZeroUsize::new(2),
            transcoding: weft_transcode::Settings::default(),
            policies: Vec::new(),
            rules: Vec::new(),
            redis: None,
            cache_bytes: 1 << 20,
            proxies: weft_gateway::TrustedProxies::default(),
            tls,
            docs: weft_gateway::Docs::default(),
            limits: Limits { max_request_bytes: RECEIVE_LIMIT.into(), ..Limits::default() },
        };
        let gateway = Gateway::bind(config, &Context::for_test("gateway", Env::default())).await.unwrap();
        let (addr, shutdown, mut tasks) = (gateway.local_addr(), Shutdown::new(), JoinSet::new());
        tasks.spawn(gateway.run(shutdown.clone()));
        Self { addr, shutdown, tasks }
    }

    async fn end(mut self) {
        self.shutdown.drain();
        self.tasks.join_next().await.expect("it runs").unwrap().unwrap();
    }
}
