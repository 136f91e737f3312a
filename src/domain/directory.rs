//! The residency table: every block the daemon knows, its place in its chain, its copies.
//!
//! Keeps the books and their arithmetic; never decides what to keep or move.

mod census;

mod changes;

mod copies;
mod floors;

mod marks;

mod stamps;

mod walks;

#[cfg(test)]
mod tests;

use bytes::Bytes;
use hashbrown::HashTable;

use super::block::{HashTail, Key, KeyMap};
use super::residency::{CopyEvent, CopyState};
use super::retention::RetentionRecord;
use super::retention::value::TipId;
use super::session::{SessionIndex, SessionNumber};
use super::tier::Tier;
use super::units::Time;
use census::Census;

pub use changes::Change;
pub use copies::{TierCopy, Writer};
pub use stamps::Stamp;

/// A block's row in the directory; reused after the block is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(u32);

impl BlockIndex {
    const NONE: Self = Self(u32::MAX);

    fn some(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// One block.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is so or not, whatever the others")]
pub struct Block {
    pub key: Key,
    /// What routers know it by.
    pub tail: HashTail,
    pub namespace: u32,
    /// Index in its chain; the root block is 0.
    pub position: u32,
    pub leases: u32,
    /// Sessions that reach the block.
    pub claims: u32,
    /// The first of the sessions that reach no deeper than this block.
    pub tip_of: Option<SessionIndex>,
    /// The last session that reached it ended or was reset: the first to go, unless shielded.
    pub dead: bool,
    /// A lookup found it since it was stored. A leaf speaks for its ancestors, as with ticks.
    pub was_read: bool,
    /// A sub-agent stored it, and no session that is none has reached it.
    pub scratch: bool,
    /// Copies in tiers above this one go first.
    pub cold_above: Option<Tier>,
    /// Whether the record's shield holds.
    pub shielded: bool,
    /// In whose name the record was asked for.
    pub owner: Owner,
    /// The lowest tier the block sinks to: its record's floor, or its parent's if that is higher.
    pub floor: Tier,
    /// When the record is to be looked at; zero when it asks for nothing.
    pub wake: Time,
    /// To be removed as soon as no transfer touches it; never served again. Set by
    /// [`Directory::doom`].
    pub doomed: bool,
    /// Doomed by a promise to forget: gone from stores that others share, too.
    pub forgotten: bool,
    /// Two bits for each tier: a lift made or keeps the copy for a request that is still to come; and
    /// the tier keeps it over a loss of power, as it keeps the copies of all its ancestors, so that a
    /// restart finds it.
    marks: u8,
    /// How the records in the headers of its copies stand.
    stamps: [Stamp; Tier::COUNT],
    /// By how much the shields in the headers of its cold copies end before the block's own, where they are in no
    /// line to be written.
    pub shield_lag_ms: u32,
    pub created_at: Time,
    pub record: RetentionRecord,
    /// The best of the tips that claim the block, as far as is known: see `retention::value`.
    pub tip: Option<TipId>,
    copies: [TierCopy; Tier::COUNT],
    parent: BlockIndex,
    first_child: BlockIndex,
    next_sibling: BlockIndex,
    prev_sibling: BlockIndex,
}

impl Block {
    #[must_use]
    #[inline]
    pub const fn copy(&self, tier: Tier) -> &TierCopy {
        &self.copies[tier.index()]
    }

    pub const fn copy_mut(&mut self, tier: Tier) -> &mut TierCopy {
        &mut self.copies[tier.index()]
    }

    #[must_use]
    pub fn parent(&self) -> Option<BlockIndex> {
        self.parent.some()
    }

    #[must_use]
    pub fn has_children(&self) -> bool {
        self.first_child != BlockIndex::NONE
    }

    /// The fastest tier whose copy may be read.
    #[must_use]
    pub fn fastest(&self) -> Option<Tier> {
        Tier::ALL.into_iter().find(|tier| self.copy(*tier).state.is_readable())
    }

    /// Whether a committed copy exists in another tier than `tier`, and is there to stay.
    #[must_use]
    pub fn resident_elsewhere(&self, tier: Tier) -> bool {
        Tier::ALL
            .into_iter()
            .any(|other| other != tier && self.copy(other).state == CopyState::Resident)
    }

    /// Whether the ranks of a slower tier than `tier` have a copy on their lists.
    #[must_use]
    pub fn has_listed_below(&self, tier: Tier) -> bool {
        tier.below().iter().any(|below| self.copy(*below).listed)
    }

    /// Whether a copy is on its way down.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.copies.iter().any(|copy| copy.state == CopyState::Draining)
    }

    /// Whether it may be served at `now`: nobody waits for its end, and no promise to forget is due.
    #[must_use]
    pub fn may_be_served(&self, now: Time) -> bool {
        !self.doomed && !self.record.is_due(now)
    }

    /// Whether a copy is on its way in.
    #[must_use]
    pub fn fills(&self) -> bool {
        self.copies.iter().any(|copy| copy.state == CopyState::Filling)
    }

    /// Whether no tier has or expects a copy.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        self.copies.iter().all(|copy| copy.state == CopyState::Absent)
    }

