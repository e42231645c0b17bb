//! Endpoints: where a balancer can send a call, and how the connection is protected.
//!
//! Lives here: address, transport, protocol. Does not: choosing or dialling one (`weft-traffic`).

use std::net::SocketAddr;

use crate::SpiffeId;

/// How a caller protects the connection to an endpoint. Set by the source at registration, honoured by every caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Plain bytes.
    Plaintext,
    /// TLS; the server's certificate must carry this name.
    Tls {
        /// Name to verify and to send as SNI.
        server_name: String,
    },
    /// Mutual TLS of the mesh; the peer must present this identity.
    Mtls {
        /// Expected identity of the peer.
        identity: SpiffeId,
    },
}

/// Application protocol of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/2, thus gRPC.
    H2,
    /// HTTP/1.1.
    H1,
    /// Opaque bytes.
    Tcp,
}

/// An address a balancer can send to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// IP literal and port; views such as xDS accept nothing else, so names are resolved before they get here.
    pub address: SocketAddr,
    /// Protection of the connection.
    pub transport: Transport,
    /// Protocol spoken on it.
    pub protocol: Protocol,
}
