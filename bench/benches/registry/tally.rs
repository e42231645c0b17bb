//! What a run counts: latencies by kind of reader, and when what was removed.
//!
//! Lives here: collecting and summing up. Does not: clocks (`population`), printing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Latencies in µs, from many tasks.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Mutex<Vec<u32>>);

/// Sum of latencies, in ms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    /// How many there were.
    pub(crate) count: usize,
    /// Half are lower.
    pub(crate) p50: f64,
    /// 99 % are lower.
    pub(crate) p99: f64,
    /// The highest.
    pub(crate) max: f64,
}

impl Latencies {
    /// Adds what one task saw, in ns.
    pub(crate) fn extend(&self, nanos: impl IntoIterator<Item = u64>) {
        let micros = nanos.into_iter().map(|it| u32::try_from(it / 1_000).unwrap_or(u32::MAX));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(micros);
    }

    /// Takes everything and sums it up; None if nothing came.
    pub(crate) fn take(&self) -> Option<Spread> {
        let mut all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        all.sort_unstable();
        let at = |share: f64| {
            let index = ((all.len() as f64 * share) as usize).min(all.len().checked_sub(1)?);
            Some(f64::from(all[index]) / 1_000.0)
        };
        Some(Spread { count: all.len(), p50: at(0.5)?, p99: at(0.99)?, max: at(1.0)? })
    }
}

const SHARDS: usize = 64;

/// When which instance was asked to leave, ns since the run began.
#[derive(Debug)]
pub(crate) struct Departures([Mutex<HashMap<u128, u64>>; SHARDS]);

impl Default for Departures {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Departures {
    fn shard(&self, id: u128) -> &Mutex<HashMap<u128, u64>> {
        &self.0[(id % SHARDS as u128) as usize]
    }

    /// It is asked to leave at `now`.
    pub(crate) fn note(&self, id: u128, now: u64) {
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).insert(id, now);
    }

    /// When it was asked to leave.
    pub(crate) fn when(&self, id: u128) -> Option<u64> {
        self.shard(id).lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }
}
