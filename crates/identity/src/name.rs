//! SPIFFE names of the mesh: `spiffe://<trust-domain>/ns/<namespace>/svc/<service>`.
//!
//! Lives here: trust domains, and the way from a service to its id and back. Does not: the grammar of an id (`weft-model`).
//! The namespace `weft` belongs to the mesh itself: its registry and its operators have their names there.
//! Source: SPIFFE-ID, section 2.

use std::{fmt, str::FromStr, sync::Arc};

use weft_model::{Invalid, ServiceName, SpiffeId};

/// Namespace of the mesh's own identities; no service of a user lives there.
pub const SYSTEM_NAMESPACE: &str = "weft";

/// Returns the name every registry answers by.
pub fn registry() -> ServiceName {
    "registry.weft".parse().expect("a constant that is a name")
}

/// Returns the name of an operator.
pub fn operator() -> ServiceName {
    "operator.weft".parse().expect("a constant that is a name")
}

/// The part of an id that names who vouches for it: 1 to 255 of a-z, 0-9, `.`, `-` and `_`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Returns the trust domain of an id.
    pub fn of(id: &SpiffeId) -> Self {
        Self(id.trust_domain().into())
    }

    /// Returns the id of a service of this domain.
    pub fn service(&self, service: &ServiceName) -> SpiffeId {
        format!("spiffe://{}/ns/{}/svc/{}", self.0, service.namespace(), service.name())
            .parse()
            .expect("a domain and two DNS labels make an id")
    }

    /// Whether this domain vouches for `id`.
    pub fn owns(&self, id: &SpiffeId) -> bool {
        id.trust_domain() == &*self.0
    }

    /// The domain as text, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Returns the service an id names, if it has the form the mesh gives.
pub fn service_of(id: &SpiffeId) -> Option<ServiceName> {
    let (namespace, service) = id.path().strip_prefix("ns/")?.split_once("/svc/")?;
    format!("{service}.{namespace}").parse().ok()
}

impl FromStr for TrustDomain {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        // One grammar: a domain is valid if an id within it is.
        let sample: Result<SpiffeId, _> = format!("spiffe://{text}/x").parse();
        match sample {
            Ok(id) if text.len() <= 255 && id.trust_domain() == text => Ok(Self(text.into())),
            Ok(_) | Err(_) => {
                Err(Invalid::new("", format!("{text:?} is no trust domain: 1 to 255 of a-z, 0-9, '.', '-' and '_'")))
            }
        }
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_and_its_id_name_each_other() {
        let domain: TrustDomain = "weft.local".parse().unwrap();
        for name in ["users", "users.eu"] {
            let service: ServiceName = name.parse().unwrap();
            assert_eq!(service_of(&domain.service(&service)), Some(service));
        }
        let id = domain.service(&"users".parse().unwrap());
        assert_eq!(id.as_str(), "spiffe://weft.local/ns/default/svc/users");
        assert!(domain.owns(&id) && TrustDomain::of(&id) == domain);
    }

    #[test]
    fn ids_of_another_form_name_no_service() {
        for other in ["spiffe://a/users", "spiffe://a/ns/x/svc/Y", "spiffe://a/ns/x/sa/y", "spiffe://a/ns/x/svc/y/z"] {
            assert_eq!(service_of(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn what_is_no_trust_domain_is_refused() {
        for bad in ["", "A", "a/b", "a b", &"x".repeat(256)] {
            assert!(bad.parse::<TrustDomain>().is_err(), "{bad:?}");
        }
    }
}
