//! TLS of the mesh: rustls configs made of an SVID and a trust, kept until either changes.
//!
//! Lives here: versions, suites, ALPN, tickets, the one cache of configs, the check after a handshake. Does not: sockets; who is let in (`trust`).
//! A resumed session is not verified by rustls: it carries the certificates of the first handshake on both sides. Hence two rules. Configs, and
//! with them tickets and sessions, live only as long as the SVID and the trust they were made of, so that a session never outlives a certificate's
//! rotation. And [`Identity::accepted`] and [`Identity::connected`] judge a resumed peer anew; who accepts or dials must call them.
//! Source: `contracts/dataplane.md` 3.4 item 9: AES-128-GCM first, tickets, TLS 1.3.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, HandshakeKind, ServerConfig,
    client::{ClientConnection, ResolvesClientCert},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, UnixTime},
    server::{ClientHello, ResolvesServerCert, ServerConnection},
    sign::CertifiedKey,
    time_provider::TimeProvider,
    version::TLS13,
};
use tokio::sync::watch;
use weft_model::SpiffeId;

use crate::{
    BadSvid, Clock, Leaf, Peer, Refusal, RootPin, Svid, Trust,
    refusal::unix_time,
    trust::Shown,
    verify::{ClientVerifier, Expect, PinnedTrust, ServerVerifier},
};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    use ring::cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256};
    let cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
});

pub(crate) fn shared_provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

pub(crate) fn provider() -> &'static CryptoProvider {
    &PROVIDER
}

/// Application protocols, best first.
const ALPN: [&[u8]; 1] = [b"h2"];

/// What a server demands of its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Callers {
    /// A certificate, or no connection.
    MustShow,
    /// A good certificate or none; without one a caller is anonymous. A bad one is refused.
    MayShow,
}

/// Who this process is and whom it trusts. Clones are one handle.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    svid: ArcSwap<Svid>,
    trust: Trust,
    rotations: watch::Sender<u64>,
    /// Touched when a connection is opened, never by a request; building a config takes microseconds.
    configs: Mutex<Configs>,
}

#[derive(Default)]
struct Configs {
    /// Rotation of the SVID and revision of the trust that they were made of.
    made_of: (u64, u64),
    servers: HashMap<Callers, Arc<ServerConfig>>,
    clients: HashMap<SpiffeId, Arc<ClientConfig>>,
}

impl Identity {
    /// Returns the identity of a process. Fails if the SVID is not of the trusted domain.
    pub fn new(svid: Svid, trust: Trust) -> Result<Self, BadSvid> {
        let (id, ours) = (svid.leaf().id.clone(), trust.domain());
        if !ours.owns(&id) {
            return Err(BadSvid::Leaf(Refusal::ForeignTrustDomain { id, ours }));
        }
        let (svid, rotations) = (ArcSwap::from_pointee(svid), watch::Sender::new(0));
        Ok(Self { shared: Arc::new(Shared { svid, trust, rotations, configs: Mutex::default() }) })
    }

    /// Who this process is.
    pub fn id(&self) -> SpiffeId {
        self.shared.svid.load().leaf().id.clone()
    }

