//! How a long stream gets from a connection that shows a certificate which has been replaced to one that shows the new one.
//!
//! Lives here: when to open the next stream, and that the old one stays until it may go. Does not: what is said on either (`lease`, `watch`).
//! ```text
//! staying --certificate replaced--> opening --Moved--> both open --settle()--> staying
//!    ▲                                 │
//!    └──────── pause ◄────Failed───────┘
//! ```

use std::pin::Pin;

use tokio::time::{Instant, sleep_until};
use tonic::Status;

use crate::{backoff::Backoff, registries::Link};

type Opening<O> = Pin<Box<dyn Future<Output = Result<O, Status>> + Send>>;

/// The way from one open stream, `O`, to the next.
pub(crate) struct Moving<O> {
    /// Being opened.
    to: Option<Opening<O>>,
    /// The stream left behind, unread.
    left: Option<O>,
    /// Opening failed; it is tried again from then on.
    not_before: Option<Instant>,
    backoff: Backoff,
}

/// What is to be done for the move.
pub(crate) enum Step<O> {
    /// The stream's connection shows a certificate that has been replaced: [`Moving::open`] another.
    Due,
    /// The other is open: [`Moving::leave`] the one before.
    Moved(Box<O>),
    /// It could not be opened; this step is due again after a pause.
    Failed(Status),
}

impl<O> Default for Moving<O> {
    fn default() -> Self {
        Self { to: None, left: None, not_before: None, backoff: Backoff::default() }
    }
}

impl<O> Moving<O> {
    /// Waits for the next step of a stream that is open on `link`. Cancel-safe.
    pub(crate) async fn next(&mut self, link: &Link) -> Step<O> {
        if let Some(to) = &mut self.to {
            let opened = to.await;
            self.to = None;
            return opened.map_or_else(
                |status| {
                    self.not_before = Some(Instant::now() + self.backoff.delay(&mut rand::rng()));
                    Step::Failed(status)
                },
                |open| Step::Moved(Box::new(open)),
            );
        }
        link.aged().await;
        if let Some(not_before) = self.not_before {
            sleep_until(not_before).await;
        }
        Step::Due
    }

    /// Opens the next stream, as one of the steps to come.
    pub(crate) fn open(&mut self, opening: impl Future<Output = Result<O, Status>> + Send + 'static) {
        self.to = Some(Box::pin(opening));
    }

    /// Keeps the old stream open, now that there is a new one. What was to be kept before goes.
    pub(crate) fn leave(&mut self, old: O) {
        *self = Self { left: Some(old), ..Self::default() };
    }

    /// Lets the old stream go: the new one has taken its place at the registry, too.
    pub(crate) fn settle(&mut self) {
        self.left = None;
    }
}
