//! Keys of token issuers: where they come from, and how they stay fresh.
//!
//! Lives here: one holder of keys an issuer, read by calls; the task that fetches, on time and when a token names a key that is not there. Does not:
//! checking tokens (`edge::jwt`), the HTTP (`edge::fetch`).
//! ```text
//! none --fetched--> fresh --5 min, or an unknown key, at most every 3 s--> fetching --good--> fresh
//!   ^                                                                              --failed--> as before; again after 1 s, 2 s, … 1 min
//! ```
//! Keys stay while their issuer cannot be reached: it being away must not shut out its users. A key that it takes back is out with the next fetch.
//! Bounds: one fetch an issuer at a time, 5 s each; a call waits for one at most 3 s; asking goes through a queue of 64, past which the clock decides.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use serde::Deserialize;
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use weft_model::{Jwt, KeySource};

use crate::edge::{
    fetch,
    jwt::KeySet,
    outside::{Kind, Outside, Part, State},
};

/// How old keys get.
const FRESH: Duration = Duration::from_secs(300);
/// A token that names an unknown key brings about no more than one fetch in this time.
const APART: Duration = Duration::from_secs(3);
/// How long a call waits for keys.
const WAIT: Duration = Duration::from_secs(3);
/// Longest time of a fetch.
const LIMIT: Duration = Duration::from_secs(5);
const QUEUE: usize = 64;
/// Pauses after failures.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(60)];

/// The keys of one issuer.
#[derive(Debug)]
pub(crate) struct IssuerKeys {
    issuer: Arc<str>,
    source: KeySource,
    current: ArcSwapOption<KeySet>,
    /// Attempts that ended, so that who waits for one notices.
    attempts: watch::Sender<u64>,
    asks: mpsc::Sender<Arc<Self>>,
    /// Whether the issuer can be reached, for people.
    outside: Part,
}

/// There are no keys to check a token with. Whoever shows the token hears the issuer that it names; why, and from where the keys were to come, is for the
/// log and for `weft check`.
#[derive(Debug, thiserror::Error)]
#[error("the keys of {issuer} cannot be had now")]
pub(crate) struct NoKeys {
    issuer: Arc<str>,
}

impl IssuerKeys {
    /// Returns keys among which is the one of this name, or after a fetch that did not bring it, those there are. Cancel-safe.
    pub(crate) async fn with(self: &Arc<Self>, kid: Option<&str>) -> Result<Arc<KeySet>, NoKeys> {
        if let Some(keys) = self.current.load().as_ref().filter(|keys| keys.has(kid)) {
            return Ok(Arc::clone(keys));
        }
        let mut attempts = self.attempts.subscribe();
        drop(self.asks.try_send(Arc::clone(self))); // a full queue is being worked on
        drop(timeout(WAIT, attempts.changed()).await);
        self.current.load_full().ok_or_else(|| NoKeys { issuer: Arc::clone(&self.issuer) })
    }

    /// Whether these are the keys that count now.
    pub(crate) fn are_current(&self, keys: &Weak<KeySet>) -> bool {
        self.current.load().as_ref().is_some_and(|it| Arc::as_ptr(it) == keys.as_ptr())
    }

    /// Takes over keys as if they had been fetched.
    #[cfg(test)]
    pub(crate) fn told(&self, keys: KeySet) {
        self.ended(Ok(keys));
    }

    fn ended(&self, fetched: Result<KeySet, String>) -> bool {
        let good = fetched.is_ok();
        match fetched {
            Ok(keys) => {
                let known = keys.len();
                tracing::debug!(issuer = %self.issuer, keys = known, "keys fetched");
                self.outside.is(State::Well);
                // The same ones stay: tokens that were checked with them need not be again.
                let same = self.current.load_full().filter(|it| **it == keys);
                let keys = same.unwrap_or_else(|| Arc::new(keys));
                self.current.store(Some(keys));
            }
            Err(problem) => {
                tracing::warn!(issuer = %self.issuer, problem, "keys cannot be fetched; those there are stay");
                let state = if self.current.load().is_some() { State::Without } else { State::Failing };
                self.outside.is(state(problem));
            }
        }
        self.attempts.send_modify(|it| *it += 1);
        good
    }
}

/// An issuer, and the URL of its keys if it was given.
type Place = (Arc<str>, Option<Arc<str>>);

/// Makes holders of keys, one an issuer and place, for as long as somebody uses them.
#[derive(Debug)]
pub(crate) struct Issuers {
    known: HashMap<Place, Weak<IssuerKeys>>,
    asks: mpsc::Sender<Arc<IssuerKeys>>,
    outside: Outside,
}

/// Returns the maker, and the task that fetches. How the issuers are is told to `outside`.
pub(crate) fn issuers(outside: Outside) -> (Issuers, Fetcher) {
    let (asks, asked) = mpsc::channel(QUEUE);
    (Issuers { known: HashMap::new(), asks, outside }, Fetcher { asked, known: Vec::new(), fetches: JoinSet::new() })
}

impl Issuers {
    /// Returns the holder of an issuer's keys; a new one has its first fetch ahead.
    pub(crate) fn of(&mut self, policy: &Jwt) -> Arc<IssuerKeys> {
        let place = match policy.keys() {
            KeySource::Url(url) => Some(Arc::clone(url)),
            KeySource::Discovered => None,
        };
        self.known.retain(|_, it| it.strong_count() > 0);
        let key = (Arc::clone(policy.issuer()), place);
        if let Some(known) = self.known.get(&key).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(IssuerKeys {
            issuer: Arc::clone(policy.issuer()),
            source: policy.keys().clone(),
            current: ArcSwapOption::empty(),
            attempts: watch::Sender::new(0),
            asks: self.asks.clone(),
            outside: self.outside.part(Kind::Issuer, policy.issuer()),
        });
        drop(self.asks.try_send(Arc::clone(&made))); // if the queue is full, its first call asks again
        self.known.insert(key, Arc::downgrade(&made));
        made
    }
}

