//! Lanes: the 64 partitions of clicks, fixed by the format.

use crate::code::DomainId;

/// One of the 64 lanes that clicks are numbered, stored and counted in.
///
/// All clicks of one link are in one lane, so a lane's database can commit a batch of roll-ups
/// and the mark that it did in one local transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lane(u8);

impl Lane {
    /// How many lanes there are. Part of the stored format: never changes.
    pub const COUNT: usize = 64;

    /// The lane of a link: XXH3-64 (seed 0) over the domain's number as four little-endian bytes
    /// and the code's bytes, modulo 64. Pinned by a test.
    pub fn of(domain: DomainId, code: &[u8]) -> Self {
        // Codes are at most 128 bytes, so the whole key fits on the stack.
        let mut bytes = [0_u8; 4 + crate::code::Code::MAX_LEN];
        bytes[..4].copy_from_slice(&domain.0.to_le_bytes());
        let len = code.len().min(crate::code::Code::MAX_LEN);
        bytes[4..4 + len].copy_from_slice(&code[..len]);
        let hash = xxhash_rust::xxh3::xxh3_64(&bytes[..4 + len]);
        Self((hash % Self::COUNT as u64) as u8)
    }

    /// The lane with this number, if there is one.
    pub const fn new(number: u8) -> Option<Self> {
        if (number as usize) < Self::COUNT { Some(Self(number)) } else { None }
    }

    /// The lane's number, 0 to 63.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// All lanes in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Expected values made with the reference XXH3 implementation, not with this code.
    #[test]
    fn lanes_are_pinned_by_the_format() {
        let lane = |domain, code: &str| Lane::of(DomainId(domain), code.as_bytes()).number();
        assert_eq!(
            [lane(0, "a"), lane(0, "abcdefg"), lane(1, "abcdefg"), lane(7, "Z_-9")],
            [9, 34, 57, 62]
        );
    }

    #[test]
    fn lanes_spread_evenly() {
        let mut counts = [0_u32; Lane::COUNT];
        for i in 0..64_000 {
            counts[Lane::of(DomainId(0), format!("c{i}").as_bytes()).number() as usize] += 1;
        }
        assert!(counts.iter().all(|&n| (850..1150).contains(&n)), "{counts:?}");
    }
}
