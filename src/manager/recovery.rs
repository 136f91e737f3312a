//! Recovery: blocks that a scan found from before a restart find their places in the directory.
//!
//! Frames are reported in no order, so a block waits here until its parent has come; what has none
//! when the scan is over would be behind a hole, and is let go.

use crate::domain::directory::NewBlock;
use crate::domain::residency::CopyEvent;
use crate::domain::slots::{SlotKind, SlotPage};
use crate::domain::tier::Tier;
use crate::tiers::store::FoundFrame;

use super::Manager;

impl Manager {
    pub(super) fn found(&mut self, tier: Tier, frame: FoundFrame) {
        if self.tiers[tier.index()].as_ref().is_none_or(|space| space.ready) {
            return;
        }
        let mut ready = vec![frame];
        while let Some(frame) = ready.pop() {
            let meta = frame.header.meta;
            let parent = meta.parent.map(|key| (key, self.directory.find(key)));
            if let Some((key, None)) = parent {
                self.recovery.orphans.entry(key).or_default().push(frame);
                continue;
            }
            if self.adopt(tier, &frame, parent.and_then(|(_, row)| row)) {
                ready.extend(self.recovery.orphans.remove(&meta.key).unwrap_or_default());
            }
        }
    }

    /// Enters one frame whose parent is known. False if it is not to be had: its space is taken,
    /// it is here already, or it contradicts its own chain.
    fn adopt(
        &mut self,
        tier: Tier,
        frame: &FoundFrame,
        parent: Option<crate::domain::directory::BlockIndex>,
    ) -> bool {
        let meta = frame.header.meta;
        let position = parent.map_or(0, |row| self.directory.get(row).position + 1);
        let Some(page) = SlotPage::at(frame.place.offset) else { return false };
        let doomed = parent.is_some_and(|row| self.directory.get(row).doomed);
        if doomed || position != meta.position || self.directory.find(meta.key).is_some() {
            return false;
        }
        let payload_bytes = frame.header.payload_bytes;
        let Some(namespace) = self.intern(frame.header.namespace, payload_bytes) else {
            return false;
        };
        let entry = self.namespace(namespace);
        if entry.payload_bytes != payload_bytes
            || entry.slot_bytes(tier) != frame.place.slot_bytes
            || !self.space(tier).slots.reserve(page, SlotKind::whole(frame.place.slot_bytes))
        {
            return false;
        }
        let row = self.directory.insert(NewBlock {
            key: meta.key,
            namespace: namespace.0,
            parent,
            created_at: meta.created_at,
            record: meta.record,
        });
        self.directory.apply(row, tier, CopyEvent::FillStarted);
        self.directory.apply(row, tier, CopyEvent::FillLanded);
        let copy = self.directory.get_mut(row).copy_mut(tier);
        copy.page = Some(page);
        copy.tick = meta.created_at.micros;
        true
    }

    pub(super) fn scan_done(&mut self, tier: Tier) {
        self.recovery.orphans.clear();
        let Some(space) = &mut self.tiers[tier.index()] else { return };
        space.ready = true;
        let rows: Vec<_> = self.directory.iter().map(|(row, _)| row).collect();
        for row in rows {
            self.reconsider_all(row);
        }
    }
}
