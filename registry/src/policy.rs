//! Policies of the mesh: the versioned set of them, and what an operator's word makes of it.
//!
//! Lives here: the set, what applying and deleting come to; synchronous, a value. Does not: what a policy may say (`weft-model`), durability
//! and versions (`catalog`), the wire (`grpc`), enforcing any of them (`weft-traffic`).
//! Invariants: names are the only ones of the mesh; the set's version rises with each change of it, deletions included.

pub(crate) mod grpc;

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use weft_model::{Edge, Invalid, Policy, PolicyKind, PolicyName, ServiceName, Version};

use crate::catalog::ChangeError;

/// Policies of the mesh at most.
const MAX_POLICIES: usize = 4_096;
/// Policies of one service at most.
const MAX_PER_SERVICE: usize = 32;

/// API keys of the mesh at most. They are policies, too, and counted apart: a mesh has few policies and may have many clients.
const MAX_KEYS: usize = 4_096;

/// What became of one policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) name: PolicyName,
    pub(crate) outcome: Outcome,
    /// Its version now.
    pub(crate) version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Created,
    Changed,
    Unchanged,
}

/// All policies at one version. Cheap to clone; copies share what did not change.
#[derive(Debug, Clone, Default)]
pub(crate) struct Set {
    by_name: OrdMap<PolicyName, Arc<Policy>>,
    version: Version,
}

impl Set {
    pub(crate) fn restore(policies: impl IntoIterator<Item = Policy>, version: Version) -> Self {
        Self { by_name: policies.into_iter().map(|it| (it.name.clone(), Arc::new(it))).collect(), version }
    }

    /// Version at which one of them last changed.
    pub(crate) fn version(&self) -> Version {
        self.version
    }

    pub(crate) fn get(&self, name: &PolicyName) -> Option<&Arc<Policy>> {
        self.by_name.get(name)
    }

