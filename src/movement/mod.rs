//! Movement: which copies go over which link, in what order, how many at a time.
//!
//! Pure: queues and budgets only. The shell does the copying.

pub mod queue;

pub use queue::{LinkLimits, Links, Offer};

/// The roads between the tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// How urgent a transfer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// A request waits for it.
    Demand = 0,
    /// A request will want it.
    Prefetch = 1,
    /// Nobody waits.
    Background = 2,
}

impl Link {
    pub const COUNT: usize = 7;

    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl Class {
    pub const COUNT: usize = 3;

    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
