//! What lies in each chunk of a device's memory: slots of one length whose blocks have pages of one
//! length.
//!
//! Blocks of two page lengths in one chunk would overlap, since a chunk's pages are interleaved. So
//! a chunk that is written with another page length forgets all that it held, and a place that
//! holds nothing is never read.

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
    /// Nothing where none was written yet.
    cut: Mutex<Vec<Option<Chunk>>>,
}

/// Copies under way; the chunks that they read and write keep their cut while this lives.
#[derive(Debug)]
pub(super) struct Uses {
    chunks: Arc<Chunks>,
    begun: Vec<usize>,
}

impl Drop for Uses {
    fn drop(&mut self) {
        if self.begun.is_empty() {
            return;
        }
        let mut cut = self.chunks.cut.lock().unwrap_or_else(PoisonError::into_inner);
        for chunk in &self.begun {
            cut[*chunk].as_mut().expect("a chunk in use was written").copies -= 1;
        }
    }
}

/// Begins copies that belong together.
#[derive(Debug)]
pub(super) struct Beginning<'a> {
    chunks: &'a Chunks,
    cut: &'a mut [Option<Chunk>],
    begun: &'a mut Vec<usize>,
}

impl Chunks {
    pub(super) fn new(tier_bytes: u64) -> Arc<Self> {
        let chunks = usize::try_from(tier_bytes.div_ceil(CHUNK_BYTES));
        let chunks = chunks.expect("a memory is in the address space");
        let cut = std::iter::repeat_with(|| None).take(chunks).collect();
        Arc::new(Self { tier_bytes, cut: Mutex::new(cut) })
    }

    /// Begins whatever copies `work` begins, as one: the lock is taken once for all of them.
    pub(super) fn begin<T>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Beginning<'_>) -> T,
    ) -> (T, Uses) {
        let mut uses = Uses { chunks: Arc::clone(self), begun: Vec::new() };
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = &mut uses.begun;
        let worked = work(&mut Beginning { chunks: self, cut: &mut cut, begun });
        drop(cut);
        (worked, uses)
    }

    /// The place's chunk and slot; an error if it is no slot of this memory for such a block.
    fn locate(
        &self,
        place: Place,
        geometry: BlockGeometry,
    ) -> Result<(usize, usize, Cut), StoreError> {
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
        let number = |count: u64| usize::try_from(count).expect("a memory is in the address space");
        let (index, slot) = (number(index), number(within / length));
        Ok((index, slot, Cut { slot_bytes, page_bytes: geometry.shape().page_bytes }))
    }
}

impl Beginning<'_> {
    /// Begins to write a block at `place`.
    pub(super) fn write(
        &mut self,
        place: Place,
        geometry: BlockGeometry,
    ) -> Result<(), StoreError> {
        let (index, slot, cut) = self.chunks.locate(place, geometry)?;
        let chunk = self.cut[index].get_or_insert_with(|| Chunk::new(cut));
        if chunk.cut != cut {
            if chunk.copies > 0 {
                return Err(StoreError::Busy);
            }
            *chunk = Chunk::new(cut);
        }
        chunk.written[slot] = true;
        chunk.copies += 1;
        self.begun.push(index);
        Ok(())
    }

    /// Begins to read the block at `place`.
    pub(super) fn read(&mut self, place: Place, geometry: BlockGeometry) -> Result<(), StoreError> {
        let (index, slot, cut) = self.chunks.locate(place, geometry)?;
        let holds = |chunk: &&mut Chunk| chunk.cut == cut && chunk.written[slot];
        let chunk = self.cut[index].as_mut().filter(holds).ok_or_else(|| {
            StoreError::Missing(format!("{place:?} holds no block of pages like {geometry:?}"))
        })?;
        chunk.copies += 1;
        self.begun.push(index);
        Ok(())
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

    type Begun = Result<Uses, StoreError>;

    /// Two blocks of 32 KiB, in pages of 8 KiB and of 16 KiB.
    fn geometry(page_bytes: u32) -> BlockGeometry {
        let shape = KvShape { layers: 32_768 / page_bytes, planes: 1, page_bytes };
        BlockGeometry::of(&Namespace { shape, ..example() }).unwrap()
    }

    fn slot(index: u64) -> Place {
        Place { offset: index * 32_768, slot_bytes: 32_768 }
    }

    fn write(chunks: &Arc<Chunks>, place: Place, geometry: BlockGeometry) -> Begun {
        let (begun, uses) = chunks.begin(|chunks| chunks.write(place, geometry));
        begun.map(|()| uses)
    }

    fn read(chunks: &Arc<Chunks>, place: Place, geometry: BlockGeometry) -> Begun {
        let (begun, uses) = chunks.begin(|chunks| chunks.read(place, geometry));
        begun.map(|()| uses)
    }

    #[test]
    fn only_what_was_written_is_read() {
        let chunks = Chunks::new(CHUNK_BYTES);
        drop(write(&chunks, slot(1), geometry(8192)).unwrap());
        read(&chunks, slot(1), geometry(8192)).unwrap();
        for missing in [slot(0), slot(2)] {
            let found = read(&chunks, missing, geometry(8192));
            assert!(matches!(found, Err(StoreError::Missing(_))), "{found:?}");
        }
    }

    #[test]
    fn another_page_length_forgets_the_chunk() {
        let chunks = Chunks::new(2 * CHUNK_BYTES);
        let other_chunk = Place { offset: CHUNK_BYTES, ..slot(0) };
        for place in [slot(1), slot(2), other_chunk] {
            drop(write(&chunks, place, geometry(8192)).unwrap());
        }
        // The same slot length, other pages: slot 7's would lie over those of the others.
        drop(write(&chunks, slot(7), geometry(16_384)).unwrap());
        read(&chunks, slot(7), geometry(16_384)).unwrap();
        read(&chunks, other_chunk, geometry(8192)).unwrap();
        for (place, page_bytes) in [(slot(1), 8192), (slot(1), 16_384), (slot(7), 8192)] {
            let found = read(&chunks, place, geometry(page_bytes));
            assert!(matches!(found, Err(StoreError::Missing(_))), "{place:?} {page_bytes}");
        }
    }

    #[test]
    fn a_chunk_in_use_keeps_its_cut() {
        let chunks = Chunks::new(CHUNK_BYTES);
        drop(write(&chunks, slot(1), geometry(8192)).unwrap());
        let reading = read(&chunks, slot(1), geometry(8192)).unwrap();
        let refused = write(&chunks, slot(2), geometry(16_384));
        assert!(matches!(refused, Err(StoreError::Busy)), "{refused:?}");
        drop(reading);
        write(&chunks, slot(2), geometry(16_384)).unwrap();
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
            let found = write(&chunks, place, geometry(8192)).map(drop);
            assert!(matches!(found, Err(StoreError::Io { .. })), "{name}: {found:?}");
        }
    }
}
