//! Recovery: blocks that a scan found from before a restart, or that another node left in the shared
//! store, find their places in the directory, with what their owners asked for.
//!
//! A scan reports frames in no order, so a block waits here until its parent has come; what has none
//! when the scan is over would be behind a hole, and is let go. What was promised to be forgotten by
//! now is never taken in: it is erased, and so is all that hangs on it.
//!
//! Leaves no frame that it has let go: a later scan would take it in, whatever was promised since.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::domain::block::Key;
use crate::domain::directory::{BlockIndex, NewBlock, Owner, Writer};
use crate::domain::residency::{CopyEvent, CopyState};
use crate::domain::retention::RetentionRecord;
use crate::domain::slots::{SlotKind, SlotPage};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{Erasure, FoundFrame, Place};

use super::Manager;
use super::api::NamespaceId;
use super::rewrite::COLD;

/// What a scan has found and could not yet place.
#[derive(Default)]
pub(super) struct Recovery {
    /// Frames whose parents have not been found yet, by parent.
    orphans: BTreeMap<Key, Vec<(Tier, FoundFrame)>>,
    /// Blocks that are to be forgotten by now.
    due: BTreeSet<Key>,
    /// The last object found that is: the next one of its chain goes with it.
    due_object: Option<Key>,
    /// Frames that were not taken in, in slots that nobody has or has had since. They are made unreadable
    /// after the scan, and serve nobody meanwhile.
    let_go: VecDeque<(Key, Place)>,
}

/// Objects are looked for at any time, chain by chain from the root.
fn is_scanned(tier: Tier) -> bool {
    tier != Tier::Object
}

impl Manager {
    pub(super) fn found(&mut self, tier: Tier, frame: FoundFrame) {
        let Some(space) = &self.tiers[tier.index()] else { return };
        if is_scanned(tier) && space.ready {
            return;
        }
        // What waits for a block lies in the tier that is scanned, wherever the block was found.
        let mut ready = vec![(tier, frame)];
        while let Some((tier, frame)) = ready.pop() {
            let scanned = is_scanned(tier);
            let meta = frame.header.meta;
            if !scanned && let Some(row) = self.directory.find(meta.key) {
                self.header_read(row, &frame.header);
                continue;
            }
            let hangs_on_due = !scanned && self.hangs_on_due(meta.parent);
            let known_due = scanned && self.recovery.due.contains(&meta.key);
            if meta.record.is_due(self.now) || known_due || hangs_on_due {
                self.forget_found(tier, &frame);
                continue;
            }
            if !scanned && self.erasing.contains_key(&meta.key) {
                // It is still there, and is to go.
                continue;
            }
            if let Some(parent) = meta.parent
                && self.directory.find(parent).is_none()
            {
                if scanned {
                    self.recovery.orphans.entry(parent).or_default().push((tier, frame));
                }
                continue;
            }
            // One that a client has stored anew meanwhile is here all the same.
            if self.adopt(tier, &frame) || self.directory.find(meta.key).is_some() {
                ready.extend(self.recovery.orphans.remove(&meta.key).unwrap_or_default());
            } else if scanned {
                self.recovery.let_go.push_back((meta.key, frame.place));
            }
        }
    }

    /// Whether the next object of a chain goes with the one before it. That counts for the chain that is
    /// being looked up: by another time its block may have been stored anew.
    fn hangs_on_due(&mut self, parent: Option<Key>) -> bool {
        let due = self.recovery.due_object.take();
        due.is_some() && due == parent && parent.and_then(|at| self.directory.find(at)).is_none()
    }

    /// A frame that should not be there any more.
    fn forget_found(&mut self, tier: Tier, frame: &FoundFrame) {
        let key = frame.header.meta.key;
        if tier == Tier::Object {
            self.counters.forgotten_blocks += 1;
            self.recovery.due_object = Some(key);
            if !self.erasing.contains_key(&key) {
                self.erase_object(key, Erasure::Promised);
            }
            return;
        }
        // Another frame of it may have been found before this one.
        if self.recovery.due.insert(key) {
            let row = self.directory.find(key).filter(|row| !self.directory.get(*row).doomed);
            match row {
                Some(row) => self.forget(row),
                None => {
                    self.counters.forgotten_blocks += 1;
                    self.erase_unseen(key);
                }
            }
        }
        self.erase_found(tier, key, frame.place);
    }