/// The one task that fetches keys.
pub(crate) struct Fetcher {
    asked: mpsc::Receiver<Arc<IssuerKeys>>,
    known: Vec<Kept>,
    fetches: JoinSet<(Weak<IssuerKeys>, Result<KeySet, String>)>,
}

struct Kept {
    keys: Weak<IssuerKeys>,
    began: Option<Instant>,
    due: Instant,
    failures: u32,
    /// The fetch under way.
    busy: Option<task::Id>,
}

enum Event {
    Asked(Arc<IssuerKeys>),
    Fetched(task::Id, Option<(Weak<IssuerKeys>, Result<KeySet, String>)>),
    Tick,
}

impl Fetcher {
    /// Runs for as long as it is polled.
    pub(crate) async fn run(mut self) {
        let mut ticks = interval(Duration::from_secs(1));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asking = true;
        loop {
            let event = tokio::select! {
                asked = self.asked.recv(), if asking => match asked {
                    Some(keys) => Event::Asked(keys),
                    None => {
                        asking = false; // whoever makes holders is gone; those in use are kept fresh
                        continue;
                    }
                },
                Some(done) = self.fetches.join_next_with_id() => match done {
                    Ok((id, fetched)) => Event::Fetched(id, Some(fetched)),
                    Err(panicked) => Event::Fetched(panicked.id(), None),
                },
                _ = ticks.tick() => Event::Tick,
            };
            match event {
                Event::Asked(keys) => self.asked(&keys),
                Event::Fetched(id, fetched) => self.fetched(id, fetched),
                Event::Tick => self.tick(),
            }
        }
    }

    fn asked(&mut self, keys: &Arc<IssuerKeys>) {
        let now = Instant::now();
        let at = match self.known.iter().position(|it| it.keys.as_ptr() == Arc::as_ptr(keys)) {
            Some(at) => at,
            None => {
                let kept = Kept { keys: Arc::downgrade(keys), began: None, due: now, failures: 0, busy: None };
                self.known.push(kept);
                self.known.len() - 1
            }
        };
        let kept = &self.known[at];
        if kept.busy.is_some() {
            return; // whoever waits gets its outcome
        }
        if kept.began.is_some_and(|began| now.duration_since(began) < APART) {
            keys.attempts.send_modify(|it| *it += 1); // asked a moment ago: what there is, is what there is
            return;
        }
        self.fetch(at);
    }

    fn tick(&mut self) {
        self.known.retain(|it| it.keys.strong_count() > 0);
        let now = Instant::now();
        for at in 0..self.known.len() {
            if self.known[at].busy.is_none() && self.known[at].due <= now {
                self.fetch(at);
            }
        }
    }

    fn fetch(&mut self, at: usize) {
        let Some(keys) = self.known[at].keys.upgrade() else { return };
        let (weak, issuer, source) = (Arc::downgrade(&keys), Arc::clone(&keys.issuer), keys.source.clone());
        let task = self.fetches.spawn(async move {
            let fetched = timeout(LIMIT, get(&issuer, &source)).await;
            (weak, fetched.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}"))))
        });
        self.known[at].began = Some(Instant::now());
        self.known[at].busy = Some(task.id());
    }

    fn fetched(&mut self, id: task::Id, fetched: Option<(Weak<IssuerKeys>, Result<KeySet, String>)>) {
        let good = fetched.and_then(|(keys, fetched)| Some(keys.upgrade()?.ended(fetched))).unwrap_or_default();
        let Some(kept) = self.known.iter_mut().find(|it| it.busy == Some(id)) else { return };
        kept.busy = None;
        kept.failures = if good { 0 } else { kept.failures.saturating_add(1) };
        let [first, longest] = PAUSES;
        let pause = first.saturating_mul(1 << kept.failures.clamp(1, 6).saturating_sub(1)).min(longest);
        kept.due = Instant::now() + if good { FRESH } else { pause };
    }
}

/// What an OpenID provider says of itself, as far as it matters here (OpenID Connect Discovery 1.0, section 3).
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

async fn get(issuer: &str, source: &KeySource) -> Result<KeySet, String> {
    let url = match source {
        KeySource::Url(url) => url.to_string(),
        KeySource::Discovered => {
            let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
            let told = fetch::get(&url).await.map_err(|problem| format!("{url}: {problem}"))?;
            let told: Discovery = serde_json::from_slice(&told).map_err(|error| format!("{url}: {error}"))?;
            if told.issuer != issuer {
                return Err(format!("{url} is that of {:?}", told.issuer));
            }
            let (own, theirs) = (url.starts_with("http://"), told.jwks_uri.starts_with("https://"));
            if !own && !theirs {
                return Err(format!("{url}: jwks_uri {:?} does not begin with https://", told.jwks_uri));
            }
            told.jwks_uri
        }
    };
    let set = fetch::get(&url).await.map_err(|problem| format!("{url}: {problem}"))?;
    let keys = KeySet::read(&set).map_err(|problem| format!("{url}: {problem}"))?;
    if keys.len() == 0 { Err(format!("{url}: holds no key for signatures that are known here")) } else { Ok(keys) }
}
