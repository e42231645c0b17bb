//! What callers that nobody knows may cost a process: how many are held at a time, how often they write into its log.
//!
//! Lives here: the two bounds. Does not: who is a stranger, what is counted of one (listeners of the roles).
//! Both are a lock around a small map, held for one look: no await, and not on the path of a request.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Between two lines in the log for the same rule.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// So many at a time; one more displaces the oldest, so that those who are slow on purpose stand in nobody's way. Clones are one.
#[derive(Debug, Clone)]
pub struct Crowd(Arc<Mutex<Queue>>);

/// Oldest first.
#[derive(Debug)]
struct Queue {
    most: usize,
    next: u64,
    waiting: BTreeMap<u64, CancellationToken>,
}

/// A place in the crowd; given back when dropped.
#[derive(Debug)]
pub struct Member {
    number: u64,
    displaced: CancellationToken,
    crowd: Crowd,
}

impl Crowd {
    /// Returns an empty crowd of at most `most`.
    pub fn of(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Queue { most, next: 0, waiting: BTreeMap::new() })))
    }

    /// Takes a place, the oldest one's if all are taken.
    pub fn enter(&self) -> Member {
        let displaced = CancellationToken::new();
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let number = queue.next;
        queue.next += 1;
        queue.waiting.insert(number, displaced.clone());
        let oldest = if queue.waiting.len() > queue.most { queue.waiting.pop_first() } else { None };
        drop(queue);
        if let Some((_, oldest)) = oldest {
            oldest.cancel();
        }
        Member { number, displaced, crowd: self.clone() }
    }
}

impl Member {
    /// Waits until somebody else has the place. Cancel-safe.
    pub async fn displaced(&self) {
        self.displaced.cancelled().await;
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner).waiting.remove(&self.number);
    }
}

/// Lets each rule be logged once a second: strangers do not write our log. Clones are one.
#[derive(Debug, Clone, Default)]
pub struct Rarely(Arc<Mutex<HashMap<&'static str, Instant>>>);

impl Rarely {
    /// Whether it is time to log a refusal by `rule`; notes that it is.
    pub fn may_log(&self, rule: &'static str, now: Instant) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = logged.get(rule).is_none_or(|last| now.duration_since(*last) >= LOG_EVERY);
        if due {
            logged.insert(rule, now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_too_many_displaces_the_oldest_that_is_still_there() {
        const MOST: usize = 8;
        let all = Crowd::of(MOST);
        let first = all.enter();
        drop(all.enter());
        let mut others: Vec<_> = (1..MOST).map(|_| all.enter()).collect();
        assert!(!first.displaced.is_cancelled(), "as many as may be");
        others.push(all.enter());
        assert!(first.displaced.is_cancelled());
        assert!(others.iter().all(|it| !it.displaced.is_cancelled()));
        drop((first, others));
        assert!(all.0.lock().unwrap().waiting.is_empty(), "nobody is forgotten in the queue");
    }

    #[test]
    fn a_flood_is_logged_once_a_second_and_hides_no_other_rule() {
        let (rarely, began) = (Rarely::default(), Instant::now());
        let at = |ms: u64| began + Duration::from_millis(ms);
        let logged = (0..100u64).filter(|n| rarely.may_log("flood", at(n * 30))).count();
        assert_eq!(logged, 3, "in three seconds");
        assert!(rarely.may_log("other", at(2_990)));
    }
}
