//! Measures at the start how fast each way of copying is on this device, and whether the kernels
//! give right bytes here.
//!
//! Uses memory of its own; nothing else runs on the device's streams yet.

use std::sync::Arc;

use super::super::device::Stream;
use super::super::geometry::PageMap;
use super::calibration::{Calibration, Measured, Strategy};
use super::copier::{Copier, Flight};
use super::driver::{Address, Driver, DriverError};
use super::memory::{DeviceMemory, MappedMemory};
use super::piece::{Piece, Sheet};
use crate::domain::namespace::KvShape;
use crate::env::Stopwatch;
use crate::tiers::frame;

/// How much is copied to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    pub(super) blocks: u32,
    pub(super) block_bytes: u64,
    /// The fastest of so many counts, after one that does not.
    pub(super) rounds: u32,
}

impl Trial {
    pub(super) const AT_START: Self = Self { blocks: 4, block_bytes: 2 << 20, rounds: 3 };

    fn bytes(self) -> u64 {
        u64::from(self.blocks) * self.block_bytes
    }
}

/// The memories that trials run between.
struct Bench {
    trial: Trial,
    host: MappedMemory,
    /// Blocks in a row.
    rows: DeviceMemory,
    /// Pages a page apart, so that none are neighbours.
    pages: DeviceMemory,
    sums: MappedMemory,
}

/// Measures on `copiers`, one a stream with its flights.
pub(super) fn measure(
    driver: &Arc<dyn Driver>,
    copiers: &[(&Copier, &[Flight])],
    trial: Trial,
) -> Result<Calibration, DriverError> {
    let bench = Bench::new(driver, trial)?;
    let mut kernels = true;
    for (copier, flights) in copiers {
        kernels &= bench.kernels_are_right(driver.as_ref(), copier, &flights[..1])?;
    }
    if !kernels {
        tracing::error!(
            device = %driver.facts(),
            "the kernels give wrong bytes on this GPU: they are not used; report it with the \
             driver's version"
        );
    }
    let mut rows = Vec::new();
    for (copier, flights) in copiers {
        for fragment_bytes in Calibration::FRAGMENTS_BYTES {
            let speeds = bench.speeds(driver.as_ref(), copier, flights, fragment_bytes, kernels)?;
            rows.push(Measured { stream: copier.kind, fragment_bytes, speeds });
        }
    }
    Ok(Calibration::new(rows))
}

impl Bench {
    fn new(driver: &Arc<dyn Driver>, trial: Trial) -> Result<Self, DriverError> {
        let fewest = Calibration::FRAGMENTS_BYTES.into_iter().min().unwrap_or(1);
        let numbers = trial.bytes() / fewest + u64::from(trial.blocks);
        Ok(Self {
            trial,
            host: MappedMemory::new(driver, trial.bytes())?,
            rows: DeviceMemory::new(driver, trial.bytes())?,
            pages: DeviceMemory::new(driver, trial.bytes() * 2)?,
            sums: MappedMemory::new(driver, numbers * 8)?,
        })
    }

