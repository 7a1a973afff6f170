//! A keyed permutation of `0..size`: neighbouring counter values become codes that tell nothing of
//! each other, and every code still comes up exactly once.
//!
//! A balanced Feistel network over the next even number of bits, with cycle walking back into the
//! range (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002); ten rounds of
//! SipHash-2-4 as round function, as many as NIST SP 800-38G takes for FF1. It hides an order, it
//! guards no secret. The mapping is part of the stored format: a change would lead a running
//! counter back over codes already given out (the primary key would refuse them, slowly), so a
//! test pins it.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

const ROUNDS: u8 = 10;

/// A permutation of `0..size`, fixed by its key.
#[derive(Clone)]
pub struct Permutation {
    even: (u64, u64),
    odd: (u64, u64),
    size: u64,
    half_bits: u32,
}

impl std::fmt::Debug for Permutation {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permutation").field("size", &self.size).finish_non_exhaustive()
    }
}

impl Permutation {
    /// The permutation of `0..size` under `key`. A size above 2^63 counts as 2^63, 0 as 1.
    pub fn new(key: &[u8; 32], size: u64) -> Self {
        let size = size.clamp(1, 1 << 63);
        let bits = u64::BITS - (size - 1).leading_zeros();
        let word = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&key[at..at + 8]);
            u64::from_le_bytes(bytes)
        };
        Self {
            even: (word(0), word(8)),
            odd: (word(16), word(24)),
            size,
            half_bits: bits.div_ceil(2).max(1),
        }
    }

    /// How many values there are.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Where `index` goes; an index outside of the range is taken modulo the size. Fewer than four
    /// walks on average, each ten SipHashes of 17 bytes.
    pub fn apply(&self, index: u64) -> u64 {
        let mut value = index % self.size;
        loop {
            value = self.encrypt(value);
            if value < self.size {
                return value;
            }
        }
    }

    /// Where `value` came from: the inverse of [`Self::apply`].
    pub fn invert(&self, value: u64) -> u64 {
        let mut index = value % self.size;
        loop {
            index = self.decrypt(index);
            if index < self.size {
                return index;
            }
        }
    }

    /// A keyed number for another use of the same key (`label` keeps the uses apart).
    pub(super) fn prf(&self, label: u8, value: u64) -> u64 {
        self.hash(self.odd, label, value)
    }

    fn hash(&self, key: (u64, u64), label: u8, value: u64) -> u64 {
        let mut hasher = SipHasher24::new_with_keys(key.0, key.1);
        hasher.write(&[label]);
        hasher.write(&self.size.to_le_bytes());
        hasher.write(&value.to_le_bytes());
        hasher.finish()
    }

    fn round(&self, round: u8, half: u64) -> u64 {
        let key = if round.is_multiple_of(2) { self.even } else { self.odd };
        self.hash(key, round, half) & self.mask()
    }

    const fn mask(&self) -> u64 {
        (1 << self.half_bits) - 1
    }

    fn encrypt(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> self.half_bits, value & self.mask());
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.round(round, right));
        }
        left << self.half_bits | right
    }

    fn decrypt(&self, value: u64) -> u64 {
        let (mut left, mut right) = (value >> self.half_bits, value & self.mask());
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.round(round, left), left);
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Exhaustively on small ranges: a bijection, whatever the key and the size.
        #[test]
        fn it_is_a_bijection(key in any::<[u8; 32]>(), size in 1_u64..3_000) {
            let permutation = Permutation::new(&key, size);
            let mut seen = vec![false; size as usize];
            for index in 0..size {
                let value = permutation.apply(index);
                prop_assert!(value < size);
                prop_assert!(!std::mem::replace(&mut seen[value as usize], true));
                prop_assert_eq!(permutation.invert(value), index);
            }
        }

        /// By the inverse on large ones.
        #[test]
        fn it_has_an_inverse(
            key in any::<[u8; 32]>(),
            size in 1_u64..=(1 << 63),
            index in any::<u64>(),
        ) {
            let permutation = Permutation::new(&key, size);
            let value = permutation.apply(index);
            prop_assert!(value < size);
            prop_assert_eq!(permutation.invert(value), index % size);
        }
    }

    /// Stored counters depend on it; see the head of this file before changing a number here.
    #[test]
    fn the_mapping_is_pinned() {
        let key: [u8; 32] = std::array::from_fn(|i| i as u8);
        let base62_7 = Permutation::new(&key, 62_u64.pow(7));
        let values: Vec<u64> = (0..4).map(|index| base62_7.apply(index)).collect();
        assert_eq!(values, PINNED, "the permutation changed");
    }

    const PINNED: [u64; 4] =
        [2_889_257_993_466, 1_740_274_505_282, 1_261_710_191_600, 2_068_756_442_945];

    /// Neighbours land far apart: the mean distance of two random points of a range is a third of
    /// it; an identity or a rotation would give a tiny one.
    #[test]
    fn neighbours_are_scattered() {
        let size = 62_u64.pow(7);
        let permutation = Permutation::new(&[7; 32], size);
        let total: f64 = (0..10_000)
            .map(|i| permutation.apply(i).abs_diff(permutation.apply(i + 1)) as f64)
            .sum();
        let mean = total / 10_000.0 / size as f64;
        assert!((0.30..0.37).contains(&mean), "mean distance {mean} of the range");
    }
}
