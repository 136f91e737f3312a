//! What is to be cleared away: packs that lost frames, and changes that nobody needs any more.
//!
//! Decides only; `shed.rs` does it.

use std::collections::BTreeSet;
use std::ops::Bound;

use super::{Found, Index, Stored};
use crate::domain::block::Key;
use crate::tiers::object::packs::format::{Change, PackedFrame, What};
use crate::tiers::object::packs::name::Name;

/// So many objects with few changes are left as they are; more are written anew as one.
const LOGS_MAX: usize = 64;

/// Fewer than this are few.
const FEW: usize = 2_048;

/// A pack to clear away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tiers::object::packs) struct Duty {
    pub pack: Name,
    /// Where its last frame ends.
    pub end: u64,
    /// What has to be moved before it may go.
    pub live: Vec<Found>,
    /// Packs that have what else is needed of it: it may go while they are there.
    pub elsewhere: Vec<Name>,
}

/// Own objects of changes that nobody needs, and that are still there.
#[derive(Default)]
pub(super) struct Replaced {
    logs: BTreeSet<Name>,
    /// The last one that somebody tried to delete.
    tried: Option<Name>,
}

impl Duty {
    pub fn is_deleted_only(&self) -> bool {
        self.live.is_empty()
    }
}

impl Index {
    /// Whether there may be some.
    pub fn is_untidy(&self) -> bool {
        !self.touched.is_empty()
    }

    /// Packs that this node is to write anew or to delete: its own of which less than half is needed, and
    /// those with frames whose bytes it promised to make go. Each is told once.
    pub fn duties(&mut self) -> Vec<Duty> {
        let touched = std::mem::take(&mut self.touched);
        let is_on = |name: &Name| !self.put_off.contains(name);
        touched.into_iter().filter(is_on).filter_map(|name| self.duty(name)).collect()
    }

    /// What was thought of it does not hold any more: it is told anew.
    pub fn tell_again(&mut self, name: Name) {
        if self.has(&name) {
            self.touched.insert(name);
        }
    }

    /// It could not be done now: it is not told before it is taken up again.
    pub fn put_off(&mut self, name: Name) {
        if self.has(&name) {
            self.put_off.insert(name);
        }
    }

    /// Nothing could be done now.
    pub fn put_off_all(&mut self) {
        self.put_off.append(&mut self.touched);
    }

    /// What could not be done is told again.
    pub fn take_up(&mut self) {
        self.touched.append(&mut self.put_off);
    }

    fn duty(&self, pack: Name) -> Option<Duty> {
        let frames = self.packs.get(&pack)?;
        let is_own = pack.writer == self.own;
        let end = frames.iter().map(|frame| frame.at + u64::from(frame.bytes)).max()?;
        if let Some(elsewhere) = self.moved_to(&pack) {
            return Some(Duty { pack, end, live: Vec::new(), elsewhere });
        }
        let sheds = frames.iter().any(|frame| self.is_promised(frame, is_own));
        let needed = (0..).zip(frames).map(|(at, frame)| (frame.header.meta.key, pack, at));
        let (mut live, mut elsewhere) = (Vec::new(), BTreeSet::new());
        for (spot, found) in needed.filter_map(|spot| Some((spot, self.found(&spot)?))) {
            match self.kept_in(&spot) {
                kept if kept == pack => live.push(found),
                kept => drop(elsewhere.insert(kept)),
            }
        }
        let live_bytes: u64 = live.iter().map(|found| u64::from(found.bytes)).sum();
        let bytes: u64 = frames.iter().map(|frame| u64::from(frame.bytes)).sum();
        let elsewhere = elsewhere.into_iter().collect();
        (sheds || (is_own && live_bytes * 2 < bytes)).then_some(Duty { pack, end, live, elsewhere })
    }

    /// What lived in these was written into that pack: where one can't be deleted, it is not moved again.
    pub fn moved(&mut self, duty: &Duty, into: Name) {
        let mut to = duty.elsewhere.clone();
        to.push(into);
        self.moved.insert(duty.pack, to);
    }

