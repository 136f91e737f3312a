//! Small blocks packed into large objects: a store around the one that keeps each block in an object of
//! its own.
//!
//! A pack is one object, written by one PUT: a table of contents, then whole frames as they are. What
//! changes in it afterwards, a record or an erased frame, is written beside it as a small object, and
//! every node reads along what others write. So nobody rewrites what another one wrote, and no order
//! between nodes matters. Long blocks, those with a promise to forget, and a few that nobody joins go to
//! the store inside, which is asked for whatever no pack has. Never answers a write before its pack is
//! stored, and never serves a frame that it did not verify.

mod batch;
mod changes;
mod erase;
mod feed;
mod format;
mod index;
mod log;
mod name;
mod promises;
mod reads;
mod scan;
mod shed;
mod sweep;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::blobs::Blobs;
use super::question::Question;
use crate::domain::block::Key;
use crate::domain::retention::{NewRecord, RetentionRecord};
use crate::domain::tier::Tier;
use crate::domain::units::Time;
use crate::env::{self, Clock, SystemClock};
use crate::tiers::dram::Arena;
use crate::tiers::frame::FrameHeader;
use crate::tiers::health::Health;
use crate::tiers::store::{Done, FoundFrame, Peeked, Place, StoreError, StoreOp, TierStore};
use crate::tiers::ticket::{Gate, Ticket};

use changes::Changes;
use feed::Feed;
use format::{Change, What};
use index::{Found, Index};
use log::Log;
use name::{Name, Writer};
use promises::Promises;

/// Where all of it lies, below the store's own prefix.
pub(super) const FOLDER: &str = "v1/packs/";

/// What this node knows of packs: how many there are, and the blocks in them.
pub const PACKS: &str = "terrace_object_packs";
pub const PACKED_BLOCKS: &str = "terrace_object_packed_blocks";

/// What is packed, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackOptions {
    /// Frames shorter than this are packed.
    pub frames_below_bytes: u32,
    /// A pack is closed when it has so many bytes, or when its first frame has waited so long.
    pub pack_bytes: u64,
    pub linger: Duration,
    /// Fewer frames than this go into objects of their own.
    pub frames_min: usize,
    /// How old what is known of others' packs may be when a block is looked for.
    pub freshness: Duration,
    /// For how long a pack that was seen to be there is taken to be, by who writes a block that it has.
    pub trusted_for: Duration,
    /// Frames that are known at most: what this node writes beyond it is not packed, and what others
    /// packed beyond it is not found.
    pub frames_max: usize,
    /// How often it is looked whether known packs are still there.
    pub swept_every: Duration,
    /// The node's id: its packs are found again after a restart.
    pub node_id: Writer,
}

impl PackOptions {
    #[must_use]
    pub fn new(node_id: [u8; 16]) -> Self {
        Self {
            frames_below_bytes: 1 << 20,
            pack_bytes: 8 << 20,
            linger: Duration::from_millis(20),
            frames_min: 4,
            freshness: Duration::from_secs(1),
            trusted_for: Duration::from_mins(1),
            frames_max: 1_000_000,
            swept_every: Duration::from_mins(10),
            node_id,
        }
    }
}

/// The object tier with small blocks in packs.
pub(super) struct PackedStore {
    gate: Arc<Gate>,
    writes: mpsc::Sender<Ticket>,
    reads: mpsc::Sender<Ticket>,
    /// Turns of those who ask for headers.
    questions: Arc<Semaphore>,
    erasures_max: usize,
    packs: Arc<Packs>,
}

/// What the tasks of a store share.
struct Packs {
    inner: Arc<dyn TierStore>,
    blobs: Arc<dyn Blobs>,
    index: Arc<Mutex<Index>>,
    log: Arc<Log>,
    feed: Feed,
    promises: Arc<Promises>,
    changes: Changes,
    /// Wakes who clears away.
    untidy: mpsc::Sender<()>,
    /// Whether somebody was told that there is no room to know more.
    is_told_full: AtomicBool,
    arena: Arc<Arena>,
    options: PackOptions,
    runtime: Handle,
    clock: SystemClock,
}

