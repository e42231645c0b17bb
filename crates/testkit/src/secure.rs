//! TLS as a test speaks it: mutual, as an identity, and as a stranger who believes anybody.
//!
//! Lives here: connecting. Does not: identities themselves (`weft-identity`), asking for them (`weft-discovery`), assertions.

use std::{io, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tonic::transport::{Channel, Endpoint, Uri};
use weft_identity::{Clock, Identity, pem};
use weft_model::SpiffeId;

/// The wall clock.
#[expect(clippy::disallowed_methods, reason = "tests have no frame that reads the clock for them")]
pub fn clock() -> Clock {
    Arc::new(std::time::SystemTime::now)
}

/// A channel to `at` that speaks as `identity` and demands to meet `expected`; connects when first used.
pub fn channel(at: SocketAddr, identity: &Identity, expected: &SpiffeId) -> Channel {
    let (identity, expected) = (identity.clone(), expected.clone());
    let connect = tower::service_fn(move |_: Uri| {
        let (identity, expected) = (identity.clone(), expected.clone());
        async move {
            let name = ServerName::IpAddress(at.ip().into());
            let connector = TlsConnector::from(identity.client_config(&expected));
            let stream = connector.connect(name, TcpStream::connect(at).await?).await?;
            identity.connected(stream.get_ref().1).map_err(io::Error::other)?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{at}")).expect("an address is a valid authority");
    let endpoint = endpoint.connect_timeout(Duration::from_secs(10)).timeout(Duration::from_secs(30));
    endpoint.connect_with_connector_lazy(connect)
}

/// What an attacker has: TLS that believes any server and shows the PEM files that `weft identity --out` wrote into `shown`, or nothing.
pub fn stranger(shown: Option<&Path>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(dir) => {
            let chain = CertificateDer::pem_file_iter(dir.join(pem::CHAIN)).expect("the chain was written");
            let chain = chain.collect::<Result<Vec<_>, _>>().expect("the chain is PEM");
            let key = PrivateKeyDer::from_pem_file(dir.join(pem::KEY)).expect("the key was written");
            config.with_client_auth_cert(chain, key).expect("key and chain belong together")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Arc::new(config)
}

/// Opens a connection as a stranger. In TLS 1.3 a server that refuses the certificate says so after this has returned.
pub async fn connect_as(config: Arc<ClientConfig>, at: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(at).await?;
    TlsConnector::from(config).connect(ServerName::IpAddress(at.ip().into()), stream).await
}

/// A channel of a stranger that connects when first used.
pub fn stranger_channel(at: SocketAddr, config: Arc<ClientConfig>) -> Channel {
    let connect = tower::service_fn(move |_: Uri| {
        let config = Arc::clone(&config);
        async move { connect_as(config, at).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_shared(format!("http://{at}")).expect("an address is a valid authority");
    let endpoint = endpoint.connect_timeout(Duration::from_secs(10)).timeout(Duration::from_secs(30));
    endpoint.connect_with_connector_lazy(connect)
}

#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
