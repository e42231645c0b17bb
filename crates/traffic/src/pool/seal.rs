//! Sealing a connection: the TLS handshake, and who the peer proved to be.
//!
//! Lives here: dialling as this process's identity, reading a failed handshake. Does not: whom to believe (`weft-identity`), what becomes of the connection when
//! that changes (`keep`).

use std::{io, net::SocketAddr, sync::Arc};

use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use weft_identity::{Identity, Peer, Refusal, Svid};
use weft_model::SpiffeId;

use super::{
    connect::ConnectError,
    socket::Socket,
    wire::{First, Sealed},
};

/// What a sealed connection was made with.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    pub(super) identity: Identity,
    /// How often our SVID had been replaced before.
    pub(super) rotations: u64,
    /// What we showed.
    pub(super) shown: Arc<Svid>,
    /// Whom we met.
    pub(super) peer: Peer,
}

/// Shakes hands as `identity` and demands to meet `expected`.
pub(super) async fn seal(
    socket: Socket,
    address: SocketAddr,
    identity: &Identity,
    expected: &SpiffeId,
) -> Result<(Sealed, First, Proof), ConnectError> {
    let (rotations, shown) = (identity.rotations(), identity.svid());
    // Asked for anew each time: a config lives no longer than the SVID and the trust it was made of.
    let connector = TlsConnector::from(identity.client_config(expected));
    let tls = connector.connect(session_name(address), socket).await.map_err(failure)?;
    let peer = identity.connected(tls.get_ref().1).map_err(ConnectError::Refused)?;
    let (sealed, first) = Sealed::new(tls);
    Ok((sealed, first, Proof { identity: identity.clone(), rotations, shown, peer }))
}

/// Says by which rule a handshake, or the peer's first word after it, failed.
pub(super) fn failure(error: io::Error) -> ConnectError {
    match (Refusal::of(&error), Refusal::by_peer(&error)) {
        (Some(refusal), _) => ConnectError::Refused(refusal),
        (None, Some(alert)) => ConnectError::RefusedByPeer { alert },
        (None, None) => ConnectError::Tls(error),
    }
}

/// Under which name sessions are kept, of which those of one instance mean nothing to another. It never leaves this process: SNI is off.
fn session_name(address: SocketAddr) -> ServerName<'static> {
    let label = format!("x{}x{}", address.ip(), address.port()).replace([':', '.'], "-");
    ServerName::try_from(label).expect("letters, digits and hyphens make a DNS label")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_has_a_name_of_its_own() {
        let addresses =
            ["127.0.0.1:1", "127.0.0.1:65535", "[::1]:1", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"];
        let names: std::collections::HashSet<_> =
            addresses.iter().map(|it| session_name(it.parse().unwrap()).to_str().into_owned()).collect();
        assert_eq!(names.len(), addresses.len());
    }
}
