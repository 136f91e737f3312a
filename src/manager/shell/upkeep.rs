//! Upkeep of what is stored: erasing frames, writing their records again, letting pools go.
//!
//! Moves no block.

use std::sync::Arc;

use tokio::sync::{Semaphore, SemaphorePermit, oneshot};

use super::complaints::Deed;
use super::ends::on_end;
use super::perform::{NO_PLACE, Performer, read_failure};
use crate::domain::block::Key;
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::env;
use crate::manager::api::{Event, FailureKind, Reply, RestampEnd};
use crate::tiers::hbm::{EnginePool, Gone};
use crate::tiers::store::{Erasure, Place, StoreError, StoreOp, TierStore};

/// An erase that fails is tried again at once: what it leaves, a restart would find. What was promised
/// the manager asks for again later.
const ERASE_TRIES: usize = 3;

/// Erasures at a time: as many as each store takes, so that none waits for a slower store's.
pub(super) struct Erasing {
    nvme: Semaphore,
    object: Semaphore,
}

impl Erasing {
    pub fn of(nvme: Option<&Arc<dyn TierStore>>, object: Option<&Arc<dyn TierStore>>) -> Self {
        let turns = |store: Option<&Arc<dyn TierStore>>| {
            Semaphore::new(store.map_or(0, |store| store.erasures_max()))
        };
        Self { nvme: turns(nvme), object: turns(object) }
    }

    async fn turn(&self, tier: Tier) -> Option<SemaphorePermit<'_>> {
        let turns = if tier == Tier::Object { &self.object } else { &self.nvme };
        // Never closed.
        turns.acquire().await.ok()
    }
}

impl Performer {
    /// Erases what is there, a bounded number at a time; the manager hears of the end.
    pub fn erase(
        performer: &Arc<Self>,
        (tier, place): (Tier, Option<Place>),
        key: Key,
        why: Erasure,
    ) {
        let this = Arc::clone(performer);
        env::spawn_task_on(&performer.runtime, async move {
            let _turn = this.erasing.turn(tier).await;
            let at = place.unwrap_or(NO_PLACE);
            let is_left = why == Erasure::ForRoom && this.is_others(tier, key).await;
            let tries = if is_left { 0 } else { ERASE_TRIES };
            let mut done = is_left;
            for _ in 0..tries {
                let erase = StoreOp::Erase { key, place: at, why };
                let Err(error) = this.on_store(tier, erase).await else {
                    done = true;
                    break;
                };
                this.complaints.note(Deed::Erase(tier, key), &error);
            }
            // A manager that has stopped needs no answer.
            let _ = this.events.send(Event::Erased { tier, place, key, done });
        });
    }

    /// Whether another node wrote the object: whoever finds one there already does not write it.
    async fn is_others(&self, tier: Tier, key: Key) -> bool {
        let (told, answer) = oneshot::channel();
        // The receiver is gone only when the runtime stops.
        self.store(tier).peek(key, Box::new(move |found| drop(told.send(found))));
        match answer.await {
            Ok(Ok(header)) => header.node_id != self.node_id,
            // Nothing to erase, or nothing that serves anybody.
            Ok(Err(StoreError::Missing(_) | StoreError::Corrupt(_))) => false,
            // Nobody can tell: an object too many is better than one too few.
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// Writes a record into a stored frame's header; the manager hears of the end. It bounds how
    /// many there are.
    pub fn restamp(
        performer: &Arc<Self>,
        (tier, place): (Tier, Option<Place>),
        key: Key,
        record: RetentionRecord,
    ) {
        let this = Arc::clone(performer);
        env::spawn_task_on(&performer.runtime, async move {
            let place = place.unwrap_or(NO_PLACE);
            let end = match this.on_store(tier, StoreOp::Restamp { key, place, record }).await {
                Ok(()) => RestampEnd::Written,
                Err(error) => {
                    this.complaints.note(Deed::Restamp(tier, key), &error);
                    match read_failure(&error) {
                        FailureKind::SourceMissing => RestampEnd::Missing,
                        FailureKind::SourceCorrupt => RestampEnd::Corrupt,
                        _ => RestampEnd::Failed,
                    }
                }
            };
            // A manager that has stopped needs no answer.
            let _ = this.events.send(Event::Restamped { tier, key, end });
        });
    }

    /// Runs one operation to its end.
    async fn on_store(&self, tier: Tier, op: StoreOp) -> Result<(), StoreError> {
        let (done, ended) = on_end();
        self.store(tier).submit(op, done);
        ended.await.unwrap_or_else(|_| Err(StoreError::TierLost("it stopped".into())))
    }

    /// Tells that a pool was given back, once it is.
    pub fn tell_when_gone(&self, pool: Gone, mut answer: oneshot::Sender<Reply>) {
        env::spawn_task_on(&self.runtime, async move {
            tokio::select! {
                // Whoever asked has given up waiting.
                () = answer.closed() => {}
                () = pool.wait() => drop(answer.send(Reply::Ok)),
            }
        });
    }

    /// Lets go of a pool's memory, which takes a while when it is large or lies on a GPU.
    pub fn unmap(&self, memory: Arc<EnginePool>) {
        let runtime = self.runtime.clone();
        env::spawn_task_on(&self.runtime, async move {
            let _ = env::spawn_blocking_on(&runtime, move || drop(memory)).await;
        });
    }
}
