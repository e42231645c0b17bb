//! Response cache: answers that are given again without asking upstream.
//!
//! Lives here: which requests may have a kept answer and whose it is, looking up, keeping, forgetting. Does not: what HTTP says of keeping
//! (`cache::control`), memory (`cache::store`), who goes upstream of many (`cache::flight`), the answer's form (`cache::answer`).
//! By RFC 9111, as a cache that many share, private to one gateway. What an answer is an answer to: path, query, host, scheme, whose call it is,
//! and the values of the headers that `vary` of the service names. Callers are kept apart by the credential they show, not only by who they are, since two
//! tokens of one user may allow different things.
//! Invariants: what one caller was told by a credential no other is told, unless the service says that all may have it; an answer that was under way while
//! a write to its path succeeded is not kept; a call whose policy keeps nothing for it goes as without a policy.

mod answer;
mod control;
mod flight;
mod store;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderName, Method, Response, StatusCode, header, request};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};
use ring::digest::{Context, SHA256};
use tokio::time::timeout_at;
use weft_model::Cache as Policy;
use weft_traffic::Body;
use weft_transcode::{MethodPlan, schema::Idempotency};

use self::{
    control::{Terms, Wishes},
    flight::{Flights, Lead, Turn},
    store::{Kept, Key, Resource, Slot, Store},
};
use crate::edge::{
    authentication::Client,
    call::Call,
    metrics::{Lookups, Meters},
};

pub(crate) use answer::OwnTag;

/// How long calls do not wait for each other's answers that turned out not to be kept.
const ALONE: Duration = Duration::from_secs(10);
/// How often a call joins another flight before it goes by itself.
const ROUNDS: usize = 8;
/// The prefix by which a client of REST names gRPC metadata.
const METADATA: &str = "grpc-metadata-";
/// Headers that say who calls, whatever a service makes of them.
const CREDENTIALS: [HeaderName; 4] =
    [header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::COOKIE, HeaderName::from_static("x-api-key")];

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

/// What a call that went upstream for others came back with.
#[derive(Debug, Clone)]
enum Landed {
    /// An answer for all whose headers agree.
    Kept(Arc<Kept>),
    /// One for its caller alone.
    Alone,
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

/// The credentials that a request shows, as a hash; none: it shows none.
pub(crate) type Shown = Option<[u8; 32]>;

/// What a request shows before and after policies have changed its head: both tell callers apart.
pub(crate) fn both(before: Shown, after: Shown) -> Shown {
    if before == after {
        return before;
    }
    let mut hash = Context::new(&SHA256);
    for shown in [before, after] {
        hash.update(&[u8::from(shown.is_some())]);
        hash.update(&shown.unwrap_or_default());
    }
    Some(hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
}

/// Whose answers a call may have.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Whose {
    /// Those to nobody in particular.
    Nobodys,
    /// Those to callers with a credential that the service lets all have.
    Everybodys,
    /// Those of this very caller.
    Callers([u8; 32]),
}

/// A request that may be answered from what is kept.
pub(crate) struct Asked<'a> {
    cached: &'a Cached,
    head: &'a request::Parts,
    plan: &'a Arc<MethodPlan>,
    call: &'a Call,
    whose: Whose,
    wishes: Wishes,
    path: Key,
}

/// Why a request has no answer at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("deadline exceeded while another call fetched the same")]
    Late,
    #[error("nothing is kept that answers this, and the request asks for nothing else (only-if-cached)")]
    NotKept,
}

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

    /// Which credentials a request shows. Asked before authentication takes them away.
    pub(crate) fn shown(&self, headers: &HeaderMap) -> Shown {
        let mut hash = None;
        let is_one = |name: &str| CREDENTIALS.iter().any(|it| it.as_str() == name);
        let shown = headers.iter().filter(|(name, _)| is_one(plain(name.as_str())));
        for (name, value) in shown {
            let hash = hash.get_or_insert_with(|| Context::new(&SHA256));
            for part in [name.as_str().as_bytes(), value.as_bytes()] {
                hash.update(&part.len().to_be_bytes());
                hash.update(part);
            }
        }
        hash.map(|it| it.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
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
            whose: self.whose(shown, client, call),
            wishes: Wishes::of(&head.headers),
            path: path_key(head),
        })
    }

    fn whose(&self, shown: Shown, client: &Client, call: &Call) -> Whose {
        let name: &str = match client {
            Client::Nobody if shown.is_none() => return Whose::Nobodys,
            Client::Nobody => "",
            Client::Known(name) => name,
        };
        if !self.rules.per_caller {
            return Whose::Everybodys;
        }
        let mut hash = Context::new(&SHA256);
        hash.update(&shown.unwrap_or_default());
        hash.update(&name.len().to_be_bytes());
        hash.update(name.as_bytes());
        // Two certificates may have one name, and their other claims may differ.
        let certificate = call.peer.as_ref().and_then(|peer| peer.certificate.as_ref());
        let exact = certificate.and_then(|it| it.claims.get("sha256")?.as_str());
        hash.update(exact.unwrap_or_default().as_bytes());
        Whose::Callers(hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }

    fn count(&self, call: &Call, plan: &MethodPlan, looked: Looked) {
        let at = looked as usize;
        let made = || self.rules.caching.lookups.of(plan.http_method(), call.meter.route(), RESULTS[at]);
        self.counters[at].get_or_init(made).inc();
    }
}

