//! Looks now and then whether the packs that are known are still there: a lifecycle rule, another node or
//! an operator deletes them without a word. And whether those are given again that were refused.
//!
//! One LIST of each folder, and one HEAD for each pack that it does not show. Deletes nothing, and
//! forgets no pack before what may have been moved out of it was looked for.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;

use super::Packs;
use super::index::Index;
use super::name::{self, Name, Writer};
use crate::tiers::object::guard::jittered;
use crate::tiers::store::StoreError;

/// Packs that are asked for at once.
const ASKED_AT_ONCE: usize = 16;

/// Sweeps until the store is gone.
pub(super) async fn serve(packs: Weak<Packs>, every: Duration) {
    loop {
        sleep(jittered(every)).await;
        let Some(packs) = packs.upgrade() else { return };
        if let Err(error) = packs.sweep().await {
            tracing::debug!(%error, "packs could not all be looked for; they are the next time");
        }
    }
}

impl Packs {
    /// Forgets packs that are gone, and reads those that are given again.
    pub(super) async fn sweep(&self) -> Result<(), StoreError> {
        let mut ended = Ok(());
        if self.feed.ask_for_refused().await {
            ended = self.look().await;
        }
        let late = self.with(Index::take_late);
        if !late.is_empty() {
            // What can't be written is owed, and written later.
            ended = ended.and(self.changes.save(late).await);
        }
        let mut unlisted = Vec::new();
        for (writer, known) in self.with(|index| index.names()) {
            match self.unlisted(writer, known).await {
                Ok(names) => unlisted.extend(names),
                // Others' folders may tell.
                Err(error) => ended = Err(error),
            }
        }
        if unlisted.is_empty() {
            return ended;
        }
        let gone = self.really_gone(&unlisted).await?;
        // What lived in them may have been moved to where nobody has looked.
        self.look().await?;
        for pack in &gone {
            self.forget(pack);
        }
        self.publish();
        ended
    }

    /// Those of a writer's packs that its folder does not show.
    async fn unlisted(&self, writer: Writer, known: Vec<Name>) -> Result<Vec<Name>, StoreError> {
        let listed = self.blobs.list(&name::folder_of(writer), "").await?;
        let there: BTreeSet<Name> =
            listed.iter().filter_map(|one| Name::parse(writer, &one.name)).collect();
        Ok(known.into_iter().filter(|name| !there.contains(name)).collect())
    }

    /// Those of the packs that are not there when they are asked for: a list may be late.
    async fn really_gone(&self, packs: &[Name]) -> Result<Vec<Name>, StoreError> {
        let mut gone = Vec::new();
        for group in packs.chunks(ASKED_AT_ONCE) {
            let names: Vec<String> = group.iter().map(ToString::to_string).collect();
            let heads = join_all(names.iter().map(|name| self.blobs.head(name, 1))).await;
            for (pack, head) in group.iter().zip(heads) {
                match head {
                    Err(StoreError::Missing(_)) => gone.push(*pack),
                    head => drop(head?),
                }
            }
        }
        Ok(gone)
    }
}
