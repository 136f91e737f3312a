//! Strays: objects that runs of this node before this one left in the shared store, and that nobody has asked
//! for since.
//!
//! They may take up what room the tier's blocks leave. When that is wanted they go first, and of them the one
//! that was kept for the shortest time. A lookup takes in those of its chain. What was promised to be forgotten
//! is erased when it is due, whoever wrote it. None has a row in the directory, or a slot.

mod chains;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::domain::block::Key;
use crate::domain::directory::{BlockIndex, Writer};
use crate::domain::residency::CopyState;
use crate::domain::retention::directive::TTL_MAX;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{Erasure, FoundFrame};

use super::Manager;

/// Strays that are known at most. This node's own go beyond it as if there were no room; those of others are
/// not noted.
pub const STRAYS_MAX: usize = 1 << 20;

/// One of them, or an object of another node with a promise to forget.
#[derive(Clone, Copy, Debug)]
pub struct Stray {
    pub header: FrameHeader,
    /// When it was stored, or until when it is shielded; or something that hangs on it, if that is later.
    pub kept_until: Time,
    /// When it was promised to be forgotten, or something that it hangs on; zero: never.
    pub forget_at: Time,
}

impl Stray {
    /// Who goes first.
    fn rank(&self) -> (Time, Reverse<u32>, Key) {
        let meta = self.header.meta;
        (self.kept_until, Reverse(meta.position), meta.key)
    }

    fn due(&self) -> Option<(Time, Key)> {
        (self.forget_at != Time::ZERO).then_some((self.forget_at, self.header.meta.key))
    }
}

#[derive(Default)]
pub(super) struct Strays {
    known: BTreeMap<Key, Stray>,
    /// Those that this node wrote, by who goes first.
    own: BTreeSet<(Time, Reverse<u32>, Key)>,
    /// What those take up.
    own_bytes: u64,
    due: BTreeSet<(Time, Key)>,
}

impl Strays {
    fn insert(&mut self, stray: Stray, is_own: bool) {
        let key = stray.header.meta.key;
        self.remove(key);
        if is_own {
            self.own.insert(stray.rank());
            self.own_bytes += stray.header.frame_bytes();
        }
        self.due.extend(stray.due());
        self.known.insert(key, stray);
    }

    pub fn remove(&mut self, key: Key) -> Option<Stray> {
        let stray = self.known.remove(&key)?;
        if self.own.remove(&stray.rank()) {
            self.own_bytes -= stray.header.frame_bytes();
        }
        if let Some(due) = stray.due() {
            self.due.remove(&due);
        }
        Some(stray)
    }

    fn own_header(&self, key: Key) -> Option<FrameHeader> {
        let stray = self.known.get(&key).filter(|stray| self.own.contains(&stray.rank()));
        stray.map(|stray| stray.header)
    }

    /// What this node's take up of the tier: slots and bytes.
    pub fn taken(&self) -> (u64, u64) {
        (self.own.len() as u64, self.own_bytes)
    }

    fn first_due(&self, now: Time) -> Option<Key> {
        self.due.first().filter(|(at, _)| *at <= now).map(|(_, key)| *key)
    }
}

impl Manager {
    /// One was found in the store.
    pub(super) fn stray_found(&mut self, mut stray: Stray) {
        let key = stray.header.meta.key;
        if self.tiers[Tier::Object.index()].is_none() || self.erasing.contains_key(&key) {
            return;
        }
        if let Some(row) = self.directory.find(key) {
            return self.join_stray(row, &stray.header);
        }
        // As of any record: what is shielded longer was written by a clock that was ahead.
        stray.kept_until = stray.kept_until.min(self.now + TTL_MAX);
        let is_own = stray.header.node_id == self.config.node_id;
        if is_own || self.strays.known.len() < STRAYS_MAX {
            self.strays.insert(stray, is_own);
        }
    }

    /// The object becomes the copy of a block that is here by another one of its frames.
    fn join_stray(&mut self, row: BlockIndex, header: &FrameHeader) {
        let copy = self.directory.get(row).copy(Tier::Object);
        if copy.state == CopyState::Absent {
            let frame = FoundFrame::object(*header);
            if !self.enter_copy(Tier::Object, row, &frame) {
                return;
            }
            self.directory.get_mut(row).copy_mut(Tier::Object).writer = Writer::Unknown;
        }
        self.header_read(row, header);
        self.rank_changed(row);
    }

    /// A chain is looked up: what this node left of it counts as found in the store.
    pub(super) fn take_in_strays(&mut self, keys: &[Key]) {
        if self.strays.known.is_empty() {
            return;
        }
        let mut previous = None;
        for key in keys {
            if let Some(row) = self.directory.find_after(previous, *key) {
                previous = Some(row);
                continue;
            }
            let Some(header) = self.strays.own_header(*key) else { return };
            if !self.adopt(Tier::Object, &FoundFrame::object(header)) {
                return;
            }
            previous = self.directory.find(*key);
        }
    }

    /// Has those erased that are due.
    pub(super) fn expire_strays(&mut self) {
        while let Some(key) = self.strays.first_due(self.now) {
            let stray = self.strays.remove(key).expect("what is due is known");
            match self.directory.find(key) {
                // It was stored anew, or came from another tier: its own promises count.
                Some(row) => self.promise_read(row, &stray.header.meta.record),
                None if self.erasing.contains_key(&key) => {}
                None => {
                    self.counters.forgotten_blocks += 1;
                    self.erase_object(key, Erasure::Promised);
                }
            }
        }
    }

    /// Has those erased for which there is no room.
    pub(super) fn let_strays_go(&mut self) {
        if !self.takes(Tier::Object) {
            return;
        }
        while !self.strays_fit()
            && !self.owes_room(Tier::Object)
            && let Some((.., key)) = self.strays.own.first().copied()
        {
            let stray = self.strays.remove(key).expect("each in line is known");
            if let Some(row) = self.directory.find(key) {
                self.join_stray(row, &stray.header);
                continue;
            }
            let stats = &mut self.space(Tier::Object).stats;
            stats.evicted_copies += 1;
            stats.evicted_blocks += 1;
            self.erase_object(key, Erasure::ForRoom);
        }
    }

    fn strays_fit(&self) -> bool {
        let (Some(space), Some(bounds)) =
            (&self.tiers[Tier::Object.index()], self.config.tiers[Tier::Object.index()])
        else {
            return true;
        };
        let (slots, bytes) = self.strays.taken();
        space.slots.bytes_used() + bytes <= bounds.capacity_bytes
            && space.slots.slots_used() + slots <= bounds.slots_max
            && self.strays.known.len() <= STRAYS_MAX
    }

    /// # Errors
    /// The strays' books do not agree, or one of them is being erased.
    pub(super) fn check_strays(&self) -> Result<(), String> {
        let Strays { known, own, own_bytes, due } = &self.strays;
        let all = || known.values();
        let in_line: Vec<&Stray> = all().filter(|stray| own.contains(&stray.rank())).collect();
        let bytes: u64 = in_line.iter().map(|stray| stray.header.frame_bytes()).sum();
        if in_line.len() != own.len() || bytes != *own_bytes {
            return Err(format!("strays count {} of {own_bytes} bytes, are {bytes}", own.len()));
        }
        if all().filter_map(Stray::due).collect::<BTreeSet<_>>() != *due {
            return Err("strays that are due are not those that count as such".into());
        }
        match known.keys().find(|key| self.erasing.contains_key(key)) {
            Some(key) => Err(format!("{key} is a stray, and is being erased")),
            None => Ok(()),
        }
    }
}
