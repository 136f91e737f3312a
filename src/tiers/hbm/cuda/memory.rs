//! Memories, streams and events of a driver, given back when they are dropped.

use std::fmt;
use std::sync::Arc;

use super::super::cuda_claim::IpcHandle;
use super::driver::{Address, Driver, DriverError, EventId, StreamId};
use crate::tiers::shm::SharedMemory;

/// Memory of the GPU.
pub(super) struct DeviceMemory {
    driver: Arc<dyn Driver>,
    pub(super) at: Address,
}

impl DeviceMemory {
    pub(super) fn new(driver: &Arc<dyn Driver>, bytes: u64) -> Result<Self, DriverError> {
        Ok(Self { at: driver.alloc(bytes)?, driver: Arc::clone(driver) })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, and whoever uses the memory keeps its owner.
        unsafe { self.driver.free(self.at) };
    }
}

/// Memory of this machine that the GPU sees, for what the two tell each other.
pub(super) struct MappedMemory {
    driver: Arc<dyn Driver>,
    pub(super) at: Address,
    bytes: u64,
}

impl MappedMemory {
    pub(super) fn new(driver: &Arc<dyn Driver>, bytes: u64) -> Result<Self, DriverError> {
        Ok(Self { at: driver.alloc_host(bytes)?, driver: Arc::clone(driver), bytes })
    }

    /// Writes `values` at `offset`.
    pub(super) fn write<T: bytemuck::Pod>(&self, offset: u64, values: &[T]) -> Address {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        let at = self.locate(offset, bytes.len() as u64);
        // SAFETY: `locate` keeps the target inside the memory, whose address is its pointer, and
        // nothing on the GPU reads it now: its flight has not begun.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), pointer(at), bytes.len()) };
        at
    }

    /// Reads `count` numbers at `offset`, which the GPU has written.
    pub(super) fn read(&self, offset: u64, count: usize) -> Vec<u64> {
        let at = self.locate(offset, count as u64 * 8);
        let mut values = vec![0_u64; count];
        // SAFETY: as for `write`: inside the memory, and the GPU is done with it.
        unsafe { std::ptr::copy_nonoverlapping(pointer(at).cast(), values.as_mut_ptr(), count) };
        values
    }

    fn locate(&self, offset: u64, bytes: u64) -> Address {
        assert!(offset + bytes <= self.bytes, "{bytes} at {offset} of {} bytes", self.bytes);
        self.at + offset
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        // SAFETY: allocated in `new`, and whoever uses the memory keeps its owner.
        unsafe { self.driver.free_host(self.at) };
    }
}

fn pointer(at: Address) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(usize::try_from(at).expect("an address of this machine"))
}

/// Memory of this process that the GPU sees while this lives.
pub(super) struct Registered {
    driver: Arc<dyn Driver>,
    host: HostPointer,
    pub(super) at: Address,
    /// What keeps the memory mapped. Let go after it was unregistered.
    _keeper: Arc<dyn Keeper>,
}

/// Keeps memory mapped.
pub(super) trait Keeper: Send + Sync + 'static {
    fn memory(&self) -> (*mut u8, u64);
}

impl Keeper for SharedMemory {
    fn memory(&self) -> (*mut u8, u64) {
        (self.base(), self.len_bytes())
    }
}

impl Keeper for crate::tiers::dram::Arena {
    fn memory(&self) -> (*mut u8, u64) {
        (self.base(), self.len_bytes())
    }
}

/// A pointer that is only ever handed to the driver.
struct HostPointer(*mut u8);
// SAFETY: nobody reads or writes through the pointer here.
unsafe impl Send for HostPointer {}
// SAFETY: as above.
unsafe impl Sync for HostPointer {}

impl Registered {
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        keeper: Arc<dyn Keeper>,
    ) -> Result<Self, DriverError> {
        let (host, bytes) = keeper.memory();
        // SAFETY: the keeper keeps the memory mapped, and is let go after `unregister`.
        let at = unsafe { driver.register(host, bytes) }?;
        Ok(Self { driver: Arc::clone(driver), host: HostPointer(host), at, _keeper: keeper })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // SAFETY: registered in `new`, and whoever copies keeps this.
        unsafe { self.driver.unregister(self.host.0) };
    }
}

/// Another process's allocation.
pub(super) struct OpenedMemory {
    driver: Arc<dyn Driver>,
    pub(super) at: Address,
    pub(super) bytes: u64,
}

impl OpenedMemory {
    pub(super) fn new(driver: &Arc<dyn Driver>, handle: &IpcHandle) -> Result<Self, DriverError> {
        let (at, bytes) = driver.open_memory(handle)?;
        Ok(Self { driver: Arc::clone(driver), at, bytes })
    }
}

impl Drop for OpenedMemory {
    fn drop(&mut self) {
        // SAFETY: opened in `new`, and whoever copies keeps this.
        unsafe { self.driver.close_memory(self.at) };
    }
}

/// An event, made here or opened from another process.
pub(super) struct Event {
    driver: Arc<dyn Driver>,
    pub(super) id: EventId,
}

impl Event {
    pub(super) fn new(driver: &Arc<dyn Driver>) -> Result<Self, DriverError> {
        Ok(Self { id: driver.create_event()?, driver: Arc::clone(driver) })
    }

    pub(super) fn opened(
        driver: &Arc<dyn Driver>,
        handle: &IpcHandle,
    ) -> Result<Self, DriverError> {
        Ok(Self { id: driver.open_event(handle)?, driver: Arc::clone(driver) })
    }

    /// Whether what was recorded last is done.
    pub(super) fn is_done(&self) -> Result<bool, DriverError> {
        self.driver.is_done(self.id)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        self.driver.destroy_event(self.id);
    }
}

/// A stream.
pub(super) struct OwnStream {
    driver: Arc<dyn Driver>,
    pub(super) id: StreamId,
}

impl OwnStream {
    pub(super) fn new(driver: &Arc<dyn Driver>) -> Result<Self, DriverError> {
        Ok(Self { id: driver.create_stream()?, driver: Arc::clone(driver) })
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        self.driver.destroy_stream(self.id);
    }
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory of the GPU at {:#x}", self.at)
    }
}
