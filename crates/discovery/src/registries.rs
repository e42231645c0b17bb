//! The registries a process may talk to: their addresses, one shared connection to each, and calls that try them in turn.
//!
//! Lives here: which registry is asked next, what is worth asking another for, which certificate it is shown. Does not: what is asked (`watch`,
//! `lease`, `descriptors`).
//! Invariants: a call ends by its deadline, whatever the registries do; a call never goes out under a certificate that has been replaced. Streams
//! that live on one move to a new connection before the old one ends: [`Link::aged`] tells them.

use std::future::Future;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};
use weft_identity::Identity;
use weft_model::{Epoch, InstanceId, Version};
use weft_proto::weft::{
    discovery::v1::{ClaimsRequest, ClaimsResponse, ListRequest, ListResponse, discovery_client::DiscoveryClient},
    registry::v1::{DeregisterRequest, MissingDescriptorsRequest, registry_client::RegistryClient},
};

use crate::dial::{self, Dial};
use crate::outage::Outage;

/// Time one registry has to answer while there are others to ask.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Largest list of everything that is taken: some ten thousand services.
const LARGEST_LIST: usize = 64 << 20;

/// Addresses of registries as a person writes them: `https://10.0.0.5:7100,https://10.0.0.6:7100`; without a scheme, https. That means the TLS
/// of the mesh and needs an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryUrls(Vec<String>);

/// Not an address of a registry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadUrl {
    /// There is none.
    #[error("no registry is named")]
    Empty,
    /// It is no URL of the form `http://host:port`.
    #[error("{url:?} is no registry: expected https://host:port or http://host:port")]
    Malformed {
        /// As it was given.
        url: String,
    },
}

impl FromStr for RegistryUrls {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        let urls =
            text.split(',').map(str::trim).filter(|url| !url.is_empty()).map(parse).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() { Err(BadUrl::Empty) } else { Ok(Self(urls)) }
    }
}

fn parse(url: &str) -> Result<String, BadUrl> {
    let malformed = || BadUrl::Malformed { url: url.to_owned() };
    let full = if url.contains("://") { url.to_owned() } else { format!("https://{url}") };
    let endpoint = Endpoint::from_shared(full.clone()).map_err(|_| malformed())?;
    let uri = endpoint.uri();
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    if known && uri.port_u16().is_some() && matches!(uri.path(), "" | "/") { Ok(full) } else { Err(malformed()) }
}

impl RegistryUrls {
    /// The addresses, each with its scheme; at least one.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Whether each is reached over TLS.
    pub fn all_secure(&self) -> bool {
        self.iter().all(is_secure)
    }

    /// Whether one is reached over TLS.
    pub fn any_secure(&self) -> bool {
        self.iter().any(is_secure)
    }
}

impl std::fmt::Display for RegistryUrls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// The registries of this process. Clones share one connection to each and agree on which one is in use.
#[derive(Debug, Clone)]
pub struct Registries {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    all: Vec<(String, Line)>,
    /// The one that answered last; the next call starts with it.
    current: AtomicUsize,
}

/// The way to one registry.
#[derive(Debug)]
enum Line {
    /// One channel for good: it shows no certificate.
    Fixed(Channel),
    /// A channel for each certificate of ours.
    As(Secure),
}

#[derive(Debug)]
struct Secure {
    url: String,
    identity: Identity,
    /// The channel in use, and how often our certificate had been replaced when it was made. Held to look and to swap, once a call.
    current: Mutex<(u64, Channel)>,
}

/// A connection to a registry, and for how long it is the one to use.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) channel: Channel,
    shows: Option<(Identity, u64)>,
}

impl Link {
    /// Waits until the certificate that the connection shows has been replaced; never, if it shows none. The connection works on until the registry
    /// ends it with that certificate: who has a stream on it moves to another before that. Cancel-safe.
    pub(crate) async fn aged(&self) {
        match &self.shows {
            Some((identity, rotations)) => identity.rotated_since(*rotations).await,
            None => std::future::pending().await,
        }
    }
}

impl Line {
    fn link(&self) -> Link {
        match self {
            Self::Fixed(channel) => Link { channel: channel.clone(), shows: None },
            Self::As(secure) => secure.link(),
        }
    }
}

