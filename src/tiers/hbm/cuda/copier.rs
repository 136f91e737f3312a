//! Queues copies on streams of the driver's, one way or another: what the copy engines do on one, and
//! what kernels do on another, so that a copy in two steps does one while the next does the other.
//!
//! Knows neither places nor pools: its copies have addresses. Never waits for the GPU.

use std::sync::Arc;

use super::super::device::Stream;
use super::super::runs::Run;
use super::calibration::{Calibration, Strategy};
use super::driver::{Address, Driver, DriverError, Grid, StreamId};
use super::kernels::{Extent, Kernel, KernelCopy};
use super::memory::{DeviceMemory, Event, MappedMemory, OwnStream};
use super::piece::{Piece, Staged, coalesced};

/// Copies that a flight has room to describe to a kernel: `BLOCKS_MAX` of `kernels/copy.cu`.
const DESCRIPTORS_MAX: usize = 256;
/// A flight's buffer on the GPU for copies in two steps. A block larger than this goes another way.
const STAGING_BYTES: u64 = 16 << 20;
/// Runs in one call; a driver takes more, in longer calls that nothing else gets between.
const RUNS_MAX: usize = 4096;
/// Threads of a group that copies: as many as a multiprocessor runs for sure, so that it has enough
/// loads under way by itself.
const COPY_THREADS: u32 = 1024;
/// Threads of a group that sums: a power of two, at most 256.
const SUM_THREADS: u32 = 256;
/// What the tiles of `kernels/copy.cu` hold.
const TILE_BYTES: u64 = 8192;
/// How many times as many multiprocessors a launch within the GPU may hold: its memory is many times as
/// fast as PCIe, and it is over the sooner. Two run at a time, so that one begins while the other ends
/// (two, three, four and six times as many gave blocks of 2 MiB 82, 86, 92 and 86 % of an H100's own
/// copies).
const LOCAL_SHARE: u32 = 4;

/// What one batch needs while it is under way.
pub(super) struct Flight {
    /// One a queue.
    landed: [Event; 2],
    /// Ends the first step of a group, and the second.
    steps: [Event; 2],
    descriptors: MappedMemory,
    staging: Option<DeviceMemory>,
    /// Where its kernels queue.
    kernels: Queue,
}

impl Flight {
    /// The `nth` flight of a stream.
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        stream: Stream,
        nth: usize,
    ) -> Result<Self, DriverError> {
        let bytes = (DESCRIPTORS_MAX * size_of::<KernelCopy>()) as u64;
        let staging = match stream {
            Stream::Up | Stream::Down => Some(DeviceMemory::new(driver, STAGING_BYTES)?),
            Stream::Local => None,
        };
        let kernels = match stream {
            Stream::Local if nth.is_multiple_of(2) => Queue::Copies,
            Stream::Up | Stream::Down | Stream::Local => Queue::Kernels,
        };
        let descriptors = MappedMemory::new(driver, bytes)?;
        let two = || Ok([Event::new(driver)?, Event::new(driver)?]);
        Ok(Self { landed: two()?, steps: two()?, descriptors, staging, kernels })
    }

    /// Where a way of copying queues. No other stream is touched: where engines of several processes
    /// share a GPU, work for its multiprocessors, though it be an event, makes the GPU leave the
    /// decoding process for this one.
    fn queues(&self, way: Strategy) -> &'static [Queue] {
        match (way, self.kernels) {
            (Strategy::Copies | Strategy::Batch, _) | (Strategy::Kernel, Queue::Copies) => {
                &[Queue::Copies]
            }
            (Strategy::Kernel, Queue::Kernels) => &[Queue::Kernels],
            (Strategy::Staged, _) => &[Queue::Copies, Queue::Kernels],
        }
    }

    /// Waits until the GPU has let go of what was queued this way with this flight.
    pub(super) fn wait(&self, way: Strategy, driver: &dyn Driver) -> Result<(), DriverError> {
        let landed =
            self.queues(way).iter().map(|queue| driver.wait(self.landed[*queue as usize].id));
        // Each, whatever the one before says.
        landed.fold(Ok(()), Result::and)
    }
}

