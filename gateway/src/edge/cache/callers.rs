//! Callers as the response cache tells them apart.
//!
//! Lives here: which headers are credentials, whose answers a call may have. Does not: who a caller is to everybody else (`edge::authentication`).
//! Callers are kept apart by the credential they show, not only by who they are, since two tokens of one user may allow different things.

use http::{HeaderMap, HeaderName, header};
use ring::digest::{Context, SHA256};

use crate::edge::{authentication::Client, call::Call, names::plain};

/// Headers that say who calls, whatever a service makes of them.
const CREDENTIALS: [HeaderName; 4] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, HeaderName::from_static("x-api-key")];

/// The credentials that a request shows, as a hash; none: it shows none.
pub(crate) type Shown = Option<[u8; 32]>;

/// What a request shows before and after policies have changed its head: both tell callers apart.
pub(crate) fn both(before: Shown, after: Shown) -> Shown {
    if before == after {
        return before;
    }
    let mut hash = Context::new(&SHA256);
    for shown in [before, after] {
        hash.update(&[u8::from(shown.is_some())]);
        hash.update(&shown.unwrap_or_default());
    }
    Some(hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// Which credentials a request shows. Asked before authentication takes them away.
pub(crate) fn shown(headers: &HeaderMap) -> Shown {
    let mut hash = None;
    let is_one = |name: &str| CREDENTIALS.iter().any(|it| it.as_str() == name);
    let shown = headers.iter().filter(|(name, _)| is_one(plain(name.as_str())));
    for (name, value) in shown {
        let hash = hash.get_or_insert_with(|| Context::new(&SHA256));
        for part in [name.as_str().as_bytes(), value.as_bytes()] {
            hash.update(&part.len().to_be_bytes());
            hash.update(part);
        }
    }
    hash.map(|it| it.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// Whose answers a call may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Whose {
    /// Those to nobody in particular.
    Nobodys,
    /// Those to callers with a credential that the service lets all have.
    Everybodys,
    /// Those of this very caller.
    Callers([u8; 32]),
}

impl Whose {
    /// Whose answers a call may have.
    pub(super) fn of(shown: Shown, client: &Client, call: &Call, per_caller: bool) -> Self {
        let name: &str = match client {
            Client::Nobody if shown.is_none() => return Self::Nobodys,
            Client::Nobody => "",
            Client::Known(name) => name,
        };
        if !per_caller {
            return Self::Everybodys;
        }
        let mut hash = Context::new(&SHA256);
        hash.update(&shown.unwrap_or_default());
        hash.update(&name.len().to_be_bytes());
        hash.update(name.as_bytes());
        // Two certificates may have one name, and their other claims may differ.
        let certificate = call.peer.as_ref().and_then(|peer| peer.certificate.as_ref());
        let exact = certificate.and_then(|it| it.claims.get("sha256")?.as_str());
        hash.update(exact.unwrap_or_default().as_bytes());
        Self::Callers(hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}
