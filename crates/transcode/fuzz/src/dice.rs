//! Chance that is an input: whoever asks gets the input's bytes, so that the fuzzer learns which answers lead where.
//!
//! Lives here: the same ways to ask as the seeded tests have (`tests/differential/dice.rs`). Does not: what is made of the answers.

pub(crate) struct Dice<'i>(&'i [u8]);

impl<'i> Dice<'i> {
    pub(crate) fn new(input: &'i [u8]) -> Self {
        Self(input)
    }

    /// Returns the next two bytes; 0 when all are used up.
    pub(crate) fn next(&mut self) -> u64 {
        let (taken, rest) = self.0.split_at(self.0.len().min(2));
        self.0 = rest;
        taken.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}
