//! Waiting until nobody sends calls to an instance any more.
//!
//! Lives here: the wait, over all views that know their readers. Does not: who holds what (`acks`, `views::xds`), marking an instance (`catalog`).

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use weft_model::{InstanceId, ServiceName, Version};

use crate::{
    acks::Standing,
    metrics::DrainMetrics,
    views::{watch::Watches, xds::Xds},
};

/// How a drain ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Drained {
    /// Everyone alive who held the instance acknowledged.
    pub(crate) acknowledged: bool,
    /// Who did not, by name.
    pub(crate) waiting: Vec<String>,
    /// Who held it, by name; xDS clients only if they had to be waited for.
    pub(crate) waited_for: Vec<String>,
}

/// The views whose readers a drain waits for.
#[derive(Debug, Clone)]
pub(crate) struct Drains {
    watches: Watches,
    xds: Xds,
    metrics: DrainMetrics,
}

impl Drains {
    pub(crate) fn new(watches: &Watches, xds: &Xds, metrics: &weft_runtime::Metrics) -> Self {
        Self { watches: watches.clone(), xds: xds.clone(), metrics: DrainMetrics::register(metrics) }
    }

    /// Waits until everyone alive who held an instance acts on `version`, at which it drains, but not beyond `until`.
    pub(crate) async fn drained(
        &self,
        service: &ServiceName,
        instance: &InstanceId,
        version: Version,
        until: Instant,
    ) -> Drained {
        let (mut watched, mut streamed) = (self.watches.progress(), self.xds.progress());
        let (mut watchers, mut streams) = (None, None);
        loop {
            let now = Instant::now();
            watchers = watchers.or_else(|| self.watches.drain(service, instance, version, now));
            streams = streams.or_else(|| self.xds.drain(service, version, now));
            // A view that is not at the version yet is waited for as a reader would be.
            let both = [
                watchers.as_ref().map_or(Standing::Until(until), |drain| self.watches.standing(drain, now)),
                streams.as_ref().map_or(Standing::Until(until), |drain| drain.standing(&self.xds, now)),
            ];
            let next = both.into_iter().filter_map(Standing::until).min();
            let Some(next) = next.filter(|_| now < until) else { break };
            tokio::select! {
                _ = watched.changed() => {}
                _ = streamed.changed() => {}
                () = sleep_until(next.min(until)) => {}
            }
        }
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        let waiting = watchers.iter().flat_map(|drain| self.watches.waiting(drain));
        let waiting = sorted(waiting.chain(streams.iter().flat_map(|drain| drain.waiting(&self.xds))).collect());
        let waited_for = watchers.iter().flat_map(|drain| drain.waited_for());
        let waited_for = sorted(waited_for.chain(streams.iter().flat_map(|drain| drain.waited_for())).collect());
        let acknowledged = watchers.is_some() && streams.is_some() && waiting.is_empty();
        self.metrics.drained(acknowledged);
        Drained { acknowledged, waiting, waited_for }
    }
}

/// Default and longest wait of a drain (proto, DrainRequest.at_most_ms).
pub(crate) fn bound(at_most_ms: u32) -> Duration {
    Duration::from_millis(if at_most_ms == 0 { 5_000 } else { at_most_ms.min(60_000) }.into())
}
