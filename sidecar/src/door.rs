//! The door of inbound: who is behind a connection, and whether it may come in.
//!
//! Lives here: telling TLS from plaintext, the handshake and its bounds, what a refused caller is told, for how long a caller stays welcome. Does not: whom to
//! believe (`weft-identity`), which calls a caller may make, carrying them (`server`).
//! ```text
//!  first byte ─► TLS ──────► handshake ─► Caller::Identity, or Anonymous where a certificate is not asked for
//!        │                      └──► refused: the alert says why
//!        └─────► plaintext ─► Anonymous, or refused: an answer says why
//! ```
//! Invariants: a connection that has proved nothing is held for a bounded time, and so is the number of them: the newest displaces the oldest, so that those who
//! are slow on purpose stand in nobody's way. Every refusal has a rule, and is counted and logged with it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustls::server::ServerConnection;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use weft_identity::{Callers, Identity, Peer, Refusal, Svid};
use weft_model::Caller;
use weft_runtime::linger::{Lingering, Remains, lingering};
use weft_runtime::strangers::{Crowd, Rarely};

use crate::metrics::Metrics;

mod told;

/// Time to say the first byte and to finish a handshake.
const ENTER: Duration = Duration::from_secs(5);
/// Connections on their way in; one more displaces the oldest.
const NEWCOMERS: usize = 256;
/// First byte of a TLS connection: the type of a record that carries a handshake (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// What becomes of callers that prove no identity: plaintext, or TLS without a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Plaintext {
    /// They are refused.
    Refuse,
    /// Those on this machine come in and are anonymous.
    Loopback,
    /// All come in and are anonymous.
    Allow,
}

impl Plaintext {
    /// What an instance's metadata says of it; nothing of who lets nobody in.
    pub(crate) fn as_metadata(self) -> Option<&'static str> {
        match self {
            Self::Refuse => None,
            Self::Loopback => Some("loopback"),
            Self::Allow => Some("allow"),
        }
    }

    fn welcomes(self, from: SocketAddr) -> bool {
        match self {
            Self::Refuse => false,
            Self::Loopback => from.ip().to_canonical().is_loopback(),
            Self::Allow => true,
        }
    }
}

/// The door of a process; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    identity: Option<Identity>,
    plaintext: Plaintext,
    metrics: Metrics,
    newcomers: Crowd,
    rarely: Rarely,
}

/// A connection's bytes.
pub(crate) type Wire = Either<Lingering, Box<TlsStream<Lingering>>>;

/// A connection that came in.
pub(crate) struct Entered {
    pub(crate) wire: Wire,
    /// Closes it once it was served.
    pub(crate) remains: Remains,
    pub(crate) caller: Caller,
    /// None for plaintext.
    pub(crate) bond: Option<Bond>,
}

/// What a connection by TLS rests on.
pub(crate) struct Bond {
    identity: Identity,
    /// How often our SVID had been replaced before.
    rotations: u64,
    /// What we showed.
    shown: Arc<Svid>,
    /// Whom we let in; none if it is anonymous.
    peer: Option<Peer>,
}

/// Why a bond ends.
pub(crate) enum Unbound {
    /// The caller is revoked, or nobody vouches for it any more: cut.
    Disowned(Refusal),
    /// A certificate ran out, ours or the caller's: what is under way may finish.
    Outlived,
}

/// Why a connection does not come in.
enum No {
    /// It left by itself.
    Gone,
    /// A rule forbids it.
    Refused { rule: &'static str, why: String },
}

impl No {
    fn refused(rule: &'static str, why: impl Display) -> Self {
        Self::Refused { rule, why: why.to_string() }
    }
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::refused(refusal.rule(), refusal)
    }
}

impl Door {
    pub(crate) fn new(identity: Option<Identity>, plaintext: Plaintext, metrics: Metrics) -> Self {
        Self { identity, plaintext, metrics, newcomers: Crowd::of(NEWCOMERS), rarely: Rarely::default() }
    }

    /// Lets a connection in, or turns it away and says why. Bounded in time.
    pub(crate) async fn enter(&self, stream: TcpStream, from: SocketAddr) -> Option<Entered> {
        // Without an identity there is one kind of caller, and nothing to wait for.
        if self.identity.is_none() && self.plaintext.welcomes(from) {
            return Some(Entered::plain(stream));
        }
        let newcomer = self.newcomers.enter();
        let entered = tokio::select! {
            entered = timeout(ENTER, self.recognise(stream, from)) => entered
                .unwrap_or_else(|_| Err(No::refused("too_slow", "it did not say who it is in time"))),
            () = newcomer.displaced() => Err(No::refused("crowded", "too many connections are on their way in")),
        };
        match entered {
            Ok(entered) => Some(entered),
            Err(No::Gone) => None,
            Err(No::Refused { rule, why }) => {
                self.refused(from, rule, &why);
                None
            }
        }
    }

