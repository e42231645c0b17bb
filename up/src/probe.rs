//! Asking a process whether it is ready.
//!
//! Lives here: `GET /readyz`, and `grpc.health.v1` of a service through the gateway. Does not: how often (`board`, `director`).

use std::{error::Error, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

use crate::unverified::{self, Gateway, Scheme, Unheard};

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
async fn get(addr: SocketAddr, path: &str) -> Result<(bool, String), Box<dyn Error + Send + Sync>> {
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

/// Where and how people reach the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reach {
    pub(crate) gateway: SocketAddr,
    pub(crate) scheme: Scheme,
    /// It talks to those only who show a certificate: not to us.
    pub(crate) certificate_wanted: bool,
}

/// Finds out how the gateway is spoken to, in plaintext where it takes both. None: it does not answer.
pub(crate) async fn reach(gateway: SocketAddr) -> Option<Reach> {
    let (scheme, certificate_wanted) = match ask(gateway, None, "").await {
        Ok(said) => (said.scheme, false),
        Err(Unheard::CertificateWanted) => (Scheme::Https, true),
        Err(Unheard::Failed { .. }) => return None,
    };
    Some(Reach { gateway, scheme, certificate_wanted })
}

/// Asks the gateway whether it can reach a gRPC service. One that does not talk to us is taken at its `/readyz`.
pub(crate) async fn serves(reach: Reach, service: &str) -> bool {
    reach.certificate_wanted || ask(reach.gateway, Some(reach.scheme), service).await.is_ok_and(|it| it.serves)
}

async fn ask(gateway: SocketAddr, scheme: Option<Scheme>, service: &str) -> Result<Gateway, Unheard> {
    unverified::ask(&gateway.ip().to_string(), gateway.port(), scheme, service).await
}
