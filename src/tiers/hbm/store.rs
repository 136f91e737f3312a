//! A device's memory as a store: payloads lie there in pages, headers are kept in a table here.
//!
//! Forgets everything when it is dropped. Who uses it writes to its places through it alone: a copy
//! made by the device behind its back would leave a header that is another block's.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::domain::block::Key;
use crate::domain::namespace::{Namespace, NamespaceDigest};
use crate::domain::tier::Tier;
use crate::tiers::dram::Arena;
use crate::tiers::frame::{FrameHeader, HEADER_BYTES, HEADER_SPAN_BYTES};
use crate::tiers::store::{Done, FrameSpan, Place, StoreError, StoreOp, TierStore};

use super::device::{BlockCopy, CopiesEnd, CopyEnd, Device, Stream};
use super::geometry::BlockGeometry;

/// A store on a device's own memory.
pub struct HbmStore {
    device: Arc<dyn Device>,
    table: Arc<Table>,
}

/// What the device does not hold. Shared with the operations under way.
struct Table {
    arena: Arc<Arena>,
    headers: Mutex<BTreeMap<u64, FrameHeader>>,
    geometries: Mutex<BTreeMap<NamespaceDigest, BlockGeometry>>,
}

impl HbmStore {
    /// `arena` is the one that the device copies frames from.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, arena: Arc<Arena>) -> Self {
        let (headers, geometries) = (Mutex::default(), Mutex::default());
        Self { device, table: Arc::new(Table { arena, headers, geometries }) }
    }

    /// Says how the namespace's blocks are cut into pages; frames of others are refused.
    ///
    /// # Errors
    /// The namespace is outside its limits; the text names the field.
    pub fn add_namespace(&self, namespace: &Namespace) -> Result<(), String> {
        let geometry = BlockGeometry::of(namespace)?;
        let mut known = self.table.geometries.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(namespace.digest(), geometry);
        Ok(())
    }

    fn write(&self, key: Key, place: Place, frame: FrameSpan, done: Done) {
        self.table.headers().remove(&place.offset);
        let (header, geometry) = match self.table.sealed(key, frame) {
            Ok(found) => found,
            Err(error) => return done(Err(error)),
        };
        let table = Arc::clone(&self.table);
        let copy = BlockCopy { geometry, from: CopyEnd::Frame(frame), to: CopyEnd::Tier(place) };
        let landed = move |end: CopiesEnd| {
            let result = whole(end);
            if result.is_ok() {
                table.headers().insert(place.offset, header);
            }
            done(result);
        };
        self.device.submit(Stream::Up, vec![copy], Box::new(landed));
    }

    fn read(&self, key: Key, place: Place, frame: FrameSpan, done: Done) {
        let (header, geometry) = match self.table.stored(key, place, frame) {
            Ok(found) => found,
            Err(error) => return done(Err(error)),
        };
        let table = Arc::clone(&self.table);
        let copy = BlockCopy { geometry, from: CopyEnd::Tier(place), to: CopyEnd::Frame(frame) };
        let landed = move |end: CopiesEnd| {
            done(whole(end).and_then(|()| table.finish(&header, key, frame)));
        };
        self.device.submit(Stream::Down, vec![copy], Box::new(landed));
    }
}

impl TierStore for HbmStore {
    fn tier(&self) -> Tier {
        Tier::Hbm
    }

    fn submit(&self, op: StoreOp, done: Done) {
        match op {
            StoreOp::Write { key, place, frame } => self.write(key, place, frame, done),
            StoreOp::Read { key, place, frame } => self.read(key, place, frame, done),
            StoreOp::Erase { place, .. } => {
                self.table.headers().remove(&place.offset);
                done(Ok(()));
            }
            StoreOp::Restamp { key, place, record, .. } => {
                let mut headers = self.table.headers();
                let header = headers.get_mut(&place.offset).ok_or_else(never_written);
                let ended = header.and_then(|header| {
                    header.verify_key(key)?;
                    header.meta.record = record;
                    Ok(())
                });
                drop(headers);
                done(ended);
            }
        }
    }
}

impl Table {
    fn headers(&self) -> MutexGuard<'_, BTreeMap<u64, FrameHeader>> {
        self.headers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The header of the frame to write, and its blocks' geometry.
    fn sealed(
        &self,
        key: Key,
        frame: FrameSpan,
    ) -> Result<(FrameHeader, BlockGeometry), StoreError> {
        let page = FrameSpan { bytes: frame.bytes.min(HEADER_SPAN_BYTES), ..frame };
        // SAFETY: the operation owns the frame, shared, until `done`; see `FrameSpan`.
        let header = FrameHeader::decode(unsafe { self.arena.bytes(page) })?;
        header.verify_key(key)?;
        Ok((header, self.geometry(&header)?))
    }

    /// The header of the block at `place`, and its geometry, if the frame can take it.
    fn stored(
        &self,
        key: Key,
        place: Place,
        frame: FrameSpan,
    ) -> Result<(FrameHeader, BlockGeometry), StoreError> {
        let header = self.headers().get(&place.offset).copied();
        let header = header.ok_or_else(never_written)?;
        header.verify_key(key)?;
        if u64::from(frame.bytes) < header.frame_bytes() {
            return Err(StoreError::Corrupt(format!("the block here does not fit {frame:?}")));
        }
        Ok((header, self.geometry(&header)?))
    }

    fn geometry(&self, header: &FrameHeader) -> Result<BlockGeometry, StoreError> {
        let known = self.geometries.lock().unwrap_or_else(PoisonError::into_inner);
        let geometry = known.get(&header.namespace).copied();
        geometry.filter(|known| known.payload_bytes() == header.payload_bytes).ok_or_else(|| {
            StoreError::Io {
                what: format!(
                    "the device knows no namespace {} with such blocks",
                    header.namespace
                ),
                source: std::io::ErrorKind::InvalidInput.into(),
            }
        })
    }

    /// Writes the header before the payload that was read, and checks that payload.
    fn finish(&self, header: &FrameHeader, key: Key, frame: FrameSpan) -> Result<(), StoreError> {
        // SAFETY: the operation owns the frame, alone, until `done`; see `FrameSpan`.
        let bytes = unsafe { self.arena.bytes_mut(frame) };
        let whole = "a frame that was read into holds a header page";
        let (page, payload) = bytes.split_first_chunk_mut::<HEADER_BYTES>().expect(whole);
        header.encode(page);
        header.verify_payload(key, payload)
    }

    /// Makes the stored checksum another one.
    #[cfg(test)]
    pub(super) fn corrupt_header(&self, place: Place) {
        if let Some(header) = self.headers().get_mut(&place.offset) {
            header.payload_checksum ^= 1;
        }
    }
}

#[cfg(test)]
impl HbmStore {
    pub(super) fn corrupt_header(&self, place: Place) {
        self.table.corrupt_header(place);
    }
}

fn never_written() -> StoreError {
    StoreError::Missing("no block was written here".into())
}

/// The result of a batch of one copy.
fn whole(end: CopiesEnd) -> Result<(), StoreError> {
    end.failed.into_iter().next().map_or(Ok(()), |failed| Err(failed.error))
}
