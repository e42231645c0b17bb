//! One request that may have a kept answer: looking it up, going upstream for it, keeping what comes back.
//!
//! Lives here: the order of steps, keys. Does not: which requests may have one (`cache`), what HTTP says of keeping (`cache::control`), the answer's form
//! (`cache::answer`).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{HeaderName, Response, request};
use tokio::time::timeout_at;
use weft_traffic::Body;
use weft_transcode::MethodPlan;

use super::{
    By, Cached, Looked, Rules, answer,
    callers::Whose,
    control::{self, Terms, Wishes},
    flight::{Lead, Turn},
    paths,
    store::{Kept, Key, Resource, Slot},
};
use crate::edge::{call::Call, forwarded, names::plain};

/// How long calls do not wait for each other's answers that turned out not to be kept.
const ALONE: Duration = Duration::from_secs(10);
/// How often a call joins another flight before it goes by itself.
const ROUNDS: usize = 8;

/// What a call that went upstream for others came back with.
#[derive(Debug, Clone)]
pub(super) enum Landed {
    /// An answer for all whose headers agree.
    Kept(Arc<Kept>),
    /// One for its caller alone.
    Alone,
}

/// A request that may be answered from what is kept.
pub(crate) struct Asked<'a> {
    pub(super) cached: &'a Cached,
    pub(super) head: &'a request::Parts,
    pub(super) plan: &'a Arc<MethodPlan>,
    pub(super) call: &'a Call,
    pub(super) whose: Whose,
    pub(super) wishes: Wishes,
    pub(super) by: By,
    pub(super) path: Key,
}

/// Why a request has no answer at all.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error("deadline exceeded while another call fetched the same")]
    Late,
    #[error("nothing is kept that answers this, and the request asks for nothing else (only-if-cached)")]
    NotKept,
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
        let may = self.by == By::Path || response.status().is_success(); // the code of an error by method is its call's alone
        let fresh = terms.fresh_for(response.status(), response.headers()).filter(|_| may);
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
        if let Some(resource) = store.replace(&self.path, resource, self.made(vary.into(), resource.changes)) {
            store.put(self.key(&resource), slot);
        }
    }

    fn resource(&self) -> Arc<Resource> {
        let Rules { caching, number, .. } = self.rules();
        let changes = self.cached.changes.last(self.by);
        let holds = |it: &Resource| {
            let same = it.rules == *number && it.changes == changes && it.printed == self.cached.printed;
            same && it.plan.upgrade().is_some_and(|it| Arc::ptr_eq(&it, self.plan))
        };
        caching.store.resource(&self.path, holds, || self.made(Box::default(), changes))
    }

    fn made(&self, vary: Box<[HeaderName]>, changes: u64) -> Resource {
        let Rules { caching, number, .. } = self.rules();
        let (plan, printed) = (Arc::downgrade(self.plan), self.cached.printed);
        Resource { number: caching.store.number(), vary, plan, rules: *number, printed, changes }
    }

    /// What an answer of a resource lies under: parts of known length, or with their length before them. Host and scheme are those that the service is
    /// told: it may write them into its answer.
    fn key(&self, resource: &Resource) -> Key {
        let uri = &self.head.uri;
        let (host, scheme) = (forwarded::host(self.head), forwarded::scheme(self.head));
        let host = host.as_ref().map(|it| it.as_bytes()).unwrap_or_default();
        let (kind, caller): (u8, &[u8]) = match &self.whose {
            Whose::Nobodys => (0, &[]),
            Whose::Everybodys => (1, &[]),
            Whose::Callers(hash) => (2, hash),
        };
        let mut key = vec![b'A', kind];
        key.extend(resource.number.to_be_bytes());
        let varied = self.varied(&resource.vary);
        let path = paths::normal(uri.path());
        for part in [caller, scheme.as_bytes(), host, &path, uri.query().unwrap_or_default().as_bytes(), &varied] {
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
        let http_method = match self.by {
            By::Path => self.plan.http_method(),
            By::Method => "GET",
        };
        self.cached.count(self.call, http_method, looked);
    }
}

/// Waits no longer than the call may take.
async fn within<T>(deadline: Option<tokio::time::Instant>, wait: impl Future<Output = T>) -> Result<T, Unanswered> {
    match deadline {
        Some(deadline) => timeout_at(deadline, wait).await.map_err(|_| Unanswered::Late),
        None => Ok(wait.await),
    }
}
