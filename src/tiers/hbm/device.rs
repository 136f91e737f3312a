//! What a device does: copies blocks between frames, pools and its own memory, on streams.

use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::tiers::store::{FrameSpan, Place, StoreError};

use super::cuda_claim::IpcHandle;
use super::geometry::BlockGeometry;
use super::pool::{ClaimedPool, EnginePool, LentMemory};

/// A device's queues. What runs beside what: see [`Device`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// From frames to the device.
    Up,
    /// From the device to frames.
    Down,
    /// Within the device.
    Local,
}

impl Stream {
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Local];
}

/// One end of a copy.
#[derive(Clone)]
pub enum CopyEnd {
    /// The payload of a frame in the arena. The header page is neither read nor written.
    Frame(FrameSpan),
    /// A slot of an engine's pool. The pool stays mapped until the copy is over.
    Pool { pool: Arc<EnginePool>, slot: u32 },
    /// A place in the device's own memory.
    Tier(Place),
}

impl fmt::Debug for CopyEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(span) => span.fmt(f),
            Self::Pool { pool, slot } => write!(f, "slot {slot} of {:?}", pool.claim()),
            Self::Tier(place) => place.fmt(f),
        }
    }
}

/// One block to copy, or the shard of it that a pool holds when an end is a pool.
#[derive(Clone, Debug)]
pub struct BlockCopy {
    pub geometry: BlockGeometry,
    pub from: CopyEnd,
    pub to: CopyEnd,
}

impl BlockCopy {
    /// Whether the engine of a pool at one of its ends has its slots back: its connection has ended.
    #[must_use]
    pub fn comes_too_late(&self) -> bool {
        let has_left = |end: &CopyEnd| matches!(end, CopyEnd::Pool { pool, .. } if pool.has_left());
        has_left(&self.from) || has_left(&self.to)
    }
}

/// A copy of a batch that did not land, by its index there.
#[derive(Debug)]
pub struct FailedCopy {
    pub copy: usize,
    /// `Busy`: the stream's queue is full, or a pool's engine has left. `Missing`: the source's place holds no such block.
    /// `TierLost`: the device is gone. `Io`: the ends don't fit the copy, a caller's mistake.
    pub error: StoreError,
}

/// How a batch ended.
#[derive(Debug, Default)]
pub struct CopiesEnd {
    /// The copies that failed, in rising order; the others landed.
    pub failed: Vec<FailedCopy>,
    /// Checksums of whole payloads that landed in frames, by their copies' index: of those that the device
    /// has summed on the way.
    pub sums: Vec<(usize, u64)>,
}

/// Told once, from any thread, how a batch ended. Must not block.
pub type CopiesDone = Box<dyn FnOnce(CopiesEnd) + Send>;

/// Told once, from any thread, whether an engine's stream has come so far. Must not block.
pub type EngineCame = Box<dyn FnOnce(bool) + Send>;

/// A device's own memory as other processes open it.
#[derive(Debug)]
pub enum Exported {
    /// A descriptor that can be mapped and never written, and its length.
    Shared { memory: OwnedFd, bytes: u64 },
    /// By CUDA IPC on the GPU of that id.
    Cuda { device_uuid: [u8; 16], handle: IpcHandle, bytes: u64 },
}

/// Copies blocks. The contract:
/// - `submit` returns at once, and `done` is called exactly once, also when the device is dropped;
/// - whoever submits keeps both ends' bytes to the copy until `done`, except that an engine may
///   write to its pool at any time and gets torn bytes then, or a frame whose checksum is not its
///   payload's;
/// - to or from a pool no copy begins once its engine has left: it is `Busy`, however long it was queued;
/// - out of a pool on a GPU no copy lands once its engine has ended or left: it is `Busy`, however far it
///   came;
/// - a place read must have been written before with the same geometry, else the copy is `Missing`;
/// - copies of a batch run in order as far as one touches what another writes; batches may run beside
///   each other, on one stream too.
pub trait Device: Send + Sync + 'static {
    /// The device's own memory for blocks, in bytes; zero when there is none.
    fn tier_bytes(&self) -> u64;

    /// Copies `copies` on `stream`; `done` hears how they ended.
    fn submit(&self, stream: Stream, copies: Vec<BlockCopy>, done: CopiesDone);

    /// Tells once the stream of the pool's engine has come as far as it is called now; false: it never
    /// will, or nobody can tell. Nothing is told of a pool that is dropped, but false.
    fn await_engine(&self, pool: &Arc<EnginePool>, came: EngineCame) {
        debug_assert!(!pool.has_events(), "a device that opens events looks at them");
        came(true);
    }

    /// Checks the claim against the memory that an engine lends, and opens it to copies.
    ///
    /// # Errors
    /// A sentence naming what is wrong and what to send instead.
    fn admit(&self, memory: LentMemory, claim: ClaimedPool) -> Result<EnginePool, String> {
        match memory {
            LentMemory::Shared(fd) => EnginePool::admit(fd, claim),
            LentMemory::Cuda(_) => Err("the daemon's HBM device is this machine's memory, which \
                                        knows no CUDA handles: start it with hbm.device = \
                                        \"cuda:0\" on a machine with a GPU, or lend shared memory"
                .into()),
        }
    }

    /// The device's own memory, for other processes to read; nothing when there is none.
    ///
    /// # Errors
    /// It can't be shared here; the text says why.
    fn export(&self) -> Result<Option<Exported>, String>;

    /// The device in words, for people.
    fn describe(&self) -> String {
        "the host device".into()
    }

    /// Whether the machine's processors do the copying, and not an engine of the device's own.
    fn copies_by_processor(&self) -> bool {
        true
    }
}
