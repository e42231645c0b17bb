//! API keys: which ones count, known by their hashes.
//!
//! Lives here: the set of a moment, looking one up. Does not: making and revoking (`weft keys`), where in a call a key is (`edge::authentication`).
//! The set is replaced whole when the mesh tells of another; a call sees the one of its moment. A key that is looked up is hashed first, so
//! that the time of looking up tells nothing about keys.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use ring::digest::{SHA256, digest};
use serde_json::Value;
use weft_model::{ApiKey, GATEWAY, KeyDigest, Policy, ServiceName};

use crate::edge::jwt::Claims;

/// Longest key that is looked at.
const LONGEST: usize = 512;

/// The keys that count. Cheap to clone; all clones see the same set.
#[derive(Debug, Clone, Default)]
pub(crate) struct ApiKeys(Arc<ArcSwap<HashMap<KeyDigest, Arc<Held>>>>);

/// One key.
#[derive(Debug)]
pub(crate) struct Held {
    /// Whose it is, for counting.
    pub(crate) client: Arc<str>,
    /// What its holder is said to be.
    pub(crate) claims: Arc<Claims>,
    service: ServiceName,
    key: ApiKey,
}

/// Why a key does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("the API key is not known, or was revoked")]
    Unknown,
    #[error("the API key has expired")]
    Expired,
    #[error("the API key is for another service")]
    Elsewhere,
}

impl KeyError {
    /// Name of the rule that it breaks, for status, metrics and log.
    pub(crate) const fn rule(self) -> &'static str {
        match self {
            Self::Unknown => "key-unknown",
            Self::Expired => "key-expired",
            Self::Elsewhere => "key-elsewhere",
        }
    }
}

impl ApiKeys {
    /// From here on these keys count, and no others.
    pub(crate) fn replace<'p>(&self, keys: impl Iterator<Item = (&'p Policy, &'p ApiKey)>) {
        let held = |(policy, key): (&Policy, &ApiKey)| {
            let mut claims: Claims =
                key.claims.iter().map(|(name, value)| (name.to_string(), Value::from(&**value))).collect();
            claims.entry("sub").or_insert_with(|| Value::from(policy.name.as_str()));
            let (client, service) = (format!("key {}", policy.name).into(), policy.service.clone());
            (key.digest, Arc::new(Held { client, claims: Arc::new(claims), service, key: key.clone() }))
        };
        self.0.store(Arc::new(keys.map(held).collect()));
    }

    /// Looks a key up for a call to `service`.
    pub(crate) fn find(&self, shown: &[u8], service: &ServiceName, now: SystemTime) -> Result<Arc<Held>, KeyError> {
        if shown.len() > LONGEST {
            return Err(KeyError::Unknown);
        }
        let hash = KeyDigest(digest(&SHA256, shown).as_ref().try_into().expect("a SHA-256 has 32 bytes"));
        let held = self.0.load().get(&hash).cloned().ok_or(KeyError::Unknown)?;
        if held.key.has_ended(now) {
            return Err(KeyError::Expired);
        }
        let everywhere = held.service.name() == GATEWAY && held.service.namespace() == weft_model::DEFAULT_NAMESPACE;
        if everywhere || held.service == *service { Ok(held) } else { Err(KeyError::Elsewhere) }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use weft_model::{Edge, PolicyKind, Version};

    use super::*;

    fn policy(name: &str, service: &str, secret: &str, expires: Option<u64>) -> Policy {
        let digest = KeyDigest(digest(&SHA256, secret.as_bytes()).as_ref().try_into().unwrap());
        let claims = BTreeMap::from([("plan".into(), "gold".into())]);
        let kind = PolicyKind::Edge(Edge::ApiKey(ApiKey { digest, claims, expires }));
        Policy { name: name.parse().unwrap(), service: service.parse().unwrap(), version: Version(1), kind }
    }

    #[test]
    fn a_key_counts_for_its_service_until_it_ends_or_is_gone() {
        let policies = [
            policy("all", "gateway", "one", None),
            policy("some", "users", "two", None),
            policy("old", "gateway", "three", Some(5_000)),
        ];
        let keys = ApiKeys::default();
        let given = policies.iter().map(|it| match &it.kind {
            PolicyKind::Edge(Edge::ApiKey(key)) => (it, key),
            other => panic!("{other:?}"),
        });
        keys.replace(given);
        let (users, posts): (ServiceName, ServiceName) = ("users".parse().unwrap(), "posts".parse().unwrap());
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let find =
            |secret: &str, service, now| keys.find(secret.as_bytes(), service, at(now)).map(|it| it.client.to_string());
        assert_eq!(find("one", &posts, 9).as_deref(), Ok("key all"));
        assert_eq!(find("two", &users, 9).as_deref(), Ok("key some"));
        assert_eq!(find("two", &posts, 9), Err(KeyError::Elsewhere));
        assert_eq!(find("three", &posts, 4).as_deref(), Ok("key old"));
        assert_eq!(find("three", &posts, 5), Err(KeyError::Expired));
        assert_eq!(find("four", &posts, 9), Err(KeyError::Unknown));
        let held = keys.find(b"one", &posts, at(9)).unwrap();
        assert_eq!((&held.claims["sub"], &held.claims["plan"]), (&Value::from("all"), &Value::from("gold")));
        keys.replace(std::iter::empty());
        assert_eq!(find("one", &posts, 9), Err(KeyError::Unknown));
    }
}
