//! The reference store: a map. What every other store is compared with.
//!
//! Forgets everything when it is dropped, and ends every operation before `submit` returns.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::domain::block::Key;
use crate::domain::retention::{NewRecord, RetentionRecord};
use crate::domain::tier::Tier;

use super::dram::Arena;
use super::frame::{self, FrameHeader};
use super::store::{Done, FrameSpan, Peeked, Place, StoreError, StoreOp, TierStore};

/// Where the map keeps a frame: by place, or by key as an object store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Address {
    Place(u64),
    Key([u8; Key::BYTES]),
}

/// A store that keeps frames in a map, standing in for `tier`.
pub struct MemoryStore {
    tier: Tier,
    arena: Arc<Arena>,
    frames: Mutex<BTreeMap<Address, Vec<u8>>>,
}

impl MemoryStore {
    #[must_use]
    pub fn new(tier: Tier, arena: Arc<Arena>) -> Self {
        Self { tier, arena, frames: Mutex::default() }
    }

    /// Flips one bit of what is stored, as a failing medium would; nothing if nothing is.
    pub fn flip_bit(&self, key: Key, place: Place, byte: usize) {
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(byte) =
            frames.get_mut(&self.address(key, place)).and_then(|frame| frame.get_mut(byte))
        {
            *byte ^= 1;
        }
    }

    fn address(&self, key: Key, place: Place) -> Address {
        match self.tier {
            Tier::Object => Address::Key(key.0),
            Tier::Hbm | Tier::Dram | Tier::Nvme => Address::Place(place.offset),
        }
    }

    fn run(&self, op: StoreOp) -> Result<(), StoreError> {
        match op {
            StoreOp::Write { key, place, frame } => self.write(key, place, frame),
            StoreOp::Read { key, place, frame } => self.read(key, place, frame),
            StoreOp::Erase { key, place, .. } => {
                let address = self.address(key, place);
                self.frames.lock().unwrap_or_else(PoisonError::into_inner).remove(&address);
                Ok(())
            }
            StoreOp::Restamp { key, place, record, known } => {
                let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
                let stored = frames.get_mut(&self.address(key, place)).ok_or_else(never_written)?;
                let header = FrameHeader::decode(stored)?;
                let new = NewRecord::of_change(record, known);
                let record = self.over(stored, new);
                frame::restamp(stored, key, &record)?;
                header.has_taken(&new, record)
            }
        }
    }

    /// Others may have written an object.
    fn over(&self, stored: &[u8], new: NewRecord) -> RetentionRecord {
        let there = FrameHeader::decode(stored).ok().filter(|_| self.tier == Tier::Object);
        there.map_or(new.record, |there| new.over(&there.meta.record))
    }

    fn write(&self, key: Key, place: Place, span: FrameSpan) -> Result<(), StoreError> {
        // SAFETY: the operation owns the span, shared, until `done`; see `FrameSpan`.
        let mut bytes = unsafe { self.arena.bytes(span) }.to_vec();
        let address = self.address(key, place);
        let mut frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = frames.get(&address).filter(|_| self.tier == Tier::Object);
        let Some((stored, header)) = stored.zip(FrameHeader::decode(&bytes).ok()) else {
            frames.insert(address, bytes);
            return Ok(());
        };
        let new = NewRecord::of_frame(header.meta.record, header.meta.created_at);
        let record = self.over(stored, new);
        if record != new.record {
            frame::restamp(&mut bytes, key, &record)?;
        }
        frames.insert(address, bytes);
        header.has_taken(&new, record)
    }

    fn read(&self, key: Key, place: Place, span: FrameSpan) -> Result<(), StoreError> {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = frames.get(&self.address(key, place)).ok_or_else(never_written)?;
        // SAFETY: the operation owns the span, alone, until `done`; see `FrameSpan`.
        let into = unsafe { self.arena.bytes_mut(span) };
        let copied = stored.len().min(into.len());
        into[..copied].copy_from_slice(&stored[..copied]);
        frame::verify(&into[..copied], key).map(drop)
    }
}

impl TierStore for MemoryStore {
    fn tier(&self) -> Tier {
        self.tier
    }

    fn submit(&self, op: StoreOp, done: Done) {
        done(self.run(op));
    }

    fn peek(&self, key: Key, told: Peeked) {
        let frames = self.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let stored = frames.get(&Address::Key(key.0)).ok_or_else(never_written);
        let found = stored.and_then(|frame| FrameHeader::decode(frame));
        let found = found.and_then(|header| header.verify_key(key).map(|()| header));
        drop(frames);
        told(found);
    }
}

fn never_written() -> StoreError {
    StoreError::Missing("no frame was ever written here".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiers::contract::{self, Fixture};

    #[test]
    fn keeps_the_contract_by_place_and_by_key() {
        for tier in [Tier::Dram, Tier::Nvme, Tier::Object] {
            contract::check_store(|| {
                let arena = contract::arena(0);
                let store = Arc::new(MemoryStore::new(tier, Arc::clone(&arena)));
                let corrupt = Arc::clone(&store);
                Fixture::new(arena, store)
                    .corrupted_by(move |key, place, byte| corrupt.flip_bit(key, place, byte))
            });
        }
    }
}
