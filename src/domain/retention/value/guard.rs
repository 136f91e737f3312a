//! The guard: what leaf-first LRU would have found with as much room, held against what was found.
//!
//! A sample of blocks stands for all. Leaf-first LRU needs no more: it keeps the blocks used last,
//! so whether it has one depends on how many others were used since, which the sample tells too.
//! What the value policy finds less is booked as its debt; over a small share of what was asked, LRU
//! decides until the debt is small again.

use std::collections::VecDeque;

use crate::domain::block::{Key, KeyMap};

/// A shadow holds about so many blocks; of larger tiers it samples.
const SHADOW_BLOCKS: u64 = 16_384;

/// What is owed when LRU takes over, and when it hands back, in shares of what was asked.
const DEBT_MAX: f64 = 0.0012;
const DEBT_FORGIVEN: f64 = 0.001;
/// Credit for having found more, so that the best days of a policy don't excuse its worst.
const CREDIT_MAX: f64 = 0.003;

/// Blocks asked for, of the sample, before shares of them mean anything.
const ASKED_MIN: f64 = 8192.0;
/// Lookups after which what was counted counts half.
const HALF_LIFE: f64 = 16_384.0;

/// A sampled leaf-first LRU cache.
#[derive(Default)]
struct Shadow {
    /// One block in two to the power of this is sampled.
    shift: u32,
    used_at: KeyMap<u64>,
    /// Uses, oldest first; those that were followed by a later one are skipped.
    uses: VecDeque<(u64, Key)>,
    clock: u64,
}

impl Shadow {
    fn samples(&self, key: &Key) -> bool {
        // The low bits choose a table's bucket: the sample is taken by others.
        key.low_bits() >> 40 & ((1 << self.shift) - 1) == 0
    }

    /// Coarser sampling as the tier grows.
    fn fit(&mut self, capacity_blocks: u64) {
        while capacity_blocks >> self.shift > SHADOW_BLOCKS && self.shift < 16 {
            self.shift += 1;
            let mut kept = std::mem::take(&mut self.used_at);
            kept.retain(|key, _| self.samples(key));
            self.used_at = kept;
        }
    }

    /// The chain is asked for and then stored: how much of it was here. Leaves go first, so of one
    /// chain the deepest counts as used first.
    fn ask(&mut self, chain: &[Key], capacity_blocks: u64) -> u64 {
        let capacity = usize::try_from(capacity_blocks >> self.shift).unwrap_or(usize::MAX);
        let mut found = 0;
        for key in chain.iter().rev() {
            if self.samples(key) {
                self.clock += 1;
                found += u64::from(self.used_at.insert(*key, self.clock).is_some());
                self.uses.push_back((self.clock, *key));
            }
        }
        while self.used_at.len() > capacity
            && let Some((at, key)) = self.uses.pop_front()
        {
            if self.used_at.get(&key) == Some(&at) {
                self.used_at.remove(&key);
            }
        }
        if self.uses.len() > 4 * self.used_at.len() + 64 {
            let used_at = &self.used_at;
            self.uses.retain(|(at, key)| used_at.get(key) == Some(at));
        }
        found
    }
}

/// Watches one cache.
#[derive(Default)]
pub struct Guard {
    shadow: Shadow,
    asked: f64,
    /// Blocks of the sample that LRU would have found and the policy did not.
    debt: f64,
    lru_decides: bool,
}

impl Guard {
    /// A chain was asked for, `found` of its blocks were there, in a cache that holds
    /// `capacity_blocks`. Gives whether LRU is to decide from now on.
    #[expect(clippy::cast_precision_loss, reason = "shares of counts")]
    pub fn asked(&mut self, chain: &[Key], found: usize, capacity_blocks: u64) -> bool {
        self.shadow.fit(capacity_blocks);
        let sampled = |keys: &[Key]| keys.iter().filter(|key| self.shadow.samples(key)).count();
        let (asked, found) = (sampled(chain), sampled(&chain[..found]));
        let lru_found = self.shadow.ask(chain, capacity_blocks);
        let keep = 1.0 - std::f64::consts::LN_2 / HALF_LIFE;
        self.asked = self.asked * keep + asked as f64;
        self.debt = self.debt * keep + lru_found as f64 - found as f64;
        let whole = self.asked.max(ASKED_MIN);
        self.debt = self.debt.max(-CREDIT_MAX * whole);
        let limit = if self.lru_decides { DEBT_FORGIVEN } else { DEBT_MAX };
        self.lru_decides = self.debt > limit * whole;
        self.lru_decides
    }
}

impl Guard {
    /// What was owed is forgotten: nothing was lost by choice.
    pub const fn forgive(&mut self) {
        (self.debt, self.lru_decides) = (0.0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&(n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        bytes[8..].copy_from_slice(&n.to_le_bytes());
        Key(bytes)
    }

    fn chain(of: u64, len: u64) -> Vec<Key> {
        (0..len).map(|at| key(of * 1000 + at)).collect()
    }

    #[test]
    fn the_shadow_is_leaf_first_lru() {
        let mut shadow = Shadow::default();
        let (a, b) = (chain(1, 6), chain(2, 6));
        assert_eq!(shadow.ask(&a, 10), 0);
        assert_eq!(shadow.ask(&b, 10), 0);
        assert_eq!(shadow.ask(&a, 10), 4, "a's two deepest went");
        assert_eq!(shadow.ask(&b, 10), 4, "and now b's");
        for n in 0..1000 {
            shadow.ask(&chain(n % 3, 3), 10);
        }
        assert_eq!((shadow.used_at.len(), shadow.uses.len() <= 104), (10, true));
    }

    /// LRU finds the same two chains again and again; a policy that keeps others loses everything.
    #[test]
    fn a_policy_that_finds_less_is_overruled_until_its_debt_is_small() {
        let mut guard = Guard::default();
        let rounds = |guard: &mut Guard, found: usize, rounds: u64| {
            (0..rounds)
                .map(|n| guard.asked(&chain(n % 2, 20), found, 100))
                .filter(|lru| *lru)
                .count()
        };
        assert_eq!(rounds(&mut guard, 20, 1000), 0, "as good as LRU");
        let overruled = rounds(&mut guard, 0, 20);
        assert!(overruled >= 10, "overruled {overruled} times of 20");
        assert!(rounds(&mut guard, 20, 1) == 1, "not forgiven at once");
        rounds(&mut guard, 20, 60_000);
        assert_eq!(rounds(&mut guard, 20, 10), 0, "forgiven");
    }

    #[test]
    fn large_caches_are_sampled() {
        let mut guard = Guard::default();
        for n in 0..2000 {
            guard.asked(&chain(n, 100), 0, 200_000);
        }
        assert_eq!(guard.shadow.shift, 4);
        assert!((guard.shadow.used_at.len() as u64) < SHADOW_BLOCKS);
    }
}
