//! What resources say.
//!
//! Lives here: building one resource, and listing what there is. Does not: when, for whom, how often (`hub`, `session`).

use std::sync::Arc;

use super::{Built, Kind, Profile, XdsWorld};

/// Builds a resource for nodes of a profile: a pure function of the services it names in `depends_on`. `profile` has only what is relevant
/// for the kind and name ([`Profile::relevant`]).
pub(crate) fn build(_world: &XdsWorld, _profile: &Profile, _kind: Kind, _name: &str) -> Built {
    Built::default()
}

/// Names of all resources of a kind that has a wildcard. Depends on the names, policies and facts of services only, never on instances.
pub(crate) fn names(_world: &XdsWorld, _profile: &Profile, _kind: Kind) -> Vec<Arc<str>> {
    Vec::new()
}
