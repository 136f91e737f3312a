//! S3-FIFO over leaves: newcomers pass a short queue before they get into the long one, and what
//! was sent away from the short one gets straight into the long one when it comes back.
//!
//! After "FIFO queues are all you need for cache eviction" (SOSP 2023). A chain counts as one: when
//! its tail goes, its next block takes the tail's place.

use std::collections::VecDeque;

use super::banded::Order;
use crate::domain::block::BuildKeyHasher;
use crate::domain::directory::BlockIndex;

/// The short queue's share of all leaves.
const SHORT_PERCENT: usize = 10;

/// A leaf, the tick it was listed with, and how often it was found used since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    block: BlockIndex,
    tick: u64,
    uses: u8,
    key_bits: u64,
}

/// More uses than these count no more.
const USES_MAX: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Short,
    Long,
}

/// Two queues of leaves, oldest first, and the names of what the short one sent away.
#[derive(Default)]
pub struct S3Fifo {
    short: VecDeque<Entry>,
    long: VecDeque<Entry>,
    /// Sent away from the short queue, oldest first.
    ghosts: VecDeque<u64>,
    is_ghost: hashbrown::HashSet<u64, BuildKeyHasher>,
    /// The last victim's queue and tick: its parent, listed next, takes its place.
    last: Option<(Queue, u64)>,
}

impl S3Fifo {
    fn queue(&mut self, queue: Queue) -> &mut VecDeque<Entry> {
        match queue {
            Queue::Short => &mut self.short,
            Queue::Long => &mut self.long,
        }
    }

    /// Remembers what was sent away, as many as there are leaves.
    fn remember(&mut self, key_bits: u64) {
        if self.is_ghost.insert(key_bits) {
            self.ghosts.push_back(key_bits);
        }
        let leaves = self.short.len() + self.long.len();
        while self.ghosts.len() > leaves.max(1)
            && let Some(oldest) = self.ghosts.pop_front()
        {
            self.is_ghost.remove(&oldest);
        }
    }

    fn next_queue(&self) -> Option<Queue> {
        let (short, long) = (self.short.len(), self.long.len());
        match (short, long) {
            (0, 0) => None,
            (_, 0) => Some(Queue::Short),
            (0, _) => Some(Queue::Long),
            _ if short * 100 >= (short + long) * SHORT_PERCENT => Some(Queue::Short),
            _ => Some(Queue::Long),
        }
    }
}

impl Order for S3Fifo {
    const NAME: &'static str = "s3fifo";

    fn list(&mut self, block: BlockIndex, tick: u64, key_bits: u64) {
        let entry = Entry { block, tick, uses: 0, key_bits };
        match self.last.take() {
            Some((queue, last)) if tick <= last => self.queue(queue).push_front(entry),
            // A ghost's name is forgotten in its turn: it stands in the middle of the list.
            _ if self.is_ghost.contains(&key_bits) => self.long.push_back(entry),
            _ => self.short.push_back(entry),
        }
    }

    fn victim(&mut self, judge: &mut dyn FnMut(BlockIndex) -> Option<u64>) -> Option<BlockIndex> {
        while let Some(queue) = self.next_queue() {
            let mut entry = self.queue(queue).pop_front()?;
            let Some(tick) = judge(entry.block) else { continue };
            if tick != entry.tick {
                entry.uses = (entry.uses + 1).min(USES_MAX);
                entry.tick = tick;
            }
            match queue {
                Queue::Short if entry.uses > 0 => {
                    self.long.push_back(Entry { uses: 0, ..entry });
                    continue;
                }
                Queue::Short => self.remember(entry.key_bits),
                Queue::Long if entry.uses > 0 => {
                    self.long.push_back(Entry { uses: entry.uses - 1, ..entry });
                    continue;
                }
                Queue::Long => {}
            }
            self.last = Some((queue, tick));
            return Some(entry.block);
        }
        None
    }

    fn is_empty(&self) -> bool {
        self.short.is_empty() && self.long.is_empty()
    }

    fn retain(&mut self, keep: &mut dyn FnMut(BlockIndex) -> bool) {
        self.short.retain(|entry| keep(entry.block));
        self.long.retain(|entry| keep(entry.block));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::directory::test_rows;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The same rules over one list of all there is, looked through from its start each time.
    #[derive(Default)]
    struct Naive {
        /// In order of entering a queue; `true`: the long one.
        list: Vec<(bool, BlockIndex, u64, u8)>,
        ghosts: Vec<BlockIndex>,
    }

    impl Naive {
        fn list(&mut self, block: BlockIndex, tick: u64) {
            self.list.push((self.ghosts.contains(&block), block, tick, 0));
        }

        fn victim(&mut self, ticks: &BTreeMap<BlockIndex, u64>) -> Option<BlockIndex> {
            loop {
                let total = self.list.len();
                let short = self.list.iter().filter(|entry| !entry.0).count();
                let long = short == 0 || (short < total && short * 100 < total * SHORT_PERCENT);
                let at = self.list.iter().position(|entry| entry.0 == long)?;
                let (_, block, tick, mut uses) = self.list.remove(at);
                let Some(now) = ticks.get(&block).copied() else { continue };
                uses = (uses + u8::from(now != tick)).min(USES_MAX);
                if uses > 0 {
                    self.list.push((true, block, now, if long { uses - 1 } else { 0 }));
                    continue;
                }
                if !long {
                    self.ghosts.retain(|ghost| *ghost != block);
                    self.ghosts.push(block);
                    let over = self.ghosts.len().saturating_sub(self.list.len().max(1));
                    self.ghosts.drain(..over);
                }
                return Some(block);
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_model(ops in prop::collection::vec((0u8..4, 0u8..20), 1..400)) {
            let rows = test_rows(20);
            let (mut fifo, mut naive) = (S3Fifo::default(), Naive::default());
            let mut ticks: BTreeMap<BlockIndex, u64> = BTreeMap::new();
            for (tick, (op, n)) in (1_u64..).zip(ops) {
                let row = rows[n as usize];
                match op {
                    0 | 1 if !ticks.contains_key(&row) && !naive.list.iter().any(|e| e.1 == row) => {
                        ticks.insert(row, tick);
                        fifo.list(row, tick, n.into());
                        naive.list(row, tick);
                    }
                    2 => { ticks.entry(row).and_modify(|at| *at = tick); }
                    3 => {
                        let victim = fifo.victim(&mut |row| ticks.get(&row).copied());
                        prop_assert_eq!(victim, naive.victim(&ticks));
                        victim.map(|row| ticks.remove(&row));
                    }
                    _ => {}
                }
            }
        }
    }

    /// The block before a victim takes its place, so a chain goes whole.
    #[test]
    fn a_chain_goes_as_one() {
        let rows = test_rows(3);
        let mut fifo = S3Fifo::default();
        let listed = |row| (rows.iter().position(|r| *r == row)? as u64).checked_add(5);
        fifo.list(rows[1], 6, 1);
        fifo.list(rows[2], 7, 2);
        assert_eq!(fifo.victim(&mut |row| listed(row)), Some(rows[1]));
        fifo.list(rows[0], 5, 0);
        assert_eq!(fifo.victim(&mut |row| listed(row)), Some(rows[0]), "before the newer chain");
        assert_eq!(fifo.victim(&mut |row| listed(row)), Some(rows[2]));
        assert!(fifo.is_empty());
    }
}
