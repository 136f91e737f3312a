//! The order of one tier's copies under the value policy.
//!
//! Copies stand in groups: those of one tip that cost the same to lose. The groups are ordered by
//! worth, so a tip that changes moves all its copies at once, and a chain that goes block by block
//! costs no reordering at all. What no known tip claims goes before, least recently used first.

use std::collections::BTreeSet;

use super::index::{Level, Worth};
use super::tips::TipId;
use crate::domain::directory::BlockIndex;
use crate::domain::retention::banded::Order;
use crate::domain::retention::lru::Lru;
use crate::domain::retention::policy::{Policy, Standing, Verdict};
use crate::domain::retention::record::PRIORITY_DEFAULT;

/// The copies of one tip whose loss costs the same.
struct Group {
    tip: TipId,
    raised: i16,
    /// Under which it stands in the order; not at all while it is empty.
    rank: Option<Worth>,
    /// The deepest is last, and goes first.
    leaves: Vec<BlockIndex>,
    /// The next group of the same tip.
    next: Option<u32>,
}

/// Leaf-first by value. Falls back to leaf-first LRU when told to.
#[derive(Default)]
pub struct Value {
    groups: Vec<Group>,
    vacant: Vec<u32>,
    /// The first group of each tip, by the tip's slot.
    by_slot: Vec<Option<u32>>,
    order: BTreeSet<(Worth, u32)>,
    /// What no known tip claims; everything while LRU decides.
    by_use: Lru,
    lru_decides: bool,
    /// Copies that the LRU list turned out to hold for a tip.
    claimed: Vec<(BlockIndex, Standing)>,
}

/// An octave of worth for so many steps of priority.
const PRIORITY_STEPS_PER_OCTAVE: i16 = 4;
const LEVELS_PER_OCTAVE: i16 = 8;

/// By how much the copy's own cost and priority raise it above its tip's level.
fn raised(standing: &Standing) -> i16 {
    let above = i16::from(standing.priority) - i16::from(PRIORITY_DEFAULT);
    standing.cost + above * LEVELS_PER_OCTAVE / PRIORITY_STEPS_PER_OCTAVE
}

fn rank_of(worth: Worth, raised: i16) -> Worth {
    Worth { level: worth.level.raised(raised), ..worth }
}

/// The worth under which a copy stands.
fn standing_worth(standing: &Standing) -> Worth {
    let unclaimed = Worth { level: Level::UNCLAIMED, used: 0 };
    standing.claim.map_or(unclaimed, |(_, worth)| rank_of(worth, raised(standing)))
}

impl Value {
    fn group_of(&mut self, tip: TipId, raised: i16) -> u32 {
        if self.by_slot.len() <= tip.slot() {
            self.by_slot.resize(tip.slot() + 1, None);
        }
        let first = self.by_slot[tip.slot()];
        let mut next = first;
        while let Some(at) = next {
            let group = &self.groups[at as usize];
            if group.tip == tip && group.raised == raised {
                return at;
            }
            next = group.next;
        }
        let group = Group { tip, raised, rank: None, leaves: Vec::new(), next: first };
        let at = self.place(group);
        self.by_slot[tip.slot()] = Some(at);
        at
    }

    fn place(&mut self, group: Group) -> u32 {
        if let Some(at) = self.vacant.pop() {
            let leaves = std::mem::take(&mut self.groups[at as usize].leaves);
            self.groups[at as usize] = Group { leaves, ..group };
            return at;
        }
        self.groups.push(group);
        u32::try_from(self.groups.len() - 1).expect("groups are fewer than copies")
    }

    /// Takes an empty group out of its tip's list.
    fn drop_group(&mut self, at: u32) {
        let Group { tip, next, .. } = self.groups[at as usize];
        let mut link = self.by_slot[tip.slot()];
        if link == Some(at) {
            self.by_slot[tip.slot()] = next;
        } else {
            while let Some(before) = link {
                link = self.groups[before as usize].next;
                if link == Some(at) {
                    self.groups[before as usize].next = next;
                    break;
                }
            }
        }
        self.vacant.push(at);
    }

    fn set_rank(&mut self, at: u32, rank: Option<Worth>) {
        let before = std::mem::replace(&mut self.groups[at as usize].rank, rank);
        if before == rank {
            return;
        }
        if let Some(before) = before {
            self.order.remove(&(before, at));
        }
        if let Some(rank) = rank {
            self.order.insert((rank, at));
        }
    }

