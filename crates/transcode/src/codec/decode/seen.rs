//! What an object has had so far: fields, members of oneofs, keys of a map.
//!
//! Lives here: sets that cost nothing while they are small. Does not: what a repetition means.

use std::borrow::Cow;
use std::collections::HashSet;

/// Fields by index, and which of them fills which oneof.
#[derive(Debug, Default)]
pub(super) struct Members {
    low: u64,
    high: Vec<u64>,
    /// A oneof and the member that it has.
    filled: Vec<(u32, u32)>,
}

impl Members {
    /// Notes a field; false if it was seen before.
    #[inline]
    pub(super) fn see(&mut self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        let bits = match word {
            0 => &mut self.low,
            _ => {
                if self.high.len() < word {
                    self.high.resize(word, 0);
                }
                &mut self.high[word - 1]
            }
        };
        let new = *bits & bit == 0;
        *bits |= bit;
        new
    }

    /// Notes that a field fills a oneof; returns the field that already does.
    pub(super) fn fill(&mut self, oneof: u32, index: u32) -> Option<u32> {
        let other = self.filled.iter().find(|it| it.0 == oneof).map(|it| it.1);
        if other.is_none() {
            self.filled.push((oneof, index));
        }
        other
    }
}

/// A key of a map.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) enum Key<'d> {
    Text(Cow<'d, str>),
    Number(u64),
}

/// Keys of a map. A few are compared one by one; more are hashed, with a key of the process's own, since clients choose
/// them.
#[derive(Debug, Default)]
pub(super) struct Keys<'d> {
    few: Vec<Key<'d>>,
    many: HashSet<Key<'d>>,
}

const FEW: usize = 8;

impl<'d> Keys<'d> {
    /// Adds a key; false if it was there.
    pub(super) fn insert(&mut self, key: Key<'d>) -> bool {
        if !self.many.is_empty() {
            return self.many.insert(key);
        }
        if self.few.contains(&key) {
            return false;
        }
        self.few.push(key);
        if self.few.len() > FEW {
            self.many.extend(self.few.drain(..));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_and_each_key_is_new_once() {
        let mut members = Members::default();
        for index in [0, 63, 64, 200, 127] {
            assert!(members.see(index) && !members.see(index));
        }
        assert_eq!(members.fill(0, 1), None);
        assert_eq!(members.fill(1, 2), None);
        assert_eq!(members.fill(0, 3), Some(1));
        let mut keys = Keys::default();
        for number in 0..40 {
            assert!(keys.insert(Key::Number(number)));
            assert!(keys.insert(Key::Text(Cow::Owned(number.to_string()))));
        }
        for number in 0..40 {
            assert!(!keys.insert(Key::Number(number)));
            assert!(!keys.insert(Key::Text(Cow::Owned(number.to_string()))));
        }
    }
}
