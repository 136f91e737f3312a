//! Objects that the store refuses by themselves: archived, or encrypted with a key that is disabled.
//!
//! One of them costs what it holds, as a pack does for which there is no room, and not every miss and every
//! erase. Never reads one that is given again by itself: what became of its frames may be forgotten here, so
//! all that is there is read anew, changes first.

use futures_util::future::join_all;

use super::{Feed, Place, State};
use crate::tiers::object::packs::name::Name;
use crate::tiers::store::StoreError;

/// Objects that are asked for at once.
const ASKED_AT_ONCE: usize = 16;

impl Feed {
    /// Passes it over if it was refused often enough.
    ///
    /// # Errors
    /// It was not, and is tried again.
    pub(super) fn keep_refused(
        &self,
        state: &mut State,
        name: &Name,
        error: StoreError,
    ) -> Result<(), StoreError> {
        if !state.place(name).refuse(*name) {
            return Err(error);
        }
        self.with(|index| index.note_hidden(name));
        if !std::mem::replace(&mut state.is_told_refused, true) {
            tracing::warn!(
                "objects of packs are refused, one by one: their blocks are not found here, and what they \
                 say of others does not count, until they are given again: {error}"
            );
        }
        Ok(())
    }

    /// Asks for what was refused. If any is given again, the next look reads all that is there.
    pub async fn ask_for_refused(&self) -> bool {
        let refused = self.state.lock().await.refused();
        let mut is_back = false;
        for group in refused.chunks(ASKED_AT_ONCE) {
            let names: Vec<String> = group.iter().map(ToString::to_string).collect();
            let heads = join_all(names.iter().map(|name| self.blobs.head(name, 1))).await;
            let mut state = self.state.lock().await;
            for (name, head) in group.iter().zip(heads) {
                match head {
                    Ok(_) => is_back |= state.place(name).give_back(name),
                    Err(StoreError::Missing(_)) => self.pass_over(&mut state, name),
                    Err(_) => {}
                }
            }
        }
        if is_back {
            self.state.lock().await.start_over();
        }
        is_back
    }
}

impl State {
    fn refused(&self) -> Vec<Name> {
        self.writers.values().flat_map(Place::refused).copied().collect()
    }

    fn start_over(&mut self) {
        self.looked = None;
        self.is_told_refused = false;
        self.writers.values_mut().for_each(Place::start_over);
    }
}
