//! X.509-SVIDs: the certificate of a workload with its key, and what can be read from a peer's.
//!
//! Lives here: the rules of a leaf, the pair of chain and key. Does not: whether a chain leads to a root (`trust`).
//! Source: SPIFFE X509-SVID, sections 2 to 5: exactly one URI SAN, CA false, digitalSignature and neither keyCertSign nor cRLSign.
//! Serials of our CA are UUIDs v7, so that a serial tells when it was issued; those of others tell nothing.

use std::{
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};
use weft_model::{Invalid, SpiffeId};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, time::ASN1Time};

use crate::{Refusal, tls};

/// Serial number of a certificate: 1 to 20 bytes, without leading zeros. Text is lower-case hex.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Arc<[u8]>);

impl Serial {
    /// Returns the serial of these bytes, big-endian.
    pub fn new(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|b| **b == 0).count();
        Self(bytes[zeros..].into())
    }

    /// Its bytes, big-endian.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// When our CA issued it, to the millisecond; None if it was not our CA.
    pub fn issued_at(&self) -> Option<SystemTime> {
        let padded = self.padded()?;
        let (version, variant) = (padded[6] >> 4, padded[8] >> 6);
        let millis = padded[..6].iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        (version == 7 && variant == 2).then(|| SystemTime::UNIX_EPOCH + Duration::from_millis(millis))
    }

    fn padded(&self) -> Option<[u8; 16]> {
        let mut padded = [0; 16];
        let start = padded.len().checked_sub(self.0.len())?;
        padded[start..].copy_from_slice(&self.0);
        Some(padded)
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for Serial {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = || Invalid::new("", format!("{text:?} is no serial: 1 to 20 bytes as hex"));
        let digits: Option<Vec<u8>> =
            text.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        match digits {
            Some(digits) if matches!(digits.len(), 2..=40) && digits.len() % 2 == 0 => {
                Ok(Self::new(&digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<_>>()))
            }
            Some(_) | None => Err(bad()),
        }
    }
}

/// What a leaf certificate says. Says nothing of whether it is to be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// Whom it names.
    pub id: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// From when on it is valid.
    pub not_before: SystemTime,
    /// When it runs out.
    pub not_after: SystemTime,
}

impl Leaf {
    /// Reads a leaf by the rules of X509-SVID; [`Refusal::NotAnSvid`] says which one it breaks.
    pub fn read(der: &[u8]) -> Result<Self, Refusal> {
        let not = |problem: &str| Refusal::NotAnSvid { problem: problem.to_owned() };
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| not("it is no certificate"))?;
        if !rest.is_empty() {
            return Err(not("bytes follow the certificate"));
        }
        let id = spiffe_id(&certificate)?;
        if certificate.is_ca() {
            return Err(not("it is a CA"));
        }
        let usage = certificate.key_usage().map_err(|_| not("its key usage cannot be read"))?;
        let usage = usage.ok_or_else(|| not("it has no key usage"))?.value;
        if !usage.digital_signature() {
            return Err(not("its key is not for digital signatures"));
        }
        if usage.key_cert_sign() || usage.crl_sign() {
            return Err(not("its key may sign certificates or revocation lists"));
        }
        Ok(Self {
            id,
            serial: Serial::new(certificate.raw_serial()),
            not_before: time(certificate.validity().not_before),
            not_after: time(certificate.validity().not_after),
        })
    }

    /// Half of its life: when to renew it.
    pub fn half_life(&self) -> SystemTime {
        let life = self.not_after.duration_since(self.not_before).unwrap_or_default();
        self.not_before + life / 2
    }
}

fn spiffe_id(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let not = |problem: String| Refusal::NotAnSvid { problem };
    let names = certificate.subject_alternative_name().map_err(|_| not("its names cannot be read".into()))?;
    let names = names.map(|found| found.value.general_names.as_slice()).unwrap_or_default();
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None, // other names are allowed and mean nothing to us (X509-SVID, section 2)
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(not("it must carry exactly one URI".into()));
    };
    uri.parse().map_err(|e: Invalid| not(e.to_string()))
}

fn time(at: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at.timestamp()).unwrap_or(0))
}

/// A peer as its certificate proved it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What its leaf says.
    pub leaf: Leaf,
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
}

impl Peer {
    /// Who it is.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }
}

/// The SVID of this process: chain, leaf first, and private key.
#[derive(Clone)]
pub struct Svid {
    leaf: Leaf,
    key: Arc<CertifiedKey>,
    pkcs8: Arc<PrivatePkcs8KeyDer<'static>>,
}

/// Chain and key do not make an SVID.
#[derive(Debug, thiserror::Error)]
pub enum BadSvid {
    /// The chain is empty.
    #[error("the chain has no certificate")]
    Empty,
    /// The first certificate is no leaf of a workload.
    #[error("the first certificate")]
    Leaf(#[source] Refusal),
    /// The key is not the certificate's, or of an unknown kind.
    #[error("the private key")]
    Key(#[source] rustls::Error),
    /// A process does not change who it is.
    #[error("the new SVID is for {got}, this process is {ours}")]
    OtherIdentity {
        /// Who this process is.
        ours: SpiffeId,
        /// Whom the certificate names.
        got: SpiffeId,
    },
}

impl Svid {
    /// Puts a chain, leaf first, and its PKCS #8 key together. Fails if they do not belong together or the leaf is no SVID.
    pub fn new(chain: Vec<CertificateDer<'static>>, pkcs8: PrivatePkcs8KeyDer<'static>) -> Result<Self, BadSvid> {
        let leaf = Leaf::read(chain.first().ok_or(BadSvid::Empty)?).map_err(BadSvid::Leaf)?;
        let key = PrivateKeyDer::Pkcs8(pkcs8.clone_key());
        let key = CertifiedKey::from_der(chain, key, tls::provider()).map_err(BadSvid::Key)?;
        Ok(Self { leaf, key: Arc::new(key), pkcs8: Arc::new(pkcs8) })
    }

    /// What the leaf says.
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// Certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.key.cert
    }

    pub(crate) fn key(&self) -> &Arc<CertifiedKey> {
        &self.key
    }

    /// The private key, PKCS #8, DER. A secret: for whoever keeps it for the next start.
    pub fn pkcs8(&self) -> &[u8] {
        self.pkcs8.secret_pkcs8_der()
    }
}

/// Never shows the key.
impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_serial_of_our_ca_tells_when_it_was_issued() {
        let serial: Serial = "0197a1b2c3d47000800000000000000a".parse().unwrap();
        let millis = serial.issued_at().unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        assert_eq!(millis, 0x0197_a1b2_c3d4);
        assert_eq!(Serial::new(&[9; 20]).issued_at(), None);
        assert_eq!(Serial::new(&[0, 0, 7]).to_string(), "07");
    }

    #[test]
    fn what_is_no_serial_is_refused() {
        for bad in ["", "7", "xy", "+1", &"ab".repeat(21)] {
            assert!(bad.parse::<Serial>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_that_are_no_leaf_are_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let refused = matches!(Leaf::read(&bytes), Err(Refusal::NotAnSvid { .. }));
            prop_assert!(refused);
        }

        #[test]
        fn a_serial_survives_its_text(bytes in proptest::collection::vec(any::<u8>(), 1..20)) {
            let mut bytes = bytes;
            bytes[0] |= 1;
            let serial = Serial::new(&bytes);
            prop_assert_eq!(serial.to_string().parse::<Serial>().unwrap(), serial);
        }
    }
}
