//! One connection over loopback between two configs, and what both sides make of it.
//!
//! Lives here: the one `call` that every test uses. Does not: expectations.

use std::{io, sync::Arc};

use rustls::{ClientConfig, HandshakeKind, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use weft_identity::{Callers, Identity, Peer, Refusal};
use weft_model::SpiffeId;

/// How a side fared. `Ok` on the client side says that a byte came back.
pub(crate) struct Met {
    pub(crate) server: Result<Option<Peer>, Failed>,
    pub(crate) client: Result<HandshakeKind, Failed>,
}

#[derive(Debug)]
pub(crate) enum Failed {
    /// This side refused the other.
    Refused(Refusal),
    /// The other side said no, by this alert; or just closed.
    ByPeer(Option<String>),
}

impl Met {
    /// The rule by which either side refused.
    pub(crate) fn rule(&self) -> &'static str {
        match (&self.server, &self.client) {
            (Err(Failed::Refused(refusal)), _) | (_, Err(Failed::Refused(refusal))) => refusal.rule(),
            (Ok(_), Ok(_)) => "none",
            (server, client) => panic!("neither side says why: {server:?}, {client:?}"),
        }
    }

    pub(crate) fn good(self) -> (Option<Peer>, HandshakeKind) {
        (self.server.expect("the server lets the client in"), self.client.expect("the client lets the server in"))
    }
}

fn failed(error: io::Error) -> Failed {
    match Refusal::of(&error) {
        Some(refusal) => Failed::Refused(refusal),
        None => Failed::ByPeer(Refusal::by_peer(&error)),
    }
}

/// Dials `expected` as `client` at a server that is `server`.
pub(crate) async fn call(server: &Identity, callers: Callers, client: &Identity, expected: &SpiffeId) -> Met {
    meet(server, server.server_config(callers), client.client_config(expected), Some(client)).await
}

pub(crate) async fn meet(
    server: &Identity,
    accept_with: Arc<ServerConfig>,
    dial_with: Arc<ClientConfig>,
    client: Option<&Identity>,
) -> Met {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(accept_with).accept(stream).await.map_err(failed)?;
        let peer = server.accepted(stream.get_ref().1).map_err(Failed::Refused)?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        stream.write_all(b"!").await.map_err(failed)?;
        stream.shutdown().await.map_err(failed)?;
        drop(stream.read(&mut [0; 1]).await); // until the client has read its tickets and closed
        Ok(peer)
    };
    let calling = async {
        let stream = TcpStream::connect(addr).await.unwrap();
        let name = ServerName::try_from("mesh.invalid").unwrap();
        let mut stream = TlsConnector::from(dial_with).connect(name, stream).await.map_err(failed)?;
        if let Some(client) = client {
            client.connected(stream.get_ref().1).map_err(Failed::Refused)?;
        }
        // In TLS 1.3 a client learns of its refusal by its first read.
        stream.read_exact(&mut [0; 1]).await.map_err(failed)?;
        Ok(stream.get_ref().1.handshake_kind().unwrap())
    };
    let (server, client) = tokio::join!(serving, calling);
    Met { server, client }
}
