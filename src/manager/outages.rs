//! Tiers that are out for now: what they hold is not promised while nobody can read it, and it is not
//! lost either. It is found again when they are back.
//!
//! Only remembers what the shell was told of the stores. Never drops a copy for an outage.

use crate::domain::directory::Block;
use crate::domain::residency::CopyState;
use crate::domain::tier::{Tier, TierSet};
use crate::tiers::health::Refuses;

use super::Manager;

/// What can't be done now.
pub(super) struct Outages {
    reads: TierSet,
    writes: TierSet,
}

impl Default for Outages {
    fn default() -> Self {
        Self { reads: TierSet::EMPTY, writes: TierSet::EMPTY }
    }
}

impl Outages {
    fn note(&mut self, tier: Tier, refuses: Refuses) {
        let noted = |set: TierSet, out| if out { set.with(tier) } else { set.without(tier) };
        self.reads = noted(self.reads, refuses.reads);
        self.writes = noted(self.writes, refuses.writes);
    }
}

impl Manager {
    /// A tier went out, or came back.
    pub(super) fn outage(&mut self, tier: Tier, refuses: Refuses) {
        self.outages.note(tier, refuses);
        // Where copies may sink has changed, and so which of them may go.
        let rows: Vec<_> = self.directory.iter().map(|(row, _)| row).collect();
        for row in rows {
            self.reconsider_all(row);
        }
        self.lifts.stirred = true;
    }

    /// The fastest tier that the block can be read from now.
    pub(super) fn serving(&self, block: &Block) -> Option<Tier> {
        block.served_from().iter().find(|tier| !self.outages.reads.has(*tier))
    }

    /// Whether the tier takes copies now.
    pub(super) fn takes(&self, tier: Tier) -> bool {
        let ready = self.tiers[tier.index()].as_ref().is_some_and(|space| space.ready);
        ready && !self.outages.writes.has(tier)
    }

    /// Whether a committed copy in another tier than `tier` can be read now.
    pub(super) fn is_read_elsewhere(&self, block: &Block, tier: Tier) -> bool {
        let committed = |tier: &Tier| block.copy(*tier).state == CopyState::Resident;
        let others = Tier::ALL.into_iter().filter(|other| *other != tier);
        others.filter(committed).any(|other| self.is_read(other))
    }

    /// Whether what it holds can be read now.
    pub(super) fn is_read(&self, tier: Tier) -> bool {
        !self.outages.reads.has(tier)
    }
}
