//! The CUDA driver itself. All of CUDA that this program knows is here and in `context.rs`.
//!
//! Nothing is linked: [`gpus`] and [`open`] look for `libcuda.so.1` first, since cudarc panics when
//! it calls into a library or a function that is not there. The functions below are in every driver
//! since CUDA 11; the one that is newer is looked for by name.

mod context;

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys;
use sys::{CUdevice, CUdevice_attribute, CUresult};

use super::device::{CudaConfig, CudaDevice, Tuning};
use super::driver::{Driver, DriverError, GpuFacts};
use super::tune::Trial;
use crate::tiers::dram::Arena;

use context::Cuda;

/// The oldest CUDA version whose driver takes our PTX, as `cuDriverGetVersion` counts: 12.0.
const VERSION_MIN: c_int = 12_000;

/// Why there is no CUDA here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDriver {
    #[error("no libcuda.so.1: there is no NVIDIA driver here")]
    Missing,
    #[error(
        "the NVIDIA driver serves CUDA {major}.{minor}, which is too old: install driver 525 or \
         later, for CUDA 12.0"
    )]
    Old { major: u32, minor: u32 },
    #[error("the NVIDIA driver does not start: {0}")]
    Broken(String),
}

/// The GPUs that this process may use.
///
/// # Errors
/// There is no driver that serves.
pub fn gpus() -> Result<Vec<GpuFacts>, NoDriver> {
    let version = start()?;
    let broken = |error: DriverError| NoDriver::Broken(error.to_string());
    let mut count = 0;
    // SAFETY: `count` is a number that the call writes.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&raw mut count) }).map_err(broken)?;
    (0..count)
        .map(|ordinal| facts(ordinal, version).map(|(_, facts)| facts).map_err(broken))
        .collect()
}

/// Takes the GPU of that number into use.
///
/// # Errors
/// A sentence naming what is wrong and what to do.
pub fn open(ordinal: u32, arena: Arc<Arena>, config: CudaConfig) -> Result<CudaDevice, String> {
    let tuning = Tuning::Measure(Trial::AT_START);
    CudaDevice::with_driver(&driver(ordinal)?, arena, config, &tuning, Box::new(driver_of))
}

/// The driver of the GPU of that id.
fn driver_of(uuid: [u8; 16]) -> Result<Arc<dyn Driver>, String> {
    let found = gpus().map_err(|error| error.to_string())?;
    let gpu = found.iter().find(|gpu| gpu.uuid == uuid).ok_or(
        "the daemon does not see it: show it to its process (nvidia-smi -L lists what is there, \
         CUDA_VISIBLE_DEVICES hides some), or run a daemon beside that engine",
    )?;
    driver(gpu.ordinal)
}

/// The driver of the GPU of that number.
pub(super) fn driver(ordinal: u32) -> Result<Arc<dyn Driver>, String> {
    let version = start().map_err(|error| error.to_string())?;
    Ok(Arc::new(Cuda::open(ordinal, version)?))
}

/// Finds the driver and starts it; gives its version.
fn start() -> Result<c_int, NoDriver> {
    // SAFETY: looks for the library by its names; its initialisers are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoDriver::Missing);
    }
    let broken = |error: DriverError| NoDriver::Broken(error.to_string());
    let mut version = 0;
    // SAFETY: `version` is a number that the call writes; the call needs no context.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&raw mut version) })
        .map_err(broken)?;
    if version < VERSION_MIN {
        let (major, minor) = version_of(version);
        return Err(NoDriver::Old { major, minor });
    }
    // SAFETY: may be called any number of times, from any thread.
    check("cuInit", unsafe { sys::cuInit(0) }).map_err(broken)?;
    Ok(version)
}

/// The driver counts 12080 for CUDA 12.8.
fn version_of(number: c_int) -> (u32, u32) {
    let number = number.unsigned_abs();
    (number / 1000, number % 1000 / 10)
}

fn facts(ordinal: c_int, version: c_int) -> Result<(CUdevice, GpuFacts), DriverError> {
    let mut device = 0;
    // SAFETY: `device` is a number that the call writes.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
    let mut name = [0 as c_char; 128];
    // SAFETY: the call writes at most 127 bytes and their end into `name`.
    let named = unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 127, device) };
    check("cuDeviceGetName", named)?;
    // SAFETY: the call has ended the name with a zero, and the array began as zeros.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let mut uuid = sys::CUuuid { bytes: [0; 16] };
    // SAFETY: `uuid` is 16 bytes that the call writes.
    check("cuDeviceGetUuid", unsafe { sys::cuDeviceGetUuid_v2(&raw mut uuid, device) })?;
    let mut memory_bytes = 0;
    // SAFETY: `memory_bytes` is a number that the call writes.
    let total = unsafe { sys::cuDeviceTotalMem_v2(&raw mut memory_bytes, device) };
    check("cuDeviceTotalMem", total)?;
    let multiprocessors =
        attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let pci = pci_address(device)?;
    let facts = GpuFacts {
        ordinal: ordinal.unsigned_abs(),
        name,
        uuid: uuid.bytes.map(c_char::cast_unsigned),
        pci,
        multiprocessors: multiprocessors.unsigned_abs(),
        memory_bytes: memory_bytes as u64,
        driver: version_of(version),
        batches: has_batches(),
    };
    Ok((device, facts))
}

/// Every GPU is function 0 of its device.
fn pci_address(device: CUdevice) -> Result<String, DriverError> {
    let domain = attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
    let bus = attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
    let slot = attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
    Ok(format!("{domain:04x}:{bus:02x}:{slot:02x}.0"))
}

fn attribute(device: CUdevice, which: CUdevice_attribute) -> Result<c_int, DriverError> {
    let mut value = 0;
    // SAFETY: `value` is a number that the call writes.
    check("cuDeviceGetAttribute", unsafe {
        sys::cuDeviceGetAttribute(&raw mut value, which, device)
    })?;
    Ok(value)
}

/// Drivers since CUDA 12.8 have the call; later ones keep it under this name.
fn has_batches() -> bool {
    // SAFETY: `start` has found the library.
    let library = unsafe { sys::culib() };
    // SAFETY: the symbol's address is only looked for, never called by this type.
    unsafe { library.get::<*const c_void>(b"cuMemcpyBatchAsync\0") }.is_ok()
}

fn check(call: &'static str, result: CUresult) -> Result<(), DriverError> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |read: unsafe fn(CUresult, *mut *const c_char) -> CUresult| {
        let mut text = ptr::null();
        // SAFETY: both readers write the address of a text that lives as long as the library.
        let known = unsafe { read(result, &raw mut text) };
        if known != CUresult::CUDA_SUCCESS || text.is_null() {
            return "an unknown error".to_owned();
        }
        // SAFETY: the driver's texts end with a zero.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    };
    let (name, described) = (text(sys::cuGetErrorName), text(sys::cuGetErrorString));
    Err(DriverError { call, code: result as u32, name, text: described })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_the_driver_counts() {
        assert_eq!(version_of(12_080), (12, 8));
        assert_eq!(version_of(11_040), (11, 4));
    }

    /// On a machine without a driver this shows that looking for one is no panic.
    #[test]
    fn looking_for_gpus_is_answered() {
        match gpus() {
            Ok(found) => assert!(found.iter().all(|gpu| gpu.multiprocessors > 0), "{found:?}"),
            Err(error) => assert!(error.to_string().contains("driver"), "{error}"),
        }
    }
}
