//! The GPUs of a device: the one that the tier lies on, and others as soon as an engine lends a pool on
//! them. A block of several shards has its ranks' pools on several GPUs.
//!
//! Says which GPU does a copy; copies nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::super::batch::Batch;
use super::super::device::{BlockCopy, CopiesDone, CopiesEnd, CopyEnd, FailedCopy, Stream};
use super::super::ends::{are_independent, bytes_of};
use super::copier::{Copier, Flight};
use super::core::Core;
use super::driver::{Driver, DriverError};
use super::lane::{FLIGHTS_MAX, Lane};
use super::pool::{OpenPool, uuid_text};
use super::tune;

/// What a batch over PCIe holds at most where its copies may go apart: so that one is on its way while
/// kernels are at the next, and the first is over long before the last.
const BATCH_BYTES: u64 = 8 << 20;

/// A GPU's own id.
pub(super) type Uuid = [u8; 16];

/// Takes the GPU of that id into use.
pub(super) type Finder = dyn Fn(Uuid) -> Result<Arc<dyn Driver>, String> + Send + Sync;

/// A GPU with its streams.
pub(super) struct Gpu {
    lanes: [Lane; Stream::ALL.len()],
    pub(super) core: Arc<Core>,
}

/// What a stream needs before it can start.
pub(super) type Parts = Vec<(Copier, Vec<Flight>)>;

/// The streams' copiers before they start, with their flights.
pub(super) fn copiers(parts: &Parts) -> Vec<(&Copier, &[Flight])> {
    parts.iter().map(|(copier, flights)| (copier, &flights[..])).collect()
}

impl Gpu {
    /// The parts of every stream, in the order of [`Stream::ALL`].
    pub(super) fn parts(driver: &Arc<dyn Driver>, groups_max: u32) -> Result<Parts, DriverError> {
        let of_stream = |stream| {
            let copier = Copier::new(driver, stream, groups_max)?;
            let flights = (0..FLIGHTS_MAX).map(|nth| Flight::new(driver, stream, nth));
            Ok((copier, flights.collect::<Result<_, _>>()?))
        };
        Stream::ALL.into_iter().map(of_stream).collect()
    }

    pub(super) fn start(core: Core, parts: Parts) -> Result<Self, String> {
        let core = Arc::new(core);
        let lanes = parts.into_iter().map(|(copier, flights)| Lane::start(&core, copier, flights));
        let lanes: Result<Vec<_>, _> = lanes.collect();
        let lanes = lanes.map_err(|error| format!("can't start threads: {error}"))?;
        Ok(Self { lanes: lanes.try_into().ok().expect("one lane a stream"), core })
    }

    fn submit(&self, stream: Stream, batch: Batch) {
        self.lanes[stream as usize].submit(batch);
    }

    fn uuid(&self) -> Uuid {
        self.core.driver.facts().uuid
    }
}

/// All of them.
pub(super) struct Gpus {
    pub(super) home: Gpu,
    others: Mutex<BTreeMap<Uuid, Arc<Gpu>>>,
    /// Held while one of them is taken into use; nobody who copies waits for that.
    opening: Mutex<()>,
    find: Box<Finder>,
    groups_max: u32,
}

impl Gpus {
    pub(super) fn new(home: Gpu, find: Box<Finder>, groups_max: u32) -> Self {
        Self { home, others: Mutex::default(), opening: Mutex::default(), find, groups_max }
    }

    /// The driver of the GPU of that id, which is taken into use if it is not yet.
    pub(super) fn driver_of(&self, uuid: Uuid) -> Result<Arc<dyn Driver>, String> {
        if uuid == self.home.uuid() {
            return Ok(Arc::clone(&self.home.core.driver));
        }
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(gpu) = self.other(uuid) {
            return Ok(Arc::clone(&gpu.core.driver));
        }
        let named = |why: String| format!("the pool is on {}: {why}", uuid_text(uuid));
        let driver = (self.find)(uuid).map_err(named)?;
        let no_room = |error: DriverError| {
            named(format!("it has no room for the daemon's buffers: {error}: free about 150 MB"))
        };
        let parts = Gpu::parts(&driver, self.groups_max).map_err(no_room)?;
        let table = tune::adopt(&self.home.core.table, &driver, &copiers(&parts));
        let core = self.home.core.beside(&driver, table.map_err(no_room)?);
        let gpu = Arc::new(Gpu::start(core, parts).map_err(named)?);
        self.others.lock().unwrap_or_else(PoisonError::into_inner).insert(uuid, gpu);
        Ok(driver)
    }

    /// What the copies of pools on that GPU share.
    pub(super) fn core_of(&self, uuid: Uuid) -> Arc<Core> {
        let other = self.other(uuid).map(|gpu| Arc::clone(&gpu.core));
        other.unwrap_or_else(|| Arc::clone(&self.home.core))
    }