    /// Erases a frame in a slot that nobody has.
    fn erase_found(&mut self, tier: Tier, key: Key, place: Place) {
        let Some(page) = SlotPage::at(place.offset) else { return };
        if self.space(tier).slots.take_back(page, SlotKind::whole(place.slot_bytes)) {
            self.erase_slot(tier, (key, place));
        }
    }

    /// Erases some of what scans have let go, a bounded number at a time: there may be as many as the tier
    /// has slots. Who was given such a slot meanwhile writes over it.
    pub(super) fn erase_let_go(&mut self) {
        if self.recovery.let_go.is_empty() || !self.takes(Tier::Nvme) {
            return;
        }
        let most = self.config.rewrites.under_way_max;
        for _ in 0..most {
            if self.erasing_slots.len() >= most {
                return;
            }
            let Some((key, place)) = self.recovery.let_go.pop_front() else { return };
            let chunk = SlotPage::at(place.offset).map(SlotPage::chunk);
            let emptying = self.space(Tier::Nvme).slots.emptying().map(|(chunk, _)| chunk);
            if emptying.is_some() && emptying == chunk {
                // Nobody is kept waiting for it. Where it is cut anew, nothing of this is left.
                self.recovery.let_go.push_back((key, place));
            } else {
                self.erase_found(Tier::Nvme, key, place);
            }
        }
    }

    /// Enters one frame whose parent is known. False if it is not to be had: its space is taken,
    /// it is here already, or it contradicts its own chain.
    pub(super) fn adopt(&mut self, tier: Tier, frame: &FoundFrame) -> bool {
        let meta = frame.header.meta;
        if let Some(row) = self.directory.find(meta.key) {
            self.found_again(tier, row, frame);
            return false;
        }
        let payload_bytes = frame.header.payload_bytes;
        let Some(namespace) = self.intern(frame.header.namespace, payload_bytes) else {
            return false;
        };
        if self.namespace(namespace).payload_bytes != payload_bytes {
            return false;
        }
        let Some(page) = self.slot_for_found(tier, namespace, frame) else { return false };
        if !self.chain_holds(frame, namespace) {
            self.space(tier).slots.free(page);
            self.unsettle(tier);
            return false;
        }
        let row = self.directory.insert(NewBlock {
            key: meta.key,
            tail: meta.tail,
            namespace: namespace.0,
            parent: meta.parent.and_then(|parent| self.directory.find(parent)),
            created_at: meta.created_at,
            record: meta.record.believed(self.now),
            owner: Owner::Nobody,
            tip: None,
        });
        self.directory.apply(row, tier, CopyEvent::FillStarted);
        self.directory.apply(row, tier, CopyEvent::FillLanded);
        self.lies_below(row, tier);
        let shared = tier == Tier::Object;
        let tick = if shared { self.tick } else { self.tick_of(&frame.header) };
        let copy = self.directory.get_mut(row).copy_mut(tier);
        (copy.page, copy.tick) = (Some(page), tick);
        let is_own = !shared || frame.header.node_id == self.config.node_id;
        copy.writer = if is_own { Writer::ThisNode } else { Writer::Another };
        self.note_holder(row, tier);
        self.record_changed(row, &meta.record);
        self.inherit(row);
        if shared {
            self.strays.remove(meta.key);
            self.reconsider(row, tier);
        }
        true
    }

    /// When a frame from before the start was used last, as far as is known. Not after what is used from
    /// now on, where the clock that it was written by was ahead of this one.
    fn tick_of(&self, header: &FrameHeader) -> u64 {
        header.meta.created_at.micros.min(self.tick)
    }

