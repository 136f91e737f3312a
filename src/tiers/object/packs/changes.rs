//! Writes what became of frames in packs: small objects in this node's folder, each with all that was
//! asked for within a moment.
//!
//! What could not be written is written with the next: a frame that was erased here is not to come back
//! after a restart.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use super::format::{self, Change, Head, What};
use super::index::Index;
use super::log::Log;
use super::name::{Holds, Name};
use super::same_for_all;
use crate::domain::block::Key;
use crate::env::{self, Clock, SystemClock};
use crate::tiers::store::StoreError;

/// How long the first of several waits for others.
const GATHER: Duration = Duration::from_millis(10);

/// Changes in one object at most.
const CHANGES_MAX: usize = 4_096;

/// How often what could not be written is tried again by itself.
const AGAIN: Duration = Duration::from_secs(5);

/// Changes, and who waits for them.
struct Wish {
    changes: Vec<Change>,
    told: oneshot::Sender<Result<(), StoreError>>,
}

pub(super) struct Changes {
    wishes: mpsc::Sender<Wish>,
    owed: Owed,
}

/// The blocks that were erased here, and that could not be written.
type Owed = Arc<Mutex<BTreeSet<Key>>>;

impl Changes {
    pub fn start(
        log: Arc<Log>,
        index: Arc<Mutex<Index>>,
        wishes_max: usize,
        runtime: &Handle,
    ) -> Self {
        let (wishes, queue) = mpsc::channel(wishes_max);
        let owed = Owed::default();
        let (unwritten, clock) = (Vec::new(), SystemClock::start());
        let clerk = Clerk { log, index, queue, unwritten, owed: Arc::clone(&owed), clock };
        env::spawn_task_on(runtime, clerk.serve());
        Self { wishes, owed }
    }

    /// Whether the block was erased here, and nobody else knows.
    pub fn owes(&self, key: Key) -> bool {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner).contains(&key)
    }

    /// Ends when they are stored and counted, and so is all that could not be written before.
    pub async fn save(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let (told, ended) = oneshot::channel();
        self.wishes.send(Wish { changes, told }).await.map_err(|_| StoreError::Busy)?;
        ended.await.unwrap_or(Err(StoreError::Busy))
    }
}

struct Clerk {
    log: Arc<Log>,
    index: Arc<Mutex<Index>>,
    queue: mpsc::Receiver<Wish>,
    /// Erased frames whose change is not stored.
    unwritten: Vec<Change>,
    owed: Owed,
    clock: SystemClock,
}

impl Clerk {
    async fn serve(mut self) {
        loop {
            let patience = if self.unwritten.is_empty() { Duration::MAX } else { AGAIN };
            match timeout(patience, self.queue.recv()).await {
                Ok(Some(first)) => self.fulfil(first).await,
                // Nobody is told: whoever asked was told then.
                Err(_) => drop(self.write(Vec::new()).await),
                Ok(None) => return,
            }
        }
    }

    async fn fulfil(&mut self, first: Wish) {
        let deadline = Instant::now() + GATHER;
        let mut count = first.changes.len();
        let mut wishes = vec![first];
        while count < CHANGES_MAX
            && let Ok(Some(next)) = timeout_at(deadline, self.queue.recv()).await
        {
            count += next.changes.len();
            wishes.push(next);
        }
        let (changes, waiting): (Vec<_>, Vec<_>) =
            wishes.into_iter().map(|wish| (wish.changes, wish.told)).unzip();
        let ended = self.write(changes.concat()).await;
        for told in waiting {
            // Whoever asked may have gone.
            let _ = told.send(ended.as_ref().copied().map_err(same_for_all));
        }
    }

    /// Writes these, and what is owed.
    async fn write(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        let mut all = std::mem::take(&mut self.unwritten);
        all.extend(changes);
        let mut ended = Ok(());
        for part in all.chunks(CHANGES_MAX) {
            if ended.is_ok() {
                ended = self.write_part(part.to_vec()).await;
            }
            if ended.is_err() {
                let erased = part.iter().filter(|one| matches!(one.what, What::Erased { .. }));
                self.unwritten.extend(erased);
            }
        }
        let owed = self.unwritten.iter().map(|change| change.key).collect();
        *self.owed.lock().unwrap_or_else(PoisonError::into_inner) = owed;
        ended
    }

    async fn write_part(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let pages = format::head_pages(Holds::Changes, changes.len());
        let head = Head::Changes(changes.clone());
        let body = |name: &Name| vec![Bytes::from(format::encode(name, &head))];
        let name = self.log.write((Holds::Changes, pages), body).await?;
        let now = self.clock.now();
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        // At once: who clears away must not see an object whose changes nobody seems to need.
        index.change_all(&changes, true, now);
        index.logged(name, &changes);
        Ok(())
    }
}
