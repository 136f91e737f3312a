//! The tips that are known: by number, by the blocks that lead to them, and by their last use.
//!
//! Bounded: the tip unused for longest gives way to a new one. Never judges.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use super::classes::{Habits, Idle, Wait};
use super::index::{Level, Worth};
use super::survival::Path;
use crate::domain::block::{Key, KeyMap};
use crate::domain::units::Time;

/// A tip, as blocks name it. Once the tip is forgotten, its name means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TipId {
    slot: u32,
    life: NonZeroU32,
}

impl TipId {
    /// Which of the tips there can be; used again after the tip is forgotten.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Since when a tip waits, for what, in which class, and up to which age that was counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub wait: Wait,
    pub path: Path,
    pub since: Time,
    pub counted: usize,
}

impl Clock {
    pub const fn start(wait: Wait, path: Path, since: Time) -> Self {
        Self { wait, path, since, counted: 0 }
    }
}

/// What was announced of a tip's return.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Announced {
    /// When it returns: a bin of the clock that it waits by.
    pub bin: usize,
    /// Its blocks are lifted from then on; until then they make room for others.
    pub yields_until: Option<Time>,
}

/// Where a tip stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum State {
    /// Its request began; perhaps it was answered since, and nobody said so.
    Running,
    /// Its request was answered.
    Idle {
        why: Idle,
        answered: Time,
        announced: Option<Announced>,
    },
    /// Its session left it.
    Left,
    /// Not a tip but a stretch that several chains began with.
    Stem,
    Ended,
}

/// How many blocks before its tip a chain is recognised by as well: the last ones of a request may
/// come out differently in the next.
pub(super) const MARKS_BACK: [usize; 2] = [2, 16];

#[derive(Clone, Debug)]
pub(super) struct Tip {
    life: NonZeroU32,
    /// The tip's own block, and those [`MARKS_BACK`] before it.
    pub key: Option<Key>,
    marks: [Option<Key>; MARKS_BACK.len()],
    /// Blocks of the chain.
    pub len: usize,
    /// Sessions whose last request went on from it.
    pub sessions: u32,
    /// How much it counts where tables learn.
    pub weight: f32,
    pub state: State,
    /// Running since its request began.
    pub turn: Option<Clock>,
    /// Running since it stands as it does now.
    pub wait: Option<Clock>,
    pub habits: Habits,
    pub level: Level,
    /// When its level is to be looked at again.
    pub due: Option<Time>,
    used: u64,
}

pub(super) struct Tips {
    rows: Vec<Tip>,
    vacant: Vec<u32>,
    by_key: KeyMap<u32>,
    by_use: BTreeSet<(u64, u32)>,
    uses: u64,
    tips_max: usize,
}

impl Tips {
    pub fn new(tips_max: usize) -> Self {
        Self {
            rows: Vec::new(),
            vacant: Vec::new(),
            by_key: KeyMap::default(),
            by_use: BTreeSet::new(),
            uses: 0,
            tips_max: tips_max.max(1),
        }
    }

    pub fn get(&self, id: TipId) -> Option<&Tip> {
        self.rows.get(id.slot()).filter(|tip| tip.life == id.life)
    }

    /// # Panics
    /// The tip was forgotten: the caller has just seen it.
    pub fn get_mut(&mut self, id: TipId) -> &mut Tip {
        let tip = &mut self.rows[id.slot()];
        assert!(tip.life == id.life, "a forgotten tip is not touched");
        tip
    }

    pub fn is_full(&self) -> bool {
        self.by_use.len() >= self.tips_max
    }

    /// The tip unused for longest.
    pub fn oldest(&self) -> Option<TipId> {
        let (_, slot) = self.by_use.first()?;
        Some(TipId { slot: *slot, life: self.rows[*slot as usize].life })
    }

