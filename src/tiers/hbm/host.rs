//! The host device: shared memory in place of HBM, a thread in place of each stream.
//!
//! For engines on CPUs, and for every machine without a GPU: the same pools, places and copies. Its
//! threads only copy; `done` is called on them.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::domain::units::CHUNK_BYTES;
use crate::env::{give_way, spawn_thread};
use crate::tiers::dram::Arena;
use crate::tiers::frame::Checksum;
use crate::tiers::shm::{MemoryRoom, SharedMemory};
use crate::tiers::store::{FrameSpan, StoreError};

use super::batch::Batch;
use super::chunks::{Beginning, Chunks};
use super::courtesy::Courtesy;
use super::device::{
    BlockCopy, CopiesDone, CopiesEnd, CopyEnd, Device, Exported, FailedCopy, Stream,
};
use super::ends::{self, Side, shards_of, unfit};
use super::geometry::{BlockGeometry, PageMap};
use super::past_cache;
use super::pool::EnginePool;
use super::runs::runs;

/// Batches that wait on one stream before `submit` is `Busy`.
const QUEUED_BATCHES_MAX: usize = 64;

/// How the host device is made.
#[derive(Clone, Copy, Debug)]
pub struct HostDeviceConfig {
    /// The HBM tier's memory: whole chunks, zero when the tier is absent.
    pub tier_bytes: u64,
    /// Threads that touch every page at the start; with zero, pages come when they are first
    /// written, which is slow.
    pub pretouch_threads: usize,
}

/// A device whose memory is the host's.
pub struct HostDevice {
    memory: Arc<Memory>,
    streams: [Worker; Stream::ALL.len()],
}

impl HostDevice {
    /// # Errors
    /// The machine has not that much memory, refuses threads, or `tier_bytes` is not whole chunks.
    pub fn new(arena: Arc<Arena>, config: HostDeviceConfig) -> io::Result<Self> {
        let memory = Arc::new(Memory::new(arena, config)?);
        let courtesy = Arc::new(Courtesy::default());
        let [up, down, local] = Stream::ALL.map(|stream| Worker::start(stream, &memory, &courtesy));
        Ok(Self { memory, streams: [up?, down?, local?] })
    }

    /// The HBM tier's memory, if there is any.
    pub(super) fn tier_memory(&self) -> Option<&SharedMemory> {
        self.memory.tier.as_deref()
    }
}

impl Device for HostDevice {
    fn tier_bytes(&self) -> u64 {
        self.memory.tier_bytes
    }

    fn submit(&self, stream: Stream, copies: Vec<BlockCopy>, done: CopiesDone) {
        self.streams[stream as usize].submit(Batch::new(copies, done));
    }

    fn export(&self) -> Result<Option<Exported>, String> {
        let Some(tier) = self.tier_memory() else { return Ok(None) };
        let memory = tier.read_only_fd().map_err(|error| {
            format!("the HBM tier's memory can't be shared: {error}: is /proc mounted?")
        })?;
        Ok(Some(Exported::Shared { memory, bytes: self.tier_bytes() }))
    }
}

/// Calls `before` ahead of every copy.
fn run(batch: Batch, memory: &Memory, mut before: impl FnMut()) {
    let mut end = CopiesEnd::default();
    for (copy, ends) in batch.copies().iter().enumerate() {
        before();
        let copied = if ends.comes_too_late() { Err(StoreError::Busy) } else { memory.copy(ends) };
        match copied {
            Ok(sum) => end.sums.extend(sum.map(|sum| (copy, sum))),
            Err(error) => end.failed.push(FailedCopy { copy, error }),
        }
    }
    batch.end(end);
}

