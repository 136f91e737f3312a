//! What a loss of power leaves.

use crate::domain::tier::Tier;
use crate::tiers::store::{FoundFrame, Place};

use super::Machine;
use super::locks::{Address, Locks};

impl Machine {
    /// The power goes: memory is empty, every write to `NVMe` under way is whole, not there or perhaps
    /// torn, and what nobody had made durable may be gone, as `survives` says by a number. Gives what a
    /// scan of the tier finds.
    pub(in crate::sim) fn crash(
        &mut self,
        may_tear: bool,
        mut survives: impl FnMut() -> u32,
    ) -> Vec<FoundFrame> {
        self.places.retain(|(tier, _), _| *tier == Tier::Nvme);
        self.pools.clear();
        self.namespaces.clear();
        for (offset, slot_bytes) in self.locks.written_places(Tier::Nvme) {
            let place = (Tier::Nvme, offset);
            match (survives() % 3, self.places.get_mut(&place)) {
                (0, _) => {
                    self.places.remove(&place);
                }
                (1, Some(frame)) if may_tear => {
                    (frame.damaged, frame.slot_bytes) = (true, slot_bytes);
                }
                _ => {}
            }
        }
        self.places.retain(|_, frame| frame.kept || !survives().is_multiple_of(3));
        for frame in self.places.values_mut() {
            frame.kept = true;
            frame.damaged |= std::mem::take(&mut frame.torn);
        }
        for (address, record) in std::mem::take(&mut self.restamps) {
            let Address::Place(tier, offset) = address else { continue };
            // A record that is being written is the one before, or the new one.
            if let Some(header) =
                self.places.get_mut(&(tier, offset)).and_then(|frame| frame.header.as_mut())
                && survives().is_multiple_of(2)
            {
                header.meta.record = record;
            }
        }
        self.locks = Locks::default();
        let headers = self.places.iter().filter_map(|((_, offset), frame)| {
            let place = Place { offset: *offset, slot_bytes: frame.slot_bytes };
            frame.header.map(|header| FoundFrame { place, header })
        });
        headers.collect()
    }
}
