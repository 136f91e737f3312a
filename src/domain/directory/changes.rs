//! What changed about where blocks are served from: a note for each copy that came or went, in order.
//!
//! Keeps notes only once it was asked to, and only until they are taken. Changes nothing else.

use bytes::Bytes;

use crate::domain::block::{HashTail, Key};
use crate::domain::tier::{Tier, TierSet};

use super::{Block, BlockIndex, Directory};

/// A block, and the tiers that served it before and serve it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: Key,
    pub namespace: u32,
    /// Index in its chain; the root block is 0.
    pub position: u32,
    pub tail: HashTail,
    /// The block before it; unknown for a root.
    pub parent_tail: HashTail,
    /// Four bytes each, little-endian; none where nobody said them.
    pub tokens: Bytes,
    pub before: TierSet,
    pub after: TierSet,
}

impl Block {
    /// The tiers that may serve it.
    #[must_use]
    pub fn served_from(&self) -> TierSet {
        let readable = Tier::ALL.into_iter().filter(|tier| self.copy(*tier).state.is_readable());
        if self.doomed { TierSet::EMPTY } else { readable.collect() }
    }
}

impl Directory {
    /// From now on every change is noted, until [`Self::take_changes`].
    pub fn note_changes(&mut self) {
        self.changes.get_or_insert_default();
    }

    /// The changes since they were last taken, in order.
    pub fn take_changes(&mut self) -> Vec<Change> {
        self.changes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether one of the namespace's is not taken yet.
    #[must_use]
    pub fn has_changes_of(&self, namespace: u32) -> bool {
        self.changes.iter().flatten().any(|change| change.namespace == namespace)
    }

    /// The engine says what routers know a block by that is here. What was known already stays;
    /// tokens are kept only where changes are told.
    pub fn label(&mut self, index: BlockIndex, tail: HashTail, tokens: Bytes) {
        let told = self.changes.is_some();
        let block = self.get_mut(index);
        let (key, is_named) = (block.key, block.tail != HashTail::UNKNOWN);
        let names = !is_named && tail != HashTail::UNKNOWN;
        if names {
            block.tail = tail;
        }
        let spells = told && !tokens.is_empty() && !self.tokens.contains_key(&key);
        if spells {
            self.tokens.insert(key, tokens);
        }
        if spells && is_named {
            // It was told without tokens: taken back, so that whoever counts hears of it once.
            self.note_gone(index);
        }
        if names || spells {
            // Nobody who knows blocks by these names has heard of it.
            self.note(index, TierSet::EMPTY);
        }
        if names && told {
            self.note_named_children(index);
        }
    }

    /// A block is told by its own name and its parent's, so nobody who knows blocks by names has heard of
    /// those whose parent has got one only now.
    fn note_named_children(&mut self, index: BlockIndex) {
        let is_named = |child: &BlockIndex| self.get(*child).tail != HashTail::UNKNOWN;
        let named: Vec<BlockIndex> = self.children(index).filter(is_named).collect();
        for child in named {
            self.note(child, TierSet::EMPTY);
        }
    }

    /// The blocks of so many rows that are served from somewhere, each as if it had just come, and
    /// the row to go on with.
    #[must_use]
    pub fn residents(&self, first_row: u32, rows_max: u32) -> (Vec<Change>, Option<u32>) {
        let end = first_row.saturating_add(rows_max).min(self.rows_len());
        let rows = (first_row..end).map(BlockIndex);
        let changes = rows.map(|row| self.change(row, TierSet::EMPTY));
        let residents = changes.filter(|change| !change.after.is_empty()).collect();
        (residents, (end < self.rows_len()).then_some(end))
    }

    /// From now on nothing serves the block, and as soon as nothing touches it, it goes.
    pub fn doom(&mut self, index: BlockIndex) {
        let before = self.get(index).served_from();
        self.get_mut(index).doomed = true;
        self.note(index, before);
    }

    /// A doomed block without copies is to be had again: no header says anything of it.
    ///
    /// # Panics
    /// It has some, or is to be forgotten.
    pub fn revive(&mut self, index: BlockIndex) {
        let block = self.get_mut(index);
        assert!(block.is_absent() && !block.forgotten, "reviving a block that is not gone");
        (block.doomed, block.shield_lag_ms) = (false, 0);
    }

    fn rows_len(&self) -> u32 {
        u32::try_from(self.rows.len()).expect("fewer than 2^32 blocks")
    }

    /// A copy came, or went.
    pub(super) fn note_copy(&mut self, index: BlockIndex, tier: Tier, was_readable: bool) {
        let block = self.get(index);
        if block.doomed {
            // It was told as gone from everywhere when it was doomed.
            return;
        }
        let after = block.served_from();
        self.note(index, if was_readable { after.with(tier) } else { after.without(tier) });
    }

    fn note_gone(&mut self, index: BlockIndex) {
        let here = self.change(index, TierSet::EMPTY);
        if let Some(changes) = self.changes.as_mut().filter(|_| !here.after.is_empty()) {
            changes.push(Change { before: here.after, after: TierSet::EMPTY, ..here });
        }
    }

    pub(super) fn note(&mut self, index: BlockIndex, before: TierSet) {
        if self.changes.is_none() {
            return;
        }
        let change = self.change(index, before);
        if let Some(changes) = self.changes.as_mut().filter(|_| change.before != change.after) {
            changes.push(change);
        }
    }

    fn change(&self, index: BlockIndex, before: TierSet) -> Change {
        let block = self.get(index);
        // A row without a block keeps the number of a parent whose row may serve another by now.
        let after = block.served_from();
        let parent = block.parent().filter(|_| !after.is_empty() || !before.is_empty());
        Change {
            key: block.key,
            namespace: block.namespace,
            position: block.position,
            tail: block.tail,
            parent_tail: parent.map_or(HashTail::UNKNOWN, |parent| self.get(parent).tail),
            tokens: self.tokens.get(&block.key).cloned().unwrap_or_default(),
            before,
            after,
        }
    }
}