impl Secure {
    fn new(url: &str, identity: &Identity) -> Self {
        let made = (identity.rotations(), dial::secure(url, Dial::As(identity.clone())));
        Self { url: url.to_owned(), identity: identity.clone(), current: Mutex::new(made) }
    }

    /// The old channel is let go; what is on its way on it arrives.
    fn link(&self) -> Link {
        let rotations = self.identity.rotations();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != rotations {
            *current = (rotations, dial::secure(&self.url, Dial::As(self.identity.clone())));
        }
        Link { channel: current.1.clone(), shows: Some((self.identity.clone(), rotations)) }
    }
}

/// Why a call to the registries failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// None answered in time; the last failure is linked. Trying later may succeed.
    #[error("no registry answers{}", tried(source.as_deref(), *within))]
    OutOfReach {
        /// How long was tried.
        within: Duration,
        /// The last failure, if there was one before time was up.
        source: Option<Box<Status>>,
    },
    /// A registry answered no; asking again gives the same.
    #[error("the registry refused: {}", .0.message())]
    Refused(Box<Status>),
}

/// For how long was tried, where no failure says more: one that is told at once may be the end of trying long before that.
pub(crate) fn tried(failure: Option<&Status>, within: Duration) -> String {
    if failure.is_some() { String::new() } else { format!(" within {within:?}") }
}

impl CallError {
    /// Returns the code of the registry's answer, if it gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(status) => Some(status.code()),
            Self::OutOfReach { .. } => None,
        }
    }
}

impl Registries {
    /// Returns the registries at `urls`, starting with one at random. Nothing is dialled yet. To be called within a tokio runtime,
    /// on which the connections will live. A registry at `https://` fails every call and says why: see [`Registries::secured`].
    pub fn new(urls: &RegistryUrls) -> Self {
        Self::of(urls, |url| Line::Fixed(if is_secure(url) { dial::without_identity(url) } else { dial::plain(url) }))
    }

    /// Like [`Registries::new`], speaking TLS as `identity` to those at `https://`. A connection shows the certificate of the moment it was
    /// opened; when that is replaced, calls and streams move to another.
    pub fn secured(urls: &RegistryUrls, identity: &Identity) -> Self {
        Self::of(urls, |url| {
            if is_secure(url) { Line::As(Secure::new(url, identity)) } else { Line::Fixed(dial::plain(url)) }
        })
    }

    fn of(urls: &RegistryUrls, line: impl Fn(&str) -> Line) -> Self {
        let all: Vec<_> = urls.0.iter().map(|url| (url.clone(), line(url))).collect();
        let current = AtomicUsize::new(rand::rng().random_range(0..all.len()));
        Self { shared: Arc::new(Shared { all, current }) }
    }

    pub(crate) fn count(&self) -> usize {
        self.shared.all.len()
    }

    /// Returns the registry in use, with its URL for people.
    pub(crate) fn current(&self) -> (&str, Link) {
        let (url, line) = &self.shared.all[self.shared.current.load(Ordering::Relaxed)];
        (url, line.link())
    }

