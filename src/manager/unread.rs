//! What is asked here for blocks of which nobody has read the header: it is asked of the record that
//! stands there once that is known.
//!
//! Ends with the header being read, or with the object's copy. Decides nothing of the record in between,
//! which is what it would be if the header said nothing.

use std::collections::BTreeMap;

use crate::domain::directory::{Block, BlockIndex, Writer};
use crate::domain::retention::{Ownership, RetentionRecord, Wish};
use crate::domain::tier::Tier;
use crate::domain::units::Time;

/// Things that are remembered of a block, none of which says all that another one does; of more the last ones
/// count.
const ASKED_MAX: usize = 16;

/// What was asked for a block.
#[derive(Clone, Copy, Debug)]
pub(super) enum Asked {
    Wish { wish: Wish, at: Time, ownership: Ownership },
    Release,
}

impl Asked {
    /// Whether what was asked before says nothing beside this.
    fn replaces(&self, before: &Self) -> bool {
        match (self, before) {
            (
                Self::Wish { wish, ownership, .. },
                Self::Wish { wish: old, ownership: as_old, .. },
            ) => {
                ownership == as_old
                    && (wish == old || (*ownership == Ownership::Sole && wish.replaces(old)))
            }
            (Self::Release, Self::Release) => true,
            _ => false,
        }
    }

    fn of(&self, record: RetentionRecord, alone: bool) -> RetentionRecord {
        match self {
            Self::Wish { wish, at, ownership } => {
                record.asked(wish, *at, if alone { *ownership } else { Ownership::Shared })
            }
            Self::Release => record.released(),
        }
    }
}

/// What was asked for each such block, in order.
#[derive(Default)]
pub(super) struct Unread {
    asked: BTreeMap<BlockIndex, Vec<Asked>>,
}

impl Unread {
    /// `block` stands as it is before what is asked.
    pub fn note(&mut self, (at, block): (BlockIndex, &Block), asked: Asked) {
        if block.copy(Tier::Object).writer != Writer::Unknown {
            return;
        }
        // What a frame of this node's own says counts more than the header of an object.
        let is_presumed = block.record == RetentionRecord::default();
        if !is_presumed && !self.asked.contains_key(&at) {
            return;
        }
        let list = self.asked.entry(at).or_default();
        list.retain(|before| !asked.replaces(before));
        if list.len() == ASKED_MAX {
            list.remove(0);
        }
        list.push(asked);
    }

    /// The object's copy is gone.
    pub fn forget(&mut self, at: BlockIndex) {
        self.asked.remove(&at);
    }

    pub fn is_asked(&self, at: BlockIndex) -> bool {
        self.asked.contains_key(&at)
    }

    /// The header was read, and says what is `there`: what stands after all that was asked.
    pub fn heard(&mut self, at: BlockIndex, there: RetentionRecord) -> RetentionRecord {
        // Nobody here can have meant to undo what a session promised of its own.
        let alone = !there.is_sessions_promise();
        let asked = self.asked.remove(&at).unwrap_or_default();
        asked.iter().fold(there, |record, asked| asked.of(record, alone))
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.asked.len()
    }
}
