//! What is known of one block's copy in one tier.
//!
//! Plain data: whoever changes it keeps the directory's books.

use crate::domain::residency::CopyState;
use crate::domain::slots::SlotPage;
use crate::domain::tier::Tier;

use super::Block;

/// One block's copy in one tier.
#[derive(Clone, Copy, Debug, Default)]
pub struct TierCopy {
    pub state: CopyState,
    /// Where the bytes are; a filling copy has none while it waits for room.
    pub page: Option<SlotPage>,
    /// When it was last used here. A leaf's tick speaks for its ancestors: see [`Directory::apply`].
    pub tick: u64,
    /// Transfers that read this copy.
    pub busy: u32,
    /// Children whose copy in this tier is filling or resident: not those on their way out.
    pub children: u32,
    /// Whether the tier's ranks have this copy on their lists.
    pub listed: bool,
    /// The block's shield does not count here: it was over a budget of this tier.
    pub waived: bool,
    pub writer: Writer,
}

impl Block {
    /// The lowest tier that a copy of it may sink to: its floor, or where a child lies that was there before
    /// the floor was asked for. Without its parent that one would be lost.
    #[must_use]
    pub fn lowest(&self) -> Tier {
        let mut below = self.floor.below().iter().rev();
        below.find(|tier| self.copy(**tier).children > 0).copied().unwrap_or(self.floor)
    }
}

/// Which node wrote a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writer {
    #[default]
    ThisNode,
    /// This node only reads it.
    Another,
    /// Nobody here has read its header: that it is there, and what its owners asked for, is not
    /// known for sure.
    Unknown,
}