    /// Where all of it lies that was needed when it was moved, as far as is known.
    fn moved_to(&self, pack: &Name) -> Option<Vec<Name>> {
        let to = self.moved.get(pack)?;
        to.iter().all(|name| self.has(name)).then(|| to.clone())
    }

    /// Whether the frame's bytes are to go soon, and it is this node that sees to it.
    fn is_promised(&self, frame: &PackedFrame, is_own: bool) -> bool {
        self.changes.get(&frame.id).is_some_and(|known| {
            known.change.what == What::Erased { promised: true } && (is_own || known.is_mine)
        })
    }

    /// Of a frame that lies in several packs the one in the greatest is kept, whoever decides.
    fn kept_in(&self, spot: &(Key, Name, u32)) -> Name {
        let id = self.frame(spot).id;
        let same = self.spots_of(spot.0).filter(|other| self.frame(other).id == id);
        same.map(|other| other.1).max().unwrap_or(spot.1)
    }

    /// This node wrote these changes into that object.
    pub fn logged(&mut self, name: Name, changes: &[Change]) {
        self.note_stored(name, changes);
        if !self.replaced.logs.contains(&name) {
            self.logs.insert(name, changes.to_vec());
        }
    }

    /// Own objects of changes none of which counts any more, or counts in another object.
    pub fn spare_logs(&self) -> Vec<Name> {
        let needed = |name: &Name| self.needed(name).next().is_some();
        self.logs.keys().filter(|name| !needed(name)).copied().collect()
    }

    /// The objects of which these are spare: they have what outdoes it.
    pub fn outdoing(&self, spare: &[Name]) -> BTreeSet<Name> {
        let changes = spare.iter().filter_map(|name| self.logs.get(name)).flatten();
        let known = changes.filter_map(|change| self.changes.get(&change.id));
        known.filter_map(|known| known.stored).map(|stored| stored.log).collect()
    }

    /// These are only to be deleted: what they say is not asked for again, however long that takes.
    pub fn replace_logs(&mut self, names: Vec<Name>) {
        for name in &names {
            self.logs.remove(name);
        }
        self.replaced.logs.extend(names);
    }

    /// Objects of changes that are to be deleted. Those that were tried last come last.
    pub fn replaced_logs(&self) -> Vec<Name> {
        let Replaced { logs, tried } = &self.replaced;
        let Some(tried) = tried else { return logs.iter().copied().collect() };
        let after = logs.range((Bound::Excluded(tried), Bound::Unbounded));
        after.chain(logs.range(..=tried)).copied().collect()
    }

    /// One of them was tried.
    pub fn note_tried(&mut self, name: Name, is_gone: bool) {
        self.replaced.tried = Some(name);
        if is_gone {
            self.replaced.logs.remove(&name);
        }
    }

    /// What is needed of own objects of changes that are to be one, if they are too many.
    pub fn scattered_changes(&self) -> Option<Vec<Change>> {
        let with_few = self.logs.iter().filter(|(_, changes)| changes.len() < FEW);
        let names: Vec<&Name> = with_few.map(|(name, _)| name).collect();
        // Asked first: what is needed is much to look up while others wait.
        if names.len() <= LOGS_MAX {
            return None;
        }
        let mut needed: Vec<Change> = names.iter().flat_map(|name| self.needed(name)).collect();
        // One that was forgotten may stand in several.
        needed.sort_by_key(|change| (change.id, change.version));
        needed.dedup();
        Some(needed)
    }

    /// Those of an object's changes that no stored one outdoes, and that no other object has: the newest one
    /// may not be stored yet. One that was forgotten had no frame any more, if all packs are known.
    fn needed<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = Change> + use<'a> {
        let changes = self.logs.get(name).into_iter().flatten().copied();
        changes.filter(move |change| {
            let counts = |stored: Stored| stored.change == *change && stored.log == *name;
            let known = self.changes.get(&change.id);
            known.map_or(self.is_blind, |known| known.stored.is_none_or(counts))
        })
    }
}
