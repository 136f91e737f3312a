//! Which packs there are, what lies in them, and what became of it: as far as this node has read.
//!
//! Decides only: no IO, clock or locks. What is added in any order comes to the same state, so nodes that
//! have read the same objects answer the same.

mod duties;
mod hidden;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

use super::format::{Change, FrameId, PackedFrame, Version, What};
use super::name::{Holds, Name, Writer};
use crate::domain::block::Key;
use crate::domain::units::Time;
use crate::env;
use crate::tiers::frame::FrameHeader;

/// For how long a change is kept whose frame no known pack has: another node may have moved the frame
/// before it read of the change.
const PARTED_FOR: Duration = Duration::from_mins(10);

/// A frame that is there to be served, as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub pack: Name,
    pub id: FrameId,
    pub version: Version,
    pub at: u64,
    pub bytes: u32,
    /// With the record that counts, which the frame in the pack may not have.
    pub header: FrameHeader,
}

/// A change that was read, or made here.
#[derive(Clone, Copy, Debug)]
struct Known {
    change: Change,
    /// This node wanted it.
    is_mine: bool,
    /// What counts of those that are known to be stored: this one, or one before it.
    stored: Option<Stored>,
}

/// A change that lies in the store.
#[derive(Clone, Copy, Debug)]
struct Stored {
    change: Change,
    /// The object of changes that has it.
    log: Name,
}

pub(super) use duties::Duty;
use duties::Replaced;
use hidden::Hidden;

pub(super) struct Index {
    own: Writer,
    frames_max: usize,
    packs: BTreeMap<Name, Vec<PackedFrame>>,
    /// When each pack was last seen to be there.
    seen: BTreeMap<Name, Time>,
    /// Whether there are packs that are not known, for want of room or since they are refused.
    is_blind: bool,
    hidden: Hidden,
    /// Each frame by its block's key.
    spots: BTreeSet<(Key, Name, u32)>,
    changes: BTreeMap<FrameId, Known>,
    /// This node's objects of changes, and what they say.
    logs: BTreeMap<Name, Vec<Change>>,
    replaced: Replaced,
    /// Changes whose frames no pack has, since when.
    parted: VecDeque<(Time, FrameId)>,
    /// Packs that lost frames since they were asked for.
    touched: BTreeSet<Name>,
    /// Packs that could not be cleared away: not told before all of them are taken up again.
    put_off: BTreeSet<Name>,
    /// Packs whose frames were moved, and that are to be deleted: where to.
    moved: BTreeMap<Name, Vec<Name>>,
    /// Frames that are on their way into packs of this node's.
    reserved: usize,
}

/// Others' packs leave this part of the room to what this node writes.
const OWN_PART: usize = 4;

impl Index {
    pub fn new(own: Writer, frames_max: usize) -> Self {
        Self {
            own,
            frames_max,
            packs: BTreeMap::new(),
            seen: BTreeMap::new(),
            is_blind: false,
            hidden: Hidden::default(),
            spots: BTreeSet::new(),
            changes: BTreeMap::new(),
            logs: BTreeMap::new(),
            replaced: Replaced::default(),
            parted: VecDeque::new(),
            touched: BTreeSet::new(),
            put_off: BTreeSet::new(),
            moved: BTreeMap::new(),
            reserved: 0,
        }
    }

    pub fn has(&self, name: &Name) -> bool {
        self.packs.contains_key(name)
    }

    /// Whether a pack of this writer is known.
    pub fn has_of(&self, writer: Writer) -> bool {
        let (first, last) = (Name { writer, ..FIRST }, Name { writer, ..LAST });
        self.packs.range(first..=last).next().is_some()
    }

    /// Packs and frames that are known.
    pub fn counts(&self) -> (usize, usize) {
        (self.packs.len(), self.spots.len())
    }

    fn has_room(&self, frames: usize, most: usize) -> bool {
        self.spots.len() + self.reserved + frames <= most
    }

    /// Keeps room for frames that this node is about to pack: what was told to be stored is never
    /// forgotten, so what there is no room for is not packed. False: there is none.
    pub fn reserve(&mut self, frames: usize) -> bool {
        let has_room = self.has_room(frames, self.frames_max);
        self.reserved += if has_room { frames } else { 0 };
        has_room
    }

    /// They were packed, or will not be.
    pub fn unreserve(&mut self, frames: usize) {
        self.reserved -= frames;
    }

    /// A pack was read. Others' are passed over where there is no room, unless frames that are known
    /// were moved there: what was found once stays found. False: it was passed over.
    pub fn learn(&mut self, name: Name, frames: Vec<PackedFrame>, now: Time) -> bool {
        let most = self.frames_max - self.frames_max / OWN_PART;
        let is_known = name.writer == self.own
            || self.has_room(frames.len(), most)
            || frames.iter().any(|frame| self.lies_somewhere(frame));
        if is_known {
            self.add(name, frames, now);
        } else {
            self.is_blind = true;
        }
        self.unhide(&name, now);
        is_known
    }

