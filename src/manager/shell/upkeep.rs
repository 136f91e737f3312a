//! Upkeep of what is stored: erasing frames, writing their records again, letting pools go.
//!
//! Moves no block.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::complaints::Deed;
use super::ends::on_end;
use super::mailbox::deliver;
use super::perform::{NO_PLACE, Performer, read_failure};
use super::shared::ask;
use crate::domain::block::Key;
use crate::domain::retention::RetentionRecord;
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::env;
use crate::manager::Looked;
use crate::manager::api::{Event, FailureKind, Reply, RestampEnd};
use crate::tiers::frame::FrameHeader;
use crate::tiers::hbm::{EnginePool, Gone};
use crate::tiers::store::{Erasure, Place, StoreError, StoreOp, TierStore};

/// An erase that fails is tried again at once: what it leaves, a restart would find. What was promised
/// the manager asks for again later.
const ERASE_TRIES: usize = 3;

/// Erasures that wait, and the tasks that do them: as many as each store takes, so that none waits for a
/// slower store's. A tenant's blocks may all be due at once: what waits is no more than its name.
pub(super) struct Erasing {
    nvme: Line,
    object: Line,
}

/// One store's.
struct Line {
    waiting: Mutex<Waiting>,
    tasks_max: usize,
}

#[derive(Default)]
struct Waiting {
    erasures: VecDeque<Wanted>,
    tasks: usize,
}

/// One frame that is to go.
struct Wanted {
    place: Option<Place>,
    key: Key,
    why: Erasure,
}

impl Erasing {
    pub fn of(nvme: Option<&Arc<dyn TierStore>>, object: Option<&Arc<dyn TierStore>>) -> Self {
        let line = |store: Option<&Arc<dyn TierStore>>| Line {
            waiting: Mutex::default(),
            tasks_max: store.map_or(0, |store| store.erasures_max()),
        };
        Self { nvme: line(nvme), object: line(object) }
    }

    fn line(&self, tier: Tier) -> &Line {
        if tier == Tier::Object { &self.object } else { &self.nvme }
    }
}

impl Line {
    /// Enters it. True: one more task is to be begun, which [`Self::next`] ends.
    fn enter(&self, wanted: Wanted) -> bool {
        let mut waiting = self.lock();
        waiting.erasures.push_back(wanted);
        let takes_one_more = waiting.tasks < self.tasks_max;
        waiting.tasks += usize::from(takes_one_more);
        takes_one_more
    }

    /// The next one for a task. Nothing: the task is over.
    fn next(&self) -> Option<Wanted> {
        let mut waiting = self.lock();
        let next = waiting.erasures.pop_front();
        waiting.tasks -= usize::from(next.is_none());
        next
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
        if !performer.erasing.line(tier).enter(Wanted { place, key, why }) {
            return;
        }
        let this = Arc::clone(performer);
        env::spawn_task_on(&performer.runtime, async move {
            while let Some(wanted) = this.erasing.line(tier).next() {
                let (place, key) = (wanted.place, wanted.key);
                let done = this.erased(tier, wanted).await;
                deliver(&this.events, Event::Erased { tier, place, key, done }).await;
            }
        });
    }

    /// Whether it is gone, or to be left.
    async fn erased(&self, tier: Tier, Wanted { place, key, why }: Wanted) -> bool {
        if why == Erasure::ForRoom && self.is_others(tier, key).await {
            return true;
        }
        let place = place.unwrap_or(NO_PLACE);
        for _ in 0..ERASE_TRIES {
            match self.on_store(tier, StoreOp::Erase { key, place, why }).await {
                Ok(()) => return true,
                Err(error) => self.complaints.note(Deed::Erase(tier, key), &error),
            }
        }
        false
    }

    /// Whether another node wrote the object: whoever finds one there already does not write it. Not asked
    /// where the store leaves those by itself.
    async fn is_others(&self, tier: Tier, key: Key) -> bool {
        if self.store(tier).leaves_others() {
            return false;
        }
        match self.header_of(tier, key).await {
            Ok(header) => header.node_id != self.node_id,
            // Nothing to erase, or nothing that serves anybody.
            Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => false,
            // Nobody can tell: an object too many is better than one too few.
            Err(_) => true,
        }
    }

    /// Writes a record into a stored frame's header; the manager hears of the end. It bounds how
    /// many there are.
    pub fn restamp(
        performer: &Arc<Self>,
        (tier, place): (Tier, Option<Place>),
        key: Key,
        (record, known): (RetentionRecord, Time),
    ) {
        let this = Arc::clone(performer);
        env::spawn_task_on(&performer.runtime, async move {
            let op = StoreOp::Restamp { key, place: place.unwrap_or(NO_PLACE), record, known };
            let ended = this.on_store(tier, op).await;
            let end = match ended {
                Ok(()) => RestampEnd::Written,
                Err(StoreError::Outdone(header)) => RestampEnd::Outdone(header.meta.record),
                Err(error) => {
                    this.complaints.note(Deed::Restamp(tier, key), &error);
                    match read_failure(&error) {
                        FailureKind::SourceMissing => RestampEnd::Missing,
                        FailureKind::SourceCorrupt => RestampEnd::Corrupt,
                        _ => RestampEnd::Failed,
                    }
                }
            };
            deliver(&this.events, Event::Restamped { tier, key, end }).await;
        });
    }

