//! Which way of copying is fastest for fragments of a length, as measured on the device at hand.
//!
//! A table and its reading; measures nothing.

use std::fmt;

use super::super::device::Stream;
use crate::domain::units::Bytes;

/// A way to copy a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// One copy call a run.
    Copies,
    /// One call for all runs: `cuMemcpyBatchAsync`.
    Batch,
    /// A kernel that gathers and scatters, over PCIe where an end is this machine's memory.
    Kernel,
    /// One large copy a block between this machine and a buffer on the GPU, and the kernel between
    /// that and the pages.
    Staged,
}

impl Strategy {
    pub const ALL: [Self; 4] = [Self::Copies, Self::Batch, Self::Kernel, Self::Staged];

    /// Whether kernels copy, be it one step of two.
    pub(super) const fn has_kernels(self) -> bool {
        matches!(self, Self::Kernel | Self::Staged)
    }

    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copies => "copies",
            Self::Batch => "batch",
            Self::Kernel => "kernel",
            Self::Staged => "staged",
        }
    }

    /// What a strategy's speed counts for when it is compared. A kernel over PCIe takes its
    /// multiprocessors from the engine's decoding for as long as the copy takes; beside a staging
    /// buffer it runs for a small part of that, and what decoding loses is then no more than by the
    /// copy engines (measured: `docs/gpu.md`).
    const fn weight(self) -> f64 {
        match self {
            Self::Copies | Self::Batch | Self::Staged => 1.0,
            Self::Kernel => 0.9,
        }
    }
}

/// What was measured for one stream and fragment length.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub stream: Stream,
    pub fragment_bytes: u64,
    /// Bytes a second by strategy; those that can't be are not listed.
    pub speeds: Vec<(Strategy, f64)>,
}

/// All that was measured, fragments rising within a stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    rows: Vec<Measured>,
}

impl Calibration {
    /// The fragment lengths worth measuring: where pages of engines lie, and where the ways cross.
    pub const FRAGMENTS_BYTES: [u64; 6] =
        [4 << 10, 8 << 10, 16 << 10, 32 << 10, 128 << 10, 1 << 20];

    #[must_use]
    pub fn new(mut rows: Vec<Measured>) -> Self {
        rows.sort_by_key(|row| (row.stream as usize, row.fragment_bytes));
        Self { rows }
    }

    #[must_use]
    pub fn rows(&self) -> &[Measured] {
        &self.rows
    }

    /// The same for a GPU that is to run no kernels.
    pub(super) fn without_kernels(&self) -> Self {
        let mut rows = self.rows.clone();
        for row in &mut rows {
            row.speeds.retain(|(strategy, _)| !strategy.has_kernels());
        }
        Self { rows }
    }

    /// The strategies from the best to the worst for fragments of that length, by the row that is
    /// nearest as a ratio. What was not measured is not listed.
    #[must_use]
    pub fn ranked(&self, stream: Stream, fragment_bytes: u64) -> Vec<Strategy> {
        let of_stream = self.rows.iter().filter(|row| row.stream == stream);
        let nearest = of_stream.min_by(|a, b| {
            let far = |row: &Measured| ratio(row.fragment_bytes, fragment_bytes);
            far(a).total_cmp(&far(b))
        });
        let mut speeds = nearest.map_or_else(Vec::new, |row| row.speeds.clone());
        speeds.sort_by(|(a, fast), (b, slow)| (slow * b.weight()).total_cmp(&(fast * a.weight())));
        speeds.into_iter().map(|(strategy, _)| strategy).collect()
    }

    /// What is chosen for fragments of that length when everything may be.
    #[must_use]
    pub fn best(&self, stream: Stream, fragment_bytes: u64) -> Option<Strategy> {
        self.ranked(stream, fragment_bytes).first().copied()
    }
}

/// How far apart two lengths are, as a factor of at least one.
#[expect(clippy::cast_precision_loss, reason = "lengths are far below 2^52")]
fn ratio(a: u64, b: u64) -> f64 {
    let (a, b) = (a.max(1) as f64, b.max(1) as f64);
    (a / b).max(b / a)
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = match self.stream {
            Stream::Up => "DRAM to HBM",
            Stream::Down => "HBM to DRAM",
            Stream::Local => "within HBM",
        };
        write!(f, "{way}, {}:", Bytes(self.fragment_bytes))?;
        for (strategy, speed) in &self.speeds {
            write!(f, " {} {:.1} GB/s", strategy.name(), speed / 1e9)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Strategy::{Batch, Copies, Kernel, Staged};
    use super::*;

    fn row(fragment_bytes: u64, speeds: &[(Strategy, f64)]) -> Measured {
        Measured { stream: Stream::Up, fragment_bytes, speeds: speeds.to_vec() }
    }

    fn table() -> Calibration {
        Calibration::new(vec![
            row(65_536, &[(Copies, 40e9), (Batch, 52e9), (Kernel, 57e9), (Staged, 50e9)]),
            row(4096, &[(Copies, 1e9), (Batch, 3.8e9), (Kernel, 20e9), (Staged, 30e9)]),
        ])
    }

    #[test]
    fn the_nearest_row_decides() {
        let cases = [
            (1, Staged),
            (4096, Staged),
            // 16 KiB lies between both rows as a ratio; the first is taken.
            (16_384, Staged),
            (20_000, Batch),
            (65_536, Batch),
            (u64::MAX, Batch),
        ];
        for (fragment_bytes, wanted) in cases {
            let best = table().best(Stream::Up, fragment_bytes);
            assert_eq!(best, Some(wanted), "{fragment_bytes} bytes");
        }
    }

    #[test]
    fn a_kernel_over_pcie_must_be_faster_by_a_tenth_to_be_chosen() {
        let best = |kernel| {
            let rows = vec![row(8192, &[(Batch, 40e9), (Kernel, kernel)])];
            Calibration::new(rows).best(Stream::Up, 8192)
        };
        assert_eq!(best(44e9), Some(Batch));
        assert_eq!(best(45e9), Some(Kernel));
    }

    #[test]
    fn all_that_was_measured_is_ranked_and_nothing_else() {
        assert_eq!(table().ranked(Stream::Up, 65_536), [Batch, Kernel, Staged, Copies]);
        assert_eq!(table().ranked(Stream::Down, 65_536), []);
    }

    #[test]
    fn rows_are_said_in_words() {
        let said = table().rows()[1].to_string();
        let wanted = "DRAM to HBM, 64 KiB: copies 40.0 GB/s batch 52.0 GB/s kernel 57.0 GB/s \
                      staged 50.0 GB/s";
        assert_eq!(said, wanted);
    }
}
