//! A hierarchical timer wheel: when does the lease of which key run out next.
//!
//! Lives here: scheduling and firing by tick. Does not: what a firing means (`leases`).
//! ```text
//! level 0   64 slots of 1 tick        level 1   64 slots of 64 ticks        … 4 levels; what is further away waits in the last slot
//! ```
//! Scheduling, cancelling and firing cost O(1) each; a tick that passes 64^n ticks moves one slot down a level. A key has one deadline at a time.
//! One that is put off, as each beat does it, leaves its entry where it is: that moves on when its slot is reached, so a key has one entry however
//! often it is put off. Entries of a key that was cancelled or brought forward die when their slot is reached. Never early; late by less than
//! one granule plus the caller's own delay.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;

const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 4;
const HORIZON: Tick = 1 << (BITS * 4);

/// Granules since the origin. They last for 27 years of 200 ms each; very many keys have some.
type Tick = u32;

#[derive(Debug)]
pub(super) struct Wheel<K> {
    origin: Instant,
    granule: Duration,
    /// The last tick that was fired.
    tick: Tick,
    /// `levels[level][slot]`: keys with the tick they were put there for.
    levels: [Vec<Vec<(K, Tick)>>; LEVELS],
    due: HashMap<K, Due>,
}

/// The one deadline of a key.
#[derive(Debug, Clone, Copy)]
struct Due {
    /// The tick that it fires at.
    at: Tick,
    /// The tick of its entry, not after that; any other entry of the key is dead.
    placed: Tick,
}

impl<K: Copy + Eq + Hash> Wheel<K> {
    pub(super) fn new(origin: Instant, granule: Duration) -> Self {
        let levels = std::array::from_fn(|_| (0..SLOTS).map(|_| Vec::new()).collect());
        Self { origin, granule, tick: 0, levels, due: HashMap::new() }
    }

    /// Fires `key` at `at` (at the next tick if that is past) and no longer at what was scheduled before.
    pub(super) fn schedule(&mut self, key: K, at: Instant) {
        let since = at.saturating_duration_since(self.origin).as_nanos();
        let ticks = Tick::try_from(since.div_ceil(self.granule.as_nanos())).unwrap_or(Tick::MAX);
        let tick = ticks.max(self.tick + 1);
        match self.due.get_mut(&key) {
            Some(due) if due.placed <= tick => due.at = tick,
            _ => {
                self.due.insert(key, Due { at: tick, placed: tick });
                self.place(key, tick);
            }
        }
    }

    /// Forgets `key`.
    pub(super) fn cancel(&mut self, key: &K) {
        self.due.remove(key);
    }

    /// Returns the keys that are due at `now`, each once.
    pub(super) fn advance(&mut self, now: Instant) -> Vec<K> {
        let passed = now.saturating_duration_since(self.origin).as_nanos() / self.granule.as_nanos();
        let target = Tick::try_from(passed).unwrap_or(Tick::MAX);
        let mut fired = Vec::new();
        while self.tick < target {
            if self.due.is_empty() {
                self.clear(); // nothing but the dead: skip the ticks in between
                self.tick = target;
                break;
            }
            self.tick += 1;
            self.cascade();
            self.fire(&mut fired);
        }
        fired
    }

    fn place(&mut self, key: K, tick: Tick) {
        let tick_in_reach = tick.min(self.tick + HORIZON - 1);
        let distance = tick_in_reach - self.tick;
        let level = (0..LEVELS).find(|l| distance < 1 << (BITS * (*l as u32 + 1))).unwrap_or(LEVELS - 1);
        self.levels[level][slot(tick_in_reach, level)].push((key, tick));
    }

    /// Moves what comes near one level down, from the top, so that it can fall through several.
    fn cascade(&mut self) {
        for level in (1..LEVELS).rev() {
            if self.tick.is_multiple_of(1 << (BITS * level as u32)) {
                for (key, tick) in std::mem::take(&mut self.levels[level][slot(self.tick, level)]) {
                    self.move_on(key, tick);
                }
            }
        }
    }

