//! Probes: how an instance is asked, over one kept connection where the protocol allows it.
//!
//! Lives here: grpc.health.v1 (Watch, or Check where Watch is not implemented), HTTP GET, TCP connect. Does not: thresholds, pauses.
//! Every question has a timeout. Limit: plaintext; checks with an identity come with mutual TLS.

use std::{net::SocketAddr, time::Duration};

use http_body_util::{BodyExt, Empty, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tonic::{
    Code, Streaming,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_client::HealthClient,
};
use weft_model::{Check, CheckKind};

/// A body longer than this costs the connection, not our memory.
const MAX_BODY: usize = 64 << 10;

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Good,
    Bad(String),
    /// The instance told its state by itself, on a health watch.
    Told(bool, String),
}

/// A way to ask one instance.
pub(super) enum Probe {
    Grpc(Grpc),
    Http(Http),
    Tcp { address: SocketAddr, limit: Duration },
}

impl Probe {
    pub(super) fn new(check: &Check, endpoint: SocketAddr) -> Self {
        let limit = check.timeout;
        match &check.kind {
            CheckKind::Grpc { service, address } => {
                Self::Grpc(Grpc::new(address.unwrap_or(endpoint), service.clone(), check))
            }
            CheckKind::Http { path, address } => {
                Self::Http(Http { address: address.unwrap_or(endpoint), path: path.clone(), limit, connection: None })
            }
            CheckKind::Tcp { address } => Self::Tcp { address: address.unwrap_or(endpoint), limit },
            CheckKind::Ttl { .. } => unreachable!("a TTL check asks nobody"),
        }
    }

    /// Asks once; on a health watch, waits for the next state. Never takes longer than the timeout otherwise.
    pub(super) async fn ask(&mut self) -> Answer {
        match self {
            Self::Grpc(grpc) => grpc.ask().await,
            Self::Http(http) => http.ask().await,
            Self::Tcp { address, limit } => match timeout(*limit, TcpStream::connect(*address)).await {
                Ok(Ok(_)) => Answer::Good,
                Ok(Err(error)) => Answer::Bad(format!("tcp {address}: {error}")),
                Err(_) => Answer::Bad(format!("tcp {address}: no connection within {limit:?}")),
            },
        }
    }

    /// Whether the next `ask` waits by itself, so that no pause is needed.
    pub(super) const fn waits_itself(&self) -> bool {
        matches!(self, Self::Grpc(Grpc { how: How::Watching(_), .. }))
    }
}

enum How {
    /// Try to watch.
    Fresh,
    Watching(Box<Streaming<HealthCheckResponse>>),
    /// Watch is not implemented there.
    Polling,
}

pub(super) struct Grpc {
    client: HealthClient<Channel>,
    service: String,
    limit: Duration,
    how: How,
}

impl Grpc {
    fn new(address: SocketAddr, service: String, check: &Check) -> Self {
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .expect("a socket address makes a URI")
            .connect_timeout(check.timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(check.interval)
            .keep_alive_timeout(check.timeout)
            .keep_alive_while_idle(true) // a peer that vanished must break the watch
            .connect_lazy();
        Self { client: HealthClient::new(channel), service, limit: check.timeout, how: How::Fresh }
    }

    async fn ask(&mut self) -> Answer {
        match &mut self.how {
            How::Fresh => self.open().await,
            How::Polling => self.poll().await,
            How::Watching(states) => match states.message().await {
                Ok(Some(state)) => told(&state),
                Ok(None) => self.broken("the health watch ended"),
                Err(status) if status.code() == Code::Unimplemented => {
                    self.how = How::Polling;
                    self.poll().await
                }
                Err(status) => self.broken(&format!("{:?}: {}", status.code(), status.message())),
            },
        }
    }

    /// Opens a watch and waits for its first state, which must come at once (grpc/doc/health-checking.md).
    async fn open(&mut self) -> Answer {
        let request = HealthCheckRequest { service: self.service.clone() };
        let first = timeout(self.limit, async {
            let mut states = self.client.watch(request).await?.into_inner();
            let first = states.message().await?;
            Ok::<_, tonic::Status>((states, first))
        });
        match first.await {
            Ok(Ok((states, Some(state)))) => {
                self.how = How::Watching(Box::new(states));
                told(&state)
            }
            Ok(Ok((_, None))) => self.broken("the health watch ended"),
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                self.how = How::Polling;
                self.poll().await
            }
            Ok(Err(status)) => self.broken(&format!("{:?}: {}", status.code(), status.message())),
            Err(_) => self.broken(&format!("no state within {:?}", self.limit)),
        }
    }

    async fn poll(&mut self) -> Answer {
        let request = HealthCheckRequest { service: self.service.clone() };
        match timeout(self.limit, self.client.check(request)).await {
            Ok(Ok(state)) if state.get_ref().status() == ServingStatus::Serving => Answer::Good,
            Ok(Ok(state)) => Answer::Bad(format!("grpc health: {}", state.get_ref().status().as_str_name())),
            Ok(Err(status)) => Answer::Bad(format!("grpc health: {:?}: {}", status.code(), status.message())),
            Err(_) => Answer::Bad(format!("grpc health: no answer within {:?}", self.limit)),
        }
    }

    fn broken(&mut self, why: &str) -> Answer {
        self.how = How::Fresh;
        Answer::Bad(format!("grpc health: {why}"))
    }
}

fn told(state: &HealthCheckResponse) -> Answer {
    match state.status() {
        ServingStatus::Serving => Answer::Told(true, String::new()),
        other => Answer::Told(false, format!("grpc health: {}", other.as_str_name())),
    }
}

struct Connection {
    requests: http1::SendRequest<Empty<Bytes>>,
    /// Drives the connection; ends with it.
    _task: JoinSet<()>,
}

pub(super) struct Http {
    address: SocketAddr,
    path: String,
    limit: Duration,
    connection: Option<Connection>,
}

impl Http {
    async fn ask(&mut self) -> Answer {
        let (address, limit) = (self.address, self.limit);
        match timeout(limit, self.get()).await {
            Ok(Ok(status)) if status.is_success() => Answer::Good,
            Ok(Ok(status)) => Answer::Bad(format!("http {address}{}: {status}", self.path)),
            Ok(Err(error)) => Answer::Bad(format!("http {address}{}: {error:#}", self.path)),
            Err(_) => Answer::Bad(format!("http {address}{}: no answer within {limit:?}", self.path)),
        }
    }

    /// Asks on the kept connection, or on a new one; keeps it if the answer was read to its end.
    async fn get(&mut self) -> anyhow::Result<http::StatusCode> {
        let mut connection = match self.kept().await {
            Some(kept) => kept,
            None => connect(self.address).await?,
        };
        let request = http::Request::get(&self.path)
            .header(http::header::HOST, self.address.to_string())
            .header(http::header::USER_AGENT, concat!("weft-registry/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())?;
        let response = connection.requests.send_request(request).await?;
        let status = response.status();
        if Limited::new(response.into_body(), MAX_BODY).collect().await.is_ok() {
            self.connection = Some(connection);
        }
        Ok(status)
    }

    async fn kept(&mut self) -> Option<Connection> {
        let mut kept = self.connection.take()?;
        kept.requests.ready().await.is_ok().then_some(kept)
    }
}

async fn connect(address: SocketAddr) -> anyhow::Result<Connection> {
    let stream = TcpStream::connect(address).await?;
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut task = JoinSet::new();
    task.spawn(async move { drop(connection.await) }); // an error shows at the next request
    Ok(Connection { requests, _task: task })
}
