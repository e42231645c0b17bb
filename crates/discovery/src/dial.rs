//! Connections to a registry: plaintext or TLS, as a channel that dials when it is used.
//!
//! Lives here: keep-alive settings, the TLS connector, the check after its handshake. Does not: which registry (`registries`), what is asked.
//! A config is taken anew at every dial, so that a reconnect shows the newest certificate.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;
use weft_identity::{Identity, TrustDomain, name as names};

/// Time a connection to a registry may take.
const CONNECT: Duration = Duration::from_secs(1);
/// A registry that answers no PING for this long after one was due is gone: half-open connections are found within 10 s.
const PING: Duration = Duration::from_secs(5);
const WINDOW: u32 = 1 << 20;

/// How a TLS connection to a registry is opened.
#[derive(Clone)]
pub(crate) enum Dial {
    /// As this process, to a registry of its domain.
    As(Identity),
    /// As nobody, to the registry that shows a pinned root.
    Pinned(Arc<ClientConfig>),
}

/// Returns a channel to `http://host:port`. Nothing is dialled yet.
pub(crate) fn plain(url: &str) -> Channel {
    endpoint(url).connect_lazy()
}

/// Returns a channel to `https://host:port`. Nothing is dialled yet.
pub(crate) fn secure(url: &str, dial: Dial) -> Channel {
    endpoint(url).connect_with_connector_lazy(service_fn(move |uri: Uri| {
        let dial = dial.clone();
        async move { open(&uri, &dial).await.map(TokioIo::new) }
    }))
}

/// Returns a channel to `https://host:port` that tells at each call why there is none: an address that wants TLS never gets plaintext.
pub(crate) fn without_identity(url: &str) -> Channel {
    endpoint(url).connect_with_connector_lazy(service_fn(|_: Uri| async {
        let problem = io::Error::other("the registry is at https:// and this process has no identity; give it a token");
        Err::<TokioIo<TcpStream>, _>(problem)
    }))
}

/// TLS is the connector's, so tonic sees plain http whatever features others switch on in it.
fn endpoint(url: &str) -> Endpoint {
    let plain = url.strip_prefix("https://").map_or_else(|| url.to_owned(), |rest| format!("http://{rest}"));
    Endpoint::from_shared(plain)
        .expect("the URL was parsed when it was read")
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(8 * WINDOW)
}

async fn open(uri: &Uri, dial: &Dial) -> io::Result<TlsStream<TcpStream>> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    match dial {
        Dial::Pinned(config) => TlsConnector::from(Arc::clone(config)).connect(name, stream).await,
        Dial::As(identity) => {
            let registry = TrustDomain::of(&identity.id()).service(&names::registry());
            let stream = TlsConnector::from(identity.client_config(&registry)).connect(name, stream).await?;
            identity.connected(stream.get_ref().1).map_err(io::Error::other)?;
            Ok(stream)
        }
    }
}
