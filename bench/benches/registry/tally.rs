//! What a run counts: latencies by kind of reader, and when each change was asked for.
//!
//! Lives here: collecting and summing up. Does not: printing (`run`).

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<Fast>>;
pub(crate) type FastSet<T> = HashSet<T, BuildHasherDefault<Fast>>;

/// A hash for the names and numbers of a population, which nobody chooses so that they collide.
#[derive(Debug, Default)]
pub(crate) struct Fast(u64);

impl Hasher for Fast {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15); // 2⁶⁴ by the golden ratio
    }

    /// A product's high bits are its good ones, and a map goes by the low ones.
    fn finish(&self) -> u64 {
        self.0.rotate_left(26)
    }
}

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
    /// Adds what one task saw.
    pub(crate) fn extend(&self, seen: impl IntoIterator<Item = Duration>) {
        let micros = seen.into_iter().map(|it| u32::try_from(it.as_micros()).unwrap_or(u32::MAX));
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

/// A change of the population.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Change {
    /// The instance with this number registers.
    Comes(u64),
    /// It leaves.
    Goes(u64),
}

const SHARDS: u64 = 64;

/// When which change was asked for.
#[derive(Debug)]
pub(crate) struct Asked([Mutex<FastMap<Change, Instant>>; SHARDS as usize]);

impl Default for Asked {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::default()))
    }
}

impl Asked {
    fn shard(&self, change: Change) -> &Mutex<FastMap<Change, Instant>> {
        let (Change::Comes(number) | Change::Goes(number)) = change;
        &self.0[(number % SHARDS) as usize]
    }

    /// It is asked for now.
    pub(crate) fn note(&self, change: Change) {
        self.shard(change).lock().unwrap_or_else(PoisonError::into_inner).insert(change, Instant::now());
    }

    /// How long ago it was asked for.
    pub(crate) fn since(&self, change: Change) -> Option<Duration> {
        Some(self.shard(change).lock().unwrap_or_else(PoisonError::into_inner).get(&change)?.elapsed())
    }
}
