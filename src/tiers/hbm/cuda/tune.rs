//! Measures at the start how fast each way of copying is on this device, and whether the kernels
//! give right bytes here; of a GPU that comes later only the latter.
//!
//! Uses memory of its own; nothing else runs on the device's streams yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

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

/// A round ends about then, once each flight was used and one of them again.
const ROUND_TIME: Duration = Duration::from_millis(6);

/// How much is copied to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Trial {
    pub(super) blocks: u32,
    pub(super) block_bytes: u64,
    /// The blocks are copied so many times in a row, or less often where a way is slow.
    pub(super) batches: usize,
    /// The fastest of so many counts, after one that does not.
    pub(super) rounds: u32,
}

impl Trial {
    pub(super) const AT_START: Self =
        Self { blocks: 4, block_bytes: 2 << 20, batches: 32, rounds: 3 };

    /// Nothing is timed: enough that each kernel has several blocks of many pages.
    const OF_KERNELS: Self = Self { blocks: 4, block_bytes: 256 << 10, batches: 1, rounds: 0 };

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
    let kernels = bench.trusts_kernels(driver.as_ref(), copiers)?;
    let mut rows = Vec::new();
    for (copier, flights) in copiers {
        for fragment_bytes in Calibration::FRAGMENTS_BYTES {
            let speeds = bench.speeds(driver.as_ref(), copier, flights, fragment_bytes, kernels)?;
            rows.push(Measured { stream: copier.kind, fragment_bytes, speeds });
        }
    }
    Ok(Calibration::new(rows))
}

/// Another GPU's table for this one, of `copiers` one a stream with its flights: without the kernels where
/// they are wrong here.
pub(super) fn adopt(
    table: &Calibration,
    driver: &Arc<dyn Driver>,
    copiers: &[(&Copier, &[Flight])],
) -> Result<Calibration, DriverError> {
    let bench = Bench::new(driver, Trial::OF_KERNELS)?;
    let kernels = bench.trusts_kernels(driver.as_ref(), copiers)?;
    Ok(if kernels { table.clone() } else { table.without_kernels() })
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
        let mut speeds = Vec::new();
        for strategy in Strategy::ALL {
            if (strategy.has_kernels() && !kernels) || !copier.can(strategy, &pieces, &flights[0]) {
                continue;
            }
            let mut least = f64::INFINITY;
            for round in 0..=self.trial.rounds {
                let took = run(driver, copier, flights, strategy, &pieces, self.trial.batches)?;
                least = if round == 0 { least } else { least.min(took.as_secs_f64()) };
            }
            #[expect(clippy::cast_precision_loss, reason = "a trial is far below 2^52 bytes")]
            speeds.push((strategy, self.trial.bytes() as f64 / least.max(1e-9)));
        }
        Ok(speeds)
    }

    /// Whether the kernels give right bytes on all streams; the log hears if not.
    fn trusts_kernels(
        &self,
        driver: &dyn Driver,
        copiers: &[(&Copier, &[Flight])],
    ) -> Result<bool, DriverError> {
        let mut right = true;
        for (copier, flights) in copiers {
            right &= self.kernels_are_right(driver, copier, &flights[..1])?;
        }
        if !right {
            tracing::error!(
                device = %driver.facts(),
                "the kernels give wrong bytes on this GPU: they are not used; report it with the \
                 driver's version"
            );
        }
        Ok(right)
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
        run(driver, copier, flights, Strategy::Kernel, &there, 1)?;
        // SAFETY: the sources are the bench's, and `sums` has a number a page and one a block.
        unsafe { copier.sum(&back, self.sums.at, &flights[0]) }?;
        copier.close(Strategy::Kernel, &flights[0])?;
        flights[0].wait(Strategy::Kernel, driver)?;
        self.host.write(0, &vec![0_u64; words]);
        run(driver, copier, flights, Strategy::Kernel, &back, 1)?;
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

/// Copies the pieces up to so many times, with each flight in turn once that is free, as batches follow
/// each other; says how long each took. In so many, a way's first batch, of whose steps nothing is
/// overlapped, is no matter, and the driver can't have queued all of them ahead.
fn run(
    driver: &dyn Driver,
    copier: &Copier,
    flights: &[Flight],
    strategy: Strategy,
    pieces: &[Piece<'_>],
    batches: usize,
) -> Result<Duration, DriverError> {
    let (watch, mut landed) = (Stopwatch::start(), 0);
    let mut under_way = VecDeque::with_capacity(flights.len());
    let mut land = |flight: &Flight| {
        landed += 1;
        flight.wait(strategy, driver)
    };
    let mut went = Ok(());
    for (nth, flight) in flights.iter().cycle().take(batches).enumerate() {
        if went.is_err() || (nth > flights.len() && watch.elapsed() > ROUND_TIME) {
            break;
        }
        if under_way.len() == flights.len() {
            went = under_way.pop_front().map_or(Ok(()), &mut land);
        }
        // SAFETY: the pieces lie in the bench's memories, which outlive the wait, and are apart; what
        // flights write at the same place is the same.
        let queued = unsafe { copier.enqueue(strategy, pieces, flight) };
        let closed = copier.close(strategy, flight);
        went = went.and(closed).and(queued);
        under_way.push_back(flight);
    }
    // What was queued before an error is waited for as well.
    for flight in under_way {
        went = land(flight).and(went);
    }
    went.map(|()| watch.elapsed() / landed.max(1))
}