    async fn recognise(&self, stream: TcpStream, from: SocketAddr) -> Result<Entered, No> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(No::Gone),
        }
        match &self.identity {
            Some(identity) if first[0] == TLS_HANDSHAKE => self.shake_hands(stream, from, identity).await,
            Some(_) | None if self.plaintext.welcomes(from) => Ok(Entered::plain(stream)),
            Some(_) | None => {
                let why = match (self.plaintext, &self.identity) {
                    (Plaintext::Refuse, _) => "plaintext is refused here: call by mutual TLS",
                    (Plaintext::Loopback | Plaintext::Allow, Some(_)) => {
                        "plaintext is refused from other machines: call by mutual TLS"
                    }
                    (Plaintext::Loopback | Plaintext::Allow, None) => {
                        "plaintext is refused from other machines, and this sidecar has no identity for TLS"
                    }
                };
                self.refused(from, "plaintext", &why);
                told::tell(stream, &format!("rule plaintext: {why}")).await;
                Err(No::Gone)
            }
        }
    }

    async fn shake_hands(&self, stream: TcpStream, from: SocketAddr, identity: &Identity) -> Result<Entered, No> {
        let callers = if self.plaintext.welcomes(from) { Callers::MayShow } else { Callers::MustShow };
        let (rotations, shown) = (identity.rotations(), identity.svid());
        // Asked for anew each time: a config lives no longer than the SVID and the trust it was made of.
        let acceptor = TlsAcceptor::from(identity.server_config(callers));
        let (stream, remains) = lingering(stream);
        let tls = match acceptor.accept(stream).await {
            Ok(tls) => tls,
            Err(error) => {
                let no = failure(&error);
                remains.close().await; // a reset would overtake the alert
                return Err(no);
            }
        };
        let peer = identity.accepted(proved(&tls))?;
        let caller = peer.as_ref().map_or(Caller::Anonymous, |peer| Caller::Identity(peer.id().clone()));
        let bond = Bond { identity: identity.clone(), rotations, shown, peer };
        Ok(Entered { wire: Either::Right(Box::new(tls)), remains, caller, bond: Some(bond) })
    }

    /// Counts and logs a refusal.
    pub(crate) fn refused(&self, from: SocketAddr, rule: &'static str, why: &dyn Display) {
        self.metrics.refused(rule);
        if self.rarely.may_log(rule, Instant::now()) {
            tracing::warn!(rule, %from, %why, "caller refused");
        } else {
            tracing::debug!(rule, %from, %why, "caller refused");
        }
    }
}

impl Entered {
    fn plain(stream: TcpStream) -> Self {
        let (stream, remains) = lingering(stream);
        Self { wire: Either::Left(stream), remains, caller: Caller::Anonymous, bond: None }
    }
}

impl Bond {
    /// What ends the bond, each to be waited for.
    pub(crate) fn ends(self) -> Vec<BoxFuture<'static, Unbound>> {
        let Self { identity, rotations, shown, peer } = self;
        let mut ends = Vec::new();
        if let Some(peer) = peer {
            let (trust, known) = (identity.trust().clone(), peer.clone());
            ends.push(async move { Unbound::Disowned(trust.disowns(&known).await) }.boxed());
            let trust = identity.trust().clone();
            ends.push(async move { trust.refuses(&peer).map(|_| Unbound::Outlived).await }.boxed());
        }
        ends.push(
            async move {
                // Callers of the mesh look for our new certificate by themselves, before this; those of others need to be told.
                identity.rotated_since(rotations).await;
                let leaf = shown.leaf();
                let life = leaf.not_after.duration_since(leaf.not_before).unwrap_or_default();
                identity.trust().reaches(leaf.not_after - life / 10).await;
                Unbound::Outlived
            }
            .boxed(),
        );
        ends
    }
}

fn proved(tls: &TlsStream<Lingering>) -> &ServerConnection {
    tls.get_ref().1
}

fn failure(error: &std::io::Error) -> No {
    match (Refusal::of(error), Refusal::by_peer(error)) {
        (Some(refusal), _) => refusal.into(),
        (None, Some(alert)) => No::refused("by_caller", format!("it refuses this sidecar: {alert}")),
        (None, None) => No::refused("handshake", error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_anonymous_comes_in_by_the_address_it_calls_from() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (from, near) in
            [("127.0.0.1:1", true), ("[::1]:1", true), ("[::ffff:127.0.0.1]:1", true), ("10.0.0.1:1", false)]
        {
            assert_eq!(Plaintext::Loopback.welcomes(at(from)), near, "{from}");
            assert!(Plaintext::Allow.welcomes(at(from)) && !Plaintext::Refuse.welcomes(at(from)), "{from}");
        }
    }
}
