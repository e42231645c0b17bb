//! Why a peer was not let in: one case a rule, each with a name for metrics and logs.
//!
//! Lives here: the cases, and how they pass through rustls and back. Does not: deciding (`verify`, `trust`).
//! The alert a refused peer sees is as telling as TLS allows: expired, revoked and unknown authority have alerts of their own.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{CertificateError, OtherError, pki_types::UnixTime};
use weft_model::SpiffeId;

use crate::{RootPin, TrustDomain};

/// Why a peer was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It showed no certificate where one is required.
    #[error("no certificate was presented")]
    NoCertificate,
    /// What it showed is no X.509-SVID.
    #[error("not an SVID: {problem}")]
    NotAnSvid {
        /// Which rule of X509-SVID it breaks.
        problem: String,
    },
    /// It belongs to another mesh.
    #[error("{id} is of a foreign trust domain, ours is {ours}")]
    ForeignTrustDomain {
        /// Who it says it is.
        id: SpiffeId,
        /// The domain that is trusted.
        ours: TrustDomain,
    },
    /// No root of the bundle stands behind it.
    #[error("signed by an authority that is not in the bundle")]
    UnknownAuthority,
    /// Its time is over.
    #[error("certificate expired at {}", seconds(*not_after))]
    Expired {
        /// When it ran out.
        not_after: SystemTime,
    },
    /// Its time has not come; usually a clock that is off.
    #[error("certificate is not valid before {}", seconds(*not_before))]
    NotYetValid {
        /// From when on it is valid.
        not_before: SystemTime,
    },
    /// An operator took it back.
    #[error("certificate is revoked")]
    Revoked,
    /// It is somebody, but not the one the endpoint was registered with.
    #[error("expected {expected}, the peer is {presented}")]
    WrongIdentity {
        /// Who was called.
        expected: SpiffeId,
        /// Who answered.
        presented: SpiffeId,
    },
    /// The registry a token names did not show the root that the token pins.
    #[error("none of the presented certificates is the pinned root {pin}")]
    WrongRoot {
        /// SHA-256 of the expected root.
        pin: RootPin,
    },
    /// Cryptography or encoding says no.
    #[error("certificate cannot be verified: {problem}")]
    Unverifiable {
        /// As rustls puts it.
        problem: String,
    },
}

fn seconds(at: SystemTime) -> String {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("unix time {}", since.as_secs())
}

impl Refusal {
    /// Name of the rule, for metrics and logs; a closed set.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::NotAnSvid { .. } => "not_an_svid",
            Self::ForeignTrustDomain { .. } => "foreign_trust_domain",
            Self::UnknownAuthority => "unknown_authority",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Revoked => "revoked",
            Self::WrongIdentity { .. } => "wrong_identity",
            Self::WrongRoot { .. } => "wrong_root",
            Self::Unverifiable { .. } => "unverifiable",
        }
    }

    /// Finds our refusal of a peer in the error of a handshake. None if it failed for another reason, the peer's refusal of us included.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        tls_error(error).and_then(Self::from_rustls)
    }

    /// Finds the peer's refusal of us in an error of a handshake or a first read: the alert it sent, such as `CertificateRevoked`.
    pub fn by_peer(error: &(dyn Error + 'static)) -> Option<String> {
        match tls_error(error)? {
            rustls::Error::AlertReceived(alert) => Some(format!("{alert:?}")),
            _ => None, // not ours to enumerate: every other case is local
        }
    }

    pub(crate) fn from_rustls(error: &rustls::Error) -> Option<Self> {
        match error {
            rustls::Error::NoCertificatesPresented => Some(Self::NoCertificate),
            rustls::Error::InvalidCertificate(error) => Some(Self::from_certificate(error)),
            _ => None, // not about the peer's certificate
        }
    }

    fn from_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::ExpiredContext { not_after, .. } => Self::Expired { not_after: system_time(*not_after) },
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid { not_before: system_time(*not_before) }
            }
            CertificateError::Revoked => Self::Revoked,
            // A root of the same name but another key gives the second of these.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::Other(OtherError(other)) if other.is::<Self>() => {
                other.downcast_ref::<Self>().cloned().expect("checked by the guard")
            }
            other => Self::Unverifiable { problem: other.to_string() },
        }
    }

    pub(crate) fn into_rustls(self, now: UnixTime) -> rustls::Error {
        let error = match self {
            Self::NoCertificate => return rustls::Error::NoCertificatesPresented,
            Self::Expired { not_after } => {
                CertificateError::ExpiredContext { time: now, not_after: unix_time(not_after) }
            }
            Self::NotYetValid { not_before } => {
                CertificateError::NotValidYetContext { time: now, not_before: unix_time(not_before) }
            }
            Self::Revoked => CertificateError::Revoked,
            Self::UnknownAuthority => CertificateError::UnknownIssuer,
            other @ (Self::NotAnSvid { .. }
            | Self::ForeignTrustDomain { .. }
            | Self::WrongIdentity { .. }
            | Self::WrongRoot { .. }
            | Self::Unverifiable { .. }) => CertificateError::Other(OtherError(Arc::new(other))),
        };
        rustls::Error::InvalidCertificate(error)
    }
}

/// Walks to the rustls error; an `io::Error` hides what it wraps from `source()`.
fn tls_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        next = match wrapped {
            Some(inner) => Some(inner as &(dyn Error + 'static)),
            None => error.source(),
        };
    }
    None
}

pub(crate) fn unix_time(at: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

pub(crate) fn system_time(at: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(at.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_survives_the_way_through_rustls() {
        let (id, other) = ("spiffe://a/x".parse::<SpiffeId>().unwrap(), "spiffe://b/y".parse::<SpiffeId>().unwrap());
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let all = [
            Refusal::NoCertificate,
            Refusal::NotAnSvid { problem: "x".into() },
            Refusal::ForeignTrustDomain { id: id.clone(), ours: "b".parse().unwrap() },
            Refusal::UnknownAuthority,
            Refusal::Expired { not_after: at },
            Refusal::NotYetValid { not_before: at },
            Refusal::Revoked,
            Refusal::WrongIdentity { expected: id, presented: other },
            Refusal::WrongRoot { pin: RootPin::of(b"root") },
            Refusal::Unverifiable { problem: "x".into() },
        ];
        for refusal in all {
            let carried = std::io::Error::other(refusal.clone().into_rustls(unix_time(at)));
            assert_eq!(Refusal::of(&carried), Some(refusal));
        }
    }

    #[test]
    fn an_alert_is_the_peers_refusal_and_not_ours() {
        let error = std::io::Error::other(rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRevoked));
        assert_eq!(Refusal::of(&error), None);
        assert_eq!(Refusal::by_peer(&error).as_deref(), Some("CertificateRevoked"));
    }
}