    /// Moves on from the registry at `url`, unless somebody else did already.
    pub(crate) fn give_up_on(&self, url: &str) {
        let current = self.shared.current.load(Ordering::Relaxed);
        if self.shared.all[current].0 == url {
            let next = (current + 1) % self.count();
            let _ = self.shared.current.compare_exchange(current, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Makes a call that may be made twice: tries the registries in turn until one answers or `within` is over. Where there are others to
    /// ask, one has `ATTEMPT` to answer.
    pub(crate) async fn call<T, F>(&self, within: Duration, attempt: impl FnMut(Channel) -> F) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + within;
        let alone = self.count() == 1;
        let until = move |began: Instant| if alone { deadline } else { deadline.min(began + ATTEMPT) };
        self.in_turn(within, until, attempt).await
    }

    /// Returns one snapshot of everything, with the registry's notices; for tools that look once. Who acts on it watches instead.
    pub async fn list(&self, within: Duration) -> Result<ListResponse, CallError> {
        let list = |channel| async move {
            let mut client = DiscoveryClient::new(channel).max_decoding_message_size(LARGEST_LIST);
            client.list(ListRequest::default()).await.map(Response::into_inner)
        };
        self.call(within, list).await
    }

    /// Takes an instance out of the catalog and returns the version without it. With an epoch of 0 it is an operator's word and leaves a tombstone; with
    /// the epoch of its lease it is the word of whoever held that: for a lease that was given since it is refused, for one that is over it changes nothing.
    pub async fn deregister(&self, id: InstanceId, epoch: Epoch, within: Duration) -> Result<Version, CallError> {
        let ask = DeregisterRequest { id: id.to_string(), epoch: epoch.0 };
        let gone = self.call(within, |channel| {
            let ask = ask.clone();
            async move { RegistryClient::new(channel).deregister(ask).await }
        });
        Ok(Version(gone.await?.into_inner().version))
    }

    /// Returns whose each name is, who was refused one, and which descriptor sets were refused; for tools that look once.
    pub async fn claims(&self, within: Duration) -> Result<ClaimsResponse, CallError> {
        let claims = |channel| async move {
            let mut client = DiscoveryClient::new(channel).max_decoding_message_size(LARGEST_LIST);
            client.claims(ClaimsRequest {}).await.map(Response::into_inner)
        };
        self.call(within, claims).await
    }

    /// Returns a channel to a registry that answers, for tools that ask it what there is no method for here. The deadline of a call on it is the
    /// caller's.
    pub async fn answering(&self, within: Duration) -> Result<Channel, CallError> {
        let nothing = |channel: Channel| async move {
            let request = MissingDescriptorsRequest { digests: Vec::new() };
            RegistryClient::new(channel.clone()).missing_descriptors(request).await?;
            Ok(channel)
        };
        self.call(within, nothing).await
    }

    /// As `call`, for one that takes long to answer by its nature: whoever was asked before `within` is over has until `slack` after it.
    pub(crate) async fn long_call<T, F>(
        &self,
        within: Duration,
        slack: Duration,
        attempt: impl FnMut(Channel) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let end = Instant::now() + within + slack;
        self.in_turn(within, move |_| end, attempt).await
    }

    /// Tries the registries in turn, each until what `until` says of the moment it is asked; none is asked after `within`.
    async fn in_turn<T, F>(
        &self,
        within: Duration,
        until: impl Fn(Instant) -> Instant,
        mut attempt: impl FnMut(Channel) -> F,
    ) -> Result<T, CallError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + within;
        let mut outage = Outage::default();
        let (mut last, mut misspoken) = (None, None);
        loop {
            let (url, Link { channel, .. }) = self.current();
            let failed = match timeout_at(until(Instant::now()), attempt(channel)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) if is_an_answer(status.code()) => return Err(CallError::Refused(Box::new(status))),
                Ok(Err(status)) => Some(Box::new(status)),
                Err(_) => None,
            };
            self.give_up_on(url);
            if let Some(status) = &failed
                && let Ok(Some(problem)) = timeout_at(deadline, outage.look(url, status)).await
            {
                misspoken = Some(Box::new(Status::unavailable(format!("{url}: {problem}"))));
            }
            // Silence says less than what another has failed with.
            let silent = || Some(Box::new(Status::deadline_exceeded(format!("{url} does not answer"))));
            last = failed.or(last).or_else(silent);
            let next = Instant::now() + outage.failed(self.count()).unwrap_or_default();
            if next >= deadline {
                break;
            }
            sleep_until(next).await;
        }
        Err(CallError::OutOfReach { within, source: misspoken.or(last) })
    }
}

/// Whether a status is the registry's word, which another registry would repeat; anything else may be the connection's.
pub(crate) fn is_an_answer(code: Code) -> bool {
    match code {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => true,
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => false,
    }
}

