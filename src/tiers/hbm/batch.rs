//! A batch of copies on its way through a device: whatever happens, its submitter hears once.

use super::device::{BlockCopy, CopiesDone, FailedCopy};
use crate::tiers::store::StoreError;

/// A batch on its way. Dropped unfinished, it says that the device is gone.
pub(super) struct Batch {
    copies: Vec<BlockCopy>,
    done: Option<CopiesDone>,
}

impl Batch {
    pub(super) fn new(copies: Vec<BlockCopy>, done: CopiesDone) -> Self {
        Self { copies, done: Some(done) }
    }

    pub(super) fn copies(&self) -> &[BlockCopy] {
        &self.copies
    }

    /// The copies are over; `failed` did not land.
    pub(super) fn end(mut self, failed: Vec<FailedCopy>) {
        self.tell(failed);
    }

    /// No copy landed.
    pub(super) fn fail_all(mut self, error: impl Fn() -> StoreError) {
        self.tell_all(error);
    }

    fn tell_all(&mut self, error: impl Fn() -> StoreError) {
        let all = 0..self.copies.len();
        self.tell(all.map(|copy| FailedCopy { copy, error: error() }).collect());
    }

    fn tell(&mut self, failed: Vec<FailedCopy>) {
        // Pools are let go before anybody hears that the copies are over.
        self.copies.clear();
        if let Some(done) = self.done.take() {
            done(failed);
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.tell_all(|| StoreError::TierLost("the device has stopped".into()));
    }
}
