//! Which promises to forget this node knows to stand in the headers of its objects: those that it may put
//! off. Another one is somebody else's, and stays.
//!
//! Only of objects whose headers say, or may say to who has read them already, something else than their
//! blocks' records. Never asks a store.

use std::collections::BTreeMap;

use crate::domain::directory::{Block, BlockIndex};
use crate::domain::tier::Tier;
use crate::domain::units::Time;

/// Dates of this node's own that are remembered of an object; of more the last ones.
const OWN_MAX: usize = 8;

/// What is known of those objects, by block.
#[derive(Default)]
pub(super) struct Known {
    objects: BTreeMap<BlockIndex, Dates>,
}

struct Dates {
    /// What the header says.
    there: Time,
    /// What is being written there.
    writing: Option<Time>,
    /// What it said before, or says where a write that failed was carried out all the same.
    own: Vec<Time>,
}

impl Dates {
    fn says(&mut self, now: Time) {
        let before = std::mem::replace(&mut self.there, now);
        self.note(before);
    }

    fn note(&mut self, date: Time) {
        if self.own.contains(&date) {
            return;
        }
        if self.own.len() == OWN_MAX {
            self.own.remove(0);
        }
        self.own.push(date);
    }
}

impl Known {
    /// The block's record promises something else than its object's header, which says this.
    pub fn differs(&mut self, at: BlockIndex, there: Time) {
        self.objects.entry(at).or_insert(Dates { there, writing: None, own: Vec::new() });
    }

    /// A header was read, with a promise that is not this node's.
    pub fn heard(&mut self, at: BlockIndex, there: Time) {
        if let Some(dates) = self.objects.get_mut(&at) {
            dates.says(there);
        }
    }

    /// A record with this promise is going to be written there: what it may put off.
    pub fn write(&mut self, at: BlockIndex, date: Time) -> Time {
        let Some(dates) = self.objects.get_mut(&at) else { return Time::ZERO };
        dates.writing = Some(date);
        dates.note(date);
        dates.there
    }

    /// The write ended; the header says what is `there`, if that is known, or else what was written.
    pub fn written(&mut self, at: BlockIndex, there: Option<Time>) {
        if let Some(dates) = self.objects.get_mut(&at)
            && let Some(now) = there.or(dates.writing)
        {
            dates.says(now);
        }
        self.failed(at);
    }

    pub fn failed(&mut self, at: BlockIndex) {
        if let Some(dates) = self.objects.get_mut(&at) {
            dates.writing = None;
        }
    }

    /// Whether a header that says this may be of this node's making.
    pub fn is_own(&self, at: BlockIndex, date: Time) -> bool {
        let says = |dates: &Dates| dates.there == date || dates.own.contains(&date);
        self.objects.get(&at).is_some_and(says)
    }

    /// Nothing need be remembered where header and record say the same, nobody is reading it, and nothing is to be
    /// written there: a write that failed may have been carried out.
    pub fn settle(&mut self, at: BlockIndex, block: &Block) {
        let is_quiet = block.copy(Tier::Object).busy == 0 && block.stamp(Tier::Object).is_current();
        if self.objects.is_empty() || !is_quiet {
            return;
        }
        let is_settled =
            |dates: &Dates| dates.writing.is_none() && dates.there == block.record.delete_after;
        if self.objects.get(&at).is_some_and(is_settled) {
            self.objects.remove(&at);
        }
    }

    /// The object is not there any more.
    pub fn forget(&mut self, at: BlockIndex) {
        self.objects.remove(&at);
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.objects.len()
    }
}
