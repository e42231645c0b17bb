//! TLS towards whoever answers.
//!
//! Lives here: a client without a certificate, and what it noticed of the server. Does not: what follows from that (`unverified`).

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A client without a certificate. Clones are one.
#[derive(Debug, Clone)]
pub(super) struct Client {
    config: Arc<ClientConfig>,
    noticed: Arc<Noticed>,
}

impl Client {
    pub(super) fn new() -> Self {
        let noticed = Arc::new(Noticed::default());
        Self { config: Arc::new(config(noticed.clone())), noticed }
    }

    /// Opens a connection for HTTP/2. In TLS 1.3 a server that insists on a certificate of ours says so after this has returned, or just closes.
    pub(super) async fn connect(self, host: String, port: u16) -> io::Result<TokioIo<Listened>> {
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TlsConnector::from(self.config).connect(name, stream).await?;
        Ok(TokioIo::new(Listened { stream, noticed: self.noticed }))
    }

    /// Whether a server wanted to see a certificate.
    pub(super) fn was_asked(&self) -> bool {
        self.noticed.asked.load(Ordering::Relaxed)
    }

    /// Whether a server said anything after the handshake: it has let us in, certificate or not. HTTP/2 begins with the settings of both.
    pub(super) fn was_answered(&self) -> bool {
        self.noticed.answered.load(Ordering::Relaxed)
    }
}

/// What a server did. As a source of certificates it has none.
#[derive(Debug, Default)]
struct Noticed {
    asked: AtomicBool,
    answered: AtomicBool,
}

impl ResolvesClientCert for Noticed {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _sigschemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A connection that notices whether anything comes by it.
#[derive(Debug)]
pub(super) struct Listened {
    stream: TlsStream<TcpStream>,
    noticed: Arc<Noticed>,
}

impl AsyncRead for Listened {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (this, before) = (self.get_mut(), into.filled().len());
        ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
        if into.filled().len() > before {
            this.noticed.answered.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Listened {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

fn config(noticed: Arc<Noticed>) -> ClientConfig {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
    let config = config.expect("the provider has suites of the usual versions");
    let verifier = Arc::new(AnyServer(provider));
    let mut config = config.dangerous().with_custom_certificate_verifier(verifier).with_client_cert_resolver(noticed);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

/// Believes that a server is who it says, if it has the key of what it shows.
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
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
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