    /// Blocks in pages of that length, from a row to pages that lie apart, or back.
    fn pieces(&self, kind: Stream, page_bytes: u64, back: bool) -> Vec<Piece<'static>> {
        let layers = self.trial.block_bytes / page_bytes;
        let number = |count: u64| u32::try_from(count).expect("a trial's blocks are small");
        let shape = KvShape { layers: number(layers), planes: 1, page_bytes: number(page_bytes) };
        let row = match kind {
            Stream::Up | Stream::Down => self.host.at,
            Stream::Local => self.rows.at,
        };
        let sheet = |base: Address, block: u64, step: u64| {
            let start = block * layers * step;
            let map = PageMap { start, shard: 0, layer: step, plane: 0, layers: &[] };
            Sheet { base, map, table: 0, seams: &[] }
        };
        let blocks = 0..u64::from(self.trial.blocks);
        let pieces = blocks.map(|block| {
            let row = sheet(row, block, page_bytes);
            let apart = sheet(self.pages.at, block, 2 * page_bytes);
            let (from, to) = if back { (apart, row) } else { (row, apart) };
            Piece { shape, shards: 0..1, from, to }
        });
        pieces.collect()
    }

    fn speeds(
        &self,
        driver: &dyn Driver,
        copier: &Copier,
        flights: &[Flight],
        page_bytes: u64,
        kernels: bool,
    ) -> Result<Vec<(Strategy, f64)>, DriverError> {
        let pieces = self.pieces(copier.kind, page_bytes, copier.kind == Stream::Down);
        let bytes = self.trial.bytes() * (flights.len() as u64 - 1);
        let mut speeds = Vec::new();
        for strategy in Strategy::ALL {
            let by_kernel = matches!(strategy, Strategy::Kernel | Strategy::Staged);
            if (by_kernel && !kernels) || !copier.can(strategy, &pieces, &flights[0]) {
                continue;
            }
            // What all take longer than the first: else a way in two steps, whose first one is alone on
            // its way for a while, would seem slower than it is.
            let seconds = |flights| self.seconds(driver, copier, flights, strategy, &pieces);
            let (all, first) = (seconds(flights)?, seconds(&flights[..1])?);
            #[expect(clippy::cast_precision_loss, reason = "there are a few flights")]
            let longer = (all - first).max(all / flights.len() as f64);
            #[expect(clippy::cast_precision_loss, reason = "a trial is far below 2^52 bytes")]
            speeds.push((strategy, bytes as f64 / longer.max(1e-9)));
        }
        Ok(speeds)
    }

    /// The least that these flights took.
    fn seconds(
        &self,
        driver: &dyn Driver,
        copier: &Copier,
        flights: &[Flight],
        strategy: Strategy,
        pieces: &[Piece<'_>],
    ) -> Result<f64, DriverError> {
        let mut least = f64::INFINITY;
        for round in 0..=self.trial.rounds {
            let watch = Stopwatch::start();
            run(driver, copier, flights, strategy, pieces)?;
            let seconds = watch.elapsed().as_secs_f64();
            least = if round == 0 { least } else { least.min(seconds) };
        }
        Ok(least)
    }

    /// Whether what the kernel scatters sums up on the GPU to what the CPU finds, and comes back
    /// the same.
    fn kernels_are_right(
        &self,
        driver: &dyn Driver,
        copier: &Copier,
        flights: &[Flight],
    ) -> Result<bool, DriverError> {
        if copier.kind != Stream::Up || !copier.can(Strategy::Kernel, &[], &flights[0]) {
            return Ok(true);
        }
        let page_bytes = Calibration::FRAGMENTS_BYTES[0];
        let words = usize::try_from(self.trial.bytes() / 8).expect("a trial is small");
        let pattern: Vec<u64> = (0..words as u64).map(|at| at.wrapping_mul(ODD) ^ ODD).collect();
        self.host.write(0, &pattern);
        let there = self.pieces(Stream::Up, page_bytes, false);
        let back = self.pieces(Stream::Up, page_bytes, true);
        run(driver, copier, flights, Strategy::Kernel, &there)?;
        // SAFETY: the sources are the bench's, and `sums` has a number a page and one a block.
        unsafe { copier.sum(&back, self.sums.at, &flights[0]) }?;
        copier.close(Strategy::Kernel, &flights[0])?;
        flights[0].wait(Strategy::Kernel, driver)?;
        self.host.write(0, &vec![0_u64; words]);
        run(driver, copier, flights, Strategy::Kernel, &back)?;
        let pages = self.trial.bytes() / page_bytes;
        let sums = self.sums.read(pages * 8, self.trial.blocks as usize);
        let block_words = words / self.trial.blocks as usize;
        let blocks = pattern.chunks(block_words);
        let wanted = blocks.map(|block| frame::checksum(bytemuck::cast_slice(block)));
        Ok(wanted.eq(sums) && self.host.read(0, words) == pattern)
    }
}

/// Any odd number with bits all over.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Copies the pieces once with each flight, all of them queued before the first is waited for: as
/// batches follow each other.
fn run(
    driver: &dyn Driver,
    copier: &Copier,
    flights: &[Flight],
    strategy: Strategy,
    pieces: &[Piece<'_>],
) -> Result<(), DriverError> {
    let queued = flights.iter().try_for_each(|flight| {
        // SAFETY: the pieces lie in the bench's memories, which outlive the wait, and are apart; what
        // flights write at the same place is the same.
        let queued = unsafe { copier.enqueue(strategy, pieces, flight) };
        copier.close(strategy, flight).and(queued)
    });
    let landed = flights.iter().map(|flight| flight.wait(strategy, driver));
    landed.fold(Ok(()), Result::and).and(queued)
}
