//! Engine pools: memory that an engine lends, whose layout is claimed and then proven.
//!
//! The engine may write to its pool at any time, so its bytes are only ever copied, never borrowed.

use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    FileType, OFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fcntl_getfl, fstat,
};
use tokio::sync::watch;

use crate::domain::namespace::Namespace;
use crate::tiers::shm::SharedMemory;

use super::cuda_claim::CudaClaim;
use super::layout::PagedLayout;

/// The most ranks a block is cut over.
const SHARDS_MAX: u32 = 64;

/// A pool as a client describes it: a claim, not a proof.
#[derive(Clone, Copy, Debug)]
pub struct ClaimedPool {
    /// Which rank's part of the blocks the pool holds.
    pub shard: u32,
    pub layout: PagedLayout,
}

impl ClaimedPool {
    pub(super) fn check_shard(&self) -> Result<(), String> {
        if self.shard < SHARDS_MAX {
            return Ok(());
        }
        Err(format!("pool.shard is {}: it must be below {SHARDS_MAX}", self.shard))
    }
}

/// Memory that an engine lends, as it came.
#[derive(Debug)]
pub enum LentMemory {
    /// A memfd.
    Shared(OwnedFd),
    /// Allocations on a GPU, by their IPC handles.
    Cuda(CudaClaim),
}

/// A pool whose claim was checked against its memory, which is mapped while the pool lives.
pub struct EnginePool {
    claim: ClaimedPool,
    /// What a device keeps of the pool. Before the memory, so that it is let go first.
    opened: Option<Box<dyn Any + Send + Sync>>,
    has_events: bool,
    memory: Option<Arc<SharedMemory>>,
    /// Whether its engine's connection has ended.
    left: AtomicBool,
    /// Last of all: says by its end that all else was let go.
    gone: watch::Sender<()>,
}

/// Tells when a pool has gone: no copy touches it any more, and what its device opened is closed.
pub struct Gone(watch::Receiver<()>);

impl Gone {
    /// Waits until it has.
    pub async fn wait(mut self) {
        // Nothing is ever sent: it ends with its sender.
        while self.0.changed().await.is_ok() {}
    }
}

impl fmt::Debug for EnginePool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the pool {:?}", self.claim)
    }
}

impl EnginePool {
    /// A pool whose memory only its device knows.
    pub(super) fn opened(claim: ClaimedPool, opened: Box<dyn Any + Send + Sync>) -> Self {
        Self { opened: Some(opened), ..Self::new(claim, None) }
    }

    fn new(claim: ClaimedPool, memory: Option<Arc<SharedMemory>>) -> Self {
        let (left, gone) = (AtomicBool::new(false), watch::Sender::new(()));
        Self { claim, opened: None, has_events: false, memory, left, gone }
    }

    /// Its engine's connection has ended, and the engine may use its slots for something else: no copy to or
    /// from it begins any more. Where its memory counts no longer than the engine lives, what is being copied
    /// out of it has failed as well.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    #[must_use]
    pub fn has_left(&self) -> bool {
        self.left.load(Ordering::Acquire)
    }

    /// The pool of an engine that calls before its stream has come so far, and says by events when it has.
    #[must_use]
    pub fn with_events(self) -> Self {
        Self { has_events: true, ..self }
    }

    /// Whether its engine calls before its stream has come so far, and says by events when it has.
    #[must_use]
    pub const fn has_events(&self) -> bool {
        self.has_events
    }

    /// What to wait with until the pool has gone.
    #[must_use]
    pub fn gone(&self) -> Gone {
        Gone(self.gone.subscribe())
    }

    /// The pool, with what its device keeps of it.
    pub(super) fn with(self, opened: Box<dyn Any + Send + Sync>) -> Self {
        Self { opened: Some(opened), ..self }
    }

    /// What the device kept, if it was of this kind.
    pub(super) fn opened_as<T: 'static>(&self) -> Option<&T> {
        self.opened.as_ref()?.downcast_ref()
    }

    /// Maps the shared memory behind `fd` and checks the claim: pages inside the memory, pages that
    /// don't overlap, a memory that can't shrink (sealed, so that no access can fault).
    ///
    /// # Errors
    /// A sentence naming what is wrong and what to send instead.
    pub fn admit(fd: OwnedFd, claim: ClaimedPool) -> Result<Self, String> {
        claim.check_shard()?;
        check_open_for_both(&fd)?;
        seal(&fd)?;
        // Only now can the length not shrink any more.
        let Length { memory_bytes, filled } = length(&fd)?;
        claim.layout.check(memory_bytes)?;
        let memory = SharedMemory::map_sealed(fd, memory_bytes)
            .map_err(|error| format!("the pool's memory can't be mapped to write: {error}"))?;
        let memory = Arc::new(memory);
        if filled {
            memory.map_pages_soon();
        }
        Ok(Self::new(claim, Some(memory)))
    }

    #[must_use]
    pub fn claim(&self) -> &ClaimedPool {
        &self.claim
    }

    /// Says why the pool can't hold blocks of this namespace, or nothing.
    ///
    /// # Errors
    /// A sentence naming what differs and what to send instead.
    pub fn check_namespace(&self, namespace: &Namespace) -> Result<(), String> {
        let (shard, shape) = (self.claim.shard, self.claim.layout.shape);
        if shard >= namespace.shard_count {
            return Err(format!(
                "pool.shard is {shard}: the namespace has {} shards, counted from 0",
                namespace.shard_count
            ));
        }
        if shape != namespace.shape {
            return Err(format!(
                "the pool's blocks are {shape:?}, those of its namespace {:?}: register a pool of \
                 the namespace's shape",
                namespace.shape
            ));
        }
        Ok(())
    }

    /// The pool's memory, if it is this machine's.
    pub(super) fn shared(&self) -> Option<&Arc<SharedMemory>> {
        self.memory.as_ref()
    }
}

