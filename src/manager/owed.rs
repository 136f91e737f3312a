//! What is to be erased: objects under way, and what is owed where a store did not do it.
//!
//! A slot whose frame is still readable serves nobody until it is not: the next scan would take the frame
//! in. It has a bounded number erased again at a time, hardly any while the store takes no writes. Of objects
//! it keeps a bounded number in line. What was promised and finds the line full is erased by whoever finds it
//! in the store. What only makes room is not begun while too much is to be erased: the tier would hold more
//! than it says.

use std::collections::{BTreeSet, VecDeque};

use crate::domain::block::Key;
use crate::domain::directory::BlockIndex;
use crate::domain::slots::SlotPage;
use crate::domain::tier::Tier;
use crate::domain::units::{CHUNK_BYTES, Time};
use crate::tiers::store::{Erasure, Place};

use super::Manager;
use super::api::Effect;

/// What is to be erased again.
#[derive(Default)]
pub(super) struct Owed {
    /// From when on each may be tried again, the first one first.
    line: VecDeque<(Time, Key)>,
    under_way: BTreeSet<Key>,
    /// Promised to go while they were erased for room, which leaves those of other nodes.
    again: BTreeSet<Key>,
    /// Slots of NVMe, and whose frames they hold; those that may be tried again first come first.
    slots: VecDeque<(Time, Key, Place)>,
    /// All slots of NVMe whose erase failed and has not been done since, those under way as well.
    stuck: BTreeSet<SlotPage>,
    /// While the tier takes no writes: when the next of them is tried.
    next_try: Time,
}

impl Owed {
    /// Taken by frames that are to be erased again.
    pub fn pages(&self) -> impl Iterator<Item = SlotPage> {
        self.slots.iter().filter_map(|(.., place)| SlotPage::at(place.offset))
    }

    fn slots_under_way(&self) -> usize {
        self.stuck.len() - self.slots.len()
    }

    /// Whether a slot in the chunk of NVMe is to be erased again: nobody knows when it comes free.
    pub fn is_stuck_in(&self, chunk: u32) -> bool {
        let first = SlotPage::at(u64::from(chunk) * CHUNK_BYTES).expect("a chunk starts on a page");
        self.stuck.range(first..).next().is_some_and(|page| page.chunk() == chunk)
    }
}

impl Manager {
    /// Has an object erased. Until it is gone nobody here writes it or finds it.
    pub(super) fn erase_object(&mut self, key: Key, why: Erasure) {
        self.erasing.insert(key, why);
        self.strays.remove(key);
        self.went.note(key, why == Erasure::Promised, self.now);
        self.out.push(Effect::Erase { tier: Tier::Object, place: None, key, why });
    }

    /// What is promised to be forgotten goes from the shared store too, whether this daemon has ever seen it
    /// there or not.
    pub(super) fn erase_unseen(&mut self, key: Key) {
        if self.tiers[Tier::Object.index()].is_none() {
            return;
        }
        match self.erasing.get_mut(&key) {
            None => self.erase_object(key, Erasure::Promised),
            Some(Erasure::Promised) => {}
            Some(why) => {
                *why = Erasure::Promised;
                self.owed.again.insert(key);
            }
        }
    }

    /// The store did not take the block's object, or was not heard to take it: perhaps it is there, and
    /// nobody would count or forget it. It goes when the store has had time to come back: until then nobody
    /// can say whether it is another node's.
    pub(super) fn owe_unsure(&mut self, block: BlockIndex) {
        let (key, limits) = (self.directory.get(block).key, self.config.rewrites);
        if self.erasing.contains_key(&key) {
            return;
        }
        if self.directory.get(block).forgotten {
            self.erase_object(key, Erasure::Promised);
        } else if self.owed.line.len() < limits.owed_max / 2 {
            // Fewer than would keep room from being made.
            self.erasing.insert(key, Erasure::ForRoom);
            self.strays.remove(key);
            self.owed.line.push_back((self.now + limits.retry_delay, key));
        }
    }

    /// Whether so much is to be erased that nothing goes for the sake of room.
    pub(super) fn owes_room(&self, tier: Tier) -> bool {
        let limits = self.config.rewrites;
        let owed = self.owed.line.len() + self.owed.under_way.len();
        tier == Tier::Object && (owed >= limits.owed_max || self.erasing.len() >= limits.queued_max)
    }

