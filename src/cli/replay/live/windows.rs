//! The shape of a live replay's blocks, and the windows of pool slots that they pass through.

use crate::domain::namespace::{KvShape, Namespace};
use crate::workload::content::ENGINE_HASH_BYTES;

/// The pool's size; blocks larger than a fourth of it get more.
const POOL_BYTES: u64 = 128 << 20;
const SLOTS_MAX: u64 = 512;
const WINDOWS_MAX: u32 = 8;
/// Fewer would leave nothing to copy while one is compared.
const WINDOWS_MIN: u64 = 4;

/// The namespace of blocks of `block_bytes` (whole pages): layers of K and V whose pages have at
/// least 4 KiB where there are several.
pub(crate) fn namespace_of(block_bytes: u64, block_tokens: u32) -> Namespace {
    let fits = |layers: u64| {
        let pages = 2 * layers;
        block_bytes.is_multiple_of(pages) && block_bytes / pages >= 4096
    };
    let layers = [32, 16, 8, 4, 2].into_iter().find(|layers| fits(*layers)).unwrap_or(1);
    let number = |n: u64| u32::try_from(n).expect("a block is smaller than a chunk");
    let page_bytes = number(block_bytes / (2 * layers));
    Namespace {
        model: "terrace-replay".into(),
        revision: String::new(),
        dtype: "u8".into(),
        layout: "NHD".into(),
        shape: KvShape { layers: number(layers), planes: 2, page_bytes },
        block_tokens,
        shard_count: 1,
        hash_scheme: "terrace-workload".into(),
        hash_bytes: number(ENGINE_HASH_BYTES as u64),
        tenant_salt: Vec::new(),
    }
}

/// A ring of windows over the pool's slots. Used first in, first out, with at most
/// [`Windows::count`] in use, so that no slot is given out twice.
#[derive(Clone, Debug)]
pub(super) struct Windows {
    count: u32,
    blocks: u32,
    next: u32,
}

impl Windows {
    /// For blocks of this size, when one call takes at most `call_blocks_max`.
    pub(super) fn of_blocks(block_bytes: u64, call_blocks_max: u32) -> Self {
        let slots = (POOL_BYTES / block_bytes).clamp(WINDOWS_MIN, SLOTS_MAX);
        let slots = u32::try_from(slots).expect("clamped");
        let blocks = (slots / WINDOWS_MAX).clamp(1, call_blocks_max.max(1));
        Self { count: (slots / blocks).min(WINDOWS_MAX), blocks, next: 0 }
    }

    pub(super) const fn slots(&self) -> u32 {
        self.count * self.blocks
    }

    /// How many windows may be in use at once.
    pub(super) const fn count(&self) -> usize {
        self.count as usize
    }

    /// The most blocks in one window.
    pub(super) const fn blocks(&self) -> usize {
        self.blocks as usize
    }

    /// The next window's first slots, one for each of `blocks`.
    pub(super) fn take(&mut self, blocks: usize) -> Vec<u32> {
        assert!(blocks <= self.blocks(), "a window has {} slots", self.blocks);
        let first = self.next * self.blocks;
        self.next = (self.next + 1) % self.count;
        (first..).take(blocks).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_of_block_has_a_shape_that_holds() {
        for pages in [1_u64, 2, 3, 5, 16, 64, 255, 256, 16_383] {
            let namespace = namespace_of(pages * 4096, 64);
            assert_eq!(namespace.check(), Ok(()), "{pages}");
            assert_eq!(namespace.payload_bytes(), pages * 4096);
        }
        assert_eq!(namespace_of(64 << 10, 64).shape.layers, 8);
    }

    #[test]
    fn windows_go_round_without_meeting() {
        for (block_bytes, call_blocks_max) in
            [(4 << 10, 9999), (64 << 10, 9999), (1 << 20, 9999), (60 << 20, 9999), (4 << 10, 3)]
        {
            let mut windows = Windows::of_blocks(block_bytes, call_blocks_max);
            assert!(windows.count() >= 4 && windows.slots() <= 512, "{windows:?}");
            let round: Vec<Vec<u32>> =
                (0..windows.count()).map(|_| windows.take(windows.blocks())).collect();
            assert_eq!(round.concat(), (0..windows.slots()).collect::<Vec<_>>());
            assert_eq!(windows.take(1), [0]);
        }
    }
}