    /// Whether the block is what its header says: a root, or its parent's child.
    fn chain_holds(&self, frame: &FoundFrame, namespace: NamespaceId) -> bool {
        let meta = frame.header.meta;
        let Some(parent) = meta.parent else { return meta.position == 0 };
        let parent = self.directory.find(parent).map(|row| self.directory.get(row));
        parent.is_some_and(|parent| {
            !parent.doomed
                && parent.namespace == namespace.0
                && parent.position.checked_add(1) == Some(meta.position)
        })
    }

    /// The slot of a scanned frame is where it lies; an object takes up one of the tier's.
    fn slot_for_found(
        &mut self,
        tier: Tier,
        namespace: NamespaceId,
        frame: &FoundFrame,
    ) -> Option<SlotPage> {
        let place = frame.place;
        let kind = SlotKind::whole(self.namespace(namespace).slot_bytes(tier));
        if tier != Tier::Object {
            let page = SlotPage::at(place.offset).filter(|_| place.slot_bytes == kind.bytes)?;
            return self.space(tier).slots.reserve(page, kind).then_some(page);
        }
        let policy = self.config.policy;
        let class = self.space(tier).class_index(kind, policy);
        if self.space(tier).classes[class].waiting.is_empty() {
            if !self.space(tier).slots.has_room(kind) {
                self.make_room_behind(frame.header.meta.parent, tier, class);
            }
            return self.space(tier).slots.alloc(kind);
        }
        None
    }

    /// One copy makes room, and not the parent's: nobody has read what is only just found, so it would
    /// often be the first to go.
    fn make_room_behind(&mut self, parent: Option<Key>, tier: Tier, class: usize) {
        let parent = parent.and_then(|parent| self.directory.find(parent));
        let parent = parent.filter(|at| self.directory.get(*at).copy(tier).state.is_readable());
        if let Some(parent) = parent {
            self.pin(parent, tier);
        }
        self.evict_one(tier, class, None);
        if let Some(parent) = parent {
            self.unpin(parent, tier);
        }
    }

    /// A frame of a block that is here. The sooner promise to forget counts. Where a client stored the
    /// block anew before its frame was found, the frame becomes its copy: what hangs on it in this tier
    /// needs it at the next restart; and if nobody has asked for anything since, its record counts. A
    /// second frame goes, so that no later scan takes it for the block.
    fn found_again(&mut self, tier: Tier, row: BlockIndex, frame: &FoundFrame) {
        let meta = frame.header.meta;
        let joined = self.join_found(tier, row, frame);
        let before = self.directory.get(row).record;
        self.take_promise(row, &meta.record);
        self.record_changed(row, &before);
        if !joined {
            self.erase_found(tier, meta.key, frame.place);
        }
    }

    /// Makes the frame the copy in its tier of a block that has none there.
    fn join_found(&mut self, tier: Tier, row: BlockIndex, frame: &FoundFrame) -> bool {
        if !self.enter_copy(tier, row, frame) {
            return false;
        }
        let meta = frame.header.meta;
        if self.directory.get(row).record == RetentionRecord::default() {
            self.take_record((row, tier), &meta.record, meta.record.believed(self.now));
        } else {
            self.record_changed(row, &meta.record);
            self.rank_changed(row);
        }
        true
    }

    /// The same, but for what its record asks. False: it is not the block's, or finds no room.
    pub(super) fn enter_copy(&mut self, tier: Tier, row: BlockIndex, frame: &FoundFrame) -> bool {
        let meta = frame.header.meta;
        let block = self.directory.get(row);
        let namespace = NamespaceId(block.namespace);
        let is_same = frame.header.namespace == self.namespace(namespace).digest
            && block.position == meta.position
            && block.parent().map(|parent| self.directory.get(parent).key) == meta.parent;
        if block.doomed || block.copy(tier).state != CopyState::Absent || !is_same {
            return false;
        }
        let Some(page) = self.slot_for_found(tier, namespace, frame) else { return false };
        let tick = self.tick_of(&frame.header);
        self.directory.apply(row, tier, CopyEvent::FillStarted);
        self.directory.apply(row, tier, CopyEvent::FillLanded);
        self.lies_below(row, tier);
        let copy = self.directory.get_mut(row).copy_mut(tier);
        (copy.page, copy.tick) = (Some(page), tick);
        copy.writer = Writer::ThisNode;
        self.note_holder(row, tier);
        true
    }

