//! One small document by HTTP GET, for parts of the edge that follow something outside the mesh.
//!
//! Lives here: the request, and the bounds on its answer: status 200, 256 KiB, no redirects. Does not: when (`edge::issuers`), its time (whoever asks).
//! TLS believes the authorities that browsers do (webpki-roots).

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, crypto::ring, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

const LARGEST: usize = 256 << 10;

static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring speaks the default versions of TLS");
    Arc::new(config.with_root_certificates(roots).with_no_client_auth())
});

/// Returns the body that a URL leads to; an error is for people.
pub(crate) async fn get(url: &str) -> Result<Bytes, String> {
    let uri: Uri = url.parse().map_err(|error| format!("no URL: {error}"))?;
    let (secure, port) = match uri.scheme_str() {
        Some("https") => (true, 443),
        Some("http") => (false, 80),
        _ => return Err("neither https:// nor http://".to_owned()),
    };
    let host = uri.host().ok_or("no host")?.trim_start_matches('[').trim_end_matches(']').to_owned();
    let stream =
        TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(port))).await.map_err(|e| e.to_string())?;
    if !secure {
        return ask(stream, &uri).await;
    }
    let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
    let stream = TlsConnector::from(Arc::clone(&TLS)).connect(name, stream).await.map_err(|e| e.to_string())?;
    ask(stream, &uri).await
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, uri: &Uri) -> Result<Bytes, String> {
    let authority = uri.authority().ok_or("no host")?.as_str();
    let path = uri.path_and_query().map_or("/", |it| it.as_str());
    let request = Request::get(path)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json")
        .header(header::USER_AGENT, concat!("weft-gateway/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|e| e.to_string())?;
        if answer.status() != StatusCode::OK {
            return Err(format!("answers {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(|e| e.to_string())?;
        Ok(body.to_bytes())
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => match ended {
            Err(error) => Err(error.to_string()),
            Ok(()) => answer.await, // a server may close with its answer, which then waits to be taken
        },
    }
}
