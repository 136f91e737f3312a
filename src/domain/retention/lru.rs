//! Leaf-first LRU: the leaf used longest ago goes first, so a chain shrinks from its tail.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::banded::Order;
use crate::domain::directory::BlockIndex;

/// A leaf and the tick of its last use, older first.
type Ranked = Reverse<(u64, BlockIndex)>;

/// A heap of leaves by last use. Uses don't move entries; a stale entry is re-ranked when it comes
/// up, so a use costs nothing and an eviction O(log n).
#[derive(Default)]
pub struct Lru {
    leaves: BinaryHeap<Ranked>,
    /// The oldest of all, beside the heap: when a chain's tail goes, its parent becomes the next
    /// leaf to go, and need not sink into the heap and rise again.
    oldest: Option<Ranked>,
}

impl Lru {
    fn push(&mut self, leaf: Ranked) {
        let younger = match self.oldest {
            Some(oldest) if leaf <= oldest => Some(leaf),
            oldest if self.leaves.peek().is_none_or(|top| leaf >= *top) => {
                self.oldest = Some(leaf);
                oldest
            }
            _ => Some(leaf),
        };
        self.leaves.extend(younger);
    }
}

impl Order for Lru {
    const NAME: &'static str = "lru";

    fn list(&mut self, block: BlockIndex, tick: u64, _key_bits: u64) {
        self.push(Reverse((tick, block)));
    }

    fn victim(&mut self, judge: &mut dyn FnMut(BlockIndex) -> Option<u64>) -> Option<BlockIndex> {
        while let Some(Reverse((tick, block))) = self.oldest.take().or_else(|| self.leaves.pop()) {
            match judge(block) {
                Some(used_at) if used_at == tick => return Some(block),
                Some(used_at) => self.push(Reverse((used_at, block))),
                None => {}
            }
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.oldest.is_none() && self.leaves.is_empty()
    }

    fn retain(&mut self, keep: &mut dyn FnMut(BlockIndex) -> bool) {
        let leaves = std::mem::take(&mut self.leaves).into_sorted_vec();
        let oldest_first = self.oldest.take().into_iter().chain(leaves.into_iter().rev());
        self.leaves = oldest_first.filter(|Reverse((_, block))| keep(*block)).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::directory::test_rows;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Whatever is listed, used again or taken back, the least recently used of what may go
        /// goes first.
        #[test]
        fn agrees_with_a_sorted_list(ops in prop::collection::vec((0u8..4, 0u8..12), 1..300)) {
            let rows = test_rows(12);
            let mut lru = Lru::default();
            let mut used: BTreeMap<BlockIndex, u64> = BTreeMap::new();
            for (tick, (op, n)) in (1_u64..).zip(ops) {
                let row = rows[n as usize];
                match op {
                    0 if !used.contains_key(&row) => {
                        // A parent inherits its child's tick, so old ticks are listed too.
                        let tick = if n % 2 == 0 { tick } else { tick / 2 };
                        used.insert(row, tick);
                        lru.list(row, tick, 0);
                    }
                    1 => { used.entry(row).and_modify(|at| *at = tick); }
                    2 => { used.remove(&row); }
                    _ => {
                        let oldest = used.values().min().copied();
                        let victim = lru.victim(&mut |row| used.get(&row).copied());
                        prop_assert_eq!(victim.map(|row| used[&row]), oldest);
                        victim.map(|row| used.remove(&row));
                    }
                }
            }
        }
    }
}
