//! An authority to test against, which signs whatever a test asks for.
//!
//! Lives here: roots and leaves, good and bad. Does not: the rules of the real one.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use weft_identity::{Bundle, Clock, Identity, Revocations, Svid, Trust, TrustDomain};
use weft_model::SpiffeId;

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// A wall clock that a test moves; starts in 2027.
#[derive(Clone, Default)]
pub(crate) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(1_800_000_000)
            + Duration::from_millis(self.0.load(Ordering::SeqCst))
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }

    pub(crate) fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || hand.now())
    }
}

pub(crate) struct Authority {
    pub(crate) domain: TrustDomain,
    pub(crate) root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) hand: Hand,
    serials: AtomicU64,
}

impl Authority {
    pub(crate) fn new(domain: &str, hand: &Hand) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().unwrap();
        let name = format!("{domain} {:x?}", &key.public_key_raw()[1..9]);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self { domain: domain.parse().unwrap(), root, issuer, hand: hand.clone(), serials: AtomicU64::new(1) }
    }

    pub(crate) fn id(&self, service: &str) -> SpiffeId {
        self.domain.service(&service.parse().unwrap())
    }

    /// What a leaf of `service` looks like, for a test to spoil.
    pub(crate) fn leaf(&self, service: &str, life: Duration) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(self.id(service).as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = self.hand.now().into();
        params.not_after = (self.hand.now() + life).into();
        params.serial_number = Some(SerialNumber::from(self.serials.fetch_add(1, Ordering::SeqCst)));
        params
    }

    pub(crate) fn sign(&self, params: &CertificateParams) -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        (leaf.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()))
    }

    pub(crate) fn svid(&self, service: &str, life: Duration) -> Svid {
        let (leaf, key) = self.sign(&self.leaf(service, life));
        Svid::new(vec![leaf], key).unwrap()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(self.domain.clone(), [self.root.clone()]).unwrap()
    }

    pub(crate) fn trust(&self) -> Trust {
        Trust::new(self.bundle(), Revocations::default(), self.hand.clock()).unwrap()
    }

    pub(crate) fn identity(&self, service: &str, life: Duration) -> Identity {
        Identity::new(self.svid(service, life), self.trust()).unwrap()
    }
}
