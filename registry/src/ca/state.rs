//! What an authority remembers, and what time makes of it.
//!
//! Lives here: the shape of the file, phases of roots, revocations and their end. Does not: reading or writing it (`store`), cryptography of
//! leaves and tokens (`issue`, `tokens`).
//! Tokens are remembered by id only: the file does not hold one that could be used.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use weft_identity::{Bundle, Revocations, TrustDomain};
use weft_model::SpiffeId;

use crate::ca::{
    Listed, Revoke,
    store::{Error, Store},
};

/// Shape of the file; raised when an older registry could not read it.
pub(crate) const THIS_FORMAT: u32 = 1;
/// How far clocks of machines that share a mesh may differ.
pub(crate) const SKEW: Duration = Duration::from_secs(60);
/// Life of a root.
const ROOT_LIFE: Duration = Duration::from_secs(3_650 * 24 * 3_600);

/// Everything, as it stands in the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) format: u32,
    pub(crate) trust_domain: String,
    /// Oldest first; the last one signs, or will.
    pub(crate) roots: Vec<Root>,
    /// Key that signs tokens; of its own, so that roots come and go without tokens noticing.
    pub(crate) token_key: Bytes,
    pub(crate) tokens: Vec<TokenRecord>,
    /// Longest life any registry gave a certificate: how long a root must stay after it stopped signing.
    pub(crate) longest_life_ms: u64,
    /// Serial to the time when the entry may be forgotten.
    pub(crate) revoked_serials: BTreeMap<String, u64>,
    /// Identity to the instant up to which its certificates are taken back.
    pub(crate) revoked_identities: BTreeMap<String, u64>,
}

/// A root with its key.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Root {
    /// Self-signed.
    pub(crate) certificate: Bytes,
    /// The same key, signed by the root before: who holds only that one can still follow.
    pub(crate) cross: Option<Bytes>,
    pub(crate) key: Bytes,
    pub(crate) signs_from_ms: u64,
}

/// A token, without its string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenRecord {
    pub(crate) id: String,
    #[serde(with = "spiffe")]
    pub(crate) identity: SpiffeId,
    pub(crate) created_ms: u64,
    pub(crate) expires_ms: u64,
    pub(crate) revoked_ms: Option<u64>,
}

impl TokenRecord {
    pub(crate) fn new(identity: &SpiffeId, now: SystemTime, expires: SystemTime) -> Self {
        Self {
            id: hex(&rand::random::<[u8; 12]>()),
            identity: identity.clone(),
            created_ms: millis(now),
            expires_ms: millis(expires),
            revoked_ms: None,
        }
    }

    pub(crate) fn listed(&self) -> Listed {
        Listed {
            id: self.id.clone(),
            identity: self.identity.clone(),
            created: at(self.created_ms),
            expires: at(self.expires_ms),
            revoked: self.revoked_ms.map(at),
        }
    }
}

impl State {
    pub(crate) fn create(domain: &TrustDomain, now: SystemTime) -> Result<Self, Error> {
        let token_key = KeyPair::generate().map_err(Error::Crypto)?.serialize_der().into();
        let mut state = Self {
            format: THIS_FORMAT,
            trust_domain: domain.to_string(),
            roots: Vec::new(),
            token_key,
            tokens: Vec::new(),
            longest_life_ms: 0,
            revoked_serials: BTreeMap::new(),
            revoked_identities: BTreeMap::new(),
        };
        state.add_root(domain, now, now)?;
        Ok(state)
    }

    pub(crate) fn check_domain(&self, domain: &TrustDomain, store: &Store) -> Result<(), Error> {
        if self.trust_domain == domain.as_str() {
            Ok(())
        } else {
            let (found, asked) = (self.trust_domain.clone(), domain.clone());
            Err(Error::OtherDomain { file: store.file(), found, asked })
        }
    }

    pub(crate) fn add_root(
        &mut self,
        domain: &TrustDomain,
        now: SystemTime,
        signs_from: SystemTime,
    ) -> Result<(), Error> {
        let key = KeyPair::generate().map_err(Error::Crypto)?;
        let params = root_params(domain, now)?;
        let certificate = params.self_signed(&key).map_err(Error::Crypto)?;
        let cross = match self.roots.last() {
            Some(previous) => {
                let mut params = params.clone();
                params.serial_number = Some(serial(now));
                params.use_authority_key_identifier_extension = true;
                Some(params.signed_by(&key, &previous.issuer()?).map_err(Error::Crypto)?.der().to_vec().into())
            }
            None => None,
        };
        self.prune(now);
        self.roots.push(Root {
            certificate: certificate.der().to_vec().into(),
            cross,
            key: key.serialize_der().into(),
            signs_from_ms: millis(signs_from),
        });
        Ok(())
    }

    /// Forgets what can no longer matter.
    pub(crate) fn prune(&mut self, now: SystemTime) {
        let gone = self.roots.len() - self.alive(now).len();
        self.roots.drain(..gone);
        let (now, longest) = (millis(now), self.longest_life_ms);
        self.tokens.retain(|token| token.expires_ms > now);
        self.revoked_serials.retain(|_, until| *until > now);
        self.revoked_identities.retain(|_, before| before.saturating_add(longest).saturating_add(skew_ms()) > now);
    }

