//! The strays that are known: by key, by who goes first, by what they hang on, and by when their promises are due.
//!
//! Decides nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::Stray;
use crate::domain::block::Key;
use crate::domain::units::Time;
use crate::tiers::frame::FrameHeader;

/// Who goes first.
type Rank = (Time, Reverse<u32>, Key);

const FIRST: Key = Key([0; Key::BYTES]);
const LAST: Key = Key([u8::MAX; Key::BYTES]);

#[derive(Default)]
pub(in crate::manager) struct Strays {
    known: BTreeMap<Key, Entry>,
    /// Those that this node wrote.
    own: BTreeSet<Rank>,
    /// What those take up.
    own_bytes: u64,
    due: BTreeSet<(Time, Key)>,
    /// Each that hangs on another block, behind that one.
    below: BTreeSet<(Key, Key)>,
    /// Those whose headers are being looked at.
    asked: BTreeSet<Key>,
}

struct Entry {
    stray: Stray,
    /// When its promise is to be seen to; nothing if it has none, or that is being done.
    due: Option<Time>,
    /// What it hangs on was forgotten.
    is_forgotten: bool,
}

impl Stray {
    fn rank(&self) -> Rank {
        let meta = self.header.meta;
        (self.kept_until, Reverse(meta.position), meta.key)
    }

    fn hangs(&self) -> Option<(Key, Key)> {
        let meta = self.header.meta;
        meta.parent.map(|parent| (parent, meta.key))
    }
}

impl Strays {
    pub fn insert(&mut self, stray: Stray, is_own: bool) {
        let meta = stray.header.meta;
        let is_forgotten = self.is_forgotten(meta.key);
        self.remove(meta.key);
        if is_own {
            self.own.insert(stray.rank());
            self.own_bytes += stray.header.frame_bytes();
        }
        let promise = meta.record.delete_after;
        let due = (promise != Time::ZERO || is_forgotten).then_some(promise);
        self.due.extend(due.map(|at| (at, meta.key)));
        self.below.extend(stray.hangs());
        self.known.insert(meta.key, Entry { stray, due, is_forgotten });
    }

    pub fn remove(&mut self, key: Key) -> Option<Stray> {
        let Entry { stray, due, .. } = self.known.remove(&key)?;
        if self.own.remove(&stray.rank()) {
            self.own_bytes -= stray.header.frame_bytes();
        }
        if let Some(at) = due {
            self.due.remove(&(at, key));
        }
        if let Some(hangs) = stray.hangs() {
            self.below.remove(&hangs);
        }
        self.asked.remove(&key);
        Some(stray)
    }

    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.known.keys()
    }

    /// What this node's take up of the tier: slots and bytes.
    pub fn taken(&self) -> (u64, u64) {
        (self.own.len() as u64, self.own_bytes)
    }

    /// The one of this node's that goes first.
    pub fn first(&self) -> Option<Key> {
        self.own.first().map(|(.., key)| *key)
    }

    /// The header of one that this node wrote, unless it is forgotten.
    pub fn own_header(&self, key: Key) -> Option<FrameHeader> {
        let Entry { stray, is_forgotten, .. } = self.known.get(&key)?;
        (!is_forgotten && self.own.contains(&stray.rank())).then_some(stray.header)
    }

    pub fn is_forgotten(&self, key: Key) -> bool {
        self.known.get(&key).is_some_and(|entry| entry.is_forgotten)
    }

    /// Those that hang on the block.
    pub fn below(&self, key: Key) -> Vec<Key> {
        self.below.range((key, FIRST)..=(key, LAST)).map(|(_, key)| *key).collect()
    }

    pub fn is_due(&self, now: Time) -> bool {
        self.due.first().is_some_and(|(at, _)| *at <= now)
    }

    /// One that is due, and whether what it hangs on was forgotten. It is due no more.
    pub fn take_due(&mut self, now: Time) -> Option<(Key, bool)> {
        let key = self.due.first().filter(|(at, _)| *at <= now)?.1;
        self.due.pop_first();
        let entry = self.known.get_mut(&key)?;
        entry.due = None;
        Some((key, entry.is_forgotten))
    }

    /// Its header is being looked at.
    pub fn ask(&mut self, key: Key) {
        self.asked.insert(key);
    }

    pub fn asked(&self) -> usize {
        self.asked.len()
    }

    /// That has ended. Gives the stray, unless it is none any more.
    pub fn answered(&mut self, key: Key) -> Option<Stray> {
        let is_asked = self.asked.remove(&key);
        self.known.get(&key).filter(|_| is_asked).map(|entry| entry.stray)
    }

    /// It is due, anew, at this time.
    pub fn look_later(&mut self, key: Key, at: Time) {
        let Some(entry) = self.known.get_mut(&key) else { return };
        if let Some(before) = entry.due.replace(at) {
            self.due.remove(&(before, key));
        }
        self.due.insert((at, key));
    }

    /// What it hangs on was forgotten: it is due now.
    pub fn note_forgotten(&mut self, key: Key, now: Time) {
        if let Some(entry) = self.known.get_mut(&key) {
            entry.is_forgotten = true;
        }
        self.asked.remove(&key);
        self.look_later(key, now);
    }

    /// # Errors
    /// The books do not agree.
    pub fn check(&self) -> Result<(), String> {
        let all = || self.known.iter().map(|(key, entry)| (*key, entry));
        let in_line: Vec<&Stray> = all()
            .map(|(_, entry)| &entry.stray)
            .filter(|one| self.own.contains(&one.rank()))
            .collect();
        let bytes: u64 = in_line.iter().map(|stray| stray.header.frame_bytes()).sum();
        if in_line.len() != self.own.len() || bytes != self.own_bytes {
            let (count, kept) = (self.own.len(), self.own_bytes);
            return Err(format!("strays count {count} of {kept} bytes, are {bytes}"));
        }
        let due: BTreeSet<_> =
            all().filter_map(|(key, entry)| entry.due.map(|at| (at, key))).collect();
        let below: BTreeSet<_> = all().filter_map(|(_, entry)| entry.stray.hangs()).collect();
        let has_no_date = |key: &Key| self.known.get(key).is_some_and(|entry| entry.due.is_none());
        if due == self.due && below == self.below && self.asked.iter().all(has_no_date) {
            return Ok(());
        }
        Err("strays that are due, or hang on others, are not those that count as such".into())
    }
}
