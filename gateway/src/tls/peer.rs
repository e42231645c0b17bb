//! The other end of a TLS connection: who it is by its certificate, as edge policies know callers.
//!
//! Lives here: names of a certificate as claims. Does not: whether the certificate counts, which the handshake has found out (`tls::certificates`).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use crate::edge::jwt::Claims;

/// Marks requests that came by TLS.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) certificate: Option<ClientCertificate>,
}

/// A client as its certificate has proved it.
#[derive(Debug)]
pub(crate) struct ClientCertificate {
    /// A name that is its only one among callers.
    pub(crate) client: Arc<str>,
    /// When it runs out.
    pub(crate) until: SystemTime,
    /// What rules and metadata may go by: `sub` (the first URI, host name, e-mail address or common name in it), `uri`, `dns`, `email` (lists), `cn`,
    /// `issuer` and `sha256`, the hash of the certificate in hexadecimal.
    pub(crate) claims: Arc<Claims>,
}

impl Peer {
    /// Reads what was shown.
    pub(super) fn of(shown: Option<&[CertificateDer<'_>]>) -> Self {
        Self { certificate: shown.and_then(<[_]>::first).and_then(ClientCertificate::read) }
    }
}

impl ClientCertificate {
    fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|it| it.value.general_names.as_slice()).unwrap_or_default();
        let list = |read: fn(&GeneralName<'_>) -> Option<String>| names.iter().filter_map(read).collect::<Vec<_>>();
        let uri = list(|it| if let GeneralName::URI(it) = it { Some((*it).to_owned()) } else { None });
        let dns = list(|it| if let GeneralName::DNSName(it) = it { Some(it.to_ascii_lowercase()) } else { None });
        let email = list(|it| if let GeneralName::RFC822Name(it) = it { Some((*it).to_owned()) } else { None });
        let cn = certificate.subject().iter_common_name().next().and_then(|it| it.as_str().ok()).map(str::to_owned);
        let sub = uri.first().or(dns.first()).or(email.first()).or(cn.as_ref()).cloned();
        let sha256: String = Sha256::digest(der).iter().map(|byte| format!("{byte:02x}")).collect();
        let issuer = certificate.issuer().to_string();
        let client = format!("certificate {issuer} {}", sub.as_deref().unwrap_or(&sha256)).into();
        let said = [
            ("sub", sub.map(Value::from)),
            ("uri", Some(json!(uri))),
            ("dns", Some(json!(dns))),
            ("email", Some(json!(email))),
            ("cn", cn.map(Value::from)),
            ("issuer", Some(issuer.into())),
            ("sha256", Some(sha256.into())),
        ];
        let claims: Claims = said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or_default();
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Some(Self { client, until, claims: Arc::new(claims) })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn read(common_name: &str, dns: &str) -> ClientCertificate {
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        ClientCertificate::read(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
    }

    #[test]
    fn a_renewed_certificate_is_the_same_caller_and_another_name_another() {
        let (before, after) = (read("shop", "a.test"), read("shop", "a.test"));
        assert_eq!(before.client, after.client, "it keeps its rate limit");
        assert_ne!(
            before.claims["sha256"], after.claims["sha256"],
            "and what is kept for one is not given to the other"
        );
        assert_ne!(before.client, read("shop", "b.test").client);
        assert_ne!(before.client, read("other", "a.test").client, "another issuer");
    }
}