    /// Takes in what waited for a parent that no scan found but a client has stored meanwhile.
    fn found_with_parents(&mut self) {
        let parents = self.recovery.orphans.keys().copied();
        let here: Vec<Key> = parents.filter(|key| self.directory.find(*key).is_some()).collect();
        for parent in here {
            for (tier, frame) in self.recovery.orphans.remove(&parent).unwrap_or_default() {
                self.found(tier, frame);
            }
        }
    }

    /// What the block's header in the tier says, which is what is `there`, counts for more than what is known:
    /// its record is the `new` one, which was made of that.
    pub(super) fn take_record(
        &mut self,
        at: (BlockIndex, Tier),
        there: &RetentionRecord,
        new: RetentionRecord,
    ) {
        let (row, _) = at;
        let before = std::mem::replace(&mut self.directory.get_mut(row).record, new);
        self.take_promise(row, there);
        self.header_heard(at, there, &before);
        self.spread_floor(row);
        self.inherit(row);
        self.rank_changed(row);
    }

    /// The block's header in the tier says what is `there`; one that it has in another cold tier says what
    /// the block's record was before.
    pub(super) fn header_heard(
        &mut self,
        (row, tier): (BlockIndex, Tier),
        there: &RetentionRecord,
        before: &RetentionRecord,
    ) {
        for cold in COLD {
            self.header_says(row, cold, if cold == tier { there } else { before });
        }
    }

    /// Of the block's promise to forget and its header's the sooner counts. One that a session made of its
    /// own is not for whoever stored the block anew to undo.
    pub(super) fn take_promise(&mut self, row: BlockIndex, there: &RetentionRecord) {
        let block = self.directory.get_mut(row);
        block.record = block.record.keeping_promise(there);
        if there.is_sessions_promise() && block.owner != Owner::Nobody {
            block.owner = Owner::Many;
        }
        self.watch(row);
    }

    /// What the header's record asks for counts again: shields for what is left of their time.
    pub(super) fn inherit(&mut self, row: BlockIndex) {
        let block = self.directory.get(row);
        if block.record.shield_until > self.now {
            if block.shielded || self.shield_fits(row, block.floor) {
                self.directory.set_shielded(row, true);
            } else {
                // Over a budget: clipped, as when it is asked for. The header keeps it for later.
                let record = &mut self.directory.get_mut(row).record;
                (record.shield_until, record.refresh_on_hit_ms) = (Time::ZERO, 0);
            }
        }
        self.watch(row);
    }

    pub(super) fn scan_done(&mut self, tier: Tier) {
        self.found_with_parents();
        let mut recovery = std::mem::take(&mut self.recovery);
        // What hangs on a forgotten block is forgotten with it.
        let mut due: Vec<Key> = recovery.due.into_iter().collect();
        while let Some(key) = due.pop() {
            for (tier, frame) in recovery.orphans.remove(&key).unwrap_or_default() {
                due.push(frame.header.meta.key);
                self.counters.forgotten_blocks += 1;
                self.erase_found(tier, frame.header.meta.key, frame.place);
            }
        }
        let orphans = recovery.orphans.into_values().flatten();
        recovery.let_go.extend(orphans.map(|(_, frame)| (frame.header.meta.key, frame.place)));
        // One chunk after the other: none is taken into use more than once for it.
        recovery.let_go.make_contiguous().sort_unstable_by_key(|(_, place)| place.offset);
        self.recovery.let_go = recovery.let_go;
        let Some(space) = &mut self.tiers[tier.index()] else { return };
        space.ready = true;
        let rows: Vec<_> = self.directory.iter().map(|(row, _)| row).collect();
        for row in rows {
            self.reconsider_all(row);
        }
    }
}
