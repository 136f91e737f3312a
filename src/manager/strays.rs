//! Strays: objects that runs of this node before this one left in the shared store, and that nobody has asked
//! for since.
//!
//! They may take up what room the tier's blocks leave. When that is wanted they go first, and of them the one
//! that was kept for the shortest time. Whoever names a chain takes in those of it. What was promised to be forgotten
//! is looked at when it is due, whoever wrote it, and erased with all that hangs on it if the promise still stands.
//! None has a slot, and a row in the directory only if the block came anew.

mod books;
mod chains;

use std::collections::BTreeSet;

use crate::domain::block::Key;
use crate::domain::directory::{BlockIndex, Writer};
use crate::domain::residency::CopyState;
use crate::domain::retention::RetentionRecord;
use crate::domain::retention::directive::TTL_MAX;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{Erasure, FoundFrame};

use super::Manager;
use super::api::Effect;

pub(super) use books::Strays;

/// Strays that are known at most, of which a quarter may be other nodes': further ones are not looked for.
pub const STRAYS_MAX: usize = 1 << 20;

/// One of them, or an object of another node with a promise to forget.
#[derive(Clone, Copy, Debug)]
pub struct Stray {
    pub header: FrameHeader,
    /// When it was stored, or until when it is shielded; or something that hangs on it, if that is later.
    pub kept_until: Time,
}

/// What came of it to look at an object's header.
#[derive(Debug)]
pub enum Looked {
    Header(Box<FrameHeader>),
    /// There is none, or none that serves anybody.
    Gone,
    /// It could not be read now.
    Unknown,
}

impl Manager {
    /// One was found in the store.
    pub(super) fn stray_found(&mut self, mut stray: Stray) {
        let key = stray.header.meta.key;
        // What is forgotten is on its way, whoever looks a second time.
        let goes = self.erasing.contains_key(&key) || self.strays.is_forgotten(key);
        let is_gone = goes || self.went.has(key);
        if self.tiers[Tier::Object.index()].is_none() || is_gone {
            return;
        }
        // As of any record: what is shielded longer was written by a clock that was ahead.
        stray.kept_until = stray.kept_until.min(self.now + TTL_MAX);
        match self.directory.find(key) {
            Some(row) => self.join_stray(row, stray),
            None => self.keep_stray(stray),
        }
        let parent = stray.header.meta.parent.filter(|at| self.directory.find(*at).is_none());
        if parent.is_some_and(|at| self.went.was_promised(at) || self.strays.is_forgotten(at)) {
            self.strays.note_forgotten(key, self.now);
            self.forget_strays_below(key);
        }
    }

    fn keep_stray(&mut self, stray: Stray) {
        let is_own = stray.header.node_id == self.config.node_id;
        self.strays.insert(stray, is_own);
    }

    /// The object becomes a copy of the block that is here. It stays a stray where there is no room for that now.
    fn join_stray(&mut self, row: BlockIndex, stray: Stray) {
        let (header, there) = (stray.header, stray.header.meta.record);
        let block = self.directory.get(row);
        let state = block.copy(Tier::Object).state;
        if block.doomed {
            self.keep_stray(stray);
        } else if state != CopyState::Absent {
            self.header_read(row, &header);
            self.rank_changed(row);
        } else if there.is_due(block.created_at) {
            // Another life of the block, which was over before it was stored anew.
            self.erase_object(header.meta.key, Erasure::Promised);
        } else if there.is_due(self.now) {
            self.forget(row);
        } else if self.enter_copy(Tier::Object, row, &FoundFrame::object(header)) {
            self.joined_stray(row, &header);
        } else {
            self.keep_stray(stray);
        }
    }

    fn joined_stray(&mut self, row: BlockIndex, header: &FrameHeader) {
        let is_own = header.node_id == self.config.node_id;
        let block = self.directory.get_mut(row);
        let (here, there) = (block.record, header.meta.record);
        block.copy_mut(Tier::Object).writer =
            if is_own { Writer::ThisNode } else { Writer::Another };
        if here == RetentionRecord::default() {
            self.take_record((row, Tier::Object), &there, there.believed(self.now));
        } else {
            self.take_promise(row, &there);
            self.header_heard((row, Tier::Object), &there, &here);
            self.rank_changed(row);
        }
    }

    /// The object is the block's copy from now on.
    pub(super) fn is_no_stray(&mut self, row: BlockIndex) {
        let key = self.directory.get(row).key;
        self.strays.remove(key);
        self.went.is_back(key);
    }

    /// The header of what this node left of the block, unless it is to be forgotten by now.
    pub(super) fn stray_of(&self, key: Key) -> Option<FrameHeader> {
        self.strays.own_header(key).filter(|header| !header.meta.record.is_due(self.now))
    }

    /// A chain is named from its root: what this node left of it counts as found in the store. Its first
    /// `known` blocks are here. Whether there was any.
    pub(super) fn take_in_strays(&mut self, keys: &[Key], known: usize) -> bool {
        let mut taken_in = 0;
        if self.strays.len() == 0 {
            return false;
        }
        for key in &keys[known..] {
            if self.directory.find(*key).is_none() {
                let Some(header) = self.stray_of(*key) else { break };
                if !self.adopt(Tier::Object, &FoundFrame::object(header)) {
                    break;
                }
                taken_in += 1;
            }
        }
        taken_in > 0
    }

