//! The books: which copies may go, and what follows when one does.

use crate::domain::block::Key;
use crate::domain::directory::{Block, BlockIndex, Directory, Writer};
use crate::domain::residency::{CopyEvent, CopyState};
use crate::domain::retention::Standing;
use crate::domain::slots::{SlotKind, SlotPage};
use crate::domain::tier::Tier;
use crate::tiers::store::Place;

use super::Manager;
use super::api::{Effect, NamespaceId};
use super::heed::Learned;
use super::ranks::{Candidate, Group};
use super::state::NamespaceEntry;

/// Whether the copy may go now. `sink` is the tier that would take the block's last copy.
pub(super) fn may_go(block: &Block, tier: Tier, sink: Option<Tier>) -> bool {
    let copy = block.copy(tier);
    let leaf = copy.children == 0;
    let idle = copy.state == CopyState::Resident && copy.busy == 0;
    let held = block.leases > 0 || block.doomed || block.is_lifted(tier);
    // A copy that drains or fills elsewhere may yet fail to land: until then this one is not spare,
    // and moving it down as well would pass the other on the way.
    let alone = !block.drains() && !block.fills() && (sink.is_some() || !block.has_children());
    leaf && idle && !held && (block.resident_elsewhere(tier) || alone)
}

/// The tier that takes the block when its copy in `tier` goes: the nearest below that works, where
/// nothing of it is yet, and no lower than its floor. What is dead is not worth writing down. What
/// lies below already needs its parents, whatever their floor.
pub(super) fn sink_of(block: &Block, tier: Tier, takers: [bool; Tier::COUNT]) -> Option<Tier> {
    let needed = block.has_children();
    if block.dead && !block.shielded && !needed {
        return None;
    }
    tier.below()
        .iter()
        .copied()
        .take_while(|below| needed || *below <= block.floor)
        .find(|below| takers[below.index()] && block.copy(*below).state == CopyState::Absent)
}

/// In which group a copy that may go stands.
///
/// `learned`: what is known of reuse, if anything learns it; `sink`: the tier that would take the
/// block's last copy.
pub(super) fn candidate_of(
    block: &Block,
    (tier, sink): (Tier, Option<Tier>),
    learned: &Learned,
) -> Candidate {
    let cold = block.cold_above.is_some_and(|below| tier < below);
    let group = if block.shielded && !block.copy(tier).waived {
        Group::Shielded { until: block.record.shield_until }
    } else if block.dead || cold {
        Group::Dead
    } else {
        Group::Ordinary
    };
    let standing = Standing {
        tick: block.copy(tier).tick,
        key_bits: block.key.low_bits(),
        priority: block.record.priority,
        claim: learned.claim(block.tip),
        cost: if learned.is_on() { cost_of(block, tier, sink) } else { 0 },
    };
    Candidate { group, standing, namespace: block.namespace }
}

/// What losing the copy costs, in eighths of an octave: one that is above as well costs nothing while
/// that stays, but on NVMe it will have to be written again, one that is below already costs the way
/// back, one that can still go below must be written there first, and the last one costs the model's
/// work.
fn cost_of(block: &Block, tier: Tier, sink: Option<Tier>) -> i16 {
    const SPARE: i16 = -64;
    const WRITTEN: i16 = 4;
    const RECOMPUTED: i16 = 16;
    if block.resident_above(tier) {
        if tier == Tier::Nvme { WRITTEN } else { SPARE }
    } else if block.resident_elsewhere(tier) {
        0
    } else if sink.is_some() {
        WRITTEN
    } else {
        RECOMPUTED
    }
}

/// How a listed copy stands now; nothing if it may not go, and then it is listed no more.
pub(super) fn judge(
    directory: &mut Directory,
    namespaces: &[NamespaceEntry],
    index: BlockIndex,
    (tier, kind, takers): (Tier, SlotKind, [bool; Tier::COUNT]),
    learned: &Learned,
) -> Option<Candidate> {
    let block = directory.get(index);
    if namespaces[block.namespace as usize].slot_kind(tier) != kind {
        // What was listed is gone, and its row serves a block of another kind.
        return None;
    }
    let sink = sink_of(block, tier, takers);
    if !may_go(block, tier, sink) {
        directory.get_mut(index).copy_mut(tier).listed = false;
        return None;
    }
    Some(candidate_of(block, (tier, sink), learned))
}