    fn fire(&mut self, fired: &mut Vec<K>) {
        for (key, tick) in std::mem::take(&mut self.levels[0][slot(self.tick, 0)]) {
            if self.due.get(&key).is_some_and(|due| due.placed == tick && due.at == tick) {
                self.due.remove(&key);
                fired.push(key);
            } else {
                self.move_on(key, tick);
            }
        }
    }

    /// Puts an entry that is reached where its key is due now, unless it is dead.
    fn move_on(&mut self, key: K, tick: Tick) {
        if let Some(due) = self.due.get_mut(&key).filter(|due| due.placed == tick) {
            due.placed = due.at;
            let at = due.at;
            self.place(key, at);
        }
    }

    fn clear(&mut self) {
        self.levels.iter_mut().flatten().for_each(Vec::clear);
    }
}

fn slot(tick: Tick, level: usize) -> usize {
    (tick >> (BITS * level as u32)) as usize % SLOTS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Schedule { key: u8, in_ms: u64 },
        Cancel { key: u8 },
        Advance { by_ms: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        // Near and far deadlines, small and large advances: every level and every cascade is met.
        let far = prop_oneof![0..2_000u64, 0..500_000u64, 0..30_000_000u64];
        let by = prop_oneof![0..300u64, 0..20_000u64, 0..9_000_000u64];
        prop_oneof![
            4 => (any::<u8>(), far).prop_map(|(key, in_ms)| Step::Schedule { key, in_ms }),
            1 => any::<u8>().prop_map(|key| Step::Cancel { key }),
            3 => by.prop_map(|by_ms| Step::Advance { by_ms }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_fires_what_a_sorted_map_would(steps in prop::collection::vec(step(), 1..60)) {
            const GRANULE: u64 = 100;
            let origin = Instant::now();
            let mut wheel = Wheel::new(origin, Duration::from_millis(GRANULE));
            let mut naive: BTreeMap<u8, u64> = BTreeMap::new(); // key → the tick at which it must fire
            let mut now_ms = 0u64;
            for step in steps {
                let at = |ms| origin + Duration::from_millis(ms);
                match step {
                    Step::Schedule { key, in_ms } => {
                        wheel.schedule(key, at(now_ms + in_ms));
                        naive.insert(key, (now_ms + in_ms).div_ceil(GRANULE).max(now_ms / GRANULE + 1));
                    }
                    Step::Cancel { key } => {
                        wheel.cancel(&key);
                        naive.remove(&key);
                    }
                    Step::Advance { by_ms } => {
                        now_ms += by_ms;
                        let mut fired = wheel.advance(at(now_ms));
                        fired.sort_unstable();
                        let due: Vec<u8> =
                            naive.iter().filter(|(_, tick)| **tick <= now_ms / GRANULE).map(|(k, _)| *k).collect();
                        naive.retain(|_, tick| *tick > now_ms / GRANULE);
                        prop_assert_eq!(fired, due);
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_put_off_time_and_again_is_there_once() {
        let origin = Instant::now();
        let granule = Duration::from_millis(1);
        let mut wheel = Wheel::new(origin, granule);
        for n in 0..5_000 {
            let now = origin + n * granule;
            assert_eq!(wheel.advance(now), [] as [i32; 0]);
            (0..3).for_each(|key| wheel.schedule(key, now + 100 * granule));
            let entries: usize = wheel.levels.iter().flatten().map(Vec::len).sum();
            assert_eq!(entries, 3);
        }
        assert_eq!(wheel.advance(origin + 5_098 * granule), [] as [i32; 0]);
        let mut fired = wheel.advance(origin + 5_099 * granule);
        fired.sort_unstable();
        assert_eq!(fired, [0, 1, 2]);
    }

    #[test]
    fn a_deadline_beyond_the_horizon_waits_its_turn() {
        let origin = Instant::now();
        let granule = Duration::from_millis(1);
        let mut wheel = Wheel::new(origin, granule);
        let far = Duration::from_millis((HORIZON + 5).into());
        wheel.schedule(1, origin + far);
        assert_eq!(wheel.advance(origin + far - granule), [] as [i32; 0]);
        assert_eq!(wheel.advance(origin + far), [1]);
    }
}
