//! An endpoint of a process's world: its address, and all that calls have taught about it.
//!
//! Lives here: the counted state (in atomics, shared by data threads) and how an attempt's end enters it. Does not: choosing (`cluster`), connections (`pool`).
//! Invariant: one `Endpoint` per key and process as long as worlds name it; a change of world does not make it forget.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use rand::Rng;
use tokio_util::sync::{CancellationToken, DropGuard};
use weft_model::{self as model, InstanceId};

use crate::{
    backoff::Backoff,
    breaker::{Breaker, Others},
    ewma::PeakEwma,
    outcome::{Outcome, Verdict},
    rest::{Rest, State},
    ticks::{Clock, Ticks},
};

/// How long a probe may go unanswered before the next one: the connect timeout's order.
const PROBE_HOLD: Duration = Duration::from_secs(1);

/// What makes an endpoint the same in two worlds. A restarted process has a new id, thus a clean record; static endpoints have none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) instance: Option<InstanceId>,
    pub(crate) endpoint: model::Endpoint,
}

/// Process-wide number of an endpoint, for pools and for the attempts of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct EndpointId(u64);

#[derive(Debug)]
pub(crate) struct Endpoint {
    id: EndpointId,
    key: Key,
    in_flight: AtomicU32,
    ewma: PeakEwma,
    breaker: Breaker,
    reach: Rest,
    gone: CancellationToken,
    _gone_on_drop: DropGuard,
}

impl Endpoint {
    pub(crate) fn new(key: Key, clock: Clock) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0); // names, not state: two processes' numbers never meet
        let gone = CancellationToken::new();
        Self {
            id: EndpointId(NEXT.fetch_add(1, Relaxed)),
            key,
            in_flight: AtomicU32::new(0),
            ewma: PeakEwma::new(clock.now()),
            breaker: Breaker::new(),
            reach: Rest::new(Backoff::CONNECT),
            _gone_on_drop: gone.clone().drop_guard(),
            gone,
        }
    }

    pub(crate) fn id(&self) -> EndpointId {
        self.id
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn model(&self) -> &model::Endpoint {
        &self.key.endpoint
    }

    /// The instance behind it; none where a file names addresses only.
    pub(crate) fn instance(&self) -> Option<InstanceId> {
        self.key.instance
    }

    /// Cancelled when no world and no call holds the endpoint any more.
    pub(crate) fn gone(&self) -> &CancellationToken {
        &self.gone
    }

    /// Whether it may be picked: the worse of unreachable and ejected.
    pub(crate) fn state(&self, now: Ticks) -> State {
        match (self.reach.state(now), self.breaker.ejection().state(now)) {
            (State::Active, State::Active) => State::Active,
            (State::Resting, _) | (_, State::Resting) => State::Resting,
            (State::Due, _) | (_, State::Due) => State::Due,
        }
    }

    /// Takes the right to send the one probe to an endpoint that is due.
    pub(crate) fn claim(&self, now: Ticks) -> bool {
        let claims = |rest: &Rest| match rest.state(now) {
            State::Active => true,
            State::Due => rest.claim(now, PROBE_HOLD),
            State::Resting => false,
        };
        claims(&self.reach) && claims(self.breaker.ejection())
    }

    /// Expected cost of one more call: estimate × (in flight + 1), for weight 1.
    pub(crate) fn cost(&self, now: Ticks) -> f32 {
        self.ewma.micros(now) * (self.in_flight.load(Relaxed) + 1) as f32
    }

    /// Calls in flight, over all data threads.
    #[cfg(test)]
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Counts an attempt until the guard drops.
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(self.clone())
    }

    /// It could not be reached, or refused a call unprocessed: out of picks at once, tried again after the connect back-off.
    pub(crate) fn unreachable(&self, now: Ticks, rng: &mut impl Rng) {
        self.reach.strike(now, rng);
    }

    /// It answered: it is there.
    pub(crate) fn answered(&self) {
        self.reach.clear();
    }

    /// Counts the time to the first body frame, or to the end if that came first.
    pub(crate) fn took(&self, time: Duration, now: Ticks) {
        self.ewma.observe(time, now);
    }

    /// Counts an attempt's end. Returns true if it ejected the endpoint just now.
    pub(crate) fn judge(
        &self,
        outcome: Outcome,
        now: Ticks,
        others: impl FnOnce() -> Others,
        rng: &mut impl Rng,
    ) -> bool {
        if let Some(penalty) = outcome.penalty {
            self.ewma.penalize(penalty, now);
        }
        match outcome.verdict {
            Verdict::Good => {
                self.breaker.succeeded(now);
                false
            }
            Verdict::Bad => self.breaker.failed(now, others, rng),
            Verdict::Neutral => false,
        }
    }
}

/// Counts one attempt in flight until dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Endpoint>);

impl InFlight {
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}
