//! How many blocks each namespace has, and how many of them are shielded: kept as they change, so
//! that budgets are checked without looking at blocks.

use super::{BlockIndex, Directory};
use crate::domain::tier::Tier;

/// One namespace's numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Census {
    pub(super) blocks: u64,
    pub(super) shielded_blocks: u64,
    /// Shielded copies a tier that are here to stay and whose shield counts there.
    pub(super) shielded_copies: [u64; Tier::COUNT],
}

impl Directory {
    pub(super) fn census_mut(&mut self, namespace: u32) -> &mut Census {
        let namespace = namespace as usize;
        if self.census.len() <= namespace {
            self.census.resize(namespace + 1, Census::default());
        }
        &mut self.census[namespace]
    }

    /// Sets whether the block's shield holds; in every tier where it was waived it counts again.
    pub fn set_shielded(&mut self, index: BlockIndex, shielded: bool) {
        let block = self.get(index);
        if block.shielded == shielded {
            return;
        }
        let namespace = block.namespace as usize;
        let Census { shielded_blocks, shielded_copies, .. } = &mut self.census[namespace];
        *shielded_blocks = if shielded { *shielded_blocks + 1 } else { *shielded_blocks - 1 };
        let block = &mut self.rows[index.0 as usize];
        for tier in Tier::ALL {
            let copy = block.copy_mut(tier);
            if copy.state.stays() && !copy.waived {
                let copies = &mut shielded_copies[tier.index()];
                *copies = if shielded { *copies + 1 } else { *copies - 1 };
            }
            copy.waived = false;
        }
        block.shielded = shielded;
    }

    /// The copy's shield counts no longer in this tier.
    pub fn waive_shield(&mut self, index: BlockIndex, tier: Tier) {
        let block = self.get_mut(index);
        let (shielded, namespace) = (block.shielded, block.namespace as usize);
        let copy = block.copy_mut(tier);
        if !shielded || copy.waived {
            return;
        }
        copy.waived = true;
        if copy.state.stays() {
            self.census[namespace].shielded_copies[tier.index()] -= 1;
        }
    }

    /// The block's shield counts in every tier again, also where it was waived. Whether it was anywhere.
    pub fn restore_shield(&mut self, index: BlockIndex) -> bool {
        let block = &mut self.rows[index.0 as usize];
        let (shielded, namespace) = (block.shielded, block.namespace as usize);
        let mut restored = false;
        for tier in Tier::ALL {
            let copy = block.copy_mut(tier);
            if std::mem::take(&mut copy.waived) {
                let counts = shielded && copy.state.stays();
                self.census[namespace].shielded_copies[tier.index()] += u64::from(counts);
                restored = true;
            }
        }
        restored
    }

    /// Whether any block is shielded.
    #[must_use]
    pub fn has_shields(&self) -> bool {
        self.census.iter().any(|census| census.shielded_blocks > 0)
    }

    #[must_use]
    pub fn shielded_blocks(&self, namespace: u32) -> u64 {
        self.census.get(namespace as usize).map_or(0, |census| census.shielded_blocks)
    }

    /// Blocks of the namespace, whatever their state.
    #[must_use]
    pub fn blocks_of(&self, namespace: u32) -> u64 {
        self.census.get(namespace as usize).map_or(0, |census| census.blocks)
    }

    /// Copies in `tier` that are here to stay and whose shield counts.
    #[must_use]
    pub fn shielded_copies(&self, namespace: u32, tier: Tier) -> u64 {
        let census = self.census.get(namespace as usize);
        census.map_or(0, |census| census.shielded_copies[tier.index()])
    }
}
