//! Where answers lie: so many bytes in memory, the least recently used goes first.
//!
//! Lives here: keys, sizes, eviction. Does not: what may be kept (`cache::control`), what is fresh (`cache`).
//! Two sorts of things lie side by side. A *resource* stands for a path, and says which request headers its answers depend on. It has a number of its
//! own, which is part of the key of each of its answers: without the resource none of them is found again, however many there are.
//! ```text
//! path, however it is spelt ──► resource { number, vary } ──► number, caller, host, path, query, values of the headers in vary ──► answer
//! ```
//! Invariants: a part never holds more than its share of the bytes, keys and estimated overhead included; a lock is held for one look or one change.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hashlink::LinkedHashMap;
use http::{HeaderMap, HeaderName, StatusCode};
use prometheus_client::metrics::gauge::Gauge;
use weft_transcode::{MethodPlan, settings::JsonOutput};

/// Parts, so that threads seldom meet.
const PARTS: usize = 16;
/// What an entry costs beside its bytes: nodes, pointers, counts.
const OVERHEAD: usize = 256;

/// Names something that is kept.
pub(super) type Key = Box<[u8]>;

/// The answers of one path.
#[derive(Debug)]
pub(super) struct Resource {
    /// No other resource has or had it.
    pub(super) number: u64,
    /// Request headers that its answers depend on, as far as they have said.
    pub(super) vary: Box<[HeaderName]>,
    /// How the path was answered: gone, or another one, means that the routes have changed. A `Weak` keeps its address from being given to another plan.
    pub(super) plan: Weak<MethodPlan>,
    /// By which version of which policy.
    pub(super) rules: u64,
    /// How a policy had it printed.
    pub(super) printed: Option<JsonOutput>,
    /// After which change of its service.
    pub(super) changes: u64,
}

/// An answer, and what it is an answer to.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether the `ETag` is ours, and not the service's.
    pub(super) own_tag: bool,
    pub(super) since: Instant,
    pub(super) fresh: Duration,
    /// Request headers that it depends on, and what these were.
    pub(super) vary: Box<[HeaderName]>,
    pub(super) varied: Box<[u8]>,
}

/// What lies under a key.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    Resource(Arc<Resource>),
    Answer(Arc<Kept>),
    /// No answer was kept, and until then nobody waits for another's.
    Alone(Instant),
}

impl Slot {
    fn bytes(&self) -> usize {
        let of_headers =
            |it: &HeaderMap| it.iter().map(|(name, value)| name.as_str().len() + value.len() + 64).sum::<usize>();
        match self {
            Self::Resource(it) => it.vary.len() * size_of::<HeaderName>(),
            Self::Answer(it) => it.body.len() + of_headers(&it.headers) + it.varied.len(),
            Self::Alone(_) => 0,
        }
    }
}

/// Everything that a gateway keeps.
#[derive(Debug)]
pub(super) struct Store {
    parts: Box<[Mutex<Part>]>,
    hasher: RandomState,
    /// Bytes that a part may hold.
    share: usize,
    numbers: AtomicU64,
    bytes: Gauge,
}

#[derive(Debug)]
struct Part {
    /// The least recently used one first.
    slots: LinkedHashMap<Key, Slot, RandomState>,
    bytes: usize,
}

impl Store {
    /// Holds at most so many bytes; tells the gauge how many.
    pub(super) fn new(most: usize, bytes: Gauge) -> Self {
        let hasher = RandomState::new();
        let part = || Mutex::new(Part { slots: LinkedHashMap::with_hasher(hasher.clone()), bytes: 0 });
        let parts = (0..PARTS).map(|_| part()).collect();
        Self { parts, share: most / PARTS, numbers: AtomicU64::new(0), bytes, hasher }
    }

    /// Longest body that is kept: so that one answer does not displace all others of its part.
    pub(super) fn longest(&self) -> usize {
        self.share / 4
    }

    /// Returns a number that nothing else has.
    pub(super) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns what lies under a key, as just used.
    pub(super) fn get(&self, key: &[u8]) -> Option<Slot> {
        self.part(key).slots.to_back(key).map(|slot| slot.clone())
    }

    /// Returns the resource of a key, if it `holds`, else a new one; whoever asks at the same time gets the same.
    pub(super) fn resource(
        &self,
        key: &[u8],
        holds: impl FnOnce(&Resource) -> bool,
        make: impl FnOnce() -> Resource,
    ) -> Arc<Resource> {
        let mut part = self.part(key);
        if let Some(Slot::Resource(it)) = part.slots.to_back(key)
            && holds(it)
        {
            return Arc::clone(it);
        }
        let made = Arc::new(make());
        self.put_into(&mut part, key.into(), Slot::Resource(Arc::clone(&made)));
        made
    }

