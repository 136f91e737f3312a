//! Objects that this node has had erased a moment ago: whoever looked at the store before that may still tell
//! of them.
//!
//! Decides nothing. One that is written again is there again.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::domain::block::Key;
use crate::domain::units::Time;

/// Lookups are told of what they asked for much sooner.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

#[derive(Default)]
pub(super) struct Went {
    /// When, and whether it was promised to be forgotten.
    since: BTreeMap<Key, (Time, bool)>,
    line: VecDeque<(Time, Key)>,
    /// All that is in the store is being looked through, which may take long: nothing is let go of meanwhile.
    keeps_all: bool,
}

impl Went {
    pub fn note(&mut self, key: Key, promised: bool, now: Time) {
        let before = self.since.insert(key, (now, promised));
        if before.is_none_or(|(at, _)| at != now) {
            self.line.push_back((now, key));
        }
    }

    pub fn was_promised(&self, key: Key) -> bool {
        self.since.get(&key).is_some_and(|(_, promised)| *promised)
    }

    pub fn has(&self, key: Key) -> bool {
        self.since.contains_key(&key)
    }

    /// It was written again.
    pub fn is_back(&mut self, key: Key) {
        self.since.remove(&key);
    }

    /// The store begins to be looked through, or that has ended.
    pub fn keep_all(&mut self, begins: bool) {
        self.keeps_all = begins;
    }

    /// Lets go of those of which nobody tells any more.
    pub fn prune(&mut self, now: Time) {
        while !self.keeps_all
            && let Some((at, key)) = self.line.pop_front_if(|(at, _)| now.since(*at) > TOLD_WITHIN)
        {
            if self.since.get(&key).is_some_and(|(last, _)| *last == at) {
                self.since.remove(&key);
            }
        }
    }
}
