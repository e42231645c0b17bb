//! The session of one ADS stream: what its client asked for, was told and answered, and what it is to be told next. No I/O, no clock.
//!
//! Lives here: subscriptions by state of the world and by delta, nonces, the order of kinds. Does not: resources (`hub`), bytes (`wire`).
//! ```text
//! request ─► subscription, ACK or NACK          change ─► name marked          respond ─► the latest of what is marked and may go now
//! ```
//! Rules (contracts/discovery.md 6.3; xds_protocol.rst):
//! - One response a kind is on its way; what changes meanwhile is one mark a name, and the next response has the latest.
//! - A NACK is told by `error_detail` only and answers the response as an ACK does: nothing goes again until it changes.
//! - Listeners and routes wait until clusters and endpoints are answered; clusters leave only when listeners and routes are answered.
//!   Envoy keeps its ACK of clusters back until they are warm, which takes their endpoints: so endpoints never wait for clusters.
//! - A client that does not answer for [`HOLD`] is no longer waited for, so that one kind cannot stop the others for good.
//! - While the registry is warming up, a client that resumes is told of no removal, and of nothing that whoever is missing may make another of:
//!   what is missing may be about to come back.
//! - What cannot be told (endpoints in doubt; by state of the world, those that are gone) is owed on: a drain must not take it for acknowledged.
//!
//! Bounds: names of a kind and their length; what was told is kept as versions, 8 bytes a name.

mod channel;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use weft_model::{Invalid, Version};

use channel::Turn;
pub(super) use channel::{Channel, State};

use super::{Kind, Resource};

/// How long an unanswered response holds back others.
pub(super) const HOLD: Duration = Duration::from_secs(10);

/// Name of a resource.
pub(super) type Name = Arc<str>;

/// How a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Protocol {
    /// `StreamAggregatedResources`.
    StateOfTheWorld,
    /// `DeltaAggregatedResources`.
    Delta,
}

/// A request, of a kind that we serve.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) nonce: String,
    /// Text of `error_detail`.
    pub(super) error: Option<String>,
    pub(super) ask: Ask,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    /// The whole subscription.
    Names { names: Vec<String>, version_info: String },
    /// A change of it.
    Change { subscribe: Vec<String>, unsubscribe: Vec<String>, initial: BTreeMap<String, String> },
}

/// What a request came to.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Names that are subscribed from now on.
    pub(super) added: Vec<Name>,
    /// Names that are not subscribed any more, unless by the wildcard.
    pub(super) removed: Vec<Name>,
    /// The wildcard, if it was switched.
    pub(super) wildcard: Option<bool>,
    /// Bytes of what the client says it holds, which are kept.
    pub(super) held: usize,
    pub(super) answer: Answer,
}

/// What a request says of an earlier response.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing.
    #[default]
    None,
    /// Its nonce is not the latest; the request was ignored.
    Stale,
    /// The client applied it. The time is that of the oldest change it carried; none if it carried none.
    Acked { changed_at: Option<Instant> },
    /// The client refused it, or part of it.
    Rejected,
}

/// What is to be told.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) kind: Kind,
    pub(super) nonce: u64,
    /// Version of the catalog.
    pub(super) version: Version,
    /// Each name once.
    pub(super) resources: Vec<(Name, Arc<Resource>)>,
    /// By delta only.
    pub(super) removed: Vec<Name>,
    /// What the client thereby holds no longer.
    pub(super) gone: Vec<Name>,
    /// It has a resource that the client did not have.
    pub(super) fresh: bool,
}

/// A resource as it stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Found {
    pub(super) now: Option<Arc<Resource>>,
    /// What it was before it went.
    pub(super) last: Option<Arc<Resource>>,
    /// As in [`Built`](super::Built).
    pub(super) is_guess: bool,
    /// As in [`Built`](super::Built).
    pub(super) is_in_doubt: bool,
}

/// What the stream's node may see.
pub(super) trait View {
    /// Version of the catalog that all of it is of.
    fn version(&self) -> Version;
    /// Returns a resource that the stream subscribes.
    fn find(&self, kind: Kind, name: &Name) -> Found;
    /// Returns the names that the wildcard stands for.
    fn all(&self, kind: Kind) -> Vec<Name>;
    /// Whether the wildcard stands for this name, too.
    fn has(&self, kind: Kind, name: &Name) -> bool;
}

/// A change that marks a name.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change {
    pub(super) version: Version,
    pub(super) at: Instant,
}

/// One stream's session.
#[derive(Debug)]
pub(super) struct Session {
    protocol: Protocol,
    channels: [Channel; Kind::COUNT],
    nonce: u64,
    warming: bool,
    /// Bytes of a complete answer at most.
    largest: usize,
}

