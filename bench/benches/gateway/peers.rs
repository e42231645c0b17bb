//! Who is measured: weft's gateway, twice, Envoy and grpc-gateway, each with one worker and before the same server.
//!
//! Lives here: starting them, and how each is called. Does not: calling them. The floor is weft itself with gRPC-Web: the same connections, routes and
//! way upstream, and no JSON.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::Context as _;
use serde_json::json;
use tokio::{net::TcpStream, time::sleep};
use weft_testkit::{outside, process::Process};

use crate::{app::framed, load::Call, messages::Case};

/// The largest message that anybody has to take.
const LARGEST: u32 = 64 << 20;

/// A peer that runs. It ends with this value.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    pub(crate) process: Process,
    pub(crate) at: SocketAddr,
    json: bool,
}

impl Peer {
    /// Starts all of them; a peer that is not on the machine is an error that says what adds it.
    pub(crate) async fn all(dir: &Path, set: &Path, app: SocketAddr) -> anyhow::Result<Vec<Self>> {
        let (set, upstream) = (set.to_string_lossy().into_owned(), app.to_string());
        Ok(vec![
            weft("floor: no JSON", &set, &upstream, false).await?,
            weft("weft", &set, &upstream, true).await?,
            envoy(dir, &set, app).await?,
            grpc_gateway(&upstream).await?,
        ])
    }

    /// How this peer is asked for the same.
    pub(crate) fn call(&self, case: &Case) -> Call {
        match (self.json, case.method) {
            (true, "Echo") => Call { path: "/shapes:echo", content_type: "application/json", body: case.json.clone() },
            (true, _) => Call { path: "/shapes:repeat", content_type: "application/json", body: case.json.clone() },
            (false, method) => Call {
                path: if method == "Echo" { "/weft.bench.v1.Shapes/Echo" } else { "/weft.bench.v1.Shapes/Repeat" },
                content_type: "application/grpc-web+proto",
                body: framed(&case.wire),
            },
        }
    }

    /// Whether answers are JSON.
    pub(crate) const fn speaks_json(&self) -> bool {
        self.json
    }
}

async fn weft(name: &'static str, set: &str, upstream: &str, json: bool) -> anyhow::Result<Peer> {
    let weft = outside::binary("weft").context("start me with `cargo xtask bench gateway`")?;
    let config = tempfile::Builder::new().suffix(".toml").tempfile()?;
    fs::write(config.path(), format!("[limits]\nmax_request_bytes = {LARGEST}\n"))?;
    let config = config.into_temp_path().keep()?;
    let args =
        ["gateway", "--listen", "127.0.0.1:0", "--descriptor-set", set, "--upstream", upstream, "--workers", "1"];
    let more = ["--config", &config.to_string_lossy(), "--log-format", "json"].map(str::to_owned);
    let args: Vec<_> = args.map(str::to_owned).into_iter().chain(more).collect();
    // Nobody's access log is written. Metrics and the default tracing are on.
    let mut process = Process::start(name, &weft, &weft, &args, &[("RUST_LOG", "warn".to_owned())])?;
    let at = process.address("http").await;
    fs::remove_file(config)?;
    Ok(Peer { name, process, at, json })
}

/// An address that is free now.
fn free() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Waits until somebody listens.
async fn listens(process: &mut Process, at: SocketAddr) -> anyhow::Result<()> {
    for _ in 0..300 {
        if TcpStream::connect(at).await.is_ok() {
            return Ok(());
        }
        if let Some(ended) = process.ended() {
            anyhow::bail!("ended before it listened: {ended}\n{}", process.log());
        }
        sleep(Duration::from_millis(100)).await;
    }
    anyhow::bail!("does not listen: {}", process.log())
}

async fn envoy(dir: &Path, set: &str, app: SocketAddr) -> anyhow::Result<Peer> {
    let program = outside::envoy().context("Envoy could not be had")?;
    let (at, file) = (free()?, dir.join("envoy.json"));
    let address = |at: SocketAddr| json!({"socket_address": {"address": at.ip().to_string(), "port_value": at.port()}});
    let typed = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let transcoder = json!({
        "@type": typed("filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder"),
        "proto_descriptor": set,
        "services": ["weft.bench.v1.Shapes"],
        "convert_grpc_status": true,
        "max_request_body_size": LARGEST,
        "max_response_body_size": LARGEST,
    });
    let router = json!({"@type": typed("filters.http.router.v3.Router")});
    let manager = json!({
        "@type": typed("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "bench",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "60s"}}],
        }]},
        "http_filters": [
            {"name": "envoy.filters.http.grpc_json_transcoder", "typed_config": transcoder},
            {"name": "envoy.filters.http.router", "typed_config": router},
        ],
    });
    let upstream = json!({
        "@type": typed("upstreams.http.v3.HttpProtocolOptions"),
        "explicit_http_config": {"http2_protocol_options": {}},
    });
    let config = json!({"static_resources": {
        "listeners": [{
            "name": "bench", "address": address(at), "per_connection_buffer_limit_bytes": LARGEST,
            "filter_chains": [{"filters": [
                {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager},
            ]}],
        }],
        "clusters": [{
            "name": "app", "type": "STATIC", "per_connection_buffer_limit_bytes": LARGEST,
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": upstream},
            "load_assignment": {"cluster_name": "app", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(app)}}]}]},
        }],
    }});
    fs::write(&file, serde_json::to_vec(&config)?)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&file).args(["--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]);
    let mut process = Process::spawn("envoy", command)?;
    listens(&mut process, at).await.context("Envoy")?;
    Ok(Peer { name: "Envoy", process, at, json: true })
}

async fn grpc_gateway(upstream: &str) -> anyhow::Result<Peer> {
    let program = outside::grpc_gateway().context("grpc-gateway could not be built")?;
    let at = free()?;
    let mut command = Command::new(program);
    command.args([&at.to_string(), upstream]).env("GOMAXPROCS", "1");
    let mut process = Process::spawn("grpc-gateway", command)?;
    listens(&mut process, at).await.context("grpc-gateway")?;
    Ok(Peer { name: "grpc-gateway", process, at, json: true })
}
