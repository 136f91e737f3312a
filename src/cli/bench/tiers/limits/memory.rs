//! Plain memcpy, from one plain memory to another: by one thread, or by two that go at once.

use std::hint::black_box;
use std::io;
use std::ops::Range;
use std::thread;
use std::time::Duration;

use memmap2::{Advice, MmapMut};

use crate::cli::Failure;
use crate::cli::bench::tiers::measure::Mover;
use crate::env::Stopwatch;

/// Two memories of a set's length, every page of them touched. On huge pages where the machine has
/// them, as the daemon's own are.
pub struct Memories {
    from: MmapMut,
    to: MmapMut,
}

impl Memories {
    /// # Errors
    /// There is no room for them.
    pub fn new(set_bytes: usize) -> io::Result<Self> {
        Ok(Self { from: filled(set_bytes, 1)?, to: filled(set_bytes, 2)? })
    }
}

fn filled(bytes: usize, with: u8) -> io::Result<MmapMut> {
    let mut memory = MmapMut::map_anon(bytes)?;
    // A kernel that knows none is as good: then nobody has them.
    let _ = memory.advise(Advice::HugePage);
    memory.fill(with);
    Ok(memory)
}

/// Blocks copied between them, in calls of `call_bytes`.
pub struct Copies<'a> {
    pub memories: &'a mut Memories,
    pub block_bytes: usize,
    pub call_bytes: usize,
    /// So many of the blocks are another thread's, at the same time.
    pub beside: usize,
}

impl Mover for Copies<'_> {
    fn go(&mut self, blocks: Range<usize>) -> Result<Duration, Failure> {
        let (call_bytes, bytes) = (self.call_bytes, self.block_bytes);
        let all = blocks.start * bytes..blocks.end * bytes;
        let Memories { from, to } = &mut *self.memories;
        let (from, to) = (&from[all.clone()], &mut to[all]);
        let beside = self.beside.min(blocks.len()) * bytes;
        let watch = Stopwatch::start();
        if beside == 0 {
            copy(from, to, call_bytes);
        } else {
            let ((from, more), (to, into)) = (from.split_at(beside), to.split_at_mut(beside));
            thread::scope(|both| {
                both.spawn(|| copy(from, to, call_bytes));
                copy(more, into, call_bytes);
            });
        }
        Ok(watch.elapsed())
    }
}

fn copy(from: &[u8], to: &mut [u8], call_bytes: usize) {
    for (from, to) in from.chunks(call_bytes).zip(to.chunks_mut(call_bytes)) {
        to.copy_from_slice(black_box(from));
    }
    black_box(to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_blocks_is_copied_and_no_other() {
        for (beside, call_bytes) in [(0, 100), (0, 30), (2, 100), (2, 30), (9, 100)] {
            let mut memories = Memories::new(1000).unwrap();
            let mut mover =
                Copies { memories: &mut memories, block_bytes: 100, call_bytes, beside };
            mover.go(3..7).unwrap();
            let copied = |at: usize| if (300..700).contains(&at) { 1 } else { 2 };
            assert!(memories.to.iter().enumerate().all(|(at, byte)| *byte == copied(at)));
        }
    }
}
