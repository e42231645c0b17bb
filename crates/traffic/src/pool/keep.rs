//! Keeping a sealed connection only for as long as what it was made of holds: our SVID, the peer's, our trust.
//!
//! Lives here: when a connection is replaced, retired or cut. Does not: opening the one that takes its place (`line`), who is let in (`weft-identity`).
//! ```text
//!         our SVID was replaced, or the peer should have a new one        the new one is open
//!   fresh ─────────────────────────────────────────────────────► replacing ──────────────────► retired: no new streams, ends when its streams have
//!     │ the peer has expired                                                                      ▲
//!     └───────────────────────────────────────────────────────────────────────────────────────────┘
//!   any ── the peer is disowned (revoked, its root is gone) ──► cut, with the streams on it
//! ```
//! A connection of its own watches beside the one that carries calls, so that their path has nothing to check.

use std::{
    sync::Weak,
    time::{Duration, SystemTime},
};

use rand::Rng;
use tokio::{sync::watch, task::AbortHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use weft_identity::Leaf;

use super::{
    Inner, Pool,
    line::{Connection, Line, Told},
    seal::Proof,
};
use crate::backoff::Backoff;

/// When a peer should show a new certificate, as a share of the old one's life: those of the mesh renew between 0.5 and 0.6.
const RENEWED: f64 = 0.7;
/// Connections to be replaced at the same moment spread over this time at most, and over a quarter of what is left of a certificate.
const SPREAD: Duration = Duration::from_secs(3);
/// A peer that has not renewed is asked again no sooner than this.
const LEAST: Duration = Duration::from_secs(1);

/// What is kept, and by what. Holds neither pool nor connection: the last of each may go at any time.
pub(super) struct Keeper {
    pub(super) proof: Proof,
    pub(super) pool: Weak<Inner>,
    pub(super) line: Weak<Line>,
    pub(super) connection: Weak<Connection>,
    /// Ends the task that runs the connection.
    pub(super) cut: AbortHandle,
    /// That task has ended.
    pub(super) ended: CancellationToken,
}

impl Keeper {
    pub(super) async fn run(self) {
        tokio::select! {
            biased; // the end first: nothing is judged any more
            () = self.ended.cancelled() => {}
            refusal = self.proof.identity.trust().disowns(&self.proof.peer) => {
                if let Some(pool) = self.pool.upgrade() {
                    pool.metrics.refused(refusal.rule());
                }
                tracing::warn!(peer = %self.proof.peer.id(), rule = refusal.rule(), %refusal, "connection to a peer cut");
                self.retire();
                self.cut.abort();
            }
            () = self.retired() => {}
        }
    }

    /// Never returns: a retired connection's peer may still be disowned.
    async fn retired(&self) {
        tokio::select! {
            refusal = self.proof.identity.trust().refuses(&self.proof.peer) => {
                tracing::debug!(peer = %self.proof.peer.id(), %refusal, "connection to a peer retired");
            }
            () = self.replaced() => {}
        }
        self.retire();
        std::future::pending().await
    }

    /// Waits until another connection is open in place of this one, or none is needed since no call finds this one any more.
    async fn replaced(&self) {
        let Proof { identity, rotations, shown, peer } = &self.proof;
        let trust = identity.trust();
        let mut due = renewed(&peer.leaf, trust.now());
        let mut failures = 0;
        loop {
            tokio::select! {
                () = identity.rotated_since(*rotations) => {}
                () = trust.reaches(due) => {}
            }
            sleep(spread(shown.leaf().not_after.min(peer.leaf.not_after), trust.now())).await;
            if !self.is_found() || self.another_opens().await {
                return;
            }
            failures += 1;
            let again = Backoff::CONNECT.after(failures, &mut rand::rng());
            sleep(again).await;
            due = renewed(&peer.leaf, trust.now());
        }
    }

    fn is_found(&self) -> bool {
        self.line.upgrade().is_some_and(|line| !line.gone() && line.holds(self.connection.as_ptr()))
    }

    async fn another_opens(&self) -> bool {
        let Some(mut opening) = self.open_another() else { return false };
        let told = opening.wait_for(Option::is_some).await;
        told.is_ok_and(|told| matches!(&*told, Some(Ok(()))))
    }

    /// None if there is nothing left to open it for, or a connect has just failed.
    fn open_another(&self) -> Option<watch::Receiver<Told>> {
        let pool = Pool(self.pool.upgrade()?);
        self.line.upgrade()?.start(&pool).ok()
    }

    fn retire(&self) {
        if let Some(line) = self.line.upgrade() {
            line.forget(self.connection.as_ptr());
        }
    }
}

/// When to see whether a peer shows another certificate than this.
fn renewed(leaf: &Leaf, now: SystemTime) -> SystemTime {
    let life = leaf.not_after.duration_since(leaf.not_before).unwrap_or_default();
    let left = leaf.not_after.duration_since(now).unwrap_or_default();
    (leaf.not_before + life.mul_f64(RENEWED)).max(now + (left / 2).max(LEAST).min(left))
}

fn spread(until: SystemTime, now: SystemTime) -> Duration {
    let most = SPREAD.min(until.duration_since(now).unwrap_or_default() / 4);
    most.mul_f64(rand::rng().random_range(0.0..1.0))
}
