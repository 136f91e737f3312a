//! One thread's memcpy, from one plain memory to another.

use std::hint::black_box;
use std::ops::Range;
use std::time::Duration;

use crate::cli::Failure;
use crate::cli::bench::tiers::measure::Mover;
use crate::env::Stopwatch;

/// Two memories of a set's length, every page of them touched.
pub struct Memories {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl Memories {
    #[must_use]
    pub fn new(set_bytes: usize) -> Self {
        // Filled, not zeroed: an allocator may leave zero pages to the first write.
        Self { from: vec![1; set_bytes], to: vec![2; set_bytes] }
    }

    /// Copies between them, block by block.
    pub fn copies(&mut self, block_bytes: usize) -> Copies<'_> {
        Copies { memories: self, block_bytes }
    }
}

/// A memcpy a block.
pub struct Copies<'a> {
    memories: &'a mut Memories,
    block_bytes: usize,
}

impl Mover for Copies<'_> {
    fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure> {
        let bytes = self.block_bytes;
        let Memories { from, to } = &mut *self.memories;
        let watch = Stopwatch::start();
        for block in blocks {
            let at = block * bytes..(block + 1) * bytes;
            to[at.clone()].copy_from_slice(black_box(&from[at]));
        }
        black_box(&mut *to);
        Ok(watch.elapsed())
    }
}
