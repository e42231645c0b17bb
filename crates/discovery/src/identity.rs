//! An identity from the registry: a first certificate for a token, a new one at half life, whom to trust as it changes.
//!
//! Lives here: the client side of weft.registry.v1.Identity and when it is asked. Does not: keys and TLS (`weft-identity`), the registry's side.
//! Invariants: the first connection believes nothing but the hash in the token; a key never leaves the process; a certificate that could not be
//! renewed is used to its end, and then the token, if there is one, is tried again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use rand::Rng;
use rustls::pki_types::CertificateDer;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use weft_identity::{
    BadBundle, BadSvid, Bundle, Clock, Identity, KeyRequest, Refusal, RequestError, Revocations, Serial, Svid, Trust,
    bootstrap_config, token::Token,
};
use weft_model::{Invalid, ServiceName};
use weft_proto::weft::registry::v1::{self as pb, identity_client::IdentityClient};

use crate::{
    backoff::Backoff,
    dial::{self, Dial},
    registries::is_an_answer,
};

/// Longest sleep before the wall clock is looked at again: it may jump.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Time one try with one registry may take.
const TRY: Duration = Duration::from_secs(5);

/// Why this process got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// None of the registries answered in time.
    #[error("no registry of the token answered within {within:?}")]
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
    #[error("the registry refused: {}", .0.message())]
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

/// Keeps an identity fresh; to be run by the caller.
pub struct IdentityTask {
    identity: Identity,
    registries: Vec<String>,
    token: Token,
    service: Option<ServiceName>,
    clock: Clock,
}

impl std::fmt::Debug for IdentityTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityTask")
            .field("identity", &self.identity)
            .field("token", &self.token)
            .finish_non_exhaustive()
    }
}

/// Gets a first certificate for a token, trying the registries it names in turn for at most `within`. `service` says who this process means to be;
/// without it, it becomes whom the token names.
pub async fn join(
    token: Token,
    service: Option<ServiceName>,
    clock: Clock,
    within: Duration,
) -> Result<(IdentityTask, Identity), IdentityError> {
    let (deadline, mut backoff) = (Instant::now() + within, Backoff::default());
    let mut last = None;
    loop {
        for url in token.registries() {
            match timeout_at(deadline, first(url, &token, service.as_ref(), &clock)).await {
                Ok(Ok((svid, trusted))) => {
                    let trust = Trust::new(trusted.0, trusted.1, Arc::clone(&clock))?;
                    let (identity, registries) = (Identity::new(svid, trust)?, token.registries().to_vec());
                    let task = IdentityTask { identity: identity.clone(), registries, token, service, clock };
                    return Ok((task, identity));
                }
                Ok(Err(IdentityError::OutOfReach { source, .. })) => last = source.or(last),
                Ok(Err(final_word)) => return Err(final_word),
                Err(_) => return Err(IdentityError::OutOfReach { within, source: last }),
            }
        }
        let again = Instant::now() + backoff.delay(&mut rand::rng());
        if again >= deadline {
            return Err(IdentityError::OutOfReach { within, source: last });
        }
        tokio::time::sleep_until(again).await;
    }
}

type Trusted = (Bundle, Revocations);

async fn first(
    url: &str,
    token: &Token,
    service: Option<&ServiceName>,
    clock: &Clock,
) -> Result<(Svid, Trusted), IdentityError> {
    let config = bootstrap_config(token.pin(), &token.registry(), clock);
    let mut client = IdentityClient::new(dial::secure(url, Dial::Pinned(config)));
    let key = KeyRequest::generate()?;
    let request = pb::SignRequest {
        csr: key.csr().to_vec().into(),
        token: token.text().to_owned(),
        service: service.map(|it| it.full().to_owned()).unwrap_or_default(),
    };
    let answer = ask(url, client.sign(request)).await?;
    read(key, answer.issued, answer.bundle)
}

async fn ask<T>(url: &str, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, IdentityError> {
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

fn trusted(it: pb::BundleResponse) -> Result<Trusted, IdentityError> {
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
    /// Runs until `stop`: renews at half life with back-off, follows the bundle.
    pub async fn run(self, stop: CancellationToken) {
        let both = async { tokio::join!(self.renew(), self.follow()) };
        stop.run_until_cancelled(both).await;
    }

    async fn renew(&self) -> ! {
        let mut backoff = Backoff::default();
        loop {
            self.until_due().await;
            match self.renew_once().await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    let left = self.identity.svid().leaf().not_after.duration_since(self.now()).unwrap_or_default();
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, left_seconds = left.as_secs(), "certificate not renewed");
                    let delay = backoff.delay(&mut rand::rng());
                    sleep(delay).await;
                }
            }
        }
    }

    /// Half of the certificate's life and up to a tenth more, so that processes started together do not ask together.
    async fn until_due(&self) {
        let (svid, spread) = (self.identity.svid(), rand::rng().random_range(0.0..0.2));
        let leaf = svid.leaf();
        let half = leaf.half_life();
        let due = half + leaf.not_after.duration_since(half).unwrap_or_default().mul_f64(spread);
        while let Ok(left) = due.duration_since(self.now()) {
            if left.is_zero() {
                return;
            }
            sleep(left.min(LOOK_AGAIN)).await;
        }
    }

    async fn renew_once(&self) -> Result<(), IdentityError> {
        let expired = self.now() >= self.identity.svid().leaf().not_after;
        let mut last = None;
        for url in &self.registries {
            // A connection of its own: it shows today's certificate and proves that it still works.
            let renewed = if expired {
                first(url, &self.token, self.service.as_ref(), &self.clock).await
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
        for url in self.registries.iter().cycle() {
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
