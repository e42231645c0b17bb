//! Rate limits: whether there is room for one more call, and if not, when.
//!
//! Lives here: counting, by the generic cell rate algorithm; plain and synchronous, time passed in. Does not: who calls (`edge::authentication`), the
//! refusal (`edge::guard`).
//! One number a counted thing: the time at which it would have used up all that it may. A call moves it on by the time that one call is worth,
//! and is refused if that would lead further ahead than the burst allows. So nothing is reset, and there is no edge of a window to crowd at.
//! Source: ITU-T I.371, "virtual scheduling". Not governor: its keyed store grows with the number of strangers.
//! Bounds: a rule counts 65,536 things apart; past that those with nothing on their account are forgotten, then the ones that have least.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prometheus_client::metrics::counter::Counter;
use ring::digest::{SHA256, digest};
use weft_model::{LimitRule, Per, PolicyName};

use crate::edge::{
    authentication::Client,
    guard::{By, Refusal},
    shared::SharedCounts,
};

/// Parts of a rule's memory, so that threads seldom meet.
const SHARDS: usize = 64;
/// Things counted in each part.
const SHARD: usize = 1_024;

/// One rule as calls of one method meet it.
#[derive(Debug)]
pub(crate) struct Limit {
    counts: Arc<Counts>,
    /// Told apart from other methods, if the rule counts methods apart.
    method: Option<Arc<str>>,
}

/// What one rule has counted; survives new versions of everything else.
#[derive(Debug)]
pub(crate) struct Counts {
    policy: PolicyName,
    /// None: of a policy that could not be read; lets no call through.
    rule: Option<LimitRule>,
    name: Arc<str>,
    rate: Rate,
    cells: Cells,
    hasher: RandomState,
    epoch: Instant,
    refusals: Counter,
    /// Where gateways count together; what is counted here then stands in while that does not answer.
    shared: Option<SharedCounts>,
}

#[derive(Debug)]
enum Cells {
    /// All calls have one count.
    One(AtomicU64),
    /// By a keyed hash of what is counted apart; each lock is held for one look and one insertion.
    Many(Box<[Mutex<HashMap<u64, u64>>]>),
}

/// How much there is of what, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Worth of one call.
    pub(crate) interval: u64,
    /// Worth of all calls that may come at once.
    pub(crate) burst: u64,
}

impl Rate {
    fn of(rule: &LimitRule) -> Self {
        let every = u64::try_from(rule.every.as_nanos()).unwrap_or(u64::MAX);
        let interval = (every / u64::from(rule.calls)).max(1);
        Self { interval, burst: interval.saturating_mul(u64::from(rule.burst)) }
    }

    /// The account after one more call at `now`, or how long until there is room.
    fn next(self, account: u64, now: u64) -> Result<u64, Duration> {
        let next = account.max(now).saturating_add(self.interval);
        match next.checked_sub(now.saturating_add(self.burst)) {
            None | Some(0) => Ok(next),
            Some(beyond) => Err(Duration::from_nanos(beyond)),
        }
    }
}

impl Counts {
    pub(crate) fn new(policy: &PolicyName, rule: LimitRule, refusals: Counter, shared: Option<SharedCounts>) -> Self {
        let (rate, name) = (Rate::of(&rule), rule.name.shared());
        let cells = match rule.per.is_empty() {
            true => Cells::One(AtomicU64::new(0)),
            false => Cells::Many((0..SHARDS).map(|_| Mutex::default()).collect()),
        };
        Self { shared, ..Self::with(policy, Some(rule), name, rate, cells, refusals) }
    }

    /// Lets no call through.
    pub(crate) fn closed(policy: &PolicyName, refusals: Counter) -> Self {
        let (rate, name) = (Rate { interval: 1, burst: 0 }, PolicyName::default_rule().shared());
        Self::with(policy, None, name, rate, Cells::One(AtomicU64::new(0)), refusals)
    }

    fn with(
        policy: &PolicyName,
        rule: Option<LimitRule>,
        name: Arc<str>,
        rate: Rate,
        cells: Cells,
        refusals: Counter,
    ) -> Self {
        let (hasher, epoch) = (RandomState::new(), Instant::now());
        Self { policy: policy.clone(), rule, name, rate, cells, hasher, epoch, refusals, shared: None }
    }

    /// Whether these are the counts of a rule that says the same.
    pub(crate) fn are_of(&self, rule: &LimitRule) -> bool {
        self.rule.as_ref() == Some(rule)
    }

