//! Response cache: answers that are given again without asking upstream.
//!
//! Lives here: which requests may have a kept answer, policies compiled, forgetting. Does not: looking up and keeping (`cache::asked`), whose an answer is
//! (`cache::callers`), what HTTP says of keeping (`cache::control`), memory (`cache::store`), who goes upstream of many (`cache::flight`), the answer's
//! form (`cache::answer`).
//! By RFC 9111, as a cache that many share, private to one gateway. What an answer is an answer to: path, query, host, scheme, whose call it is,
//! and the values of the headers that `vary` of the service names.
//! Invariants: what one caller was told by a credential no other is told, unless the service says that all may have it; an answer that was under way while
//! a write to its path succeeded is not kept; a call whose policy keeps nothing for it goes as without a policy.

mod answer;
mod asked;
mod callers;
mod control;
mod flight;
mod store;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use http::{Method, StatusCode, header, request};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use weft_model::Cache as Policy;
use weft_transcode::{MethodPlan, schema::Idempotency};

use self::{
    asked::{Asked, Landed},
    callers::Whose,
    control::Wishes,
    flight::Flights,
    store::{Key, Store},
};
use crate::edge::{
    authentication::Client,
    call::Call,
    metrics::{Lookups, Meters},
};

pub(crate) use answer::OwnTag;
pub(crate) use asked::Unanswered;
pub(crate) use callers::{Shown, both, shown};

/// What a gateway keeps, whatever policies say.
#[derive(Debug)]
pub(crate) struct Caching {
    store: Store,
    flights: Arc<Flights<Landed>>,
    lookups: Lookups,
    clocks: Clocks,
}

/// Where time comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clocks {
    /// Monotonic: ages are counted by it.
    pub(crate) ages: fn() -> Instant,
    /// What services mean by a date.
    pub(crate) wall: fn() -> SystemTime,
}

/// One policy, compiled.
#[derive(Debug)]
pub(crate) struct Rules {
    caching: Arc<Caching>,
    ttl: Duration,
    per_caller: bool,
    /// Whether it names its methods, which says that they have no side effects.
    named: bool,
    off: bool,
    /// Unlike that of any other version of any policy.
    number: u64,
}

/// What a policy is to the calls of one route.
#[derive(Debug)]
pub(crate) struct Cached {
    rules: Arc<Rules>,
    counters: [OnceLock<Counter>; RESULTS.len()],
}

/// What came of looking an answer up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    /// It was there.
    Hit,
    /// Another call fetched it meanwhile.
    Shared,
    /// There was none.
    Miss,
    /// There was one that is no longer fresh.
    Stale,
    /// Nobody looked, or what is there is not for this call.
    Bypass,
}

/// Label values of `result`, in the order of [`Looked`].
const RESULTS: [&str; 5] = ["hit", "shared", "miss", "stale", "bypass"];

impl Caching {
    /// Keeps at most so many bytes.
    pub(crate) fn new(most: usize, meters: &Meters, clocks: Clocks) -> Arc<Self> {
        let Meters { cache_bytes, lookups, .. } = meters;
        Arc::new(Self {
            store: Store::new(most, Gauge::clone(cache_bytes)),
            flights: Arc::default(),
            lookups: lookups.clone(),
            clocks,
        })
    }

    /// Notes that a request which may change something has succeeded: what is kept of its path is forgotten (RFC 9111, 4.4), with any query, for anybody.
    pub(crate) fn wrote(&self, head: &request::Parts, status: StatusCode) {
        if !head.method.is_safe() && !status.is_client_error() && !status.is_server_error() {
            self.store.forget(&path_key(head));
        }
    }
}

impl Rules {
    pub(crate) fn new(caching: &Arc<Caching>, it: &Policy) -> Self {
        Self {
            ttl: it.ttl,
            per_caller: it.per_caller,
            named: !it.methods.patterns().is_empty(),
            off: it.off,
            number: caching.store.number(),
            caching: Arc::clone(caching),
        }
    }

    /// Where what they keep lies.
    pub(crate) fn caching(&self) -> &Arc<Caching> {
        &self.caching
    }
}

impl Cached {
    /// None if the policy keeps nothing.
    pub(crate) fn new(rules: &Arc<Rules>) -> Option<Self> {
        (!rules.off).then(|| Self { rules: Arc::clone(rules), counters: Default::default() })
    }

    /// What a request asks of what is kept; none if that has nothing to do with it.
    pub(crate) fn asked<'a>(
        &'a self,
        head: &'a request::Parts,
        plan: &'a Arc<MethodPlan>,
        call: &'a Call,
        shown: Shown,
        client: &Client,
    ) -> Option<Asked<'a>> {
        let method = plan.method();
        let reads = self.rules.named || method.idempotency() == Idempotency::NoSideEffects;
        let one = !method.streaming().client() && !method.streaming().server();
        let get = matches!(head.method, Method::GET | Method::HEAD) && !plan.has_body();
        let conditions = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::RANGE];
        if !(reads && one && get) || conditions.iter().any(|name| head.headers.contains_key(name)) {
            return None;
        }
        Some(Asked {
            cached: self,
            head,
            plan,
            call,
            whose: Whose::of(shown, client, call, self.rules.per_caller),
            wishes: Wishes::of(&head.headers),
            path: path_key(head),
        })
    }

    fn count(&self, call: &Call, plan: &MethodPlan, looked: Looked) {
        let at = looked as usize;
        let made = || self.rules.caching.lookups.of(plan.http_method(), call.meter.route(), RESULTS[at]);
        self.counters[at].get_or_init(made).inc();
    }
}

/// What the resource of a path lies under; with a slash at its end a path means the same.
fn path_key(head: &request::Parts) -> Key {
    let path = head.uri.path();
    [b"R", path.strip_suffix('/').unwrap_or(path).as_bytes()].concat().into()
}
