//! A GPU's single copies between plain memories, of which one is pinned memory of this machine.

use std::ops::Range;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::bench::tiers::measure::Mover;
use crate::cli::bench::tiers::path::Path;
use crate::tiers::hbm::cuda::{PlainCopies, PlainWay};

/// As many bytes as blocks have, along one path.
pub struct GpuCopies<'a> {
    pub copies: &'a PlainCopies,
    pub path: Path,
    pub block_bytes: u64,
    /// In calls of so many bytes; nothing: in one.
    pub call_bytes: Option<u64>,
}

impl GpuCopies<'_> {
    fn way(&self, blocks: usize) -> PlainWay {
        match self.path {
            Path::DramHbm => PlainWay::Up,
            Path::HbmDram => PlainWay::Down,
            Path::HbmBoth => {
                let up = self.path.ends_far(blocks).len() as u64;
                PlainWay::Both { up_bytes: up * self.block_bytes }
            }
            _ => PlainWay::Local,
        }
    }
}

impl Mover for GpuCopies<'_> {
    fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure> {
        let bytes = blocks.len() as u64 * self.block_bytes;
        let call_bytes = self.call_bytes.unwrap_or(bytes);
        self.copies.copy(self.way(blocks.len()), bytes, call_bytes).map_err(Failure::Failed)
    }
}
