//! The store: checks operations at the door and sends each on its way.
//!
//! Never blocks in `submit`, and never lets an operation past that reaches outside its slot.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::home::Home;
use super::queue::{Bell, Queue};
use super::ring::{self, Parts};
use super::slots::{Access, SlotFile};
use super::stall::Stall;
use super::superblock::Superblock;
use super::survey::{self, Survey};
use super::table::{ChunkTable, Clerk};
use super::uring;
use super::{Engine, EngineChoice, NvmeConfig, NvmeFacts, blocking, recovery, stamp};
use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::domain::units::PAGE_BYTES;
use crate::tiers::dram::Arena;
use crate::tiers::frame::FrameHeader;
use crate::tiers::health::Health;
use crate::tiers::open::OpenError;
use crate::tiers::store::{Done, FoundFrame, FrameSpan, Place, StoreError, StoreOp, TierStore};
use crate::tiers::sync::Syncer;
use crate::tiers::ticket::Gate;
use crate::tiers::workers::Workers;

/// A queue and the threads that serve it. Dropped in this order: the threads end when all sending
/// ends of their queue are gone, and are then waited for.
struct Line {
    queue: Queue,
    workers: Workers,
}

/// So many chunks with something in them tell of the device and not of a cache.
const CHUNKS_TO_TRY: usize = 4;

/// The NVMe tier.
pub struct NvmeStore {
    gate: Arc<Gate>,
    dir: PathBuf,
    table: Arc<ChunkTable>,
    arena: Arc<Arena>,
    slots: Arc<dyn SlotFile>,
    /// Dropped in this order: the clerk sends to the engine until it ends.
    clerk: Line,
    engine: Line,
    stampers: Line,
    syncer: Syncer,
    stall: Stall,
    /// Holds the folder's lock until the last thread is gone.
    _lock: File,
}

impl NvmeStore {
    /// Starts the engine and the clerk.
    ///
    /// # Errors
    /// The engine asked for is refused here, or the machine refused a thread.
    pub fn start(
        config: &NvmeConfig,
        home: Home,
        arena: &Arc<Arena>,
        access: &Arc<dyn Access>,
    ) -> Result<(Self, NvmeFacts), OpenError> {
        let file = Arc::new(home.slots);
        let survey = try_out(config, (&file, home.direct), arena, &home.superblock);
        let config = &tuned(config, survey);
        let mut facts = NvmeFacts {
            dir: home.dir.clone(),
            engine: Engine::Blocking,
            why: String::new(),
            direct: home.direct,
            preallocated: home.preallocated,
            capacity_bytes: home.superblock.capacity_bytes(),
            io_bytes: config.io_bytes,
            queue_depth: config.queue_depth,
            survey,
            fixed_buffers: false,
            node_id: home.superblock.node_id,
        };
        let engine = start_engine(config, (&file, access), arena, &mut facts)?;
        let slots = access.slots(file);
        let table = Arc::new(ChunkTable::new(&home.superblock));
        let (queue, waiting) = Queue::new(config.ops_max, None);
        let mut desk = Clerk {
            dir: home.dir.clone(),
            access: Arc::clone(access),
            slots: Arc::clone(&slots),
            superblock: home.superblock,
            table: Arc::clone(&table),
            waiting,
            engine: engine.queue.clone(),
        };
        let mut clerk = Line { queue, workers: Workers::default() };
        clerk.workers.start_one("nvme-clerk", move || desk.run()).map_err(no_thread)?;
        let (queue, waiting) = Queue::new(config.ops_max, None);
        let mut stampers = Line { queue, workers: Workers::default() };
        stamp::start(&mut stampers.workers, &slots, &waiting).map_err(no_thread)?;
        let flushed = Arc::clone(&slots);
        let syncer = Syncer::start("nvme-sync", move || flushed.flush(), config.ops_max);
        let syncer = syncer.map_err(no_thread)?;
        let store = Self {
            gate: Gate::new(config.ops_max),
            stall: Stall::new(home.dir.clone(), access),
            dir: home.dir,
            table,
            arena: Arc::clone(arena),
            slots,
            clerk,
            engine,
            stampers,
            syncer,
            _lock: home.lock,
        };
        Ok((store, facts))
    }

    /// Where the ticket goes next; `Err` when it is over already.
    fn route(&self, op: &StoreOp) -> Result<Route, StoreError> {
        match *op {
            StoreOp::Write { key, place, frame } => {
                self.check(place, Some(frame))?;
                self.check_sealed(key, frame)?;
                Ok(self.engine_or_clerk(place))
            }
            StoreOp::Read { place, frame, .. } => {
                self.check(place, Some(frame))?;
                self.check_cut(place).map(|()| Route::Engine)
            }
            StoreOp::Restamp { place, .. } => {
                self.check(place, None)?;
                self.check_cut(place).map(|()| Route::Stampers)
            }
            StoreOp::Erase { place, .. } => {
                self.check(place, None)?;
                Ok(self.engine_or_clerk(place))
            }
        }
    }

    fn engine_or_clerk(&self, place: Place) -> Route {
        if self.table.is_cut_for(place) { Route::Engine } else { Route::Clerk }
    }

    fn check_cut(&self, place: Place) -> Result<(), StoreError> {
        if self.table.is_cut_for(place) {
            return Ok(());
        }
        let said = format!("nothing was ever written in slots of {}", place.slot_bytes);
        Err(StoreError::Missing(said))
    }

