//! The order of one tier's copies under the value policy.
//!
//! Copies stand in groups: those of one tip that cost the same to lose. The groups are ordered by
//! worth, so a tip that changes moves all its copies at once, and a chain that goes block by block
//! costs no reordering at all. What no known tip claims goes before, by priority and then least recently
//! used first; unless its priority is raised, which gives it a worth of its own.

use std::collections::BTreeSet;

use super::index::{Level, Worth};
use super::tips::TipId;
use crate::domain::directory::BlockIndex;
use crate::domain::retention::banded::Banded;
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
    by_use: Banded<Lru>,
    lru_decides: bool,
    /// Copies that the LRU lists turned out to hold for a tip.
    claimed: Vec<(BlockIndex, Standing)>,
}

/// An octave of worth for so many steps of priority.
const PRIORITY_STEPS_PER_OCTAVE: i16 = 4;
const LEVELS_PER_OCTAVE: i16 = 8;

/// By how much the priority raises a copy's level.
fn raise_of(priority: u8) -> i16 {
    let above = i16::from(priority) - i16::from(PRIORITY_DEFAULT);
    above * LEVELS_PER_OCTAVE / PRIORITY_STEPS_PER_OCTAVE
}

/// By how much the copy's own cost and priority raise it above its tip's level.
fn raised(standing: &Standing) -> i16 {
    standing.cost + raise_of(standing.priority)
}

fn rank_of(worth: Worth, raised: i16) -> Worth {
    Worth { level: worth.level.raised(raised), ..worth }
}

/// The level of what no tip claims: its owner's word is all there is to go by.
fn unclaimed_level(priority: u8) -> Level {
    Level::UNCLAIMED.raised(raise_of(priority))
}

/// The level under which a copy stands.
fn standing_level(standing: &Standing) -> Level {
    let unclaimed = unclaimed_level(standing.priority);
    standing.claim.map_or(unclaimed, |(_, worth)| rank_of(worth, raised(standing)).level)
}

/// What is told of a copy whose standing is to be asked for: nothing comes up before it.
const UNSEEN: Standing = Standing { tick: 0, key_bits: 0, priority: 0, claim: None, cost: 0 };

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

    /// Every listed copy goes onto an LRU list, to be looked at when it comes up.
    fn ungroup(&mut self) {
        self.order.clear();
        self.by_slot.clear();
        self.vacant.clear();
        for group in self.groups.drain(..) {
            for leaf in group.leaves {
                self.by_use.list(leaf, &UNSEEN);
            }
        }
    }

    /// Whether what no tip claims, of this priority, goes before all that stands in the order.
    fn goes_first(&self, priority: u8) -> bool {
        let first = self.order.first().map(|(rank, _)| rank.level);
        priority <= PRIORITY_DEFAULT || first.is_none_or(|first| unclaimed_level(priority) < first)
    }

    /// The least recently used of what no tip claims and has at most this priority; its own comes along.
    fn unclaimed_victim(
        &mut self,
        priority_max: u8,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Standing>,
    ) -> Option<(BlockIndex, u8)> {
        let Self { by_use, claimed, lru_decides, .. } = self;
        let victim = by_use.victim_up_to(priority_max, &mut |block| {
            let standing = judge(block)?;
            if standing.claim.is_some() && !*lru_decides {
                claimed.push((block, standing));
                return None;
            }
            Some(standing)
        });
        for (block, standing) in std::mem::take(&mut self.claimed) {
            self.list(block, &standing);
        }
        victim
    }

    /// What becomes of a newcomer that is worth `most`, as far as what no tip claims decides that.
    fn unclaimed_verdict(
        &mut self,
        most: Option<Level>,
        judge: &mut dyn FnMut(BlockIndex) -> Option<Standing>,
    ) -> Option<Verdict> {
        while let Some(lowest) = self.by_use.lowest().filter(|lowest| self.goes_first(*lowest)) {
            let Some((block, priority)) = self.unclaimed_victim(lowest, judge) else { continue };
            let is_raised = priority > PRIORITY_DEFAULT && !self.lru_decides;
            let stays = is_raised && most.is_some_and(|most| unclaimed_level(priority) > most);
            // Looking may have shown that a tip worth less claims what was listed here.
            let goes_first = self.goes_first(priority);
            if goes_first && !stays {
                return Some(Verdict::Goes(block));
            }
            self.by_use.list(block, &Standing { priority, ..UNSEEN });
            if goes_first {
                return Some(Verdict::Newcomer);
            }
        }
        None
    }
}

impl Policy for Value {
    fn name(&self) -> &'static str {
        "value"
    }

    fn list(&mut self, block: BlockIndex, standing: &Standing) {
        let Some((tip, worth)) = standing.claim.filter(|_| !self.lru_decides) else {
            self.by_use.list(block, standing);
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
        let most = newcomer.map(standing_level);
        loop {
            if let Some(verdict) = self.unclaimed_verdict(most, judge) {
                return verdict;
            }
            let Some((rank, at)) = self.order.first().copied() else { return Verdict::Nobody };
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
    }

    fn retain(&mut self, keep: &mut dyn FnMut(BlockIndex) -> bool) {
        self.by_use.retain(keep);
        for (_, at) in &self.order {
            let leaves = &mut self.groups[*at as usize].leaves;
            // The deepest goes first.
            leaves.reverse();
            leaves.retain(|leaf| keep(*leaf));
            leaves.reverse();
        }
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
                    self.by_use.list(leaf, &UNSEEN);
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
mod tests;
