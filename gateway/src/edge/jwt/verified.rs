//! Tokens that were checked before: who shows one again is known without checking its signature anew.
//!
//! Lives here: the memory and its bounds. Does not: the checks (`edge::jwt`), times, which are looked at in each call (`edge::authentication`).
//! A token is known by its hash, for as long as the keys that it was checked with are those of its issuer, and the policy says the same: each version of a
//! policy has a memory of its own.
//! Bounds: 2,048 tokens of at most 2 KiB a policy, the least recently used goes first. Only tokens that count are remembered, so a stranger displaces none.

use std::{
    hash::RandomState,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use hashlink::LinkedHashMap;
use ring::digest::{SHA256, digest};

use super::{Claims, KeySet};

/// Parts, so that threads seldom meet.
const PARTS: usize = 16;
/// Tokens in each part.
const PART: usize = 128;
/// Longest token that is remembered.
const LONGEST: usize = 2 << 10;

/// The hash of a token.
pub(crate) type Name = [u8; 32];

/// Who shows a token.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// Its issuer, by its place in the policy.
    pub(crate) issuer: usize,
    pub(crate) client: Arc<str>,
    pub(crate) claims: Arc<Claims>,
    /// What its signature was checked with.
    pub(crate) keys: Weak<KeySet>,
}

/// The tokens that one version of a policy knows.
#[derive(Debug)]
pub(crate) struct Verified(Box<[Mutex<LinkedHashMap<Name, Known, RandomState>>]>);

impl Default for Verified {
    fn default() -> Self {
        Self((0..PARTS).map(|_| Mutex::new(LinkedHashMap::with_hasher(RandomState::new()))).collect())
    }
}

/// What a token is known by; none: it is too long to be.
pub(crate) fn name(token: &str) -> Option<Name> {
    let hash = || digest(&SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes");
    (token.len() <= LONGEST).then(hash)
}

impl Verified {
    /// Returns who shows this token, as just seen.
    pub(crate) fn get(&self, name: &Name) -> Option<Known> {
        let mut part = self.part(name).lock().unwrap_or_else(PoisonError::into_inner);
        part.to_back(name).cloned()
    }

    /// Remembers who shows a token.
    pub(crate) fn put(&self, name: Name, known: Known) {
        let mut part = self.part(&name).lock().unwrap_or_else(PoisonError::into_inner);
        part.insert(name, known);
        if part.len() > PART {
            part.pop_front();
        }
    }

    fn part(&self, name: &Name) -> &Mutex<LinkedHashMap<Name, Known, RandomState>> {
        &self.0[usize::from(name[0]) % PARTS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_seen_token_goes_first_and_there_are_never_too_many() {
        let verified = Verified::default();
        let known = || Known { issuer: 0, client: "ada".into(), claims: Arc::default(), keys: Weak::new() };
        let names: Vec<Name> =
            (0..).map(|n: u32| name(&n.to_string()).unwrap()).filter(|it| it[0] == 7).take(PART + 1).collect();
        for name in &names[..PART] {
            verified.put(*name, known());
        }
        assert!(verified.get(&names[0]).is_some(), "seen again");
        verified.put(names[PART], known());
        let there = |at: usize| verified.get(&names[at]).is_some();
        assert!(there(0) && !there(1) && there(2) && there(PART));
        let held: usize = verified.0.iter().map(|it| it.lock().unwrap().len()).sum();
        assert_eq!(held, PART);
        assert!(name(&"x".repeat(LONGEST)).is_some() && name(&"x".repeat(LONGEST + 1)).is_none());
    }
}
