//! Tiers that are out for now: what they hold is not promised while nobody can read it, and it is not
//! lost either. It is found again when they are back.
//!
//! Only remembers what the shell was told of the stores. Never drops a copy for an outage, and never
//! looks at all blocks for one.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::domain::directory::{Block, BlockIndex};
use crate::domain::tier::{Tier, TierSet};
use crate::domain::units::Time;
use crate::tiers::health::Refuses;

use super::Manager;
use super::going::Ways;

/// Copies looked at a tick for those that found no way down.
const LOOKS_A_TICK: usize = 4096;

/// What can't be done now.
pub(super) struct Outages {
    reads: TierSet,
    writes: TierSet,
    /// Copies on no list because nothing below takes them, while a tier is out or without room. They
    /// are all that is looked at again when a tier is back.
    kept: BTreeSet<(BlockIndex, Tier)>,
    /// When they are looked at though none came back, and which one was the last: one write that failed,
    /// or room that was wanting for a moment, makes no outage.
    look_at: Time,
    looked_at: Option<(BlockIndex, Tier)>,
}

impl Default for Outages {
    fn default() -> Self {
        Self {
            reads: TierSet::EMPTY,
            writes: TierSet::EMPTY,
            kept: BTreeSet::new(),
            look_at: Time::ZERO,
            looked_at: None,
        }
    }
}

impl Outages {
    fn note(&mut self, tier: Tier, refuses: Refuses) {
        let noted = |set: TierSet, out| if out { set.with(tier) } else { set.without(tier) };
        self.reads = noted(self.reads, refuses.reads);
        self.writes = noted(self.writes, refuses.writes);
    }

    /// The copy may not go before something below takes it.
    pub fn keep(&mut self, copy: (BlockIndex, Tier)) {
        self.kept.insert(copy);
    }

    /// The copy is listed, or gone.
    pub fn forget(&mut self, copy: (BlockIndex, Tier)) {
        self.kept.remove(&copy);
    }

    pub fn is_kept(&self, copy: (BlockIndex, Tier)) -> bool {
        self.kept.contains(&copy)
    }
}

impl Manager {
    /// A tier went out, or came back. Where one went out, listed copies that may go no more are found
    /// out when their turn comes, and nobody waits for its room; where one takes copies again, those that
    /// were kept for it may go.
    pub(super) fn outage(&mut self, tier: Tier, refuses: Refuses) {
        let took = self.takes(tier);
        self.outages.note(tier, refuses);
        if !took && self.takes(tier) {
            for (block, above) in std::mem::take(&mut self.outages.kept) {
                self.reconsider(block, above);
            }
            self.hurry_owed(tier);
        } else if took && !self.takes(tier) {
            self.refuse_line(tier);
        }
        self.lifts.stirred = true;
    }

    /// Now and then also those copies are listed that found no way down though no tier is out.
    pub(super) fn time_kept(&mut self) {
        if self.now < self.outages.look_at {
            return;
        }
        let after = self.outages.looked_at.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.outages.kept.range((after, Bound::Unbounded)).take(LOOKS_A_TICK);
        let next: Vec<_> = next.copied().collect();
        self.outages.looked_at = next.get(LOOKS_A_TICK - 1).copied();
        if self.outages.looked_at.is_none() {
            self.outages.look_at = self.now + self.config.rewrites.retry_delay;
        }
        for (block, tier) in next {
            self.outages.forget((block, tier));
            self.reconsider(block, tier);
        }
    }

    /// The fastest tier that the block can be read from now.
    pub(super) fn serving(&self, block: &Block) -> Option<Tier> {
        block.served_from().iter().find(|tier| self.is_read(*tier))
    }

    /// Whether the tier takes copies now.
    pub(super) fn takes(&self, tier: Tier) -> bool {
        let ready = self.tiers[tier.index()].as_ref().is_some_and(|space| space.ready);
        ready && !self.outages.writes.has(tier)
    }

    /// What can be done with each tier now.
    pub(super) fn ways(&self) -> Ways {
        Ways { takers: self.taker_flags(), out: self.outages.writes, unread: self.outages.reads }
    }

    pub(super) fn taker_flags(&self) -> [bool; Tier::COUNT] {
        Tier::ALL.map(|tier| self.takes(tier))
    }

    /// Whether what it holds can be read now.
    pub(super) fn is_read(&self, tier: Tier) -> bool {
        !self.outages.reads.has(tier)
    }
}