impl Asked<'_> {
    /// Answers from what is kept, or else by `fetch`, which is polled only then, and at most by one of the calls that want the same.
    pub(crate) async fn answer(
        self,
        deadline: Option<tokio::time::Instant>,
        fetch: impl Future<Output = Response<Body>>,
    ) -> Result<Response<Body>, Unanswered> {
        if self.wishes.no_store {
            self.count(Looked::Bypass);
            return Ok(answer::passed_on(fetch.await, "request"));
        }
        if self.wishes.no_cache && !self.wishes.only_if_cached {
            self.count(Looked::Bypass);
            let resource = self.resource();
            let (kept, response) = self.keep(&resource, fetch.await).await;
            return Ok(self.fetched(kept, response, "request"));
        }
        for _ in 0..ROUNDS {
            let resource = self.resource();
            let key = self.key(&resource);
            let looked = match self.look(&key) {
                Ok(kept) => return Ok(self.again(&kept, Looked::Hit)),
                Err(Looked::Bypass) => break,
                Err(looked) => looked,
            };
            if self.wishes.only_if_cached {
                return Err(Unanswered::NotKept);
            }
            match self.rules().caching.flights.join(&key) {
                Turn::Lead(lead) => return Ok(self.lead(lead, &resource, &key, looked, fetch).await),
                Turn::Follow(flight) => match within(deadline, flight.landed()).await? {
                    Some(Landed::Kept(kept)) if self.varied(&kept.vary) == kept.varied => {
                        return Ok(self.again(&kept, Looked::Shared));
                    }
                    Some(Landed::Alone) => break,
                    Some(Landed::Kept(_)) | None => {} // to another's headers; or the leader has left: who leads now?
                },
            }
        }
        if self.wishes.only_if_cached {
            return Err(Unanswered::NotKept);
        }
        self.count(Looked::Bypass);
        let resource = self.resource();
        let (kept, response) = self.keep(&resource, fetch.await).await;
        Ok(self.fetched(kept, response, "bypass"))
    }

    /// Goes upstream for everybody who wants the same.
    async fn lead(
        &self,
        lead: Lead<Landed>,
        resource: &Resource,
        key: &[u8],
        looked: Looked,
        fetch: impl Future<Output = Response<Body>>,
    ) -> Response<Body> {
        if let Ok(kept) = self.look(key) {
            lead.land(Landed::Kept(Arc::clone(&kept))); // it came between the look and the start
            return self.again(&kept, Looked::Hit);
        }
        self.count(looked);
        let (kept, response) = self.keep(resource, fetch.await).await;
        lead.land(kept.as_ref().map_or(Landed::Alone, |kept| Landed::Kept(Arc::clone(kept))));
        self.fetched(kept, response, if looked == Looked::Stale { "stale" } else { "miss" })
    }

    /// The answer that is kept under a key and good enough, or why there is none.
    fn look(&self, key: &[u8]) -> Result<Arc<Kept>, Looked> {
        let now = self.now();
        match self.rules().caching.store.get(key) {
            Some(Slot::Answer(kept)) => {
                let age = now.saturating_duration_since(kept.since);
                if age >= kept.fresh {
                    Err(Looked::Stale)
                } else if self.wishes.accept(age, kept.fresh) {
                    Ok(kept)
                } else {
                    Err(Looked::Miss)
                }
            }
            Some(Slot::Alone(until)) if now < until => Err(Looked::Bypass),
            Some(Slot::Alone(_) | Slot::Resource(_)) | None => Err(Looked::Miss),
        }
    }

    /// Keeps an answer if it may be kept; else gives it back, and remembers that nobody need wait for the next.
    async fn keep(&self, resource: &Resource, response: Response<Body>) -> (Option<Arc<Kept>>, Option<Response<Body>>) {
        let Rules { caching, ttl, .. } = self.rules();
        let store = &caching.store;
        let credential = self.whose == Whose::Everybodys;
        let terms = Terms { ttl: *ttl, credential, now: (caching.clocks.wall)() };
        let fresh = terms.fresh_for(response.status(), response.headers());
        let length = http_body::Body::size_hint(response.body()).exact();
        let fits = length.is_some_and(|it| usize::try_from(it).is_ok_and(|it| it <= store.longest()));
        let (Some(fresh), true) = (fresh, fits) else {
            if response.status().is_success() {
                store.put(self.key(resource), Slot::Alone(self.now() + ALONE));
            }
            return (None, Some(response));
        };
        let vary: Box<[HeaderName]> = control::vary(response.headers()).unwrap_or_default().into();
        let varied = self.varied(&vary);
        let kept = match answer::read(response, self.now(), fresh, vary, varied).await {
            Ok(kept) => Arc::new(kept),
            Err(response) => return (None, Some(response)),
        };
        self.put(resource, &kept);
        (Some(kept), None)
    }

    fn put(&self, resource: &Resource, kept: &Arc<Kept>) {
        let store = &self.rules().caching.store;
        let slot = Slot::Answer(Arc::clone(kept));
        if kept.vary.iter().all(|name| resource.vary.contains(name)) {
            return store.put(self.key(resource), slot);
        }
        // It depends on more than the answers before it: they are told apart anew, by all that was ever named.
        let mut vary: Vec<HeaderName> = resource.vary.iter().chain(&kept.vary).cloned().collect();
        vary.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        vary.dedup();
        if let Some(resource) = store.replace(&self.path, resource, self.made(vary.into())) {
            store.put(self.key(&resource), slot);
        }
    }

    fn resource(&self) -> Arc<Resource> {
        let Rules { caching, number, .. } = self.rules();
        let holds =
            |it: &Resource| it.rules == *number && it.plan.upgrade().is_some_and(|it| Arc::ptr_eq(&it, self.plan));
        caching.store.resource(&self.path, holds, || self.made(Box::default()))
    }

    fn made(&self, vary: Box<[HeaderName]>) -> Resource {
        let Rules { caching, number, .. } = self.rules();
        Resource { number: caching.store.number(), vary, plan: Arc::downgrade(self.plan), rules: *number }
    }

    /// What an answer of a resource lies under: parts of known length, or with their length before them.
    fn key(&self, resource: &Resource) -> Key {
        let uri = &self.head.uri;
        let host = uri.authority().map(|it| it.as_str().as_bytes());
        let host = host.or_else(|| self.head.headers.get(header::HOST).map(|it| it.as_bytes())).unwrap_or_default();
        let (kind, caller): (u8, &[u8]) = match &self.whose {
            Whose::Nobodys => (0, &[]),
            Whose::Everybodys => (1, &[]),
            Whose::Callers(hash) => (2, hash),
        };
        let mut key = vec![b'A', kind];
        key.extend(resource.number.to_be_bytes());
        let varied = self.varied(&resource.vary);
        let scheme: &[u8] = if self.call.peer.is_some() { b"https" } else { b"http" };
        for part in [caller, scheme, host, uri.query().unwrap_or_default().as_bytes(), &varied] {
            key.extend(part.len().to_be_bytes());
            key.extend(part);
        }
        key.into()
    }

    /// What the request says in these headers, also by the names of metadata that become them.
    fn varied(&self, names: &[HeaderName]) -> Box<[u8]> {
        let mut said = Vec::new();
        for name in names {
            // In the order in which they become metadata.
            for (_, value) in self.head.headers.iter().filter(|(it, _)| plain(it.as_str()) == name.as_str()) {
                said.extend(value.len().to_be_bytes());
                said.extend(value.as_bytes());
            }
            said.extend(usize::MAX.to_be_bytes()); // no value is as long: the end of one header
        }
        said.into()
    }

    fn again(&self, kept: &Kept, looked: Looked) -> Response<Body> {
        self.count(looked);
        let age = self.now().saturating_duration_since(kept.since);
        let how = if looked == Looked::Hit { "hit" } else { "fwd=miss; collapsed" };
        answer::give(kept, &self.head.headers, age, how)
    }

    fn fetched(&self, kept: Option<Arc<Kept>>, response: Option<Response<Body>>, why: &str) -> Response<Body> {
        match (kept, response) {
            (Some(kept), _) => answer::give_new(&kept, &self.head.headers, why),
            (None, Some(response)) => answer::passed_on(response, why),
            (None, None) => unreachable!("what is not kept is given back"),
        }
    }

    fn rules(&self) -> &Rules {
        &self.cached.rules
    }

    fn now(&self) -> Instant {
        (self.rules().caching.clocks.ages)()
    }

    fn count(&self, looked: Looked) {
        self.cached.count(self.call, self.plan, looked);
    }
}

/// The name that a header has as metadata.
fn plain(name: &str) -> &str {
    name.strip_prefix(METADATA).unwrap_or(name)
}

/// Waits no longer than the call may take.
async fn within<T>(deadline: Option<tokio::time::Instant>, wait: impl Future<Output = T>) -> Result<T, Unanswered> {
    match deadline {
        Some(deadline) => timeout_at(deadline, wait).await.map_err(|_| Unanswered::Late),
        None => Ok(wait.await),
    }
}

/// What the resource of a path lies under; with a slash at its end a path means the same.
fn path_key(head: &request::Parts) -> Key {
    let path = head.uri.path();
    [b"R", path.strip_suffix('/').unwrap_or(path).as_bytes()].concat().into()
}
