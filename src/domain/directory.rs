//! The residency table: every block the daemon knows, its place in its chain, its copies.
//!
//! Keeps the books and their arithmetic; never decides what to keep or move.

use hashbrown::HashTable;

use super::block::Key;
use super::residency::{CopyEvent, CopyState};
use super::retention::RetentionRecord;
use super::slots::SlotPage;
use super::tier::Tier;
use super::units::Time;

/// A block's row in the directory; reused after the block is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockIndex(u32);

impl BlockIndex {
    const NONE: Self = Self(u32::MAX);

    fn some(self) -> Option<Self> {
        (self != Self::NONE).then_some(self)
    }
}

/// One block's copy in one tier.
#[derive(Clone, Copy, Debug, Default)]
pub struct TierCopy {
    pub state: CopyState,
    /// Where the bytes are; a filling copy has none while it waits for room.
    pub page: Option<SlotPage>,
    /// When it was last used here. A leaf's tick speaks for its ancestors: see [`Directory::apply`].
    pub tick: u64,
    /// Transfers that read this copy.
    pub busy: u32,
    /// Children whose copy in this tier is filling or resident: not those on their way out.
    pub children: u32,
    /// Whether the tier's policy has this copy on its list.
    pub listed: bool,
}

/// One block.
#[derive(Clone, Debug)]
pub struct Block {
    pub key: Key,
    pub namespace: u32,
    /// Index in its chain; the root block is 0.
    pub position: u32,
    pub leases: u32,
    /// To be removed as soon as no transfer touches it; never served again.
    pub doomed: bool,
    pub created_at: Time,
    pub record: RetentionRecord,
    copies: [TierCopy; Tier::COUNT],
    parent: BlockIndex,
    first_child: BlockIndex,
    next_sibling: BlockIndex,
    prev_sibling: BlockIndex,
}

impl Block {
    #[must_use]
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

    /// Whether a copy is on its way down.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.copies.iter().any(|copy| copy.state == CopyState::Draining)
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
    pub namespace: u32,
    pub parent: Option<BlockIndex>,
    pub created_at: Time,
    pub record: RetentionRecord,
}

/// Every block, by key and by row.
#[derive(Default)]
pub struct Directory {
    rows: Vec<Block>,
    vacant: Vec<BlockIndex>,
    table: HashTable<u32>,
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
        &self.rows[index.0 as usize]
    }

    pub fn get_mut(&mut self, index: BlockIndex) -> &mut Block {
        &mut self.rows[index.0 as usize]
    }

    #[must_use]
    pub fn find(&self, key: Key) -> Option<BlockIndex> {
        let rows = &self.rows;
        self.table
            .find(key.low_bits(), |row| rows[*row as usize].key == key)
            .map(|row| BlockIndex(*row))
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
            namespace: new.namespace,
            position: new.parent.map_or(0, |p| self.get(p).position + 1),
            leases: 0,
            doomed: false,
            created_at: new.created_at,
            record: new.record,
            copies: [TierCopy::default(); Tier::COUNT],
            parent,
            first_child: BlockIndex::NONE,
            next_sibling,
            prev_sibling: BlockIndex::NONE,
        };
        let index = self.place(block);
        if let Some(sibling) = next_sibling.some() {
            self.get_mut(sibling).prev_sibling = index;
        }
        if let Some(parent) = new.parent {
            self.get_mut(parent).first_child = index;
        }
        let rows = &self.rows;
        self.table
            .insert_unique(new.key.low_bits(), index.0, |row| rows[*row as usize].key.low_bits());
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
        let entry = self.table.find_entry(key.low_bits(), |row| *row == index.0);
        let Ok(entry) = entry else { unreachable!("every block is in the table") };
        entry.remove();
        self.get_mut(index).doomed = false;
        self.vacant.push(index);
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
        let copy = block.copy_mut(tier);
        let before = copy.state;
        let after = before.after(event);
        let after = after.unwrap_or_else(|| panic!("{event:?} of a copy that is {before:?}"));
        copy.state = after;
        let tick = copy.tick;
        if after == CopyState::Absent {
            *copy = TierCopy { children: copy.children, ..TierCopy::default() };
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
        after
    }

    /// The rows of all blocks, in no particular but reproducible order.
    pub fn iter(&self) -> impl Iterator<Item = (BlockIndex, &Block)> {
        self.table.iter().map(|row| (BlockIndex(*row), &self.rows[*row as usize]))
    }

    /// A block's children, newest first.
    pub fn children(&self, index: BlockIndex) -> impl Iterator<Item = BlockIndex> + '_ {
        let mut next = self.get(index).first_child.some();
        std::iter::from_fn(move || {
            let child = next?;
            next = self.get(child).next_sibling.some();
            Some(child)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u64) -> Key {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        bytes[8..].copy_from_slice(&n.to_le_bytes());
        Key(bytes)
    }

    fn add(directory: &mut Directory, n: u64, parent: Option<BlockIndex>) -> BlockIndex {
        directory.insert(NewBlock {
            key: key(n),
            namespace: 0,
            parent,
            created_at: Time::ZERO,
            record: RetentionRecord::default(),
        })
    }

    #[test]
    fn a_row_stays_small() {
        assert!(size_of::<Block>() <= 224, "{} bytes", size_of::<Block>());
    }

    #[test]
    fn chains_are_walked_and_unlinked() {
        let mut directory = Directory::default();
        let root = add(&mut directory, 0, None);
        let children: Vec<_> = (1..4).map(|n| add(&mut directory, n, Some(root))).collect();
        assert_eq!(directory.find_after(Some(root), key(3)), Some(children[2]));
        assert_eq!(directory.find_after(Some(root), key(1)), Some(children[0]));
        assert_eq!(directory.get(children[1]).position, 1);
        directory.remove(children[1]);
        let left: Vec<_> = directory.children(root).collect();
        assert_eq!(left, [children[2], children[0]]);
        directory.remove(children[2]);
        directory.remove(children[0]);
        assert!(!directory.get(root).has_children());
        assert_eq!(directory.find(key(2)), None);
        assert_eq!(directory.len(), 1);
    }

    #[test]
    fn a_parent_inherits_the_later_tick_and_counts_its_children() {
        let mut directory = Directory::default();
        let root = add(&mut directory, 0, None);
        let child = add(&mut directory, 1, Some(root));
        for index in [root, child] {
            directory.apply(index, Tier::Dram, CopyEvent::FillStarted);
            directory.apply(index, Tier::Dram, CopyEvent::FillLanded);
        }
        directory.get_mut(child).copy_mut(Tier::Dram).tick = 9;
        assert_eq!(directory.get(root).copy(Tier::Dram).children, 1);
        assert_eq!(directory.get(root).copy(Tier::Nvme).children, 0);
        directory.apply(child, Tier::Dram, CopyEvent::Dropped);
        assert_eq!(directory.get(root).copy(Tier::Dram).children, 0);
        assert_eq!(directory.get(root).copy(Tier::Dram).tick, 9);
    }

    #[test]
    #[should_panic(expected = "still in use")]
    fn removing_a_parent_breaks_closure() {
        let mut directory = Directory::default();
        let root = add(&mut directory, 0, None);
        add(&mut directory, 1, Some(root));
        directory.remove(root);
    }
}
