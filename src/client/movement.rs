//! Blocks that move ahead of need, in the domain's words: what a lookup asks for beside blocks, how
//! lifts stand, what links do.

use std::time::Duration;

use crate::domain::hint::LiftReason;
use crate::domain::tier::Tier;
use crate::domain::units::Time;

/// What a lookup asks for beside the blocks that are here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupOptions {
    /// How long the shared object store may be asked for what follows the prefix that the daemon
    /// has; zero: it is not asked.
    pub ask_shared: Duration,
    /// The request waits for its turn in the engine: what it will load is lifted meanwhile.
    pub queued: bool,
}

/// KV that an engine computed, and the time it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefill {
    pub tokens: u32,
    /// At least a microsecond.
    pub took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LiftState {
    /// For its time, or for others to end.
    Waiting,
    Moving,
    /// All that could be lifted is there, and held.
    Held,
    /// Its blocks were asked for, or its deadline passed, or room was needed.
    Ended,
    Cancelled,
}

/// Where a lift stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub state: LiftState,
    pub reason: LiftReason,
    pub to: Tier,
    /// By when the blocks are needed, and how long they are held.
    pub deadline: Time,
    /// Blocks that were named; those of them that are there or were moved there; those that found
    /// no room or are gone; and those that were asked for since.
    pub blocks: u32,
    pub landed: u32,
    pub clipped: u32,
    pub used: u32,
}

/// The roads between the tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Link {
    /// DRAM to HBM or to an engine's pool.
    DeviceUp = 0,
    /// HBM or an engine's pool to DRAM.
    DeviceDown = 1,
    /// HBM to or from an engine's pool.
    DeviceLocal = 2,
    NvmeRead = 3,
    NvmeWrite = 4,
    ObjectGet = 5,
    ObjectPut = 6,
}

impl Link {
    pub const COUNT: usize = 7;

    pub const ALL: [Self; Self::COUNT] = [
        Self::DeviceUp,
        Self::DeviceDown,
        Self::DeviceLocal,
        Self::NvmeRead,
        Self::NvmeWrite,
        Self::ObjectGet,
        Self::ObjectPut,
    ];

    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DeviceUp => "device_up",
            Self::DeviceDown => "device_down",
            Self::DeviceLocal => "device_local",
            Self::NvmeRead => "nvme_read",
            Self::NvmeWrite => "nvme_write",
            Self::ObjectGet => "object_get",
            Self::ObjectPut => "object_put",
        }
    }
}

/// One link's figures. Bytes are payload bytes since the daemon's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStatus {
    /// Moved for requests that waited, ahead of need, and for nobody who waits.
    pub demand_bytes: u64,
    pub prefetch_bytes: u64,
    pub background_bytes: u64,
    /// Learned from what moved; zero: nothing has moved yet.
    pub bytes_per_s: u64,
    pub latency_us: u64,
    pub queued_transfers: u64,
    pub in_flight_bytes: u64,
}

/// What came of lifts since the daemon's start, in payload bytes of the lifted blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiftCounts {
    pub begun: u64,
    pub cancelled: u64,
    /// Blocks that found no room, or were not here any more.
    pub clipped_blocks: u64,
    /// Started moving.
    pub bytes: u64,
    /// There before they were asked for, asked for while they moved, and never asked for.
    pub timely_bytes: u64,
    pub late_bytes: u64,
    pub wasted_bytes: u64,
}
