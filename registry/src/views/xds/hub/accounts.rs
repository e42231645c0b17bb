//! Who pays for what the hub holds: bytes by stream and identity, and the bounds of both.
//!
//! Lives here: the sums, the bounds. Does not: what costs how much (`table`, `hub`).
//! A stream pays for itself and for each of its subscriptions; a resource is paid for by one of the streams that subscribe it. So the sum is what is
//! held, about, and an identity that subscribes much is refused more while others go on. Where nobody has an identity there is one bound for all.
//! Bounds are asked before something is added, and never by who adds nothing: what a change of the mesh adds to wildcards is paid for, and refused to
//! nobody.

use std::{collections::HashMap, sync::Arc};

use super::{Refused, StreamId};

/// Streams at most.
const MOST_STREAMS: usize = 50_000;
/// Bytes of subscriptions and resources at most, as estimated here.
const MOST_BYTES: usize = 2 << 30;
/// The part of all that one identity may have.
const SHARE: usize = 4;
/// What a stream costs by itself: its node, its session, its task.
const STREAM: usize = 8 << 10;

#[derive(Debug, Default)]
struct Sum {
    streams: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Payer {
    identity: Arc<str>,
    bytes: usize,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    streams: HashMap<StreamId, Payer>,
    identities: HashMap<Arc<str>, Sum>,
    bytes: usize,
}

impl Accounts {
    /// Opens the account of a stream; `identity` is empty if nobody knows.
    pub(super) fn open(&mut self, id: StreamId, identity: &str) -> Result<(), Refused> {
        if self.streams.len() >= MOST_STREAMS {
            return Err(Refused::Full("streams"));
        }
        let streams = self.identities.get(identity).map_or(0, |it| it.streams);
        if !identity.is_empty() && streams >= MOST_STREAMS / SHARE {
            return Err(Refused::Share("streams"));
        }
        let known = self.identities.get_key_value(identity).map(|(it, _)| it.clone());
        let identity = known.unwrap_or_else(|| identity.into());
        self.identities.entry(identity.clone()).or_default().streams += 1;
        self.streams.insert(id, Payer { identity, bytes: 0 });
        self.charge(id, STREAM);
        Ok(())
    }

    /// Closes it; what it still pays for is paid for by nobody.
    pub(super) fn close(&mut self, id: StreamId) {
        let Some(Payer { identity, bytes }) = self.streams.remove(&id) else { return };
        self.bytes -= bytes;
        let sum = self.identities.get_mut(&identity).expect("a stream is counted with its identity");
        sum.bytes -= bytes;
        sum.streams -= 1;
        if sum.streams == 0 {
            self.identities.remove(&identity);
        }
    }

    /// Whether a stream may add something.
    pub(super) fn room(&self, id: StreamId) -> Result<(), Refused> {
        if self.bytes >= MOST_BYTES {
            return Err(Refused::Full("subscriptions"));
        }
        let identity = self.streams.get(&id).map(|it| &it.identity).filter(|it| !it.is_empty());
        let bytes = identity.and_then(|it| self.identities.get(it)).map_or(0, |it| it.bytes);
        if bytes >= MOST_BYTES / SHARE { Err(Refused::Share("subscriptions")) } else { Ok(()) }
    }

    pub(super) fn charge(&mut self, id: StreamId, bytes: usize) {
        let Some(payer) = self.streams.get_mut(&id) else { return };
        payer.bytes += bytes;
        self.bytes += bytes;
        self.identities.get_mut(&payer.identity).expect("a stream is counted with its identity").bytes += bytes;
    }

    pub(super) fn credit(&mut self, id: StreamId, bytes: usize) {
        let Some(payer) = self.streams.get_mut(&id) else { return };
        let bytes = bytes.min(payer.bytes);
        payer.bytes -= bytes;
        self.bytes -= bytes;
        self.identities.get_mut(&payer.identity).expect("a stream is counted with its identity").bytes -= bytes;
    }

    /// What all streams pay for, without what each costs by itself.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.bytes - self.streams.len() * STREAM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_its_share_and_others_have_theirs() {
        let mut accounts = Accounts::default();
        let (greedy, second, other) = (StreamId(1), StreamId(2), StreamId(3));
        accounts.open(greedy, "a").unwrap();
        accounts.open(second, "a").unwrap();
        accounts.open(other, "b").unwrap();
        accounts.charge(greedy, MOST_BYTES / SHARE);
        assert_eq!(accounts.room(greedy), Err(Refused::Share("subscriptions")));
        assert_eq!(accounts.room(second), Err(Refused::Share("subscriptions")), "its other streams, too");
        assert_eq!(accounts.room(other), Ok(()));
        accounts.credit(greedy, MOST_BYTES / SHARE);
        assert_eq!(accounts.room(second), Ok(()));
        accounts.charge(other, MOST_BYTES);
        assert_eq!(accounts.room(greedy), Err(Refused::Full("subscriptions")));
        [greedy, second, other].into_iter().for_each(|id| accounts.close(id));
        assert_eq!((accounts.bytes, accounts.identities.len(), accounts.streams.len()), (0, 0, 0));
    }

    #[test]
    fn streams_are_counted_by_identity_and_where_there_is_none_as_a_whole() {
        let mut accounts = Accounts::default();
        let mut ids = (1..).map(StreamId);
        let mut open = |accounts: &mut Accounts, identity| accounts.open(ids.next().unwrap(), identity);
        (0..MOST_STREAMS / SHARE).for_each(|_| open(&mut accounts, "a").unwrap());
        assert_eq!(open(&mut accounts, "a"), Err(Refused::Share("streams")));
        open(&mut accounts, "b").unwrap();
        while accounts.streams.len() < MOST_STREAMS {
            open(&mut accounts, "").unwrap();
        }
        assert_eq!(open(&mut accounts, ""), Err(Refused::Full("streams")));
    }
}
