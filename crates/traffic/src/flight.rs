//! A flight: one attempt on its endpoint, from pick to the end of the answer, and what the endpoint's record gets from it.
//!
//! Lives here: when time is taken, which end is recorded on a drop. Does not: the judgement of codes (`outcome`), the record (`endpoint`).
//! Invariant: each flight ends in exactly one of `unprocessed`, `settle` and drop; whichever it is, nothing stays counted in flight.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    endpoint::{Endpoint, InFlight},
    outcome::Outcome,
    pool::Stream,
    ticks::{Clock, Ticks},
};

pub(crate) struct Flight {
    in_flight: InFlight,
    cluster: Arc<Cluster>,
    /// The connection's count of this stream.
    stream: Option<Stream>,
    clock: Clock,
    began: Ticks,
    deadline: Option<Instant>,
    timed: bool,
    settled: bool,
}

impl Flight {
    pub(crate) fn begin(
        endpoint: &Arc<Endpoint>,
        cluster: &Arc<Cluster>,
        clock: Clock,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            in_flight: endpoint.enter(),
            cluster: cluster.clone(),
            stream: None,
            clock,
            began: clock.now(),
            deadline,
            timed: false,
            settled: false,
        }
    }

    pub(crate) fn on(&mut self, stream: Stream) -> &Stream {
        self.stream.insert(stream)
    }

    fn endpoint(&self) -> &Endpoint {
        self.in_flight.endpoint()
    }

    /// No application saw it, through no fault that balancing should learn from.
    pub(crate) fn unprocessed(mut self) {
        self.settled = true;
    }

    /// No application saw it, since the endpoint cannot take calls now.
    pub(crate) fn unreachable(mut self) {
        self.settled = true;
        self.endpoint().unreachable(self.clock.now(), &mut rand::rng());
    }

    /// Response headers came.
    pub(crate) fn answered(&self) {
        self.endpoint().answered();
    }

    /// The first body frame came: what balancing goes by.
    pub(crate) fn first_frame(&mut self) {
        if !self.timed {
            self.timed = true;
            let now = self.clock.now();
            self.endpoint().took(now.since(self.began), now);
        }
    }

    /// Whether the call's deadline has passed.
    pub(crate) fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// The answer is complete, or will never be.
    pub(crate) fn settle(&mut self, outcome: Outcome) {
        if self.settled {
            return;
        }
        self.settled = true;
        self.first_frame();
        let now = self.clock.now();
        let endpoint = self.in_flight.endpoint();
        let others = || self.cluster.others(endpoint, now);
        if endpoint.judge(outcome, now, others, &mut rand::rng()) {
            self.cluster.shared.metrics.ejections.inc();
            let address = endpoint.model().address;
            tracing::info!(service = %self.cluster.name(), %address, "endpoint ejected for failing");
        }
    }
}

/// Dropped before the end: the deadline counts as failure, a caller that left says nothing about the endpoint but the time that passed.
impl Drop for Flight {
    fn drop(&mut self) {
        if !self.settled {
            let late = self.is_late();
            self.settle(if late { Outcome::DEADLINE } else { Outcome::CANCELLED });
        }
    }
}
