//! Engines' pools as the GPU sees them: opened when they are admitted, closed when the last copy has
//! let go of them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::super::cuda_claim::{CudaClaim, EVENTS_MAX, IpcHandle};
use super::super::geometry::PageMap;
use super::super::layout::PagedLayout;
use super::super::lender::Lender;
use super::super::pool::{ClaimedPool, EnginePool};
use super::super::runs::Run;
use super::driver::{Driver, DriverError};
use super::gpus::Uuid;
use super::memory::{DeviceMemory, Event, MappedMemory, OpenedMemory, OwnStream, Registered};
use super::piece::Sheet;

/// A pool's memory, opened.
pub(super) struct OpenPool {
    /// The GPU that the pool lies on; none for shared memory, which all reach.
    gpu: Option<Uuid>,
    /// Where the pool's allocations begin. The layout counts from the first, unless each layer has
    /// its own address.
    starts: Vec<u64>,
    layers: Vec<u64>,
    /// The layers' addresses where the kernels find them.
    table: Option<Table>,
    ready: Vec<Event>,
    /// Whose memory it is, where it counts no longer than that process lives.
    lender: Option<Lender>,
    _memory: Memory,
}

struct Table {
    there: DeviceMemory,
    /// What it was sent from. To free it makes the driver wait for all that is queued, and so for other
    /// engines: not while one registers.
    _here: MappedMemory,
}

/// What keeps the addresses good.
enum Memory {
    Registered { _memory: Registered },
    Opened { _memories: Vec<OpenedMemory> },
}

/// Some of a pool's ready events. Whoever waits for all of them may leave out each that was seen done since:
/// what had been recorded on it by then, or something later on the same stream, is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EventSet(u64);

const _: () = assert!(EVENTS_MAX <= u64::BITS as usize, "a bit each");

impl EventSet {
    pub(super) const NONE: Self = Self(0);

    fn with(self, event: usize) -> Self {
        Self(self.0 | 1 << event)
    }

