//! The certificate authority: roots, certificates, tokens, revocations of one trust domain.
//!
//! Lives here: the handle that roles and RPCs use, the order of a change. Does not: TLS (`weft-identity`), who may ask (`grpc`).
//! One file under `--ca-dir` holds everything and may be shared by several registries: a change is made under its lock on what the file holds
//! then, written whole, and only then used; what others wrote is noticed within a second.
//! A root's life: published (in the bundle, does not sign) → signing → published until its last certificate has run out → gone. Only time and
//! `rotate` move it, so every registry that shares the file agrees without a word.
//! Blocking: whatever writes does file I/O; async callers use `spawn_blocking`.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::sync::watch;
use weft_identity::{Bundle, Clock, Leaf, Revocations, RootPin, Serial, TrustDomain, name};
use weft_model::{Invalid, ServiceName, SpiffeId};

pub(crate) mod grpc;
mod issue;
pub(crate) mod kubernetes;
mod own;
mod state;
mod store;
mod tokens;

pub use issue::{Issued, SignError};
pub use kubernetes::Settings as Kubernetes;
pub use own::{OwnError, OwnIdentity};
pub use store::Error;
pub use tokens::{Granted, TokenError};

use state::{State, TokenRecord, millis};
use store::Store;

/// How long a token may be used unless its maker says otherwise, and at most.
const TOKEN_LIFE: Duration = Duration::from_secs(24 * 3_600);
const LONGEST_TOKEN_LIFE: Duration = Duration::from_secs(366 * 24 * 3_600);
/// File that holds an operator's token for those who may read the directory.
const OPERATOR_TOKEN: &str = "operator.token";

/// How an authority is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directory of its files; made if it is not there.
    pub dir: PathBuf,
    /// Domain it vouches for; a directory keeps the one it was made for.
    pub trust_domain: TrustDomain,
    /// Life of a certificate: 2 s to 30 days. It is renewed at half of it.
    pub life: Duration,
    /// Where registries are reached, for tokens; empty means where this one listens.
    pub advertise: Vec<String>,
    /// How tokens of Kubernetes are reviewed; none takes none.
    pub kubernetes: Option<Kubernetes>,
}

/// The authority. Clones are one.
#[derive(Clone)]
pub struct Ca {
    shared: Arc<Shared>,
}

struct Shared {
    store: Store,
    life: Duration,
    domain: TrustDomain,
    state: ArcSwap<State>,
    /// Held while the file and `state` change, so that they change in the same order.
    writing: Mutex<()>,
    urls: OnceLock<Vec<String>>,
    trusted: watch::Sender<Trusted>,
    clock: Clock,
}

/// Whom the domain trusts at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trusted {
    /// Its roots.
    pub bundle: Bundle,
    /// What was taken back.
    pub revocations: Revocations,
}

/// What to take back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revoke {
    /// One certificate.
    Serial(Serial),
    /// All that an identity holds now.
    Identity(SpiffeId),
}

/// A token as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Whom its holder may become.
    pub identity: SpiffeId,
    /// When it was made.
    pub created: SystemTime,
    /// When it runs out.
    pub expires: SystemTime,
    /// When it was revoked, if it was.
    pub revoked: Option<SystemTime>,
}

