//! Ways through the rows: up a chain, down to children, over all. Changes nothing.

use super::{Block, BlockIndex, Directory};

impl Directory {
    /// The chain from a block up to its root.
    pub fn chain_up(&self, from: Option<BlockIndex>) -> impl Iterator<Item = BlockIndex> + '_ {
        std::iter::successors(from, |at| self.get(*at).parent())
    }

    /// The rows of all blocks, in no particular but reproducible order.
    pub fn iter(&self) -> impl Iterator<Item = (BlockIndex, &Block)> {
        self.table.iter().map(|entry| (BlockIndex(entry.row), self.get(BlockIndex(entry.row))))
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

/// How many rows were looked at, for tests of what may not look at many.
#[cfg(test)]
#[derive(Default)]
pub struct Looks(std::cell::Cell<u64>);

#[cfg(test)]
impl Looks {
    pub(super) fn note(&self, rows: u64) {
        self.0.set(self.0.get() + rows);
    }

    /// The rows looked at since this was asked last.
    pub fn take(&self) -> u64 {
        self.0.take()
    }
}