    /// The end of that. What could not be done is done later.
    pub(super) fn object_erased(&mut self, key: Key, done: bool) {
        self.owed.under_way.remove(&key);
        let promised = self.erasing.get(&key) == Some(&Erasure::Promised);
        self.went.note(key, promised, self.now);
        let limits = self.config.rewrites;
        if self.owed.again.remove(&key) {
            self.owed.line.push_back((self.now, key));
        } else if !done && self.owed.line.len() < limits.queued_max {
            self.owed.line.push_back((self.now + limits.retry_delay, key));
        } else {
            self.erasing.remove(&key);
        }
    }

    /// The frame in the slot could not be made unreadable, which has to be done before anybody gets it.
    /// Whoever waited for that looks elsewhere.
    pub(super) fn owe_slot(&mut self, (key, place): (Key, Place), page: SlotPage) {
        self.owed.slots.push_back((self.now + self.config.rewrites.retry_delay, key, place));
        self.owed.stuck.insert(page);
        let slots = &mut self.space(Tier::Nvme).slots;
        if slots.emptying().is_some_and(|(chunk, _)| chunk == page.chunk()) {
            slots.stop_emptying();
        }
        self.unsettle(Tier::Nvme);
    }

    /// The slot's frame is unreadable.
    pub(super) fn slot_erased(&mut self, page: SlotPage) {
        self.owed.stuck.remove(&page);
    }

    /// Tries those again whose time has come.
    pub(super) fn erase_owed(&mut self) {
        let (now, slots_max) = (self.now, self.slots_erased_max());
        while self.owed.slots_under_way() < slots_max
            && let Some((_, key, place)) = self.owed.slots.pop_front_if(|(due, ..)| *due <= now)
        {
            self.owed.next_try = now + self.config.rewrites.retry_delay;
            self.erase_slot(Tier::Nvme, (key, place));
        }
        if !self.takes(Tier::Object) {
            return;
        }
        while self.owed.under_way.len() < self.config.rewrites.under_way_max
            && let Some((_, key)) = self.owed.line.pop_front_if(|(due, _)| *due <= self.now)
        {
            self.owed.under_way.insert(key);
            self.erase_object(key, self.erasing[&key]);
        }
    }

    /// So many slots may be under way again. While the tier takes no writes and can be read it is one now and
    /// then: by that its store finds out whether it takes some again.
    fn slots_erased_max(&self) -> usize {
        let is_here = self.tiers[Tier::Nvme.index()].as_ref().is_some_and(|space| space.ready);
        if self.takes(Tier::Nvme) {
            self.config.rewrites.under_way_max
        } else {
            let is_due = is_here && self.is_read(Tier::Nvme) && self.now >= self.owed.next_try;
            usize::from(is_due)
        }
    }

    /// None waits any longer: the tier's store takes writes again, or the daemon stops.
    pub(super) fn hurry_owed(&mut self, tier: Tier) {
        let Owed { line, slots, next_try, .. } = &mut self.owed;
        match tier {
            Tier::Object => line.iter_mut().for_each(|(due, _)| *due = self.now),
            _ => {
                for (due, ..) in slots.iter_mut() {
                    *due = self.now;
                }
                *next_try = self.now;
            }
        }
    }

    /// # Errors
    /// What is to be erased again is not kept from being written, or is not known to be in the way.
    pub(super) fn check_owed(&self) -> Result<(), String> {
        let owed = self.owed.line.iter().map(|(_, key)| key).chain(&self.owed.under_way);
        for key in owed {
            if !self.erasing.contains_key(key) {
                return Err(format!("{key} is to be erased, and may be written meanwhile"));
            }
        }
        let waiting: BTreeSet<SlotPage> = self.owed.pages().collect();
        let is_known = |page: &SlotPage| {
            waiting.contains(page) || self.erasing_slots.contains(&(Tier::Nvme, *page))
        };
        if !waiting.is_subset(&self.owed.stuck) || !self.owed.stuck.iter().all(is_known) {
            return Err("slots that are to be erased again are not those that count as such".into());
        }
        Ok(())
    }
}
