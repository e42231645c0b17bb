//! xDS v3: the catalog as Listeners, RouteConfigurations, Clusters and ClusterLoadAssignments, for stock gRPC clients and Envoy.
//!
//! Lives here: what a stream is told and when. Does not: what a resource says (`resources`), streams and their tasks (`service`).

pub(crate) mod kind;
pub(crate) mod profile;
pub(crate) mod resource;
pub(crate) mod resources;
pub(crate) mod world;

pub(crate) use kind::Kind;
pub(crate) use profile::Profile;
pub(crate) use resource::{Built, LeftOut, Resource};
pub(crate) use world::XdsWorld;