fn check_open_for_both(fd: &OwnedFd) -> Result<(), String> {
    let flags = fcntl_getfl(fd).map_err(|error| format!("the pool's descriptor: {error}"))?;
    if flags & OFlags::RWMODE == OFlags::RDWR && !flags.contains(OFlags::PATH) {
        return Ok(());
    }
    Err("the pool's descriptor is not open for reading and writing: pass the one that \
         memfd_create gave"
        .into())
}

/// Makes sure that the memory can't shrink.
fn seal(fd: &OwnedFd) -> Result<(), String> {
    let remedy = "make it with memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)";
    let seals = fcntl_get_seals(fd)
        .map_err(|_| format!("the pool's descriptor is not a memfd: {remedy}"))?;
    if seals.intersects(SealFlags::WRITE | SealFlags::FUTURE_WRITE) {
        return Err(
            "the pool's memory is sealed against writing, so nothing could be loaded into \
                    it: leave out F_SEAL_WRITE and F_SEAL_FUTURE_WRITE"
                .into(),
        );
    }
    if seals.contains(SealFlags::SHRINK) {
        return Ok(());
    }
    fcntl_add_seals(fd, SealFlags::SHRINK).map_err(|_| {
        format!("the pool's memory could shrink and can't be sealed against it: {remedy}")
    })
}

struct Length {
    memory_bytes: u64,
    /// Whether every page exists, so that mapping them all takes no memory.
    filled: bool,
}

fn length(fd: &OwnedFd) -> Result<Length, String> {
    let stat = fstat(fd).map_err(|error| format!("the pool's descriptor: {error}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err("the pool's descriptor is no memory".into());
    }
    let of = |number: i64| u64::try_from(number).map_err(|_| "the pool's memory has no length");
    let (memory_bytes, blocks) = (of(stat.st_size)?, of(stat.st_blocks)?);
    Ok(Length { memory_bytes, filled: blocks.saturating_mul(512) >= memory_bytes })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use rustix::fs::{MemfdFlags, Mode, ftruncate, memfd_create};

    use super::*;
    use crate::domain::namespace::{KvShape, example};

    const SHAPE: KvShape = KvShape { layers: 2, planes: 2, page_bytes: 4096 };

    fn claim(slots: u32) -> ClaimedPool {
        ClaimedPool { shard: 0, layout: PagedLayout::page_major(SHAPE, slots) }
    }

    fn memory(pages: u64, seals: SealFlags) -> OwnedFd {
        let fd = memfd_create("pool", MemfdFlags::ALLOW_SEALING).unwrap();
        ftruncate(&fd, pages * 4096).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        fd
    }

    #[test]
    fn a_true_claim_is_admitted_and_its_memory_can_not_shrink() {
        for seals in [SealFlags::empty(), SealFlags::SHRINK, SealFlags::SHRINK | SealFlags::SEAL] {
            let fd = memory(12, seals);
            let kept = fd.try_clone().unwrap();
            let pool = EnginePool::admit(fd, claim(3)).unwrap();
            assert_eq!(pool.claim().layout.slots, 3);
            assert!(ftruncate(&kept, 4096).is_err(), "it shrank under the mapping");
        }
    }

    #[test]
    fn a_pool_of_another_namespace_is_told_apart() {
        let pool = EnginePool::admit(memory(12, SealFlags::empty()), claim(3)).unwrap();
        let namespace = Namespace { shape: SHAPE, ..example() };
        assert_eq!(pool.check_namespace(&namespace), Ok(()));
        let fewer = Namespace { shard_count: 0, ..namespace.clone() };
        let said = pool.check_namespace(&fewer).unwrap_err();
        assert!(said.contains("the namespace has 0 shards"), "{said}");
        let shape = KvShape { planes: 1, ..SHAPE };
        let said = pool.check_namespace(&Namespace { shape, ..namespace }).unwrap_err();
        assert!(said.contains("planes: 2") && said.contains("planes: 1"), "{said}");
    }

    #[test]
    fn false_claims_are_refused_with_the_remedy() {
        let not_sealable = memfd_create("pool", MemfdFlags::empty()).unwrap();
        ftruncate(&not_sealable, 1 << 20).unwrap();
        let path = std::env::temp_dir();
        let file = || rustix::fs::open(&path, OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR).unwrap();
        let reader = File::open("/dev/null").unwrap().into();
        let far = ClaimedPool { shard: 64, ..claim(3) };
        let cases: Vec<(&str, OwnedFd, ClaimedPool, &str)> = vec![
            (
                "smaller than it claims",
                memory(11, SealFlags::empty()),
                claim(3),
                "its memory has 45056",
            ),
            ("an empty memory", memory(0, SealFlags::empty()), claim(1), "its memory has 0"),
            (
                "a file on a disk",
                file(),
                claim(3),
                "memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEAL",
            ),
            ("not sealable", not_sealable, claim(3), "could shrink and can't be sealed"),
            ("nothing may write", memory(12, SealFlags::WRITE), claim(3), "leave out F_SEAL_WRITE"),
            ("open to read only", reader, claim(3), "not open for reading and writing"),
            ("a rank too far", memory(12, SealFlags::empty()), far, "pool.shard is 64"),
        ];
        for (name, fd, claim, want) in cases {
            let said = EnginePool::admit(fd, claim).expect_err(name);
            assert!(said.contains(want), "{name}: {said}");
        }
    }
}
