//! Objects that were promised to be erased and could not be: tried again until they are gone.
//!
//! Keeps a bounded number of them in line, and has a bounded number erased at a time, none while the
//! store takes no writes. What finds the line full is erased by whoever finds it in the store. Never
//! tries anything but promises again.

use std::collections::{BTreeSet, VecDeque};

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::tiers::store::Erasure;

use super::Manager;
use super::api::Effect;

/// What is to be erased again.
#[derive(Default)]
pub(super) struct Owed {
    /// From when on each may be tried again, the first one first.
    line: VecDeque<(Time, Key)>,
    under_way: BTreeSet<Key>,
}

impl Manager {
    /// Has an object erased. Until it is gone nobody here writes it or finds it.
    pub(super) fn erase_object(&mut self, key: Key, why: Erasure) {
        self.erasing.insert(key, why);
        self.out.push(Effect::Erase { tier: Tier::Object, place: None, key, why });
    }

    /// The end of that. A promise that could not be kept is kept later.
    pub(super) fn object_erased(&mut self, key: Key, done: bool) {
        self.owed.under_way.remove(&key);
        let limits = self.config.rewrites;
        let is_promised = self.erasing.get(&key) == Some(&Erasure::Promised);
        if !done && is_promised && self.owed.line.len() < limits.queued_max {
            self.owed.line.push_back((self.now + limits.retry_delay, key));
        } else {
            self.erasing.remove(&key);
        }
    }

    /// Tries those again whose time has come.
    pub(super) fn erase_owed(&mut self) {
        if !self.takes(Tier::Object) || self.rewrites.hurried {
            return;
        }
        while self.owed.under_way.len() < self.config.rewrites.under_way_max
            && let Some((_, key)) = self.owed.line.pop_front_if(|(due, _)| *due <= self.now)
        {
            self.owed.under_way.insert(key);
            self.erase_object(key, Erasure::Promised);
        }
    }

    /// The store takes writes again: none waits any longer for that.
    pub(super) fn hurry_owed(&mut self) {
        for (due, _) in &mut self.owed.line {
            *due = self.now;
        }
    }

    /// # Errors
    /// What is to be erased again is not kept from being written.
    pub(super) fn check_owed(&self) -> Result<(), String> {
        let owed = self.owed.line.iter().map(|(_, key)| key).chain(&self.owed.under_way);
        for key in owed {
            if self.erasing.get(key) != Some(&Erasure::Promised) {
                return Err(format!("{key} is to be erased, and may be written meanwhile"));
            }
        }
        Ok(())
    }
}
