//! One GPU's context, and the driver's calls in it.
//!
//! Each call is one call of the driver; what it is called for is decided elsewhere.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::ptr;

use cudarc::driver::sys;
use sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUevent, CUfunction, CUmodule, CUresult, CUstream,
};

use super::super::super::cuda_claim::IpcHandle;
use super::super::super::runs::Run;
use super::super::driver::{Address, Driver, DriverError, EventId, GpuFacts, Grid, StreamId};
use super::super::kernels::Kernel;
use super::{attribute, check, facts};

/// One GPU's primary context, which this process shares with whatever else uses the GPU in it.
pub(super) struct Cuda {
    device: CUdevice,
    context: CUcontext,
    facts: GpuFacts,
    functions: Vec<(Kernel, CUfunction)>,
}

// SAFETY: the driver's handles may be used from any thread, and `enter` makes the context current on
// the thread of each call.
unsafe impl Send for Cuda {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Cuda {}

impl Cuda {
    pub(super) fn open(ordinal: u32, version: c_int) -> Result<Self, String> {
        let number = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        let (device, facts) = facts(number, version).map_err(|error| {
            format!("there is no cuda:{ordinal}: {error}: nvidia-smi -L lists the GPUs")
        })?;
        let unified = attribute(device, CUdevice_attribute::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING);
        if unified != Ok(1) {
            return Err(format!("{facts} has no unified addressing, which copies here need"));
        }
        let taken = |error: DriverError| format!("{facts} can't be taken into use: {error}");
        let mut context = ptr::null_mut();
        // SAFETY: `context` is a handle that the call writes; it is released in `drop`.
        let retained = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        check("cuDevicePrimaryCtxRetain", retained).map_err(taken)?;
        let mut cuda = Self { device, context, facts: facts.clone(), functions: Vec::new() };
        cuda.functions = cuda.load_kernels().map_err(taken)?;
        Ok(cuda)
    }

