//! Metrics of the sidecar itself; those of calls are `weft-traffic`'s.
//!
//! Lives here: names and help. Does not: when they are counted.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use weft_model::Status;

/// Handles on the sidecar's metrics; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    /// Starts of the app after the first.
    pub(crate) restarts: Counter,
    serving: Gauge,
}

impl Metrics {
    pub(crate) fn register(metrics: &weft_runtime::Metrics) -> Self {
        let it = Self::default();
        metrics.register(|registry| {
            registry.register("weft_sidecar_app_restarts", "Starts of the app after the first", it.restarts.clone());
            registry.register("weft_sidecar_app_serving", "1 while the app takes calls, else 0", it.serving.clone());
        });
        it
    }

    pub(crate) fn status(&self, status: Status) {
        self.serving.set(i64::from(status.takes_calls()));
    }
}
