//! An authority to test against, and a scripted server behind TLS.
//!
//! Lives here: signing whatever a test asks for, on a clock that it moves. Does not: the rules of the real authority (`registry`), expectations.

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
use tokio::{net::TcpStream, time::Instant};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use weft_identity::{Bundle, Callers, Clock, Identity, Revocations, Serial, Svid, Trust, TrustDomain};
use weft_model::SpiffeId;

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// A wall clock that starts in 2027, runs, and can be moved.
#[derive(Clone)]
pub(crate) struct Hand {
    started: Instant,
    moved: Arc<AtomicU64>,
}

impl Default for Hand {
    fn default() -> Self {
        Self { started: Instant::now(), moved: Arc::default() }
    }
}

impl Hand {
    pub(crate) fn now(&self) -> SystemTime {
        let moved = Duration::from_millis(self.moved.load(SeqCst));
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000) + self.started.elapsed() + moved
    }

    pub(crate) fn advance(&self, by: Duration) {
        self.moved.fetch_add(by.as_millis() as u64, SeqCst);
    }

    fn clock(&self) -> Clock {
        let hand = self.clone();
        Arc::new(move || hand.now())
    }
}

pub(crate) struct Authority {
    domain: TrustDomain,
    root: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) hand: Hand,
    serials: AtomicU64,
}

impl Authority {
    pub(crate) fn new(domain: &str, hand: &Hand) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate().unwrap();
        params.distinguished_name.push(DnType::CommonName, format!("{domain} {:x?}", &key.public_key_raw()[1..9]));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self { domain: domain.parse().unwrap(), root, issuer, hand: hand.clone(), serials: AtomicU64::new(1) }
    }

    pub(crate) fn id(&self, service: &str) -> SpiffeId {
        self.domain.service(&service.parse().unwrap())
    }

    pub(crate) fn svid(&self, service: &str, life: Duration) -> Svid {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(self.id(service).as_str().try_into().unwrap())];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.not_before = self.hand.now().into();
        params.not_after = (self.hand.now() + life).into();
        params.serial_number = Some(SerialNumber::from(self.serials.fetch_add(1, SeqCst)));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Svid::new(vec![leaf], PrivatePkcs8KeyDer::from(key.serialize_der())).unwrap()
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::new(self.domain.clone(), [self.root.clone()]).unwrap()
    }

    pub(crate) fn identity(&self, service: &str, life: Duration) -> Identity {
        let trust = Trust::new(self.bundle(), Revocations::default(), self.hand.clock()).unwrap();
        Identity::new(self.svid(service, life), trust).unwrap()
    }

    /// Makes `who` believe that `serial` was taken back.
    pub(crate) fn revoke(&self, who: &Identity, serial: &Serial) {
        let revoked = Revocations { serials: [serial.clone()].into(), ..Revocations::default() };
        who.trust().replace(self.bundle(), revoked).unwrap();
    }
}

/// Accepts a connection as `identity`, as a sidecar does.
pub(crate) async fn accept(identity: &Identity, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let tls = TlsAcceptor::from(identity.server_config(Callers::MustShow)).accept(socket).await?;
    identity.accepted(tls.get_ref().1).map_err(io::Error::other)?;
    Ok(tls)
}