impl PackedStore {
    /// Around `inner`, whose objects lie in the same place as `blobs`.
    pub fn new(
        (inner, blobs): (Arc<dyn TierStore>, Arc<dyn Blobs>),
        options: PackOptions,
        ops_max: usize,
        arena: &Arc<Arena>,
        runtime: &Handle,
    ) -> Self {
        let own = options.node_id;
        let index = Arc::new(Mutex::new(Index::new(own, options.frames_max)));
        let log = Arc::new(Log::new(Arc::clone(&blobs), own));
        let promises = Arc::new(Promises::default());
        let known = (Arc::clone(&index), Arc::clone(&promises));
        let feed = Feed::new(Arc::clone(&blobs), known, Arc::clone(&log), own);
        let (untidy, woken) = mpsc::channel(1);
        let packs = Arc::new(Packs {
            inner,
            blobs,
            changes: Changes::start(Arc::clone(&log), Arc::clone(&index), ops_max, runtime),
            index,
            log,
            feed,
            promises,
            untidy,
            is_told_full: AtomicBool::new(false),
            arena: Arc::clone(arena),
            options,
            runtime: runtime.clone(),
            clock: SystemClock::start(),
        });
        let (writes, to_write) = mpsc::channel(ops_max);
        let (reads, to_read) = mpsc::channel(ops_max);
        env::spawn_task_on(runtime, batch::serve(Arc::clone(&packs), to_write));
        env::spawn_task_on(runtime, reads::serve(Arc::clone(&packs), to_read));
        env::spawn_task_on(runtime, shed::serve(Arc::downgrade(&packs), woken));
        env::spawn_task_on(runtime, sweep::serve(Arc::downgrade(&packs), options.swept_every));
        let early = Arc::clone(&packs);
        env::spawn_task_on(runtime, async move {
            // Whoever needs it asks again.
            let _ = early.catch_up().await;
        });
        // Each may ask for a header, and lookups want to as well.
        let erasures_max = (ops_max / 16).max(1);
        let questions = Arc::new(Semaphore::new(ops_max));
        Self { gate: Gate::new(ops_max), writes, reads, questions, erasures_max, packs }
    }
}

impl TierStore for PackedStore {
    fn tier(&self) -> Tier {
        Tier::Object
    }

    fn submit(&self, op: StoreOp, done: Done) {
        let packs = &self.packs;
        let is_packed = packs.find(key_of(&op)).is_some();
        if let StoreOp::Write { frame, .. } = op
            && frame.bytes >= packs.options.frames_below_bytes
            && !is_packed
        {
            return packs.inner.submit(op, done);
        }
        let Some(ticket) = self.gate.admit(op, done) else { return };
        match op {
            // What finds no room in a queue is dropped, which answers it.
            StoreOp::Write { .. } => drop(self.writes.try_send(ticket)),
            StoreOp::Read { .. } if is_packed => drop(self.reads.try_send(ticket)),
            StoreOp::Read { .. } => Packs::read_single(packs, ticket),
            StoreOp::Erase { key, why, .. } => {
                let erasing = Arc::clone(packs);
                env::spawn_task_on(&packs.runtime, async move {
                    let ended = erasing.erase(key, why, op).await;
                    ticket.finish(ended);
                });
            }
            StoreOp::Restamp { key, record, known, .. } => {
                let new = NewRecord::of_change(record, known);
                let stamping = Arc::clone(packs);
                env::spawn_task_on(&packs.runtime, async move {
                    match stamping.look().await {
                        Ok(()) => stamping.restamp(key, new, ticket).await,
                        // A record made of what was there long ago might outdo one that came since.
                        Err(error) => ticket.finish(Err(error)),
                    }
                });
            }
        }
    }

    fn sync(&self, done: Done) {
        self.packs.inner.sync(done);
    }

