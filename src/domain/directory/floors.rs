//! How low blocks may sink: never below what they hang on.

use super::{BlockIndex, Directory};
use crate::domain::tier::Tier;

impl Directory {
    /// From now on no floor lies above this tier. Where nothing is so fast, that would shut blocks out, with all
    /// that is to hang on them.
    pub fn set_top(&mut self, top: Tier) {
        self.top = Some(top);
    }

    /// The floor of a block that hangs on `parent` and asks for `asked`.
    #[must_use]
    pub fn floor_behind(&self, parent: Option<BlockIndex>, asked: Tier) -> Tier {
        let floor = parent.map_or(Tier::Object, |parent| self.get(parent).floor).min(asked);
        self.top.map_or(floor, |top| floor.max(top))
    }

    /// Recomputes the block's floor from its record and its parent; true if it changed.
    pub fn refloor(&mut self, index: BlockIndex) -> bool {
        let block = self.get(index);
        let floor = self.floor_behind(block.parent(), block.record.floor);
        std::mem::replace(&mut self.get_mut(index).floor, floor) != floor
    }
}