    /// Every listed copy goes onto the LRU list, to be looked at when it comes up.
    fn ungroup(&mut self) {
        self.order.clear();
        self.by_slot.clear();
        self.vacant.clear();
        for group in self.groups.drain(..) {
            for leaf in group.leaves {
                self.by_use.list(leaf, 0, 0);
            }
        }
    }

    /// The least recently used of what no tip claims.
    fn unclaimed_victim(
        &mut self,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Standing>,
    ) -> Option<BlockIndex> {
        let Self { by_use, claimed, lru_decides, .. } = self;
        let victim = by_use.victim(&mut |block| {
            let standing = judge(block)?;
            if standing.claim.is_some() && !*lru_decides {
                claimed.push((block, standing));
                return None;
            }
            Some(standing.tick)
        });
        for (block, standing) in std::mem::take(&mut self.claimed) {
            self.list(block, &standing);
        }
        victim
    }
}

impl Policy for Value {
    fn name(&self) -> &'static str {
        "value"
    }

    fn list(&mut self, block: BlockIndex, standing: &Standing) {
        let Some((tip, worth)) = standing.claim.filter(|_| !self.lru_decides) else {
            self.by_use.list(block, standing.tick, standing.key_bits);
            return;
        };
        let raised = raised(standing);
        let at = self.group_of(tip, raised);
        let group = &mut self.groups[at as usize];
        group.leaves.push(block);
        if group.rank.is_none() {
            self.set_rank(at, Some(rank_of(worth, raised)));
        }
    }

    fn victim(
        &mut self,
        newcomer: Option<&Standing>,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Standing>,
    ) -> Verdict {
        if let Some(victim) = self.unclaimed_victim(judge) {
            return Verdict::Goes(victim);
        }
        let most = newcomer.map(|newcomer| standing_worth(newcomer).level);
        while let Some((rank, at)) = self.order.first().copied() {
            let group = &mut self.groups[at as usize];
            let (tip, raised_by) = (group.tip, group.raised);
            let Some(block) = group.leaves.pop() else {
                self.set_rank(at, None);
                self.drop_group(at);
                continue;
            };
            match judge(block) {
                Some(now) if now.belongs_to(tip) && raised(&now) == raised_by => {
                    if most.is_some_and(|most| rank.level > most) {
                        self.groups[at as usize].leaves.push(block);
                        return Verdict::Newcomer;
                    }
                    return Verdict::Goes(block);
                }
                Some(now) => self.list(block, &now),
                None => {}
            }
        }
        // Judging may have shown that nobody claims what stood in the order.
        self.unclaimed_victim(judge).into()
    }

    fn tip_moved(&mut self, tip: TipId, worth: Option<Worth>) {
        let mut next = self.by_slot.get(tip.slot()).copied().flatten();
        while let Some(at) = next {
            let group = &mut self.groups[at as usize];
            next = group.next;
            if group.tip != tip {
                continue;
            }
            if worth.is_none() {
                // Nobody claims these any more, as far as is known: they go by their last use.
                for leaf in std::mem::take(&mut group.leaves) {
                    self.by_use.list(leaf, 0, 0);
                }
            }
            let (raised, empty) = (group.raised, group.leaves.is_empty());
            self.set_rank(at, worth.filter(|_| !empty).map(|worth| rank_of(worth, raised)));
            if empty {
                self.drop_group(at);
            }
        }
    }

    fn let_lru_decide(&mut self, decides: bool) {
        if decides && !self.lru_decides {
            self.ungroup();
        }
        self.lru_decides = decides;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::directory::test_rows;
    use crate::domain::retention::value::tips::Tips;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What the naive model knows: every listed copy's standing, recomputed at each look.
    struct Model {
        copies: BTreeMap<BlockIndex, Standing>,
        worth: BTreeMap<usize, (TipId, Worth)>,
    }

    impl Model {
        fn standing(&self, block: BlockIndex) -> Option<Standing> {
            let standing = *self.copies.get(&block)?;
            let claim = standing.claim.and_then(|(tip, _)| self.worth.get(&tip.slot()).copied());
            Some(Standing { claim, ..standing })
        }

        /// The order that the policy is to follow: unclaimed copies by use, then the rest by worth.
        fn rank(&self, block: BlockIndex) -> (Level, u64) {
            let standing = self.standing(block).unwrap();
            let level = standing_worth(&standing).level;
            (level, if standing.claim.is_some() { 0 } else { standing.tick })
        }

        fn lowest(&self) -> Option<(Level, u64)> {
            self.copies.keys().map(|block| self.rank(*block)).min()
        }
    }

    proptest! {
        /// Whatever is listed, moved, reprioritised, forgotten or taken back: the victim is of the
        /// lowest rank there is, every listed copy goes once, and a newcomer worth less goes first.
        #[test]
        fn agrees_with_a_sorted_list(
            ops in prop::collection::vec((0u8..8, 0u8..12, 0usize..5, 10i16..200), 1..300)
        ) {
            let (rows, mut tips) = (test_rows(12), Tips::new(8));
            let ids: Vec<TipId> = (0..5).map(|_| tips.add()).collect();
            let worth = |level: i16, used: u64| Worth { level: Level::UNCLAIMED.raised(level), used };
            let mut model = Model { copies: BTreeMap::new(), worth: BTreeMap::new() };
            let mut value = Value::default();
            for (tick, (op, n, tip, level)) in (1_u64..).zip(ops) {
                let (row, id) = (rows[n as usize], ids[tip]);
                match op {
                    0 | 1 if !model.copies.contains_key(&row) => {
                        let priority = if level % 5 == 0 { 80 } else { PRIORITY_DEFAULT };
                        let claim = Some((id, worth(0, 0)));
                        let standing = Standing { tick, key_bits: 0, priority, claim, cost: level % 3 };
                        model.copies.insert(row, standing);
                        value.list(row, &model.standing(row).unwrap());
                    }
                    2 | 3 => {
                        model.worth.insert(id.slot(), (id, worth(level, tick)));
                        value.tip_moved(id, Some(worth(level, tick)));
                    }
                    4 => {
                        model.worth.remove(&id.slot());
                        value.tip_moved(id, None);
                    }
                    5 => { model.copies.remove(&row); }
                    _ => {
                        let newcomer = model.worth.get(&id.slot()).filter(|_| op == 6);
                        let newcomer = newcomer.map(|claim| Standing {
                            tick, key_bits: 0, priority: PRIORITY_DEFAULT, claim: Some(*claim), cost: 0,
                        });
                        let lowest = model.lowest();
                        let verdict = value.victim(newcomer.as_ref(), &mut |row| model.standing(row));
                        let most = newcomer.map(|newcomer| standing_worth(&newcomer).level);
                        match (verdict, lowest) {
                            (Verdict::Goes(row), Some(lowest)) => {
                                prop_assert_eq!(model.rank(row), lowest);
                                model.copies.remove(&row);
                            }
                            (Verdict::Newcomer, Some((level, _))) => prop_assert!(most.unwrap() < level),
                            (verdict, lowest) => prop_assert_eq!((verdict, lowest), (Verdict::Nobody, None)),
                        }
                    }
                }
            }
            // Nothing is lost: what is left comes out, in order, and then no more.
            while let Some(lowest) = model.lowest() {
                let Verdict::Goes(row) = value.victim(None, &mut |row| model.standing(row)) else {
                    panic!("{} copies are lost", model.copies.len());
                };
                prop_assert_eq!(model.rank(row), lowest);
                model.copies.remove(&row);
            }
            prop_assert_eq!(value.victim(None, &mut |row| model.standing(row)), Verdict::Nobody);
        }

        /// While LRU decides, the least recently used goes, whatever it is worth; and back again.
        #[test]
        fn lru_decides_when_told_to(ticks in prop::collection::btree_set(1_u64..1000, 1..12)) {
            let (rows, mut tips) = (test_rows(12), Tips::new(8));
            let ids: Vec<TipId> = (0..3).map(|_| tips.add()).collect();
            let mut value = Value::default();
            let mut copies = BTreeMap::new();
            for (at, tick) in ticks.iter().rev().enumerate() {
                let level = i16::try_from(10 + at).unwrap();
                let worth = Worth { level: Level::UNCLAIMED.raised(level % 3), used: 0 };
                let claim = Some((ids[at % 3], worth));
                let standing =
                    Standing { tick: *tick, key_bits: 0, priority: PRIORITY_DEFAULT, claim, cost: 0 };
                copies.insert(rows[at], standing);
                value.list(rows[at], &standing);
            }
            value.let_lru_decide(true);
            for _ in 0..copies.len() / 2 {
                let oldest = copies.values().map(|standing| standing.tick).min().unwrap();
                let Verdict::Goes(row) = value.victim(None, &mut |row| copies.get(&row).copied()) else {
                    panic!("copies are left");
                };
                prop_assert_eq!(copies.remove(&row).unwrap().tick, oldest);
            }
            value.let_lru_decide(false);
            while let Verdict::Goes(row) = value.victim(None, &mut |row| copies.get(&row).copied()) {
                copies.remove(&row);
            }
            prop_assert!(copies.is_empty());
        }
    }
}