    /// Whether no transfer reads or writes any copy.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.copies.iter().all(|copy| copy.busy == 0 && copy.state != CopyState::Filling)
    }
}

/// What a new block is.
#[derive(Clone, Copy, Debug)]
pub struct NewBlock {
    pub key: Key,
    pub tail: HashTail,
    pub namespace: u32,
    pub parent: Option<BlockIndex>,
    pub created_at: Time,
    pub record: RetentionRecord,
    pub owner: Owner,
    /// The tip of the chain it comes with.
    pub tip: Option<TipId>,
}

/// In whose name a block's record was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's here: the block came from another life of the daemon, or from another node.
    #[default]
    Nobody,
    /// Clients that named no session.
    Engine,
    Session(SessionNumber),
    Many,
}

/// A row in the table of keys, with so much of its key that the table grows, and passes others by, without a
/// look at the rows: for millions of them that would hold everybody up.
#[derive(Clone, Copy)]
struct Entry {
    tag: u32,
    row: u32,
}

impl Entry {
    fn of(key: Key, row: BlockIndex) -> Self {
        let [tag, _] = bytemuck::cast::<u64, [u32; 2]>(key.low_bits());
        Self { tag, row: row.0 }
    }

    /// The table takes a place from the lower bits and a mark from the upper.
    const fn hash(self) -> u64 {
        (self.tag as u64) << 32 | self.tag as u64
    }
}

/// Every block, by key and by row.
#[derive(Default)]
pub struct Directory {
    rows: Vec<Block>,
    vacant: Vec<BlockIndex>,
    table: HashTable<Entry>,
    /// By namespace.
    census: Vec<Census>,
    /// What changed and was not told yet; nothing where nobody asked for it.
    changes: Option<Vec<Change>>,
    /// Tokens of blocks, of those whose tokens were said, where changes are told.
    tokens: KeyMap<Bytes>,
    /// No floor lies above it.
    top: Option<Tier>,
    #[cfg(test)]
    pub looks: walks::Looks,
}

impl Directory {
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    #[must_use]
    pub fn get(&self, index: BlockIndex) -> &Block {
        #[cfg(test)]
        self.looks.note(1);
        &self.rows[index.0 as usize]
    }

    pub fn get_mut(&mut self, index: BlockIndex) -> &mut Block {
        &mut self.rows[index.0 as usize]
    }

    #[must_use]
    pub fn find(&self, key: Key) -> Option<BlockIndex> {
        let (rows, sought) = (&self.rows, Entry::of(key, BlockIndex::NONE));
        let is_it = |at: &Entry| at.tag == sought.tag && rows[at.row as usize].key == key;
        self.table.find(sought.hash(), is_it).map(|at| BlockIndex(at.row))
    }

    /// Finds the block `key`, expected to be a child of `after`: walking a chain mostly follows
    /// one link a block, without a table look-up.
    #[must_use]
    pub fn find_after(&self, after: Option<BlockIndex>, key: Key) -> Option<BlockIndex> {
        let newest_child = after.and_then(|parent| self.get(parent).first_child.some());
        newest_child.filter(|child| self.get(*child).key == key).or_else(|| self.find(key))
    }

    /// Adds a block without copies.
    ///
    /// # Panics
    /// The key is there already: a broken invariant of the caller.
    pub fn insert(&mut self, new: NewBlock) -> BlockIndex {
        debug_assert!(self.find(new.key).is_none(), "{} is in the directory already", new.key);
        let parent = new.parent.unwrap_or(BlockIndex::NONE);
        let next_sibling = new.parent.map_or(BlockIndex::NONE, |p| self.get(p).first_child);
        let block = Block {
            key: new.key,
            tail: new.tail,
            namespace: new.namespace,
            position: new.parent.map_or(0, |p| self.get(p).position + 1),
            leases: 0,
            claims: 0,
            tip_of: None,
            dead: false,
            was_read: false,
            scratch: false,
            cold_above: None,
            shielded: false,
            owner: new.owner,
            floor: self.floor_behind(new.parent, new.record.floor),
            wake: Time::ZERO,
            doomed: false,
            forgotten: false,
            marks: 0,
            stamps: [Stamp::Current; Tier::COUNT],
            shield_lag_ms: 0,
            created_at: new.created_at,
            record: new.record,
            tip: new.tip,
            copies: [TierCopy::default(); Tier::COUNT],
            parent,
            first_child: BlockIndex::NONE,
            next_sibling,
            prev_sibling: BlockIndex::NONE,
        };
        let index = self.place(block);
        self.census_mut(new.namespace).blocks += 1;
        if let Some(sibling) = next_sibling.some() {
            self.get_mut(sibling).prev_sibling = index;
        }
        if let Some(parent) = new.parent {
            self.get_mut(parent).first_child = index;
        }
        let entry = Entry::of(new.key, index);
        self.table.insert_unique(entry.hash(), entry, |entry| entry.hash());
        index
    }

