//! The books: which copies are listed to go, and what follows when one goes.

use crate::domain::block::Key;
use crate::domain::directory::{BlockIndex, Writer};
use crate::domain::residency::{CopyEvent, CopyState};
use crate::domain::slots::{SlotKind, SlotPage};
use crate::domain::tier::Tier;
use crate::tiers::store::{Erasure, Place};

use super::Manager;
use super::api::{Effect, Lost, NamespaceId};
use super::going::{Judge, candidate_of, left_if_gone, left_without, waits_for_a_tier};
use super::ranks::Candidate;
use super::state::SizeClass;

impl Manager {
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
        let ways = self.ways();
        let Some(left) = left_if_gone(block, tier, ways) else {
            if waits_for_a_tier(block, tier, ways) {
                self.outages.keep((index, tier));
            }
            return;
        };
        let candidate = candidate_of(block, tier, (left, ways), &self.learned);
        self.directory.get_mut(index).copy_mut(tier).listed = true;
        self.outages.forget((index, tier));
        self.list(index, tier, candidate);
    }

    /// One more entry on the lists of its tier and class; of what piled up there, only what counts stays.
    fn list(&mut self, index: BlockIndex, tier: Tier, candidate: Candidate) {
        let class = self.class_of(index, tier);
        let Self { directory, namespaces, tiers, .. } = self;
        let space =
            tiers[tier.index()].as_mut().expect("copies are only in tiers that are present");
        let SizeClass { ranks, kind, .. } = &mut space.classes[class];
        if ranks.is_overgrown(space.slots.slots_used()) {
            // A block's first entry takes its mark, so that others find it without.
            let mut kept = Vec::new();
            ranks.tidy(|at| {
                let row = directory.get_mut(at);
                let same_kind = namespaces[row.namespace as usize].slot_kind(tier) == *kind;
                let is_first = same_kind && std::mem::take(&mut row.copy_mut(tier).listed);
                kept.extend(is_first.then_some(at));
                is_first
            });
            for at in kept {
                directory.get_mut(at).copy_mut(tier).listed = true;
            }
        }
        ranks.list(index, candidate);
    }

    /// The block's place in the order of going changed: its listed copies are listed anew.
    pub(super) fn rank_changed(&mut self, index: BlockIndex) {
        for tier in Tier::ALL {
            let block = self.directory.get(index);
            if block.copy(tier).listed {
                let ways = self.ways();
                let left = left_without(block, tier, ways);
                let candidate = candidate_of(block, tier, (left, ways), &self.learned);
                self.list(index, tier, candidate);
            }
            self.reconsider(index, tier);
        }
    }

    /// How a listed copy stands; nothing if it may not go, and then it is listed no more.
    pub(super) fn candidate(
        &mut self,
        index: BlockIndex,
        tier: Tier,
        class: usize,
    ) -> Option<Candidate> {
        let ways = self.ways();
        let space = self.tiers[tier.index()].as_ref().expect("the caller settles a tier");
        let kind = space.classes[class].kind;
        let Self { directory, namespaces, learned, outages, .. } = self;
        Judge { directory, namespaces, learned, outages, ways, tier, kind }.judge(index)
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
            if tier == Tier::Object {
                self.known.settle(index, self.directory.get(index));
            }
            self.reconsider(index, tier);
        }
    }

    pub(super) fn pin(&mut self, index: BlockIndex, tier: Tier) {
        self.directory.get_mut(index).copy_mut(tier).busy += 1;
    }

    /// The copy goes and its slot comes free. `event` is `Dropped`, or `FillFailed` for a copy
    /// that never landed.
    pub(super) fn release_copy(&mut self, index: BlockIndex, tier: Tier, event: CopyEvent) {
        self.leave(index, tier, event, None);
        self.reconsider_parent(index, tier);
    }

    /// Drops a block's last copy, and with it the block; its children are gone already.
    pub(super) fn drop_whole(&mut self, index: BlockIndex, tier: Tier) {
        self.leave(index, tier, CopyEvent::Dropped, None);
        self.remove_block(index);
    }

    fn reconsider_parent(&mut self, index: BlockIndex, tier: Tier) {
        if let Some(parent) = self.directory.get(index).parent() {
            self.reconsider(parent, tier);
        }
    }

    fn leave(&mut self, index: BlockIndex, tier: Tier, event: CopyEvent, lost: Option<Lost>) {
        self.inherit_use(index);
        if self.directory.get(index).is_lifted(tier) {
            self.lift_lost(index, tier);
        }
        self.outages.forget((index, tier));
        if tier == Tier::Object {
            self.unread.forget(index);
            self.known.forget(index);
        }
        let block = self.directory.get(index);
        let copy = block.copy(tier);
        let (page, key) = (copy.page, block.key);
        let dropped = event == CopyEvent::Dropped;
        // Nobody gets a slot with what would be taken for the block after a restart: a doomed one's frame,
        // or one that is not whole. One whose write failed holds a whole frame perhaps: the new one, or
        // that of whoever had the slot before.
        let is_left = if dropped { block.doomed || lost.is_some() } else { page.is_some() };
        let wiped = tier == Tier::Nvme && is_left;
        // What another node wrote is its own; but promises are kept, and what is corrupt serves nobody
        // and would keep a whole one out. Where nothing was, another node may have written since.
        let why = match lost {
            _ if block.forgotten => Some(Erasure::Promised),
            Some(Lost::Corrupt) => Some(Erasure::Unusable),
            Some(Lost::Missing) => None,
            None => (copy.writer == Writer::ThisNode).then_some(Erasure::ForRoom),
        };
        let why = why.filter(|_| tier == Tier::Object && dropped);
        if wiped {
            let place = self.place_of(index, tier);
            self.directory.apply(index, tier, event);
            self.erase_slot(tier, (key, place));
        } else {
            if tier == Tier::Nvme && dropped {
                self.vacated.push((key, self.place_of(index, tier)));
            }
            self.directory.apply(index, tier, event);
            if let Some(page) = page {
                self.space(tier).slots.free(page);
                self.unsettle(tier);
            }
        }
        if let Some(why) = why {
            self.erase_object(key, why);
        }
        self.durable_changed(index, tier, event);
    }

    /// Makes the frame in a taken slot unreadable; the slot comes free when that is done.
    pub(super) fn erase_slot(&mut self, tier: Tier, (key, place): (Key, Place)) {
        let page = SlotPage::at(place.offset).expect("a slot starts on a page");
        self.erasing_slots.insert((tier, page));
        self.out.push(Effect::Erase { tier, place: Some(place), key, why: Erasure::Unusable });
    }

    /// Erases the frames in slots that copies have left and nobody was given: with time they say less
    /// than the truth, and a restart would believe them. In a chunk that changed hands the first write or
    /// erase of whoever got it ends them all.
    pub(super) fn erase_vacated(&mut self) {
        while let Some((key, place)) = self.vacated.pop() {
            let page = SlotPage::at(place.offset).expect("a slot starts on a page");
            let kind = SlotKind::whole(place.slot_bytes);
            if self.space(Tier::Nvme).slots.take_back(page, kind) {
                self.erase_slot(Tier::Nvme, (key, place));
            }
        }
    }

    /// Whether slots of this tier come free soon.
    pub(super) fn is_erasing_slots(&self, tier: Tier) -> bool {
        let first = SlotPage::at(0).expect("a tier starts on a page");
        self.erasing_slots.range((tier, first)..).next().is_some_and(|(at, _)| *at == tier)
    }

    /// An erased object may be written again, and so may the slot of an erased frame.
    pub(super) fn erased(&mut self, tier: Tier, (key, place): (Key, Option<Place>), done: bool) {
        let Some(place) = place else {
            self.object_erased(key, done);
            return;
        };
        if let Some(page) = SlotPage::at(place.offset)
            && self.erasing_slots.remove(&(tier, page))
        {
            if !done {
                return self.owe_slot((key, place), page);
            }
            self.slot_erased(page);
            self.space(tier).slots.free(page);
            self.unsettle(tier);
        }
    }

    /// A committed copy turned out lost or wrong: it goes, and if it was the last, so does the
    /// chain behind it.
    pub(super) fn drop_lost_copy(&mut self, index: BlockIndex, tier: Tier, lost: Lost) {
        let copy = self.directory.get(index).copy(tier);
        if !copy.state.is_readable() {
            return;
        }
        if copy.busy > 0 || copy.state == CopyState::Draining {
            // Others still read it; each will find out for itself, the last one comes back here.
            return;
        }
        // An object is its writer's to erase; of all else this node has the only say.
        if (tier, lost) != (Tier::Object, Lost::Missing) {
            self.counters.corrupt_copies += 1;
        }
        self.soften(index, tier);
        self.leave(index, tier, CopyEvent::Dropped, Some(lost));
        self.reconsider_parent(index, tier);
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
    pub(super) fn doom(&mut self, index: BlockIndex) {
        let mut stack = vec![index];
        let mut order = Vec::new();
        while let Some(next) = stack.pop() {
            // So is all that hangs on it; whoever holds something of that sweeps it up at the end.
            if self.directory.get(next).doomed {
                continue;
            }
            self.directory.doom(next);
            self.give_up_durable(next);
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

    /// Drops the copies of a block that is doomed and quiet, and removes it if it is unleased and a
    /// leaf as well.
    fn sweep_one(&mut self, index: BlockIndex) -> bool {
        let block = self.directory.get(index);
        if !block.doomed || !block.is_quiet() {
            return false;
        }
        for tier in Tier::ALL {
            if self.directory.get(index).copy(tier).state.is_readable() {
                self.release_copy(index, tier, CopyEvent::Dropped);
            }
        }
        let block = self.directory.get(index);
        if block.has_children() || block.leases > 0 {
            return false;
        }
        self.remove_block(index);
        true
    }

    /// Takes a block without copies or children out of the directory.
    pub(super) fn remove_block(&mut self, index: BlockIndex) {
        let parent = self.directory.get(index).parent();
        self.tips_rise(index);
        self.give_up_durable(index);
        self.directory.remove(index);
        if let Some(parent) = parent {
            self.reconsider_all(parent);
        }
    }
}
