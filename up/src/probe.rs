//! Asking a process whether it is ready.
//!
//! Lives here: `GET /readyz`, and `grpc.health.v1` of a service through the gateway. Does not: how often (`board`, `director`).

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

/// A process on this machine that takes longer is not ready.
const LIMIT: Duration = Duration::from_secs(2);

/// Asks `/readyz`; the error says why not, in the role's own words where it has any.
pub(crate) async fn ready(addr: SocketAddr) -> Result<(), String> {
    match timeout(LIMIT, get(addr, "/readyz")).await {
        Err(_) => Err("does not answer".to_owned()),
        Ok(Err(_)) => Err("not listening yet".to_owned()),
        Ok(Ok((true, _))) => Ok(()),
        Ok(Ok((false, text))) => {
            let text = text.trim();
            Err(text.strip_prefix("not ready: ").unwrap_or(text).to_owned())
        }
    }
}

/// Whether the status was 2xx, and the body.
async fn get(addr: SocketAddr, path: &str) -> Result<(bool, String), Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(addr).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let request = http::Request::get(path).header(http::header::HOST, addr.to_string()).body(Empty::<Bytes>::new())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let good = response.status().is_success();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((good, String::from_utf8_lossy(&body).into_owned()))
    };
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => match ended {
            Err(error) => Err(error.into()),
            Ok(()) => answer.await, // a server may close with its answer, which then waits to be taken
        },
    }
}

/// Asks the gateway whether it can reach a gRPC service.
pub(crate) async fn serves(gateway: SocketAddr, service: &str) -> bool {
    let check = async {
        let channel = Channel::from_shared(format!("http://{gateway}")).ok()?.connect().await.ok()?;
        let request = HealthCheckRequest { service: service.to_owned() };
        Some(HealthClient::new(channel).check(request).await.ok()?.into_inner().status())
    };
    timeout(LIMIT, check).await.ok().flatten() == Some(ServingStatus::Serving)
}
