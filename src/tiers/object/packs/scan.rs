//! What lies in packs and beside them: the header of every block, in no order.

use super::Packs;
use crate::tiers::store::{FoundFrame, StoreError};

/// Blocks that are looked up at once: others want to know of blocks too.
const AT_ONCE: usize = 256;

impl Packs {
    /// Waits for the runtime: call it from a thread of its own.
    ///
    /// # Errors
    /// Packs, or what lies beside them, could not be looked at; what could be was reported.
    pub(super) fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        let looked = self.runtime.block_on(self.look());
        let mut last = None;
        loop {
            let headers = self.with(|index| index.some_after(last, AT_ONCE));
            let Some(header) = headers.last() else { break };
            last = Some(header.meta.key);
            for header in headers {
                found(FoundFrame::object(header));
            }
        }
        self.inner.scan(found)?;
        looked
    }
}