    /// The SVID in use.
    pub fn svid(&self) -> Arc<Svid> {
        self.shared.svid.load_full()
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Trust {
        &self.shared.trust
    }

    /// Uses another SVID from the next handshake on; it must name the same identity. Live connections are left alone.
    pub fn rotate(&self, svid: Svid) -> Result<(), BadSvid> {
        let (ours, got) = (self.id(), &svid.leaf().id);
        if *got != ours {
            return Err(BadSvid::OtherIdentity { ours, got: got.clone() });
        }
        self.shared.svid.store(Arc::new(svid));
        self.shared.rotations.send_modify(|count| *count += 1);
        Ok(())
    }

    /// How often the SVID was replaced.
    pub fn rotations(&self) -> u64 {
        *self.shared.rotations.borrow()
    }

    /// Waits until the SVID was replaced another number of times than `seen`. Cancel-safe.
    pub async fn rotated_since(&self, seen: u64) {
        let mut rotations = self.shared.rotations.subscribe();
        drop(rotations.wait_for(|count| *count != seen).await); // fails only when we are gone, and we hold the sender
    }

    /// Returns the config to accept the next connection with. Ask for it at every accept: an older one holds older tickets.
    pub fn server_config(&self, callers: Callers) -> Arc<ServerConfig> {
        self.with_configs(|configs| {
            Arc::clone(configs.servers.entry(callers).or_insert_with(|| Arc::new(self.make_server(callers))))
        })
    }

    /// Returns the config to dial `expected` with. Ask for it at every dial.
    pub fn client_config(&self, expected: &SpiffeId) -> Arc<ClientConfig> {
        self.with_configs(|configs| match configs.clients.get(expected) {
            Some(config) => Arc::clone(config),
            None => {
                let config = Arc::new(self.make_client(expected));
                configs.clients.insert(expected.clone(), Arc::clone(&config));
                config
            }
        })
    }

    /// Returns the caller behind an accepted connection, None if it is anonymous. To be called once after each handshake: a resumed session is
    /// judged here.
    pub fn accepted(&self, connection: &ServerConnection) -> Result<Option<Peer>, Refusal> {
        match connection.peer_certificates() {
            None => Ok(None),
            Some(chain) => self.peer(Shown::ByClient, chain, connection.handshake_kind()).map(Some),
        }
    }

    /// Returns the server behind a dialled connection. To be called once after each handshake: a resumed session is judged here.
    pub fn connected(&self, connection: &ClientConnection) -> Result<Peer, Refusal> {
        let chain = connection.peer_certificates().ok_or(Refusal::NoCertificate)?;
        self.peer(Shown::ByServer, chain, connection.handshake_kind())
    }

    fn peer(
        &self,
        shown: Shown,
        chain: &[CertificateDer<'static>],
        kind: Option<HandshakeKind>,
    ) -> Result<Peer, Refusal> {
        let leaf = match kind {
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) => {
                Leaf::read(chain.first().ok_or(Refusal::NoCertificate)?)?
            }
            _ => self.shared.trust.judge_chain(shown, chain, self.shared.trust.now())?,
        };
        Ok(Peer { leaf, chain: chain.into() })
    }

    fn with_configs<T>(&self, with: impl FnOnce(&mut Configs) -> T) -> T {
        let made_of = (self.rotations(), self.shared.trust.revision());
        // A panic while it was held left a cache with an entry missing, which the next asker makes.
        let mut configs = self.shared.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if configs.made_of != made_of {
            *configs = Configs { made_of, ..Configs::default() };
        }
        with(&mut configs)
    }

    fn make_server(&self, callers: Callers) -> ServerConfig {
        let verifier = ClientVerifier { trust: self.shared.trust.clone(), callers };
        let mut config = ServerConfig::builder_with_details(Arc::clone(shared_provider()), self.time())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has suites of TLS 1.3")
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(Resolver(Arc::clone(&self.shared))));
        config.alpn_protocols = alpn();
        match ring::Ticketer::new() {
            Ok(ticketer) => config.ticketer = ticketer,
            Err(error) => tracing::warn!(%error, "no randomness for tickets; sessions are not resumed"),
        }
        config
    }

    fn make_client(&self, expected: &SpiffeId) -> ClientConfig {
        let expect = Expect::Known { trust: self.shared.trust.clone(), id: expected.clone() };
        let mut config =
            client(expect, self.time()).with_client_cert_resolver(Arc::new(Resolver(Arc::clone(&self.shared))));
        config.alpn_protocols = alpn();
        config.enable_sni = false; // the peer is its SPIFFE id; a name on the wire would only tell who calls whom
        config
    }

    fn time(&self) -> Arc<dyn TimeProvider> {
        Arc::new(Time(self.shared.trust.clock().clone()))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("svid", &self.svid()).field("trust", self.trust()).finish()
    }
}

/// Returns the config for the first connection to a registry, before this process has an identity: shows no certificate, and demands that the
/// registry is `expected` and presents a chain that ends in the root with this hash.
pub fn bootstrap_config(pin: RootPin, expected: &SpiffeId, clock: &Clock) -> Arc<ClientConfig> {
    let trust = PinnedTrust { clock: clock.clone() };
    let expect = Expect::Pinned { pin, id: expected.clone(), trust };
    let mut config = client(expect, Arc::new(Time(clock.clone()))).with_no_client_auth();
    config.alpn_protocols = alpn();
    config.enable_sni = false;
    Arc::new(config)
}

fn client(
    expect: Expect,
    time: Arc<dyn TimeProvider>,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    ClientConfig::builder_with_details(Arc::clone(shared_provider()), time)
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has suites of TLS 1.3")
        .dangerous() // rustls' word for a verifier of one's own; ours is stricter than the web's
        .with_custom_certificate_verifier(Arc::new(ServerVerifier(expect)))
}

fn alpn() -> Vec<Vec<u8>> {
    ALPN.iter().map(|it| it.to_vec()).collect()
}

/// Gives rustls the SVID of the moment.
struct Resolver(Arc<Shared>);

impl Resolver {
    fn now(&self) -> Arc<CertifiedKey> {
        Arc::clone(self.0.svid.load().key())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resolver({})", self.0.svid.load().leaf().id)
    }
}

struct Time(Clock);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time((self.0)()))
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}
