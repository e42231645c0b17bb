//! Whom this process trusts: the roots of its domain, and what was taken back.
//!
//! Lives here: bundle, revocations, judging a chain by them now or later, telling when the judgement of a live connection changes. Does not:
//! the handshake (`verify`, `tls`), where bundle and revocations come from.
//! Several roots stand in a bundle at once, so that a root is replaced with overlap. Both parts are swapped together and whole.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::CertificateDer,
    server::{ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use tokio::sync::watch;
use weft_model::{Invalid, SpiffeId};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::{Leaf, Peer, Refusal, Serial, TrustDomain, refusal::unix_time, tls};

/// Where the wall-clock time comes from.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Longest sleep until a live connection is judged again: bounds how late a jump of the wall clock is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// SHA-256 of a root certificate's DER. Text is lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootPin([u8; 32]);

impl RootPin {
    /// Returns the pin of a certificate.
    pub fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        Self(digest.as_ref().try_into().expect("a SHA-256 has 32 bytes"))
    }

    /// The digest itself.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for RootPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl FromStr for RootPin {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bad = || Invalid::new("", format!("{text:?} is no SHA-256: 64 hex digits"));
        let digits: Vec<u8> =
            text.chars().map_while(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
        if text.chars().count() != 64 || digits.len() != 64 {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(bytes))
    }
}

/// The roots that vouch for a trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    domain: TrustDomain,
    roots: Vec<CertificateDer<'static>>,
}

/// The certificates make no bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBundle {
    /// There is none: such a bundle would refuse everyone.
    #[error("a bundle needs at least one root")]
    Empty,
    /// One of them is no authority.
    #[error("root {index}: {problem}")]
    Root {
        /// Its place, from 0.
        index: usize,
        /// What is wrong with it.
        problem: String,
    },
}

impl Bundle {
    /// Returns the bundle of these roots, each once, in the given order.
    pub fn new(
        domain: TrustDomain,
        roots: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, BadBundle> {
        let mut kept: Vec<CertificateDer<'static>> = Vec::new();
        for (index, root) in roots.into_iter().enumerate() {
            check_root(&root).map_err(|problem| BadBundle::Root { index, problem: problem.to_owned() })?;
            if !kept.contains(&root) {
                kept.push(root);
            }
        }
        if kept.is_empty() { Err(BadBundle::Empty) } else { Ok(Self { domain, roots: kept }) }
    }

    /// The domain they vouch for.
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The roots.
    pub fn roots(&self) -> &[CertificateDer<'static>] {
        &self.roots
    }
}

/// X509-SVID, section 4: an authority is a CA and may sign certificates.
fn check_root(der: &CertificateDer<'_>) -> Result<(), &'static str> {
    let (rest, root) = X509Certificate::from_der(der).map_err(|_| "it is no certificate")?;
    if !rest.is_empty() {
        return Err("bytes follow the certificate");
    }
    if !root.is_ca() {
        return Err("it is no CA");
    }
    match root.key_usage() {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        Ok(_) | Err(_) => Err("its key may not sign certificates"),
    }
}

/// What was taken back before its time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    /// Single certificates.
    pub serials: HashSet<Serial>,
    /// All certificates of an identity issued before an instant. Certificates whose serial tells no time count as issued before.
    pub identities: HashMap<SpiffeId, SystemTime>,
}

impl Revocations {
    /// Whether a leaf was taken back.
    pub fn covers(&self, leaf: &Leaf) -> bool {
        let by_identity = || {
            self.identities.get(&leaf.id).is_some_and(|before| leaf.serial.issued_at().is_none_or(|at| at < *before))
        };
        self.serials.contains(&leaf.serial) || by_identity()
    }
}

/// Which side of a connection a certificate was shown on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    ByServer,
    ByClient,
}

/// What this process trusts right now. Clones are one handle.
#[derive(Clone)]
pub struct Trust {
    shared: Arc<Shared>,
}

struct Shared {
    state: ArcSwap<State>,
    revision: watch::Sender<u64>,
    clock: Clock,
}

struct State {
    bundle: Bundle,
    revocations: Revocations,
    roots: RootCertStore,
    clients: Arc<dyn ClientCertVerifier>,
}

