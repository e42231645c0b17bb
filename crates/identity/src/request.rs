//! A key of our own and the request to have it signed.
//!
//! Lives here: making both, and putting the answer together with the key. Does not: signing, sending.
//! The key is made here, for each certificate anew, and leaves the process only by `pem`.

use std::fmt;

use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use crate::{BadSvid, Svid};

/// A fresh ECDSA P-256 key that waits for its certificate.
pub struct KeyRequest {
    key: KeyPair,
    csr: Vec<u8>,
}

/// No key could be made: the system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("making a key and its request")]
pub struct RequestError(#[source] rcgen::Error);

impl KeyRequest {
    /// Makes a key and its request. The request carries no names: the authority alone says who we are.
    pub fn generate() -> Result<Self, RequestError> {
        let key = KeyPair::generate().map_err(RequestError)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(RequestError)?;
        Ok(Self { key, csr: csr.der().to_vec() })
    }

    /// The request: PKCS #10, DER.
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Puts the signed chain, leaf first, together with the key. Fails if the certificate is not for this key.
    pub fn complete(self, chain: Vec<CertificateDer<'static>>) -> Result<Svid, BadSvid> {
        Svid::new(chain, PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }
}

/// Never shows the key.
impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRequest").finish_non_exhaustive()
    }
}