    const fn has(self, event: usize) -> bool {
        self.0 & 1 << event != 0
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl OpenPool {
    /// The pages of one slot.
    pub(super) fn sheet(&self, layout: &PagedLayout, slot: u32) -> Sheet<'_> {
        let table = self.table.as_ref().map_or(0, |table| table.there.at);
        if self.layers.is_empty() {
            let map = PageMap::in_pool(layout, slot);
            return Sheet { base: self.starts[0], map, table, seams: &self.starts };
        }
        // Each layer has its own start, so the layout's counts no more.
        let map = PageMap::in_pool(&PagedLayout { base: 0, ..*layout }, slot);
        Sheet { base: 0, map: map.with_layers(&self.layers), table, seams: &self.starts }
    }

    pub(super) fn gpu(&self) -> Option<Uuid> {
        self.gpu
    }

    /// Whether its engine has ended: nobody says what its memory holds, and its events may be done by that
    /// alone.
    pub(super) fn is_orphaned(&self, pool: &EnginePool) -> bool {
        let ended = || self.lender.is_some_and(|lender| !lender.lives());
        self.gpu.is_some() && (pool.has_left() || ended())
    }

    /// All of its events, which calls wait for.
    pub(super) fn events(&self) -> EventSet {
        let events = 0..self.ready.len();
        events.fold(EventSet::NONE, EventSet::with)
    }

    /// Those of these events that are not done.
    pub(super) fn not_done(&self, asked: EventSet) -> Result<EventSet, DriverError> {
        let mut left = EventSet::NONE;
        for (at, event) in self.ready.iter().enumerate() {
            if asked.has(at) && !event.is_done()? {
                left = left.with(at);
            }
        }
        Ok(left)
    }
}

/// Shows a pool in shared memory to the GPU.
///
/// # Errors
/// A sentence naming what is wrong and what to send instead.
pub(super) fn admit_shared(
    driver: &Arc<dyn Driver>,
    fd: OwnedFd,
    claim: ClaimedPool,
) -> Result<EnginePool, String> {
    let pool = EnginePool::admit(fd, claim)?;
    let memory = pool.shared().expect("a memfd is this machine's memory");
    let registered = Registered::new(driver, Arc::clone(memory) as _).map_err(|error| {
        format!(
            "the pool's shared memory can't be shown to the GPU: {error}: lend less of it, or \
             memory on the GPU"
        )
    })?;
    let open = OpenPool {
        gpu: None,
        starts: vec![registered.at],
        layers: Vec::new(),
        table: None,
        ready: Vec::new(),
        lender: None,
        _memory: Memory::Registered { _memory: registered },
    };
    Ok(pool.with(Box::new(open)))
}

/// Opens a pool on the driver's GPU, whose claim was checked as far as numbers go.
///
/// # Errors
/// A sentence naming what is wrong and what to send instead.
pub(super) fn admit_cuda(
    driver: &Arc<dyn Driver>,
    cuda: &CudaClaim,
    claim: ClaimedPool,
) -> Result<EnginePool, String> {
    let open = open(driver, cuda, &claim.layout)?;
    let has_events = !open.ready.is_empty();
    let pool = EnginePool::opened(claim, Box::new(open));
    Ok(if has_events { pool.with_events() } else { pool })
}

fn open(
    driver: &Arc<dyn Driver>,
    cuda: &CudaClaim,
    layout: &PagedLayout,
) -> Result<OpenPool, String> {
    let opened = |(at, handle): (usize, &IpcHandle)| {
        OpenedMemory::new(driver, handle).map_err(|error| explain(&error, at))
    };
    let memories: Vec<_> =
        cuda.memories.iter().enumerate().map(opened).collect::<Result<_, _>>()?;
    let lengths: Vec<u64> = memories.iter().map(|memory| memory.bytes).collect();
    cuda.check_within(layout, &lengths)?;
    let ready = cuda.ready_events.iter().map(|handle| Event::opened(driver, handle));
    let ready = ready.collect::<Result<_, _>>().map_err(|error| {
        format!(
            "pool.cuda.ready_events can't be opened: {error}: make them with \
             CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING on the pool's GPU, and keep them"
        )
    })?;
    let start = |memory: u32| memories[memory as usize].at;
    let layers: Vec<u64> =
        cuda.layers.iter().map(|layer| start(layer.memory) + layer.base).collect();
    let table = upload(driver, &layers).map_err(|error| {
        format!("no room on the GPU for the pool's table of layers: {error}: free some of it")
    })?;
    let starts = memories.iter().map(|memory| memory.at).collect();
    Ok(OpenPool {
        gpu: Some(cuda.device_uuid),
        starts,
        layers,
        table,
        ready,
        // One that can't be seen though it lives says nothing by that.
        lender: cuda.lender.filter(|lender| lender.lives()),
        _memory: Memory::Opened { _memories: memories },
    })
}

/// The table in the GPU's memory; nothing when it is empty.
fn upload(driver: &Arc<dyn Driver>, table: &[u64]) -> Result<Option<Table>, DriverError> {
    if table.is_empty() {
        return Ok(None);
    }
    let bytes = size_of_val(table) as u64;
    let (there, here) = (DeviceMemory::new(driver, bytes)?, MappedMemory::new(driver, bytes)?);
    let (stream, landed) = (OwnStream::new(driver)?, Event::new(driver)?);
    let from = here.write(0, table);
    // SAFETY: both memories are of `bytes` bytes, made here, and outlive the wait below.
    unsafe { driver.copy(Run { from, to: there.at, bytes }, stream.id) }?;
    driver.record(landed.id, stream.id)?;
    driver.wait(landed.id)?;
    Ok(Some(Table { there, _here: here }))
}

/// Why a handle did not open, by what the driver says, and what to do.
fn explain(error: &DriverError, memory: usize) -> String {
    let why = match error.code {
        DriverError::INVALID_CONTEXT => {
            "the handle is of the daemon's own process: send one of another process"
        }
        DriverError::OUT_OF_MEMORY => "no room is left to map it: free memory on the GPU",
        DriverError::NOT_SUPPORTED | 304 | 999 => {
            "the driver can't share memory between the two processes: run both in one pid and ipc \
             namespace (docker: --pid=container:ENGINE --ipc=container:ENGINE, or --pid=host \
             --ipc=host), without MIG between them"
        }
        // Before those that are fatal.
        _ if error.is_fatal() => {
            "the GPU is lost to the daemon: restart it, and look into dmesg for Xid messages"
        }
        _ => {
            "there is no such allocation: its process has ended, it was freed, or it does not come \
             from cudaMalloc (PyTorch: PYTORCH_CUDA_ALLOC_CONF without expandable_segments and \
             without backend:cudaMallocAsync)"
        }
    };
    format!("pool.cuda.memories[{memory}] can't be opened: {error}: {why}")
}

/// As `nvidia-smi -L` writes it.
pub(super) fn uuid_text(uuid: [u8; 16]) -> String {
    let hex = format!("{:032x}", u128::from_be_bytes(uuid));
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    format!("GPU-{}", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_open_is_explained() {
        let said = |code| {
            let error = DriverError {
                call: "cuIpcOpenMemHandle",
                code,
                name: "CUDA_ERROR_X".into(),
                text: "x".into(),
            };
            explain(&error, 3)
        };
        for (code, want) in [
            (201, "of the daemon's own process"),
            (2, "free memory on the GPU"),
            (801, "--ipc=host"),
            (304, "pid and ipc namespace"),
            (1, "expandable_segments"),
            (400, "its process has ended"),
            (700, "the GPU is lost to the daemon: restart it"),
            (719, "the GPU is lost to the daemon: restart it"),
        ] {
            let said = said(code);
            assert!(said.starts_with("pool.cuda.memories[3]") && said.contains(want), "{said}");
        }
    }

    #[test]
    fn uuids_are_written_as_everywhere() {
        let uuid = std::array::from_fn(|at| u8::try_from(at * 17).unwrap());
        assert_eq!(uuid_text(uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