    /// All of them, by name.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_name.values()
    }

    /// Those of one service, by name.
    pub(crate) fn of(&self, service: &ServiceName) -> Arc<[Arc<Policy>]> {
        self.all().filter(|it| it.service == *service).cloned().collect()
    }

    /// Services that have one.
    pub(crate) fn services(&self) -> BTreeSet<ServiceName> {
        self.all().map(|it| it.service.clone()).collect()
    }

    /// Returns the set with these policies in it, at `version` where that changes something, and what became of each.
    pub(crate) fn apply(
        &self,
        policies: &[Policy],
        expected: Option<Version>,
        version: Version,
    ) -> Result<(Self, Vec<Applied>), ChangeError> {
        self.expect(expected)?;
        let mut next = self.clone();
        let mut applied = Vec::with_capacity(policies.len());
        let mut named = BTreeSet::new();
        for (index, policy) in policies.iter().enumerate() {
            let name = policy.name.clone();
            if !named.insert(name.clone()) {
                return Err(at(index, "name", format!("a second policy named {:?}", name.as_str())).into());
            }
            let before = self.by_name.get(&name);
            if let Some(before) = before.filter(|before| before.same_content(policy)) {
                applied.push(Applied { name, outcome: Outcome::Unchanged, version: before.version });
                continue;
            }
            let outcome = if before.is_some() { Outcome::Changed } else { Outcome::Created };
            next.by_name.insert(name.clone(), Arc::new(Policy { version, ..policy.clone() }));
            next.version = version;
            applied.push(Applied { name, outcome, version });
        }
        next.fits(policies)?;
        Ok((next, applied))
    }

    /// Returns the set without a policy, and that policy.
    pub(crate) fn delete(
        &self,
        name: &PolicyName,
        expected: Option<Version>,
        version: Version,
    ) -> Result<(Self, Arc<Policy>), ChangeError> {
        self.expect(expected)?;
        let mut by_name = self.by_name.clone();
        let gone = by_name.remove(name).ok_or_else(|| ChangeError::UnknownPolicy(name.clone()))?;
        Ok((Self { by_name, version }, gone))
    }

    fn expect(&self, expected: Option<Version>) -> Result<(), ChangeError> {
        match expected {
            Some(expected) if expected != self.version => {
                Err(ChangeError::PoliciesMoved { expected, held: self.version })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn fits(&self, applied: &[Policy]) -> Result<(), Invalid> {
        let keys = self.all().filter(|it| is_key(it)).count();
        let sorts = [("API keys", keys, MAX_KEYS), ("policies", self.by_name.len() - keys, MAX_POLICIES)];
        for (sort, count, most) in sorts {
            if count > most {
                let problem = format!("the mesh would have {count} {sort}, at most {most} are allowed");
                return Err(Invalid::new("policies", problem));
            }
        }
        for (index, policy) in applied.iter().enumerate().filter(|(_, it)| !is_key(it)) {
            let count = self.all().filter(|it| it.service == policy.service && !is_key(it)).count();
            if count > MAX_PER_SERVICE {
                let problem =
                    format!("{} would have {count} policies, at most {MAX_PER_SERVICE} are allowed", policy.service);
                return Err(at(index, "service", problem));
            }
        }
        Ok(())
    }
}

fn is_key(policy: &Policy) -> bool {
    matches!(policy.kind, PolicyKind::Edge(Edge::ApiKey(_)))
}

fn at(index: usize, field: &str, problem: String) -> Invalid {
    Invalid::new(format!("policies[{index}].{field}"), problem)
}

#[cfg(test)]
mod tests {
    use weft_model::{ApiKey, KeyDigest, PlaintextUpstream};

    use super::*;

    fn policy(name: &str, service: &str, mode: PlaintextUpstream) -> Policy {
        Policy {
            name: name.parse().unwrap(),
            service: service.parse().unwrap(),
            version: Version(0),
            kind: PolicyKind::PlaintextUpstream(mode),
        }
    }

    fn outcomes(applied: &[Applied]) -> Vec<(Outcome, u64)> {
        applied.iter().map(|it| (it.outcome, it.version.0)).collect()
    }

    use PlaintextUpstream::{Allow, Refuse};

    #[test]
    fn applying_twice_changes_nothing_the_second_time() {
        let both = [policy("a", "users", Allow), policy("b", "posts", Allow)];
        let (set, applied) = Set::default().apply(&both, None, Version(5)).unwrap();
        assert_eq!(outcomes(&applied), [(Outcome::Created, 5), (Outcome::Created, 5)]);
        let (again, applied) = set.apply(&both, Some(Version(5)), Version(6)).unwrap();
        assert_eq!(outcomes(&applied), [(Outcome::Unchanged, 5), (Outcome::Unchanged, 5)]);
        assert_eq!(again.version(), Version(5));
        let (set, applied) =
            set.apply(&[policy("a", "users", Refuse), policy("b", "posts", Allow)], None, Version(7)).unwrap();
        assert_eq!(outcomes(&applied), [(Outcome::Changed, 7), (Outcome::Unchanged, 5)]);
        assert_eq!(set.of(&"users".parse().unwrap()).len(), 1);
    }

    #[test]
    fn whoever_saw_another_version_is_refused() {
        let (set, _) = Set::default().apply(&[policy("a", "users", Allow)], None, Version(5)).unwrap();
        let (set, gone) = set.delete(&"a".parse().unwrap(), Some(Version(5)), Version(6)).unwrap();
        assert_eq!((gone.name.as_str(), set.version()), ("a", Version(6)));
        let moved = set.apply(&[policy("a", "users", Allow)], Some(Version(5)), Version(7)).unwrap_err();
        assert!(matches!(moved, ChangeError::PoliciesMoved { expected: Version(5), held: Version(6) }));
        let unknown = set.delete(&"a".parse().unwrap(), None, Version(7)).unwrap_err();
        assert!(matches!(unknown, ChangeError::UnknownPolicy(_)));
    }

    #[test]
    fn a_name_given_twice_and_too_many_of_a_service_are_named() {
        let field = |policies: &[Policy]| match Set::default().apply(policies, None, Version(1)) {
            Err(ChangeError::Invalid(error)) => error.field().to_owned(),
            other => panic!("{other:?}"),
        };
        assert_eq!(field(&[policy("a", "users", Allow), policy("a", "posts", Allow)]), "policies[1].name");
        let many: Vec<_> = (0..33).map(|n| policy(&format!("p{n}"), "users", Allow)).collect();
        assert_eq!(field(&many), "policies[0].service");
        let key = |n: usize| {
            let key = ApiKey { digest: KeyDigest([7; 32]), claims: Default::default(), expires: None };
            Policy { kind: PolicyKind::Edge(Edge::ApiKey(key)), ..policy(&format!("k{n}"), "users", Allow) }
        };
        let keys: Vec<_> = (0..4_096).map(key).collect();
        let (set, _) = Set::default().apply(&keys, None, Version(1)).expect("a service has more keys than policies");
        assert!(set.apply(&many[..32], None, Version(2)).is_ok(), "keys take no place of policies");
        assert!(
            matches!(set.apply(&[key(4_096)], None, Version(2)), Err(ChangeError::Invalid(it)) if it.field() == "policies")
        );
    }
}
