//! Hashing for tables of states: fast, the same in every run, and not meant to withstand an
//! adversary.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// A map keyed by states or views.
pub(crate) type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<FastHasher>>;

/// A set of states or views.
pub(crate) type FastSet<K> = HashSet<K, BuildHasherDefault<FastHasher>>;

/// Odd, with bits in no pattern: the fractional part of the golden ratio.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// Another such number: the fractional part of the square root of 3.
const ROOT: u64 = 0xbb67_ae85_84ca_a73b;

/// Mixes two words so that every bit of the result depends on every bit of both.
#[inline]
pub(crate) const fn mix(left: u64, right: u64) -> u64 {
    let product = (left ^ GOLDEN) as u128 * (right ^ ROOT) as u128;
    let folded = (product as u64) ^ ((product >> 64) as u64);
    // One more round, since a factor can be zero.
    let product = (folded.wrapping_add(left.rotate_left(32)) ^ right) as u128 * GOLDEN as u128;
    (product as u64) ^ ((product >> 64) as u64)
}

/// A [`Hasher`] that mixes word by word.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct FastHasher(u64);

impl Hasher for FastHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.write_u64(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.write_u64(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0, value);
    }

    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_do_not_collide() {
        let mut seen = FastSet::default();
        for left in 0..1000 {
            for right in 0..1000 {
                assert!(seen.insert(mix(left, right)));
            }
        }
    }
}