impl Session {
    /// `largest`: bytes of resources that its client takes where an answer must be complete.
    pub(super) fn new(protocol: Protocol, warming: bool, largest: usize) -> Self {
        Self { protocol, channels: Default::default(), nonce: 0, warming, largest }
    }

    pub(super) const fn protocol(&self) -> Protocol {
        self.protocol
    }

    pub(super) fn channel(&self, kind: Kind) -> &Channel {
        &self.channels[kind as usize]
    }

    fn channel_mut(&mut self, kind: Kind) -> &mut Channel {
        &mut self.channels[kind as usize]
    }

    /// The registry is warming up, or no longer.
    pub(super) fn warming(&mut self, warming: bool) {
        self.warming = warming;
        if !warming {
            self.channels.iter_mut().for_each(Channel::warmed);
        }
    }

    /// Takes a request. The error names the field that is out of bounds; the stream should end with it.
    pub(super) fn request(&mut self, request: Request) -> Result<Heard, Invalid> {
        let channel = self.channel_mut(request.kind);
        let answer = match &request.ask {
            Ask::Names { .. } => match channel.is_stale(&request.nonce) {
                true => return Ok(Heard { answer: Answer::Stale, ..Heard::default() }),
                false => channel.answered(&request.nonce, request.error),
            },
            // By delta a subscription is a change, true whatever has crossed it on the way.
            Ask::Change { .. } => channel.answered(&request.nonce, request.error),
        };
        let heard = match request.ask {
            Ask::Names { names, version_info } => channel.ask_names(request.kind, names, !version_info.is_empty())?,
            Ask::Change { subscribe, unsubscribe, initial } => {
                channel.ask_change(request.kind, subscribe, unsubscribe, initial)?
            }
        };
        Ok(Heard { answer, ..heard })
    }

    /// A subscribed name is to be looked at: it changed, or came or left with the wildcard. None: it is new to the stream.
    pub(super) fn mark(&mut self, kind: Kind, name: &Name, change: Option<Change>) {
        self.channel_mut(kind).mark(name, change);
    }

    /// A name is not subscribed any more.
    pub(super) fn forget(&mut self, kind: Kind, name: &Name) {
        self.channel_mut(kind).forget(name);
    }

    /// Whether the client may act on a state of this resource from before `version`: it was told one, and has not acknowledged a newer.
    pub(super) fn owes(&self, kind: Kind, name: &str, version: Version) -> bool {
        self.channel(kind).owes(name, version)
    }

    /// Whether there may be something to tell.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        Kind::ALL.into_iter().any(|kind| self.may_go(kind, now))
    }

    /// When to look again although nothing happened: when an answer is no longer waited for. Also if there is nothing to tell yet, since who
    /// marks something until then wakes nobody. None: when something happens.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.channels.iter().filter_map(Channel::held_until).filter(|at| *at > now).min()
    }

    /// Makes the next response. None: nothing to tell for now.
    pub(super) fn respond(&mut self, view: &impl View, now: Instant) -> Option<Response> {
        for kind in Kind::ALL {
            while self.may_go(kind, now) {
                let turn = Turn {
                    protocol: self.protocol,
                    kind,
                    nonce: self.nonce + 1,
                    removals: self.may_remove(kind, now),
                    warming: self.warming,
                    largest: self.largest,
                };
                let Some(response) = self.channel_mut(kind).respond(turn, view, now) else { continue };
                self.nonce = turn.nonce;
                return Some(response);
            }
        }
        None
    }

    fn may_go(&self, kind: Kind, now: Instant) -> bool {
        let channel = self.channel(kind);
        let due = !channel.is_held(now) && channel.is_due(self.may_remove(kind, now));
        due && match kind {
            Kind::Cluster | Kind::Endpoint => true,
            Kind::Listener | Kind::Route => {
                let clusters = self.channel(Kind::Cluster);
                // Of endpoints only new ones matter: where instances come and go all the time, routes would wait for ever.
                !clusters.is_held(now) && !clusters.is_due(false) && !self.channel(Kind::Endpoint).is_new_under_way(now)
            }
        }
    }

    fn may_remove(&self, kind: Kind, now: Instant) -> bool {
        let unused = match kind {
            Kind::Cluster | Kind::Endpoint => [Kind::Listener, Kind::Route].into_iter().all(|kind| {
                let user = self.channel(kind);
                !user.is_held(now) && !user.is_due(true)
            }),
            Kind::Listener | Kind::Route => true,
        };
        unused && !(self.warming && self.channel(kind).came_back())
    }
}

#[cfg(test)]
mod tests;
