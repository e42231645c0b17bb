//! An authority to test against, which signs whatever a test asks for, on a clock that the test moves.
//!
//! Lives here: roots and leaves, good and bad; accepting a connection as an identity. Does not: the rules of the real authority (`registry`),
//! expectations.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use weft_identity::{Bundle, Callers, Clock, Identity, Revocations, Serial, Svid, Trust, TrustDomain};
use weft_model::SpiffeId;

/// A life of a certificate.
pub const HOUR: Duration = Duration::from_secs(3_600);

/// A wall clock that starts in 2027 and that a test moves; clones are the same clock.
#[derive(Debug, Clone, Default)]
pub struct Hand {
    /// Set if it also runs by itself.
    started: Option<Instant>,
    moved: Arc<AtomicU64>,
}

impl Hand {
    /// A clock that also runs by itself, with tokio's time.
    pub fn running() -> Self {
        Self { started: Some(Instant::now()), ..Self::default() }
    }

    /// What it shows.
    pub fn now(&self) -> SystemTime {
        let ran = self.started.map(|started| started.elapsed()).unwrap_or_default();
        SystemTime::UNIX_EPOCH
            + Duration::from_secs(1_800_000_000)
            + ran
            + Duration::from_millis(self.moved.load(SeqCst))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        self.moved.fetch_add(u64::try_from(by.as_millis()).expect("a test's time fits"), SeqCst);
    }

    /// The clock as identities take it.
    pub fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || hand.now())
    }
}

/// A root and what it signs.
pub struct Authority {
    /// The trust domain.
    pub domain: TrustDomain,
    /// The root's certificate.
    pub root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    /// The clock that certificates go by.
    pub hand: Hand,
    serials: AtomicU64,
}

impl Authority {
    /// A new root. Two of one domain differ by their key.
    pub fn new(domain: &str, hand: &Hand) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().expect("a test asks for what can be had");
        let name = format!("{domain} {:x?}", &key.public_key_raw()[1..9]);
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).expect("a test asks for what can be had").der().clone();
        let issuer = Issuer::new(params, key);
        Self {
            domain: domain.parse().expect("a test asks for what can be had"),
            root,
            issuer,
            hand: hand.clone(),
            serials: AtomicU64::new(1),
        }
    }

    /// The name of a service.
    pub fn id(&self, service: &str) -> SpiffeId {
        self.domain.service(&service.parse().expect("a test asks for what can be had"))
    }

    /// What a leaf of `service` looks like, for a test to spoil.
    pub fn leaf(&self, service: &str, life: Duration) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names =
            vec![SanType::URI(self.id(service).as_str().try_into().expect("a test asks for what can be had"))];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = self.hand.now().into();
        params.not_after = (self.hand.now() + life).into();
        params.serial_number = Some(SerialNumber::from(self.serials.fetch_add(1, SeqCst)));
        params
    }

    /// Signs a leaf, with a new key.
    pub fn sign(&self, params: &CertificateParams) -> (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>) {
        let key = KeyPair::generate().expect("a test asks for what can be had");
        let leaf = params.signed_by(&key, &self.issuer).expect("a test asks for what can be had");
        (leaf.der().clone(), PrivatePkcs8KeyDer::from(key.serialize_der()))
    }

    /// A certificate of `service` that is valid from now for `life`, with its key.
    pub fn svid(&self, service: &str, life: Duration) -> Svid {
        let (leaf, key) = self.sign(&self.leaf(service, life));
        Svid::new(vec![leaf], key).expect("a test asks for what can be had")
    }

    /// What those hold who trust this root alone.
    pub fn bundle(&self) -> Bundle {
        Bundle::new(self.domain.clone(), [self.root.clone()]).expect("a test asks for what can be had")
    }

    /// Trust in this root, by its clock.
    pub fn trust(&self) -> Trust {
        Trust::new(self.bundle(), Revocations::default(), self.hand.clock()).expect("a test asks for what can be had")
    }

    /// A service as it lives here.
    pub fn identity(&self, service: &str, life: Duration) -> Identity {
        Identity::new(self.svid(service, life), self.trust()).expect("a test asks for what can be had")
    }

    /// Makes `who` believe that `serial` was taken back.
    pub fn revoke(&self, who: &Identity, serial: &Serial) {
        let revoked = Revocations { serials: [serial.clone()].into(), ..Revocations::default() };
        who.trust().replace(self.bundle(), revoked).expect("the bundle is good");
    }
}

/// Accepts a connection as `identity`, as a sidecar does.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(identity: &Identity, socket: S) -> io::Result<TlsStream<S>> {
    let tls = TlsAcceptor::from(identity.server_config(Callers::MustShow)).accept(socket).await?;
    identity.accepted(tls.get_ref().1).map_err(io::Error::other)?;
    Ok(tls)
}
