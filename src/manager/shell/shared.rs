//! The shared store, asked for what follows the prefix that is here.
//!
//! Reads headers only, a window of them at once, up to the first that is missing. Decides nothing:
//! what was found goes to the manager, which checks it against its chain.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::domain::block::Key;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{FoundFrame, Place, StoreError, TierStore};

/// Headers asked for at once: few while nothing says that there are any.
const FIRST_WINDOW: usize = 16;
const WINDOW: usize = 64;

/// Lookups that ask at once; the others are answered from what is here.
const LOOKUPS_MAX: usize = 32;

/// The longest that any lookup may ask.
const ASK_MAX: Duration = Duration::from_secs(10);

/// The object tier's store, as lookups see it.
pub(super) struct Shared {
    store: Arc<dyn TierStore>,
    pub lookups: Semaphore,
}

impl Shared {
    pub fn new(store: Arc<dyn TierStore>) -> Self {
        Self { store, lookups: Semaphore::new(LOOKUPS_MAX) }
    }

    /// The stored headers of the chain's blocks from index `known` on, in order and without a gap:
    /// what came in time.
    pub async fn follow(&self, keys: &[Key], known: usize, within: Duration) -> Vec<FoundFrame> {
        let mut found = Vec::new();
        // What was found so far counts, also when time is up.
        let _ = timeout(within.min(ASK_MAX), self.collect(keys, known, &mut found)).await;
        found
    }

    async fn collect(&self, keys: &[Key], known: usize, found: &mut Vec<FoundFrame>) {
        let mut window = FIRST_WINDOW;
        loop {
            let next = known + found.len();
            let asked = &keys[next..keys.len().min(next + window)];
            if asked.is_empty() {
                return;
            }
            let answers: Vec<_> = asked.iter().map(|key| self.ask(*key)).collect();
            for answer in answers {
                let Ok(Ok(header)) = answer.await else { return };
                let before = (known + found.len()).checked_sub(1).map(|last| keys[last]);
                if header.meta.parent != before {
                    return;
                }
                found.push(FoundFrame { place: Place { offset: 0, slot_bytes: 0 }, header });
            }
            window = WINDOW;
        }
    }

    fn ask(&self, key: Key) -> oneshot::Receiver<Result<FrameHeader, StoreError>> {
        let (told, answer) = oneshot::channel();
        // Whoever asked may have no time left.
        self.store.peek(key, Box::new(move |found| drop(told.send(found))));
        answer
    }
}