    /// A pack is known from here on.
    pub fn add(&mut self, name: Name, frames: Vec<PackedFrame>, now: Time) {
        if self.has(&name) {
            return;
        }
        for frame in &frames {
            // Of several places where it lies it need not be kept in all.
            let same = |spot: &&(Key, Name, u32)| self.frame(spot).id == frame.id;
            let elsewhere = self.spots_of(frame.header.meta.key).filter(same).map(|spot| spot.1);
            let elsewhere: Vec<Name> = elsewhere.collect();
            if !elsewhere.is_empty() || self.is_erased(frame.id) {
                self.touched.insert(name);
            }
            self.touched.extend(elsewhere);
        }
        self.spots.extend((0..).zip(&frames).map(|(at, frame)| (frame.header.meta.key, name, at)));
        self.packs.insert(name, frames);
        self.note_seen(&name, now);
    }

    /// The packs that are known, by who wrote them.
    pub fn names(&self) -> BTreeMap<Writer, Vec<Name>> {
        let mut names: BTreeMap<Writer, Vec<Name>> = BTreeMap::new();
        for name in self.packs.keys() {
            names.entry(name.writer).or_default().push(*name);
        }
        names
    }

    pub fn note_seen(&mut self, name: &Name, now: Time) {
        if self.has(name) {
            self.seen.insert(*name, now);
        }
    }

    /// The packs that these blocks would be read from and that nobody has looked for in so long.
    pub fn unseen(&self, keys: &[Key], now: Time, age_max: Duration) -> BTreeSet<Name> {
        let packs = keys.iter().filter_map(|key| self.find(*key)).map(|found| found.pack);
        let is_old = |name: &Name| self.seen.get(name).is_none_or(|at| now.since(*at) >= age_max);
        packs.filter(is_old).collect()
    }

    /// A pack is no longer there; what was moved out of it was looked for.
    pub fn forget(&mut self, name: &Name, now: Time) {
        let Some(frames) = self.packs.remove(name) else { return };
        self.touched.remove(name);
        self.put_off.remove(name);
        self.moved.remove(name);
        self.seen.remove(name);
        for (at, frame) in (0..).zip(&frames) {
            self.spots.remove(&(frame.header.meta.key, *name, at));
        }
        // All its spots are out by now: one block may have two frames in one pack.
        for frame in &frames {
            if self.changes.contains_key(&frame.id) && !self.lies_somewhere(frame) {
                self.parted.push_back((now, frame.id));
            }
        }
    }

    fn lies_somewhere(&self, frame: &PackedFrame) -> bool {
        self.spots_of(frame.header.meta.key).any(|spot| self.frame(spot).id == frame.id)
    }

    /// A change was read or is being made; `is_mine`: by this node, now or before a restart.
    pub fn change(&mut self, change: Change, is_mine: bool, now: Time) {
        let is_erased = |one: &Change| matches!(one.what, What::Erased { .. });
        let mut is_mine = is_mine;
        if let Some(known) = self.changes.get_mut(&change.id) {
            if is_erased(&change) && is_erased(&known.change) {
                // Of several nodes that wanted it gone each sees to it.
                is_mine |= known.is_mine;
                known.is_mine = is_mine;
            }
            if !outdoes(&change, &known.change) {
                return;
            }
        }
        let lies_in: Vec<Name> = self
            .spots_of(change.key)
            .filter(|spot| self.frame(spot).id == change.id)
            .map(|spot| spot.1)
            .collect();
        if lies_in.is_empty() && !self.changes.contains_key(&change.id) {
            self.parted.push_back((now, change.id));
        }
        if matches!(change.what, What::Erased { .. }) {
            self.touched.extend(lies_in);
        }
        let stored = self.changes.get(&change.id).and_then(|known| known.stored);
        self.changes.insert(change.id, Known { change, is_mine, stored });
    }

    pub fn change_all(&mut self, changes: &[Change], is_mine: bool, now: Time) {
        for change in changes {
            self.change(*change, is_mine, now);
        }
    }

    /// These lie in that object, whoever wrote it. Of several that have one change the last one counts.
    pub fn note_stored(&mut self, log: Name, changes: &[Change]) {
        for change in changes {
            let Some(known) = self.changes.get_mut(&change.id) else { continue };
            let counts = |stored: Stored| {
                outdoes(change, &stored.change) || (*change == stored.change && log > stored.log)
            };
            if known.stored.is_none_or(counts) {
                known.stored = Some(Stored { change: *change, log });
            }
        }
    }

    /// Whether there are some to forget, for who has looked for their frames until now.
    pub fn is_due(&self, now: Time) -> bool {
        self.parted.front().is_some_and(|(at, _)| now.since(*at) > PARTED_FOR)
    }

