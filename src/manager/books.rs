//! The books: which copies may go, and what follows when one does.

use crate::domain::directory::{Block, BlockIndex};
use crate::domain::residency::{CopyEvent, CopyState};
use crate::domain::tier::Tier;

use super::Manager;
use super::api::{Effect, NamespaceId};

/// Whether the copy may go now. `sink` is the tier that would take the block's last copy.
pub(super) fn may_go(block: &Block, tier: Tier, sink: Option<Tier>) -> bool {
    let copy = block.copy(tier);
    let leaf = copy.children == 0;
    let idle = copy.state == CopyState::Resident && copy.busy == 0;
    let held = block.leases > 0 || block.doomed;
    // A copy that drains elsewhere may yet fail to land: until then this one is not spare, and
    // moving it down as well would pass the other on the way.
    let alone = !block.drains() && (sink.is_some() || !block.has_children());
    leaf && idle && !held && (block.resident_elsewhere(tier) || alone)
}

/// The tier that takes the block when its copy in `tier` goes: the nearest below that works, where
/// nothing of it is yet, and no lower than its floor.
pub(super) fn sink_of(block: &Block, tier: Tier, takers: [bool; Tier::COUNT]) -> Option<Tier> {
    tier.below()
        .iter()
        .copied()
        .take_while(|below| *below <= block.record.floor)
        .find(|below| takers[below.index()] && block.copy(*below).state == CopyState::Absent)
}

impl Manager {
    pub(super) fn taker_flags(&self) -> [bool; Tier::COUNT] {
        self.tiers.each_ref().map(|tier| tier.as_ref().is_some_and(|space| space.ready))
    }

    /// The class of slots that hold this block in `tier`.
    pub(super) fn class_of(&mut self, block: BlockIndex, tier: Tier) -> usize {
        let namespace = NamespaceId(self.directory.get(block).namespace);
        let kind = self.namespace(namespace).slot_kind(tier);
        let policy = self.config.policy;
        self.space(tier).class_index(kind, policy)
    }

    pub(super) fn space(&mut self, tier: Tier) -> &mut super::state::TierSpace {
        self.tiers[tier.index()].as_mut().expect("copies are only in tiers that are present")
    }

    /// Lists the copy with its tier's policy if it may go and is not listed yet.
    pub(super) fn reconsider(&mut self, index: BlockIndex, tier: Tier) {
        let block = self.directory.get(index);
        let copy = block.copy(tier);
        // Most are no leaves: the rest of the question is asked of few.
        if copy.listed || copy.children > 0 || copy.state != CopyState::Resident {
            return;
        }
        let takers = self.taker_flags();
        if !may_go(block, tier, sink_of(block, tier, takers)) {
            return;
        }
        let tick = copy.tick;
        self.directory.get_mut(index).copy_mut(tier).listed = true;
        let class = self.class_of(index, tier);
        self.space(tier).classes[class].policy.list(index, tick);
    }

    pub(super) fn reconsider_all(&mut self, index: BlockIndex) {
        for tier in Tier::ALL {
            self.reconsider(index, tier);
        }
    }

    /// A transfer that read this copy ended.
    pub(super) fn unpin(&mut self, index: BlockIndex, tier: Tier) {
        let copy = self.directory.get_mut(index).copy_mut(tier);
        copy.busy -= 1;
        if copy.busy == 0 {
            self.reconsider(index, tier);
        }
    }

    pub(super) fn pin(&mut self, index: BlockIndex, tier: Tier) {
        self.directory.get_mut(index).copy_mut(tier).busy += 1;
    }

    /// The copy goes and its slot comes free. `event` is `Dropped`, or `FillFailed` for a copy
    /// that never landed.
    pub(super) fn release_copy(&mut self, index: BlockIndex, tier: Tier, event: CopyEvent) {
        let page = self.directory.get(index).copy(tier).page;
        self.directory.apply(index, tier, event);
        if let Some(page) = page {
            self.space(tier).slots.free(page);
            self.unsettle(tier);
        }
        if tier == Tier::Object && event == CopyEvent::Dropped {
            self.erase_object(index);
        }
        if let Some(parent) = self.directory.get(index).parent() {
            self.reconsider(parent, tier);
        }
    }

    fn erase_object(&mut self, index: BlockIndex) {
        let block = self.directory.get(index);
        let (key, namespace) = (block.key, NamespaceId(block.namespace));
        self.erasing.insert(key);
        self.out.push(Effect::Erase { tier: Tier::Object, place: None, key, namespace });
    }

    /// An erased object may be written again.
    pub(super) fn erased(
        &mut self,
        _tier: Tier,
        _place: Option<crate::tiers::store::Place>,
        key: crate::domain::block::Key,
    ) {
        self.erasing.remove(&key);
    }

    /// A committed copy turned out lost or wrong: it goes, and if it was the last, so does the
    /// chain behind it.
    pub(super) fn drop_bad_copy(&mut self, index: BlockIndex, tier: Tier) {
        let copy = self.directory.get(index).copy(tier);
        if !copy.state.is_readable() {
            return;
        }
        if copy.busy > 0 || copy.state == CopyState::Draining {
            // Others still read it; each will find out for itself, the last one comes back here.
            return;
        }
        self.counters.corrupt_copies += 1;
        self.release_copy(index, tier, CopyEvent::Dropped);
        self.let_go(index);
    }

    /// After a copy went: a block without any goes too, with all that hangs on it.
    pub(super) fn let_go(&mut self, index: BlockIndex) {
        let block = self.directory.get(index);
        if !block.is_absent() {
            return;
        }
        self.doom(index);
        self.sweep(index);
    }

    /// Nothing under `index` is served any more.
    fn doom(&mut self, index: BlockIndex) {
        let mut stack = vec![index];
        let mut order = Vec::new();
        while let Some(next) = stack.pop() {
            self.directory.get_mut(next).doomed = true;
            order.push(next);
            stack.extend(self.directory.children(next));
        }
        // Children first, so that each finds itself a leaf.
        for next in order.into_iter().skip(1).rev() {
            self.sweep_one(next);
        }
    }

    /// Removes a doomed block, and then its doomed ancestors, once nothing touches them.
    pub(super) fn sweep(&mut self, index: BlockIndex) {
        let mut next = Some(index);
        while let Some(index) = next {
            let parent = self.directory.get(index).parent();
            if !self.sweep_one(index) {
                return;
            }
            next = parent;
        }
    }

    /// Removes the block if it is doomed, quiet, unleased and a leaf.
    fn sweep_one(&mut self, index: BlockIndex) -> bool {
        let block = self.directory.get(index);
        if !block.doomed || !block.is_quiet() || block.has_children() || block.leases > 0 {
            return false;
        }
        for tier in Tier::ALL {
            if self.directory.get(index).copy(tier).state.is_readable() {
                self.release_copy(index, tier, CopyEvent::Dropped);
            }
        }
        self.remove_block(index);
        true
    }

    /// Takes a block without copies or children out of the directory.
    pub(super) fn remove_block(&mut self, index: BlockIndex) {
        let parent = self.directory.get(index).parent();
        self.directory.remove(index);
        if let Some(parent) = parent {
            self.reconsider_all(parent);
        }
    }
}