impl State {
    fn new(bundle: Bundle, revocations: Revocations) -> Result<Self, BadBundle> {
        let mut roots = RootCertStore::empty();
        for (index, root) in bundle.roots.iter().enumerate() {
            roots.add(root.clone()).map_err(|e| BadBundle::Root { index, problem: e.to_string() })?;
        }
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), Arc::clone(tls::shared_provider()));
        let clients = builder.build().map_err(|_| BadBundle::Empty)?;
        Ok(Self { bundle, revocations, roots, clients })
    }

    fn judge(&self, shown: Shown, chain: &[CertificateDer<'_>], now: SystemTime) -> Result<Leaf, Refusal> {
        let (end_entity, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
        let leaf = Leaf::read(end_entity)?;
        if !self.bundle.domain.owns(&leaf.id) {
            return Err(Refusal::ForeignTrustDomain { id: leaf.id, ours: self.bundle.domain.clone() });
        }
        self.verify_chain(shown, end_entity, intermediates, now).map_err(|error| {
            Refusal::from_rustls(&error).unwrap_or_else(|| Refusal::Unverifiable { problem: error.to_string() })
        })?;
        if self.revocations.covers(&leaf) { Err(Refusal::Revoked) } else { Ok(leaf) }
    }

    fn verify_chain(
        &self,
        shown: Shown,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), rustls::Error> {
        let now = unix_time(now);
        match shown {
            Shown::ByClient => self.clients.verify_client_cert(end_entity, intermediates, now).map(|_| ()),
            Shown::ByServer => {
                let parsed = ParsedCertificate::try_from(end_entity)?;
                let algorithms = tls::provider().signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)
            }
        }
    }
}

impl Trust {
    /// Trusts `bundle` from the start. Fails if a root cannot serve as an anchor.
    pub fn new(bundle: Bundle, revocations: Revocations, clock: Clock) -> Result<Self, BadBundle> {
        let state = ArcSwap::from_pointee(State::new(bundle, revocations)?);
        Ok(Self { shared: Arc::new(Shared { state, revision: watch::Sender::new(0), clock }) })
    }

    /// Swaps bundle and revocations. Takes effect for the next handshake; who waits in [`Trust::refuses`] judges again. Wakes nobody if
    /// nothing changed.
    pub fn replace(&self, bundle: Bundle, revocations: Revocations) -> Result<(), BadBundle> {
        let now = self.shared.state.load();
        if now.bundle == bundle && now.revocations == revocations {
            return Ok(());
        }
        self.shared.state.store(Arc::new(State::new(bundle, revocations)?));
        self.shared.revision.send_modify(|revision| *revision += 1);
        Ok(())
    }

    /// The roots trusted now.
    pub fn bundle(&self) -> Bundle {
        self.shared.state.load().bundle.clone()
    }

    /// What is taken back now.
    pub fn revocations(&self) -> Revocations {
        self.shared.state.load().revocations.clone()
    }

    /// The domain trusted now.
    pub fn domain(&self) -> TrustDomain {
        self.shared.state.load().bundle.domain.clone()
    }

    /// Rises with every change.
    pub fn revision(&self) -> u64 {
        *self.shared.revision.borrow()
    }

    /// Waits until the revision is another than `seen`. Cancel-safe.
    pub async fn changed_since(&self, seen: u64) {
        let mut revisions = self.shared.revision.subscribe();
        drop(revisions.wait_for(|revision| *revision != seen).await); // fails only when we are gone, and we hold the sender
    }

