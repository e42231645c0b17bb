//! The vocabulary of the mesh: names, instances, endpoints, snapshots. Values of these types cannot be wrong.
//!
//! Lives here: types that two or more rooms share, and the rules that make a value valid. Does not: wire types (`weft-proto`), clocks, I/O.
//! Invariants: nothing here awaits, reads a clock or allocates on comparison of ids.
#![forbid(unsafe_code)]

mod caller;
mod endpoint;
mod instance;
mod invalid;
pub mod metadata;
mod name;
mod policy;
mod service;
pub mod template;
pub mod timeout;

pub use caller::Caller;
pub use endpoint::{Endpoint, Protocol, Transport};
pub use instance::{
    Check, CheckKind, Digest, Epoch, Instance, InstanceId, LeaseTtl, Locality, REVOKED, RemovalReason, Status, Weight,
};
pub use invalid::Invalid;
pub use name::{DEFAULT_NAMESPACE, ServiceName, SpiffeId};
pub use policy::{
    Access, Action, ApiKey, Authentication, Cache, CallMatch, Callers, ClaimMatch, ClaimRule, ClaimToMetadata, Cors,
    Edge, FailurePercentage, Fault, FieldName, GATEWAY, HeaderChange, HeaderMatch, HeaderRule, HeaderValue, Headers,
    HttpBinding, HttpKind, HttpMethod, HttpRule, HttpRules, JsonOutput, Jwt, KeyDigest, KeySource, LimitRule, Limits,
    MethodPattern, Methods, Namespace, Origin, Outliers, Part, PathPattern, Per, PlaintextUpstream, Policy, PolicyKind,
    PolicyName, RateLimit, RetryOn, RetryRule, Route, RouteRule, Rule, Selector, Split, StreamFormat, SuccessRate,
    Target, Transcoding, Upstream,
};
pub use service::{GrpcService, Method, RefusedClaim, ServiceInfo, ServiceSnapshot, Snapshot, Version};
