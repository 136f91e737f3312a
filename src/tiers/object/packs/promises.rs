//! Blocks with a promise to forget lie beside packs, each as an object of its own. Whoever packs a block looks for
//! that first: in the pack the promise would not reach it.
//!
//! Only where there are such objects, which a marker beside the nodes' folders says: nobody pays who promises
//! nothing. The marker is there before the first of them. A node that has seen it once counts on it.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;

use super::batch::Joining;
use super::{FOLDER, Packs};
use crate::tiers::object::blobs::Listed;
use crate::tiers::store::StoreError;
use crate::tiers::ticket::Ticket;

/// The marker's name, in the folder of all packs.
const MARKER: &str = "promises";

const TEXT: &[u8] = b"Some blocks beside these packs are promised to be forgotten.\n";

/// What is known of the marker.
#[derive(Default)]
pub(super) struct Promises {
    is_there: AtomicBool,
    was_there: AtomicBool,
}

pub(super) fn is_marker(listed: &Listed) -> bool {
    listed.name == MARKER && !listed.is_folder
}

impl Promises {
    /// The folder was listed.
    pub fn looked(&self, is_there: bool) {
        self.is_there.store(is_there, Ordering::Relaxed);
        if is_there {
            self.was_there.store(true, Ordering::Relaxed);
        }
    }
}

impl Packs {
    /// Has the store inside take what has a promise.
    pub(super) async fn hand_on_promised(&self, ticket: Ticket) {
        match self.mark_promises().await {
            Ok(()) => self.hand_on(ticket),
            Err(error) => ticket.finish(Err(error)),
        }
    }

    async fn mark_promises(&self) -> Result<(), StoreError> {
        if self.promises.is_there.load(Ordering::Relaxed) {
            return Ok(());
        }
        let name = format!("{FOLDER}{MARKER}");
        self.blobs.put_lasting(&name, vec![Bytes::from_static(TEXT)]).await?;
        self.promises.looked(true);
        Ok(())
    }

    /// Those that may go into a pack. What lies beside packs already gets its record there.
    pub(super) async fn without_singles(&self, joining: Vec<Joining>) -> Vec<Joining> {
        if joining.is_empty() || !self.promises.was_there.load(Ordering::Relaxed) {
            return joining;
        }
        let peeks = joining.iter().map(|one| self.peek_inside(one.header.meta.key));
        let found = join_all(peeks).await;
        let mut packed = Vec::with_capacity(joining.len());
        for (one, found) in joining.into_iter().zip(found) {
            match found {
                Err(StoreError::Missing(_)) => packed.push(one),
                Ok(_) | Err(StoreError::Corrupt(_)) => self.hand_on(one.ticket),
                Err(error) => one.ticket.finish(Err(error)),
            }
        }
        packed
    }
}
