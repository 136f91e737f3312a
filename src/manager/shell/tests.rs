//! The shell over a device that copies nothing and ends batches when the test says so.

mod late;
mod life;

use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use tokio::sync::mpsc;

use super::*;
use crate::domain::block::Key;
use crate::domain::namespace::{Namespace, example};
use crate::domain::retention::{Directive, Directives, TokenRange, Wish};
use crate::domain::units::CHUNK_BYTES;
use crate::env::SystemClock;
use crate::manager::TierConfig;
use crate::manager::api::{
    ClientId, Command, Completion, Labels, PoolId, Refusal, Reply, RequestId, Status,
};
use crate::tiers::dram::ArenaConfig;
use crate::tiers::hbm::{
    BlockCopy, ClaimedPool, CopiesDone, CopiesEnd, CopyEnd, EngineCame, EnginePool, Exported,
    FailedCopy, LentMemory, PagedLayout, Stream,
};
use crate::tiers::store::{Done, FoundFrame, StoreError, StoreOp};

/// Far more looks than what is waited for takes.
const LOOKS_MAX: usize = 10_000;

/// A device with engines, which end what they were given when the test says so.
#[derive(Default)]
pub(super) struct Engines {
    pub(super) given: Mutex<Vec<(Vec<BlockCopy>, CopiesDone)>>,
    /// Whether pools are admitted as of engines that have events, and what those are asked for.
    late: AtomicBool,
    awaited: Mutex<Vec<EngineCame>>,
}

impl Device for Engines {
    fn tier_bytes(&self) -> u64 {
        CHUNK_BYTES
    }

    fn submit(&self, _: Stream, copies: Vec<BlockCopy>, done: CopiesDone) {
        self.given.lock().unwrap().push((copies, done));
    }

    fn admit(&self, memory: LentMemory, claim: ClaimedPool) -> Result<EnginePool, String> {
        let LentMemory::Shared(fd) = memory else { return Err("it knows no GPU".into()) };
        let pool = EnginePool::admit(fd, claim)?;
        Ok(if self.late.load(Ordering::Relaxed) { pool.with_events() } else { pool })
    }

    fn await_engine(&self, _: &Arc<EnginePool>, came: EngineCame) {
        self.awaited.lock().unwrap().push(came);
    }

    fn export(&self) -> Result<Option<Exported>, String> {
        Ok(None)
    }

    fn copies_by_processor(&self) -> bool {
        false
    }
}

impl Engines {
    /// Ends all that was given, well.
    fn end_all(&self) {
        self.end_but(|_| false);
    }

    /// Ends all that was given: well, but for the copies that an error which passes befell.
    fn end_but(&self, befell: impl Fn(&BlockCopy) -> bool) {
        let given = std::mem::take(&mut *self.given.lock().unwrap());
        for (copies, done) in given {
            let failed = copies.iter().enumerate().filter(|(_, copy)| befell(copy));
            let failed = failed.map(|(copy, _)| FailedCopy { copy, error: passing() }).collect();
            drop(copies);
            done(CopiesEnd { failed, ..CopiesEnd::default() });
        }
    }
}

/// An error of the driver's after which it goes on.
fn passing() -> StoreError {
    StoreError::Io { what: "out of memory".into(), source: std::io::Error::other("as planned") }
}

pub(super) fn arena() -> Arc<Arena> {
    let arena = ArenaConfig { tier_bytes: CHUNK_BYTES, staging_bytes: 0, pretouch_threads: 0 };
    Arc::new(Arena::new(arena).unwrap())
}

/// A shell with DRAM alone, and a client whose pool holds two blocks.
struct Rig {
    shell: Shell,
    engines: Arc<Engines>,
    handle: Handle,
    client: ClientId,
    completions: mpsc::Receiver<Completion>,
    pool: PoolId,
}