/// A change that was refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The request makes no sense.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such token.
    #[error("there is no token {id}")]
    Unknown {
        /// As asked for.
        id: String,
    },
    /// The files are out of reach; trying later may succeed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Ca {
    /// Opens the authority in its directory, or makes it there. Blocks.
    pub fn open(settings: &Settings, clock: Clock) -> Result<Self, Error> {
        let store = Store::open(&settings.dir)?;
        let now = clock();
        let (_, state) = store.update(|found| {
            let mut state = match found {
                Some(state) => state,
                None => State::create(&settings.trust_domain, now)?,
            };
            state.check_domain(&settings.trust_domain, &store)?;
            state.longest_life_ms = state.longest_life_ms.max(millis_of(settings.life));
            Ok((state.clone(), state))
        })?;
        let trusted = watch::Sender::new(trusted(&state, now)?);
        let urls = OnceLock::new();
        if !settings.advertise.is_empty() {
            urls.set(settings.advertise.clone()).expect("it was made empty one line above");
        }
        Ok(Self {
            shared: Arc::new(Shared {
                store,
                life: settings.life,
                domain: settings.trust_domain.clone(),
                state: ArcSwap::from_pointee(state),
                writing: Mutex::default(),
                urls,
                trusted,
                clock,
            }),
        })
    }

    /// The domain it vouches for.
    pub fn domain(&self) -> &TrustDomain {
        &self.shared.domain
    }

    /// Whom the domain trusts now.
    pub fn trusted(&self) -> Trusted {
        self.shared.trusted.borrow().clone()
    }

    pub(crate) fn follow(&self) -> watch::Receiver<Trusted> {
        self.shared.trusted.subscribe()
    }

    /// Signs a certificate for `id` with the root that signs now. The request's public key counts and nothing else of it. Blocks.
    pub fn sign(&self, csr: &[u8], id: &SpiffeId) -> Result<Issued, SignError> {
        self.signed(csr, id, &[], None)
    }

    /// Signs for this registry, which is reached by the hosts of its URLs. Blocks.
    fn sign_own(&self, csr: &[u8]) -> Result<Issued, SignError> {
        let urls = self.shared.urls.get().into_iter().flatten();
        let hosts: BTreeSet<issue::Host> = urls.filter_map(|url| issue::Host::of(url)).collect();
        let hosts: Vec<_> = hosts.into_iter().collect();
        self.signed(csr, &self.domain().service(&name::registry()), &hosts, None)
    }

    /// Signs a new certificate for whom `shown` names, unless that was taken back. Blocks.
    pub fn renew(&self, csr: &[u8], shown: &Leaf) -> Result<Issued, SignError> {
        self.signed(csr, &shown.id, &[], Some(shown))
    }

    /// Signs with the file locked: a certificate is issued either before a revocation, which then covers it by its time, or after it, knowing of it.
    /// While the file is out of reach, by what was read of it last.
    fn signed(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        hosts: &[issue::Host],
        shown: Option<&Leaf>,
    ) -> Result<Issued, SignError> {
        let key = issue::public_key(csr)?;
        let _order = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let _held = match self.shared.store.hold() {
            Ok((lock, Some(state))) => {
                state.check_domain(self.domain(), &self.shared.store)?;
                self.shared.state.store(Arc::new(state));
                self.publish()?;
                Some(lock)
            }
            Ok((lock, None)) => Some(lock),
            Err(error) => {
                tracing::warn!(%error, "signing by what the authority's file held before");
                None
            }
        };
        let (state, now) = (self.shared.state.load(), self.now());
        match shown {
            Some(shown) if state.revocations(now).covers(shown) => {
                Err(SignError::Revoked { shown: shown.serial.clone() })
            }
            Some(_) | None => issue::leaf(&state, &key, id, hosts, now, self.shared.life),
        }
    }

    /// Makes a new root that signs after `notice`; without one, after half the life of a certificate. Blocks.
    pub fn rotate(&self, notice: Option<Duration>) -> Result<(RootPin, SystemTime), Error> {
        let now = self.now();
        let signs_from = now + notice.unwrap_or(self.shared.life / 2);
        let pin = self.change(|state| {
            state.add_root(&self.shared.domain, now, signs_from)?;
            Ok(RootPin::of(&state.newest().certificate))
        })?;
        tracing::info!(root = %pin, "new root published");
        Ok((pin, signs_from))
    }

    /// Takes certificates back. Durable when it returns. Blocks.
    pub fn revoke(&self, what: &Revoke) -> Result<(), ChangeError> {
        if let Revoke::Identity(id) = what
            && !self.shared.domain.owns(id)
        {
            return Err(Invalid::new("identity", format!("{id} is not of {}", self.shared.domain)).into());
        }
        self.change(|state| {
            state.revoke(what, self.now()); // with the file locked: what is signed later knows of it
            Ok(())
        })?;
        tracing::warn!(?what, "certificates revoked");
        Ok(())
    }

    /// Makes a token for a service, or an operator's for none. Blocks.
    pub fn create_token(
        &self,
        service: Option<&ServiceName>,
        life: Option<Duration>,
    ) -> Result<(String, Listed), ChangeError> {
        let life = life.unwrap_or(TOKEN_LIFE);
        if life > LONGEST_TOKEN_LIFE || life < Duration::from_secs(1) {
            return Err(Invalid::new("life_ms", "a token lives for 1 s to 366 days").into());
        }
        if let Some(service) = service {
            may_be_a_service(service)?;
        }
        let urls = self.shared.urls.get().cloned().unwrap_or_default();
        if urls.is_empty() {
            return Err(Invalid::new("", "the registry does not know its own address; give it --advertise").into());
        }
        let identity = self.domain().service(service.unwrap_or(&name::operator()));
        let (text, record) = self.change(|state| self.new_token(state, &identity, &urls, life))?;
        tracing::info!(token = record.id, %identity, "token created");
        Ok((text, record.listed()))
    }

    /// The tokens that have not run out, oldest first.
    pub fn list_tokens(&self) -> Vec<Listed> {
        let now = self.now();
        self.shared.state.load().tokens.iter().map(TokenRecord::listed).filter(|it| it.expires > now).collect()
    }

    /// Revokes a token; revoking it again changes nothing. Blocks.
    pub fn revoke_token(&self, id: &str) -> Result<(), ChangeError> {
        let now = self.now();
        let known = self.change(|state| {
            let record = state.tokens.iter_mut().find(|it| it.id == id);
            Ok(record.map(|record| record.revoked_ms.get_or_insert(millis(now))).is_some())
        })?;
        if !known {
            return Err(ChangeError::Unknown { id: id.to_owned() });
        }
        tracing::warn!(token = id, "token revoked");
        Ok(())
    }

    /// Checks a token: signature, time, whether it is known and not revoked.
    pub fn check_token(&self, text: &str) -> Result<Granted, TokenError> {
        tokens::check(&self.shared.state.load(), self.domain(), text, self.now())
    }

    /// Writes an operator's token into the directory, if there is no usable one. Several registries that share it may do so at once. Blocks.
    pub fn keep_operator_token(&self, urls: Vec<String>) -> Result<(), ChangeError> {
        let urls = self.shared.urls.get_or_init(|| urls);
        if self.has_operator_token(&self.shared.state.load(), urls) {
            return Ok(());
        }
        let make = |state: &mut State| {
            if self.has_operator_token(state, urls) {
                return Ok(None); // another registry was quicker
            }
            let identity = self.domain().service(&name::operator());
            self.new_token(state, &identity, urls, LONGEST_TOKEN_LIFE).map(Some)
        };
        let write = |made: &Option<(String, TokenRecord)>| match made {
            Some((text, _)) => self.shared.store.write(OPERATOR_TOKEN, format!("{text}\n").as_bytes()),
            None => Ok(()),
        };
        if let Some((_, record)) = self.change_and(make, write)? {
            tracing::info!(token = record.id, identity = %record.identity, "token created");
        }
        Ok(())
    }

    /// Writes the operator's token anew if it does not lead to the root that signs now: the one it names leaves the bundle some day. Blocks.
    pub(crate) fn renew_operator_token(&self) -> Result<(), ChangeError> {
        match self.shared.urls.get() {
            Some(urls) => self.keep_operator_token(urls.clone()),
            None => Ok(()), // nobody has asked for one
        }
    }

    /// Whether the directory holds an operator's token that leads to where the registries are and to the root that signs now.
    fn has_operator_token(&self, state: &State, urls: &[String]) -> bool {
        self.shared.store.read(OPERATOR_TOKEN).is_ok_and(|text| {
            let token: Result<weft_identity::token::Token, _> = text.parse();
            let signing = RootPin::of(&state.signing(self.now()).certificate);
            let leads_here = token.is_ok_and(|it| it.registries() == urls && it.pin() == signing);
            leads_here && tokens::check(state, self.domain(), text.trim(), self.now()).is_ok()
        })
    }

    fn new_token(
        &self,
        state: &mut State,
        identity: &SpiffeId,
        urls: &[String],
        life: Duration,
    ) -> Result<(String, TokenRecord), Error> {
        let now = self.now();
        let record = TokenRecord::new(identity, now, now + life);
        let text = tokens::mint(state, &record, urls.to_vec(), now)?;
        state.prune(now);
        state.tokens.push(record.clone());
        Ok((text, record))
    }

    /// Takes over what another registry wrote, and what time did to the roots. Blocks.
    pub fn refresh(&self) -> Result<(), Error> {
        let _order = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = self.shared.store.read_changed()? {
            state.check_domain(self.domain(), &self.shared.store)?;
            self.shared.state.store(Arc::new(state));
        }
        self.publish()
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        self.change_and(change, |_| Ok(()))
    }

    /// As `change`, and then, once it is in use and before anybody else changes the file, `after`.
    fn change_and<T>(
        &self,
        change: impl FnOnce(&mut State) -> Result<T, Error>,
        after: impl FnOnce(&T) -> Result<(), Error>,
    ) -> Result<T, Error> {
        let _order = self.shared.writing.lock().unwrap_or_else(PoisonError::into_inner); // the state is swapped whole: never half changed
        let (_held, (state, result)) = self.shared.store.update(|found| {
            let mut state = found.ok_or_else(|| self.shared.store.vanished())?;
            state.check_domain(self.domain(), &self.shared.store)?;
            let result = change(&mut state)?;
            Ok((state.clone(), (state, result)))
        })?;
        self.shared.state.store(Arc::new(state));
        self.publish()?;
        after(&result)?;
        Ok(result)
    }

    fn publish(&self) -> Result<(), Error> {
        let fresh = trusted(&self.shared.state.load(), self.now())?;
        self.shared.trusted.send_if_modified(|held| {
            let changed = *held != fresh;
            *held = fresh;
            changed
        });
        Ok(())
    }

    fn now(&self) -> SystemTime {
        (self.shared.clock)()
    }
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").field("domain", self.domain()).finish_non_exhaustive()
    }
}

fn trusted(state: &State, now: SystemTime) -> Result<Trusted, Error> {
    Ok(Trusted { bundle: state.bundle(now)?, revocations: state.revocations(now) })
}

/// The namespace of the mesh itself is not given away.
fn may_be_a_service(service: &ServiceName) -> Result<(), Invalid> {
    if service.namespace() == name::SYSTEM_NAMESPACE {
        Err(Invalid::new("service", format!("{service} lies in the namespace of the mesh itself")))
    } else {
        Ok(())
    }
}

fn millis_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