    /// Every kernel, compiled by the driver for this GPU. Modules stay until the context goes.
    fn load_kernels(&self) -> Result<Vec<(Kernel, CUfunction)>, DriverError> {
        self.enter()?;
        Kernel::ALL
            .into_iter()
            .map(|kernel| {
                let image = CString::new(kernel.ptx()).expect("PTX is text");
                let name = CString::new(kernel.name()).expect("names are text");
                let mut module: CUmodule = ptr::null_mut();
                // SAFETY: `image` is text that ends with a zero, as the call wants of PTX.
                let loaded =
                    unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) };
                check("cuModuleLoadData", loaded)?;
                let mut function: CUfunction = ptr::null_mut();
                // SAFETY: the module was loaded, and `name` ends with a zero.
                let found =
                    unsafe { sys::cuModuleGetFunction(&raw mut function, module, name.as_ptr()) };
                check("cuModuleGetFunction", found)?;
                Ok((kernel, function))
            })
            .collect()
    }

    /// Makes the context this thread's.
    fn enter(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained while `self` lives.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Gives something back. What fails then is of a context that is gone, and so is the thing.
    fn give_back(&self, call: impl FnOnce() -> CUresult) {
        if self.enter().is_ok() {
            let _ = call();
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: retained once in `open`. An error says that the driver is on its way out.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

fn stream_of(stream: StreamId) -> CUstream {
    ptr::with_exposed_provenance_mut(stream.0)
}

fn event_of(event: EventId) -> CUevent {
    ptr::with_exposed_provenance_mut(event.0)
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).expect("lengths are in the address space")
}

impl Driver for Cuda {
    fn facts(&self) -> &GpuFacts {
        &self.facts
    }

    fn alloc(&self, bytes: u64) -> Result<Address, DriverError> {
        self.enter()?;
        let mut at = 0;
        // SAFETY: `at` is an address that the call writes.
        check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&raw mut at, size(bytes)) })?;
        Ok(at)
    }

    unsafe fn free(&self, at: Address) {
        // SAFETY: the caller's promise.
        self.give_back(|| unsafe { sys::cuMemFree_v2(at) });
    }

    fn alloc_host(&self, bytes: u64) -> Result<Address, DriverError> {
        self.enter()?;
        let flags = sys::CU_MEMHOSTALLOC_PORTABLE | sys::CU_MEMHOSTALLOC_DEVICEMAP;
        let mut at: *mut c_void = ptr::null_mut();
        // SAFETY: `at` is a pointer that the call writes. With unified addressing, which `open` has
        // checked, it is the GPU's address too.
        check("cuMemHostAlloc", unsafe { sys::cuMemHostAlloc(&raw mut at, size(bytes), flags) })?;
        Ok(at.expose_provenance() as u64)
    }

    unsafe fn free_host(&self, at: Address) {
        let at: *mut c_void = ptr::with_exposed_provenance_mut(size(at));
        // SAFETY: the caller's promise.
        self.give_back(|| unsafe { sys::cuMemFreeHost(at) });
    }

    unsafe fn register(&self, at: *mut u8, bytes: u64) -> Result<Address, DriverError> {
        self.enter()?;
        let flags = sys::CU_MEMHOSTREGISTER_PORTABLE | sys::CU_MEMHOSTREGISTER_DEVICEMAP;
        // SAFETY: the caller keeps the memory mapped until `unregister`.
        let registered = unsafe { sys::cuMemHostRegister_v2(at.cast(), size(bytes), flags) };
        check("cuMemHostRegister", registered)?;
        let mut address = 0;
        // SAFETY: the memory was registered with a device mapping just now.
        let mapped = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut address, at.cast(), 0) };
        check("cuMemHostGetDevicePointer", mapped).inspect_err(|_| {
            // SAFETY: registered above, and nobody has its address yet.
            let _ = unsafe { sys::cuMemHostUnregister(at.cast()) };
        })?;
        Ok(address)
    }

    unsafe fn unregister(&self, at: *mut u8) {
        // SAFETY: the caller's promise.
        self.give_back(|| unsafe { sys::cuMemHostUnregister(at.cast()) });
    }

    fn create_stream(&self) -> Result<StreamId, DriverError> {
        self.enter()?;
        let mut stream: CUstream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as c_uint;
        // SAFETY: `stream` is a handle that the call writes.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&raw mut stream, flags) })?;
        Ok(StreamId(stream.expose_provenance()))
    }

    fn destroy_stream(&self, stream: StreamId) {
        // SAFETY: made by `create_stream`; the driver lets what is queued finish.
        self.give_back(|| unsafe { sys::cuStreamDestroy_v2(stream_of(stream)) });
    }

    fn create_event(&self) -> Result<EventId, DriverError> {
        self.enter()?;
        let mut event: CUevent = ptr::null_mut();
        // Whoever waits sleeps instead of spinning.
        let flags = sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC as c_uint
            | sys::CUevent_flags::CU_EVENT_DISABLE_TIMING as c_uint;
        // SAFETY: `event` is a handle that the call writes.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, flags) })?;
        Ok(EventId(event.expose_provenance()))
    }

    fn destroy_event(&self, event: EventId) {
        // SAFETY: made by `create_event` or `open_event`, and destroyed once by its owner.
        self.give_back(|| unsafe { sys::cuEventDestroy_v2(event_of(event)) });
    }

    fn record(&self, event: EventId, stream: StreamId) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: both handles live, of this context.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event_of(event), stream_of(stream)) })
    }

    fn drain(&self, stream: StreamId) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: the stream's handle lives, of this context.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(stream_of(stream)) })
    }

    fn wait(&self, event: EventId) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: the event lives; one that was never recorded is done.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(event_of(event)) })
    }

    fn is_done(&self, event: EventId) -> Result<bool, DriverError> {
        self.enter()?;
        // SAFETY: the event lives; the driver takes events of other processes here, and waits for none.
        match unsafe { sys::cuEventQuery(event_of(event)) } {
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            said => check("cuEventQuery", said).map(|()| true),
        }
    }

    fn hold(&self, stream: StreamId, event: EventId) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: both handles live.
        let held = unsafe { sys::cuStreamWaitEvent(stream_of(stream), event_of(event), 0) };
        check("cuStreamWaitEvent", held)
    }

    unsafe fn copy(&self, run: Run, stream: StreamId) -> Result<(), DriverError> {
        self.enter()?;
        // SAFETY: the caller keeps both ends until the stream has done the copy.
        let queued =
            unsafe { sys::cuMemcpyAsync(run.to, run.from, size(run.bytes), stream_of(stream)) };
        check("cuMemcpyAsync", queued)
    }

    unsafe fn copy_batch(&self, runs: &[Run], stream: StreamId) -> Result<(), DriverError> {
        if runs.is_empty() {
            return Ok(());
        }
        self.enter()?;
        let mut to: Vec<_> = runs.iter().map(|run| run.to).collect();
        let mut from: Vec<_> = runs.iter().map(|run| run.from).collect();
        let mut sizes: Vec<_> = runs.iter().map(|run| size(run.bytes)).collect();
        // One set of attributes for all, from the first copy on. Hints count for managed memory
        // only.
        let nowhere = sys::CUmemLocation {
            type_: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_INVALID,
            id: 0,
        };
        let mut attributes = sys::CUmemcpyAttributes {
            srcAccessOrder: sys::CUmemcpySrcAccessOrder::CU_MEMCPY_SRC_ACCESS_ORDER_STREAM,
            srcLocHint: nowhere,
            dstLocHint: nowhere,
            flags: sys::CUmemcpyFlags::CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE as c_uint,
        };
        let (mut first, mut failed) = (0_usize, usize::MAX);
        // SAFETY: three arrays of `runs.len()`, read before the call returns; the caller keeps both
        // ends of each run until the stream has done it; the stream is not the default one.
        let queued = unsafe {
            sys::cuMemcpyBatchAsync(
                to.as_mut_ptr(),
                from.as_mut_ptr(),
                sizes.as_mut_ptr(),
                runs.len(),
                &raw mut attributes,
                &raw mut first,
                1,
                &raw mut failed,
                stream_of(stream),
            )
        };
        check("cuMemcpyBatchAsync", queued)
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: Grid,
        args: &[u64],
        stream: StreamId,
    ) -> Result<(), DriverError> {
        self.enter()?;
        let function = self.functions.iter().find(|(loaded, _)| *loaded == kernel);
        let (_, function) = function.expect("every kernel was loaded");
        let mut args = args.to_vec();
        // The driver reads as many bytes of each as the kernel's argument has, and this machine's
        // numbers begin with their low bytes.
        let mut pointers: Vec<*mut c_void> =
            args.iter_mut().map(|arg| ptr::from_mut(arg).cast()).collect();
        // SAFETY: the function takes so many arguments, which are read before the call returns; the
        // caller keeps what they point to until the stream has run it.
        let queued = unsafe {
            sys::cuLaunchKernel(
                *function,
                grid.groups,
                1,
                1,
                grid.threads,
                1,
                1,
                0,
                stream_of(stream),
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check("cuLaunchKernel", queued)
    }

    fn open_memory(&self, handle: &IpcHandle) -> Result<(Address, u64), DriverError> {
        self.enter()?;
        let handle = sys::CUipcMemHandle { reserved: handle.map(u8::cast_signed) };
        let flags = sys::CUipcMem_flags::CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS as c_uint;
        let mut at = 0;
        // SAFETY: any 64 bytes may be asked for; `at` is an address that the call writes.
        let opened = unsafe { sys::cuIpcOpenMemHandle_v2(&raw mut at, handle, flags) };
        check("cuIpcOpenMemHandle", opened)?;
        let (mut start, mut bytes) = (0, 0);
        // SAFETY: `at` was mapped just now; both are numbers that the call writes.
        let found = unsafe { sys::cuMemGetAddressRange_v2(&raw mut start, &raw mut bytes, at) };
        check("cuMemGetAddressRange", found).inspect_err(|_| {
            // SAFETY: opened above, and nobody has its address yet.
            let _ = unsafe { sys::cuIpcCloseMemHandle(at) };
        })?;
        // What the handle's start leaves of the allocation: the driver may give an address within.
        Ok((at, bytes as u64 - (at - start)))
    }

    unsafe fn close_memory(&self, at: Address) {
        // SAFETY: the caller's promise.
        self.give_back(|| unsafe { sys::cuIpcCloseMemHandle(at) });
    }

    fn open_event(&self, handle: &IpcHandle) -> Result<EventId, DriverError> {
        self.enter()?;
        let handle = sys::CUipcEventHandle { reserved: handle.map(u8::cast_signed) };
        let mut event: CUevent = ptr::null_mut();
        // SAFETY: any 64 bytes may be asked for; `event` is a handle that the call writes.
        let opened = unsafe { sys::cuIpcOpenEventHandle(&raw mut event, handle) };
        check("cuIpcOpenEventHandle", opened)?;
        Ok(EventId(event.expose_provenance()))
    }

    fn export_memory(&self, at: Address) -> Result<IpcHandle, DriverError> {
        self.enter()?;
        let mut handle = sys::CUipcMemHandle { reserved: [0; 64] };
        // SAFETY: `at` is the start of an allocation of ours; `handle` is 64 bytes that are written.
        check("cuIpcGetMemHandle", unsafe { sys::cuIpcGetMemHandle(&raw mut handle, at) })?;
        Ok(handle.reserved.map(c_char::cast_unsigned))
    }
}