    /// Takes one call of what there is, or tells how long until there is one.
    fn take(&self, key: u64, now: u64) -> Result<(), Duration> {
        match &self.cells {
            Cells::One(cell) => {
                let mut account = cell.load(Ordering::Relaxed);
                loop {
                    let next = self.rate.next(account, now)?;
                    match cell.compare_exchange_weak(account, next, Ordering::Relaxed, Ordering::Relaxed) {
                        Ok(_) => return Ok(()),
                        Err(moved) => account = moved,
                    }
                }
            }
            Cells::Many(shards) => {
                let at = usize::try_from(key >> 58).expect("six bits fit"); // the map goes by the low bits
                let mut shard = shards[at].lock().unwrap_or_else(PoisonError::into_inner);
                let account = shard.get(&key).copied();
                let next = self.rate.next(account.unwrap_or(0), now)?;
                if account.is_none() && shard.len() >= SHARD {
                    make_room(&mut shard, now);
                }
                shard.insert(key, next);
                Ok(())
            }
        }
    }
}

/// Forgets what has nothing on its account: that comes to the same. If all have, the one that has least.
fn make_room(shard: &mut HashMap<u64, u64>, now: u64) {
    shard.retain(|_, account| *account > now);
    if shard.len() >= SHARD {
        let least = shard.iter().min_by_key(|(_, account)| **account).map(|(key, _)| *key);
        if let Some(least) = least {
            shard.remove(&least);
        }
    }
}

impl Limit {
    pub(crate) fn new(counts: &Arc<Counts>, path: &str) -> Self {
        let apart = counts.rule.as_ref().is_some_and(|it| it.per.contains(&Per::Method));
        Self { counts: Arc::clone(counts), method: apart.then(|| path.into()) }
    }

    /// Takes one call, of what gateways share if they do.
    pub(crate) async fn take(&self, client: &Client, address: IpAddr) -> Result<(), Refusal> {
        let Some(shared) = &self.counts.shared else { return self.take_here(client, address) };
        match shared.take(self.account(client, address), self.counts.rate).await {
            Some(taken) => taken.map_err(|wait| self.refuse(wait)),
            None => self.take_here(client, address),
        }
    }

    /// Takes one call of what this gateway has counted.
    pub(crate) fn take_here(&self, client: &Client, address: IpAddr) -> Result<(), Refusal> {
        let counts = &*self.counts;
        let now = u64::try_from(counts.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let key = counts.hasher.hash_one(self.counted(client, address));
        counts.take(key, now).map_err(|wait| self.refuse(wait))
    }

    fn refuse(&self, wait: Duration) -> Refusal {
        self.counts.refusals.inc();
        Refusal::limited(By { policy: self.counts.policy.clone(), rule: Arc::clone(&self.counts.name) }, wait)
    }

    /// The name by which all gateways know an account.
    fn account(&self, client: &Client, address: IpAddr) -> Arc<str> {
        let Counted { client, address, method } = self.counted(client, address);
        let text = |it: Option<&Arc<str>>| it.map(|it| format!("{}:{it}", it.len())).unwrap_or_default();
        let address = address.map(|it| it.to_string()).unwrap_or_default();
        let whole = format!("{}|{address}|{}", text(client), text(method));
        let hash = URL_SAFE_NO_PAD.encode(digest(&SHA256, whole.as_bytes()));
        format!("weft:limit:{}:{}:{hash}", self.counts.policy, self.counts.name).into()
    }

    fn counted<'c>(&'c self, client: &'c Client, address: IpAddr) -> Counted<'c> {
        let by = |per: Per| self.counts.rule.as_ref().is_some_and(|it| it.per.contains(&per));
        let known = match client {
            Client::Known(name) if by(Per::Client) => Some(name),
            Client::Known(_) | Client::Nobody => None,
        };
        let by_address = by(Per::Address) || (by(Per::Client) && known.is_none());
        Counted { client: known, address: by_address.then(|| network(address)), method: self.method.as_ref() }
    }
}

/// What is counted apart.
#[derive(Hash)]
struct Counted<'c> {
    client: Option<&'c Arc<str>>,
    address: Option<IpAddr>,
    method: Option<&'c Arc<str>>,
}

