//! The DRAM tier as a store: frames lie in the arena at their place's offset.
//!
//! Ends every operation before `submit` returns, on the caller's thread: a copy within DRAM is
//! short, and the data path proper never makes one (devices and other tiers use the frame in place).

use std::sync::Arc;

use crate::domain::block::Key;
use crate::domain::tier::Tier;
use crate::tiers::frame::{self, FrameHeader, HEADER_SPAN_BYTES};
use crate::tiers::store::{Done, FrameSpan, Place, StoreError, StoreOp, TierStore};

use super::Arena;

/// The first `tier_bytes` of an arena, as a store.
pub struct DramStore {
    arena: Arc<Arena>,
    tier_bytes: u64,
}

impl DramStore {
    /// # Panics
    /// The tier is larger than its arena.
    #[must_use]
    pub fn new(arena: Arc<Arena>, tier_bytes: u64) -> Self {
        assert!(tier_bytes <= arena.len_bytes(), "the DRAM tier lies in its arena");
        Self { arena, tier_bytes }
    }

    fn run(&self, op: StoreOp) -> Result<(), StoreError> {
        match op {
            StoreOp::Write { place, frame, .. } => self.write(self.locate(place)?, frame),
            StoreOp::Read { key, place, frame } => self.read(key, self.locate(place)?, frame),
            StoreOp::Erase { place, .. } => {
                let header = FrameSpan { bytes: HEADER_SPAN_BYTES, ..self.locate(place)? };
                // SAFETY: the operation owns its place until `done`; the manager keeps it so.
                unsafe { self.arena.bytes_mut(header) }.copy_from_slice(&frame::erased_page());
                Ok(())
            }
            StoreOp::Restamp { key, place, record, .. } => {
                let header = FrameSpan { bytes: HEADER_SPAN_BYTES, ..self.locate(place)? };
                // SAFETY: as above.
                frame::restamp(unsafe { self.arena.bytes_mut(header) }, key, &record).map(drop)
            }
        }
    }

    fn write(&self, slot: FrameSpan, from: FrameSpan) -> Result<(), StoreError> {
        if from.bytes > slot.bytes {
            return Err(out_of_range(format!("a frame of {from:?} does not fit {slot:?}")));
        }
        let slot = FrameSpan { bytes: from.bytes, ..slot };
        if slot.offset == from.offset {
            return Ok(());
        }
        apart(slot, from)?;
        // SAFETY: the operation owns the frame, shared, until `done`; see `FrameSpan`.
        let source = unsafe { self.arena.bytes(from) };
        // SAFETY: the operation owns its place, alone, until `done`, and the two are apart.
        unsafe { self.arena.bytes_mut(slot) }.copy_from_slice(source);
        Ok(())
    }

    fn read(&self, key: Key, slot: FrameSpan, into: FrameSpan) -> Result<(), StoreError> {
        // SAFETY: nobody writes to a place while it is read; the manager keeps it so.
        let stored = unsafe { self.arena.bytes(slot) };
        let header = FrameHeader::decode(stored)?;
        header.verify_key(key)?;
        let frame_bytes = u32::try_from(header.frame_bytes()).unwrap_or(u32::MAX);
        if frame_bytes > slot.bytes || frame_bytes > into.bytes {
            return Err(StoreError::Corrupt(format!(
                "its header says a frame of {frame_bytes} bytes"
            )));
        }
        if slot.offset != into.offset {
            apart(slot, into)?;
            // SAFETY: the operation owns the frame, alone, until `done`; see `FrameSpan`. It is
            // apart from what `stored` borrows.
            let target = unsafe { self.arena.bytes_mut(into) };
            target[..frame_bytes as usize].copy_from_slice(&stored[..frame_bytes as usize]);
        }
        // SAFETY: the slice above has ended, and the operation still owns the frame.
        frame::verify(unsafe { self.arena.bytes(into) }, key).map(drop)
    }

    /// The place's span in the arena.
    fn locate(&self, place: Place) -> Result<FrameSpan, StoreError> {
        let end = place.offset.checked_add(u64::from(place.slot_bytes));
        if end.is_none_or(|end| end > self.tier_bytes) || place.slot_bytes < HEADER_SPAN_BYTES {
            return Err(out_of_range(format!("{place:?} is no slot of {} bytes", self.tier_bytes)));
        }
        Ok(FrameSpan { offset: place.offset, bytes: place.slot_bytes })
    }
}

impl TierStore for DramStore {
    fn tier(&self) -> Tier {
        Tier::Dram
    }

    fn submit(&self, op: StoreOp, done: Done) {
        done(self.run(op));
    }
}

/// A copy onto itself is none, and one that overlaps would be read while it is written.
fn apart(a: FrameSpan, b: FrameSpan) -> Result<(), StoreError> {
    let end = |span: FrameSpan| span.offset.saturating_add(u64::from(span.bytes));
    if a.offset >= end(b) || b.offset >= end(a) {
        return Ok(());
    }
    Err(out_of_range(format!("{a:?} overlaps {b:?}")))
}

fn out_of_range(what: String) -> StoreError {
    StoreError::Io { what, source: std::io::ErrorKind::InvalidInput.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::contract::{self, Fixture};
    use crate::tiers::store::Erasure;

    fn store() -> (Arc<Arena>, Arc<DramStore>) {
        let arena = contract::arena(contract::CAPACITY_BYTES);
        let store = DramStore::new(Arc::clone(&arena), contract::CAPACITY_BYTES);
        (arena, Arc::new(store))
    }

    #[test]
    fn keeps_the_contract() {
        contract::check_store(|| {
            let (arena, store) = store();
            let raw = Arc::clone(&arena);
            Fixture::new(arena, store).corrupted_by(move |_, place, byte| {
                let at = FrameSpan { offset: place.offset + byte as u64, bytes: 1 };
                // SAFETY: the suite corrupts a place only while no operation is on it.
                unsafe { raw.bytes_mut(at) }.iter_mut().for_each(|byte| *byte ^= 1);
            })
        });
    }

    #[test]
    fn places_outside_are_refused() {
        let (_arena, store) = store();
        let outside = [
            Place { offset: contract::CAPACITY_BYTES, slot_bytes: 8192 },
            Place { offset: u64::MAX, slot_bytes: 8192 },
            Place { offset: 0, slot_bytes: 100 },
        ];
        for place in outside {
            let op = StoreOp::Erase { key: Key([1; 16]), place, why: Erasure::Unusable };
            assert!(matches!(store.run(op), Err(StoreError::Io { .. })), "{place:?}");
        }
    }
}