impl Rig {
    async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    async fn start_with(adjust: impl FnOnce(&mut ShellParts)) -> Self {
        let (arena, engines) = (arena(), Arc::new(Engines::default()));
        let dram = TierConfig { capacity_bytes: CHUNK_BYTES, slots_max: u64::MAX, recovers: false };
        let mut parts = ShellParts {
            config: ManagerConfig::with_tiers([None, Some(dram), None, None]),
            clock: Arc::new(SystemClock::start()),
            runtime: runtime::Handle::current(),
            staging: CHUNK_BYTES..CHUNK_BYTES,
            arena,
            device: Arc::clone(&engines) as _,
            nvme: None,
            object: None,
            node_id: [0; 16],
            journal_changes_max: 0,
        };
        adjust(&mut parts);
        let shell = Shell::start(parts).unwrap();
        let handle = shell.handle();
        let (client, completions, pool) = joined(&handle, example()).await;
        Self { shell, engines, handle, client, completions, pool }
    }

    /// The client goes, and one of another namespace comes.
    async fn change_client(&mut self, namespace: Namespace) {
        self.handle.client_gone(self.client);
        (self.client, self.completions, self.pool) = joined(&self.handle, namespace).await;
    }

    async fn call(&self, command: Command) -> Result<Reply, Refusal> {
        self.handle.call(self.client, command).await
    }

    /// Has a block stored, whose copy has not ended when this returns.
    async fn store(&self) {
        self.store_for(None).await;
    }

    /// The same, to be forgotten after so long.
    async fn store_for(&self, delete_after: Option<Duration>) {
        self.start_store(delete_after).await;
        assert_eq!(self.engines.given.lock().unwrap().len(), 1);
    }

    async fn start_store(&self, delete_after: Option<Duration>) {
        self.start_store_of(b"one", delete_after).await;
    }

    async fn start_store_of(&self, name: &[u8], delete_after: Option<Duration>) {
        let key = example().digest().key(name);
        let wish = Wish { delete_after, ..Wish::default() };
        let directive = Directive { tokens: TokenRange { start: 0, end: None }, wish };
        let directives = delete_after.map(|_| directive).into_iter().collect();
        let stored = self.call(Command::Store {
            request: RequestId(1),
            session: None,
            directives: Directives::admit(directives).unwrap(),
            parent: None,
            keys: vec![key],
            labels: Labels::default(),
            pool: self.pool,
            slots: vec![0],
            durable: false,
        });
        stored.await.unwrap();
        // The manager's thread has handed the copy on before it takes the next command.
        self.call(Command::Status).await.unwrap();
    }
}

impl Rig {
    /// Has the block loaded, whose copies have not ended when this returns.
    async fn start_load(&self, key: Key) {
        let (pool, timeout) = (self.pool, Duration::from_secs(30));
        let (request, keys, slots) = (RequestId(1), vec![key], vec![1]);
        self.call(Command::Load { request, keys, pool, slots, timeout }).await.unwrap();
        self.call(Command::Status).await.unwrap();
    }

    /// Ends all copies well, also those that follow, until the operation has ended.
    async fn ended(&mut self) -> Completion {
        for _ in 0..LOOKS_MAX {
            self.engines.end_all();
            self.call(Command::Status).await.unwrap();
            if let Ok(completion) = self.completions.try_recv() {
                return completion;
            }
        }
        panic!("the operation does not end");
    }

