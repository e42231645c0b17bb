//! Refusals: each is counted by its rule, logged, and told to the caller by the same name.
//!
//! Lives here: counting, logging, the status. Does not: the rules (`access`, `ca`, `server`).
//! A rule is logged at most once a second, so that strangers cannot fill a disk; each refusal is counted.

use std::{fmt::Display, net::SocketAddr};

use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};
use weft_runtime::strangers::Rarely;

use crate::metrics::IdentityMetrics;

/// Rule for callers that show no certificate where one is needed.
pub(crate) const NO_CERTIFICATE: &str = "no_certificate";

/// Where refusals are noted. Clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals {
    metrics: IdentityMetrics,
    rarely: Rarely,
}

impl Refusals {
    pub(crate) fn new(metrics: IdentityMetrics) -> Self {
        Self { metrics, rarely: Rarely::default() }
    }

    /// Notes one. `rule` is one of the closed sets of `Refusal::rule`, `TokenError::rule`, `ReviewError::rule` and the constants of those who ask.
    pub(crate) fn note(&self, rule: &'static str, from: Option<SocketAddr>, why: &dyn Display) {
        self.metrics.refused(rule);
        let from = from.map(tracing::field::display);
        if self.rarely.may_log(rule, Instant::now()) {
            tracing::warn!(rule, from, %why, "caller refused");
        } else {
            tracing::debug!(rule, from, %why, "caller refused");
        }
    }

    /// Notes one and returns what the caller is told.
    pub(crate) fn status(&self, code: Code, rule: &'static str, why: &str) -> Status {
        self.note(rule, None, &why);
        Status::with_error_details(code, why, ErrorDetails::with_error_info(rule.to_ascii_uppercase(), "weft", []))
    }

    /// For a caller that shows no certificate.
    pub(crate) fn nobody(&self) -> Status {
        self.status(Code::Unauthenticated, NO_CERTIFICATE, "no certificate was presented")
    }
}
