//! A fast, fixed hash for search states.
//!
//! Not for keys that an enemy chooses, and the same on every machine and run.

use std::hash::Hasher;

/// Multiplies and rotates, word by word.
#[derive(Default)]
pub(crate) struct Mixer(u64);

/// An odd number near 2^64 over the golden ratio, which spreads neighbouring keys.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Mixer {
    fn mix(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(SPREAD);
    }
}

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.mix(word.into());
    }

    fn write_u128(&mut self, word: u128) {
        self.mix(word as u64);
        self.mix((word >> 64) as u64);
    }
}
