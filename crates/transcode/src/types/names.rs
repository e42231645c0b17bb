//! Names of fields and of enum values to what they name.
//!
//! Lives here: the tables and their hash. Does not: fields, enums.
//! The names are the schema's and never a client's, so nobody can make them collide: a cheap hash will do.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::Field;

/// What a schema's names stand for.
pub(super) type ByName<T> = HashMap<Box<str>, T, BuildHasherDefault<Fnv>>;

#[derive(Debug)]
pub(super) struct Names(ByName<u32>);

impl Names {
    /// Takes both names of each field; where two clash, a JSON name beats a proto name.
    pub(super) fn of(fields: &[Field]) -> Self {
        let indexed = || fields.iter().zip(0..);
        let proto = indexed().map(|(it, at)| (it.name.clone(), at));
        let json = indexed().map(|(it, at)| (it.json_name.clone(), at));
        Self(proto.chain(json).collect())
    }

    pub(super) fn find(&self, name: &str) -> Option<u32> {
        self.0.get(name).copied()
    }
}

/// FNV-1a, 64 bits.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xCBF2_9CE4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
