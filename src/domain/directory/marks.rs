//! What is marked of a block's copies, a bit a tier: lifted, and durable.

use crate::domain::tier::Tier;

use super::Block;

impl Block {
    /// Whether a lift made or keeps the copy in `tier` for a request that is still to come.
    #[must_use]
    pub const fn is_lifted(&self, tier: Tier) -> bool {
        self.marks & (1 << tier.index()) != 0
    }

    pub const fn set_lifted(&mut self, tier: Tier, lifted: bool) {
        self.mark(1 << tier.index(), lifted);
    }

    /// Whether a restart finds the copy in `tier`, even after a loss of power.
    #[must_use]
    pub const fn is_durable(&self, tier: Tier) -> bool {
        self.marks & (1 << (Tier::COUNT + tier.index())) != 0
    }

    pub const fn set_durable(&mut self, tier: Tier, durable: bool) {
        self.mark(1 << (Tier::COUNT + tier.index()), durable);
    }

    const fn mark(&mut self, bit: u8, marked: bool) {
        self.marks = if marked { self.marks | bit } else { self.marks & !bit };
    }
}
