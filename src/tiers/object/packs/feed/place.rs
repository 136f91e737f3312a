//! How far a writer's folder was read. No IO.

use std::collections::BTreeSet;

use crate::tiers::object::packs::log::WINDOW;
use crate::tiers::object::packs::name::{self, Name};

#[derive(Default)]
pub(super) struct Place {
    last: u64,
    /// What was read of the numbers that may still get company.
    read: BTreeSet<Name>,
    /// What could not be read and is tried again.
    missed: BTreeSet<Name>,
}

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
        let missed = self.missed.iter().map(|name| name.number).max();
        missed.max(Some(self.last))
    }

    /// Whether something is still to be read.
    pub fn waits(&self) -> bool {
        !self.missed.is_empty()
    }

    pub fn has_read(&self, name: &Name) -> bool {
        self.read.contains(name)
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
        self.read.insert(name);
    }

    /// It is tried again.
    pub fn miss(&mut self, name: Name) {
        self.missed.insert(name);
    }

    pub fn take_missed(&mut self) -> BTreeSet<Name> {
        std::mem::take(&mut self.missed)
    }
}