    fn place(&mut self, block: Block) -> BlockIndex {
        if let Some(index) = self.vacant.pop() {
            self.rows[index.0 as usize] = block;
            return index;
        }
        let row = u32::try_from(self.rows.len()).expect("fewer than 2^32 blocks");
        self.rows.push(block);
        BlockIndex(row)
    }

    /// Removes a block that has neither copies nor children.
    ///
    /// # Panics
    /// It has some: prefix closure would break.
    pub fn remove(&mut self, index: BlockIndex) {
        let block = self.get(index);
        assert!(block.is_absent() && !block.has_children(), "removing a block still in use");
        assert!(block.tip_of.is_none(), "a session still reaches down to this block");
        self.set_shielded(index, false);
        let block = self.get(index);
        let (key, parent) = (block.key, block.parent);
        let (next, prev) = (block.next_sibling, block.prev_sibling);
        if let Some(next) = next.some() {
            self.get_mut(next).prev_sibling = prev;
        }
        if let Some(prev) = prev.some() {
            self.get_mut(prev).next_sibling = next;
        } else if let Some(parent) = parent.some() {
            self.get_mut(parent).first_child = next;
        }
        let hash = Entry::of(key, index).hash();
        let entry = self.table.find_entry(hash, |entry| entry.row == index.0);
        let Ok(entry) = entry else { unreachable!("every block is in the table") };
        entry.remove();
        self.tokens.remove(&key);
        let namespace = self.get(index).namespace;
        self.census_mut(namespace).blocks -= 1;
        let block = self.get_mut(index);
        block.doomed = false;
        self.vacant.push(index);
    }

    /// Whether the row holds a block: rows outlive blocks, and serve again.
    #[must_use]
    pub fn is_here(&self, index: BlockIndex) -> bool {
        self.find(self.get(index).key) == Some(index)
    }

    /// Moves a copy to its next state and keeps the parent's count of children in that tier. When
    /// a copy leaves, the parent inherits its tick if that is later: so a request need touch only the
    /// deepest block it used, and the order is still exactly that of touching all of them.
    ///
    /// # Panics
    /// The transition is illegal: a broken invariant.
    pub fn apply(&mut self, index: BlockIndex, tier: Tier, event: CopyEvent) -> CopyState {
        let block = self.get_mut(index);
        let parent = block.parent;
        let (shielded, namespace) = (block.shielded, block.namespace);
        let copy = block.copy_mut(tier);
        let before = copy.state;
        let after = before.after(event);
        let after = after.unwrap_or_else(|| panic!("{event:?} of a copy that is {before:?}"));
        copy.state = after;
        let (tick, counts) = (copy.tick, shielded && !copy.waived);
        if after == CopyState::Absent {
            *copy = TierCopy { children: copy.children, ..TierCopy::default() };
            block.set_stamp(tier, Stamp::Current);
            block.set_durable(tier, false);
        }
        if counts && before.stays() != after.stays() {
            let copies = &mut self.census[namespace as usize].shielded_copies[tier.index()];
            *copies = if after.stays() { *copies + 1 } else { *copies - 1 };
        }
        if let Some(parent) = parent.some() {
            let copy = self.get_mut(parent).copy_mut(tier);
            match (before.stays(), after.stays()) {
                (false, true) => copy.children += 1,
                (true, false) => {
                    copy.children -= 1;
                    copy.tick = copy.tick.max(tick);
                }
                _ => {}
            }
        }
        if before.is_readable() != after.is_readable() {
            self.note_copy(index, tier, before.is_readable());
        }
        after
    }
}

/// So many rows, of blocks without copies.
#[cfg(test)]
#[must_use]
pub fn test_rows(count: u8) -> Vec<BlockIndex> {
    let mut directory = Directory::default();
    let row = |n: u8| {
        directory.insert(NewBlock {
            key: Key([n; 16]),
            tail: HashTail::UNKNOWN,
            namespace: 0,
            parent: None,
            created_at: Time::ZERO,
            record: RetentionRecord::default(),
            owner: Owner::Nobody,
            tip: None,
        })
    };
    (0..count).map(row).collect()
}
