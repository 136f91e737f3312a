//! The blocks that go round: where each lies in every tier, and what it holds.

use std::ops::Range;

use rand::seq::SliceRandom;

use crate::cli::Failure;
use crate::domain::block::{HashTail, Key};
use crate::domain::namespace::NamespaceDigest;
use crate::domain::retention::RetentionRecord;
use crate::domain::units::{CHUNK_BYTES, PAGE_BYTES, Time};
use crate::env;
use crate::tiers::dram::Arena;
use crate::tiers::frame::{self, FrameHeader, HEADER_BYTES, HeaderDraft};
use crate::tiers::store::{FrameMeta, FrameSpan, Place};
use crate::workload::content::{Content, mix};

/// Blocks of one length, whose frames lie in DRAM.
pub struct BlockSet {
    pub block_bytes: u64,
    /// In DRAM and, at the same offsets, on NVMe.
    pub frames: Vec<Place>,
    /// On the device, in no order, as an engine's block tables are after a while: one for each
    /// block, and as many again to copy to.
    pub slots: Vec<Place>,
    checksums: Vec<u64>,
}

impl BlockSet {
    /// As many blocks as the set has room for, filled and sealed.
    ///
    /// # Panics
    /// The arena is shorter than the set.
    #[must_use]
    pub fn make(block_bytes: u64, set_bytes: u64, arena: &Arena) -> Self {
        let frame_bytes = block_bytes + PAGE_BYTES as u64;
        let frames = places(frame_bytes, set_bytes);
        let mut slots = places(block_bytes, 2 * set_bytes);
        slots.shuffle(&mut env::seeded_rng(block_bytes));
        slots.truncate(2 * frames.len());
        let mut set = Self { block_bytes, frames, slots, checksums: Vec::new() };
        set.checksums = (0..set.len()).map(|block| set.fill(block, arena)).collect();
        set
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// Overwrites what DRAM holds of these blocks, so that only a copy can bring them back.
    pub fn wipe(&self, blocks: Range<usize>, arena: &Arena) {
        for block in blocks {
            // SAFETY: nothing moves between two measurements, and nobody else has this arena.
            unsafe { arena.bytes_mut(self.span(block)) }.fill(0xa5);
        }
    }

    /// Checks that DRAM holds every block, as its header and payload were made.
    ///
    /// # Errors
    /// One is not what it was: a defect, here or in the machine.
    pub fn check(&self, arena: &Arena) -> Result<(), Failure> {
        for (block, wanted) in self.checksums.iter().enumerate() {
            // SAFETY: nothing moves between two measurements, and nobody else has this arena.
            let bytes = unsafe { arena.bytes(self.span(block)) };
            let found = frame::verify(bytes, meta(block).key);
            let right = found.is_ok_and(|header: FrameHeader| header.payload_checksum == *wanted);
            if !right {
                return Err(Failure::Failed(format!(
                    "block {block} came back with other bytes: a defect of terrace, or of this \
                     machine's memory or disk; keep this output and report it"
                )));
            }
        }
        Ok(())
    }

    fn span(&self, block: usize) -> FrameSpan {
        let Place { offset, slot_bytes } = self.frames[block];
        FrameSpan { offset, bytes: slot_bytes }
    }

    /// Fills and seals a block's frame; gives the payload's checksum.
    fn fill(&self, block: usize, arena: &Arena) -> u64 {
        // SAFETY: nothing moves yet, and nobody else has this arena.
        let bytes = unsafe { arena.bytes_mut(self.span(block)) };
        CONTENT.fill(block as u64, 0, &mut bytes[HEADER_BYTES..]);
        let (meta, payload_bytes) = (meta(block), self.block_bytes);
        let namespace = NamespaceDigest([0; 32]);
        let draft = HeaderDraft { namespace, meta, payload_bytes, node_id: [0; 16] };
        frame::seal(bytes, draft).payload_checksum
    }
}

/// What the header of a set's block says.
#[must_use]
pub fn meta(block: usize) -> FrameMeta {
    let number = block as u64;
    let halves = [mix(number), mix(!number)].map(u64::to_le_bytes);
    let mut key = Key([0; Key::BYTES]);
    key.0.copy_from_slice(halves.as_flattened());
    let position = u32::try_from(block).expect("a set has fewer blocks");
    let created_at = Time::from_millis(1);
    let (tail, record) = (HashTail::UNKNOWN, RetentionRecord::default());
    FrameMeta { key, tail, parent: None, position, created_at, record }
}

const CONTENT: Content = Content::new(1);

/// All slots of this length, chunk by chunk.
fn places(slot_bytes: u64, tier_bytes: u64) -> Vec<Place> {
    let slot = u32::try_from(slot_bytes).expect("a block fits a chunk");
    let of_chunk = |chunk: u64| {
        (0..CHUNK_BYTES / slot_bytes).map(move |index| Place {
            offset: chunk * CHUNK_BYTES + index * slot_bytes,
            slot_bytes: slot,
        })
    };
    (0..tier_bytes / CHUNK_BYTES).flat_map(of_chunk).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::dram::ArenaConfig;

    #[test]
    fn what_was_changed_is_found() {
        let config = ArenaConfig { tier_bytes: CHUNK_BYTES, staging_bytes: 0, pretouch_threads: 0 };
        let arena = Arena::new(config).unwrap();
        let set = BlockSet::make(8 << 20, CHUNK_BYTES, &arena);
        assert_eq!((set.len(), set.slots.len()), (7, 14));
        set.check(&arena).unwrap();
        let byte = FrameSpan { offset: set.frames[6].offset + (8 << 20), bytes: 1 };
        // SAFETY: this test alone has the arena.
        let bytes = unsafe { arena.bytes_mut(byte) };
        bytes[0] ^= 1;
        assert!(set.check(&arena).is_err());
        set.wipe(0..7, &arena);
        assert!(set.check(&arena).is_err());
    }
}