    fn other(&self, uuid: Uuid) -> Option<Arc<Gpu>> {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).get(&uuid).cloned()
    }

    /// Has each copy done by its own GPU, in batches; `done` hears of all at once. Copies that depend on
    /// each other run in order on one GPU, which reaches the memory of all.
    pub(super) fn submit(&self, stream: Stream, copies: Vec<BlockCopy>, done: CopiesDone) {
        let bytes_max = if stream == Stream::Local { u64::MAX } else { BATCH_BYTES };
        let parts = self.batches(&copies, bytes_max);
        if let [(gpu, _)] = &parts[..] {
            return self.submit_to(*gpu, stream, Batch::new(copies, done));
        }
        if parts.is_empty() || !are_independent(&copies) {
            let gpu = self.only_gpu(&parts);
            return self.submit_to(gpu, stream, Batch::new(copies, done));
        }
        let joined = Joined::new(parts.len(), done);
        let mut copies: Vec<_> = copies.into_iter().map(Some).collect();
        for (gpu, which) in parts {
            let part = which.iter().map(|at| copies[*at].take().expect("each is in one part"));
            let part = part.collect();
            let batch = Batch::independent(part, Joined::part(&joined, which));
            self.submit_to(gpu, stream, batch);
        }
    }

    fn submit_to(&self, gpu: Uuid, stream: Stream, batch: Batch) {
        match self.other(gpu) {
            Some(other) => other.submit(stream, batch),
            None => self.home.submit(stream, batch),
        }
    }

    /// Copies by the GPU that does them, by their index, cut into batches.
    fn batches(&self, copies: &[BlockCopy], bytes_max: u64) -> Vec<(Uuid, Vec<usize>)> {
        let mut batches: Vec<(Uuid, Vec<usize>)> = Vec::new();
        // The batch of each GPU that is not full, and its bytes.
        let mut open: Vec<(Uuid, usize, u64)> = Vec::new();
        for (at, copy) in copies.iter().enumerate() {
            let (gpu, bytes) = (self.gpu_of(copy), bytes_of(copy));
            let known = open.iter_mut().find(|(known, ..)| *known == gpu);
            match known {
                Some((_, batch, filled)) if *filled + bytes <= bytes_max => {
                    *filled += bytes;
                    batches[*batch].1.push(at);
                    continue;
                }
                Some(open) => *open = (gpu, batches.len(), bytes),
                None => open.push((gpu, batches.len(), bytes)),
            }
            batches.push((gpu, vec![at]));
        }
        batches
    }

    /// The GPU of all batches, if it is one; else the tier's, which reaches everything.
    fn only_gpu(&self, batches: &[(Uuid, Vec<usize>)]) -> Uuid {
        let mut gpus = batches.iter().map(|(gpu, _)| *gpu);
        let first = gpus.next().unwrap_or_else(|| self.home.uuid());
        if gpus.all(|gpu| gpu == first) { first } else { self.home.uuid() }
    }

    /// The tier's GPU does what touches the tier; a pool's GPU the rest.
    fn gpu_of(&self, copy: &BlockCopy) -> Uuid {
        let ends = [&copy.from, &copy.to];
        let pool = ends.into_iter().find_map(|end| match end {
            CopyEnd::Pool { pool, .. } => pool.opened_as::<OpenPool>()?.gpu(),
            CopyEnd::Frame(_) | CopyEnd::Tier(_) => None,
        });
        let on_tier = ends.into_iter().any(|end| matches!(end, CopyEnd::Tier(_)));
        pool.filter(|_| !on_tier).unwrap_or_else(|| self.home.uuid())
    }
}

/// Several parts of a batch, whose submitter hears once.
struct Joined {
    done: Option<CopiesDone>,
    end: CopiesEnd,
    parts: usize,
}

impl Joined {
    fn new(parts: usize, done: CopiesDone) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self { done: Some(done), end: CopiesEnd::default(), parts }))
    }

    /// Who hears of the part that has the copies `which` of the batch.
    fn part(joined: &Arc<Mutex<Self>>, which: Vec<usize>) -> CopiesDone {
        let joined = Arc::clone(joined);
        Box::new(move |end: CopiesEnd| {
            let mut state = joined.lock().unwrap_or_else(PoisonError::into_inner);
            let failed = end.failed.into_iter();
            let failed = failed.map(|failed| FailedCopy { copy: which[failed.copy], ..failed });
            state.end.failed.extend(failed);
            state.end.sums.extend(end.sums.into_iter().map(|(copy, sum)| (which[copy], sum)));
            state.parts -= 1;
            if state.parts > 0 {
                return;
            }
            state.end.failed.sort_by_key(|failed| failed.copy);
            let all = std::mem::take(&mut state.end);
            let done = state.done.take().expect("the last part ends once");
            drop(state);
            done(all);
        })
    }
}