    /// The same for blocks that are named by themselves, each with what it hangs on: one whose chain is not
    /// whole stays where it is.
    pub(super) fn take_in_named(&mut self, keys: &[Key]) {
        if self.strays.len() == 0 {
            return;
        }
        // Of those above it not all are here: nor are they for what hangs on it.
        let mut broken = BTreeSet::new();
        for key in keys {
            let mut path = Vec::new();
            let mut next = Some(*key);
            while let Some(at) = next.filter(|at| self.directory.find(*at).is_none()) {
                let header = self.stray_of(at).filter(|_| !broken.contains(&at));
                let Some(header) = header else {
                    broken.extend(path.drain(..).map(|header: FrameHeader| header.meta.key));
                    break;
                };
                path.push(header);
                next = header.meta.parent;
            }
            while let Some(header) = path.pop() {
                if !self.adopt(Tier::Object, &FoundFrame::object(header)) {
                    broken.extend(path.drain(..).map(|header| header.meta.key));
                }
            }
        }
    }

    /// Sees to those that are due, a bounded number at a time and none while the store takes nothing: they
    /// stay known. What their headers say may have been put off by another node.
    pub(super) fn expire_strays(&mut self) {
        if !self.strays.is_due(self.now) || !self.takes(Tier::Object) {
            return;
        }
        while self.strays.asked() < self.config.rewrites.under_way_max
            && !self.owes_room(Tier::Object)
            && let Some((key, is_forgotten)) = self.strays.take_due(self.now)
        {
            if let Some(row) = self.directory.find(key) {
                let stray = self.strays.remove(key).expect("what is due is known");
                if !is_forgotten {
                    self.join_stray(row, stray);
                } else if self.directory.get(row).copy(Tier::Object).state == CopyState::Absent {
                    self.forget_stray(key);
                }
                // Where that is not to be had now.
                self.strays.look_later(key, self.now + self.config.rewrites.retry_delay);
            } else if is_forgotten {
                self.forget_stray(key);
            } else {
                self.strays.ask(key);
                self.out.push(Effect::LookAgain { key });
            }
        }
    }

    fn forget_stray(&mut self, key: Key) {
        self.counters.forgotten_blocks += 1;
        self.erase_object(key, Erasure::Promised);
    }

    /// What the header of one that was due says now.
    pub(super) fn stray_looked_at(&mut self, key: Key, found: Looked) {
        let Some(stray) = self.strays.answered(key) else { return };
        match found {
            // Stored anew while it was looked at, the block is no stray's.
            Looked::Header(header)
                if header.meta.record.is_due(self.now) && self.directory.find(key).is_none() =>
            {
                self.forget_stray(key);
                self.forget_strays_below(key);
            }
            Looked::Header(header) => {
                self.strays.remove(key);
                self.stray_found(Stray { header: *header, ..stray });
            }
            Looked::Gone => drop(self.strays.remove(key)),
            Looked::Unknown => {
                let later = self.now + self.config.rewrites.retry_delay;
                self.strays.look_later(key, later);
            }
        }
    }

    /// What hangs on a forgotten block is forgotten with it.
    pub(super) fn forget_strays_below(&mut self, key: Key) {
        let now = self.now;
        let mut above = vec![key];
        while let Some(next) = above.pop() {
            let below = self.strays.below(next);
            for key in &below {
                self.strays.note_forgotten(*key, now);
            }
            above.extend(below);
        }
    }

    /// Has those erased for which there is no room.
    pub(super) fn let_strays_go(&mut self) {
        while self.takes(Tier::Object)
            && !self.strays_fit()
            && !self.owes_room(Tier::Object)
            && let Some(key) = self.strays.first()
        {
            if let Some(row) = self.directory.find(key) {
                let stray = self.strays.remove(key).expect("each in line is known");
                self.join_stray(row, stray);
                if self.strays.own_header(key).is_some() {
                    // Not now.
                    return;
                }
                continue;
            }
            let stats = &mut self.space(Tier::Object).stats;
            stats.evicted_copies += 1;
            stats.evicted_blocks += 1;
            self.erase_object(key, Erasure::ForRoom);
        }
    }

    fn strays_fit(&self) -> bool {
        let object = Tier::Object.index();
        let (Some(space), Some(bounds)) = (&self.tiers[object], self.config.tiers[object]) else {
            return true;
        };
        let (slots, bytes) = self.strays.taken();
        space.slots.bytes_used() + bytes <= bounds.capacity_bytes
            && space.slots.slots_used() + slots <= bounds.slots_max
            && self.strays.len() <= STRAYS_MAX
    }

    /// # Errors
    /// The strays' books do not agree, or one of them is being erased.
    pub(super) fn check_strays(&self) -> Result<(), String> {
        self.strays.check()?;
        match self.strays.keys().find(|key| self.erasing.contains_key(key)) {
            Some(key) => Err(format!("{key} is a stray, and is being erased")),
            None => Ok(()),
        }
    }
}
