//! Asking a process whether it is ready.
//!
//! Lives here: `GET /readyz`, and `grpc.health.v1` of a service through the gateway. Does not: how often (`board`, `director`).

use std::{error::Error, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tonic::transport::{Endpoint, Uri};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
use tower::service_fn;

use crate::tls;

/// A process on this machine that takes longer is not ready.
const LIMIT: Duration = Duration::from_secs(2);
/// Alert of a server that wants to see a certificate (RFC 8446, 6.2).
const CERTIFICATE_WANTED: &str = "CertificateRequired"; // h2 keeps no more of it than words

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
async fn get(addr: SocketAddr, path: &str) -> Result<(bool, String), Problem> {
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

/// How the gateway is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Plaintext,
    Tls,
    /// By TLS, with those only who show a certificate: not with us.
    TlsWithCertificate,
}

impl Spoken {
    /// Scheme of its URLs.
    pub(crate) const fn scheme(self) -> &'static str {
        match self {
            Self::Plaintext => "http",
            Self::Tls | Self::TlsWithCertificate => "https",
        }
    }
}

/// Finds out how the gateway is spoken to, in plaintext where it takes both. None: it does not answer.
pub(crate) async fn spoken(gateway: SocketAddr) -> Option<Spoken> {
    let plaintext = async { health(gateway, Spoken::Plaintext, "").await.is_ok() };
    if timeout(LIMIT, plaintext).await == Ok(true) {
        return Some(Spoken::Plaintext);
    }
    match timeout(LIMIT, health(gateway, Spoken::Tls, "")).await.ok()? {
        Ok(_) => Some(Spoken::Tls),
        Err(error) => in_words(&*error).contains(CERTIFICATE_WANTED).then_some(Spoken::TlsWithCertificate),
    }
}

/// Asks the gateway whether it can reach a gRPC service. One that does not speak with us is taken at its `/readyz`.
pub(crate) async fn serves(gateway: SocketAddr, spoken: Spoken, service: &str) -> bool {
    match spoken {
        Spoken::TlsWithCertificate => true,
        Spoken::Plaintext | Spoken::Tls => {
            let status = timeout(LIMIT, health(gateway, spoken, service)).await;
            matches!(status, Ok(Ok(ServingStatus::Serving)))
        }
    }
}

type Problem = Box<dyn Error + Send + Sync>;

async fn health(gateway: SocketAddr, spoken: Spoken, service: &str) -> Result<ServingStatus, Problem> {
    let endpoint = Endpoint::from_shared(format!("http://{gateway}"))?;
    let channel = match spoken {
        Spoken::Plaintext => endpoint.connect().await?,
        // What is connected to is plain for tonic, since TLS is the connector's.
        Spoken::Tls | Spoken::TlsWithCertificate => {
            let endpoint = endpoint.origin(format!("https://{gateway}").parse()?);
            endpoint
                .connect_with_connector(service_fn(move |_: Uri| async move {
                    tls::connect(&gateway.ip().to_string(), gateway.port()).await
                }))
                .await?
        }
    };
    let request = HealthCheckRequest { service: service.to_owned() };
    Ok(HealthClient::new(channel).check(request).await?.into_inner().status())
}

/// An error and what lies below it.
fn in_words(error: &(dyn Error + 'static)) -> String {
    let mut words = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        words.extend([": ", &cause.to_string()]);
        next = cause.source();
    }
    words
}
