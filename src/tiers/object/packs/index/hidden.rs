//! What is there and is not known: objects that the store refuses by themselves, and what was asked of
//! blocks meanwhile that may lie in them.

use std::collections::BTreeMap;

use super::{COUNTED_FROM, Index};
use crate::domain::block::Key;
use crate::domain::units::Time;
use crate::tiers::object::packs::format::{self, Change, Version, What};
use crate::tiers::object::packs::name::{Holds, Name};

/// Erased blocks that are remembered for packs that are refused: a few MiB.
const ERASED_MAX: usize = 65_536;

#[derive(Default)]
pub(super) struct Hidden {
    /// How many changes there may be at most in objects that are refused.
    changes: u64,
    /// Packs that are refused, and those that are given again and not read yet: which one this was.
    packs: BTreeMap<Name, u64>,
    /// How many packs were refused so far.
    refused: u64,
    /// Blocks that were erased meanwhile.
    erased: BTreeMap<Key, Gone>,
    /// What was found of them, erased here and not written.
    late: Vec<Change>,
}

/// A block was erased while packs could not be read.
#[derive(Clone, Copy, Default)]
struct Gone {
    is_promised: bool,
    /// How many packs had been refused by then. One that is refused later may have been packed later.
    refused: u64,
}

impl Index {
    /// An object is refused: what it says, or has, is not known.
    pub fn note_hidden(&mut self, name: &Name) {
        match name.holds {
            Holds::Frames => {
                self.is_blind = true;
                let Hidden { packs, refused, .. } = &mut self.hidden;
                packs.entry(*name).or_insert_with(|| {
                    *refused += 1;
                    *refused
                });
            }
            Holds::Changes => self.hidden.changes += format::entries_max(name) as u64,
        }
    }

    /// A version that outdoes this one, and those that changes may have made of it which nobody can read.
    pub fn after(&self, version: Version) -> Version {
        let hidden = self.hidden.changes << COUNTED_FROM;
        Version(version.next().0.saturating_add(hidden))
    }

    /// The block is to be erased: also from packs that nobody can read now.
    pub fn note_erased(&mut self, key: Key, promised: bool) {
        if !self.hidden.packs.is_empty() && self.hidden.erased.len() < ERASED_MAX {
            let gone = self.hidden.erased.entry(key).or_default();
            gone.is_promised |= promised;
            gone.refused = self.hidden.refused;
        }
    }

    /// A pack that was refused is gone, passed over or was read: all in it is older than what was erased
    /// since then.
    pub fn unhide(&mut self, name: &Name, now: Time) {
        let Some(place) = self.hidden.packs.remove(name) else { return };
        let frames = self.packs.get(name).into_iter().flatten();
        let erased = frames.filter_map(|frame| {
            let key = frame.header.meta.key;
            let gone = self.hidden.erased.get(&key).filter(|gone| gone.refused >= place)?;
            let what = What::Erased { promised: gone.is_promised };
            Some(Change { id: frame.id, key, version: frame.version.next(), what })
        });
        let erased: Vec<Change> = erased.collect();
        self.change_all(&erased, true, now);
        self.hidden.late.extend(erased);
        if self.hidden.packs.is_empty() {
            self.hidden.erased.clear();
        }
    }

    /// What is still to be written. Each is told once.
    pub fn take_late(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.hidden.late)
    }
}
