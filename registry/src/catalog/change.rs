//! Changes: everything a source may ask of the catalog, and why it may be refused.
//!
//! Lives here: the vocabulary between sources and catalog. Does not: what a change does (`state`), gRPC status codes (`sources`).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use weft_model::{Epoch, Instance, InstanceId, Invalid, LeaseTtl, Policy, PolicyName, ServiceName, Status, Version};

use crate::{catalog::store, policy, schema::DescriptorSet};

/// On whose word a change is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// The holder of the lease with this epoch; an older epoch is fenced.
    Owner(Epoch),
    /// An operator, who wins.
    Operator,
}

/// Epoch 0 on the wire is an operator's.
impl From<u64> for Word {
    fn from(epoch: u64) -> Self {
        if epoch == 0 { Self::Operator } else { Self::Owner(Epoch(epoch)) }
    }
}

/// A status and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// State.
    pub status: Status,
    /// For people; may be empty.
    pub reason: String,
}

impl Health {
    /// Puts the two together.
    pub fn new(status: Status, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// Something to be done to the catalog.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Lists an instance and grants a lease; durable.
    Register { instance: Box<Instance>, ttl: LeaseTtl },
    /// Removes an instance; durable.
    Deregister { id: InstanceId, word: Word },
    /// Sets a status by RPC; durable when an operator's.
    SetStatus { id: InstanceId, word: Word, health: Health },
    /// Marks an instance as leaving; durable.
    Drain { id: InstanceId, word: Word },
    /// Health as a beat or a check saw it; rides with the next commit.
    Report { id: InstanceId, epoch: Epoch, health: Health },
    /// Removes instances whose leases ran out; durable.
    Expire { leases: Vec<(InstanceId, Epoch)> },
    /// Replaces the set of services whose expiry is suspended; not durable.
    Doubt { services: Vec<ServiceName> },
    /// Stores a descriptor set, offered by this instance if it said so; durable.
    PutDescriptors { set: Box<DescriptorSet>, by: Option<InstanceId> },
    /// Notes that the descriptor set of an instance was refused; not durable.
    RefuseSet { by: InstanceId, service: ServiceName, problem: String },
    /// Gives a claim to a service, on an operator's word; durable.
    MoveClaim { name: String, to: ServiceName },
    /// Ends a claim, on an operator's word; durable.
    ReleaseClaim { name: String },
    /// Makes or changes policies, all or none; durable.
    ApplyPolicies { policies: Vec<Policy>, expected: Option<Version> },
    /// Removes a policy; durable.
    DeletePolicy { name: PolicyName, expected: Option<Version> },
    /// Drops what nobody needs any more; durable.
    Forget,
}

impl Change {
    /// Whether it may be published before the store has it.
    pub(crate) fn may_ride(&self) -> bool {
        match self {
            Self::Report { .. } | Self::Doubt { .. } | Self::RefuseSet { .. } => true,
            Self::SetStatus { word, .. } => *word != Word::Operator,
            Self::Register { .. }
            | Self::Deregister { .. }
            | Self::Drain { .. }
            | Self::Expire { .. }
            | Self::PutDescriptors { .. }
            | Self::MoveClaim { .. }
            | Self::ReleaseClaim { .. }
            | Self::ApplyPolicies { .. }
            | Self::DeletePolicy { .. }
            | Self::Forget => false,
        }
    }
}

/// A change that was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Version of the catalog that has it.
    pub version: Version,
    /// Epoch of the lease concerned; 0 when there is none (any more).
    pub epoch: Epoch,
    /// Service concerned, and the version at which it last changed.
    pub service: Option<(ServiceName, Version)>,
    /// Claims that changed hands by an operator's word.
    pub claims: Vec<String>,
    /// What became of policies, in the order asked.
    pub(crate) policies: Vec<policy::Applied>,
}

/// Why a change was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeError {
    /// The request cannot be right in this catalog; trying again cannot succeed.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// There is no such instance.
    #[error("instance {0} is not registered")]
    Unknown(InstanceId),
    /// A newer registration holds the id.
    #[error("instance {id} is held by epoch {held}")]
    Fenced {
        /// The instance.
        id: InstanceId,
        /// Who holds it.
        held: Epoch,
    },
    /// An operator removed the instance; its id stays blocked.
    #[error("instance {id} was removed by an operator")]
    Revoked {
        /// The instance.
        id: InstanceId,
        /// When the tombstone goes.
        until: SystemTime,
    },
    /// Another instance of the service holds the address; it may lapse.
    #[error("{address} is held until {}, by instance {holder}", held_until(*silence))]
    Held {
        /// Where both say they are.
        address: SocketAddr,
        /// Who was there first.
        holder: InstanceId,
        /// How long the holder has to be silent to give way; none if it lives by its check.
        silence: Option<Duration>,
    },
    /// Nobody has the claim.
    #[error("nobody claims {0:?}; `weft claims` lists what is claimed")]
    Unclaimed(String),
    /// The claim cannot be released: its holder would claim it again.
    #[error("instances of {holder} declare {name:?}; move it to another service instead")]
    Declared {
        /// The claim.
        name: String,
        /// Who has it.
        holder: ServiceName,
    },
    /// The policies are not as the caller last saw them.
    #[error("the policies are at version {held}, not at {expected}: somebody changed them; look again")]
    PoliciesMoved {
        /// What the caller saw.
        expected: Version,
        /// What there is.
        held: Version,
    },
    /// There is no such policy.
    #[error("there is no policy {0}")]
    UnknownPolicy(PolicyName),
    /// The store does not take writes now; nothing was changed.
    #[error("the store does not take writes")]
    Store(#[source] Arc<store::Error>),
    /// The registry is shutting down.
    #[error("the catalog is closed")]
    Closed,
}

fn held_until(silence: Option<Duration>) -> String {
    match silence {
        Some(silence) => format!("{silence:?} after its holder's last beat"),
        None => "it is deregistered".to_owned(),
    }
}

/// What became of a beat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The lease lives on.
    Renewed,
    /// There is no such lease.
    Unknown,
    /// A newer registration holds the id.
    Fenced,
    /// An operator removed the instance.
    Revoked,
}

/// A sign of life of one lease.
#[derive(Debug, Clone)]
pub struct Beat {
    /// Instance.
    pub id: InstanceId,
    /// Epoch as granted.
    pub epoch: Epoch,
    /// As its owner sees it.
    pub health: Health,
}

/// A keep-alive stream; when it breaks, the leases it renewed last have their grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub(crate) u64);