    pub(crate) fn newest(&self) -> &Root {
        self.roots.last().expect("an authority has a root from its making on; the last is never removed")
    }

    /// The root that signs: the newest whose time has come.
    pub(crate) fn signing(&self, now: SystemTime) -> &Root {
        let now = millis(now);
        // A clock set back before the first root's time leaves the oldest, which is better than none.
        self.roots.iter().rev().find(|root| root.signs_from_ms <= now).unwrap_or(&self.roots[0])
    }

    /// Roots in the bundle. A root leaves when its successor has signed for so long that every certificate of its own has run out.
    pub(crate) fn alive(&self, now: SystemTime) -> &[Root] {
        let margin = self.longest_life_ms.saturating_add(skew_ms().min(self.longest_life_ms));
        let now = millis(now);
        let superseded = |next: &Root| next.signs_from_ms.saturating_add(margin) <= now;
        let gone = self.roots.iter().skip(1).take_while(|next| superseded(next)).count();
        &self.roots[gone..]
    }

    pub(crate) fn bundle(&self, now: SystemTime) -> Result<Bundle, Error> {
        let domain = self.trust_domain.parse().map_err(|_| Error::Damaged { problem: "trust domain".into() })?;
        let roots = self.alive(now).iter().map(|root| CertificateDer::from(root.certificate.to_vec()));
        Bundle::new(domain, roots).map_err(|e| Error::Damaged { problem: e.to_string() })
    }

    /// The certificates that tie the root at work to older ones that some may still hold alone, newest first.
    pub(crate) fn crosses(&self, now: SystemTime) -> Vec<CertificateDer<'static>> {
        let (alive, signing) = (self.alive(now), self.signing(now));
        let upto = alive.iter().position(|root| root.certificate == signing.certificate).unwrap_or(0);
        // The oldest one's cross leads to a root that is gone.
        let crosses = alive[..=upto].iter().skip(1).rev().filter_map(|root| root.cross.as_ref());
        crosses.map(|der| CertificateDer::from(der.to_vec())).collect()
    }

    pub(crate) fn revoke(&mut self, what: &Revoke, now: SystemTime) {
        self.prune(now);
        match what {
            Revoke::Serial(serial) => {
                let until = millis(now).saturating_add(self.longest_life_ms).saturating_add(skew_ms());
                self.revoked_serials.insert(serial.to_string(), until);
            }
            // One more than now: what was issued within this very millisecond is meant as well.
            Revoke::Identity(id) => drop(self.revoked_identities.insert(id.to_string(), millis(now) + 1)),
        }
    }

    pub(crate) fn revocations(&self, now: SystemTime) -> Revocations {
        let alive = self.revoked_serials.iter().filter(|(_, until)| **until > millis(now));
        Revocations {
            serials: alive.filter_map(|(serial, _)| serial.parse().ok()).collect(),
            identities: self
                .revoked_identities
                .iter()
                .filter_map(|(id, before)| Some((id.parse().ok()?, at(*before))))
                .collect(),
        }
    }
}

impl Root {
    pub(crate) fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Error> {
        let key = PrivatePkcs8KeyDer::from(self.key.to_vec());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ECDSA_P256_SHA256).map_err(Error::Crypto)?;
        Issuer::from_ca_cert_der(&CertificateDer::from(self.certificate.to_vec()), key).map_err(Error::Crypto)
    }
}

fn root_params(domain: &TrustDomain, now: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "weft");
    // A name of its own, so that verifiers need not try the keys of all roots.
    params.distinguished_name.push(DnType::CommonName, format!("{domain} root {}", hex(&rand::random::<[u8; 4]>())));
    let id = format!("spiffe://{domain}").as_str().try_into().map_err(Error::Crypto)?;
    params.subject_alt_names = vec![SanType::URI(id)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - SKEW).into();
    params.not_after = (now + ROOT_LIFE).into();
    params.serial_number = Some(serial(now));
    Ok(params)
}

/// A UUID v7: unique, 74 random bits, and it tells when the certificate was issued.
pub(crate) fn serial(now: SystemTime) -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[..6].copy_from_slice(&millis(now).to_be_bytes()[2..]);
    bytes[6] = bytes[6] & 0x0f | 0x70;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    SerialNumber::from_slice(&bytes)
}

pub(crate) fn millis(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn at(millis: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis)).unwrap_or(SystemTime::UNIX_EPOCH)
}

fn skew_ms() -> u64 {
    millis(SystemTime::UNIX_EPOCH + SKEW)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that stand as base64 in the file. Never shown: half of them are keys.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Bytes(Vec<u8>);

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(Self).map_err(serde::de::Error::custom)
    }
}

mod spiffe {
    use serde::{Deserialize, Deserializer, Serializer};
    use weft_model::SpiffeId;

    pub(super) fn serialize<S: Serializer>(id: &SpiffeId, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(id.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SpiffeId, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}