impl Manager {
    pub(super) fn taker_flags(&self) -> [bool; Tier::COUNT] {
        Tier::ALL.map(|tier| self.takes(tier))
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
        let sink = sink_of(block, tier, takers);
        if !may_go(block, tier, sink) {
            return;
        }
        let candidate = candidate_of(block, (tier, sink), &self.learned);
        self.directory.get_mut(index).copy_mut(tier).listed = true;
        let class = self.class_of(index, tier);
        self.space(tier).classes[class].ranks.list(index, candidate);
    }

    /// The block's place in the order of going changed: its listed copies are listed anew.
    pub(super) fn rank_changed(&mut self, index: BlockIndex) {
        for tier in Tier::ALL {
            let block = self.directory.get(index);
            if block.copy(tier).listed {
                let sink = sink_of(block, tier, self.taker_flags());
                let candidate = candidate_of(block, (tier, sink), &self.learned);
                let class = self.class_of(index, tier);
                self.space(tier).classes[class].ranks.list(index, candidate);
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
        let takers = self.taker_flags();
        let space = self.tiers[tier.index()].as_ref().expect("the caller settles a tier");
        let kind = space.classes[class].kind;
        let whose = (tier, kind, takers);
        judge(&mut self.directory, &self.namespaces, index, whose, &self.learned)
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
        self.leave(index, tier, event, false);
    }

    fn leave(&mut self, index: BlockIndex, tier: Tier, event: CopyEvent, is_bad: bool) {
        self.inherit_use(index);
        if self.directory.get(index).is_lifted(tier) {
            self.lift_lost(index, tier);
        }
        let block = self.directory.get(index);
        let copy = block.copy(tier);
        let (page, key) = (copy.page, block.key);
        let dropped = event == CopyEvent::Dropped;
        // A slot that is given on is written over; one that a doomed block leaves might lie there
        // until a restart finds it.
        let wiped = tier == Tier::Nvme && dropped && block.doomed;
        // What another node wrote is its own; but promises are kept, and what is bad serves nobody
        // and would keep a whole one out.
        let only_own = !block.forgotten && !is_bad;
        let erased =
            tier == Tier::Object && dropped && !(copy.writer != Writer::ThisNode && only_own);
        if wiped {
            let place = self.place_of(index, tier);
            self.directory.apply(index, tier, event);
            self.erase_slot(tier, (key, place));
        } else {
            self.directory.apply(index, tier, event);
            if let Some(page) = page {
                self.space(tier).slots.free(page);
                self.unsettle(tier);
            }
        }
        if erased {
            self.erasing.insert(key);
            self.out.push(Effect::Erase { tier, place: None, key, only_own });
        }
        if let Some(parent) = self.directory.get(index).parent() {
            self.reconsider(parent, tier);
        }
        self.durable_changed(index, tier, event);
    }

    /// Makes the frame in a taken slot unreadable; the slot comes free when that is done.
    pub(super) fn erase_slot(&mut self, tier: Tier, (key, place): (Key, Place)) {
        let page = SlotPage::at(place.offset).expect("a slot starts on a page");
        self.erasing_slots.insert((tier, page));
        self.out.push(Effect::Erase { tier, place: Some(place), key, only_own: false });
    }

    /// Whether slots of this tier come free soon.
    pub(super) fn is_erasing_slots(&self, tier: Tier) -> bool {
        let first = SlotPage::at(0).expect("a tier starts on a page");
        self.erasing_slots.range((tier, first)..).next().is_some_and(|(at, _)| *at == tier)
    }

    /// An erased object may be written again, and so may the slot of an erased frame.
    pub(super) fn erased(&mut self, tier: Tier, place: Option<Place>, key: Key) {
        let Some(place) = place else {
            self.erasing.remove(&key);
            return;
        };
        if let Some(page) = SlotPage::at(place.offset)
            && self.erasing_slots.remove(&(tier, page))
        {
            self.space(tier).slots.free(page);
            self.unsettle(tier);
        }
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
        self.soften(index, tier);
        self.leave(index, tier, CopyEvent::Dropped, true);
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
