//! What lies in each chunk of a device's memory: slots of one length whose blocks have pages of one
//! length.
//!
//! Blocks of two page lengths in one chunk would overlap, since a chunk's pages are interleaved. So
//! a chunk that is written with another page length forgets all that it held, and a place that
//! holds nothing is never read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::units::CHUNK_BYTES;
use crate::tiers::store::{Place, StoreError};

use super::geometry::BlockGeometry;

/// What a chunk is cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cut {
    slot_bytes: u32,
    page_bytes: u32,
}

#[derive(Debug)]
struct Chunk {
    cut: Cut,
    /// Slots that were written since the chunk was cut so.
    written: Vec<bool>,
    /// Copies under way from or to the chunk.
    copies: u32,
}

/// All chunks of a device's memory.
#[derive(Debug)]
pub(super) struct Chunks {
    tier_bytes: u64,
    cut: Mutex<BTreeMap<u64, Chunk>>,
}

/// A copy under way from or to a chunk; the chunk keeps its cut while it lives.
#[derive(Debug)]
pub(super) struct Use {
    chunks: Arc<Chunks>,
    chunk: u64,
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut cut = self.chunks.cut.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(chunk) = cut.get_mut(&self.chunk) {
            chunk.copies -= 1;
        }
    }
}

impl Chunks {
    pub(super) fn new(tier_bytes: u64) -> Arc<Self> {
        Arc::new(Self { tier_bytes, cut: Mutex::default() })
    }

    /// Begins to write a block at `place`.
    pub(super) fn write(
        self: &Arc<Self>,
        place: Place,
        geometry: BlockGeometry,
    ) -> Result<Use, StoreError> {
        let (index, slot, cut) = self.locate(place, geometry)?;
        let mut chunks = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let chunk = chunks.entry(index).or_insert_with(|| Chunk::new(cut));
        if chunk.cut != cut {
            if chunk.copies > 0 {
                return Err(StoreError::Busy);
            }
            *chunk = Chunk::new(cut);
        }
        chunk.written[slot] = true;
        chunk.copies += 1;
        Ok(Use { chunks: Arc::clone(self), chunk: index })
    }

    /// Begins to read the block at `place`.
    pub(super) fn read(
        self: &Arc<Self>,
        place: Place,
        geometry: BlockGeometry,
    ) -> Result<Use, StoreError> {
        let (index, slot, cut) = self.locate(place, geometry)?;
        let mut chunks = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let chunk = chunks.get_mut(&index).filter(|chunk| chunk.cut == cut && chunk.written[slot]);
        let chunk = chunk.ok_or_else(|| {
            StoreError::Missing(format!("{place:?} holds no block of pages like {geometry:?}"))
        })?;
        chunk.copies += 1;
        Ok(Use { chunks: Arc::clone(self), chunk: index })
    }

    /// The place's chunk and slot; an error if it is no slot of this memory for such a block.
    fn locate(
        &self,
        place: Place,
        geometry: BlockGeometry,
    ) -> Result<(u64, usize, Cut), StoreError> {
        let Place { offset, slot_bytes } = place;
        let (index, within) = (offset / CHUNK_BYTES, offset % CHUNK_BYTES);
        let length = u64::from(slot_bytes);
        let end = offset.checked_add(length);
        let fits = end.is_some_and(|end| end <= self.tier_bytes)
            && length >= geometry.payload_bytes()
            && within.is_multiple_of(length)
            && within + length <= CHUNK_BYTES;
        if !fits {
            let what =
                format!("{place:?} is no slot of {} bytes for {geometry:?}", self.tier_bytes);
            return Err(StoreError::Io { what, source: std::io::ErrorKind::InvalidInput.into() });
        }
        let slot = usize::try_from(within / length).expect("a chunk is in the address space");
        Ok((index, slot, Cut { slot_bytes, page_bytes: geometry.shape().page_bytes }))
    }
}

impl Chunk {
    fn new(cut: Cut) -> Self {
        let slots = CHUNK_BYTES / u64::from(cut.slot_bytes);
        let slots = usize::try_from(slots).expect("a chunk is in the address space");
        Self { cut, written: vec![false; slots], copies: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::namespace::{KvShape, Namespace, example};

    /// Two blocks of 32 KiB, in pages of 8 KiB and of 16 KiB.
    fn geometry(page_bytes: u32) -> BlockGeometry {
        let shape = KvShape { layers: 32_768 / page_bytes, planes: 1, page_bytes };
        BlockGeometry::of(&Namespace { shape, ..example() }).unwrap()
    }

    fn slot(index: u64) -> Place {
        Place { offset: index * 32_768, slot_bytes: 32_768 }
    }

    #[test]
    fn only_what_was_written_is_read() {
        let chunks = Chunks::new(CHUNK_BYTES);
        drop(chunks.write(slot(1), geometry(8192)).unwrap());
        chunks.read(slot(1), geometry(8192)).unwrap();
        for missing in [slot(0), slot(2)] {
            let found = chunks.read(missing, geometry(8192));
            assert!(matches!(found, Err(StoreError::Missing(_))), "{found:?}");
        }
    }

    #[test]
    fn another_page_length_forgets_the_chunk() {
        let chunks = Chunks::new(2 * CHUNK_BYTES);
        let other_chunk = Place { offset: CHUNK_BYTES, ..slot(0) };
        for place in [slot(1), slot(2), other_chunk] {
            drop(chunks.write(place, geometry(8192)).unwrap());
        }
        // The same slot length, other pages: slot 7's would lie over those of the others.
        drop(chunks.write(slot(7), geometry(16_384)).unwrap());
        chunks.read(slot(7), geometry(16_384)).unwrap();
        chunks.read(other_chunk, geometry(8192)).unwrap();
        for (place, page_bytes) in [(slot(1), 8192), (slot(1), 16_384), (slot(7), 8192)] {
            let found = chunks.read(place, geometry(page_bytes));
            assert!(matches!(found, Err(StoreError::Missing(_))), "{place:?} {page_bytes}");
        }
    }

    #[test]
    fn a_chunk_in_use_keeps_its_cut() {
        let chunks = Chunks::new(CHUNK_BYTES);
        drop(chunks.write(slot(1), geometry(8192)).unwrap());
        let reading = chunks.read(slot(1), geometry(8192)).unwrap();
        let refused = chunks.write(slot(2), geometry(16_384));
        assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
        drop(reading);
        chunks.write(slot(2), geometry(16_384)).unwrap();
    }

    #[test]
    fn places_that_are_no_slots_are_refused() {
        let chunks = Chunks::new(CHUNK_BYTES);
        let cases = [
            ("outside", slot(CHUNK_BYTES / 32_768)),
            ("far outside", Place { offset: u64::MAX, slot_bytes: 32_768 }),
            ("between slots", Place { offset: 4096, slot_bytes: 32_768 }),
            ("too short", Place { offset: 0, slot_bytes: 28_672 }),
            ("of no length", Place { offset: 0, slot_bytes: 0 }),
        ];
        for (name, place) in cases {
            let found = chunks.write(place, geometry(8192)).map(drop);
            assert!(matches!(found, Err(StoreError::Io { .. })), "{name}: {found:?}");
        }
    }
}
