//! The shared store, asked for what follows the prefix that is here.
//!
//! Finds where the stored prefix ends in a few rounds of questions asked at once, and reads the
//! headers that one more round brings. The blocks between those that were looked at are presumed to
//! be there: who reads one finds out, and learns its record then. Decides nothing: what was found
//! goes to the manager, which checks it against its chain.

mod absent;
mod search;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;

use crate::domain::block::Key;
use crate::tiers::frame::FrameHeader;
use crate::tiers::store::{FoundFrame, StoreError, TierStore};

use absent::Absent;
use search::{ROUND_MAX, Search};

/// Lookups that ask at once; the others are answered from what is here.
const LOOKUPS_MAX: usize = 32;

/// Lookups whose presumed blocks are looked at afterwards, at once; those of others are looked at
/// when they are read.
const FOLLOW_UPS_MAX: usize = 4;

/// The longest that any lookup may ask: a call is answered within ten seconds (`service/limits.rs`).
const ASK_MAX: Duration = Duration::from_secs(8);

/// Headers asked for at once when nobody waits for them.
const FOLLOW_UP_WINDOW: usize = 16;

/// The object tier's store, as lookups see it.
pub(super) struct Shared {
    store: Arc<dyn TierStore>,
    absent: Absent,
    pub lookups: Semaphore,
    pub follow_ups: Semaphore,
}

/// What the shared store has of a chain behind what is known.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    /// Where it ends: an index into the chain.
    pub end: usize,
    /// Those of its headers that were read, by index.
    pub headers: BTreeMap<usize, FrameHeader>,
}

impl Shared {
    pub fn new(store: Arc<dyn TierStore>) -> Self {
        Self {
            store,
            absent: Absent::default(),
            lookups: Semaphore::new(LOOKUPS_MAX),
            follow_ups: Semaphore::new(FOLLOW_UPS_MAX),
        }
    }

    /// How far the store has the chain's blocks from index `known` on: what came out in time.
    pub async fn follow(&self, keys: &[Key], known: usize, within: Duration) -> Stretch {
        let end = self.absent.first(keys, known);
        let mut search = Search::new(known, end);
        // What was found so far counts, also when time is up.
        let _ = timeout(within.min(ASK_MAX), self.narrow(keys, &mut search)).await;
        search.stretch()
    }

    async fn narrow(&self, keys: &[Key], search: &mut Search) {
        let mut unread_left = ROUND_MAX;
        loop {
            let round = search.next_round();
            // Headers that were passed over come with the last round, and cost none of their own.
            let along = if search.is_settled_by(&round) { unread_left } else { 0 };
            let along = search.unread(along);
            unread_left -= along.len();
            let all = [along, round].concat();
            if all.is_empty() {
                return;
            }
            self.ask_all(keys, &all, search).await;
        }
    }

    /// Asks for the headers at these indices at once; the first that is not there ends it.
    async fn ask_all(&self, keys: &[Key], round: &[usize], search: &mut Search) {
        let answers: Vec<_> = round.iter().map(|at| (*at, self.ask(keys[*at]))).collect();
        for (at, answer) in answers {
            match answer.await {
                Ok(Ok(header)) if follows(&header, keys, at) => search.there(at, header),
                Ok(Err(StoreError::Missing(_))) => {
                    self.absent.note(keys[at]);
                    return search.missing(at);
                }
                // Another chain's, damaged, or not to be had now.
                _ => return search.missing(at),
            }
        }
    }

    /// Reads the headers of blocks that were presumed to be there, for whoever wants to hear them;
    /// stops at the first that is not.
    pub async fn follow_up(&self, keys: &[Key], at: &[usize], tell: impl Fn(Vec<FoundFrame>)) {
        for window in at.chunks(FOLLOW_UP_WINDOW) {
            let answers: Vec<_> = window.iter().map(|at| (*at, self.ask(keys[*at]))).collect();
            let mut found = Vec::with_capacity(window.len());
            for (at, answer) in answers {
                match answer.await {
                    Ok(Ok(header)) if follows(&header, keys, at) => {
                        found.push(FoundFrame::object(header));
                    }
                    _ => return tell(found),
                }
            }
            tell(found);
        }
    }

    fn ask(&self, key: Key) -> oneshot::Receiver<Result<FrameHeader, StoreError>> {
        ask(self.store.as_ref(), key)
    }
}

/// Asks what the header of the block's object says.
pub(super) fn ask(
    store: &dyn TierStore,
    key: Key,
) -> oneshot::Receiver<Result<FrameHeader, StoreError>> {
    let (told, answer) = oneshot::channel();
    // Whoever asked may have no time left.
    store.peek(key, Box::new(move |found| drop(told.send(found))));
    answer
}

/// Whether the header is that of the chain's block at this index.
fn follows(header: &FrameHeader, keys: &[Key], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| keys[before]);
    header.meta.parent == before && header.meta.position as usize == at
}

#[cfg(test)]
mod tests;
