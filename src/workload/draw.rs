//! Seeded random numbers, whole numbers only, so that every machine draws the same.
//!
//! Never asks the machine for randomness.

use rand::RngCore;

use crate::env::{SeededRng, seeded_rng};

/// A distribution by its values at 0, 25, 50, 75, 90 and 100 percent, straight in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiles(pub [u32; 6]);

impl Quantiles {
    /// Where the six values stand, in 1/10,000.
    const AT: [u32; 6] = [0, 2_500, 5_000, 7_500, 9_000, 10_000];

    /// The value at `rank` of 10,000.
    fn value(&self, rank: u32) -> u32 {
        let upper = Self::AT.iter().position(|at| rank < *at).unwrap_or(5).max(1);
        let (from, to) = (Self::AT[upper - 1], Self::AT[upper]);
        let (low, high) = (i64::from(self.0[upper - 1]), i64::from(self.0[upper]));
        let value = low + (high - low) * i64::from(rank - from) / i64::from(to - from);
        u32::try_from(value).expect("a value between two u32s is one")
    }
}

/// A seeded source of whole numbers.
pub struct Draw(SeededRng);

impl Draw {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seeded_rng(seed))
    }

    /// A number below `bound`, which must not be zero.
    pub fn below(&mut self, bound: u32) -> u32 {
        let scaled = u64::from(self.0.next_u32()) * u64::from(bound);
        u32::try_from(scaled >> 32).expect("below bound")
    }

    /// An index below `len`, which must not be zero.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(u32::try_from(len).unwrap_or(u32::MAX)) as usize
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// True in so many of a thousand cases.
    pub fn per_mille(&mut self, per_mille: u32) -> bool {
        self.below(1000) < per_mille
    }

    pub fn from(&mut self, quantiles: &Quantiles) -> u32 {
        quantiles.value(self.below(10_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_hit_their_values() {
        let quantiles = Quantiles([10, 20, 40, 80, 100, 1_000]);
        for (at, value) in Quantiles::AT.iter().zip(quantiles.0).take(5) {
            assert_eq!(quantiles.value(*at), value, "at {at}");
        }
        assert_eq!(quantiles.value(9_999), 999);
        assert_eq!(quantiles.value(1_250), 15);
    }
}
