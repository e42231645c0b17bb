//! Response cache: answers that are given again without asking upstream.
//!
//! Lives here: which requests may have a kept answer, policies compiled. Does not: looking up and keeping (`cache::asked`), whose an answer is
//! (`cache::callers`), what HTTP says of keeping (`cache::control`), memory (`cache::store`), who goes upstream of many (`cache::flight`), the answer's
//! form (`cache::answer`), forgetting (`cache::writes`).
//! Kept are answers to GET, of REST and of Connect.
//! By RFC 9111, as a cache that many share, private to one gateway. What an answer is an answer to: path, query, host, scheme, whose call it is,
//! and the values of the headers that `vary` of the service names.
//! Invariants: what one caller was told by a credential no other is told, unless the service says that all may have it; an answer that was under way while
//! a write that reaches it succeeded is not kept; a call whose policy keeps nothing for it goes as without a policy.

mod answer;
mod asked;
mod callers;
mod control;
mod flight;
mod paths;
mod store;
mod writes;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use http::{header, request};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use weft_model::{Cache as Policy, ServiceName};
use weft_transcode::{
    MethodPlan,
    schema::{Idempotency, Method},
    settings::JsonOutput,
};

use self::{
    asked::{Asked, Landed},
    callers::Whose,
    control::Wishes,
    flight::Flights,
    store::Store,
    writes::{AllChanges, Changes},
};
use crate::edge::{
    authentication::Client,
    call::Call,
    metrics::{Lookups, Meters},
};

pub(crate) use answer::OwnTag;
pub(crate) use asked::Unanswered;
pub(crate) use callers::{Shown, both, shown};
pub(crate) use writes::{After, By, Nature, Writes};

/// What a gateway keeps, whatever policies say.
#[derive(Debug)]
pub(crate) struct Caching {
    store: Store,
    flights: Arc<Flights<Landed>>,
    changes: AllChanges,
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
    changes: Arc<Changes>,
    /// How a policy has the route's replies printed: what was printed otherwise is no answer.
    printed: Option<JsonOutput>,
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
            changes: AllChanges::default(),
            lookups: lookups.clone(),
            clocks,
        })
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

    /// What calls of a method of this service may make untrue, whether or not this policy keeps answers of it; none: nothing.
    pub(crate) fn writes(&self, service: &ServiceName, nature: Nature) -> Option<Writes> {
        (!nature.reads).then(|| Writes::new(&self.caching, &self.changes(service), nature))
    }

    fn changes(&self, service: &ServiceName) -> Arc<Changes> {
        self.caching.changes.of(service, || self.caching.store.number())
    }
}

impl Cached {
    /// None if the policy keeps nothing.
    pub(crate) fn new(rules: &Arc<Rules>, service: &ServiceName, printed: Option<JsonOutput>) -> Option<Self> {
        let changes = || rules.changes(service);
        let made = || Self { rules: Arc::clone(rules), changes: changes(), printed, counters: Default::default() };
        (!rules.off).then(made)
    }

    /// Whether the policy says of the methods that it is about that they change nothing: it names them.
    pub(crate) fn are_reads(&self) -> bool {
        self.rules.named
    }

    /// Whether answers of a method may be kept: it only reads, and has one message for one.
    pub(crate) fn keeps(&self, method: &Method) -> bool {
        let reads = self.rules.named || method.idempotency() == Idempotency::NoSideEffects;
        reads && !method.streaming().client() && !method.streaming().server()
    }

    /// What a request asks of what is kept; none if that has nothing to do with it.
    pub(crate) fn asked<'a>(
        &'a self,
        head: &'a request::Parts,
        plan: &'a Arc<MethodPlan>,
        call: &'a Call,
        (client, shown): (&Client, Shown),
        by: By,
    ) -> Option<Asked<'a>> {
        let bare = by == By::Method || !plan.has_body(); // by method the message is in the query
        let get = matches!(head.method, http::Method::GET | http::Method::HEAD) && bare;
        let conditions = [header::IF_MATCH, header::IF_UNMODIFIED_SINCE, header::RANGE];
        if !(get && self.keeps(plan.method())) || conditions.iter().any(|name| head.headers.contains_key(name)) {
            return None;
        }
        Some(Asked {
            cached: self,
            head,
            plan,
            call,
            whose: Whose::of(shown, client, call, self.rules.per_caller),
            wishes: Wishes::of(&head.headers),
            by,
            path: paths::resource(head.uri.path()),
        })
    }

    fn count(&self, call: &Call, http_method: &str, looked: Looked) {
        let at = looked as usize;
        let made = || self.rules.caching.lookups.of(http_method, call.meter.route(), RESULTS[at]);
        self.counters[at].get_or_init(made).inc();
    }
}
