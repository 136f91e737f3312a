//! The calls of the CUDA driver that the device makes, as a trait: `sys.rs` makes them for real, and
//! the tests have a driver over this machine's memory.
//!
//! Addresses are those of CUDA's unified address space: of the GPU's memory, and of this process's
//! where that was registered. Every implementation answers each call on any thread.

use std::fmt;

use super::super::cuda_claim::IpcHandle;
use super::super::runs::Run;
use super::kernels::Kernel;

/// A byte in the unified address space.
pub(super) type Address = u64;

/// A stream of the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamId(pub(super) usize);

/// An event of the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventId(pub(super) usize);

/// A GPU, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuFacts {
    pub ordinal: u32,
    pub name: String,
    pub uuid: [u8; 16],
    /// Its address on the PCI bus, as `/sys/bus/pci/devices` has it.
    pub pci: String,
    pub multiprocessors: u32,
    pub memory_bytes: u64,
    /// The CUDA version that the driver serves, major and minor.
    pub driver: (u32, u32),
    /// Whether the driver has `cuMemcpyBatchAsync`.
    pub batches: bool,
}

#[cfg(test)]
impl GpuFacts {
    /// A GPU for tests.
    #[must_use]
    pub fn h100(ordinal: u32) -> Self {
        Self {
            ordinal,
            name: "NVIDIA H100".into(),
            uuid: [0; 16],
            pci: "0000:3b:00.0".into(),
            multiprocessors: 132,
            memory_bytes: 80 << 30,
            driver: (12, 8),
            batches: true,
        }
    }
}

impl fmt::Display for GpuFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.driver;
        let Self { ordinal, name, pci, .. } = self;
        write!(f, "cuda:{ordinal}, {name}, CUDA {major}.{minor}, PCI {pci}")
    }
}

/// A call that the driver refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {text} ({name})")]
pub(super) struct DriverError {
    pub(super) call: &'static str,
    pub(super) code: u32,
    pub(super) name: String,
    pub(super) text: String,
}

impl DriverError {
    /// Errors after which the context still works. All others are taken to have ended it: the
    /// driver repeats them for every later call.
    ///
    /// Source: CUDA driver API, `CUresult`.
    const PASSING: [u32; 15] = [
        1,   // invalid value
        2,   // out of memory
        101, // invalid device
        200, // invalid image
        205, // map failed
        208, // already mapped
        217, // peer access unsupported
        218, // invalid PTX
        222, // unsupported PTX version
        304, // operating system call failed
        400, // invalid handle
        500, // not found
        712, // host memory is registered already
        713, // host memory is not registered
        801, // not supported
    ];

    pub(super) const OUT_OF_MEMORY: u32 = 2;
    pub(super) const INVALID_CONTEXT: u32 = 201;
    pub(super) const NOT_SUPPORTED: u32 = 801;

    /// Whether the GPU is lost to this process.
    pub(super) fn is_fatal(&self) -> bool {
        !Self::PASSING.contains(&self.code)
    }
}

/// How many threads run a kernel: `groups` of `threads` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grid {
    pub(super) groups: u32,
    pub(super) threads: u32,
}

/// One GPU through its driver.
pub(super) trait Driver: Send + Sync + 'static {
    fn facts(&self) -> &GpuFacts;

    fn alloc(&self, bytes: u64) -> Result<Address, DriverError>;

    /// # Safety
    /// `at` came from `alloc`, once, and nothing uses it any more.
    unsafe fn free(&self, at: Address);

    /// Memory of this machine, registered from the start. Its address is its pointer too.
    fn alloc_host(&self, bytes: u64) -> Result<Address, DriverError>;

    /// # Safety
    /// `at` came from `alloc_host`, once, and nothing uses it any more.
    unsafe fn free_host(&self, at: Address);

    /// Makes memory of this process one that the GPU reads and writes.
    ///
    /// # Safety
    /// The memory is mapped until `unregister`.
    unsafe fn register(&self, at: *mut u8, bytes: u64) -> Result<Address, DriverError>;

    /// # Safety
    /// `at` was registered, and no copy from or to it is under way.
    unsafe fn unregister(&self, at: *mut u8);

    fn create_stream(&self) -> Result<StreamId, DriverError>;
    fn destroy_stream(&self, stream: StreamId);
    fn create_event(&self) -> Result<EventId, DriverError>;
    fn destroy_event(&self, event: EventId);
    fn record(&self, event: EventId, stream: StreamId) -> Result<(), DriverError>;

    /// Waits here until all that was queued is done.
    fn drain(&self, stream: StreamId) -> Result<(), DriverError>;

    /// Waits here until what was recorded last is done.
    fn wait(&self, event: EventId) -> Result<(), DriverError>;

    /// Whether what was recorded last is done; waits for nothing.
    fn is_done(&self, event: EventId) -> Result<bool, DriverError>;

    /// What is queued on `stream` from now on waits on the GPU for what `event` recorded last: an event
    /// of this process, for one of another may never be done.
    fn hold(&self, stream: StreamId, event: EventId) -> Result<(), DriverError>;

    /// # Safety
    /// Both ends are memory of this driver's until the stream has done the copy, and nobody else
    /// touches the target.
    unsafe fn copy(&self, run: Run, stream: StreamId) -> Result<(), DriverError>;

    /// Copies all runs, in any order and beside each other. Only where the facts say `batches`.
    ///
    /// # Safety
    /// As for `copy`, and the runs are apart.
    unsafe fn copy_batch(&self, runs: &[Run], stream: StreamId) -> Result<(), DriverError>;

    /// Runs a kernel. Every argument is passed as the low bytes of a number.
    ///
    /// # Safety
    /// The arguments are what the kernel takes, and what they point to stays until the stream has
    /// run it.
    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: Grid,
        args: &[u64],
        stream: StreamId,
    ) -> Result<(), DriverError>;

    /// Opens another process's allocation: its start and its length.
    fn open_memory(&self, handle: &IpcHandle) -> Result<(Address, u64), DriverError>;

    /// # Safety
    /// `at` came from `open_memory`, once, and nothing uses it any more.
    unsafe fn close_memory(&self, at: Address);

    fn open_event(&self, handle: &IpcHandle) -> Result<EventId, DriverError>;

    /// The handle by which other processes open the allocation at `at`.
    fn export_memory(&self, at: Address) -> Result<IpcHandle, DriverError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its number depends on what CUDA is told; its PCI address does not.
    #[test]
    fn a_gpu_is_named_so_that_it_can_be_found() {
        let said = GpuFacts::h100(1).to_string();
        assert_eq!(said, "cuda:1, NVIDIA H100, CUDA 12.8, PCI 0000:3b:00.0");
    }
}
