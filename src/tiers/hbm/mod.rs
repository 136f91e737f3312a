//! HBM: devices, the pools that lie on them, and copies between pools and frames.
//!
//! A device only copies: it never chooses a slot, never seals or verifies a frame, and never
//! touches a byte outside the ends it was given.

mod batch;
mod choice;
mod chunks;
mod courtesy;
pub mod cuda;
mod cuda_claim;
mod device;
mod ends;
mod geometry;
mod host;
mod layout;
mod lender;
mod past_cache;
mod pool;
mod runs;
mod store;
#[cfg(test)]
mod tests;

pub use choice::DeviceChoice;
pub use cuda_claim::{CudaClaim, CudaLayer, IpcHandle};
pub use device::{
    BlockCopy, CopiesDone, CopiesEnd, CopyEnd, Device, EngineCame, Exported, FailedCopy, Stream,
};
pub use geometry::{BlockGeometry, InTier};
pub use host::{HostDevice, HostDeviceConfig};
pub use layout::PagedLayout;
pub use lender::Lender;
pub use pool::{ClaimedPool, EnginePool, Gone, LentMemory};
pub use store::HbmStore;
