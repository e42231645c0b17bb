//! The registry's own identity, and the task that keeps it and the bundle fresh.
//!
//! Lives here: signing for ourselves, looking at the shared file every second, keeping the operator's token in step with the root. Does not: anyone else's certificate.
//! Our chain ends in the roots themselves, which TLS does not need: a client that holds only a token finds the pinned one among them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls::pki_types::CertificateDer;
use weft_identity::{BadSvid, Identity, KeyRequest, RequestError, Trust};

use crate::ca::{Ca, Error, SignError};

/// How often the file is looked at: bounds how late another registry's word is heard, and a root's phase.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Keeps the registry's identity fresh.
#[derive(Debug)]
pub struct OwnIdentity {
    ca: Ca,
    identity: Identity,
    signed_with: Vec<CertificateDer<'static>>,
    failed: Arc<AtomicU64>,
}

/// The registry cannot vouch for itself.
#[derive(Debug, thiserror::Error)]
pub enum OwnError {
    /// It made no key.
    #[error(transparent)]
    Key(#[from] RequestError),
    /// It did not sign.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What it signed is no SVID.
    #[error("the registry's own certificate")]
    Svid(#[from] BadSvid),
    /// Its bundle is none.
    #[error(transparent)]
    Authority(#[from] Error),
}

impl OwnIdentity {
    /// Signs a first certificate for this registry.
    pub fn new(ca: &Ca) -> Result<Self, OwnError> {
        let (svid, signed_with) = sign(ca)?;
        let trusted = ca.trusted();
        let trust = Trust::new(trusted.bundle, trusted.revocations, Arc::clone(&ca.shared.clock))
            .map_err(|e| Error::Damaged { problem: e.to_string() })?;
        Ok(Self { ca: ca.clone(), identity: Identity::new(svid, trust)?, signed_with, failed: Arc::default() })
    }

    /// Returns what tells when our certificate runs out, and how often renewing it has failed.
    pub(crate) fn renewals(&self) -> impl Fn() -> (SystemTime, u64) + Send + Sync + use<> {
        let (identity, failed) = (self.identity.clone(), Arc::clone(&self.failed));
        move || (identity.svid().leaf().not_after, failed.load(Ordering::Relaxed))
    }

    /// The identity to serve with.
    pub fn identity(&self) -> Identity {
        self.identity.clone()
    }

    /// Runs until dropped: follows the file, renews at half life and when another root signs.
    pub async fn run(mut self) {
        let mut trusted = self.ca.shared.trusted.subscribe();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {
                    let ca = self.ca.clone();
                    match tokio::task::spawn_blocking(move || ca.refresh()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::error!(%error, "the authority's file"),
                        Err(error) => tracing::error!(%error, "looking at the authority's file"),
                    }
                }
                changed = trusted.changed() => if changed.is_err() { return },
            }
            let before = self.signed_with.first().cloned();
            if let Err(error) = self.follow() {
                self.failed.fetch_add(1, Ordering::Relaxed);
                tracing::error!(%error, "cannot renew the registry's own certificate");
            }
            if self.signed_with.first() != before.as_ref() {
                let ca = self.ca.clone();
                let kept = tokio::task::spawn_blocking(move || ca.renew_operator_token()).await;
                if let Ok(Err(error)) = kept {
                    tracing::error!(%error, "cannot write the operator's token for the root that signs now");
                }
            }
        }
    }

    fn follow(&mut self) -> Result<(), OwnError> {
        let trusted = self.ca.trusted();
        self.identity
            .trust()
            .replace(trusted.bundle, trusted.revocations)
            .map_err(|e| Error::Damaged { problem: e.to_string() })?;
        let due = self.ca.now() >= self.identity.svid().leaf().half_life();
        if due || roots(&self.ca) != self.signed_with {
            let (svid, signed_with) = sign(&self.ca)?;
            self.identity.rotate(svid)?;
            self.signed_with = signed_with;
        }
        Ok(())
    }
}

fn sign(ca: &Ca) -> Result<(weft_identity::Svid, Vec<CertificateDer<'static>>), OwnError> {
    let request = KeyRequest::generate()?;
    let roots = roots(ca);
    let mut chain = ca.sign_own(request.csr())?.chain;
    chain.extend(roots.iter().cloned());
    Ok((request.complete(chain)?, roots))
}

/// The root that signs now, then the others of the bundle.
fn roots(ca: &Ca) -> Vec<CertificateDer<'static>> {
    let (state, now) = (ca.shared.state.load(), ca.now());
    let signing = &state.signing(now).certificate;
    let others = state.alive(now).iter().map(|root| &root.certificate).filter(|root| *root != signing);
    std::iter::once(signing).chain(others).map(|der| CertificateDer::from(der.to_vec())).collect()
}
