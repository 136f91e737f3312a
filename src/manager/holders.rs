//! Which block has which slot: asked when a chunk is to be emptied.
//!
//! Hears of slots that are taken and not of those that come free: whoever asks compares with the
//! directory.

use crate::domain::directory::BlockIndex;
use crate::domain::tier::Tier;

use super::Manager;

/// The last block that took each slot, chunk by chunk.
#[derive(Default)]
pub(super) struct Holders {
    chunks: Vec<Vec<Option<BlockIndex>>>,
}

impl Holders {
    fn note(&mut self, (chunk, slot): (u32, u16), block: BlockIndex) {
        let (chunk, slot) = (chunk as usize, usize::from(slot));
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, Vec::new);
        }
        let slots = &mut self.chunks[chunk];
        if slots.len() <= slot {
            slots.resize(slot + 1, None);
        }
        slots[slot] = Some(block);
    }

    /// Who took the slot last.
    pub(super) fn last(&self, (chunk, slot): (u32, u16)) -> Option<BlockIndex> {
        *self.chunks.get(chunk as usize)?.get(usize::from(slot))?
    }

    /// Those of one chunk by slot; some have left since.
    fn of(&self, chunk: u32) -> impl Iterator<Item = (u16, BlockIndex)> + '_ {
        let slots = self.chunks.get(chunk as usize).into_iter().flatten();
        (0..).zip(slots).filter_map(|(slot, block)| Some((slot, (*block)?)))
    }
}

impl Manager {
    /// The block's copy in `tier` was given its slot.
    pub(super) fn note_holder(&mut self, block: BlockIndex, tier: Tier) {
        let page = self.directory.get(block).copy(tier).page;
        let space = self.space(tier);
        let at = page.and_then(|page| space.slots.slot_at(page));
        space.holders.note(at.expect("a slot that was given out is in a chunk"), block);
    }

    /// The blocks whose copies lie in the chunk, by slot. A slot that is being erased is nobody's.
    pub(super) fn occupants(&self, tier: Tier, chunk: u32) -> Vec<BlockIndex> {
        let Some(space) = &self.tiers[tier.index()] else { return Vec::new() };
        let is_there = |slot: u16, block: BlockIndex| {
            let page = self.directory.get(block).copy(tier).page;
            page.and_then(|page| space.slots.slot_at(page)) == Some((chunk, slot))
        };
        let known = space.holders.of(chunk).filter(|(slot, block)| is_there(*slot, *block));
        known.map(|(_, block)| block).collect()
    }
}
