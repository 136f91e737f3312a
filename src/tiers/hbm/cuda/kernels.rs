//! The kernels: their code as PTX, and what they are told of a block.
//!
//! Plain data. `kernels/` has the sources; `scripts/build-kernels` makes the PTX, which the driver
//! compiles for the device at hand.

#[cfg(test)]
pub(super) mod host;
#[cfg(test)]
mod tests;

use bytemuck::{Pod, Zeroable};

/// Copies blocks: see `kernels/copy.cu`.
pub(super) const COPY_PTX: &str = include_str!("../../../../kernels/copy.ptx");
/// Sums blocks: see `kernels/checksum.cu`.
pub(super) const CHECKSUM_PTX: &str = include_str!("../../../../kernels/checksum.ptx");

/// A kernel by what it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    /// `(blocks, block_count, pages_max, page_bytes_max)`
    CopyBlocks,
    /// `(blocks, block_count, pages_max, sums)`
    SumPages,
    /// `(blocks, block_count, pages_max, sums, checksums)`
    SumBlocks,
}

impl Kernel {
    pub(super) const ALL: [Self; 3] = [Self::CopyBlocks, Self::SumPages, Self::SumBlocks];

    /// Its name in the PTX.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CopyBlocks => "terrace_copy_blocks",
            Self::SumPages => "terrace_sum_pages",
            Self::SumBlocks => "terrace_sum_blocks",
        }
    }

    pub(super) const fn ptx(self) -> &'static str {
        match self {
            Self::CopyBlocks => COPY_PTX,
            Self::SumPages | Self::SumBlocks => CHECKSUM_PTX,
        }
    }
}

/// Addresses of a block's pages: `PageMap` of `kernels/block.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct Pages {
    pub(super) start: u64,
    pub(super) shard_stride: u64,
    pub(super) layer_stride: u64,
    pub(super) plane_stride: u64,
    /// The address of a table with one start a layer; zero when layers are `layer_stride` apart.
    pub(super) layers: u64,
}

/// A block to copy, or to sum at its source: `BlockCopy` of `kernels/block.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(super) struct KernelCopy {
    pub(super) from: Pages,
    pub(super) to: Pages,
    pub(super) shards: u32,
    pub(super) layers: u32,
    pub(super) planes: u32,
    pub(super) page_bytes: u32,
}

impl KernelCopy {
    pub(super) const fn pages(&self) -> u32 {
        self.shards * self.layers * self.planes
    }
}

/// What every launch over `copies` says of them: how many they are, and the largest one's pages
/// and page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) blocks: u32,
    pub(super) pages_max: u32,
    pub(super) page_bytes_max: u32,
}

impl Extent {
    pub(super) fn of(copies: &[KernelCopy]) -> Self {
        Self {
            blocks: u32::try_from(copies.len()).expect("a batch has few copies"),
            pages_max: copies.iter().map(KernelCopy::pages).max().unwrap_or(0),
            page_bytes_max: copies.iter().map(|copy| copy.page_bytes).max().unwrap_or(0),
        }
    }
}
