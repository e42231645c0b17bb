//! A caller's side: a world of static endpoints, one pool, one stack.
//!
//! Lives here: building it, calling through it, waiting for a state. Does not: servers.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use prometheus_client::registry::Registry;
use weft_identity::Identity;
use weft_model::{Endpoint, GrpcService, Method, Protocol, ServiceInfo, ServiceName, SpiffeId, Transport};
use weft_runtime::listen::ListenAddr;
use weft_traffic::{
    Body, Claims, Code, Error, Interests, Metrics, Outbound, OutboundConfig, Pool, PoolConfig, StaticCluster, Worlds,
};

/// Declared NO_SIDE_EFFECTS.
pub(crate) const GET: &str = "/test.v1.Users/Get";
/// Not declared anything.
pub(crate) const POST: &str = "/test.v1.Users/Post";
/// Declared NO_SIDE_EFFECTS, and answers with a stream.
pub(crate) const LIST: &str = "/test.v1.Users/List";

pub(crate) struct Mesh {
    pub(crate) worlds: Worlds,
    pub(crate) pool: Pool,
    pub(crate) outbound: Outbound,
    registry: Registry,
    pub(crate) _interests: Interests,
}

/// What came back, all of it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) code: Code,
    pub(crate) body: Bytes,
    pub(crate) message: String,
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address, transport: Transport::Plaintext, protocol: Protocol::H2 }
}

pub(crate) fn users() -> ServiceName {
    "users".parse().unwrap()
}

pub(crate) fn info() -> ServiceInfo {
    let method = |name: &str, idempotent, server_streaming| Method {
        name: name.into(),
        client_streaming: false,
        server_streaming,
        idempotent,
        missing_in: Vec::new(),
    };
    ServiceInfo {
        grpc_services: vec![GrpcService {
            name: "test.v1.Users".into(),
            methods: vec![method("Get", true, false), method("Post", false, false), method("List", true, true)],
        }],
        ..ServiceInfo::default()
    }
}

impl Mesh {
    pub(crate) fn of(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::with(PoolConfig::default(), OutboundConfig::default(), addresses)
    }

    pub(crate) fn with(
        pool: PoolConfig,
        config: OutboundConfig,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry, "test");
        let (worlds, interests) = Worlds::new(metrics.clone());
        let pool = Pool::new(pool, metrics);
        let outbound = Outbound::new(config, worlds.clone(), pool.clone());
        let it = Self { worlds, pool, outbound, registry, _interests: interests };
        it.set(addresses);
        it
    }

    pub(crate) fn set(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.set_endpoints(addresses.into_iter().map(endpoint));
    }

    /// A caller that is `identity`, in a world of one service whose endpoints were registered as `expected`.
    pub(crate) fn secured(
        identity: Option<Identity>,
        expected: &SpiffeId,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        // Less patience than the default: most of these tests are about calls that are never going to pass.
        Self::secured_with(Duration::from_millis(500), identity, expected, addresses)
    }

    /// The same, with other patience.
    pub(crate) fn secured_with(
        patience: Duration,
        identity: Option<Identity>,
        expected: &SpiffeId,
        addresses: impl IntoIterator<Item = SocketAddr>,
    ) -> Self {
        // A handshake may take its time on a busy machine.
        let pool = PoolConfig { identity, connect_timeout: Duration::from_secs(10), ..PoolConfig::default() };
        let config = OutboundConfig { patience, ..OutboundConfig::default() };
        let it = Self::with(pool, config, []);
        let transport = Transport::Mtls { identity: expected.clone() };
        it.set_endpoints(addresses.into_iter().map(|at| Endpoint { transport: transport.clone(), ..endpoint(at) }));
        it
    }

    /// How often the counter with these labels was raised.
    pub(crate) fn counted(&self, line: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let found = text.lines().find_map(|it| it.strip_prefix(line));
        found.map_or(0, |value| value.trim().parse().unwrap())
    }

    fn set_endpoints(&self, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.worlds.set_static(vec![StaticCluster {
            name: users(),
            endpoints: endpoints.into_iter().collect(),
            info: info(),
            claims: Claims::Names,
        }]);
    }

    pub(crate) async fn call(&self, path: &str, body: impl Into<Body>) -> Result<Answered, Error> {
        self.send(request(path, body)).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Answered, Error> {
        Ok(read(self.outbound.call(request).await?).await)
    }
}

pub(crate) fn request(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(format!("http://users{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body.into())
        .unwrap()
}

pub(crate) async fn read(response: Response<Body>) -> Answered {
    let in_headers = Code::from_headers(response.headers());
    let collected = response.into_body().collect().await.expect("a gRPC answer ends in trailers");
    let trailers = collected.trailers().cloned().unwrap_or_else(HeaderMap::new);
    let message = trailers.get("grpc-message").map_or("", |m| m.to_str().unwrap()).to_owned();
    let code = in_headers.or_else(|| Code::from_headers(&trailers)).expect("a gRPC status");
    Answered { code, body: collected.to_bytes(), message }
}

/// Waits for a state, at most half a minute.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(30), async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what}");
}

/// An address that refuses connections: no other test is given it, as a server or for a connection of its own.
pub(crate) fn nobody() -> SocketAddr {
    ListenAddr::loopback(0).lasting().get()
}