    /// Forgets changes whose frames have been in no pack for a long time.
    pub fn prune(&mut self, now: Time) {
        while let Some((_, id)) = self.parted.pop_front_if(|(at, _)| now.since(*at) > PARTED_FOR) {
            let key = self.changes.get(&id).map(|known| known.change.key);
            let is_back =
                key.is_some_and(|key| self.spots_of(key).any(|spot| self.frame(spot).id == id));
            if !is_back {
                self.changes.remove(&id);
            }
        }
    }

    /// The block's frame that every node chooses which knows what this one knows.
    pub fn find(&self, key: Key) -> Option<Found> {
        self.spots_of(key).rev().find_map(|spot| self.found(spot))
    }

    /// What the headers of some blocks behind this one say, in the order of their keys.
    pub fn some_after(&self, last: Option<Key>, most: usize) -> Vec<FrameHeader> {
        let from = last.map_or(Bound::Unbounded, |last| Bound::Excluded((last, LAST, u32::MAX)));
        let keys = self.spots.range((from, Bound::Unbounded)).map(|spot| spot.0);
        let mut before = None;
        let of_each = keys.filter(|key| before.replace(*key) != Some(*key));
        of_each.filter_map(|key| self.find(key)).map(|found| found.header).take(most).collect()
    }

    /// Every frame of the block that may be served: nodes that do not know of each other's write it twice.
    pub fn all(&self, key: Key) -> Vec<Found> {
        let mut all: Vec<Found> = self.spots_of(key).filter_map(|spot| self.found(spot)).collect();
        all.sort_by_key(|found| found.id);
        all.dedup_by_key(|found| found.id);
        all
    }

    /// What has the bytes of the block's erased frames go that may stay till now.
    pub fn promise_erased(&self, key: Key) -> Vec<Change> {
        let ids: BTreeSet<FrameId> = self.spots_of(key).map(|spot| self.frame(spot).id).collect();
        let erased = ids.iter().filter_map(|id| self.changes.get(id)).map(|known| known.change);
        let stays = erased.filter(|change| change.what == What::Erased { promised: false });
        let what = What::Erased { promised: true };
        stays.map(|change| Change { version: change.version.next(), what, ..change }).collect()
    }

    fn found(&self, spot: &(Key, Name, u32)) -> Option<Found> {
        let frame = self.frame(spot);
        let PackedFrame { id, mut version, at, bytes, mut header } = *frame;
        match self.changes.get(&id).map(|known| known.change) {
            Some(Change { what: What::Erased { .. }, .. }) => return None,
            Some(Change { what: What::Record(record), version: changed, .. })
                if changed > version =>
            {
                (version, header.meta.record) = (changed, record);
            }
            _ => {}
        }
        Some(Found { pack: spot.1, id, version, at, bytes, header })
    }

    fn spots_of(&self, key: Key) -> impl DoubleEndedIterator<Item = &(Key, Name, u32)> {
        self.spots.range((key, FIRST, 0)..=(key, LAST, u32::MAX))
    }

    fn frame(&self, spot: &(Key, Name, u32)) -> &PackedFrame {
        &self.packs[&spot.1][spot.2 as usize]
    }

    fn is_erased(&self, id: FrameId) -> bool {
        let known = self.changes.get(&id);
        known.is_some_and(|known| matches!(known.change.what, What::Erased { .. }))
    }
}

/// Whether one counts more than the other: erased is for good. Of any two one does, so all nodes keep the
/// same.
fn outdoes(one: &Change, other: &Change) -> bool {
    match (one.what, other.what) {
        (What::Erased { promised }, What::Erased { promised: already }) => {
            (promised, one.version) > (already, other.version)
        }
        (What::Erased { .. }, What::Record(_)) => true,
        (What::Record(_), What::Erased { .. }) => false,
        (What::Record(_), What::Record(_)) => one.version > other.version,
    }
}

/// The bit of a version from which on it counts; those below are drawn.
const COUNTED_FROM: u32 = 24;

impl Version {
    /// The one after it. Nodes that change one record at once draw different ones.
    pub fn next(self) -> Self {
        let [one, two, three] = env::random_bytes();
        let drawn = u64::from_le_bytes([one, two, three, 0, 0, 0, 0, 0]);
        Self((((self.0 >> COUNTED_FROM) + 1) << COUNTED_FROM) | drawn)
    }
}

const FIRST: Name =
    Name { writer: [0; 16], number: 0, salt: 0, head_pages: 0, holds: Holds::Frames };
const LAST: Name = Name {
    writer: [u8::MAX; 16],
    number: u64::MAX,
    salt: u32::MAX,
    head_pages: u16::MAX,
    holds: Holds::Changes,
};

#[cfg(test)]
mod tests;