/// An address as it counts: whoever has one address of IPv6 has the 2^64 beside it, too.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use weft_model::Methods;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rule(calls: u32, seconds: u64, burst: u32, per: &[Per]) -> LimitRule {
        LimitRule {
            name: "r".parse().unwrap(),
            methods: Methods::default(),
            per: BTreeSet::from_iter(per.iter().copied()),
            calls,
            every: Duration::from_secs(seconds),
            burst,
        }
    }

    fn counts(rule: LimitRule) -> Arc<Counts> {
        Arc::new(Counts::new(&"p".parse().unwrap(), rule, Counter::default(), None))
    }

    #[test]
    fn a_burst_passes_then_as_many_as_the_rate_says() {
        for per in [&[][..], &[Per::Client]] {
            let counts = counts(rule(10, 1, 3, per));
            for _ in 0..3 {
                assert_eq!(counts.take(7, SECOND), Ok(()));
            }
            assert_eq!(counts.take(7, SECOND), Err(Duration::from_millis(100)), "one call in a tenth of a second");
            assert_eq!(counts.take(7, SECOND + SECOND / 20), Err(Duration::from_millis(50)), "a refusal takes nothing");
            assert_eq!(counts.take(7, SECOND + SECOND / 10), Ok(()));
            let later = 100 * SECOND;
            let passed = (0..10).filter(|_| counts.take(7, later).is_ok()).count();
            assert_eq!(passed, 3, "nobody saves up more than the burst");
        }
    }

    #[test]
    fn over_a_long_time_it_is_the_rate() {
        let counts = counts(rule(7, 2, 7, &[]));
        let passed = (0..20_000).filter(|ms| counts.take(0, 1_000 * SECOND + ms * 1_000_000).is_ok()).count();
        assert!((7 + 69..=7 + 70).contains(&passed), "{passed} in 20 s at 7 in 2 s");
    }

    #[test]
    fn what_is_counted_apart_does_not_meet() {
        let known = |name: &str| Client::Known(name.into());
        let (one, two): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let by_client = Limit::new(&counts(rule(1, 3_600, 1, &[Per::Client])), "/a.B/C");
        assert!(by_client.take_here(&known("ada"), one).is_ok());
        assert!(by_client.take_here(&known("ada"), two).is_err(), "the same caller from elsewhere");
        assert!(by_client.take_here(&known("eve"), one).is_ok());
        assert!(
            by_client.take_here(&Client::Nobody, one).is_ok() && by_client.take_here(&Client::Nobody, one).is_err()
        );
        assert!(by_client.take_here(&Client::Nobody, two).is_ok(), "who is nobody counts by address");

        let by_address = Limit::new(&counts(rule(1, 3_600, 1, &[Per::Address])), "/a.B/C");
        assert!(by_address.take_here(&known("ada"), one).is_ok() && by_address.take_here(&known("eve"), one).is_err());
        let (near, far): (IpAddr, IpAddr) = ("2001:db8::1".parse().unwrap(), "2001:db8:0:1::1".parse().unwrap());
        assert!(
            by_address.take_here(&Client::Nobody, near).is_ok() && by_address.take_here(&Client::Nobody, far).is_ok()
        );
        assert!(by_address.take_here(&Client::Nobody, "2001:db8::2".parse().unwrap()).is_err());
        assert!(
            by_address.take_here(&Client::Nobody, "::ffff:10.0.0.1".parse().unwrap()).is_err(),
            "the same as 10.0.0.1"
        );

        let shared = counts(rule(1, 3_600, 1, &[Per::Method]));
        let (get, put) = (Limit::new(&shared, "/a.B/Get"), Limit::new(&shared, "/a.B/Put"));
        assert!(get.take_here(&Client::Nobody, one).is_ok() && put.take_here(&Client::Nobody, one).is_ok());
        assert!(get.take_here(&Client::Nobody, two).is_err());
        assert!(matches!(get.take_here(&known("ada"), one), Err(it) if it.message.contains("policy p, rule r")));
    }

    #[test]
    fn memory_is_bounded_and_forgets_who_has_least() {
        let counts = counts(rule(1, 10, 2, &[Per::Address]));
        for key in 0..5_000_u64 {
            assert!(counts.take(key, SECOND).is_ok(), "all of one shard, whose keys begin with the same bits");
        }
        let Cells::Many(shards) = &counts.cells else { panic!("it counts apart") };
        assert_eq!(shards.iter().map(|it| it.lock().unwrap().len()).max(), Some(SHARD));
        let heavy = 999_999;
        assert!(counts.take(heavy, 2 * SECOND).is_ok() && counts.take(heavy, 2 * SECOND).is_ok());
        for key in 300_000..301_023_u64 {
            assert!(counts.take(key, 2 * SECOND).is_ok());
        }
        assert!(counts.take(heavy, 2 * SECOND).is_err(), "who has most is not forgotten for those who have less");
    }

    #[test]
    fn a_policy_that_could_not_be_read_lets_nothing_through() {
        let closed = Arc::new(Counts::closed(&"p".parse().unwrap(), Counter::default()));
        let limit = Limit::new(&closed, "/a.B/C");
        assert!(limit.take_here(&Client::Nobody, "10.0.0.1".parse().unwrap()).is_err());
    }

    #[test]
    fn all_threads_together_get_what_one_would() {
        for per in [&[][..], &[Per::Address]] {
            let counts = counts(rule(100, 3_600, 100, per));
            let take = || (0..1_000).filter(|_| counts.take(9, SECOND).is_ok()).count();
            let passed: usize = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
                threads.into_iter().map(|it| it.join().unwrap()).sum()
            });
            assert_eq!(passed, 100);
        }
    }
}
