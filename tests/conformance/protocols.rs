//! Conformance: Connect, gRPC-Web and gRPC on the gateway's one port, as the programs that judge them see it.
//!
//! Lives here: connectrpc/conformance in server mode against the gateway, and grpc-go's interop client through it; what is left out is in
//! `protocols/config.yaml` and `protocols/excluded.txt`, with the reason. Does not: REST (`gateway_transcoding.rs`), installing (`xtask`).
//! Behind the gateway is a plain gRPC app of each suite; the gateway knows it by its descriptors, as any other.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{
    io::Write,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    time::Duration,
};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};
use weft_gateway::{Config, Gateway, Limits, Source};
use weft_runtime::{Context, Env, Shutdown, listen::ListenAddr};
use weft_testkit::{outside, wait::until};

/// Longest message that connectconformance expects a server to take.
const RECEIVE_LIMIT: u32 = 200 * 1024;
/// Time a judge may take; the whole of it takes about half a minute.
const LIMIT: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(20);

/// `connectrpc.conformance.v1.ServerCompatRequest`, as far as it is ours to say.
#[derive(Clone, PartialEq, Message)]
struct ServerRequest {
    #[prost(int32, tag = "1")]
    protocol: i32,
    #[prost(int32, tag = "2")]
    http_version: i32,
    #[prost(uint32, tag = "6")]
    message_receive_limit: u32,
}

/// `connectrpc.conformance.v1.ServerCompatResponse`.
#[derive(Clone, PartialEq, Message)]
struct ServerResponse {
    #[prost(string, tag = "1")]
    host: String,
    #[prost(uint32, tag = "2")]
    port: u32,
}

/// A message as the suite's programs exchange them: its length in four bytes, then itself.
fn delimited(message: &impl Message) -> Vec<u8> {
    let length = u32::try_from(message.encoded_len()).expect("it is short");
    [&length.to_be_bytes()[..], &message.encode_to_vec()].concat()
}

#[tokio::test]
async fn protocol_conformance_of_connect_grpc_web_and_grpc() {
    let test = "protocol_conformance_of_connect_grpc_web_and_grpc";
    let Some(suite) = outside::need(outside::connect_conformance(), test, "connectconformance") else { return };
    let (_app, upstream) = conformance_app(&suite).await;
    let gateway = Running::start(upstream, descriptors(&suite)).await;
    // Told one by one which server to start, each time the same one: the port serves every protocol and both versions of HTTP.
    let mut answer = tempfile::NamedTempFile::new().unwrap();
    let told = ServerResponse { host: gateway.addr.ip().to_string(), port: gateway.addr.port().into() };
    answer.write_all(&delimited(&told)).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/protocols");
    let mut judge = Command::new(suite.join("bin/connectconformance"));
    judge.args(["--mode", "server", "--conf"]).arg(folder.join("config.yaml"));
    judge.arg(format!("--known-flaky=@{}", folder.join("excluded.txt").display()));
    judge.args(["--", "sh", "-c", "cat > /dev/null; cat \"$0\"; exec sleep 600"]).arg(answer.path());
    let said = run(judge).await;
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    let total = out.lines().chain(err.lines()).find(|line| line.starts_with("Total cases"));
    println!("{}", total.unwrap_or("no total"));
    assert!(said.status.success(), "{out}\n{err}");
    assert!(total.is_some_and(|line| line != "Total cases: 0"), "{out}\n{err}");
    gateway.end().await;
}

/// The cases of grpc/doc/interop-test-descriptions.md that need neither Google's cloud nor more than one server. Without those on ORCA: grpc-go's own
/// client and server fail them with nothing between them.
const INTEROP: [&str; 14] = [
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
];

#[tokio::test]
async fn protocol_conformance_of_grpc_interop() {
    let test = "protocol_conformance_of_grpc_interop";
    let Some(interop) = outside::need(outside::grpc_interop(), test, "grpc-go's interop programs") else { return };
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let mut app = Command::new(interop.join("bin/server"));
    app.arg(format!("--port={port}")).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let _app = app.spawn().unwrap();
    let upstream = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    until("the interop server", SOON, || async move { TcpStream::connect(upstream).await.ok() }).await;
    let gateway = Running::start(upstream, weft_proto::descriptors::TESTKIT.to_vec()).await;
    let mut failed = Vec::new();
    for case in INTEROP {
        let mut client = Command::new(interop.join("bin/client"));
        client
            .arg(format!("--server_host={}", gateway.addr.ip()))
            .arg(format!("--server_port={}", gateway.addr.port()));
        client.arg(format!("--test_case={case}"));
        let said = run(client).await;
        if !said.status.success() {
            failed.push(format!("{case}: {}", String::from_utf8_lossy(&said.stderr)));
        }
    }
    println!("interop cases: {} of {}", INTEROP.len() - failed.len(), INTEROP.len());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    gateway.end().await;
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
    let grpc_over_http_2 = ServerRequest { protocol: 2, http_version: 2, message_receive_limit: RECEIVE_LIMIT };
    app.stdin.take().unwrap().write_all(&delimited(&grpc_over_http_2)).await.unwrap();
    let mut answers = app.stdout.take().unwrap();
    let read = async {
        let mut answer = vec![0; answers.read_u32().await.unwrap() as usize];
        answers.read_exact(&mut answer).await.unwrap();
        ServerResponse::decode(answer.as_slice()).unwrap()
    };
    let ServerResponse { host, port } = timeout(SOON, read).await.expect("the app answers in time");
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
    async fn start(upstream: SocketAddr, descriptor_set: Vec<u8>) -> Self {
        let config = Config {
            listen: ListenAddr::loopback(0),
            source: Source::Static { descriptor_set: descriptor_set.into(), upstream: upstream.to_string() },
            credential: None,
            identity: None,
            workers: NonZeroUsize::new(2),
            transcoding: weft_transcode::Settings::default(),
            policies: Vec::new(),
            redis: None,
            cache_bytes: 1 << 20,
            proxies: weft_gateway::TrustedProxies::default(),
            tls: None,
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
