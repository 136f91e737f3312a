//! The frames that a scan of `NVMe` finds.

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::domain::units::CHUNK_BYTES;
use crate::tiers::store::Place;

use super::Machine;

impl Machine {
    /// Before the first frame of another length is written to a chunk, or erased in it, all that was in it
    /// is made unreadable.
    pub(super) fn cut(&mut self, tier: Tier, place: Place) {
        if tier != Tier::Nvme {
            return;
        }
        let start = place.offset / CHUNK_BYTES * CHUNK_BYTES;
        let chunk = self.places.range((tier, start)..(tier, start + CHUNK_BYTES));
        let others = chunk.filter(|(_, frame)| frame.slot_bytes != place.slot_bytes);
        for at in others.map(|(at, _)| *at).collect::<Vec<_>>() {
            self.places.remove(&at);
        }
    }

    /// Whose frames those are, once for each.
    pub(in crate::sim) fn readable_frames(&self) -> impl Iterator<Item = Key> + '_ {
        let placed = self.places.range((Tier::Nvme, 0)..=(Tier::Nvme, u64::MAX));
        placed.filter_map(|(_, frame)| frame.header).map(|header| header.meta.key)
    }
}
