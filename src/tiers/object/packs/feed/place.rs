//! How far a writer's folder was read. No IO.

use std::collections::{BTreeMap, BTreeSet};

use crate::tiers::object::packs::log::WINDOW;
use crate::tiers::object::packs::name::{self, Name};

#[derive(Default)]
pub(super) struct Place {
    last: u64,
    /// What was read of the numbers that may still get company.
    read: BTreeSet<Name>,
    /// What could not be read and is tried again, and how often it was refused by itself.
    missed: BTreeMap<Name, u8>,
    /// What was refused too often: it is not tried with each look.
    refused: BTreeSet<Name>,
}

/// So often an object may be refused: rights that were given a moment ago may not have come everywhere.
const REFUSALS_MAX: u8 = 5;

impl Place {
    /// Behind which name there may be news.
    pub fn after(&self) -> String {
        name::before(self.first())
    }

    /// The first number that may still get company.
    pub const fn first(&self) -> u64 {
        self.last.saturating_sub(WINDOW)
    }

    /// The greatest number that is known to be there, read or not.
    pub fn greatest(&self) -> Option<u64> {
        let unread = self.missed.keys().chain(&self.refused);
        unread.map(|name| name.number).max().max(Some(self.last))
    }

    /// Whether something is still to be read.
    pub fn waits(&self) -> bool {
        !(self.missed.is_empty() && self.refused.is_empty())
    }

    pub fn has_read(&self, name: &Name) -> bool {
        self.read.contains(name) || self.refused.contains(name)
    }

    /// It is not read again, and its number is one that a writer gave.
    pub fn note_read(&mut self, name: Name) {
        self.last = self.last.max(name.number);
        self.pass_over(name);
        let first = self.first();
        self.read.retain(|name| name.number >= first);
    }

    /// It is not read again; its number says nothing.
    pub fn pass_over(&mut self, name: Name) {
        self.missed.remove(&name);
        self.refused.remove(&name);
        self.read.insert(name);
    }

    /// It is tried again.
    pub fn miss(&mut self, name: Name) {
        self.missed.entry(name).or_default();
    }

    pub fn missed(&self) -> impl Iterator<Item = Name> {
        self.missed.keys().copied()
    }

    /// It is tried again, unless that was the last time: then it is passed over.
    pub fn refuse(&mut self, name: Name) -> bool {
        let times = self.missed.entry(name).or_default();
        *times += 1;
        let is_last = *times >= REFUSALS_MAX;
        if is_last {
            self.missed.remove(&name);
            self.refused.insert(name);
        }
        is_last
    }

    pub fn refused(&self) -> impl Iterator<Item = &Name> {
        self.refused.iter()
    }

    /// It can be read again. False: that was known.
    pub fn give_back(&mut self, name: &Name) -> bool {
        self.refused.remove(name)
    }

    /// As if nothing had been read, but for what is refused.
    pub fn start_over(&mut self) {
        self.last = 0;
        self.read.clear();
    }
}
