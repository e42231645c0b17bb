//! Client of the registry: watches that yield `weft-model` snapshots, leases kept alive, descriptor sets fetched and stored, an
//! identity asked for and kept fresh.
//!
//! Lives here: the wire's client side and what survives an outage of the registry. Does not: balancing (`weft-traffic`), the
//! registry's side of the wire, deciding when an app is ready (`weft-sidecar`).
//! Invariants: nothing here spawns a task that its caller does not own; every wait has a bound; what a consumer holds never gets
//! worse because the registry is away.
#![forbid(unsafe_code)]

mod backoff;
mod credential;
mod descriptors;
mod dial;
mod export;
mod identity;
mod lease;
mod moving;
mod operator;
mod outage;
mod registries;
mod relay;
mod spoken;
mod watch;

pub use credential::{Credential, CredentialError, JoinArgs, Way, read_token, write_token};
pub use descriptors::{BadDescriptors, DescriptorSet};
pub use export::{export, keep_exported};
pub use identity::{IdentityError, IdentityTask, Renewals, enter, join};
pub use lease::{Drained, Lease, LeaseState, LeaseTask, Leases};
pub use operator::{ListedToken, Operator, Revoked, TokenFor};
pub use registries::{BadUrl, CallError, Registries, RegistryUrls};
pub use spoken::misspoken;
pub use watch::{Subscriptions, Topic, Update, Watch, WatchConfig, WatchTask};
