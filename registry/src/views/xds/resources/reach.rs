//! Reach: which instances of a service a client may be told of, and how its connections to them are protected.
//!
//! Lives here: the rule of mixed transports, whom a connection must meet. Does not: places and weights (`places`), messages (`tls`, `endpoints`).
//! A cluster of xDS has one transport for all its endpoints. It is mutual TLS for a client whose bootstrap declares a certificate provider, if all
//! instances of the service speak it; every other client gets the instances that it can reach in plaintext, and the rest is left out, countably.
//! A plaintext instance that no policy allows is nobody's, as for sidecars ([`ServiceSnapshot::hides`]): it is not told, and takes mutual TLS from nobody.
//! In a mesh without identities there is nothing to take.
//! The two sets have names of their own (`users.default`, `users.default/mtls`), so that a client changes transport and endpoints at once: there is
//! no moment in which it speaks plaintext to a TLS port.

use std::{collections::BTreeSet, sync::Arc};

use weft_model::{Instance, Protocol, ServiceName, ServiceSnapshot, SpiffeId, Status, Transport, metadata};

use crate::views::xds::Mesh;

/// How a client is to connect to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reach {
    /// Plain bytes, to those who accept them.
    Plaintext,
    /// Mutual TLS, to one of these identities.
    Mtls(BTreeSet<SpiffeId>),
}

impl Reach {
    /// What a client can do that has certificates or not, within a trust domain if it told of one. An instance that is in neither set decides
    /// nothing: one registration must not be able to make plaintext of what was protected.
    pub(super) fn of(service: &ServiceSnapshot, secured: Option<&TrustDomain>) -> Self {
        let Some(domain) = secured else { return Self::Plaintext };
        let mut identities: BTreeSet<SpiffeId> = domain.identity(&service.name).into_iter().collect();
        for instance in service.instances.values().filter(|it| it.endpoint.protocol == Protocol::H2) {
            match &instance.endpoint.transport {
                Transport::Mtls { identity } => drop(identities.insert(identity.clone())),
                Transport::Plaintext if !service.hides(instance) => return Self::Plaintext,
                Transport::Plaintext | Transport::Tls { .. } => {}
            }
        }
        // Nobody to go by, and no domain: plaintext to nobody.
        if identities.is_empty() { Self::Plaintext } else { Self::Mtls(identities) }
    }

    /// Name of the set of endpoints that is reached so.
    pub(super) fn endpoints_of(&self, service: &ServiceName) -> String {
        match self {
            Self::Plaintext => service.full().to_owned(),
            Self::Mtls(_) => format!("{}{MTLS}", service.full()),
        }
    }
}

const MTLS: &str = "/mtls";

/// The trust domain that a client with certificates lives in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct TrustDomain(pub(super) Option<Arc<str>>);

impl TrustDomain {
    /// Whom a client expects at a service of which nobody is known yet.
    fn identity(&self, service: &ServiceName) -> Option<SpiffeId> {
        let domain = self.0.as_ref()?;
        format!("spiffe://{domain}/ns/{}/svc/{}", service.namespace(), service.name()).parse().ok()
    }
}

/// A set of endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Set {
    /// Those that accept plaintext.
    Plaintext,
    /// Those that speak mutual TLS.
    Mtls,
}

impl Set {
    /// Splits the name of a set of endpoints. The service may be written as in an authority.
    pub(super) fn named(name: &str) -> Option<(ServiceName, Self)> {
        let (service, set) = match name.strip_suffix(MTLS) {
            Some(service) => (service, Self::Mtls),
            None => (name, Self::Plaintext),
        };
        Some((ServiceName::from_authority(service)?, set))
    }
}

/// A set of endpoints of a service.
#[derive(Debug, Clone, Copy)]
pub(super) struct Members<'a> {
    pub(super) service: &'a ServiceSnapshot,
    pub(super) set: Set,
    pub(super) mesh: Mesh,
}

impl Members<'_> {
    /// Whether an instance can be reached so, and may be.
    pub(super) fn hold(&self, instance: &Instance) -> bool {
        let hidden = self.mesh == Mesh::Secured && self.service.hides(instance);
        instance.endpoint.protocol == Protocol::H2
            && !hidden
            && match self.set {
                Set::Mtls => matches!(instance.endpoint.transport, Transport::Mtls { .. }),
                Set::Plaintext => accepts_plaintext(instance),
            }
    }
}

/// Whether a caller without a certificate gets in: where the endpoint is plaintext, and where the instance's own listener says so.
fn accepts_plaintext(instance: &Instance) -> bool {
    match &instance.endpoint.transport {
        Transport::Plaintext => true,
        Transport::Tls { .. } => false,
        Transport::Mtls { .. } => match instance.metadata.get(metadata::PLAINTEXT) {
            Some("allow") => true,
            // Who can reach a loopback address at all comes from loopback.
            Some("loopback") => instance.endpoint.address.ip().is_loopback(),
            Some(_) | None => false,
        },
    }
}

/// Whether an instance is meant to take calls, now or when it is well again.
pub(super) const fn is_meant(status: Status) -> bool {
    match status {
        Status::Serving | Status::NotServing | Status::Crashed => true,
        Status::Starting | Status::Draining => false,
    }
}
