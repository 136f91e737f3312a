//! A driver over this machine's memory, for tests: what the device asks of CUDA without a GPU.
//!
//! As careful as a GPU is not: a copy or kernel that touches a byte of no known memory panics, and
//! nothing queued on a stream runs before somebody waits for it, so that whoever forgets to wait
//! finds stale bytes. The kernels are the real ones, run by `kernels/host.c`.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::cuda_claim::IpcHandle;
use super::super::runs::Run;
use super::driver::{Address, Driver, DriverError, EventId, GpuFacts, Grid, StreamId};
use super::kernels::{self, Kernel, KernelCopy, Pages};

/// A GPU that is none.
pub(super) struct FakeDriver {
    facts: GpuFacts,
    world: Arc<World>,
    /// Its kernels do nothing, and so leave wrong bytes.
    pub(super) spoils: bool,
}

/// What GPUs of one machine share: each reaches the memory of all.
#[derive(Default)]
struct World {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    memories: BTreeMap<Address, Memory>,
    streams: Vec<VecDeque<Op>>,
    events: Vec<Event>,
    /// Calls to refuse by name: by which code, and how many more.
    refuse: BTreeMap<&'static str, (u32, u32)>,
    /// What other processes lent.
    lent: Vec<(IpcHandle, Lent)>,
    /// Calls by name.
    calls: BTreeMap<&'static str, u64>,
    batched_runs: usize,
}

struct Memory {
    bytes: u64,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Device,
    Host,
    Registered,
    Opened,
}

#[derive(Clone, Copy)]
enum Lent {
    Memory { at: Address, bytes: u64 },
    Event(usize),
}

#[derive(Default)]
struct Event {
    /// Where and as how many-th operation it was recorded last.
    recorded: Option<(StreamId, u64)>,
    done: u64,
    records: u64,
    /// An engine's event, which only the test ends and begins again: whether it is done.
    engine: Option<bool>,
}

enum Op {
    Copy(Run),
    Launch { kernel: Kernel, grid: Grid, args: Vec<u64> },
    Record(EventId, u64),
    Hold(EventId, u64),
}

impl FakeDriver {
    pub(super) fn new(batches: bool) -> Self {
        let facts = GpuFacts {
            ordinal: 0,
            name: "no GPU".into(),
            uuid: [9; 16],
            pci: "0000:3b:00.0".into(),
            multiprocessors: 12,
            memory_bytes: 8 << 30,
            driver: (12, 8),
            batches,
        };
        Self { facts, world: Arc::default(), spoils: false }
    }

    /// Another GPU of the same machine.
    pub(super) fn beside(&self, uuid: [u8; 16]) -> Self {
        let facts = GpuFacts { uuid, ordinal: self.facts.ordinal + 1, ..self.facts.clone() };
        Self { facts, world: Arc::clone(&self.world), spoils: false }
    }

    /// Memory of an engine's process, and the handle that opens it.
    pub(super) fn lend(&self, at: Address, bytes: u64) -> IpcHandle {
        self.lend_as(Lent::Memory { at, bytes })
    }

    /// How much memory a handle opens.
    pub(super) fn lent_bytes(&self, handle: &IpcHandle) -> Option<u64> {
        let state = self.state();
        let found = state.lent.iter().find(|(lent, _)| lent == handle);
        found.and_then(|(_, lent)| match lent {
            Lent::Memory { bytes, .. } => Some(*bytes),
            Lent::Event(_) => None,
        })
    }

    /// An event of an engine's process that is not done yet.
    pub(super) fn lend_event(&self) -> IpcHandle {
        let mut state = self.state();
        state.events.push(Event { engine: Some(false), ..Event::default() });
        let event = state.events.len() - 1;
        drop(state);
        self.lend_as(Lent::Event(event))
    }

    fn lend_as(&self, lent: Lent) -> IpcHandle {
        let mut state = self.state();
        let mut handle = [0; 64];
        handle[0] = u8::try_from(state.lent.len() + 1).unwrap();
        state.lent.push((handle, lent));
        handle
    }

