//! Certificates: from a request to a signed leaf.
//!
//! Lives here: what a request must be, what a leaf looks like. Does not: who may have one (`grpc`, `tokens`).
//! Source: SPIFFE X509-SVID, sections 2 to 4. Of a request only the public key is used: names, extensions and wishes of the caller are ignored.
//! Only the registry's own certificate names hosts beside its identity: stock gRPC clients that come by TLS for xDS know no other name of a server.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, PublicKeyData,
    SanType, SubjectPublicKeyInfo,
};
use rustls::pki_types::CertificateDer;
use weft_identity::{Leaf, Serial, TrustDomain};
use weft_model::{Invalid, SpiffeId};
use x509_parser::{certification_request::X509CertificationRequest, prelude::FromDer};

use crate::ca::{
    state::{SKEW, State, serial},
    store::Error,
};

/// Largest request: a P-256 key and nothing else takes about 200 bytes; a stock tool's names and extensions some more.
const MAX_CSR: usize = 16 << 10;

/// A certificate as it was issued.
#[derive(Debug, Clone)]
pub struct Issued {
    /// Leaf first; while a root is being replaced, what ties the new one to the old follows.
    pub chain: Vec<CertificateDer<'static>>,
    /// What the leaf says.
    pub leaf: Leaf,
}

/// A host as a URL names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Host {
    Ip(IpAddr),
    Name(String),
}

impl Host {
    /// The host of `https://host:port`; none of an address that stands for all.
    pub(crate) fn of(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(ip) => (!ip.is_unspecified()).then_some(Self::Ip(ip)),
            Err(_) => Some(Self::Name(host.to_owned())),
        }
    }
}

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The request is none.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The identity is not ours to vouch for.
    #[error("{id} is not of trust domain {ours}")]
    Foreign {
        /// Asked for.
        id: SpiffeId,
        /// The domain of this authority.
        ours: TrustDomain,
    },
    /// The certificate that is shown to be renewed was taken back.
    #[error("the certificate {shown} is revoked")]
    Revoked {
        /// Its serial.
        shown: Serial,
    },
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] Error),
}

/// Reads the public key of a request, which must be ECDSA P-256 and have signed the request.
pub(crate) fn public_key(csr: &[u8]) -> Result<SubjectPublicKeyInfo, Invalid> {
    let invalid = |problem: &str| Invalid::new("csr", problem);
    if csr.len() > MAX_CSR {
        return Err(invalid("is longer than 16 KiB"));
    }
    let (rest, request) = X509CertificationRequest::from_der(csr).map_err(|_| invalid("is no PKCS #10 request"))?;
    if !rest.is_empty() {
        return Err(invalid("has bytes after its end"));
    }
    let key = SubjectPublicKeyInfo::from_der(request.certification_request_info.subject_pki.raw)
        .map_err(|_| invalid("has a key of an unknown kind; make it ECDSA P-256"))?;
    if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(invalid("has a key that is not ECDSA P-256"));
    }
    request.verify_signature().map_err(|_| invalid("is not signed with its own key"))?;
    Ok(key)
}

/// Signs a leaf for `id` with the root that signs at `now`.
pub(crate) fn leaf(
    state: &State,
    key: &SubjectPublicKeyInfo,
    id: &SpiffeId,
    hosts: &[Host],
    now: SystemTime,
    life: Duration,
) -> Result<Issued, SignError> {
    let ours: TrustDomain = state.trust_domain.parse()?;
    if !ours.owns(id) {
        return Err(SignError::Foreign { id: id.clone(), ours });
    }
    let params = leaf_params(id, hosts, now, life)?;
    let issuer = state.signing(now).issuer()?;
    let der = params.signed_by(key, &issuer).map_err(Error::Crypto)?.der().clone();
    let leaf = Leaf::read(&der).map_err(|e| Error::Damaged { problem: e.to_string() })?;
    let mut chain = vec![der];
    chain.extend(state.crosses(now));
    Ok(Issued { chain, leaf })
}

fn leaf_params(id: &SpiffeId, hosts: &[Host], now: SystemTime, life: Duration) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "weft");
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().map_err(Error::Crypto)?)];
    for host in hosts {
        params.subject_alt_names.push(match host {
            Host::Ip(ip) => SanType::IpAddress(*ip),
            Host::Name(name) => SanType::DnsName(name.as_str().try_into().map_err(Error::Crypto)?),
        });
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    // Backdated for clocks that are behind, but not so far that half of a short life is over at once.
    params.not_before = (now - SKEW.min(life / 10)).into();
    params.not_after = (now + life).into();
    params.serial_number = Some(serial(now));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}
