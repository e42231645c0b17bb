//! Chance that can be had again: of a seed, the same run on every machine; of an input's bytes, so that a fuzzer learns which answers lead where.
//!
//! Lives here: the generator (splitmix64), and the few ways to ask. Does not: what is made of the answers.

#[derive(Debug)]
pub(crate) struct Dice(Source);

#[derive(Debug)]
enum Source {
    Seed(u64),
    Input(std::vec::IntoIter<u8>),
}

impl From<u64> for Dice {
    fn from(seed: u64) -> Self {
        Self(Source::Seed(seed))
    }
}

impl From<&[u8]> for Dice {
    fn from(input: &[u8]) -> Self {
        Self(Source::Input(Vec::from(input).into_iter()))
    }
}

impl Dice {
    /// Returns any number; of an input the next two bytes, and 0 when all are used up.
    pub(crate) fn next(&mut self) -> u64 {
        match &mut self.0 {
            Source::Seed(state) => {
                *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
                let mixed = (*state ^ (*state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                mixed ^ (mixed >> 31)
            }
            Source::Input(rest) => {
                let mut byte = || u64::from(rest.next().unwrap_or_default());
                byte() | byte() << 8
            }
        }
    }

    /// Returns a number below `limit`, which is not 0.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Returns true once in `n` times.
    pub(crate) fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub(crate) fn pick<'a, T>(&mut self, among: &'a [T]) -> &'a T {
        &among[self.below(among.len())]
    }
}