    /// Reads the header of the block's object; the manager hears what it says.
    pub fn look_again(performer: &Arc<Self>, key: Key) {
        let this = Arc::clone(performer);
        env::spawn_task_on(&performer.runtime, async move {
            let found = match this.header_of(Tier::Object, key).await {
                Ok(header) => Looked::Header(Box::new(header)),
                Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => Looked::Gone,
                Err(_) => Looked::Unknown,
            };
            deliver(&this.events, Event::StrayLookedAt { key, found }).await;
        });
    }

    async fn header_of(&self, tier: Tier, key: Key) -> Result<FrameHeader, StoreError> {
        ask(self.store(tier).as_ref(), key).await.unwrap_or(Err(StoreError::Busy))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime;

    use super::super::complaints::Complaints;
    use super::super::perform::Turns;
    use super::super::sealing::SealThreads;
    use super::super::staging::Staging;
    use super::super::tests::{Engines, arena};
    use super::*;
    use crate::domain::namespace::example;
    use crate::tiers::store::{Done, Peeked};

    const AT_ONCE_MAX: usize = 8;

    /// A store whose erasures end when the test says so, and of whose frames nobody can tell who wrote them.
    #[derive(Default)]
    struct Slow {
        erasures: Mutex<Vec<Done>>,
        leaves_others: bool,
    }

    impl TierStore for Slow {
        fn tier(&self) -> Tier {
            Tier::Nvme
        }

        fn submit(&self, _: StoreOp, done: Done) {
            self.erasures.lock().unwrap().push(done);
        }

        fn peek(&self, _: Key, told: Peeked) {
            told(Err(StoreError::Busy));
        }

        fn erasures_max(&self) -> usize {
            AT_ONCE_MAX
        }

        fn leaves_others(&self) -> bool {
            self.leaves_others
        }
    }

    fn performer(store: &Arc<Slow>, events: crossbeam_channel::Sender<Event>) -> Arc<Performer> {
        let nvme: Arc<dyn TierStore> = Arc::clone(store) as _;
        Arc::new(Performer {
            arena: arena(),
            staging: Staging::new(0..0),
            turns: Turns::of(|_| 1),
            device: Arc::new(Engines::default()),
            erasing: Erasing::of(Some(&nvme), None),
            nvme: Some(nvme),
            object: None,
            node_id: [0; 16],
            events,
            complaints: Arc::new(Complaints::start()),
            seal_threads: Arc::new(SealThreads::start().unwrap()),
            runtime: runtime::Handle::current(),
        })
    }

    #[tokio::test]
    async fn a_store_that_leaves_what_others_wrote_is_told_of_every_erasure_for_room() {
        let key = example().digest().key(b"a block");
        for leaves_others in [false, true] {
            let (events, told) = crossbeam_channel::bounded(1);
            let store = Arc::new(Slow { leaves_others, ..Slow::default() });
            let performer = performer(&store, events);
            let wanted = Wanted { place: None, key, why: Erasure::ForRoom };
            let erased = performer.erased(Tier::Nvme, wanted);
            let end = async {
                let dones = std::mem::take(&mut *store.erasures.lock().unwrap());
                assert_eq!(dones.len(), usize::from(leaves_others));
                for done in dones {
                    done(Ok(()));
                }
            };
            assert!(futures_util::future::join(erased, end).await.0);
            drop(told);
        }
    }

    #[tokio::test]
    async fn erasures_that_wait_are_no_tasks() {
        let count = 10_000_u64;
        let (events, told) = crossbeam_channel::bounded(16);
        let store = Arc::new(Slow::default());
        let performer = performer(&store, events);
        let tasks = || runtime::Handle::current().metrics().num_alive_tasks();
        let before = tasks();
        for n in 0..count {
            let key = example().digest().key(&n.to_le_bytes());
            Performer::erase(&performer, (Tier::Nvme, Some(NO_PLACE)), key, Erasure::Unusable);
        }
        let mut ended = 0;
        while ended < count {
            assert!(tasks() <= before + AT_ONCE_MAX, "{} tasks", tasks());
            tokio::time::sleep(Duration::from_micros(1)).await;
            let dones = std::mem::take(&mut *store.erasures.lock().unwrap());
            assert!(dones.len() <= AT_ONCE_MAX);
            for done in dones {
                done(Ok(()));
            }
            // The manager is slower than they are: the tasks wait for room.
            ended += told.try_iter().take(AT_ONCE_MAX).count() as u64;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(tasks(), before, "nobody waits for more");
    }
}
