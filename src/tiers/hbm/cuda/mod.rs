//! HBM on a CUDA device.
//!
//! The only place that knows CUDA. Nothing here is linked to its driver: `sys.rs` looks for it when
//! the daemon starts, and is all that needs a GPU. What it would be asked stands in `driver.rs`, and
//! the tests answer in its place.

mod calibration;
mod copier;
mod core;
mod device;
mod driver;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod gpu;
mod gpus;
mod kernels;
mod lane;
mod memory;
mod piece;
mod plain;
mod pool;
mod sys;
#[cfg(test)]
mod tests;
mod tune;
mod watch;

pub use calibration::{Calibration, Measured, Strategy};
pub use device::{CudaConfig, CudaDevice};
pub use driver::GpuFacts;
pub use plain::{PlainCopies, PlainWay};
pub use sys::{NoDriver, gpus, open};
#[cfg(test)]
pub use tests::device as fake_device;
