//! Names: of services within namespaces, and of identities.
//!
//! Lives here: the grammar of both. Does not: who owns a gRPC service name (the registry's claims).

use std::{fmt, str::FromStr, sync::Arc};

use crate::Invalid;

/// Namespace of a service that names none.
/// Namespace of a service that says none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// A name callers address: `users`, or `users.<namespace>`. Both parts are DNS labels (RFC 1123): 1 to 63 of a-z, 0-9 and inner `-`.
///
/// Cheap to clone. Ordered and hashed by its full form `users.default`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    full: Arc<str>,
}

impl ServiceName {
    /// Name without namespace.
    pub fn name(&self) -> &str {
        self.full.split_once('.').map_or(&self.full, |(name, _)| name)
    }

    /// Namespace, `default` unless said otherwise.
    pub fn namespace(&self) -> &str {
        self.full.split_once('.').map_or(DEFAULT_NAMESPACE, |(_, namespace)| namespace)
    }

    /// Full form, always with the namespace.
    pub fn full(&self) -> &str {
        &self.full
    }

    /// Reads an `:authority`: `users`, `users.default`, `users.default.weft`, each with or without a port. None if it is no such name.
    pub fn from_authority(authority: &str) -> Option<Self> {
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => authority,
        };
        host.strip_suffix(".weft").unwrap_or(host).parse().ok()
    }
}

impl FromStr for ServiceName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (name, namespace) = text.split_once('.').unwrap_or((text, DEFAULT_NAMESPACE));
        for (what, label) in [("name", name), ("namespace", namespace)] {
            if !is_label(label) {
                return Err(Invalid::new(
                    "",
                    format!("{what} {label:?} is no DNS label: 1 to 63 of a-z, 0-9 and inner '-'"),
                ));
            }
        }
        Ok(Self { full: format!("{name}.{namespace}").into() })
    }
}

/// Whether it is a DNS label: 1 to 63 of a-z, 0-9 and inner `-`.
pub(crate) fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-')
        && bytes[0] != b'-'
        && bytes[bytes.len() - 1] != b'-'
}

/// Short where it can be: the default namespace is left out.
impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.namespace() == DEFAULT_NAMESPACE { self.name() } else { &self.full })
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.full)
    }
}

/// The verified name of a workload: `spiffe://<trust-domain>/<path>` (SPIFFE-ID, section 2), at most 2,048 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId(Arc<str>);

impl SpiffeId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The trust domain: what follows `spiffe://`, up to the path.
    pub fn trust_domain(&self) -> &str {
        self.parts().0
    }

    /// The path, without its leading slash.
    pub fn path(&self) -> &str {
        self.parts().1
    }

    fn parts(&self) -> (&str, &str) {
        self.0["spiffe://".len()..].split_once('/').expect("an id has a path: checked when it was read")
    }
}

impl FromStr for SpiffeId {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = |problem: &str| Invalid::new("", format!("{text:?} {problem}"));
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| invalid("does not start with spiffe://"))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| invalid("has no path"))?;
        let domain_ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
        let path_ok = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
        if domain.is_empty() || !domain.bytes().all(domain_ok) {
            return Err(invalid("has an invalid trust domain"));
        }
        if path.split('/').any(|segment| matches!(segment, "" | "." | "..") || !segment.bytes().all(path_ok)) {
            return Err(invalid("has an invalid path"));
        }
        if text.len() > 2048 {
            return Err(invalid("is longer than 2048 bytes"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_name_without_namespace_is_in_the_default_one() {
        let short: ServiceName = "users".parse().unwrap();
        assert_eq!(short, "users.default".parse().unwrap());
        assert_eq!((short.name(), short.namespace(), short.to_string().as_str()), ("users", "default", "users"));
        assert_eq!("users.eu".parse::<ServiceName>().unwrap().to_string(), "users.eu");
    }

    #[test]
    fn names_that_are_no_dns_labels_are_refused() {
        for bad in ["", "Users", "a_b", "-a", "a-", "a.b.c", "a.", ".a", &"x".repeat(64)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn every_form_of_authority_names_the_same_service() {
        let users = "users".parse().ok();
        for form in ["users", "users:80", "users.default", "users.default.weft", "users.default.weft:443"] {
            assert_eq!(ServiceName::from_authority(form), users, "{form}");
        }
        assert_eq!(ServiceName::from_authority("127.0.0.1:8080"), None);
        assert_eq!(ServiceName::from_authority("[::1]:8080"), None);
    }

    #[test]
    fn spiffe_ids_have_a_trust_domain_and_a_clean_path() {
        let users: SpiffeId = "spiffe://weft.local/ns/default/svc/users".parse().unwrap();
        assert_eq!((users.trust_domain(), users.path()), ("weft.local", "ns/default/svc/users"));
        for bad in ["", "http://a/b", "spiffe://", "spiffe://A/b", "spiffe://a/", "spiffe://a/../b", "spiffe://a//b"] {
            assert!(bad.parse::<SpiffeId>().is_err(), "{bad:?}");
        }
    }
}