    pub fn add(&mut self) -> TipId {
        let fresh = |life| Tip {
            life,
            key: None,
            marks: Default::default(),
            len: 0,
            sessions: 0,
            weight: 1.0,
            state: State::Running,
            turn: None,
            wait: None,
            habits: Habits::default(),
            level: Level::UNCLAIMED,
            due: None,
            used: 0,
        };
        let slot = match self.vacant.pop() {
            Some(slot) => {
                let row = &mut self.rows[slot as usize];
                *row = fresh(row.life.checked_add(1).unwrap_or(NonZeroU32::MIN));
                slot
            }
            None => {
                self.rows.push(fresh(NonZeroU32::MIN));
                u32::try_from(self.rows.len() - 1).expect("tips are bounded")
            }
        };
        let id = TipId { slot, life: self.rows[slot as usize].life };
        self.by_use.insert((0, slot));
        self.touch(id);
        id
    }

    pub fn remove(&mut self, id: TipId) {
        self.unmark(id);
        let tip = &mut self.rows[id.slot()];
        self.by_use.remove(&(tip.used, id.slot));
        // The name dies with the tip, not with its successor's birth.
        tip.life = tip.life.checked_add(1).unwrap_or(NonZeroU32::MIN);
        self.vacant.push(id.slot);
    }

    pub fn touch(&mut self, id: TipId) {
        self.uses += 1;
        let tip = &mut self.rows[id.slot()];
        self.by_use.remove(&(tip.used, id.slot));
        tip.used = self.uses;
        self.by_use.insert((tip.used, id.slot));
    }

    pub fn worth(&self, id: TipId) -> Option<Worth> {
        self.get(id).map(|tip| Worth { level: tip.level, used: tip.used })
    }

    /// Of two tips the one worth more.
    pub fn better(&self, one: Option<TipId>, other: Option<TipId>) -> Option<TipId> {
        match (one, other) {
            (Some(a), Some(b)) if a != b => {
                Some(if self.worth(a) >= self.worth(b) { a } else { b })
            }
            (one, other) => one.or(other),
        }
    }

    /// The deepest block of the chain that leads to a tip known here: its index, and the tip.
    pub fn find(&self, chain: &[Key]) -> Option<(usize, TipId)> {
        let known = |(at, key): (usize, &Key)| Some((at, *self.by_key.get(key)?));
        let (at, slot) = chain.iter().enumerate().rev().find_map(known)?;
        Some((at, TipId { slot, life: self.rows[slot as usize].life }))
    }

    fn unmark(&mut self, id: TipId) {
        let tip = &mut self.rows[id.slot()];
        let (key, marks) = (tip.key.take(), std::mem::take(&mut tip.marks));
        for mark in marks.into_iter().chain([key]).flatten() {
            if self.by_key.get(&mark) == Some(&id.slot) {
                self.by_key.remove(&mark);
            }
        }
    }

    /// The tip stands for the chain as it is: nothing shorter leads to it.
    pub fn mark_only(&mut self, id: TipId, chain: &[Key]) {
        self.mark(id, chain);
        let marks = std::mem::take(&mut self.rows[id.slot()].marks);
        for mark in marks.into_iter().flatten() {
            if self.by_key.get(&mark) == Some(&id.slot) {
                self.by_key.remove(&mark);
            }
        }
    }

    /// The tip is now where the chain ends.
    pub fn mark(&mut self, id: TipId, chain: &[Key]) {
        self.unmark(id);
        let Some((last, before)) = chain.split_last() else { return };
        let marks = MARKS_BACK.map(|back| before.len().checked_sub(back).map(|at| before[at]));
        for mark in marks.into_iter().flatten() {
            // A block that leads to several tips is known by the first: it may be theirs all.
            self.by_key.entry(mark).or_insert(id.slot);
        }
        self.by_key.insert(*last, id.slot);
        #[expect(clippy::cast_precision_loss, reason = "a weight")]
        let weight = (chain.len() as f32).sqrt().sqrt();
        let tip = &mut self.rows[id.slot()];
        (tip.key, tip.marks, tip.len, tip.weight) = (Some(*last), marks, chain.len(), weight);
    }
}
