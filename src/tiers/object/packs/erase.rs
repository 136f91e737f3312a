//! Erases blocks: every frame that is meant, in packs and beside them.
//!
//! What another node wrote stays where only room is wanted, and so does what nobody could look at. Else
//! never says that all of it went while nobody could look whether that was all.

use futures_util::future::join;

use super::Packs;
use super::format::{Change, What};
use super::index::Found;
use crate::domain::block::Key;
use crate::domain::units::Time;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{Erasure, StoreError, StoreOp};

impl Packs {
    /// Erases the block's frames. From here on none of those that are known is served, whatever the store
    /// answers; who hears of no error knows that there was no other one.
    pub(super) async fn erase(
        &self,
        key: Key,
        why: Erasure,
        op: StoreOp,
    ) -> Result<(), StoreError> {
        let looked = self.look().await;
        let packed = self.with(|index| index.all(key));
        let goes = |found: &&Found| why != Erasure::ForRoom || self.is_own(&found.header);
        let mut changes: Vec<Change> =
            packed.iter().filter(goes).map(|found| erased(key, why, found)).collect();
        if why == Erasure::Promised {
            changes.extend(self.with(|index| index.promise_erased(key)));
        }
        self.apply(&changes);
        if why != Erasure::ForRoom {
            self.with(|index| index.note_erased(key, why == Erasure::Promised));
        }
        let saved = self.save_erased(key, changes);
        // Each makes room, also where the other one finds none.
        let inside = self.erase_inside(key, op, why == Erasure::ForRoom);
        let (saved, inside) = join(saved, inside).await;
        self.wake();
        // What nobody could look at is another node's.
        let looked = if why == Erasure::ForRoom { Ok(()) } else { looked };
        looked.and(saved).and(inside)
    }

    fn is_own(&self, header: &FrameHeader) -> bool {
        header.node_id == self.options.node_id
    }

    /// An erase that owes nothing does not wait for others' debts.
    async fn save_erased(&self, key: Key, changes: Vec<Change>) -> Result<(), StoreError> {
        if changes.is_empty() && !self.changes.owes(key) {
            return Ok(());
        }
        self.changes.save(changes).await
    }

    /// Erases the block's own object; `asks`: if this node wrote it.
    async fn erase_inside(&self, key: Key, op: StoreOp, asks: bool) -> Result<(), StoreError> {
        if asks && !self.may_erase_inside(key).await {
            return Ok(());
        }
        self.inside(op).await
    }

    async fn may_erase_inside(&self, key: Key) -> bool {
        match self.peek_inside(key).await {
            Ok(header) => self.is_own(&header),
            // It serves nobody.
            Err(StoreError::Corrupt(_)) => true,
            // Where nobody can tell, an object too many is better than one too few.
            Err(_) => false,
        }
    }

    fn apply(&self, changes: &[Change]) {
        let now = self.now();
        self.with(|index| index.change_all(changes, true, now));
    }
}

/// Its bytes go soon if that was promised, also where the promise did not reach the store before.
fn erased(key: Key, why: Erasure, found: &Found) -> Change {
    let told = found.header.meta.record.delete_after != Time::ZERO;
    let what = What::Erased { promised: why == Erasure::Promised || told };
    Change { id: found.id, key, version: found.version.next(), what }
}