    fn check(&self, place: Place, frame: Option<FrameSpan>) -> Result<(), StoreError> {
        if !self.table.holds(place) {
            return Err(invalid(format!("{place:?} is no slot of this tier")));
        }
        let Some(frame) = frame else { return Ok(()) };
        let page = PAGE_BYTES as u64;
        let bytes = u64::from(frame.bytes);
        let whole = frame.offset.is_multiple_of(page) && bytes.is_multiple_of(page) && bytes > page;
        let inside =
            frame.offset.checked_add(bytes).is_some_and(|end| end <= self.arena.len_bytes());
        if whole && inside && frame.bytes <= place.slot_bytes {
            return Ok(());
        }
        Err(invalid(format!("{frame:?} is no span of the arena that goes with {place:?}")))
    }

    /// What is not a sealed frame of the key would never be found again: it must not take a slot.
    fn check_sealed(&self, key: Key, frame: FrameSpan) -> Result<(), StoreError> {
        // SAFETY: the operation shares the span until it is done: nobody writes to it.
        let bytes = unsafe { self.arena.bytes(frame) };
        let header = FrameHeader::decode(bytes)?;
        header.verify_key(key)?;
        if header.frame_bytes() <= u64::from(frame.bytes) {
            return Ok(());
        }
        Err(StoreError::Corrupt(format!("a frame of {} bytes in {frame:?}", header.frame_bytes())))
    }
}

enum Route {
    Engine,
    Clerk,
    Stampers,
}

impl TierStore for NvmeStore {
    fn tier(&self) -> Tier {
        Tier::Nvme
    }

    fn submit(&self, op: StoreOp, done: Done) {
        let Some(ticket) = self.gate.admit(op, done) else { return };
        match self.route(&ticket.op) {
            Ok(Route::Engine) => self.engine.queue.push(ticket),
            Ok(Route::Clerk) => self.clerk.queue.push(ticket),
            Ok(Route::Stampers) => self.stampers.queue.push(ticket),
            Err(error) => ticket.finish(Err(error)),
        }
    }

    fn sync(&self, done: Done) {
        self.syncer.ask(done);
    }

    fn health(&self) -> Health {
        self.stall.health()
    }

    fn scan(&self, found: &mut dyn FnMut(FoundFrame)) -> Result<(), StoreError> {
        recovery::scan(&self.dir, &self.slots, &self.table, &self.stall, found)
    }
}

/// What the device is like, where that is asked for and there is enough to read.
fn try_out(
    config: &NvmeConfig,
    (slots, direct): (&Arc<File>, bool),
    arena: &Arc<Arena>,
    superblock: &Superblock,
) -> Option<Survey> {
    let chunks = superblock.written_chunks();
    if !(config.tuned && direct && chunks.len() >= CHUNKS_TO_TRY) {
        return None;
    }
    match survey::survey(slots, arena, &chunks) {
        Ok(survey) => Some(survey),
        Err(error) => {
            tracing::warn!(%error, "the NVMe device could not be tried out");
            None
        }
    }
}

fn tuned(config: &NvmeConfig, survey: Option<Survey>) -> NvmeConfig {
    let Some(Survey { queue_depth, io_bytes, .. }) = survey else { return config.clone() };
    NvmeConfig { queue_depth, io_bytes, ..config.clone() }
}

fn start_engine(
    config: &NvmeConfig,
    (file, access): (&Arc<File>, &Arc<dyn Access>),
    arena: &Arc<Arena>,
    facts: &mut NvmeFacts,
) -> Result<Line, OpenError> {
    if config.engine == EngineChoice::Blocking {
        facts.why = "as configured".into();
    } else {
        match start_ring(config, (file, access), arena, facts) {
            Ok(started) => return Ok(started),
            Err(error) => facts.why = refused(config, &error)?,
        }
    }
    facts.engine = Engine::Blocking;
    let (queue, tickets) = Queue::new(config.ops_max, None);
    let mut line = Line { queue, workers: Workers::default() };
    let slots = access.slots(Arc::clone(file));
    blocking::start(&mut line.workers, &slots, arena, &tickets, config.queue_depth)
        .map_err(no_thread)?;
    Ok(line)
}

fn start_ring(
    config: &NvmeConfig,
    (file, access): (&Arc<File>, &Arc<dyn Access>),
    arena: &Arc<Arena>,
    facts: &mut NvmeFacts,
) -> io::Result<Line> {
    let bell = Bell::new()?;
    let (queue, tickets) = Queue::new(config.ops_max, Some(bell.clone()));
    let parts = Parts {
        slots: Arc::clone(file),
        arena: Arc::clone(arena),
        tickets,
        bell,
        queue_depth: config.queue_depth,
        io_bytes: config.io_bytes,
        ops_max: config.ops_max,
        access: Arc::clone(access),
    };
    let mut line = Line { queue, workers: Workers::default() };
    let registered = ring::start(&mut line.workers, parts)?;
    facts.engine = Engine::Uring;
    facts.fixed_buffers = registered.is_ok();
    facts.why = registered.err().unwrap_or_else(|| "io_uring works here".into());
    Ok(line)
}

/// Why the blocking engine runs instead, or the error when the ring was insisted on.
fn refused(config: &NvmeConfig, error: &io::Error) -> Result<String, OpenError> {
    let why = uring::refusal(error).unwrap_or("io_uring failed here");
    if config.engine == EngineChoice::Uring {
        return Err(OpenError::Config(format!(
            "the NVMe engine `uring` can't run: {why} ({error}); allow it, or use `auto`"
        )));
    }
    Ok(format!("{why} ({error})"))
}

fn no_thread(source: io::Error) -> OpenError {
    OpenError::Io { what: "can't start the NVMe tier's threads".into(), source }
}

fn invalid(what: String) -> StoreError {
    StoreError::Io { what, source: io::ErrorKind::InvalidInput.into() }
}