    /// Ends all copies well, also those that follow, until so many blocks are in HBM and in DRAM, all of
    /// them there.
    async fn settles(&self, blocks: [u64; 2]) {
        for _ in 0..LOOKS_MAX {
            self.engines.end_all();
            let status = self.status().await;
            let there = [Tier::Hbm, Tier::Dram].map(|tier| status.tiers[tier.index()].blocks);
            // A block counts from when its copy begins.
            if there == blocks && status.transfers_in_flight + status.transfers_queued == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        panic!("there are other blocks: {:?}", self.status().await.tiers);
    }

    async fn status(&self) -> Box<Status> {
        match self.call(Command::Status).await.unwrap() {
            Reply::Status(status) => status,
            other => panic!("{other:?}"),
        }
    }

    async fn failures(&self) -> [u64; 2] {
        let status = self.status().await;
        [Tier::Hbm, Tier::Dram].map(|tier| status.tiers[tier.index()].failures)
    }
}

/// A client in the namespace, and a pool of its.
async fn joined(
    handle: &Handle,
    namespace: Namespace,
) -> (ClientId, mpsc::Receiver<Completion>, PoolId) {
    let (client, completions) = handle.join().unwrap();
    let (memory, claim) = lent(&namespace);
    let hello = Command::hello(namespace);
    handle.call(client, hello).await.unwrap();
    let pool = handle.register_pool(client, memory, claim).await.unwrap();
    (client, completions, pool)
}

fn lent(namespace: &Namespace) -> (LentMemory, ClaimedPool) {
    let layout = PagedLayout::page_major(namespace.shape, 2);
    let memory = memfd_create("engine", MemfdFlags::ALLOW_SEALING).unwrap();
    ftruncate(memory.as_fd(), layout.end_bytes().unwrap()).unwrap();
    (LentMemory::Shared(memory), ClaimedPool { shard: 0, layout })
}

#[tokio::test]
async fn nobody_hears_that_a_pool_is_given_back_while_a_copy_touches_it() {
    let mut rig = Rig::start().await;
    rig.store().await;
    let unregister = || rig.call(Command::UnregisterPool { pool: rig.pool });
    // Asked twice: who was not patient the first time hears no sooner.
    let (mut first, mut second) = (Box::pin(unregister()), Box::pin(unregister()));
    for _ in 0..3 {
        tokio::select! {
            biased;
            _ = &mut first => panic!("a copy reads the pool"),
            _ = &mut second => panic!("a copy reads the pool"),
            // Asked after both, and so answered after both.
            status = rig.call(Command::Status) => drop(status.unwrap()),
        }
    }
    rig.engines.end_all();
    assert!(matches!(first.await, Ok(Reply::Ok)));
    assert!(matches!(second.await, Ok(Reply::Ok)));
    let again = unregister().await;
    assert!(matches!(again, Err(Refusal::NotFound(_))), "{again:?}");
    assert_eq!(rig.completions.recv().await.unwrap().failed, Vec::<u32>::new());
    rig.shell.stop(Duration::ZERO);
}

#[tokio::test]
async fn the_pools_of_a_client_that_went_are_left() {
    for is_given_back in [false, true] {
        let rig = Rig::start().await;
        rig.store().await;
        if is_given_back {
            let asked = rig.call(Command::UnregisterPool { pool: rig.pool });
            // It was asked for, and is not waited for.
            assert!(tokio::time::timeout(Duration::from_millis(1), asked).await.is_err());
        }
        rig.handle.client_gone(rig.client);
        rig.call(Command::Status).await.unwrap();
        let given = rig.engines.given.lock().unwrap();
        let from = given.iter().flat_map(|(copies, _)| copies).map(|copy| &copy.from);
        let left: Vec<_> = from
            .map(|from| matches!(from, CopyEnd::Pool { pool, .. } if pool.has_left()))
            .collect();
        assert_eq!(left, [true], "its copy lands as if its engine lived");
        drop(given);
        rig.engines.end_all();
        rig.shell.stop(Duration::ZERO);
    }
}

#[tokio::test]
async fn the_device_is_asked_whether_an_engine_has_come_so_far_before_it_copies() {
    let mut rig = Rig::start().await;
    rig.engines.late.store(true, Ordering::Relaxed);
    rig.change_client(example()).await;
    rig.start_store(None).await;
    assert_eq!(rig.engines.given.lock().unwrap().len(), 0);
    let came = rig.engines.awaited.lock().unwrap().pop().unwrap();
    came(true);
    while rig.engines.given.lock().unwrap().is_empty() {
        rig.call(Command::Status).await.unwrap();
    }
    rig.engines.end_all();
    assert_eq!(rig.completions.recv().await.unwrap().failed, Vec::<u32>::new());
    rig.shell.stop(Duration::ZERO);
}

#[tokio::test]
async fn residency_is_told_under_the_name_of_who_has_the_number_now() {
    let mut rig = Rig::start_with(|parts| {
        (parts.config.namespaces_max, parts.journal_changes_max) = (1, 100);
    })
    .await;
    let journal = rig.handle.journal().unwrap();
    rig.store_for(Some(Duration::from_millis(100))).await;
    rig.engines.end_all();
    // It comes, and goes: nobody uses the first namespace any more.
    while journal.next_sequence() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let other = Namespace { model: "other".into(), ..example() };
    rig.change_client(other.clone()).await;
    rig.store().await;
    rig.engines.end_all();
    while journal.next_sequence() < 3 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let told = [0, 1, 2].map(|sequence| match journal.at(sequence) {
        Some(Entry::Batch(batch)) => batch.namespace.digest,
        entry => panic!("{entry:?}"),
    });
    assert_eq!(told, [example().digest(), example().digest(), other.digest()]);
    rig.shell.stop(Duration::ZERO);
}

/// HBM with room for one block.
fn add_hbm(parts: &mut ShellParts) {
    let one = TierConfig { capacity_bytes: CHUNK_BYTES, slots_max: 1, recovers: false };
    parts.config.tiers[Tier::Hbm.index()] = Some(one);
}

fn is_of_hbm(copy: &BlockCopy) -> bool {
    matches!(copy.from, CopyEnd::Tier(_))
}

#[tokio::test]
async fn a_block_that_hbm_does_not_give_this_time_is_loaded_from_the_next_tier() {
    let mut rig = Rig::start_with(add_hbm).await;
    // The second block sends the first down and goes, and a load brings that up again.
    for (name, delete_after) in [(b"one", None), (b"two", Some(Duration::from_millis(100)))] {
        rig.start_store_of(name, delete_after).await;
        assert_eq!(rig.ended().await.failed, Vec::<u32>::new());
    }
    rig.settles([0, 1]).await;
    let key = example().digest().key(b"one");
    rig.start_load(key).await;
    assert_eq!(rig.ended().await.failed, Vec::<u32>::new());
    rig.settles([1, 1]).await;

    rig.start_load(key).await;
    rig.engines.end_but(is_of_hbm);
    assert_eq!(rig.ended().await.failed, Vec::<u32>::new());
    assert_eq!(rig.failures().await, [1, 0]);
    rig.settles([1, 1]).await;
    rig.shell.stop(Duration::ZERO);
}

#[tokio::test]
async fn what_does_not_come_down_is_hbms_failure() {
    let mut rig = Rig::start_with(add_hbm).await;
    rig.start_store_of(b"one", None).await;
    assert_eq!(rig.ended().await.failed, Vec::<u32>::new());
    rig.start_store_of(b"two", None).await;
    rig.engines.end_but(is_of_hbm);
    rig.ended().await;
    assert_eq!(rig.failures().await, [1, 0]);
    rig.shell.stop(Duration::ZERO);
}

/// A store that can't say what it holds.
struct Unreadable;

impl TierStore for Unreadable {
    fn tier(&self) -> Tier {
        Tier::Nvme
    }

    fn submit(&self, _: StoreOp, _: Done) {
        unreachable!("nobody writes to a tier that is closed");
    }

    fn scan(&self, _: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        Err(StoreError::TierLost("as planned".into()))
    }
}

#[test]
fn a_scan_that_failed_opens_no_tier() {
    let (events, told) = crossbeam_channel::bounded(1);
    scan(&Unreadable, &events);
    assert!(told.try_recv().is_err(), "what was not found would be written over");
}
