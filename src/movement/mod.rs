//! Movement: which copies go over which link, in what order, how many at a time.
//!
//! Pure: queues and budgets only. The shell does the copying.

pub mod queue;

pub mod speed;

pub use queue::{LinkLimits, Links, Load, Offer};
pub use speed::Speed;

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
    pub const ALL: [Self; Self::COUNT] = [
        Self::DeviceUp,
        Self::DeviceDown,
        Self::DeviceLocal,
        Self::NvmeRead,
        Self::NvmeWrite,
        Self::ObjectGet,
        Self::ObjectPut,
    ];

    /// As people and metrics call it.
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

    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl Class {
    pub const COUNT: usize = 3;
    pub const ALL: [Self; Self::COUNT] = [Self::Demand, Self::Prefetch, Self::Background];

    /// As people and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Demand => "demand",
            Self::Prefetch => "prefetch",
            Self::Background => "background",
        }
    }

    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