/// What runs in order, a stream each.
#[derive(Clone, Copy)]
enum Queue {
    /// What the copy engines do.
    Copies,
    /// What kernels do, one launch after the other: so no two hold multiprocessors at a time. Within the
    /// GPU they go by both, in turns.
    Kernels,
}

/// Queues copies on streams of its own.
pub(super) struct Copier {
    driver: Arc<dyn Driver>,
    /// One a queue.
    streams: [OwnStream; 2],
    pub(super) kind: Stream,
    groups_max: u32,
}

impl Copier {
    /// `groups_max` groups of threads at most run at a time, and so hold so many multiprocessors; a few
    /// times as many for copies within the GPU. Zero: no kernels.
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        kind: Stream,
        groups_max: u32,
    ) -> Result<Self, DriverError> {
        let there = driver.facts().multiprocessors;
        let groups_max = match kind {
            Stream::Up | Stream::Down => groups_max,
            Stream::Local => groups_max.saturating_mul(LOCAL_SHARE).min(there),
        };
        let streams = [OwnStream::new(driver)?, OwnStream::new(driver)?];
        Ok(Self { driver: Arc::clone(driver), streams, kind, groups_max })
    }

    /// What was queued this way up to now is what the flight is waited for. Where an event can't be
    /// recorded, it is waited for here: nothing is let go while the GPU may be at it.
    pub(super) fn close(&self, way: Strategy, flight: &Flight) -> Result<(), DriverError> {
        let recorded = flight.queues(way).iter().map(|queue| {
            let stream = self.stream(*queue);
            self.driver.record(flight.landed[*queue as usize].id, stream).inspect_err(|_| {
                // What this says is of copies that failed anyway, by the error that is handed on.
                let _ = self.driver.drain(stream);
            })
        });
        // Each, whatever becomes of the one before.
        recorded.fold(Ok(()), Result::and)
    }

    fn stream(&self, queue: Queue) -> StreamId {
        self.streams[queue as usize].id
    }

    /// The best way for these copies by the table, of those that can be.
    pub(super) fn choose(
        &self,
        table: &Calibration,
        pieces: &[Piece<'_>],
        independent: bool,
        flight: &Flight,
    ) -> Strategy {
        let Some(first) = pieces.first().filter(|_| independent) else { return Strategy::Copies };
        let fragment_bytes = first.bytes() / (first.runs().count() as u64).max(1);
        let mut ranked = table.ranked(self.kind, fragment_bytes);
        if pieces.iter().all(|piece| piece.runs().nth(1).is_none()) {
            // One of the two steps would be all that there is to do.
            ranked.sort_by_key(|strategy| *strategy == Strategy::Staged);
        }
        let possible = |strategy: &Strategy| self.can(*strategy, pieces, flight);
        ranked.into_iter().find(possible).unwrap_or(Strategy::Copies)
    }

    /// Whether independent copies can go this way.
    pub(super) fn can(&self, strategy: Strategy, pieces: &[Piece<'_>], flight: &Flight) -> bool {
        match strategy {
            Strategy::Copies => true,
            Strategy::Batch => self.driver.facts().batches,
            Strategy::Kernel => self.groups_max > 0 && pieces.len() <= DESCRIPTORS_MAX,
            Strategy::Staged => {
                let fits = |piece: &Piece<'_>| {
                    piece.bytes() <= STAGING_BYTES && piece.staged(0, self.kind).is_some()
                };
                flight.staging.is_some()
                    && self.can(Strategy::Kernel, pieces, flight)
                    && pieces.iter().all(fits)
            }
        }
    }

    /// Queues the copies.
    ///
    /// # Safety
    /// Every page of every piece lies in memory that the driver knows and that stays until the flight
    /// was closed and waited for; nobody else touches the targets. The pieces are independent unless
    /// the strategy is `Copies`, and `can` go this way; the flight is this batch's alone.
    pub(super) unsafe fn enqueue(
        &self,
        strategy: Strategy,
        pieces: &[Piece<'_>],
        flight: &Flight,
    ) -> Result<(), DriverError> {
        match strategy {
            // SAFETY: the caller's promise.
            Strategy::Copies => unsafe { self.copies(pieces) },
            // SAFETY: the caller's promise.
            Strategy::Batch => unsafe { self.batch(pieces) },
            Strategy::Kernel => {
                let copies: Vec<_> = pieces.iter().map(Piece::descriptor).collect();
                // SAFETY: the caller's promise.
                unsafe { self.spread(&copies, 0, flight) }
            }
            // SAFETY: the caller's promise.
            Strategy::Staged => unsafe { self.staged(pieces, flight) },
        }
    }

    /// # Safety
    /// As for `enqueue`.
    unsafe fn copies(&self, pieces: &[Piece<'_>]) -> Result<(), DriverError> {
        for run in pieces.iter().flat_map(Piece::runs) {
            // SAFETY: the caller's promise.
            unsafe { self.driver.copy(run, self.stream(Queue::Copies)) }?;
        }
        Ok(())
    }

    /// # Safety
    /// As for `enqueue`.
    unsafe fn batch(&self, pieces: &[Piece<'_>]) -> Result<(), DriverError> {
        let runs = coalesced(pieces);
        for runs in runs.chunks(RUNS_MAX) {
            // SAFETY: the caller's promise; independent pieces have runs that are apart.
            unsafe { self.driver.copy_batch(runs, self.stream(Queue::Copies)) }?;
        }
        Ok(())
    }

    /// In one call where the driver has one: between calls the copy engine rests, which costs runs of
    /// 1 MiB a tenth of their speed.
    ///
    /// # Safety
    /// As for `enqueue`, and the runs are apart.
    unsafe fn together(&self, runs: &[Run]) -> Result<(), DriverError> {
        let stream = self.stream(Queue::Copies);
        if self.driver.facts().batches && runs.len() > 1 {
            // SAFETY: the caller's promise.
            return unsafe { self.driver.copy_batch(runs, stream) };
        }
        // SAFETY: the caller's promise.
        runs.iter().try_for_each(|run| unsafe { self.driver.copy(*run, stream) })
    }

    /// In groups that the buffer holds, one after the other.
    ///
    /// # Safety
    /// As for `enqueue`.
    unsafe fn staged(&self, pieces: &[Piece<'_>], flight: &Flight) -> Result<(), DriverError> {
        let buffer =
            flight.staging.as_ref().expect("only streams with a buffer can go this way").at;
        let [first, second] = match self.kind {
            Stream::Down => [Queue::Kernels, Queue::Copies],
            Stream::Up | Stream::Local => [Queue::Copies, Queue::Kernels],
        };
        let [halfway, over] = &flight.steps;
        let mut described = 0;
        for group in groups(pieces) {
            let steps = self.steps(group, buffer);
            if described > 0 {
                // The buffer is free when the group before has left it.
                self.after(first, second, over)?;
            }
            // SAFETY: the caller's promise; the buffer is the flight's own.
            unsafe { self.step(first, &steps, described, flight) }?;
            self.after(second, first, halfway)?;
            // SAFETY: as above.
            unsafe { self.step(second, &steps, described, flight) }?;
            described += group.len();
        }
        Ok(())
    }

    /// What is queued of `later` from now on waits on the GPU for what was queued of `earlier`.
    fn after(&self, later: Queue, earlier: Queue, event: &Event) -> Result<(), DriverError> {
        self.driver.record(event.id, self.stream(earlier))?;
        self.driver.hold(self.stream(later), event.id)
    }

    /// The step that goes by this queue: in one piece between this machine and the buffer, or page by
    /// page on the GPU.
    ///
    /// # Safety
    /// As for `enqueue`.
    unsafe fn step(
        &self,
        queue: Queue,
        pieces: &[Staged],
        described: usize,
        flight: &Flight,
    ) -> Result<(), DriverError> {
        match queue {
            Queue::Copies => {
                let runs: Vec<_> = pieces.iter().map(|piece| piece.whole).collect();
                // SAFETY: the caller's promise; rows of the buffer are apart, and so are the pieces.
                unsafe { self.together(&runs) }
            }
            Queue::Kernels => {
                let spreads: Vec<_> = pieces.iter().map(|piece| piece.spread).collect();
                // SAFETY: the caller's promise.
                unsafe { self.spread(&spreads, described, flight) }
            }
        }
    }

    /// Both steps of each piece, whose rows lie one after the other from `at` on.
    fn steps(&self, group: &[Piece<'_>], mut at: Address) -> Vec<Staged> {
        let steps = group.iter().map(|piece| {
            let step = piece.staged(at, self.kind).expect("a piece that can go this way has a row");
            at += padded(piece.bytes());
            step
        });
        steps.collect()
    }

    /// Runs the copy kernel over `copies`, described from entry `first` of the flight on.
    ///
    /// # Safety
    /// As for `enqueue`.
    unsafe fn spread(
        &self,
        copies: &[KernelCopy],
        first: usize,
        flight: &Flight,
    ) -> Result<(), DriverError> {
        let (at, extent) = describe(copies, first, flight);
        let tiles = u64::from(extent.page_bytes_max).div_ceil(TILE_BYTES);
        let units = u64::from(extent.blocks) * u64::from(extent.pages_max) * tiles;
        let args =
            [at, extent.blocks.into(), extent.pages_max.into(), extent.page_bytes_max.into()];
        let grid = Grid { groups: self.groups(units), threads: COPY_THREADS };
        // SAFETY: the caller's promise; the descriptors lie in the flight until it has landed.
        unsafe { self.driver.launch(Kernel::CopyBlocks, grid, &args, self.stream(flight.kernels)) }
    }

    /// Sums the sources of `pieces` as their frames would be; `sums` has room for a number a page
    /// and one a piece, which come last.
    ///
    /// # Safety
    /// As for `enqueue`, for the sources.
    pub(super) unsafe fn sum(
        &self,
        pieces: &[Piece<'_>],
        sums: Address,
        flight: &Flight,
    ) -> Result<(), DriverError> {
        let copies: Vec<_> = pieces.iter().map(Piece::descriptor).collect();
        let (at, Extent { blocks, pages_max, .. }) = describe(&copies, 0, flight);
        let pages = u64::from(blocks) * u64::from(pages_max);
        let grid = Grid { groups: self.groups(pages), threads: SUM_THREADS };
        let args = [at, blocks.into(), pages_max.into(), sums];
        // SAFETY: the caller's promise.
        unsafe { self.driver.launch(Kernel::SumPages, grid, &args, self.stream(flight.kernels)) }?;
        let args = [at, blocks.into(), pages_max.into(), sums, sums + pages * 8];
        let grid = Grid { groups: blocks.div_ceil(SUM_THREADS), threads: SUM_THREADS };
        // SAFETY: the caller's promise.
        unsafe { self.driver.launch(Kernel::SumBlocks, grid, &args, self.stream(flight.kernels)) }
    }

    fn groups(&self, units: u64) -> u32 {
        u32::try_from(units).unwrap_or(u32::MAX).clamp(1, self.groups_max.max(1))
    }
}

fn describe(copies: &[KernelCopy], first: usize, flight: &Flight) -> (Address, Extent) {
    let offset = (first * size_of::<KernelCopy>()) as u64;
    (flight.descriptors.write(offset, copies), Extent::of(copies))
}

/// Blocks in the buffer begin on 16 bytes, as vectors do.
fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(16)
}

/// Cuts the pieces into the longest groups that the buffer holds; each piece alone fits.
fn groups<'a, 'p>(pieces: &'a [Piece<'p>]) -> impl Iterator<Item = &'a [Piece<'p>]> {
    let mut rest = pieces;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = rest.iter().take_while(|piece| {
            bytes += padded(piece.bytes());
            bytes <= STAGING_BYTES
        });
        let count = fits.count().max(1);
        let (group, later) = rest.split_at_checked(count)?;
        rest = later;
        Some(group)
    })
}