/// One stream's thread and the queue to it.
struct Worker {
    queue: Option<Sender<Batch>>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn start(stream: Stream, memory: &Arc<Memory>, courtesy: &Arc<Courtesy>) -> io::Result<Self> {
        let (queue, batches): (_, Receiver<Batch>) = bounded(QUEUED_BATCHES_MAX);
        let (memory, courtesy) = (Arc::clone(memory), Arc::clone(courtesy));
        let name = match stream {
            Stream::Up => "hbm-up",
            Stream::Down => "hbm-down",
            Stream::Local => "hbm-local",
        };
        let thread = spawn_thread(name, move || match stream {
            // Stores share processors and memory with the loads that requests wait for.
            Stream::Down => {
                give_way();
                batches.iter().for_each(|batch| run(batch, &memory, || courtesy.await_turn()));
            }
            Stream::Up => batches.iter().for_each(|batch| {
                let _loading = courtesy.begin();
                run(batch, &memory, || {});
            }),
            Stream::Local => batches.iter().for_each(|batch| run(batch, &memory, || {})),
        })?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    fn submit(&self, batch: Batch) {
        let queue = self.queue.as_ref().expect("the queue lives until the drop");
        match queue.try_send(batch) {
            Ok(()) => {}
            Err(TrySendError::Full(batch)) => batch.fail_all(|| StoreError::Busy),
            // The thread ended by a panic in someone's `done`; the batch says so when it drops.
            Err(TrySendError::Disconnected(batch)) => drop(batch),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The thread finishes what is queued, then sees that nobody can send any more.
        self.queue = None;
        let thread = self.thread.take().expect("the thread is joined once");
        // A `done` may hold the last reference to the device: the thread can't wait for itself.
        if thread.thread().id() != thread::current().id() {
            // It panicked in someone's `done`; that was reported where it happened.
            let _ = thread.join();
        }
    }
}

/// The memories that copies run between.
struct Memory {
    arena: Arc<Arena>,
    tier: Option<Arc<SharedMemory>>,
    /// Huge pages may make the memory longer.
    tier_bytes: u64,
    chunks: Arc<Chunks>,
}

/// A checked end: where the pages are.
struct Located<'a> {
    base: *mut u8,
    pages: PageMap<'a>,
}

impl Memory {
    fn new(arena: Arc<Arena>, config: HostDeviceConfig) -> io::Result<Self> {
        let HostDeviceConfig { tier_bytes, pretouch_threads } = config;
        if !tier_bytes.is_multiple_of(CHUNK_BYTES) {
            let what = format!("the HBM tier of {tier_bytes} bytes is not whole chunks of 64 MiB");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let reserve = || {
            let room = MemoryRoom::of_this_machine();
            SharedMemory::reserve("terrace-hbm", tier_bytes, pretouch_threads, room, None)
        };
        let tier = if tier_bytes == 0 { None } else { Some(reserve()?) };
        // Engines read blocks where they lie, and nobody but this device writes them.
        tier.as_ref().map(|tier| tier.forbid_other_writers()).transpose()?;
        Ok(Self { arena, tier, tier_bytes, chunks: Chunks::new(tier_bytes) })
    }

    /// Copies the block, and sums it if a frame gets all of it: reading it again for that takes longer.
    fn copy(&self, copy: &BlockCopy) -> Result<Option<u64>, StoreError> {
        let shards = shards_of(copy)?;
        let is_whole = shards.len() == copy.geometry.shard_count() as usize;
        let onto_frame = matches!(
            (&copy.from, &copy.to),
            (CopyEnd::Pool { .. } | CopyEnd::Tier(_), CopyEnd::Frame(_))
        );
        let is_summed = is_whole && onto_frame;
        let mut sum = is_summed.then(Checksum::of_nothing);
        let (ends, _uses) = self.chunks.begin(|chunks| -> Result<_, StoreError> {
            let from = self.locate(&copy.from, copy.geometry, Side::From, chunks)?;
            Ok((from, self.locate(&copy.to, copy.geometry, Side::To, chunks)?))
        });
        let (from, to) = ends?;
        for run in runs(copy.geometry.shape(), shards, from.pages, to.pages) {
            let at =
                |offset: u64| usize::try_from(offset).expect("memories are in the address space");
            let source = from.base.wrapping_add(at(run.from));
            let target = to.base.wrapping_add(at(run.to));
            // SAFETY: `locate` checked that all pages of both ends lie in their mappings, which
            // `self` or the copy's own pool keep; the submitter owns the bytes of frames and
            // places, and an engine that writes to its pool meanwhile gets torn bytes, or
            // a sum of others, no more. Two places may be the same memory, so the copy is one that
            // allows an overlap; a frame is apart from all that is no frame.
            unsafe { past_cache::copy_summed(source, target, at(run.bytes), sum.as_mut()) };
        }
        past_cache::settle();
        Ok(sum.map(|sum| sum.of_all()))
    }

    /// Checks that the end holds such a block, all of it, and finds its pages.
    fn locate<'a>(
        &self,
        end: &'a CopyEnd,
        geometry: BlockGeometry,
        side: Side,
        chunks: &mut Beginning<'_>,
    ) -> Result<Located<'a>, StoreError> {
        match end {
            CopyEnd::Frame(span) => self.locate_frame(*span, geometry),
            CopyEnd::Pool { pool, slot } => locate_slot(pool, *slot, geometry),
            CopyEnd::Tier(place) => {
                side.begin(chunks, *place, geometry)?;
                let tier = self.tier.as_ref().expect("a memory of no bytes has no places");
                Ok(Located { base: tier.base(), pages: geometry.in_tier(*place) })
            }
        }
    }

    fn locate_frame(
        &self,
        span: FrameSpan,
        geometry: BlockGeometry,
    ) -> Result<Located<'static>, StoreError> {
        ends::check_frame(&self.arena, span, geometry)?;
        Ok(Located { base: self.arena.base(), pages: geometry.in_frame(span) })
    }
}

fn locate_slot(
    pool: &EnginePool,
    slot: u32,
    geometry: BlockGeometry,
) -> Result<Located<'_>, StoreError> {
    ends::check_slot(pool, slot, geometry)?;
    let memory = pool.shared().ok_or_else(|| unfit(format!("{pool:?} is not in this memory")))?;
    let pages = PageMap::in_pool(&pool.claim().layout, slot);
    Ok(Located { base: memory.base(), pages })
}
