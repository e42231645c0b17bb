//! TLS on the gateway's port: how a connection enters, and certificates that change while it listens.
//!
//! Lives here: telling TLS from plaintext, the handshake, following the files. Does not: reading certificates and choosing one by name
//! (`tls::certificates`), who a client is by its certificate (`tls::peer`), TLS upstream (`weft-identity`).
//! ```text
//! first byte ─► TLS ──────► handshake, within the time to say the first bytes ─► HTTP/2 or HTTP/1.1, as the preface says
//!     └───────► plaintext ─► as it is, where that is allowed; else told in words and let go
//! ```
//! Invariants: a connection keeps the certificate that it was opened with; files that cannot be used leave in force what was read before. One that was opened
//! with a client's certificate is drained once that has run out, or other authorities or revocations count, and ended 30 s later: its client has to show itself anew.

pub(crate) mod certificates;
pub(crate) mod peer;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use rustls::ServerConfig;
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use weft_runtime::{
    Metrics, Shutdown, clock,
    linger::{Lingering, Remains, lingering},
};

use certificates::{Material, TlsError};
use peer::Peer;

/// First byte of a TLS record that begins a handshake (RFC 8446, 5.1); no request of HTTP begins so.
const HANDSHAKE: u8 = 0x16;
/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What plaintext is told where it is refused.
const REFUSED: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\ncontent-length: 42\r\n\r\nthis port speaks TLS: write https:// here\n";

/// The files of `[tls]`, and what they are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Chains, leaf first, and their keys, as PEM. A client gets the first that has the name it asks for, else the first of all.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// Whose certificates count that clients show, as PEM; none: clients are not asked.
    pub clients: Option<ClientFiles>,
    /// Whether plaintext is served on the same port, too.
    pub plaintext: bool,
}

/// Authorities of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientFiles {
    /// A file of their certificates.
    pub authorities: PathBuf,
    /// A file of lists of those that they took back, as PEM, one of each authority; none: who was certified is until the certificate runs out.
    pub revocations: Option<PathBuf>,
    /// Whether a client without a certificate is turned away.
    pub required: bool,
}

/// What connections enter by. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    config: Arc<ArcSwap<ServerConfig>>,
    clients: Clients,
    plaintext: bool,
    failures: Counter,
}

/// Drained when other certificates of clients count than before, and replaced.
type Clients = Arc<ArcSwap<Shutdown>>;

/// A connection that has entered.
pub(crate) enum Entered {
    Plain(TcpStream),
    Tls(Box<TlsStream<Lingering>>, Remains, Arc<Peer>, Trust),
}

/// For how long a client's certificate is believed that a connection was opened with.
#[derive(Debug)]
pub(crate) struct Trust {
    clients: Arc<Shutdown>,
    /// None where no certificate was shown.
    left: Option<Duration>,
}

impl Trust {
    fn of(peer: &Peer, clients: Arc<Shutdown>) -> Self {
        let until = peer.certificate.as_ref().map(|it| it.until);
        Self { clients, left: until.map(|it| it.duration_since(clock::wall()).unwrap_or_default()) }
    }

    /// Waits until the client has to show a certificate anew; for ever if it has shown none. Cancel-safe.
    pub(crate) async fn over(&self) {
        match self.left {
            None => std::future::pending().await,
            Some(left) => tokio::select! {
                () = self.clients.draining() => {}
                () = sleep(left) => {}
            },
        }
    }
}

/// Keeps the certificates as the files have them.
pub(crate) struct Follower {
    files: TlsFiles,
    read: Material,
    config: Arc<ArcSwap<ServerConfig>>,
    clients: Clients,
    failures: Counter,
}

