//! Identities: the SVID of this process, whom it trusts, and the TLS that follows from both.
//!
//! Lives here: SPIFFE names, X.509-SVIDs and their rotation, bundle and revocations, rustls configs, what a join token says. Does not:
//! signing for others (the registry's `ca`), asking for a signature (`weft-discovery`), dialling or listening (who owns the socket).
//! Invariants: TLS 1.3 only, one crypto provider (ring); nothing here reads a clock that was not given; a connection is judged by the
//! bundle and the revocations of its moment, a resumed one included.
#![forbid(unsafe_code)]

pub mod name;
pub mod pem;
mod refusal;
mod request;
mod svid;
mod tls;
pub mod token;
mod trust;
mod verify;

pub use name::TrustDomain;
pub use refusal::Refusal;
pub use request::{KeyRequest, RequestError};
pub use svid::{BadSvid, Leaf, Peer, Serial, Svid};
pub use tls::{Callers, Identity, bootstrap_config};
pub use trust::{BadBundle, Bundle, Clock, Revocations, RootPin, Trust};