    /// Replaces a resource, unless it has been replaced or forgotten meanwhile; returns the new one.
    pub(super) fn replace(&self, key: &[u8], known: &Resource, by: Resource) -> Option<Arc<Resource>> {
        let mut part = self.part(key);
        match part.slots.get(key) {
            Some(Slot::Resource(it)) if it.number == known.number => {
                let made = Arc::new(by);
                self.put_into(&mut part, key.into(), Slot::Resource(Arc::clone(&made)));
                Some(made)
            }
            _ => None,
        }
    }

    /// Keeps something, and forgets what no longer has room.
    pub(super) fn put(&self, key: Key, slot: Slot) {
        self.put_into(&mut self.part(&key), key, slot);
    }

    /// Forgets what lies under a key; says whether anything did.
    pub(super) fn forget(&self, key: &[u8]) -> bool {
        let mut part = self.part(key);
        let gone = part.slots.remove_entry(key);
        gone.is_some_and(|(key, slot)| self.gone(&mut part, &key, &slot))
    }

    fn put_into(&self, part: &mut Part, key: Key, slot: Slot) {
        if let Some((key, before)) = part.slots.remove_entry(&key) {
            self.gone(part, &key, &before);
        }
        let bytes = size(&key, &slot);
        if bytes > self.share {
            return;
        }
        part.bytes += bytes;
        self.bytes.inc_by(signed(bytes));
        part.slots.insert(key, slot);
        while part.bytes > self.share
            && let Some((key, slot)) = part.slots.pop_front()
        {
            self.gone(part, &key, &slot);
        }
    }

    fn gone(&self, part: &mut Part, key: &[u8], slot: &Slot) -> bool {
        let bytes = size(key, slot);
        part.bytes -= bytes;
        self.bytes.dec_by(signed(bytes));
        true
    }

    fn part(&self, key: &[u8]) -> MutexGuard<'_, Part> {
        let at = usize::try_from(self.hasher.hash_one(key) >> 60).expect("four bits fit"); // the map goes by other bits
        self.parts[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size(key: &[u8], slot: &Slot) -> usize {
    key.len() + slot.bytes() + OVERHEAD
}

fn signed(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Slot {
        Slot::Answer(Arc::new(Kept {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from(vec![b'x'; bytes]),
            own_tag: true,
            since: Instant::now(),
            fresh: Duration::ZERO,
            vary: Box::default(),
            varied: Box::default(),
        }))
    }

    fn key(text: &str) -> Key {
        text.as_bytes().into()
    }

    #[test]
    fn there_are_never_more_bytes_than_allowed_and_the_gauge_knows() {
        let (most, gauge) = (PARTS * 8_192, Gauge::default());
        let store = Store::new(most, gauge.clone());
        for n in 0..2_000 {
            store.put(key(&format!("k{n}")), answer(n % 1_500));
            assert!(usize::try_from(gauge.get()).unwrap() <= most);
        }
        let held: usize = store.parts.iter().map(|it| it.lock().unwrap().bytes).sum();
        assert_eq!(usize::try_from(gauge.get()).unwrap(), held);
        assert!(held > most / 2, "{held} of {most}");
        store.put(key("large"), answer(8_192));
        assert!(store.get(b"large").is_none(), "what has no room displaces nothing");
        assert!(store.forget(b"k1999") && !store.forget(b"k1999") && store.get(b"k1999").is_none());
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let store = Store::new(PARTS * 4 * (OVERHEAD + 100), Gauge::default());
        // Keys of one part, so that they compete.
        let part = |text: &str| store.hasher.hash_one(key(text)) >> 60;
        let mut names = (0..).map(|n| format!("k{n:03}")).filter(|it| part(it) == 3);
        let names: Vec<String> = names.by_ref().take(5).collect();
        for name in &names[..4] {
            store.put(key(name), answer(90));
        }
        assert!(store.get(names[0].as_bytes()).is_some(), "used again");
        store.put(key(&names[4]), answer(90));
        let there: Vec<bool> = names.iter().map(|it| store.get(it.as_bytes()).is_some()).collect();
        assert_eq!(there, [true, false, true, true, true]);
    }

    #[test]
    fn a_resource_is_made_once_and_replaced_only_by_who_knows_it() {
        let store = Store::new(1 << 20, Gauge::default());
        let make = || Resource {
            number: store.number(),
            vary: Box::default(),
            plan: Weak::new(),
            rules: 0,
            printed: None,
            changes: 0,
        };
        let first = store.resource(b"/a", |_| true, make);
        assert_eq!(store.resource(b"/a", |_| true, make).number, first.number);
        let other = store.resource(b"/a", |_| false, make);
        assert_ne!(other.number, first.number);
        assert!(store.replace(b"/a", &first, make()).is_none(), "it is no longer there");
        assert!(store.replace(b"/a", &other, make()).is_some());
        store.forget(b"/a");
        assert!(store.replace(b"/a", &other, make()).is_none());
    }
}
