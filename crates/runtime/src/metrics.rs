//! Metrics: the process's one registry, filled by roles and layers, read by `/metrics`.
//!
//! Lives here: the registry and its text form (OpenMetrics 1.0). Does not: any metric of a role.
//! Locking: one mutex, taken at registration and at a scrape; counting itself goes through the metric handles and touches no lock of ours.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{encoding::text, registry::Registry};

/// Content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A handle on the process's metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Mutex<Registry>>);

impl Metrics {
    /// Lends the registry for registration. Metric names are whole: `weft_<role>_<noun>_<unit>`, or an OTel name.
    pub fn register<R>(&self, with: impl FnOnce(&mut Registry) -> R) -> R {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns everything registered as OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut out = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut out, &registry).expect("writing to a String cannot fail");
        out
    }
}
