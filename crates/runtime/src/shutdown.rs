//! Shutdown: two tokens, `drain` and `abort`, passed by value and never ambient.
//!
//! Lives here: the tokens and how signals move them. Does not: what a role does between them, nor its time limits.
//! ```text
//! Serving --drain()--> draining --abort()--> aborting      (a signal drains; a second one aborts, and so does Ctrl-C while draining)
//! ```

use tokio_util::sync::CancellationToken;

/// A handle on the end of the process. Cheap to clone; all clones are one shutdown, children made by [`Shutdown::child`] are their own.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    drain: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    /// Returns a shutdown that nothing has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a shutdown that follows this one, but can also be asked for alone: for a part that ends before the others.
    pub fn child(&self) -> Self {
        Self { drain: self.drain.child_token(), abort: self.abort.child_token() }
    }

    /// Asks everyone to finish what is in flight and leave.
    pub fn drain(&self) {
        self.drain.cancel();
    }

    /// Asks everyone to leave at once; implies `drain`.
    pub fn abort(&self) {
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Whether draining was asked for.
    pub fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    /// Whether aborting was asked for.
    pub fn is_aborting(&self) -> bool {
        self.abort.is_cancelled()
    }

    /// Waits until draining is asked for. Cancel-safe.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until aborting is asked for. Cancel-safe.
    pub async fn aborting(&self) {
        self.abort.cancelled().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_follows_its_parent_and_not_the_other_way_round() {
        let parent = Shutdown::new();
        let child = parent.child();
        child.drain();
        assert!(child.is_draining() && !parent.is_draining());
        parent.abort();
        assert!(parent.is_draining() && child.is_aborting());
    }
}
