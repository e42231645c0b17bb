//! The verifiers that rustls asks: one for each side, both reading the live trust.
//!
//! Lives here: what each side demands of the other. Does not: the rules themselves (`trust`, `svid`), building configs (`tls`).
//! A name in SNI or a SAN means nothing here: a peer is its SPIFFE id.

use std::fmt;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::verify_tls13_signature,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use weft_model::SpiffeId;

use crate::{
    Bundle, Callers, Refusal, Revocations, RootPin, Trust, TrustDomain, refusal::system_time, tls::provider,
    trust::Shown,
};

/// Whom a client demands to meet.
pub(crate) enum Expect {
    /// This identity, vouched for by the bundle.
    Known { trust: Trust, id: SpiffeId },
    /// This identity, vouched for by the root with this hash, which the server presents in its chain.
    Pinned { pin: RootPin, id: SpiffeId, trust: PinnedTrust },
}

/// What a pinned verification needs besides the pin.
pub(crate) struct PinnedTrust {
    pub(crate) clock: crate::Clock,
}

impl fmt::Debug for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known { id, .. } => write!(f, "Known({id})"),
            Self::Pinned { pin, id, .. } => write!(f, "Pinned({id}, {pin})"),
        }
    }
}

impl Expect {
    fn judge(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Refusal> {
        let (leaf, expected) = match self {
            Self::Known { trust, id } => (trust.judge_chain(Shown::ByServer, chain, system_time(now))?, id),
            Self::Pinned { pin, id, trust } => {
                let root = chain.iter().find(|it| RootPin::of(it) == *pin).ok_or(Refusal::WrongRoot { pin: *pin })?;
                let bundle = Bundle::new(TrustDomain::of(id), [root.clone().into_owned()])
                    .map_err(|e| Refusal::NotAnSvid { problem: e.to_string() })?;
                let pinned = Trust::new(bundle, Revocations::default(), trust.clock.clone())
                    .map_err(|e| Refusal::NotAnSvid { problem: e.to_string() })?;
                (pinned.judge_chain(Shown::ByServer, chain, system_time(now))?, id)
            }
        };
        if leaf.id == *expected {
            Ok(())
        } else {
            Err(Refusal::WrongIdentity { expected: expected.clone(), presented: leaf.id })
        }
    }
}

/// Asked by a client about the server.
#[derive(Debug)]
pub(crate) struct ServerVerifier(pub(crate) Expect);

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0.judge(&joined(end_entity, intermediates), now).map_err(|refusal| refusal.into_rustls(now))?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Asked by a server about its caller.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    pub(crate) trust: Trust,
    pub(crate) callers: Callers,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        match self.callers {
            Callers::MustShow => true,
            Callers::MayShow => false,
        }
    }

    /// None: they would tell a stranger who our authorities are, and our clients have one certificate to show anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = joined(end_entity, intermediates);
        match self.trust.judge_chain(Shown::ByClient, &chain, system_time(now)) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(refusal) => Err(refusal.into_rustls(now)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

fn joined<'c>(end_entity: &CertificateDer<'c>, intermediates: &[CertificateDer<'c>]) -> Vec<CertificateDer<'c>> {
    std::iter::once(end_entity).chain(intermediates).cloned().collect()
}

/// The configs allow TLS 1.3 only, so rustls never gets here; were that to change, it must not pass.
fn no_tls12() -> Error {
    Error::PeerIncompatible(rustls::PeerIncompatible::Tls12NotOffered)
}