    /// The engine's stream has come so far, or the engine has recorded the event again.
    pub(super) fn set_event(&self, handle: &IpcHandle, done: bool) {
        let mut state = self.state();
        let found = state.lent.iter().find(|(lent, _)| lent == handle).map(|(_, lent)| *lent);
        let Some(Lent::Event(event)) = found else { panic!("no event was lent by that handle") };
        state.events[event].engine = Some(done);
    }

    /// Refuses the next `times` calls of that name.
    pub(super) fn refuse(&self, call: &'static str, code: u32, times: u32) {
        self.state().refuse.insert(call, (code, times));
    }

    /// How often a call was made.
    pub(super) fn calls(&self, call: &'static str) -> u64 {
        self.state().calls.get(call).copied().unwrap_or(0)
    }

    /// Runs that came in batches.
    pub(super) fn batched_runs(&self) -> usize {
        self.state().batched_runs
    }

    /// Memories of a kind that were not given back.
    pub(super) fn memories(&self, kind: Kind) -> usize {
        self.state().memories.values().filter(|memory| memory.kind == kind).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.world.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts the call, and refuses it if the test wants so.
    fn begin(&self, call: &'static str) -> Result<MutexGuard<'_, State>, DriverError> {
        let mut state = self.state();
        *state.calls.entry(call).or_default() += 1;
        match state.refuse.get_mut(call) {
            Some((code, times)) if *times > 0 => {
                *times -= 1;
                Err(DriverError {
                    call,
                    code: *code,
                    name: format!("CUDA_ERROR_{code}"),
                    text: "refused by the test".into(),
                })
            }
            _ => Ok(state),
        }
    }

    fn new_memory(&self, call: &'static str, bytes: u64, kind: Kind) -> Result<u64, DriverError> {
        let mut state = self.begin(call)?;
        // SAFETY: no test asks for a memory of no bytes.
        let at = unsafe { alloc_zeroed(layout(bytes)) }.expose_provenance() as u64;
        state.memories.insert(at, Memory { bytes, kind });
        Ok(at)
    }

    fn end_memory(&self, call: &'static str, at: Address, kind: Kind) {
        let mut state = self.begin(call).expect("giving back is never refused");
        let memory = state.memories.remove(&at).expect("what is given back was there");
        assert_eq!(memory.kind, kind, "given back as what it was");
        if matches!(kind, Kind::Device | Kind::Host) {
            // SAFETY: allocated in `new_memory` with this layout, and given back once.
            unsafe { dealloc(pointer(at), layout(memory.bytes)) };
        }
    }

    fn queue(&self, call: &'static str, stream: StreamId, op: Op) -> Result<(), DriverError> {
        self.begin(call)?.streams[stream.0].push_back(op);
        Ok(())
    }

    /// Runs the stream until the event's record `number` has been reached.
    fn run_until(&self, event: EventId, number: u64) {
        loop {
            let mut state = self.state();
            if state.events[event.0].done >= number {
                return;
            }
            let (stream, _) = state.events[event.0].recorded.expect("a record has its stream");
            let Some(op) = state.streams[stream.0].pop_front() else { continue };
            match op {
                Op::Hold(held, number) => {
                    drop(state);
                    self.run_until(held, number);
                }
                Op::Record(recorded, number) => {
                    let done = &mut state.events[recorded.0].done;
                    *done = number.max(*done);
                }
                Op::Copy(run) => state.copy(run),
                Op::Launch { kernel, grid, args } => state.launch(kernel, grid, args),
            }
        }
    }
}

impl State {
    fn copy(&self, run: Run) {
        self.check(run.from, run.bytes, "a copy reads");
        self.check(run.to, run.bytes, "a copy writes");
        let bytes = usize::try_from(run.bytes).unwrap();
        // SAFETY: both ends were found in memories that are there.
        unsafe { std::ptr::copy(pointer(run.from), pointer(run.to), bytes) };
    }

    fn launch(&self, kernel: Kernel, grid: Grid, mut args: Vec<u64>) {
        for copy in self.descriptors(&args) {
            self.check_pages(&copy, &copy.from, "a kernel reads");
            if kernel == Kernel::CopyBlocks {
                self.check_pages(&copy, &copy.to, "a kernel writes");
            }
        }
        let mut pointers: Vec<_> =
            args.iter_mut().map(|arg| std::ptr::from_mut(arg).cast()).collect();
        // SAFETY: the arguments are the device's, whose descriptors and pages were checked.
        unsafe { kernels::host::launch(kernel, grid.groups, grid.threads, &mut pointers) };
    }

    fn descriptors(&self, args: &[u64]) -> Vec<KernelCopy> {
        let count = usize::try_from(args[1]).unwrap();
        let bytes = count * size_of::<KernelCopy>();
        self.check(args[0], bytes as u64, "a kernel is described");
        let mut copies = vec![KernelCopy::default(); count];
        // SAFETY: the descriptors lie in a memory that is there.
        unsafe { std::ptr::copy(pointer(args[0]), copies.as_mut_ptr().cast(), bytes) };
        copies
    }

    fn check_pages(&self, copy: &KernelCopy, pages: &Pages, what: &str) {
        for (shard, layer, plane) in (0..copy.pages()).map(|page| {
            let (plane, rest) = (page % copy.planes, page / copy.planes);
            (rest / copy.layers, rest % copy.layers, plane)
        }) {
            let mut of_layer = u64::from(layer) * pages.layer_stride;
            if pages.layers != 0 {
                let entry = pages.layers + u64::from(layer) * 8;
                self.check(entry, 8, "a table of layers");
                // SAFETY: the entry lies in a memory that is there.
                of_layer = unsafe { pointer(entry).cast::<u64>().read_unaligned() };
            }
            let at = pages.start
                + of_layer
                + u64::from(shard) * pages.shard_stride
                + u64::from(plane) * pages.plane_stride;
            self.check(at, copy.page_bytes.into(), what);
        }
    }

    fn check(&self, at: Address, bytes: u64, what: &str) {
        let memory = self.memories.range(..=at).next_back();
        let inside = memory.is_some_and(|(start, memory)| at + bytes <= start + memory.bytes);
        assert!(inside, "{what} {bytes} bytes at {at:#x}, which is in no memory of the GPU's");
    }
}

/// On 16 bytes as vectors want it, and no more: then pages come when they are first touched.
fn layout(bytes: u64) -> Layout {
    Layout::from_size_align(usize::try_from(bytes).unwrap(), 16).unwrap()
}

fn pointer(at: Address) -> *mut u8 {
    std::ptr::with_exposed_provenance_mut(usize::try_from(at).unwrap())
}

impl Driver for FakeDriver {
    fn facts(&self) -> &GpuFacts {
        &self.facts
    }

    fn alloc(&self, bytes: u64) -> Result<Address, DriverError> {
        self.new_memory("alloc", bytes, Kind::Device)
    }

    unsafe fn free(&self, at: Address) {
        self.end_memory("free", at, Kind::Device);
    }

    fn alloc_host(&self, bytes: u64) -> Result<Address, DriverError> {
        self.new_memory("alloc_host", bytes, Kind::Host)
    }

    unsafe fn free_host(&self, at: Address) {
        self.end_memory("free_host", at, Kind::Host);
    }

    unsafe fn register(&self, at: *mut u8, bytes: u64) -> Result<Address, DriverError> {
        let at = at.expose_provenance() as u64;
        let memory = Memory { bytes, kind: Kind::Registered };
        self.begin("register")?.memories.insert(at, memory);
        Ok(at)
    }

    unsafe fn unregister(&self, at: *mut u8) {
        self.end_memory("unregister", at.expose_provenance() as u64, Kind::Registered);
    }

    fn create_stream(&self) -> Result<StreamId, DriverError> {
        let mut state = self.begin("create_stream")?;
        state.streams.push(VecDeque::new());
        Ok(StreamId(state.streams.len() - 1))
    }

    fn destroy_stream(&self, _stream: StreamId) {
        drop(self.begin("destroy_stream"));
    }

    fn create_event(&self) -> Result<EventId, DriverError> {
        let mut state = self.begin("create_event")?;
        state.events.push(Event::default());
        Ok(EventId(state.events.len() - 1))
    }

    fn destroy_event(&self, _event: EventId) {
        drop(self.begin("destroy_event"));
    }

    fn record(&self, event: EventId, stream: StreamId) -> Result<(), DriverError> {
        let mut state = self.begin("record")?;
        let recorded = &mut state.events[event.0];
        recorded.records += 1;
        recorded.recorded = Some((stream, recorded.records));
        let number = recorded.records;
        state.streams[stream.0].push_back(Op::Record(event, number));
        Ok(())
    }

    fn drain(&self, stream: StreamId) -> Result<(), DriverError> {
        let mut state = self.begin("drain")?;
        let event = EventId(state.events.len());
        let recorded = Some((stream, 1));
        state.events.push(Event { recorded, records: 1, ..Event::default() });
        state.streams[stream.0].push_back(Op::Record(event, 1));
        drop(state);
        self.run_until(event, 1);
        Ok(())
    }

    fn wait(&self, event: EventId) -> Result<(), DriverError> {
        let number = self.begin("wait")?.events[event.0].records;
        if number > 0 {
            self.run_until(event, number);
        }
        Ok(())
    }

    fn is_done(&self, event: EventId) -> Result<bool, DriverError> {
        let state = self.begin("is_done")?;
        Ok(state.events[event.0].engine.expect("only engines' events are asked"))
    }

    fn hold(&self, stream: StreamId, event: EventId) -> Result<(), DriverError> {
        let state = self.state();
        let number = state.events[event.0].records;
        assert!(state.events[event.0].engine.is_none(), "an engine may never come so far");
        drop(state);
        self.queue("hold", stream, Op::Hold(event, number))
    }

    unsafe fn copy(&self, run: Run, stream: StreamId) -> Result<(), DriverError> {
        self.queue("copy", stream, Op::Copy(run))
    }

    unsafe fn copy_batch(&self, runs: &[Run], stream: StreamId) -> Result<(), DriverError> {
        assert!(self.facts.batches, "this driver has no such call");
        let mut state = self.begin("copy_batch")?;
        // In no order that anybody may count on.
        state.batched_runs += runs.len();
        state.streams[stream.0].extend(runs.iter().rev().map(|run| Op::Copy(*run)));
        Ok(())
    }

    unsafe fn launch(
        &self,
        kernel: Kernel,
        grid: Grid,
        args: &[u64],
        stream: StreamId,
    ) -> Result<(), DriverError> {
        if self.spoils {
            return self.begin("launch").map(drop);
        }
        let args = args.to_vec();
        self.queue("launch", stream, Op::Launch { kernel, grid, args })
    }

    fn open_memory(&self, handle: &IpcHandle) -> Result<(Address, u64), DriverError> {
        let mut state = self.begin("open_memory")?;
        let found = state.lent.iter().find(|(lent, _)| lent == handle).map(|(_, lent)| *lent);
        let Some(Lent::Memory { at, bytes }) = found else { return Err(no_such("open_memory")) };
        state.memories.insert(at, Memory { bytes, kind: Kind::Opened });
        Ok((at, bytes))
    }

    unsafe fn close_memory(&self, at: Address) {
        self.end_memory("close_memory", at, Kind::Opened);
    }

    fn open_event(&self, handle: &IpcHandle) -> Result<EventId, DriverError> {
        let state = self.begin("open_event")?;
        let found = state.lent.iter().find(|(lent, _)| lent == handle).map(|(_, lent)| *lent);
        let Some(Lent::Event(event)) = found else { return Err(no_such("open_event")) };
        Ok(EventId(event))
    }

    fn export_memory(&self, at: Address) -> Result<IpcHandle, DriverError> {
        let state = self.begin("export_memory")?;
        let bytes = state.memories[&at].bytes;
        drop(state);
        Ok(self.lend(at, bytes))
    }
}

fn no_such(call: &'static str) -> DriverError {
    let name = "CUDA_ERROR_INVALID_VALUE".into();
    DriverError { call, code: 1, name, text: "invalid argument".into() }
}
