//! Which blocks' records are to be written again where their copies outlive the daemon.

use super::{Block, BlockIndex, Directory};
use crate::domain::tier::Tier;

/// How the record in the header of a block's copy on NVMe or in an object stands against the block's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stamp {
    /// Nothing is to be written.
    #[default]
    Current,
    /// To be written, and in line for it.
    Queued,
    /// To be written before those, and in line for it.
    Urgent,
    /// To be written, but the line was full.
    Missed,
}

impl Stamp {
    #[must_use]
    pub fn is_current(self) -> bool {
        self == Self::Current
    }

    #[must_use]
    pub fn is_in_line(self) -> bool {
        matches!(self, Self::Queued | Self::Urgent)
    }
}

impl Block {
    /// How the record in the header of its copy in the tier stands; ends with the copy.
    #[must_use]
    pub fn stamp(&self, tier: Tier) -> Stamp {
        self.stamps[tier.index()]
    }

    pub fn set_stamp(&mut self, tier: Tier, stamp: Stamp) {
        self.stamps[tier.index()] = stamp;
    }
}

impl Directory {
    /// How many rows there are, with and without a block.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The block in the row of this number, if it holds one.
    #[must_use]
    pub fn at_row(&self, row: usize) -> Option<BlockIndex> {
        let index = u32::try_from(row).ok().map(BlockIndex)?;
        (row < self.rows.len() && self.is_here(index)).then_some(index)
    }
}
