//! Follows the journal of residency for one reader: what is here, if that was asked for, and then
//! what changes.
//!
//! Reads at the reader's pace and keeps nothing for it: what it did not read in time is lost, and it
//! is told so. Knows no protobuf.

use std::sync::Arc;

use crate::domain::directory::Change;
use crate::manager::NamespaceEntry;
use crate::manager::api::Refusal;
use crate::manager::shell::{Batch, Entry, Journal, Page};

use super::backend::Backend;
use super::error::CallError;

/// Where a reader begins.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Start {
    /// The batch to go on with, and the daemon's life that numbered it.
    pub(super) from: Option<(u64, u64)>,
    /// Whether a hole is mended by telling what is here.
    pub(super) snapshot: bool,
}

/// What a reader is told next.
#[derive(Debug)]
pub(super) enum Told {
    /// Forget what you know.
    Reset,
    /// The batches from `from` to before `next` are gone.
    Lost {
        from: u64,
        next: u64,
    },
    Batch(Arc<Batch>),
    /// What is here of some of the directory, and the batch that comes after it.
    Part {
        next: u64,
        namespace: Arc<NamespaceEntry>,
        changes: Vec<Change>,
    },
    /// The parts are over: with the batches among them they are all that is here.
    Complete {
        next: u64,
    },
}

/// One reader's place in the journal.
pub(super) struct Follower<B: Backend> {
    backend: B,
    pub(super) journal: Arc<Journal>,
    /// The batch that is read next.
    next: u64,
    snapshot: bool,
    stage: Stage,
}

enum Stage {
    /// The reader is about to hear that what it knows counts for nothing.
    Resetting,
    /// The directory from this row on is to be read.
    Scanning(u32),
    /// Batches up to this page, then its parts.
    Paging(Page),
    Live,
}

impl<B: Backend> Follower<B> {
    pub(super) fn new(backend: B, start: Start) -> Result<Self, CallError> {
        let journal = backend.journal().ok_or_else(|| {
            CallError::Refused(Refusal::Precondition(
                "this daemon keeps no journal of residency: start it with events.history above 0"
                    .into(),
            ))
        })?;
        let newest = journal.next_sequence();
        let (stage, next) = match start.from {
            Some((from, life)) if life == journal.life() && from <= newest => (Stage::Live, from),
            // Another life began with nothing, and its first batch is number 0.
            Some(_) => (Stage::Resetting, 0),
            None if start.snapshot => (Stage::Resetting, newest),
            None => (Stage::Live, newest),
        };
        Ok(Self { backend, journal, next, snapshot: start.snapshot, stage })
    }

    /// What comes next; waits for it.
    pub(super) async fn next(&mut self) -> Result<Told, CallError> {
        loop {
            let told = match std::mem::replace(&mut self.stage, Stage::Live) {
                Stage::Resetting => Some(self.reset()),
                Stage::Scanning(row) => {
                    self.scan(row).await?;
                    None
                }
                Stage::Paging(page) => self.page(page),
                Stage::Live => {
                    let entry = self.journal.follow(self.next).await;
                    self.take(entry)
                }
            };
            if let Some(told) = told {
                return Ok(told);
            }
        }
    }

    fn reset(&mut self) -> Told {
        if self.snapshot {
            self.stage = Stage::Scanning(0);
        }
        Told::Reset
    }

    async fn scan(&mut self, row: u32) -> Result<(), CallError> {
        let page = self.backend.residents(row).await?;
        if row == 0 {
            // What was told before is in the page.
            self.next = page.as_of;
        }
        self.stage = Stage::Paging(page);
        Ok(())
    }

    fn page(&mut self, mut page: Page) -> Option<Told> {
        if self.next < page.as_of {
            let entry = self.journal.at(self.next);
            self.stage = Stage::Paging(page);
            return self.take(entry.expect("a page is as of batches that were appended"));
        }
        let next = self.next;
        let Some((namespace, changes)) = page.parts.pop() else {
            return match page.next_row {
                Some(row) => {
                    self.stage = Stage::Scanning(row);
                    None
                }
                None => Some(Told::Complete { next }),
            };
        };
        self.stage = Stage::Paging(page);
        Some(Told::Part { next, namespace, changes })
    }

    fn take(&mut self, entry: Entry) -> Option<Told> {
        match entry {
            Entry::Batch(batch) => {
                self.next += 1;
                Some(Told::Batch(batch))
            }
            Entry::Lost { .. } if self.snapshot => {
                self.stage = Stage::Resetting;
                None
            }
            Entry::Lost { oldest } => {
                let from = std::mem::replace(&mut self.next, oldest);
                Some(Told::Lost { from, next: oldest })
            }
        }
    }
}
