//! An identity from the registry: a first certificate for a token, a new one at half life, whom to trust as it changes.
//!
//! Lives here: the client side of weft.registry.v1.Identity and when it is asked. Does not: keys and TLS (`weft-identity`), the registry's side.
//! A process that keeps its identity on disk (`kept`) starts with it while no registry answers, or its token leads to none, as far as it is still good.
//! Invariants: the first connection believes nothing but the hash in the token; a key never leaves the process; a certificate that could not be
//! renewed is used to its end; then, and when it was revoked, the token is read and tried again.

mod kept;

use std::{
    future::pending,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rand::Rng;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;
use weft_identity::{
    BadBundle, BadSvid, Bundle, Clock, Identity, KeyRequest, Refusal, RequestError, Revocations, Serial, Svid, Trust,
    TrustDomain, bootstrap_config, token::Token,
};
use weft_model::{Invalid, ServiceName, SpiffeId};
use weft_proto::weft::registry::v1::{self as pb, identity_client::IdentityClient};

use crate::{
    backoff::Backoff,
    credential::Credential,
    dial::{self, Dial},
    registries::{is_an_answer, tried},
};

/// Longest sleep before the wall clock is looked at again: it may jump.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Time one try with one registry may take.
const TRY: Duration = Duration::from_secs(5);
/// What a process waits for that does not get in.
const NO_ANSWER: &str = "no registry answers yet";

/// Why this process got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// None of the registries answered in time.
    #[error("no registry answers{}", tried(source.as_deref(), *within))]
    OutOfReach {
        /// How long was tried.
        within: Duration,
        /// The last failure, if there was one.
        source: Option<Box<Status>>,
    },
    /// It is not the registry the token speaks of. Trying again gives the same.
    #[error("what answers at {url} is not the registry that the token names")]
    Impostor {
        /// Where it answers.
        url: String,
        /// What it failed to prove.
        source: Refusal,
    },
    /// The registry said no; its words name the rule. Trying again gives the same.
    #[error("the registry refused{}: {}", by_rule(.0), .0.message())]
    Refused(Box<Status>),
    /// The registry's answer makes no sense.
    #[error("the registry's answer")]
    Answer(#[from] Invalid),
    /// Its certificate is not for our key, or for somebody else.
    #[error("the registry's certificate")]
    Svid(#[from] BadSvid),
    /// Its bundle cannot be trusted.
    #[error("the registry's bundle")]
    Bundle(#[from] BadBundle),
    /// No key could be made.
    #[error(transparent)]
    Key(#[from] RequestError),
}

impl IdentityError {
    /// Name of the rule that refused, ours or the registry's; none if nobody refused anything.
    pub fn rule(&self) -> Option<String> {
        match self {
            Self::Impostor { source, .. } => Some(source.rule().to_owned()),
            Self::Refused(status) => rule(status),
            Self::Svid(BadSvid::Leaf(refusal)) => Some(refusal.rule().to_owned()),
            Self::OutOfReach { .. } | Self::Answer(_) | Self::Svid(_) | Self::Bundle(_) | Self::Key(_) => None,
        }
    }
}

/// The rule in a refusal's `google.rpc.ErrorInfo`, as metrics and logs name it.
fn rule(status: &Status) -> Option<String> {
    status.get_details_error_info().map(|info| info.reason.to_ascii_lowercase())
}

fn by_rule(status: &Status) -> String {
    rule(status).map_or_else(String::new, |rule| format!(" by the rule {rule}"))
}

/// Keeps an identity fresh; to be run by the caller.
pub struct IdentityTask {
    identity: Identity,
    credential: Credential,
    service: Option<ServiceName>,
    clock: Clock,
    /// The registry that gave the first certificate; the first one, if the identity is that of an earlier start.
    answered: String,
    /// Where the identity is kept for the next start.
    file: Option<PathBuf>,
    failed: Arc<AtomicU64>,
}

/// How the renewing goes; for metrics. Clones are one.
#[derive(Debug, Clone)]
pub struct Renewals {
    identity: Identity,
    failed: Arc<AtomicU64>,
}

impl Renewals {
    /// When the certificate in use runs out.
    pub fn expires(&self) -> SystemTime {
        self.identity.svid().leaf().not_after
    }

    /// How many times it could not be renewed so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for IdentityTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityTask")
            .field("identity", &self.identity)
            .field("credential", &self.credential)
            .finish_non_exhaustive()
    }
}

/// Gets a first certificate for a token, trying its registries in turn for at most `within`, and says in the log what it waits for. `service`
/// says who this process means to be; without it, it becomes whom the token names.
pub async fn join(
    credential: Credential,
    service: Option<ServiceName>,
    clock: Clock,
    within: Duration,
) -> Result<(IdentityTask, Identity), IdentityError> {
    enter(credential, service, clock, within, None, |_| {}).await
}

/// As [`join`], for a process that lives on meanwhile. `waits` is told each time that no registry answered, and why. With a `file`, the process keeps its
/// identity there: if no registry answers the first round of tries, or what answers is not the one that the token names, it is what it was before, as
/// long as that certificate is good and of the same identity. The registries' word comes first, so that a refusal is heard.
pub async fn enter(
    credential: Credential,
    service: Option<ServiceName>,
    clock: Clock,
    within: Duration,
    file: Option<PathBuf>,
    waits: impl Fn(&str),
) -> Result<(IdentityTask, Identity), IdentityError> {
    let mut before = file.as_deref().and_then(|file| {
        kept::read(file).unwrap_or_else(|error| {
            tracing::warn!(file = %file.display(), %error, "the identity kept from before is not used");
            None
        })
    });
    let (deadline, mut backoff) = (Instant::now() + within, Backoff::default());
    let (registries, mut last) = (credential.registries().clone(), None);
    let mut recalled = |why: &str| {
        let identity = recall(before.take()?, &credential, service.as_ref(), &clock, why)?;
        Some((identity, registries.iter().next().expect("a token names at least one registry").to_owned()))
    };
    let (identity, answered) = 'joined: loop {
        for url in registries.iter() {
            match timeout_at(deadline, first(url, &credential, service.as_ref(), &clock)).await {
                Ok(Ok((svid, trusted))) => {
                    let trust = Trust::new(trusted.0, trusted.1, Arc::clone(&clock))?;
                    let identity = Identity::new(svid, trust)?;
                    tracing::info!(identity = %identity.id(), serial = %identity.svid().leaf().serial, url, "joined the mesh");
                    break 'joined (identity, url.to_owned());
                }
                Ok(Err(IdentityError::OutOfReach { source, .. })) => last = source.or(last),
                Ok(Err(final_word)) => {
                    // The root that the token names leaves the bundle one day. Whoever was somebody before needs no token: both sides prove themselves by
                    // certificates, and an impostor has none that the identity from before believes.
                    let rule = final_word.rule();
                    if let (IdentityError::Impostor { .. }, Some(was)) =
                        (&final_word, recalled(&final_word.to_string()))
                    {
                        tracing::warn!(rule, url, error = %final_word, "the token leads to no registry any more; replace it");
                        break 'joined was;
                    }
                    tracing::error!(rule, url, error = %final_word, "cannot join the mesh");
                    return Err(final_word);
                }
                Err(_) => return Err(IdentityError::OutOfReach { within, source: last }),
            }
        }
        if let Some(was) = recalled(NO_ANSWER) {
            break was;
        }
        let again = Instant::now() + backoff.delay(&mut rand::rng());
        if again >= deadline {
            return Err(IdentityError::OutOfReach { within, source: last });
        }
        let (cause, left) = (last.as_ref().map(|status| status.message()), deadline - Instant::now());
        tracing::info!(%registries, cause, left_seconds = left.as_secs(), "no registry answers yet");
        waits(&cause.map_or_else(|| NO_ANSWER.to_owned(), |cause| format!("{NO_ANSWER}: {cause}")));
        tokio::time::sleep_until(again).await;
    };
    let who = identity.clone();
    Ok((IdentityTask { identity, credential, service, clock, answered, file, failed: Arc::default() }, who))
}

/// The identity from before, if it is whom the process means to be, and a peer would let it in.
fn recall(
    (svid, (bundle, revocations)): (Svid, Trusted),
    credential: &Credential,
    service: Option<&ServiceName>,
    clock: &Clock,
    why: &str,
) -> Option<Identity> {
    let leaf = svid.leaf().clone();
    let left_seconds = leaf.not_after.duration_since(clock()).unwrap_or_default().as_secs();
    let wanted: Option<SpiffeId> = match service {
        Some(service) => Some(TrustDomain::of(credential.registry()).service(service)),
        None => credential.secret().parse::<Token>().ok().map(|token| token.identity().clone()),
    };
    if wanted.as_ref() != Some(&leaf.id) {
        tracing::info!(kept = %leaf.id, "the identity kept from before is somebody else's");
        return None;
    }
    let good =
        Trust::new(bundle, revocations, Arc::clone(clock)).ok().filter(|trust| trust.admit(svid.chain()).is_ok());
    let identity = good.and_then(|trust| Identity::new(svid, trust).ok());
    match &identity {
        Some(_) => {
            tracing::warn!(identity = %leaf.id, serial = %leaf.serial, left_seconds, why, "this is the identity from before");
        }
        None => tracing::info!(identity = %leaf.id, "the identity kept from before is not good any more"),
    }
    identity
}

pub(crate) type Trusted = (Bundle, Revocations);

async fn first(
    url: &str,
    credential: &Credential,
    service: Option<&ServiceName>,
    clock: &Clock,
) -> Result<(Svid, Trusted), IdentityError> {
    let config = bootstrap_config(credential.pin(), credential.registry(), clock);
    let mut client = IdentityClient::new(dial::secure(url, Dial::Pinned(config)));
    let key = KeyRequest::generate()?;
    let request = pb::SignRequest {
        csr: key.csr().to_vec().into(),
        token: credential.secret().to_owned(),
        service: service.map(|it| it.full().to_owned()).unwrap_or_default(),
    };
    let answer = ask(url, client.sign(request)).await?;
    read(key, answer.issued, answer.bundle)
}

pub(crate) async fn ask<T>(
    url: &str,
    call: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, IdentityError> {
    let status = match timeout(TRY, call).await {
        Ok(Ok(answer)) => return Ok(answer.into_inner()),
        Ok(Err(status)) => status,
        Err(_) => return Err(IdentityError::OutOfReach { within: TRY, source: None }),
    };
    match Refusal::of(&status) {
        Some(source) => Err(IdentityError::Impostor { url: url.to_owned(), source }),
        None if is_an_answer(status.code()) => Err(IdentityError::Refused(Box::new(status))),
        None => Err(IdentityError::OutOfReach { within: TRY, source: Some(Box::new(status)) }),
    }
}

fn read(
    key: KeyRequest,
    issued: Option<pb::Issued>,
    bundle: Option<pb::BundleResponse>,
) -> Result<(Svid, Trusted), IdentityError> {
    let chain = issued.ok_or_else(|| Invalid::new("issued", "is required"))?.chain;
    let svid = key.complete(chain.into_iter().map(certificate).collect())?;
    let trusted = trusted(bundle.ok_or_else(|| Invalid::new("bundle", "is required"))?)?;
    Ok((svid, trusted))
}

pub(crate) fn trusted(it: pb::BundleResponse) -> Result<Trusted, IdentityError> {
    let domain = it.trust_domain.parse().map_err(|e: Invalid| e.within("trust_domain"))?;
    let bundle = Bundle::new(domain, it.roots.into_iter().map(certificate))?;
    let mut revocations = Revocations {
        serials: it.revoked_serials.iter().map(|bytes| Serial::new(bytes)).collect(),
        ..Revocations::default()
    };
    for (index, revoked) in it.revoked_identities.into_iter().enumerate() {
        let id = revoked.id.parse().map_err(|e: Invalid| e.within(&format!("revoked_identities[{index}].id")))?;
        let before = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(revoked.before_ms));
        let beyond = || Invalid::new(format!("revoked_identities[{index}].before_ms"), "lies beyond all time");
        revocations.identities.insert(id, before.ok_or_else(beyond)?);
    }
    Ok((bundle, revocations))
}

fn certificate(der: Bytes) -> CertificateDer<'static> {
    CertificateDer::from(der.to_vec())
}

impl IdentityTask {
    pub(crate) fn answered(&self) -> &str {
        &self.answered
    }

    /// How the renewing goes.
    pub fn renewals(&self) -> Renewals {
        Renewals { identity: self.identity.clone(), failed: Arc::clone(&self.failed) }
    }

    /// Runs until `stop`: renews at half life with back-off, follows the bundle, keeps both on disk where it is to.
    pub async fn run(self, stop: CancellationToken) {
        let all = async { tokio::join!(self.renew(), self.follow(), self.keep()) };
        stop.run_until_cancelled(all).await;
    }

    async fn keep(&self) -> ! {
        let Some(file) = &self.file else {
            loop {
                pending::<()>().await;
            }
        };
        let trust = self.identity.trust();
        loop {
            let (rotations, revision) = (self.identity.rotations(), trust.revision());
            let (to, identity) = (file.clone(), self.identity.clone());
            let kept = tokio::task::spawn_blocking(move || kept::write(&to, &identity)).await;
            if let Ok(Err(error)) = kept {
                tracing::warn!(file = %file.display(), %error, "the identity is not kept for the next start");
            }
            tokio::select! {
                () = self.identity.rotated_since(rotations) => {}
                () = trust.changed_since(revision) => {}
            }
        }
    }

    async fn renew(&self) -> ! {
        let mut backoff = Backoff::default();
        loop {
            self.until_due().await;
            match self.renew_once().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    let left = self.identity.svid().leaf().not_after.duration_since(self.now()).unwrap_or_default();
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, left_seconds = left.as_secs(), "certificate not renewed");
                    let delay = backoff.delay(&mut rand::rng());
                    sleep(delay).await;
                }
            }
        }
    }

    /// Whether our own certificate was taken back: it opens no door any more, and only a token that was not revoked gives another.
    fn is_revoked(&self) -> bool {
        self.identity.trust().revocations().covers(self.identity.svid().leaf())
    }

    /// Half of the certificate's life and up to a tenth more, so that processes started together do not ask together. At once if it is revoked.
    async fn until_due(&self) {
        let (svid, spread) = (self.identity.svid(), rand::rng().random_range(0.0..0.2));
        let leaf = svid.leaf();
        let half = leaf.half_life();
        let due = half + leaf.not_after.duration_since(half).unwrap_or_default().mul_f64(spread);
        loop {
            let (trust, revision) = (self.identity.trust(), self.identity.trust().revision());
            let left = due.duration_since(self.now()).unwrap_or_default();
            if left.is_zero() || self.is_revoked() {
                return;
            }
            tokio::select! {
                () = sleep(left.min(LOOK_AGAIN)) => {}
                () = trust.changed_since(revision) => {}
            }
        }
    }

    async fn renew_once(&self) -> Result<(), IdentityError> {
        let lost = self.is_revoked() || self.now() >= self.identity.svid().leaf().not_after;
        let (credential, mut last) = (if lost { self.credential.fresh() } else { self.credential.clone() }, None);
        for url in credential.registries().iter() {
            // A connection of its own: it shows today's certificate and proves that it still works.
            let renewed = if lost {
                first(url, &credential, self.service.as_ref(), &self.clock).await
            } else {
                self.renew_at(url).await
            };
            match renewed {
                Ok((svid, (bundle, revocations))) => {
                    self.identity.trust().replace(bundle, revocations)?; // first, for the new certificate may need the new root
                    self.identity.rotate(svid)?;
                    tracing::debug!(not_after = ?self.identity.svid().leaf().not_after, "certificate renewed");
                    return Ok(());
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or(IdentityError::OutOfReach { within: TRY, source: None }))
    }

    async fn renew_at(&self, url: &str) -> Result<(Svid, Trusted), IdentityError> {
        let key = KeyRequest::generate()?;
        let request = pb::RenewRequest { csr: key.csr().to_vec().into() };
        let answer = ask(url, IdentityClient::new(self.channel(url)).renew(request)).await?;
        read(key, answer.issued, answer.bundle)
    }

    /// Follows the bundle at one registry after the other. A rotation opens the stream anew: the old connection ends with the old certificate.
    async fn follow(&self) -> ! {
        let mut backoff = Backoff::default();
        let registries: Vec<&str> = self.credential.registries().iter().collect();
        for url in registries.into_iter().cycle() {
            let rotations = self.identity.rotations();
            let ended = tokio::select! {
                ended = self.follow_at(url, &mut backoff) => ended,
                () = self.identity.rotated_since(rotations) => continue,
            };
            if let Err(error) = ended {
                tracing::debug!(%error, url, "bundle stream ended");
            }
            let delay = backoff.delay(&mut rand::rng());
            sleep(delay).await;
        }
        unreachable!("a token names at least one registry, and a cycle of one does not end")
    }

    async fn follow_at(&self, url: &str, backoff: &mut Backoff) -> Result<(), IdentityError> {
        let mut stream = ask(url, IdentityClient::new(self.channel(url)).bundle(pb::BundleRequest {})).await?;
        while let Some(update) = stream.message().await.map_err(|status| IdentityError::Refused(Box::new(status)))? {
            let (bundle, revocations) = trusted(update)?;
            if *bundle.domain() != self.identity.trust().domain() {
                return Err(Invalid::new("trust_domain", "is not ours").into());
            }
            self.identity.trust().replace(bundle, revocations)?;
            backoff.reset();
        }
        Ok(())
    }

    fn channel(&self, url: &str) -> Channel {
        dial::secure(url, Dial::As(self.identity.clone()))
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }
}