/// Opens a door with what the files say now.
///
/// # Errors
/// Names the file that cannot be used.
pub(crate) fn open(files: &TlsFiles, metrics: &Metrics) -> Result<(Door, Follower), TlsError> {
    let read = Material::read(files)?;
    let config = Arc::new(ArcSwap::from_pointee(read.config(files)?));
    let (handshakes, reloads) = (Counter::default(), Counter::default());
    metrics.register(|registry| {
        let help = "TLS handshakes of clients that failed";
        registry.register("weft_gateway_tls_handshake_failures", help, handshakes.clone());
        let help = "Times that changed files of certificates could not be used";
        registry.register("weft_gateway_tls_reload_failures", help, reloads.clone());
    });
    let clients = Clients::default();
    let door = Door {
        config: Arc::clone(&config),
        clients: Arc::clone(&clients),
        plaintext: files.plaintext,
        failures: handshakes,
    };
    Ok((door, Follower { files: files.clone(), read, config, clients, failures: reloads }))
}

/// Finds out whether a door could be opened with these files.
///
/// # Errors
/// What [`open`] would say.
pub(crate) fn check(files: &TlsFiles) -> Result<(), TlsError> {
    Material::read(files)?.config(files).map(drop)
}

impl Door {
    /// Lets a connection in; none if it is not.
    pub(crate) async fn enter(&self, mut stream: TcpStream) -> io::Result<Option<Entered>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 0 {
            return Ok(None);
        }
        if first[0] != HANDSHAKE {
            if self.plaintext {
                return Ok(Some(Entered::Plain(stream)));
            }
            stream.write_all(REFUSED).await?;
            let (stream, remains) = lingering(stream);
            drop(stream);
            remains.close().await;
            return Ok(None);
        }
        let (stream, remains) = lingering(stream);
        let clients = self.clients.load_full(); // before the configuration, which changes first: never newer than it
        match TlsAcceptor::from(self.config.load_full()).accept(stream).await {
            Ok(tls) => {
                let peer = Arc::new(Peer::of(tls.get_ref().1.peer_certificates()));
                let trust = Trust::of(&peer, clients);
                Ok(Some(Entered::Tls(Box::new(tls), remains, peer, trust)))
            }
            Err(error) => {
                self.failures.inc();
                tracing::debug!(%error, "TLS handshake failed");
                remains.close().await; // a reset would overtake the alert
                Ok(None)
            }
        }
    }
}

impl Follower {
    /// Looks at the files until it is dropped.
    pub(crate) async fn run(mut self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = String::new();
        loop {
            ticks.tick().await;
            let files = self.files.clone();
            let looked = tokio::task::spawn_blocking(move || Material::read(&files)).await;
            let Ok(read) = looked else { continue };
            let made = read.and_then(|read| match read == self.read {
                true => Ok(None),
                false => read.config(&self.files).map(|config| Some((read, config))),
            });
            match made {
                Ok(None) => told.clear(),
                Ok(Some((read, config))) => {
                    tracing::info!("TLS certificates replaced");
                    self.config.store(Arc::new(config));
                    if !read.trusts_as(&self.read) {
                        self.clients.swap(Arc::default()).drain();
                    }
                    self.read = read;
                    told.clear();
                }
                Err(error) => {
                    let error = crate::protocol::chain(&error);
                    if error != told {
                        self.failures.inc();
                        tracing::error!(error, "TLS certificates cannot be used; those before stay");
                        told = error;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_certificate_is_believed_until_it_runs_out_or_others_count() {
        const DAY: Duration = Duration::from_secs(86_400);
        let clients = Arc::new(Shutdown::new());
        let trust = |left| Trust { clients: Arc::clone(&clients), left };
        assert!(timeout(DAY, trust(Some(2 * DAY)).over()).await.is_err());
        assert!(timeout(2 * DAY, trust(Some(DAY)).over()).await.is_ok());
        clients.drain();
        assert!(timeout(DAY, trust(Some(2 * DAY)).over()).await.is_ok());
        assert!(timeout(DAY, trust(None).over()).await.is_err(), "who has shown none has none to show anew");
    }
}
