//! Metrics of the sidecar itself; those of calls are `weft-traffic`'s.
//!
//! Lives here: names and help. Does not: when they are counted.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use weft_model::Status;

/// Handles on the sidecar's metrics; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    /// Starts of the app after the first.
    pub(crate) restarts: Counter,
    serving: Gauge,
    refusals: Family<Rule, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Rule {
    rule: &'static str,
}

impl Metrics {
    pub(crate) fn register(metrics: &weft_runtime::Metrics) -> Self {
        let it = Self::default();
        metrics.register(|registry| {
            registry.register("weft_sidecar_app_restarts", "Starts of the app after the first", it.restarts.clone());
            registry.register(
                "weft_sidecar_inbound_refusals",
                "Connections to inbound that were not let in, or were cut, by rule",
                it.refusals.clone(),
            );
            registry.register("weft_sidecar_app_serving", "1 while the app takes calls, else 0", it.serving.clone());
        });
        it
    }

    /// Counts a caller that a rule forbids; the rules are a closed set.
    pub(crate) fn refused(&self, rule: &'static str) {
        self.refusals.get_or_create(&Rule { rule }).inc();
    }

    pub(crate) fn status(&self, status: Status) {
        self.serving.set(i64::from(status.takes_calls()));
    }
}
