//! The pace of streams: how long one that was told something rests before it is told more.
//!
//! Lives here: how late turns come, and the rest that follows from it. Does not: who rests, and until when (`watch`, `xds`).
//! A stream that there is something to tell has its turn when the thread that carries it comes to it. That is at once while the threads keep up. When they
//! do not, each message makes all wait longer, and a rest of one length would have a queue of seconds grow. So rests grow with the time that turns
//! take to come: what changes meanwhile goes with one message, and messages become as few as the machine can carry.
//! Invariants: a turn is late from when its stream might have been told, and that is after its rest, so rests do not count as lateness and do not
//! feed themselves; where nobody has a turn nobody is late.
//! Simplifying assumption: of two turns that are counted at the same time one may be lost. An average does not miss it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// A stream rests so many times as long as it waited for its turn: what is spent in queues is a small part of what a change takes.
const TIMES: u32 = 10;
/// No stream rests longer, however late turns come.
const LONGEST: Duration = Duration::from_millis(250);
/// Turns that the average is of, roughly: a single late one in a quiet process is not to be noticed.
const TURNS: u32 = 256;
/// An average that nobody adds to is forgotten over this time.
const FORGOTTEN: Duration = Duration::from_secs(1);

/// How late turns come, of all streams. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Pace(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    /// An [`Average`] in one word.
    late: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Average {
    /// The last turn, in milliseconds since `began`; they wrap after seven weeks, when the average is kept until the next turn.
    at: u32,
    micros: u32,
}

impl Average {
    fn of(word: u64) -> Self {
        Self { at: (word >> 32) as u32, micros: word as u32 }
    }

    fn word(self) -> u64 {
        u64::from(self.at) << 32 | u64::from(self.micros)
    }

    /// What is left of it. Turns are counted by several threads, so that now may be a little before the last one.
    fn left(self, at: u32) -> u32 {
        let forgotten = FORGOTTEN.as_millis() as u64;
        let idle = u64::from(at.saturating_sub(self.at)).min(forgotten);
        (u64::from(self.micros) * (forgotten - idle) / forgotten) as u32
    }
}

impl Pace {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Shared { began: Instant::now(), late: AtomicU64::new(0) }))
    }

    /// A stream that there was something to tell since `due` has its turn.
    pub(crate) fn turn(&self, due: Instant, now: Instant) {
        let late = now.saturating_duration_since(due).min(TIMES * LONGEST).as_micros() as u32;
        let at = self.at(now);
        let before = Average::of(self.0.late.load(Ordering::Relaxed)).left(at);
        let micros = before - before.div_ceil(TURNS) + late / TURNS;
        self.0.late.store(Average { at, micros }.word(), Ordering::Relaxed);
    }

    /// How long a stream rests that is told something now; `least` where turns come in time.
    pub(crate) fn rest(&self, least: Duration, now: Instant) -> Duration {
        let late = Average::of(self.0.late.load(Ordering::Relaxed)).left(self.at(now));
        (TIMES * Duration::from_micros(late.into())).clamp(least, LONGEST.max(least))
    }

    fn at(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.0.began).as_millis() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const LEAST: Duration = Duration::from_millis(40);

    /// So many turns, one each 0.1 ms, each so late. Returns when the last was.
    fn turns(pace: &Pace, from: Instant, count: u32, late: Duration) -> Instant {
        let last = from + count * MS / 10;
        (1..=count).map(|n| from + n * MS / 10).for_each(|now| pace.turn(now - late, now));
        last
    }

    fn pace() -> (Pace, Instant) {
        let pace = Pace::new();
        let now = pace.0.began + Duration::from_secs(60);
        (pace, now)
    }

    #[test]
    fn who_has_its_turn_in_time_rests_the_least() {
        let (pace, now) = pace();
        assert_eq!(pace.rest(LEAST, now), LEAST);
        let now = turns(&pace, now, 5_000, 2 * MS);
        assert_eq!(pace.rest(LEAST, now), LEAST);
    }

    #[test]
    fn the_later_turns_come_the_longer_are_rests_up_to_a_bound() {
        let (pace, now) = pace();
        let now = turns(&pace, now, 5_000, 15 * MS);
        let rest = pace.rest(LEAST, now);
        assert!((120 * MS..=150 * MS).contains(&rest), "{rest:?}");
        let now = turns(&pace, now, 5_000, Duration::from_secs(60));
        assert_eq!(pace.rest(LEAST, now), LONGEST);
        assert_eq!(pace.rest(2 * LONGEST, now), 2 * LONGEST);
        let now = turns(&pace, now, 5_000, Duration::ZERO);
        assert_eq!(pace.rest(LEAST, now), LEAST);
    }

    #[test]
    fn one_late_turn_is_not_noticed() {
        let (pace, now) = pace();
        let now = turns(&pace, now, 1_000, MS);
        pace.turn(now - 500 * MS, now);
        assert_eq!(pace.rest(LEAST, now), LEAST);
    }

    #[test]
    fn where_nobody_has_a_turn_nobody_is_late() {
        let (pace, now) = pace();
        let now = turns(&pace, now, 5_000, 30 * MS);
        let (at_once, later) = (pace.rest(LEAST, now), pace.rest(LEAST, now + FORGOTTEN / 2));
        assert!(LEAST < later && later < at_once, "{later:?} {at_once:?}");
        assert_eq!(pace.rest(LEAST, now + FORGOTTEN), LEAST);
        pace.turn(now, now - MS); // by a thread whose clock was read earlier
        assert!(pace.rest(LEAST, now - MS) > LEAST);
    }
}
