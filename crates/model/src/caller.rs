//! Callers: who is behind an accepted connection, as far as it was proven.
//!
//! Lives here: the fact, as inbound listeners tell it to what judges a call. Does not: the proof (`weft-identity`), the judgement.

use std::fmt;

use crate::SpiffeId;

/// Who calls. Set once for each accepted connection, and read from the extensions of each request that comes in on it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Nobody that could be proven: plaintext, or TLS without a certificate. Access rules apply to it as to anybody.
    Anonymous,
    /// The identity its certificate proved.
    Identity(SpiffeId),
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anonymous"),
            Self::Identity(id) => id.fmt(f),
        }
    }
}