    fn peek(&self, key: Key, told: Peeked) {
        let (packs, question) = (Arc::clone(&self.packs), Question::new(key, told));
        // What finds no turn is dropped, which answers it.
        let Ok(turn) = Arc::clone(&self.questions).try_acquire_owned() else { return };
        env::spawn_task_on(&self.packs.runtime, async move {
            let _turn = turn;
            let found = packs.peek(key).await;
            question.answer(found);
        });
    }

    /// Erasures wait for each other, not for the store: it is told of all that come together at once.
    fn erasures_max(&self) -> usize {
        self.erasures_max
    }

    /// A block may have frames of several nodes: who asks for its header hears of one.
    fn leaves_others(&self) -> bool {
        true
    }

    fn health(&self) -> Health {
        self.packs.inner.health()
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        self.packs.scan(found)
    }
}

impl Packs {
    fn with<T>(&self, look: impl FnOnce(&mut Index) -> T) -> T {
        look(&mut self.index.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self) -> Time {
        self.clock.now()
    }

    fn find(&self, key: Key) -> Option<Found> {
        self.with(|index| index.find(key))
    }

    /// Knows what others had written a moment ago.
    async fn catch_up(&self) -> Result<(), StoreError> {
        self.look_since(self.options.freshness).await
    }

    /// Knows all that others have written.
    async fn look(&self) -> Result<(), StoreError> {
        self.look_since(Duration::ZERO).await
    }

    /// The same for who clears away, who is not to be woken by what it knows.
    async fn look_unheard(&self) -> Result<(), StoreError> {
        let caught_up = self.feed.catch_up(Duration::ZERO).await;
        self.publish();
        caught_up
    }

    async fn look_since(&self, age_max: Duration) -> Result<(), StoreError> {
        let caught_up = self.feed.catch_up(age_max).await;
        self.publish();
        if self.with(|index| index.is_untidy()) {
            self.wake();
        }
        caught_up
    }

    /// Has somebody clear away.
    fn wake(&self) {
        // One who is woken already sees it too.
        let _ = self.untidy.try_send(());
    }

    fn publish(&self) {
        let (packs, blocks) = self.with(|index| index.counts());
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let shown = |count: usize| count as f64;
        metrics::gauge!(PACKS).set(shown(packs));
        metrics::gauge!(PACKED_BLOCKS).set(shown(blocks));
    }

    /// Has the store inside do it.
    fn hand_on(&self, ticket: Ticket) {
        self.inner.submit(ticket.op, Box::new(move |result| ticket.finish(result)));
    }

    /// The same for a block whose pack turned out to be gone.
    fn hand_on_from(&self, pack: Name, ticket: Ticket) {
        let named = move |error| match error {
            StoreError::Missing(_) => StoreError::Missing(format!("its pack {pack} is gone")),
            error => error,
        };
        let op = ticket.op;
        self.inner.submit(op, Box::new(move |result| ticket.finish(result.map_err(named))));
    }

    async fn peek(&self, key: Key) -> Result<FrameHeader, StoreError> {
        if self.find(key).is_some() {
            self.catch_up().await.or_else(|error| self.bear(error))?;
            return match self.find(key) {
                Some(found) => Ok(found.header),
                None => self.peek_inside(key).await,
            };
        }
        let (inside, looked) = join(self.peek_inside(key), self.catch_up()).await;
        match self.find(key) {
            Some(found) => Ok(found.header),
            // Others' packs could not be looked at: nobody knows that it is missing.
            None => inside.map_err(|error| not_missing(error, looked)),
        }
    }

    /// What is known has to do for a while when the store can't be asked for news.
    fn bear(&self, error: StoreError) -> Result<(), StoreError> {
        if self.feed.is_behind() { Err(error) } else { Ok(()) }
    }

    async fn peek_inside(&self, key: Key) -> Result<FrameHeader, StoreError> {
        let (told, answer) = oneshot::channel();
        // The receiver is gone only when nobody asks any more.
        self.inner.peek(key, Box::new(move |found| drop(told.send(found))));
        answer.await.unwrap_or(Err(StoreError::Busy))
    }

    /// Makes the new record the one of the block's frames; of one that no pack has the store inside does. A promise
    /// to forget goes there too: nodes that did not know of each other's may have written the block twice,
    /// and the single object may outlast the packs' frames.
    async fn restamp(&self, key: Key, new: NewRecord, ticket: Ticket) {
        let found = self.with(|index| index.all(key));
        let Some(header) = found.first().map(|found| found.header) else {
            let is_one = new.record.delete_after != Time::ZERO;
            return if is_one { self.hand_on_promised(ticket).await } else { self.hand_on(ticket) };
        };
        let mut record = new.over_all(found.iter().map(|found| &found.header.meta.record));
        let mut given = self.give(key, (record, new.known)).await;
        if let Err(StoreError::Outdone(single)) = &given {
            record = record.keeping_promise(&single.meta.record);
            given = self.give(key, (record, new.known)).await;
        }
        ticket.finish(given.and_then(|()| header.has_taken(&new, record)));
    }

    /// Gives each of the block's frames the record.
    async fn give(
        &self,
        key: Key,
        (record, known): (RetentionRecord, Time),
    ) -> Result<(), StoreError> {
        let found = self.with(|index| index.all(key));
        let stale = found.iter().filter(|found| found.header.meta.record != record);
        let what = What::Record(record);
        let changes: Vec<Change> = self.with(|index| {
            let next = |found: &Found| index.after(found.version);
            stale.map(|found| Change { id: found.id, key, version: next(found), what }).collect()
        });
        let save =
            async { if changes.is_empty() { Ok(()) } else { self.changes.save(changes).await } };
        let promise = async {
            let is_one = record.delete_after != Time::ZERO;
            if is_one { self.promise_inside(key, (record, known)).await } else { Ok(()) }
        };
        let (saved, promised) = join(save, promise).await;
        saved.and(promised)
    }

    /// Gives the record to the block's own object, if there is one that could serve anybody.
    async fn promise_inside(
        &self,
        key: Key,
        (record, known): (RetentionRecord, Time),
    ) -> Result<(), StoreError> {
        let place = Place { offset: 0, slot_bytes: 0 };
        match self.inside(StoreOp::Restamp { key, place, record, known }).await {
            Err(StoreError::Missing(_) | StoreError::Corrupt(_)) => Ok(()),
            stamped => stamped,
        }
    }

    /// Runs one operation of the store inside to its end.
    async fn inside(&self, op: StoreOp) -> Result<(), StoreError> {
        let (tell, told) = oneshot::channel();
        // The receiver is gone only when nobody asks any more.
        self.inner.submit(op, Box::new(move |ended| drop(tell.send(ended))));
        told.await.unwrap_or(Err(StoreError::Busy))
    }
}

fn key_of(op: &StoreOp) -> Key {
    match op {
        StoreOp::Write { key, .. }
        | StoreOp::Read { key, .. }
        | StoreOp::Erase { key, .. }
        | StoreOp::Restamp { key, .. } => *key,
    }
}

/// What is said of a block that was not found where it was looked for: that it is missing only if all
/// could be looked at.
fn not_missing(error: StoreError, looked: Result<(), StoreError>) -> StoreError {
    match (error, looked) {
        (StoreError::Missing(_), Err(unknown)) => unknown,
        (error, _) => error,
    }
}

/// One error for several who asked.
fn same_for_all(error: &StoreError) -> StoreError {
    match error {
        StoreError::Busy => StoreError::Busy,
        StoreError::Missing(why) => StoreError::Missing(why.clone()),
        StoreError::Corrupt(why) => StoreError::Corrupt(why.clone()),
        StoreError::Outdone(header) => StoreError::Outdone(header.clone()),
        StoreError::TierLost(why) => StoreError::TierLost(why.clone()),
        StoreError::Io { what, source } => StoreError::Io {
            what: what.clone(),
            source: std::io::Error::new(source.kind(), source.to_string()),
        },
    }
}

#[cfg(test)]
mod tests;
