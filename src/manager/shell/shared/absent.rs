//! Blocks that the shared store did not have a moment ago: not asked for again at once.
//!
//! Forgets soon, so that what another node writes is found soon, and is bounded.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::block::{Key, KeyMap};
use crate::domain::units::Time;
use crate::env::{Clock, SystemClock};

/// How long it counts that a block was not there.
pub(super) const ABSENT_FOR: Duration = Duration::from_secs(2);

const ABSENT_MAX: usize = 65_536;

pub(super) struct Absent {
    clock: SystemClock,
    until: Mutex<KeyMap<Time>>,
}

impl Default for Absent {
    fn default() -> Self {
        Self { clock: SystemClock::start(), until: Mutex::default() }
    }
}

impl Absent {
    pub fn note(&self, key: Key) {
        let now = self.clock.now();
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        if until.len() >= ABSENT_MAX {
            until.retain(|_, until| *until > now);
        }
        if until.len() < ABSENT_MAX {
            until.insert(key, now + ABSENT_FOR);
        }
    }

    /// The index of the first block from `known` on that was not there; the chain's end if none.
    pub fn first(&self, keys: &[Key], known: usize) -> usize {
        let now = self.clock.now();
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = |key: &Key| until.get(key).is_some_and(|until| *until > now);
        (known..keys.len()).find(|at| gone(&keys[*at])).unwrap_or(keys.len())
    }
}