    /// Returns the peer a chain, leaf first, proves, wherever it was shown; for chains that did not come by a handshake of ours.
    pub fn admit(&self, chain: &[CertificateDer<'static>]) -> Result<Peer, Refusal> {
        let leaf = Leaf::read(chain.first().ok_or(Refusal::NoCertificate)?)?;
        let peer = Peer { leaf, chain: chain.into() };
        self.judge(&peer).map(|()| peer)
    }

    /// Judges a peer by what is trusted now: chain, validity, domain, revocation.
    pub fn judge(&self, peer: &Peer) -> Result<(), Refusal> {
        self.judge_at(peer, self.now())
    }

    fn judge_at(&self, peer: &Peer, now: SystemTime) -> Result<(), Refusal> {
        // Once let in, its role no longer matters: a chain that is good for either side is good.
        match self.judge_chain(Shown::ByClient, &peer.chain, now) {
            Err(Refusal::Unverifiable { .. }) => self.judge_chain(Shown::ByServer, &peer.chain, now).map(drop),
            other => other.map(drop),
        }
    }

    /// Waits until `peer` would no longer be let in, and returns why: for a live connection's owner, who closes it (at once if revoked,
    /// in order if merely expired). Cancel-safe.
    pub async fn refuses(&self, peer: &Peer) -> Refusal {
        loop {
            let revision = self.revision();
            if let Err(refusal) = self.judge(peer) {
                return refusal;
            }
            let left = peer.leaf.not_after.duration_since(self.now()).unwrap_or_default();
            let again = left.min(LOOK_AGAIN) + Duration::from_millis(10); // certificates count in seconds, inclusive
            tokio::select! {
                () = self.changed_since(revision) => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    /// Waits until `peer` is disowned: revoked, or without a root that vouches for it; that its time is over does not count. For a live
    /// connection's owner, who cuts it then, while one whose peer has merely expired may finish what it carries. Cancel-safe.
    pub async fn disowns(&self, peer: &Peer) -> Refusal {
        loop {
            let revision = self.revision();
            let within_its_time = self.now().min(peer.leaf.not_after).max(peer.leaf.not_before);
            if let Err(refusal) = self.judge_at(peer, within_its_time) {
                return refusal;
            }
            self.changed_since(revision).await;
        }
    }

    /// Waits until the wall clock says `at`, also if it jumps. Cancel-safe.
    pub async fn reaches(&self, at: SystemTime) {
        while let Ok(left) = at.duration_since(self.now()) {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK_AGAIN)).await;
        }
    }

    /// The wall-clock time by which peers are judged.
    pub fn now(&self) -> SystemTime {
        (self.shared.clock)()
    }

    pub(crate) fn judge_chain(
        &self,
        shown: Shown,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Leaf, Refusal> {
        self.shared.state.load().judge(shown, chain, now)
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.shared.clock
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.load();
        let pins: Vec<_> = state.bundle.roots.iter().map(|root| RootPin::of(root)).collect();
        f.debug_struct("Trust").field("domain", &state.bundle.domain).field("roots", &pins).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(serial: &str) -> Leaf {
        let (id, serial) = ("spiffe://a/x".parse().unwrap(), serial.parse().unwrap());
        Leaf { id, serial, not_before: SystemTime::UNIX_EPOCH, not_after: SystemTime::UNIX_EPOCH }
    }

    #[test]
    fn an_identity_is_revoked_up_to_an_instant() {
        let issued = leaf("0197a1b2c3d470008000000000000001");
        let at = issued.serial.issued_at().unwrap();
        let until = |before| Revocations { identities: [(issued.id.clone(), before)].into(), ..Revocations::default() };
        assert!(!until(at).covers(&issued), "issued at the instant itself, thus after the revocation");
        assert!(until(at + Duration::from_millis(1)).covers(&issued));
        assert!(until(at).covers(&leaf("07")), "a serial that tells no time counts as old");
    }

    #[test]
    fn a_single_certificate_is_revoked_by_its_serial() {
        let revoked = Revocations { serials: ["07".parse().unwrap()].into(), ..Revocations::default() };
        assert!(revoked.covers(&leaf("07")) && !revoked.covers(&leaf("08")));
    }

    #[test]
    fn a_pin_survives_its_text() {
        let pin = RootPin::of(b"root");
        assert_eq!(pin.to_string().parse::<RootPin>(), Ok(pin));
        for bad in ["", "xy", &"a".repeat(63), &"é".repeat(32), &"g".repeat(64)] {
            assert!(bad.parse::<RootPin>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_authority_is_named_by_its_place() {
        let domain: TrustDomain = "a".parse().unwrap();
        assert_eq!(Bundle::new(domain.clone(), []), Err(BadBundle::Empty));
        let refused = Bundle::new(domain, [CertificateDer::from(vec![1, 2, 3])]);
        assert!(matches!(refused, Err(BadBundle::Root { index: 0, .. })), "{refused:?}");
    }
}