fn is_secure(url: &str) -> bool {
    url.starts_with("https://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_with_or_without_a_scheme() {
        let urls: RegistryUrls = "http://10.0.0.5:7100, 10.0.0.6:7100".parse().unwrap();
        assert_eq!(urls.to_string(), "http://10.0.0.5:7100,https://10.0.0.6:7100");
    }

    #[test]
    fn what_is_no_registry_is_refused_by_name() {
        assert_eq!(" , ".parse::<RegistryUrls>(), Err(BadUrl::Empty));
        for bad in ["ftp://a:1", "http://a", "http://a:1/x", "http://a:b", "::"] {
            assert_eq!(bad.parse::<RegistryUrls>(), Err(BadUrl::Malformed { url: bad.to_owned() }), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_address_that_wants_tls_never_gets_plaintext() {
        let registries = Registries::new(&"https://127.0.0.1:1".parse().unwrap());
        let (_, Link { channel, .. }) = registries.current();
        let mut client = weft_proto::weft::discovery::v1::discovery_client::DiscoveryClient::new(channel);
        let status = client.list(weft_proto::weft::discovery::v1::ListRequest::default()).await.unwrap_err();
        let said = std::iter::successors(std::error::Error::source(&status), |e| e.source())
            .any(|e| e.to_string().contains("token"));
        assert!(said, "{status:?}");
    }

    #[tokio::test]
    async fn a_call_tries_every_registry_and_ends_by_its_deadline() {
        let registries = Registries::new(&"127.0.0.1:1,127.0.0.1:2".parse().unwrap());
        let mut asked = 0;
        let failed = registries
            .call(Duration::from_millis(50), |_| {
                asked += 1;
                async { Err::<(), _>(Status::unavailable("away")) }
            })
            .await;
        assert!(matches!(failed, Err(CallError::OutOfReach { source: Some(_), .. })), "{failed:?}");
        assert_eq!(asked, 2);
    }

    /// Asks two registries of which the first never answers, and returns how long that took.
    async fn beside_a_hung_one(within: Duration) -> (Result<(), CallError>, Duration) {
        let registries = Registries::new(&"127.0.0.1:1,127.0.0.1:2".parse().unwrap());
        let (began, mut asked) = (Instant::now(), 0);
        let answer = registries
            .call(within, |_| {
                asked += 1;
                let hung = asked == 1;
                async move { if hung { std::future::pending().await } else { Ok(()) } }
            })
            .await;
        (answer, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_hung_registry_leaves_time_for_another() {
        let (answer, took) = beside_a_hung_one(Duration::from_secs(10)).await;
        assert!(answer.is_ok() && took < Duration::from_secs(4), "{answer:?} after {took:?}");
        let (answer, took) = beside_a_hung_one(Duration::from_secs(1)).await;
        assert!(matches!(answer, Err(CallError::OutOfReach { .. })), "{answer:?}");
        assert!(took < Duration::from_millis(1_100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_single_registry_may_take_the_whole_time() {
        let registries = Registries::new(&"127.0.0.1:1".parse().unwrap());
        let slow = || async {
            tokio::time::sleep(Duration::from_secs(8)).await;
            Ok(())
        };
        assert!(registries.call(Duration::from_secs(10), |_| slow()).await.is_ok(), "there is no other to ask");
    }

    #[tokio::test]
    async fn nobody_is_looked_at_for_what_another_has_failed_with() {
        let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let urls = listeners.each_ref().map(|it| format!("http://{}", it.local_addr().unwrap()));
        let registries = Registries::new(&urls.join(",").parse().unwrap());
        let mut asked = 0;
        let attempt = |_| {
            asked += 1;
            let turn = asked;
            async move {
                match turn {
                    1 => Err(Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)))),
                    2 => std::future::pending().await,
                    _ => Ok(()),
                }
            }
        };
        let soon = |began: Instant| began + Duration::from_millis(20);
        registries.in_turn(Duration::from_secs(60), soon, attempt).await.unwrap();
        let looks = listeners.map(|it| {
            it.set_nonblocking(true).unwrap();
            std::iter::from_fn(|| it.accept().ok()).count()
        });
        assert_eq!(looks.iter().sum::<usize>(), 1, "at the first alone: the second has said nothing");
    }

    #[tokio::test]
    async fn the_word_of_a_registry_is_not_asked_for_twice() {
        let registries = Registries::new(&"127.0.0.1:1,127.0.0.1:2".parse().unwrap());
        let mut asked = 0;
        let failed = registries
            .call(Duration::from_secs(5), |_| {
                asked += 1;
                async { Err::<(), _>(Status::not_found("no")) }
            })
            .await;
        assert_eq!((failed.unwrap_err().code(), asked), (Some(Code::NotFound), 1));
    }
}
