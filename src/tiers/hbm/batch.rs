//! A batch of copies on its way through a device: whatever happens, its submitter hears once.

use super::device::{BlockCopy, CopiesDone, CopiesEnd, FailedCopy};
use super::ends::are_independent;
use crate::tiers::store::StoreError;

/// A batch on its way. Dropped unfinished, it says that the device is gone.
pub(super) struct Batch {
    copies: Vec<BlockCopy>,
    done: Option<CopiesDone>,
    /// Whether they were found to be independent already.
    independent: bool,
}

impl Batch {
    pub(super) fn new(copies: Vec<BlockCopy>, done: CopiesDone) -> Self {
        Self { copies, done: Some(done), independent: false }
    }

    /// Of copies that are known to be independent.
    pub(super) fn independent(copies: Vec<BlockCopy>, done: CopiesDone) -> Self {
        debug_assert!(are_independent(&copies));
        let mut batch = Self::new(copies, done);
        batch.independent = true;
        batch
    }

    /// Whether its copies may run in any order and beside each other.
    pub(super) fn is_independent(&self) -> bool {
        self.independent || are_independent(&self.copies)
    }

    pub(super) fn copies(&self) -> &[BlockCopy] {
        &self.copies
    }

    /// The copies are over.
    pub(super) fn end(mut self, end: CopiesEnd) {
        self.tell(end);
    }

    /// No copy landed.
    pub(super) fn fail_all(mut self, error: impl Fn() -> StoreError) {
        self.tell_all(error);
    }

    fn tell_all(&mut self, error: impl Fn() -> StoreError) {
        let all = 0..self.copies.len();
        let failed = all.map(|copy| FailedCopy { copy, error: error() }).collect();
        self.tell(CopiesEnd { failed, sums: Vec::new() });
    }

    fn tell(&mut self, end: CopiesEnd) {
        // Pools are let go before anybody hears that the copies are over.
        self.copies.clear();
        if let Some(done) = self.done.take() {
            done(end);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.tell_all(|| StoreError::TierLost("the device has stopped".into()));
    }
}
