//! What a retention policy is: it ranks one tier's copies and names the next to go.
//!
//! A policy never looks at bytes, moves or drops anything, and never names a copy that may not go.

use crate::domain::directory::BlockIndex;

/// Ranks the copies of one tier.
pub trait Policy: Send {
    fn name(&self) -> &'static str;

    /// The copy may go from now on (it is a leaf of the tier, unread, unleased); it was last used
    /// at `tick`.
    fn list(&mut self, block: BlockIndex, tick: u64);

    /// The next copy to go, which is then no longer listed. `judge` knows the present state of a
    /// listed copy: the tick of its last use if it may still go, nothing if it may not; then it is
    /// not listed any more either.
    fn victim(&mut self, judge: &mut dyn FnMut(BlockIndex) -> Option<u64>) -> Option<BlockIndex>;
}
