//! Queues copies on a stream of the driver's, one way or another.
//!
//! Knows neither places nor pools: its copies have addresses. Never waits for the GPU.

use std::sync::Arc;

use super::super::device::Stream;
use super::calibration::{Calibration, Strategy};
use super::driver::{Address, Driver, DriverError, Grid};
use super::kernels::{Extent, Kernel, KernelCopy};
use super::memory::{DeviceMemory, Event, MappedMemory, OwnStream};
use super::piece::{Piece, coalesced};

/// Copies that a flight has room to describe to a kernel.
const DESCRIPTORS_MAX: usize = 256;
/// A flight's buffer on the GPU for copies in two steps. A block larger than this goes another way.
const STAGING_BYTES: u64 = 16 << 20;
/// Runs in one call; a driver takes more, in longer calls that nothing else gets between.
const RUNS_MAX: usize = 4096;
/// Threads of a group; the sums need a power of two, at most 256.
const THREADS: u32 = 256;
/// What the tiles of `kernels/copy.cu` hold.
const TILE_BYTES: u64 = 32_768;

/// What one batch needs while it is under way.
pub(super) struct Flight {
    pub(super) landed: Event,
    descriptors: MappedMemory,
    staging: Option<DeviceMemory>,
}

impl Flight {
    pub(super) fn new(driver: &Arc<dyn Driver>, stream: Stream) -> Result<Self, DriverError> {
        let bytes = (DESCRIPTORS_MAX * size_of::<KernelCopy>()) as u64;
        let staging = match stream {
            Stream::Up | Stream::Down => Some(DeviceMemory::new(driver, STAGING_BYTES)?),
            Stream::Local => None,
        };
        let descriptors = MappedMemory::new(driver, bytes)?;
        Ok(Self { landed: Event::new(driver)?, descriptors, staging })
    }
}

/// Queues copies on a stream of its own.
pub(super) struct Copier {
    driver: Arc<dyn Driver>,
    pub(super) stream: OwnStream,
    pub(super) kind: Stream,
    groups_max: u32,
}

impl Copier {
    /// `groups_max` groups of threads at most run at a time, and so hold so many multiprocessors.
    pub(super) fn new(
        driver: &Arc<dyn Driver>,
        kind: Stream,
        groups_max: u32,
    ) -> Result<Self, DriverError> {
        let stream = OwnStream::new(driver)?;
        Ok(Self { driver: Arc::clone(driver), stream, kind, groups_max })
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
        let ranked = table.ranked(self.kind, fragment_bytes);
        let possible = |strategy: &Strategy| self.can(*strategy, pieces, flight);
        ranked.into_iter().find(possible).unwrap_or(Strategy::Copies)
    }

    /// Whether independent copies can go this way.
    pub(super) fn can(&self, strategy: Strategy, pieces: &[Piece<'_>], flight: &Flight) -> bool {
        match strategy {
            Strategy::Copies => true,
            Strategy::Batch => self.driver.facts().batches,
            Strategy::Kernel => pieces.len() <= DESCRIPTORS_MAX,
            Strategy::Staged => {
                let fits = |piece: &Piece<'_>| {
                    piece.bytes() <= STAGING_BYTES && piece.staged(0, self.kind).is_some()
                };
                flight.staging.is_some()
                    && pieces.len() <= DESCRIPTORS_MAX
                    && pieces.iter().all(fits)
            }
        }
    }

    /// Queues the copies.
    ///
    /// # Safety
    /// Every page of every piece lies in memory that the driver knows and that stays until the
    /// stream is done with it; nobody else touches the targets. The pieces are independent unless
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
            unsafe { self.driver.copy(run, self.stream.id) }?;
        }
        Ok(())
    }

    /// # Safety
    /// As for `enqueue`.
    unsafe fn batch(&self, pieces: &[Piece<'_>]) -> Result<(), DriverError> {
        let runs = coalesced(pieces);
        for runs in runs.chunks(RUNS_MAX) {
            // SAFETY: the caller's promise; independent pieces have runs that are apart.
            unsafe { self.driver.copy_batch(runs, self.stream.id) }?;
        }
        Ok(())
    }

    /// In groups that the buffer holds, one after the other.
    ///
    /// # Safety
    /// As for `enqueue`.
    unsafe fn staged(&self, pieces: &[Piece<'_>], flight: &Flight) -> Result<(), DriverError> {
        let buffer =
            flight.staging.as_ref().expect("only streams with a buffer can go this way").at;
        let mut described = 0;
        for group in groups(pieces) {
            let mut at = buffer;
            let steps = group.iter().map(|piece| {
                let step =
                    piece.staged(at, self.kind).expect("a piece that can go this way has a row");
                at += padded(piece.bytes());
                step
            });
            let steps: Vec<_> = steps.collect();
            let spreads: Vec<_> = steps.iter().map(|step| step.spread).collect();
            let down = self.kind == Stream::Down;
            if down {
                // SAFETY: the caller's promise; the buffer is the flight's own.
                unsafe { self.spread(&spreads, described, flight) }?;
            }
            for step in &steps {
                // SAFETY: as above; the stream runs both steps in order.
                unsafe { self.driver.copy(step.whole, self.stream.id) }?;
            }
            if !down {
                // SAFETY: as above.
                unsafe { self.spread(&spreads, described, flight) }?;
            }
            described += group.len();
        }
        Ok(())
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
        let grid = Grid { groups: self.groups(units), threads: THREADS };
        // SAFETY: the caller's promise; the descriptors lie in the flight until it has landed.
        unsafe { self.driver.launch(Kernel::CopyBlocks, grid, &args, self.stream.id) }
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
        let grid = Grid { groups: self.groups(pages), threads: THREADS };
        let args = [at, blocks.into(), pages_max.into(), sums];
        // SAFETY: the caller's promise.
        unsafe { self.driver.launch(Kernel::SumPages, grid, &args, self.stream.id) }?;
        let args = [at, blocks.into(), pages_max.into(), sums, sums + pages * 8];
        let grid = Grid { groups: blocks.div_ceil(THREADS), threads: THREADS };
        // SAFETY: the caller's promise.
        unsafe { self.driver.launch(Kernel::SumBlocks, grid, &args, self.stream.id) }
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
